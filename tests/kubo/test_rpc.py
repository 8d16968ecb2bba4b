"""The RPC API that we put over Kubo keeps Kubo's rules, or clients would be tested against something easier."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from poi.testnet.kubo.libkubo import KuboFailed
from poi.testnet.kubo.node import PUT_AT_ONCE
from poi.testnet.kubo.rpc import LARGEST_BLOCK
from shared import base58
from shared.content.cid import Codec, decode_link, make_block
from shared.content.unixfs import UNIXFS_V1_2025, Profile
from tests.content_support import Blocks, content_of
from tests.real_kubo import ABSENT, ask, car, import_file, refusal, rpc

ADD = {"cid_version": 1, "raw_leaves": "true"}
MIB = 1 << 20


def status_of(url: str, method: str, **headers: str) -> int:
    request = urllib.request.Request(
        url, method=method, headers={key.replace("_", "-"): headers[key] for key in headers}
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code


def test_it_answers_post_alone_and_no_browser(pair):
    url = f"{pair.a.url}/api/v0/id"
    assert status_of(url, "POST") == 200
    assert status_of(url, "GET") == 405
    assert status_of(url, "POST", Origin="http://evil.example") == 403
    assert status_of(url, "POST", User_Agent="Mozilla/5.0") == 403
    assert status_of(f"{pair.a.url}/api/v0/repo/gc", "POST") == 404


def test_it_says_who_and_where_it_is(pair):
    identity = ask(pair.a, "id")
    assert identity["Addresses"] == [pair.a.address]
    assert pair.a.address.endswith(f"/p2p/{identity['ID']}")
    assert pair.a.address.startswith("/ip4/127.0.0.1/tcp/")
    assert ask(pair.a, "version")["Version"] == "0.22.0"
    assert identity["ID"] in [peer["Peer"] for peer in ask(pair.b, "swarm/peers")["Peers"]]


def test_nothing_of_it_reaches_beyond_this_machine(pair):
    config = json.loads((pair.a.repo / "config").read_text())
    assert config["Bootstrap"] == []
    assert config["Routing"] == {"Type": "none"}
    assert config["Discovery"] == {"MDNS": {"Enabled": False}}
    assert config["Addresses"]["Swarm"] == [pair.a.address.partition("/p2p/")[0]]
    assert config["Swarm"]["RelayClient"] == {"Enabled": False}


def test_what_it_writes_is_in_its_repo(pair):
    """libkubo's own log would be in whatever folder the process was started from."""
    assert (pair.a.repo / "kubo.log").stat().st_size > 0
    assert not Path("kubo.log").exists()


def test_a_repo_that_may_be_public_is_left_alone(pair, launch, tmp_path):
    config = json.loads((pair.a.repo / "config").read_text()) | {"Bootstrap": ["/dnsaddr/bootstrap.example/p2p/Qm"]}
    (tmp_path / "config").write_text(json.dumps(config))
    with pytest.raises(KuboFailed, match="somebody's own Kubo"):
        launch(tmp_path).wait()


def test_a_repo_in_use_is_refused(pair, launch):
    with pytest.raises(KuboFailed, match="cannot listen at"):
        launch(pair.a.repo).wait()
    assert ask(pair.a, "version")["Version"] == "0.22.0"


@pytest.mark.parametrize("command", ["cat", "block/get", "block/stat", "dag/export", "pin/add"])
def test_what_is_nowhere(pair, command):
    absent = make_block(Codec.RAW, f"nowhere, for {command}".encode()).cid
    assert refusal(pair.a, command, arg=absent, offline="true") == ABSENT + absent
    assert refusal(pair.a, command, arg=absent, timeout="50ms") == "context deadline exceeded"
    assert ask(pair.a, "pin/ls")["Keys"].get(absent) is None


@pytest.mark.parametrize("arg", ["", "bafkrei", "/ipfs/QmNo", "BAFKREI" + "A" * 52, "../../etc/passwd"])
def test_what_is_no_cid_is_refused(pair, arg):
    for command in ("cat", "block/get", "dag/export", "pin/add", "pin/rm", "pin/ls"):
        assert refusal(pair.a, command, arg=arg).startswith("invalid path")


def test_what_is_not_said_or_wrongly_said_is_refused(pair):
    assert rpc(pair.a, "cat")[0] == 400
    assert rpc(pair.a, "add")[0] == 400
    assert rpc(pair.a, "add", upload=b"", pin="yes")[0] == 400
    root = ask(pair.a, "add", upload=b"content", **ADD)["Hash"]
    assert refusal(pair.a, "cat", arg=root, timeout="soon").startswith("time: invalid duration")
    for options in ({"trickle": "true"}, {"chunker": "rabin"}, {"hash": "blake3"}, {"raw_leaves": "false"}):
        assert refusal(pair.a, "add", upload=b"content", **(ADD | options)).startswith("this node")


@pytest.mark.parametrize("text", ["1", "True", "t", "true"])
def test_flags_are_read_as_go_reads_them(pair, text):
    cid = ask(pair.a, "add", upload=b"hash only %s" % text.encode(), **ADD, only_hash=text)["Hash"]
    assert refusal(pair.a, "block/get", arg=cid, offline=text) == ABSENT + cid


def test_what_is_added_is_pinned_unless_said_otherwise(pair):
    root, _ = import_file(pair.a, content_of(3 * MIB)[::-1], UNIXFS_V1_2025)
    by_kubo = ask(pair.a, "add", upload=b"by Kubo")["Hash"]
    loose = ask(pair.a, "add", upload=b"loose", **ADD, pin="false")["Hash"]
    pins = ask(pair.a, "pin/ls", type="recursive")["Keys"]
    assert {root, by_kubo} <= set(pins)
    assert loose not in pins
    every = ask(pair.a, "pin/ls")["Keys"]
    assert every[root] == {"Type": "recursive"}
    assert {"Type": "indirect"} in every.values()
    lines = rpc(pair.a, "pin/ls", arg=root, stream="true")[1]
    assert json.loads(lines) == {"Cid": root, "Type": "recursive"}
    for pinned in (root, by_kubo):
        assert ask(pair.a, "pin/rm", arg=pinned) == {"Pins": [pinned]}
        assert refusal(pair.a, "pin/rm", arg=pinned) == "not pinned or pinned indirectly"
        assert refusal(pair.a, "pin/ls", arg=pinned) == f"path '{pinned}' is not pinned"


@pytest.mark.parametrize("leaves", [PUT_AT_ONCE - 1, PUT_AT_ONCE])
def test_files_are_added_whole_whatever_fills_the_last_batch(pair, leaves):
    data = content_of(leaves * 1000)
    options = ADD | {"chunker": "size-1000", "max_file_links": 1000}
    root = ask(pair.a, "add", upload=data, **options)["Hash"]
    assert root == Blocks().file(data, Profile("as asked", 1000, 1000))
    assert rpc(pair.b, "cat", arg=root, timeout="20s") == (200, data)


def test_a_name_of_version_0_and_a_path_name_the_same(pair):
    name = ask(pair.a, "add", upload=b"by two names")["Hash"]
    root = decode_link(base58.decode(name))
    for arg in (name, root, f"/ipfs/{name}", f"/ipfs/{root}"):
        assert rpc(pair.a, "cat", arg=arg) == (200, b"by two names")


def test_a_block_is_put_under_the_codec_that_is_named(pair):
    blocks = Blocks()
    root = blocks.node([(blocks.leaf(b"leaf"), 4)])
    for cid, codec in ((blocks.leaf(b"leaf"), "raw"), (root, "dag-pb")):
        data = blocks[cid].data
        assert ask(pair.a, "block/put", upload=data, cid_codec=codec) == {"Key": cid, "Size": len(data)}
    assert rpc(pair.a, "cat", arg=root, offline="true") == (200, b"leaf")
    assert refusal(pair.a, "block/put", upload=b"x", cid_codec="dag-cbor").startswith("this node puts")
    assert "over 1MiB" in refusal(pair.a, "block/put", upload=bytes(LARGEST_BLOCK + 1))
    assert (
        ask(pair.a, "block/put", upload=bytes(LARGEST_BLOCK + 1), allow_big_block="true")["Size"] == LARGEST_BLOCK + 1
    )


def test_an_archive_without_a_block_is_imported_and_not_pinned_and_exported_cut(pair):
    blocks = Blocks()
    root = blocks.file(content_of(3 * MIB + 5)[::-1])
    missing = next(cid for cid in blocks if len(blocks[cid].data) == 5)
    whole = car(root, [blocks[root], *(block for cid, block in blocks.items() if cid != root)])
    del blocks[missing]
    answer = ask(pair.a, "dag/import", upload=car(root, blocks.values()))
    assert answer == {"Root": {"Cid": {"/": root}, "PinErrorMsg": ABSENT + root}}
    assert refusal(pair.a, "pin/ls", arg=root) == f"path '{root}' is not pinned"
    status, body = rpc(pair.a, "dag/export", arg=root, timeout="100ms")  # a failure that no status shows
    assert status == 200
    assert whole.startswith(body)
    assert len(body) < len(whole)


def test_an_archive_that_lies_is_refused(pair):
    blocks = Blocks()
    root = blocks.file(content_of(2 * MIB)[::-1])
    archive = car(root, blocks.values())
    for wrong in (b"", archive[:20], archive[:-1], archive[:100] + b"\0" + archive[101:], archive + b"\1"):
        assert refusal(pair.a, "dag/import", upload=wrong).startswith("import failed: ")
    status, lines = rpc(pair.a, "dag/import", upload=archive, stats="true")
    assert status == 200
    assert json.loads(lines.splitlines()[1]) == {
        "Stats": {"BlockCount": len(blocks), "BlockBytesCount": sum(len(block.data) for block in blocks.values())}
    }


def test_nobody_there_to_connect_to(pair):
    address = pair.b.address.replace("/tcp/", "/tcp/1", 1) if "/tcp/1" not in pair.b.address else "/ip4/127.0.0.1/tcp/9"
    assert refusal(pair.a, "swarm/connect", arg=address).endswith("failure")
    assert refusal(pair.a, "swarm/connect", arg="nonsense") == "connect nonsense failure"


def test_it_runs_by_itself_until_it_is_told_to_end(pair, tmp_path):
    command = [sys.executable, "-m", "poi.testnet.kubo", str(tmp_path / "repo"), "--rpc", "0", "--swarm", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        ready, url, address = process.stdout.readline().split()
        assert (ready, url[:17], address[:15]) == ("ready", "http://127.0.0.1:", "/ip4/127.0.0.1/")
        process.terminate()
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
