"""Both clients of Kubo's RPC API against one that behaves as Kubo does, and as it must not."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

import pytest
from aiohttp import web

from shared.adapters.content.kubo.api import KuboApi, KuboNode
from shared.adapters.content.kubo.rpc import MAX_ANSWER_BYTES, MAX_CALLS, KuboRpc
from shared.constants import MAX_BLOCK_BYTES
from shared.content.car import car_header, car_section
from shared.content.cid import Codec, make_block, parse_cid
from shared.content.unixfs import UNIXFS_V1_2025, UNIXFS_V1_CLASSIC
from shared.errors import ConfigError, SourceFailed
from shared.interfaces import Meter
from shared.reasons import SourceFault
from shared.types import Cid
from tests.content_support import SMALL, Blocks, content_of, serving, talking, until
from tests.kubo_support import CLIENTS, FakeKubo

SECONDS = 20.0
TOKEN = "Bearer very-secret-token"
LEAF = make_block(Codec.RAW, b"leaf")
NODE = make_block(Codec.DAG_PB, b"\x0a\x02\x08\x01")


@pytest.fixture
async def kubo() -> AsyncIterator[FakeKubo]:
    async with FakeKubo().serving() as kubo:
        yield kubo


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> Callable[..., KuboApi]:
    return CLIENTS[request.param]


@pytest.fixture
async def api(client: Callable[..., KuboApi], kubo: FakeKubo) -> AsyncIterator[KuboApi]:
    async with client(kubo.url) as api:
        yield api


@pytest.fixture
async def rpc(kubo: FakeKubo) -> AsyncIterator[KuboRpc]:
    async with KuboRpc(kubo.url) as rpc:
        yield rpc


async def get(api: KuboApi, cid: Cid, *, seconds: float = SECONDS, is_offline: bool = True) -> bytes:
    return (await api.get_block(cid, seconds=seconds, is_offline=is_offline)).data


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def archive_of(root: Cid, blocks: Blocks) -> AsyncIterator[bytes]:
    return pieces(car_header(root), *(car_section(block) for block in blocks.values()))


@asynccontextmanager
async def failing(fault: SourceFault) -> AsyncIterator[list[str]]:
    said: list[str] = []
    with pytest.raises(SourceFailed) as failed:
        yield said
    said.append(str(failed.value))
    assert failed.value.fault is fault, said


# --- calls ---------------------------------------------------------------------------------------
async def test_the_node_says_who_it_is(api):
    assert await api.node() == KuboNode("12D3KooWFake", "0.43.1")


async def test_every_call_is_a_post_with_a_time_limit(client, kubo):
    async with client(kubo.url) as api:
        await api.put_block(LEAF)
        await get(api, LEAF.cid, seconds=2.5)
        await api.pin(LEAF.cid, seconds=1000)
    assert [options["timeout"] for _, options in kubo.calls] == ["30s", "3s", "1000s"]


@pytest.mark.parametrize("block", [LEAF, NODE], ids=["raw", "dag-pb"])
@pytest.mark.parametrize("option", ["cid-codec", "format"])
async def test_a_block_is_put_under_its_cid_in_new_and_old_versions(api, kubo, block, option):
    kubo.codec_option = option
    for _ in range(2):
        await api.put_block(block)
    assert await get(api, block.cid) == block.data
    assert len(kubo.called("block/put")) == (2 if option == "cid-codec" else 3)  # it is found out once
    assert all(options["pin"] == "false" for options in kubo.called("block/put"))
    assert kubo.pins == set()


async def test_a_block_of_the_largest_size_is_put_and_got(api):
    block = make_block(Codec.RAW, bytes(MAX_BLOCK_BYTES))
    await api.put_block(block)
    assert await api.block_size(block.cid) == MAX_BLOCK_BYTES
    assert await get(api, block.cid) == block.data


async def test_a_block_that_is_kept_under_another_cid_is_a_bad_answer(api, kubo):
    kubo.renamed[LEAF.cid] = NODE.cid
    async with failing(SourceFault.BAD_ANSWER) as said:
        await api.put_block(LEAF)
    assert said == [f"block/put: it kept {LEAF.cid} as {NODE.cid}"]


async def test_what_is_not_here_is_not_found_offline(api):
    async with failing(SourceFault.NOT_FOUND) as said:
        await get(api, LEAF.cid)
    assert said[0].startswith("block/get: block was not found locally (offline)")
    async with failing(SourceFault.NOT_FOUND):
        await api.block_size(LEAF.cid)


async def test_what_is_nowhere_is_looked_for_until_the_time_is_over(api):
    started = asyncio.get_running_loop().time()
    async with failing(SourceFault.SLOW) as said:
        await get(api, LEAF.cid, seconds=0.2, is_offline=False)
    assert asyncio.get_running_loop().time() - started < 5
    assert said[0] in ("block/get: no whole answer within 0.2 s", "block/get: context deadline exceeded")


async def test_online_a_block_comes_from_the_network(api, kubo):
    kubo.network[parse_cid(LEAF.cid)[1]] = LEAF.data
    meter = Meter()
    block = await api.get_block(LEAF.cid, seconds=SECONDS, is_offline=False, meter=meter)
    assert (block, meter.received_bytes) == (LEAF, 4)


async def test_wrong_bytes_are_refused(api, kubo):
    kubo.hold(Blocks({LEAF.cid: LEAF}))
    kubo.forged[LEAF.cid] = b"fael"
    async with failing(SourceFault.WRONG_BYTES) as said:
        await get(api, LEAF.cid)
    assert said == [f"block/get: wrong bytes: 4 bytes do not hash to {LEAF.cid}"]


async def test_a_failure_in_the_middle_of_a_body_is_seen_by_the_hash(api, kubo):
    kubo.hold(Blocks({LEAF.cid: LEAF}))
    kubo.cut.add(LEAF.cid)
    async with failing(SourceFault.WRONG_BYTES):
        await get(api, LEAF.cid)


async def test_a_block_over_the_limit_is_too_large(api, kubo):
    kubo.hold(Blocks({LEAF.cid: LEAF}))
    kubo.forged[LEAF.cid] = bytes(MAX_BLOCK_BYTES + 1)
    async with failing(SourceFault.TOO_LARGE) as said:
        await get(api, LEAF.cid)
    assert said == [f"block/get: over {MAX_BLOCK_BYTES} bytes"]


async def test_peers_are_connected_and_refusals_told(api, kubo):
    await api.connect("/ip4/127.0.0.1/tcp/1/p2p/A", seconds=SECONDS)
    async with failing(SourceFault.BAD_ANSWER) as said:
        await api.connect("/ip4/127.0.0.1/tcp/1/p2p/refuses", seconds=SECONDS)
    assert kubo.connected == ["/ip4/127.0.0.1/tcp/1/p2p/A", "/ip4/127.0.0.1/tcp/1/p2p/refuses"]
    assert "failed to dial" in said[0]


# --- files and pins ------------------------------------------------------------------------------
@pytest.mark.parametrize("streams_pins", [False, True])
async def test_an_archive_is_imported_and_its_root_pinned(api, kubo, streams_pins):
    kubo.streams_pins = streams_pins
    blocks = Blocks()
    root = blocks.file(content_of(1000), SMALL)
    assert await api.is_pinned(root) is False
    await api.import_archive(root, archive_of(root, blocks), seconds=SECONDS)
    assert await api.is_pinned(root)
    assert all(kubo.has(cid) for cid in blocks)
    assert kubo.called("dag/import")[0]["pin-roots"] == "true"


async def test_an_archive_with_a_block_missing_is_told(api, kubo):
    blocks = Blocks()
    root = blocks.file(content_of(1000), SMALL)
    missing = next(iter(blocks))
    del blocks[missing]
    async with failing(SourceFault.BAD_ANSWER) as said:
        await api.import_archive(root, archive_of(root, blocks), seconds=SECONDS)
    assert said == [f"dag/import: imported {root} and did not pin it: ipld: could not find {missing}"]
    assert kubo.pins == set()


async def test_an_import_that_names_another_root_is_a_bad_answer(api, kubo):
    kubo.renamed[LEAF.cid] = NODE.cid
    async with failing(SourceFault.BAD_ANSWER) as said:
        await api.import_archive(LEAF.cid, archive_of(LEAF.cid, Blocks({LEAF.cid: LEAF})), seconds=SECONDS)
    assert said == [f"dag/import: the answer does not have the root {LEAF.cid}"]


async def test_an_import_without_an_answer_is_a_bad_answer(rpc, kubo):
    kubo.answers["dag/import"] = web.Response
    async with failing(SourceFault.BAD_ANSWER):
        await rpc.import_archive(LEAF.cid, archive_of(LEAF.cid, Blocks({LEAF.cid: LEAF})), seconds=SECONDS)


async def test_what_the_archive_raises_comes_out_of_the_import(api, kubo):
    async def broken() -> AsyncIterator[bytes]:
        yield car_header(LEAF.cid)
        raise LookupError("a block is missing here")

    with pytest.raises(LookupError, match="a block is missing here"):
        await api.import_archive(LEAF.cid, broken(), seconds=SECONDS)
    await until(lambda: not kubo.at_once.total(), "the call goes on")
    assert kubo.pins == set()


async def test_pins_are_added_and_removed(api, kubo):
    await api.put_block(LEAF)
    await api.pin(LEAF.cid, seconds=SECONDS)
    assert kubo.pins == {LEAF.cid}
    for _ in range(2):  # what is not pinned stays so
        await api.unpin(LEAF.cid)
    assert kubo.pins == set()


async def test_a_pin_that_names_another_cid_is_a_bad_answer(api, kubo):
    await api.put_block(LEAF)
    kubo.renamed[LEAF.cid] = NODE.cid
    async with failing(SourceFault.BAD_ANSWER) as said:
        await api.pin(LEAF.cid, seconds=SECONDS)
    assert said == [f"pin/add: the answer does not have {LEAF.cid}"]


@pytest.mark.parametrize("profile", [UNIXFS_V1_2025, UNIXFS_V1_CLASSIC], ids=lambda profile: profile.name)
async def test_added_bytes_have_our_cid_whatever_the_node_is_set_to(rpc, kubo, profile):
    data = content_of(3_000_000)
    cid = await rpc.add(pieces(data[:1000], data[1000:]), profile, seconds=SECONDS)
    assert cid == Blocks().file(data, profile)
    assert cid in kubo.pins
    named = {"cid-version", "raw-leaves", "chunker", "max-file-links", "hash", "trickle", "inline", "pin", "cid-base"}
    assert named <= kubo.called("add")[0].keys()


async def test_a_file_is_exported_as_an_archive(rpc, kubo):
    blocks = Blocks()
    root = blocks.file(content_of(100), SMALL)
    kubo.hold(blocks)
    async with aclosing(rpc.export_archive(root, seconds=SECONDS, is_offline=True)) as parts:
        archive = b"".join([part async for part in parts])
    assert archive.startswith(car_header(root))
    assert len(archive) == len(car_header(root)) + sum(len(car_section(block)) for block in blocks.values())
    with pytest.raises(SourceFailed, match="could not find"):
        await anext(rpc.export_archive(LEAF.cid, seconds=SECONDS, is_offline=True))


# --- what goes wrong -----------------------------------------------------------------------------
async def test_without_a_node_it_is_said_what_to_do(client):
    async with serving([]) as url:
        pass
    async with client(url) as api, failing(SourceFault.UNREACHABLE) as said:
        await api.node()
    assert said[0].startswith(f"id: Kubo at {url} (content.kubo_url) does not answer (")
    assert said[0].endswith("); start it with: ipfs daemon")


async def test_a_node_that_is_silent_is_slow(api, kubo):
    kubo.stalled.add("pin/add")
    async with failing(SourceFault.SLOW):
        await api.pin(LEAF.cid, seconds=0.2)


@pytest.mark.parametrize(
    ("answer", "fault", "said"),
    [
        (lambda: web.Response(status=404, text="404 page not found"), SourceFault.BAD_ANSWER, "check content.kubo_url"),
        (lambda: web.Response(status=405), SourceFault.BAD_ANSWER, "HTTP status 405, not Kubo's RPC API"),
        (lambda: web.Response(status=503), SourceFault.BUSY, "HTTP status 503"),
        (lambda: web.Response(text="<html>"), SourceFault.BAD_ANSWER, "not what Kubo answers"),
        (lambda: web.Response(text='{"Key": 1}'), SourceFault.BAD_ANSWER, "not what Kubo answers"),
        (lambda: web.Response(body=b'{"Key": "\xff"}'), SourceFault.BAD_ANSWER, "not what Kubo answers"),
        (lambda: web.Response(text='{"a": ' + "[" * 50_000), SourceFault.BAD_ANSWER, "not what Kubo answers"),
        (lambda: web.Response(status=500, body=b'{"Message": "\xff"}'), SourceFault.BAD_ANSWER, "block/put: "),
        (lambda: web.Response(status=500, text='{"a": ' + "[" * 50_000), SourceFault.BAD_ANSWER, "block/put: "),
        (lambda: web.Response(text=""), SourceFault.BAD_ANSWER, "answer"),
        (
            lambda: web.json_response({"Message": "no space left on device", "Code": 0, "Type": "error"}, status=500),
            SourceFault.BAD_ANSWER,
            "block/put: no space left on device",
        ),
    ],
    ids=["404", "405", "503", "html", "json", "no text", "depth", "no text in 500", "depth in 500", "empty", "error"],
)
async def test_other_answers_are_told(api, kubo, answer, fault, said):
    kubo.answers["block/put"] = answer
    async with failing(fault) as causes:
        await api.put_block(LEAF)
    assert said in causes[0]


async def test_an_endless_answer_is_cut(rpc, kubo):
    kubo.answers["pin/ls"] = lambda: web.Response(text=" " * (MAX_ANSWER_BYTES + 1))
    async with failing(SourceFault.TOO_LARGE):
        await rpc.is_pinned(LEAF.cid)


async def test_a_compressed_answer_is_refused(rpc, kubo):
    kubo.answers["version"] = lambda: web.Response(headers={"Content-Encoding": "gzip"}, body=b"bomb")
    async with failing(SourceFault.BAD_ANSWER):
        await rpc.node()


async def test_a_redirect_is_not_followed(api, kubo):
    async with FakeKubo().serving() as other:
        other.hold(Blocks({LEAF.cid: LEAF}))
        location = f"{other.url}/api/v0/block/get?arg={LEAF.cid}"
        kubo.answers["block/get"] = lambda: web.Response(status=307, headers={"Location": location})
        with pytest.raises(SourceFailed):
            await get(api, LEAF.cid)
        assert other.calls == []


async def test_proxies_of_the_environment_are_not_used(client, kubo, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with client(kubo.url) as api:
        assert (await api.node()).version == "0.43.1"


async def test_calls_at_once_are_bounded(api, kubo):
    blocks = [make_block(Codec.RAW, content_of(size)) for size in range(1, 60)]
    await asyncio.gather(*(api.put_block(block) for block in blocks))
    assert all(kubo.has(block.cid) for block in blocks)
    assert 1 <= kubo.most_at_once <= MAX_CALLS


async def test_a_cancelled_call_ends_at_once_and_leaves_room(rpc, kubo):
    kubo.stalled.add("id")
    calls = [asyncio.create_task(rpc.node()) for _ in range(MAX_CALLS)]
    await until(lambda: kubo.at_once["id"] == MAX_CALLS, "the calls do not come")
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await rpc.put_block(LEAF)
    assert kubo.has(LEAF.cid)


# --- the header ----------------------------------------------------------------------------------
async def test_the_header_opens_the_door(client, kubo):
    kubo.token = TOKEN
    async with client(kubo.url, authorization=TOKEN) as api:
        await api.put_block(LEAF)
        assert await get(api, LEAF.cid) == LEAF.data
    async with client(kubo.url) as api, failing(SourceFault.BAD_ANSWER) as said:
        await api.node()
    assert said == ["id: Kubo refuses this node (403); check content.kubo_auth_file and its API.Authorizations"]


async def test_the_header_is_shown_nowhere(client, caplog):
    """Also not by the causes of errors, of which some carry the whole request."""
    caplog.set_level(logging.DEBUG)

    async def garbage(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SIP/2.0 200 OK\r\n\r\n")
        await writer.drain()

    async with talking(garbage) as url, client(url, authorization=TOKEN) as api:
        with pytest.raises(SourceFailed) as failed:
            await api.node()
        shown = [repr(api), str(api), caplog.text]
    error: BaseException | None = failed.value
    while error is not None:
        shown += [repr(error), str(error)]
        error = None if error.__suppress_context__ else error.__context__
    assert not any("very-secret" in text for text in shown)


async def test_without_the_package_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipfshttpclient", None)
    with pytest.raises(ConfigError, match=r"pip install ipfshttpclient==0\.7\.0"):
        CLIENTS["ipfshttpclient"]("http://127.0.0.1:5001")
