"""What an archive has: for any bytes of any file, the blocks that they need and no others."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.constants import MAX_DAG_DEPTH, MAX_MODEL_BYTES
from shared.content.cid import Codec, make_block
from shared.content.selection import EVERY_BYTE, DagScope, EntityBytes, Selection, parse_entity_bytes
from shared.content.unixfs import Profile, read_node
from shared.errors import CodecError, ContentCorrupt, ContentTooLarge
from shared.types import Cid
from tests.content_support import SMALL, Blocks, content_of

PROFILES = st.builds(Profile, st.just("any"), st.integers(1, 64), st.integers(2, 5))
# Few different bytes, so that a file names a block often; many, so that it does not.
CONTENTS = st.one_of(st.binary(max_size=600), st.text("ab", max_size=600).map(str.encode))
SPANS = st.builds(EntityBytes, st.integers(-700, 700), st.none() | st.integers(-700, 700))


def selected(blocks: Blocks, root: Cid, selection: Selection | None = None) -> list[Cid]:
    """The CIDs in the order of the archive."""
    selection = selection or Selection(root, min_bytes_per_node=1)
    sent = []
    while (cid := selection.next()) is not None:
        if selection.is_new:
            sent.append(cid)
        selection.feed(blocks[cid])
    return sent


def needed(blocks: Blocks, root: Cid, wanted: range) -> list[Cid]:
    """Every place of the file that has a wanted byte, in order; the root in any case. The slow and plain way."""
    places: list[Cid] = []

    def visit(cid: Cid, offset: int) -> None:
        node = read_node(blocks[cid])
        if cid != root and not set(range(offset, offset + node.size)) & set(wanted):
            return
        places.append(cid)
        offset += len(node.content)
        for child, size in node.children:
            visit(child, offset)
            offset += size

    visit(root, 0)
    return places


def read_part(blocks: Blocks, root: Cid, wanted: range) -> bytes:
    """What a client reads of an archive, from its blocks alone. Raises `KeyError` for a missing one."""

    def read(cid: Cid, offset: int, size: int) -> bytes:
        if not wanted or offset >= wanted.stop or offset + size <= wanted.start:
            return bytes(size)
        node = read_node(blocks[cid])
        assert node.size == size
        parts = [node.content]
        offset += len(node.content)
        for child, child_size in node.children:
            parts.append(read(child, offset, child_size))
            offset += child_size
        return b"".join(parts)

    return read(root, 0, read_node(blocks[root]).size)[wanted.start : wanted.stop]


# --- entity-bytes --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0:*", range(100)),
        ("0:0", range(1)),
        ("10:19", range(10, 20)),
        ("10:1000", range(10, 100)),
        ("-10:*", range(90, 100)),
        ("-10:-1", range(90, 100)),
        ("-10:-10", range(90, 91)),
        ("-1000:*", range(100)),
        ("-1000:9", range(10)),
        ("20:-11", range(20, 90)),
        ("99:99", range(99, 100)),
        ("0:999999999999999999", range(100)),
    ],
)
def test_entity_bytes_are_offsets_in_the_file(text, expected):
    span = parse_entity_bytes(text)
    assert span.within(100) == expected
    assert str(span) == text


@pytest.mark.parametrize("text", ["100:*", "100:200", "999999999999999999:*", "60:-60", "-10:5", "0:-101"])
def test_bytes_beyond_the_file_are_none(text):
    wanted = parse_entity_bytes(text).within(100)
    assert not wanted
    assert 0 <= wanted.start == wanted.stop


@pytest.mark.parametrize("size", [0, 1])
def test_the_empty_file_has_no_bytes(size):
    assert len(EVERY_BYTE.within(size)) == size
    assert len(parse_entity_bytes("-5:*").within(size)) == size


@pytest.mark.parametrize(
    "text",
    ["", ":", "0", "0:", ":5", "*:5", "*:*", "a:b", "0:5:6", "+1:2", "1.0:2", " 1:2", "1:2 ", "--1:2", "0:٣", "1e3:*"],
)
def test_what_is_no_entity_bytes_is_refused(text):
    with pytest.raises(CodecError, match="expected FROM:TO"):
        parse_entity_bytes(text)


def test_a_number_of_any_length_costs_nothing():
    with pytest.raises(CodecError, match="18 digits"):
        parse_entity_bytes("9" * 19 + ":*")
    with pytest.raises(CodecError, match="18 digits"):
        parse_entity_bytes("0:" + "9" * 8000)


@pytest.mark.parametrize("text", ["5:4", "-4:-5"])
def test_an_end_before_the_beginning_is_refused(text):
    with pytest.raises(CodecError, match="TO lies before FROM"):
        parse_entity_bytes(text)


# --- which blocks --------------------------------------------------------------------------------
@given(CONTENTS, PROFILES, SPANS)
@example(bytes(3), Profile("any", 1, 2), EntityBytes(1, 0))
@example(bytes(3), Profile("any", 1, 2), EntityBytes(0, -5))
def test_a_range_is_the_blocks_that_it_needs_and_can_be_read_from_them(content, profile, span):
    blocks = Blocks()
    root = blocks.file(content, profile)
    wanted = span.within(len(content))
    places = needed(blocks, root, wanted)
    sent = selected(blocks, root, Selection(root, span=span, min_bytes_per_node=1))
    assert sent == list(dict.fromkeys(places))
    repeated = selected(blocks, root, Selection(root, span=span, is_repeating=True, min_bytes_per_node=1))
    assert repeated == places
    part = Blocks((cid, blocks[cid]) for cid in sent)
    assert read_part(part, root, wanted) == content[wanted.start : wanted.stop]


@given(CONTENTS, PROFILES)
def test_a_whole_file_is_all_its_blocks_in_the_order_of_the_walk(content, profile):
    blocks = Blocks()
    root = blocks.file(content, profile)
    sent = selected(blocks, root)
    assert sorted(sent) == sorted(blocks)
    assert Blocks((cid, blocks[cid]) for cid in sent).read(root, min_bytes_per_node=1) == content


@pytest.mark.parametrize("scope", [DagScope.ENTITY, DagScope.ALL])
def test_a_files_entity_is_all_of_it(scope):
    blocks = Blocks()
    root = blocks.file(content_of(300), SMALL)
    assert len(selected(blocks, root, Selection(root, scope=scope))) == len(blocks)


@pytest.mark.parametrize("span", [EVERY_BYTE, EntityBytes(100, 200)])
def test_the_scope_of_a_block_is_the_root_alone_whatever_it_is(span):
    blocks = Blocks()
    for root in (blocks.file(content_of(300), SMALL), blocks.put(make_block(Codec.DAG_PB, b"junk"))):
        assert selected(blocks, root, Selection(root, scope=DagScope.BLOCK, span=span)) == [root]


def test_a_range_beyond_the_file_is_its_root_which_says_its_size():
    blocks = Blocks()
    root = blocks.file(content_of(300), SMALL)
    assert selected(blocks, root, Selection(root, span=EntityBytes(300, None))) == [root]


def test_a_node_at_both_edges_is_sent_once_and_entered_twice():
    blocks = Blocks()
    leaves = [(blocks.leaf(bytes([number]) * 10), 10) for number in range(3)]
    twin = blocks.node(leaves)
    root = blocks.node([(twin, 30), (twin, 30)])
    sent = selected(blocks, root, Selection(root, span=EntityBytes(25, 34)))
    assert sent == [root, twin, leaves[2][0], leaves[0][0]]


def test_bytes_in_the_nodes_themselves_count():
    """`ipfs add` makes no such node, but others may."""
    blocks = Blocks()
    leaf = blocks.leaf(b"56789")
    root = blocks.node([(leaf, 5)], content=b"01234")
    assert selected(blocks, root, Selection(root, span=EntityBytes(0, 4))) == [root]
    assert selected(blocks, root, Selection(root, span=EntityBytes(4, 5))) == [root, leaf]


# --- hostile files -------------------------------------------------------------------------------
def test_a_block_that_was_not_asked_for_is_refused():
    blocks = Blocks()
    selection = Selection(blocks.leaf(b"asked"))
    with pytest.raises(ValueError, match="the archive is at"):
        selection.feed(blocks[blocks.leaf(b"other")])


def test_a_parent_that_lies_about_a_size_ends_the_archive():
    blocks = Blocks()
    root = blocks.node([(blocks.leaf(b"12345"), 6)])
    with pytest.raises(ContentCorrupt, match="has 5 bytes, its parent says 6"):
        selected(blocks, root)


def test_what_is_no_file_ends_the_archive():
    blocks = Blocks()
    junk = blocks.put(make_block(Codec.DAG_PB, b"junk"))
    root = blocks.node([(blocks.leaf(b"12345"), 5), (junk, 5)])
    with pytest.raises(ContentCorrupt, match=junk):
        selected(blocks, root)


def test_a_dag_as_deep_as_nobody_builds_ends_the_archive():
    blocks = Blocks()
    tower = [blocks.leaf(b"x")]
    for _ in range(MAX_DAG_DEPTH + 1):
        tower.append(blocks.node([(tower[-1], 1)]))
    assert selected(blocks, tower[-2], Selection(tower[-2])) == tower[-2::-1]
    with pytest.raises(ContentCorrupt, match="deeper than"):
        selected(blocks, tower[-1], Selection(tower[-1]))


def test_a_bomb_is_no_endless_archive():
    """Seven blocks that name each other 500 times: 500**6 visits with duplicates, seven without."""
    blocks = Blocks()
    cid, size = blocks.leaf(b"x"), 1
    for _ in range(6):
        cid, size = blocks.node([(cid, size)] * 500), size * 500
    with pytest.raises(ContentTooLarge, match=str(MAX_MODEL_BYTES)):
        selected(blocks, cid)
    inner = list(blocks)[2]  # of 500**2 bytes
    assert len(selected(blocks, inner)) == 3
    with pytest.raises(ContentCorrupt, match="too many nodes"):
        selected(blocks, inner, Selection(inner, is_repeating=True))


def test_what_is_remembered_is_a_level_of_siblings_and_what_was_sent():
    blocks = Blocks()
    root = blocks.file(content_of(16 * 27), SMALL)
    once, repeated = (Selection(root, is_repeating=is_repeating) for is_repeating in (False, True))
    most = 0
    while (cid := repeated.next()) is not None:
        repeated.feed(blocks[cid])
        most = max(most, repeated.held)
    assert most == 1 + 3 * (SMALL.max_links - 1)  # the tree has three levels below its root
    selected(blocks, root, once)
    assert once.held == len(blocks) == 40
