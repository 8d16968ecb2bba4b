"""Files as DAGs: ours are everybody's, and the walk believes no one."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multiformats import CID, multihash

from shared.constants import MAX_BLOCK_BYTES, MAX_DAG_DEPTH, MAX_LINKS
from shared.content import unixfs
from shared.content.cid import Block, Codec, codec_of, encode_cid, make_block, verify_block
from shared.content.dagpb import Field, Link, bytes_field, encode_node, fields, varint_field
from shared.content.unixfs import UNIXFS_V1_2025, Profile, Walk, build_file, is_complete, read_node
from shared.errors import CodecError, ContentCorrupt, ContentTooLarge
from shared.types import Cid
from tests.content_support import SMALL, VECTORS, Blocks, content_of

PROFILES = st.builds(Profile, st.just("any"), st.integers(1, 64), st.integers(2, 5))


# --- building ------------------------------------------------------------------------------------
@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{v['size']}-by-{v['chunk_bytes']}")
def test_a_file_gets_the_cid_that_others_give_it(vector):
    profile = Profile("vector", vector["chunk_bytes"], vector["max_links"])
    blocks = Blocks()
    content = content_of(vector["size"])
    root, size = build_file(io.BytesIO(content), blocks.put, profile)
    assert (root, size) == (vector["cid"], vector["size"])
    assert blocks.read(root, max_bytes=size, min_bytes_per_node=1) == content


@pytest.mark.parametrize("profile", unixfs.PROFILES.values(), ids=lambda profile: profile.name)
@pytest.mark.parametrize("size", [0, 1, 255 << 10, 256 << 10, 257 << 10, 1 << 20, 10 << 20])
def test_every_block_of_a_file_has_the_cid_that_an_independent_library_makes_of_it(profile, size):
    blocks = Blocks()
    root = blocks.file(content_of(size), profile)
    names = {
        CID("base32", 1, _codec_name(block), multihash.digest(block.data, "sha2-256")) for block in blocks.values()
    }
    assert {str(name) for name in names} == set(blocks)
    links = [CID.decode(child) for block in blocks.values() for child, _ in read_node(block).children]
    assert {*links, CID.decode(root)} == names


def _codec_name(block: Block) -> str:
    return "raw" if codec_of(block.cid) is Codec.RAW else "dag-pb"


@given(st.binary(max_size=2000), PROFILES)
def test_what_is_built_is_read(content, profile):
    blocks = Blocks()
    root = blocks.file(content, profile)
    assert blocks.read(root, max_bytes=len(content), min_bytes_per_node=1) == content
    assert all(len(read_node(block).children) <= profile.max_links for block in blocks.values())


def test_a_stream_that_gives_little_at_a_time_makes_the_same_file():
    class Dribble(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(size or 0, 7))

    content = content_of(1000)
    assert build_file(Dribble(content), Blocks().put, SMALL)[0] == Blocks().file(content, SMALL)


def test_building_holds_one_chunk_and_puts_the_root_last():
    put: list[Block] = []
    root, _ = build_file(io.BytesIO(content_of(200)), put.append, SMALL)
    assert put[-1].cid == root
    seen: set[str] = set()
    for block in put:  # whoever has the root has had all below it
        assert all(cid in seen for cid, _ in read_node(block).children)
        seen.add(block.cid)


# --- reading what is right -----------------------------------------------------------------------
def test_one_block_named_many_times_is_read_as_often():
    blocks = Blocks()
    zeros = blocks.leaf(bytes(MAX_BLOCK_BYTES))
    root = blocks.node([(zeros, MAX_BLOCK_BYTES)] * 20)
    assert blocks.read(root, max_bytes=20 * MAX_BLOCK_BYTES) == bytes(20 * MAX_BLOCK_BYTES)


def test_other_builders_forms_are_read():
    """Leaves in dag-pb, bytes beside links, UnixFS's raw type, mode and mtime."""
    blocks = Blocks()
    inline = blocks.node(content=b"inline", kind=0)
    both = blocks.node([(inline, 6), (blocks.leaf(b"leaf"), 4)], content=b"own", extra=varint_field(7, 0o644))
    root = blocks.node([(both, 13)], extra=bytes_field(8, varint_field(1, 1_700_000_000)))
    assert blocks.read(root) == b"owninlineleaf"
    assert blocks.read(blocks.node()) == b""


def test_the_limit_itself_is_allowed():
    blocks = Blocks()
    assert len(blocks.read(blocks.file(bytes(100), SMALL), max_bytes=100, min_bytes_per_node=1)) == 100
    assert len(blocks.read(blocks.file(bytes(100)), max_bytes=100)) == 100


def test_what_is_ahead_is_told_in_order():
    blocks = Blocks()
    leaves = [(blocks.leaf(bytes([number])), 1) for number in range(5)]
    walk = Walk(blocks.node(leaves), max_bytes=5)
    (root,) = walk.ahead(9)
    walk.feed(blocks[root])
    assert walk.ahead(3) == [cid for cid, _ in leaves[:3]]
    assert walk.ahead(9) == [cid for cid, _ in leaves]
    for cid, _ in leaves:
        assert walk.feed(blocks[cid]) == blocks[cid].data
    assert walk.ahead(1) == []


def test_a_block_out_of_turn_is_a_bug_of_the_caller():
    blocks = Blocks()
    with pytest.raises(ValueError, match="the walk is at"):
        Walk(blocks.leaf(b"a"), max_bytes=1).feed(blocks[blocks.leaf(b"b")])


# --- too large -----------------------------------------------------------------------------------
def test_a_root_over_the_limit_is_refused_before_its_children_are_asked_for():
    blocks = Blocks()
    root = blocks.file(bytes(101), SMALL)
    walk = Walk(root, max_bytes=100)
    with pytest.raises(ContentTooLarge, match="has 101 bytes, over the limit of 100"):
        walk.feed(blocks[root])


def test_a_leaf_over_the_limit_is_refused():
    blocks = Blocks()
    with pytest.raises(ContentTooLarge):
        blocks.read(blocks.leaf(bytes(101)), max_bytes=100)


def test_a_few_blocks_that_claim_to_be_endless_are_too_large_at_the_root():
    blocks = Blocks()
    cid, size = blocks.leaf(bytes(1 << 18)), 1 << 18
    for _ in range(4):
        cid, size = blocks.node([(cid, size)] * 174), size * 174
    walk = Walk(cid, max_bytes=1 << 36)
    with pytest.raises(ContentTooLarge):
        walk.feed(blocks[cid])


# --- corrupt -------------------------------------------------------------------------------------
def leaf_of(blocks: Blocks) -> tuple:
    return blocks.leaf(b"leaf"), 4


def plain(data: bytes, links: int = 0) -> Blocks:
    """A node whose UnixFS part is `data`, over so many leaves of four bytes."""
    blocks = Blocks()
    leaf, _ = leaf_of(blocks)
    blocks.put(make_block(Codec.DAG_PB, encode_node(data, [Link(leaf, 4)] * links)))
    return blocks


FILE = varint_field(1, 2)
NO_FILES = {
    "no UnixFS at all": plain(b""),
    "a directory": plain(varint_field(1, 1)),
    "metadata": plain(varint_field(1, 3)),
    "a symbolic link": plain(varint_field(1, 4) + bytes_field(2, b"/etc/passwd")),
    "a sharded directory": plain(varint_field(1, 5)),
    "no type": plain(varint_field(3, 0)),
    "two types": plain(FILE + FILE),
    "two contents": plain(FILE + bytes_field(2, b"a") * 2 + varint_field(3, 2)),
    "a hash type": plain(FILE + varint_field(5, 0x22)),
    "a fan-out": plain(FILE + varint_field(6, 256)),
    "an unknown field": plain(FILE + varint_field(9, 1)),
    "content as a number": plain(FILE + varint_field(2, 1)),
    "a size as bytes": plain(FILE + bytes_field(3, b"\x01")),
    "packed sizes": plain(FILE + varint_field(3, 4) + bytes_field(4, b"\x04"), links=1),
    "bytes behind the end": plain(FILE + b"\x0a"),
    "no size for a link": plain(FILE + varint_field(3, 4), links=1),
    "a size too many": plain(FILE + varint_field(3, 8) + varint_field(4, 4) * 2, links=1),
    "sizes that do not add up": plain(FILE + varint_field(3, 5) + varint_field(4, 4), links=1),
    "no file size": plain(FILE + varint_field(4, 4), links=1),
    "content beside a size without it": plain(FILE + bytes_field(2, b"abc") + varint_field(3, 2)),
    "more sizes than links may be": plain(FILE + varint_field(3, MAX_LINKS + 1) + varint_field(4, 1) * (MAX_LINKS + 1)),
    "a child of no bytes": plain(FILE + varint_field(3, 0) + varint_field(4, 0), links=1),
}


@pytest.mark.parametrize("blocks", NO_FILES.values(), ids=NO_FILES)
def test_a_dag_that_is_no_file_is_corrupt(blocks):
    root = next(cid for cid in blocks if codec_of(cid) is Codec.DAG_PB)
    with pytest.raises(ContentCorrupt, match=root):
        blocks.read(root)


def test_a_node_full_of_sizes_is_dropped_at_the_first_too_many(monkeypatch):
    """Else 2 MiB of two-byte sizes would be half a second of work for nothing."""
    read = []

    def counting(encoded: bytes) -> Iterator[Field]:
        for field in fields(encoded):
            read.append(field)
            yield field

    monkeypatch.setattr(unixfs, "fields", counting)
    data = FILE + varint_field(4, 1) * (MAX_BLOCK_BYTES // 2 - 10)
    with pytest.raises(ContentCorrupt, match="one size too many"):
        read_node(make_block(Codec.DAG_PB, encode_node(data, [])))
    assert len(read) == 1 + MAX_LINKS + 1


@pytest.mark.parametrize("said", [1, 3, 5, 4096])
def test_a_child_that_is_not_as_large_as_its_parent_says_is_corrupt(said):
    blocks = Blocks()
    leaf, size = leaf_of(blocks)
    for child in (leaf, blocks.node([(leaf, size)])):
        with pytest.raises(ContentCorrupt, match="has 4 bytes of the file, its parent says"):
            blocks.read(blocks.node([(child, said)]))


def test_a_leaf_that_cannot_be_carried_is_corrupt_before_it_is_asked_for():
    blocks = Blocks()
    root = blocks.node([(leaf_of(blocks)[0], MAX_BLOCK_BYTES + 1)])
    with pytest.raises(ContentCorrupt, match=f"a leaf over {MAX_BLOCK_BYTES} bytes"):
        Walk(root, max_bytes=1 << 30).feed(blocks[root])


def test_a_chain_of_nodes_ends_at_the_depth_limit():
    blocks = Blocks()
    cid, size = leaf_of(blocks)
    for _ in range(MAX_DAG_DEPTH):
        cid = blocks.node([(cid, size)])
    assert blocks.read(cid) == b"leaf"
    with pytest.raises(ContentCorrupt, match=f"deeper than {MAX_DAG_DEPTH}"):
        blocks.read(blocks.node([(cid, size)]))


def test_a_bomb_of_empty_nodes_is_corrupt_at_its_second_level():
    """Twelve nodes of 500 empty children would be 500**12 visits."""
    blocks = Blocks()
    cid = blocks.node()
    for _ in range(12):
        cid = blocks.node([(cid, 0)] * 500)
    walk = Walk(cid, max_bytes=1 << 30)
    with pytest.raises(ContentCorrupt, match="a child of no bytes"):
        walk.feed(blocks[cid])


@pytest.mark.parametrize("nodes", [64, 65])
def test_a_bomb_of_tiny_leaves_is_corrupt(nodes):
    blocks = Blocks()
    root = blocks.node([(blocks.leaf(b"x"), 1)] * nodes)
    if nodes == 64:
        assert blocks.read(root) == b"x" * 64
    else:
        with pytest.raises(ContentCorrupt, match="too many nodes"):
            blocks.read(root)


def test_a_bomb_of_tiny_leaves_costs_few_visits_however_it_is_nested():
    blocks = Blocks()
    cid, size = blocks.leaf(b"x"), 1
    for _ in range(3):
        cid, size = blocks.node([(cid, size)] * 100), size * 100
    visits = []

    class Counting(Blocks):
        def __getitem__(self, key: Cid) -> Block:
            visits.append(key)
            return super().__getitem__(key)

    with pytest.raises(ContentCorrupt, match="too many nodes"):
        Counting(blocks).read(cid)
    assert len(visits) <= 64 + size // 4096


@pytest.mark.parametrize("text", ["", "bafkrei", "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH", "x" * 100_000])
def test_a_root_that_is_no_cid_of_ours_is_corrupt_and_not_repeated_at_length(text):
    with pytest.raises(ContentCorrupt) as refused:
        Walk(text, max_bytes=1)
    assert len(str(refused.value)) < 200


@given(st.binary(min_size=1, max_size=300), st.data())
def test_any_flipped_bit_in_any_block_is_caught(content, data):
    blocks = Blocks()
    blocks.file(content, SMALL)
    block = data.draw(st.sampled_from([block for block in blocks.values() if block.data]))
    bit = data.draw(st.integers(0, 8 * len(block.data) - 1))
    flipped = bytearray(block.data)
    flipped[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CodecError):
        verify_block(block.cid, bytes(flipped))


@given(st.binary(max_size=200))
def test_any_node_is_a_file_or_corrupt(data):
    with suppress(ContentCorrupt):
        assert read_node(make_block(Codec.DAG_PB, data)).size >= 0


@settings(max_examples=300)
@given(st.data())
def test_a_node_changed_anywhere_is_a_file_or_corrupt(data):
    blocks = Blocks()
    root = blocks[blocks.node([(blocks.leaf(b"leaf"), 4), (blocks.leaf(b"other"), 5)], content=b"own")]
    at = data.draw(st.integers(0, len(root.data)))
    changed = root.data[:at] + data.draw(st.binary(max_size=3)) + root.data[at + data.draw(st.integers(0, 3)) :]
    root = make_block(Codec.DAG_PB, changed)
    blocks.put(root)
    with suppress(ContentCorrupt, ContentTooLarge, KeyError):  # KeyError: a link to a block that nobody has
        assert len(blocks.read(root.cid, max_bytes=1 << 40)) == read_node(root).size


def test_the_profile_is_the_protocols():
    assert (UNIXFS_V1_2025.chunk_bytes, UNIXFS_V1_2025.max_links) == (1 << 20, 1024)
    empty = make_block(Codec.RAW, b"")
    assert encode_cid(empty.cid)[4:] == hashlib.sha256(b"").digest()


# --- completeness --------------------------------------------------------------------------------
def complete(blocks: Blocks, root: str) -> bool:
    return is_complete(root, blocks.get, lambda cid: len(blocks[cid].data) if cid in blocks else None)


def test_a_file_is_complete_with_all_its_blocks_and_with_none_less():
    blocks = Blocks()
    root = blocks.file(content_of(200), SMALL)
    assert complete(blocks, root)
    for cid in list(blocks):
        rest = Blocks(blocks)
        del rest[cid]
        assert not complete(rest, root)


def test_a_leaf_of_another_size_is_not_that_leaf():
    blocks = Blocks()
    root = blocks.file(content_of(200), SMALL)
    assert not is_complete(root, blocks.get, lambda cid: 15)


def test_looking_for_a_file_reads_each_block_once():
    blocks = Blocks()
    cid, size = blocks.leaf(b"x"), 1
    for _ in range(8):
        cid, size = blocks.node([(cid, size)] * 100), size * 100
    read = []
    assert is_complete(cid, lambda cid: read.append(cid) or blocks[cid], lambda cid: 1)
    assert len(read) == len(set(read)) == 8
