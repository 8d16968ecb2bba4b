"""What a request to the gateway means: form, part of the file, and CIDs in other people's spelling."""

from __future__ import annotations

import pytest
from aiohttp import web
from multidict import CIMultiDict, MultiDict
from multiformats import CID

from shared.adapters.content.asked import CAR, PROBE, RAW, Asked, read_request
from shared.content.cid import Codec, make_block
from shared.content.selection import DagScope, EntityBytes

ROOT = make_block(Codec.DAG_PB, b"").cid
LEAF = make_block(Codec.RAW, b"").cid


def ask(query: str = "", *accept: str, cid: str = ROOT) -> Asked:
    pairs = [part.split("=", 1) for part in query.split("&") if part]
    return read_request(cid, MultiDict((name, value) for name, value in pairs), accept)


# --- the form ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("query", "accept", "expected"),
    [
        ("", [RAW], RAW),
        ("", [CAR], CAR),
        ("", [RAW.upper()], RAW),
        ("", [f"{RAW};q=0.5, {CAR};q=0.9"], CAR),
        ("", [f"{RAW};q=0.5", f"{CAR};q=0.9"], CAR),
        ("", [f"{CAR};q=0.9, {RAW};q=0.90"], CAR),
        ("", [f"{CAR};q=0.9, {RAW}"], RAW),
        ("", [f"text/html, */*;q=0.8, {RAW};q=0.001"], RAW),
        ("", [f"{RAW};q=0, {CAR};q=0.1"], CAR),
        ("", [f"{RAW};q=0.000, {CAR};q=nonsense"], CAR),
        ("", [f"{CAR};version=2, {RAW};q=0.5"], RAW),
        ("", [f"{CAR};order=rnd, {CAR};order=dfs;dups=y;q=0.5"], CAR),
        ("format=raw", [], RAW),
        ("format=car", [], CAR),
        ("format=raw", [CAR], RAW),
        ("format=car", [f"text/html, {RAW}"], CAR),
        ("format=raw", ["*/*"], RAW),
        ("format=raw&format=car", [], RAW),
    ],
)
def test_the_form_is_what_format_says_or_the_best_of_accept(query, accept, expected):
    assert ask(query, *accept).media_type == expected


@pytest.mark.parametrize(
    ("query", "accept"),
    [
        ("", ["*/*"]),
        ("", ["application/*"]),
        ("", ["text/html"]),
        ("", [""]),
        ("", [";;,,;"]),
        ("", [f"{CAR}; version=2"]),
        ("", [f"{CAR}; order=bfs"]),
        ("", [f"{CAR}; dups=maybe"]),
        ("", [f"{RAW};q=0"]),
        ("format=tar", [RAW]),
        ("format=", [RAW]),
        ("format=RAW", []),
        ("format=car", [f"{CAR};version=2"]),
        ("format=raw", [f"{RAW};q=0.0"]),
        ("format=car&car-version=2", []),
        ("format=car&car-order=bfs", []),
        ("format=car&car-dups=1", []),
    ],
)
def test_what_is_not_served_is_not_acceptable_and_told_what_is(query, accept):
    with pytest.raises(web.HTTPNotAcceptable) as refusal:
        ask(query, *accept)
    assert refusal.value.text == (
        "only application/vnd.ipld.raw (format=raw) and application/vnd.ipld.car "
        "(format=car; version=1, order=dfs, dups=y or n) are served"
    )


def test_who_does_not_say_what_is_wanted_made_a_bad_request():
    with pytest.raises(web.HTTPBadRequest, match="Bad Request") as refusal:
        ask("dag-scope=all")
    assert refusal.value.text is not None
    assert refusal.value.text.startswith("neither format nor Accept says what is wanted")


# --- archives ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("query", "accept", "expected"),
    [
        ("format=car", [], Asked(ROOT, CAR)),
        ("format=car&dag-scope=all", [], Asked(ROOT, CAR)),
        ("format=car&dag-scope=block", [], Asked(ROOT, CAR, DagScope.BLOCK)),
        ("format=car&dag-scope=entity", [], Asked(ROOT, CAR, DagScope.ENTITY)),
        ("format=car&entity-bytes=0:*", [], Asked(ROOT, CAR, DagScope.ENTITY)),
        ("format=car&entity-bytes=-5:*", [], Asked(ROOT, CAR, DagScope.ENTITY, EntityBytes(-5, None))),
        ("format=car&dag-scope=all&entity-bytes=1:2", [], Asked(ROOT, CAR, DagScope.ALL, EntityBytes(1, 2))),
        ("format=car&car-dups=y", [], Asked(ROOT, CAR, is_repeating=True)),
        ("format=car&car-dups=n&car-order=unk&car-version=1", [], Asked(ROOT, CAR)),
        ("format=car", [f"{CAR}; dups=y"], Asked(ROOT, CAR, is_repeating=True)),
        ("format=car&car-dups=y", [f"{CAR}; dups=n"], Asked(ROOT, CAR)),
        ("format=car&car-version=2", [f"{CAR}; version=1"], Asked(ROOT, CAR)),
        ("", [f'{CAR}; Version="1"; order=DFS; dups="y"'], Asked(ROOT, CAR, is_repeating=True)),
        ("", [f"{CAR}; version=1; colour=red"], Asked(ROOT, CAR)),
        ("car-dups=y", [f"{CAR};order=dfs"], Asked(ROOT, CAR, is_repeating=True)),
        # None of these means anything for a block.
        ("format=raw&dag-scope=nonsense&entity-bytes=nonsense&car-version=2", [], Asked(ROOT, RAW)),
    ],
)
def test_an_archive_is_what_the_parameters_say(query, accept, expected):
    assert ask(query, *accept) == expected


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("dag-scope=", "dag-scope: expected block, entity or all"),
        ("dag-scope=file", "dag-scope: expected block, entity or all"),
        ("entity-bytes=", "entity-bytes: expected FROM:TO"),
        ("entity-bytes=5-9", "entity-bytes: expected FROM:TO"),
        ("entity-bytes=9:5", "entity-bytes: TO lies before FROM"),
    ],
)
def test_parameters_that_cannot_be_read_are_a_bad_request(query, said):
    with pytest.raises(web.HTTPBadRequest) as refusal:
        ask("format=car&" + query)
    assert refusal.value.text is not None
    assert refusal.value.text.startswith(said)


def test_everything_that_makes_other_bytes_makes_another_tag_and_another_address():
    queries = ["format=raw"] + [
        f"format=car{scope}{span}{dups}"
        for scope in ("", "&dag-scope=block", "&dag-scope=entity")
        for span in ("", "&entity-bytes=0:9", "&entity-bytes=-9:*")
        for dups in ("", "&car-dups=y")
    ]
    asked = {ask(query) for query in queries}
    assert len({one.etag.value for one in asked}) == len({one.location for one in asked}) == len(asked) == 15
    for one in asked:
        path, _, query = one.location.partition("?")
        assert (path, ask(query)) == (f"/ipfs/{ROOT}", one)
        assert one.etag.is_weak == (one.media_type == CAR)


def test_the_tags_of_the_plain_forms_are_the_usual_ones():
    assert ask("format=raw").etag.value == f"{ROOT}.raw"
    assert ask("format=car").etag.value == f"{ROOT}.car"


# --- CIDs ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("cid", [ROOT, LEAF])
def test_both_codecs_are_taken(cid):
    assert ask("format=raw", cid=cid).cid == cid


def test_the_probe_of_gateways_is_a_block_and_no_archive():
    assert ask("format=raw", cid=PROBE).cid == PROBE
    with pytest.raises(web.HTTPBadRequest):
        ask("format=car", cid=PROBE)


@pytest.mark.parametrize("base", ["base16", "base32upper", "base36", "base58btc", "base64url"])
def test_another_spelling_is_told_the_one_that_is_taken(base):
    with pytest.raises(web.HTTPBadRequest) as refusal:
        ask("format=raw", cid=CID.decode(ROOT).encode(base))
    assert refusal.value.text == (
        f"this CID is written {ROOT} here: a CIDv1, raw or dag-pb, SHA-256, in base32 lower case"
    )
    assert "Location" not in CIMultiDict(refusal.value.headers)


def test_a_version_0_is_told_its_version_1():
    with pytest.raises(web.HTTPBadRequest) as refusal:
        ask("format=raw", cid="QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH")
    assert refusal.value.text is not None
    assert "bafybeif7ztnhq65lumvvtr4ekcwd2ifwgm3awq4zfr3srh462rwyinlb4y" in refusal.value.text


@pytest.mark.parametrize("cid", ["", "bafkrei", "../etc/passwd", "<script>", "b" * 8000, "\n\r\x00", "bafkqaiq"])
def test_what_is_no_cid_is_refused_in_few_words_of_ours(cid):
    with pytest.raises(web.HTTPBadRequest) as refusal:
        ask("format=raw", cid=cid)
    assert refusal.value.text is not None
    assert refusal.value.text.startswith("CID is not ")
    assert len(refusal.value.text) < 200
    assert "script" not in refusal.value.text
