"""What a garbage collection leaves, over any files that share blocks and miss some."""

from __future__ import annotations

import errno
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.content.cid import Block, Codec, make_block, parse_cid
from shared.content.sweep import Marks, mark
from shared.content.unixfs import read_node
from shared.errors import CodecError
from shared.types import FOREVER, Cid
from tests.content_support import SMALL, Blocks, content_of

NOW = 1000.0


@dataclass(frozen=True)
class File:
    cid: Cid
    keep_until: float = 0.0
    used_at: float = 0.0


def marks_of(blocks: Blocks) -> Marks:
    return Marks(blocks.get, lambda cid: len(blocks[cid].data) if cid in blocks else None)


def digest(cid: Cid) -> bytes:
    return parse_cid(cid)[1]


def below(blocks: Blocks, root: Cid) -> dict[bytes, int]:
    """The file's blocks that are here, with their sizes."""
    if root not in blocks:
        return {}
    found = {digest(root): len(blocks[root].data)}
    for child, _ in read_node(blocks[root]).children:
        found |= below(blocks, child)
    return found


# --- any files -----------------------------------------------------------------------------------
@st.composite
def stores(draw: st.DrawFn) -> tuple[Blocks, list[File]]:
    """Files of a few chunks out of three, so that they share some, and of which some blocks are missing."""
    chunks = [bytes([letter]) * SMALL.chunk_bytes for letter in b"abc"]
    blocks, files = Blocks(), {}
    for numbers in draw(st.lists(st.lists(st.integers(0, 2), max_size=12), max_size=6)):
        cid = blocks.file(b"".join(chunks[number] for number in numbers), SMALL)
        keep_until = draw(st.sampled_from([0.0, NOW - 1, NOW, NOW + 1, FOREVER]))
        files[cid] = File(cid, keep_until, draw(st.integers(0, 3)))
    for missing in draw(st.lists(st.sampled_from(sorted(blocks)), max_size=3, unique=True)) if blocks else []:
        del blocks[missing]
    return blocks, list(files.values())


@given(stores(), st.integers(0, 600))
def test_what_has_to_stay_stays_and_the_rest_as_it_was_used_while_there_is_room(store, max_bytes):
    blocks, files = store
    marks = marks_of(blocks)
    gone = mark(marks, files, now=NOW, max_bytes=max_bytes)

    has_to_stay = [file for file in files if file.keep_until > NOW]
    stays = [file for file in files if file not in gone]
    expected: dict[bytes, int] = {}
    for file in stays:
        expected |= below(blocks, file.cid)
    assert marks.digests == expected.keys()
    assert marks.bytes == sum(expected.values())

    assert not set(has_to_stay) & set(gone)
    cached = [file for file in stays if file not in has_to_stay]
    assert all(one.used_at >= other.used_at for one in cached for other in gone)
    if cached:
        assert marks.bytes <= max_bytes
    if gone:
        one_more = expected | below(blocks, gone[0].cid)
        assert sum(one_more.values()) > max_bytes


@given(stores())
def test_each_block_is_read_once_however_often_it_is_linked(store):
    blocks, files = store
    read: list[Cid] = []

    def note(cid: Cid) -> Block | None:
        read.append(cid)
        return blocks.get(cid)

    marks = Marks(note, lambda cid: len(blocks[cid].data) if cid in blocks else None)
    mark(marks, files, now=NOW, max_bytes=1 << 20)
    assert len(read) == len(set(read))
    assert set(read) <= set(blocks)  # what is not here is not asked for


# --- strangers' files ----------------------------------------------------------------------------
def test_of_two_files_used_at_once_the_later_one_stays():
    blocks = Blocks()
    files = [File(blocks.leaf(b"first")), File(blocks.leaf(b"later"))]
    assert mark(marks_of(blocks), files, now=NOW, max_bytes=5) == files[:1]


def test_a_file_too_large_for_the_room_takes_all_that_was_used_before_it_along():
    blocks = Blocks()
    small, large, new = blocks.leaf(b"small"), blocks.leaf(bytes(100)), blocks.leaf(b"new")
    files = [File(small, used_at=1.0), File(large, used_at=2.0), File(new, used_at=3.0)]
    assert [file.cid for file in mark(marks_of(blocks), files, now=NOW, max_bytes=50)] == [large, small]


def test_the_same_bytes_as_a_leaf_and_as_a_node_are_one_block_and_what_is_below_stays():
    blocks = Blocks()
    leaf = blocks.leaf(b"leaf")
    node = blocks.node([(leaf, 4)])
    twin = blocks.leaf(blocks[node].data)
    marks = marks_of(blocks)
    mark(marks, [File(twin, FOREVER), File(node, FOREVER)], now=NOW, max_bytes=0)
    assert marks.digests == {digest(leaf), digest(node)}
    assert marks.bytes == len(blocks[node].data) + 4


def test_a_node_that_no_read_would_pass_stays_alone():
    blocks = Blocks()
    leaf = blocks.leaf(b"leaf")
    wrong = blocks.node([(leaf, 4)], size=5)
    directory = blocks.put(make_block(Codec.DAG_PB, b"\x0a\x02\x08\x01"))
    marks = marks_of(blocks)
    mark(marks, [File(wrong, FOREVER), File(directory, FOREVER)], now=NOW, max_bytes=0)
    assert marks.digests == {digest(wrong), digest(directory)}


def test_damage_hides_what_is_below_and_stops_nothing():
    blocks = Blocks()
    damaged, whole = blocks.file(content_of(40), SMALL), blocks.file(content_of(100), SMALL)

    def read(cid: Cid) -> Block | None:
        if cid == damaged:
            raise CodecError("damaged")
        if cid == whole:
            raise OSError(errno.EIO, "the disk does not answer")
        return blocks[cid]

    marks = Marks(read, lambda cid: len(blocks[cid].data))
    mark(marks, [File(damaged, FOREVER), File(whole, FOREVER)], now=NOW, max_bytes=0)
    assert marks.digests == {digest(damaged), digest(whole)}


@pytest.mark.parametrize("trouble", [errno.EMFILE, errno.ENOMEM, errno.EACCES])
def test_trouble_that_passes_ends_the_marking_before_anything_goes(trouble):
    blocks = Blocks()
    kept = blocks.file(content_of(100), SMALL)

    def read(cid: Cid) -> Block | None:
        raise OSError(trouble, "not now")

    with pytest.raises(OSError, match="not now"):
        Marks(read, lambda cid: len(blocks[cid].data)).keep(kept)


def test_a_name_that_is_no_cid_is_no_file():
    marks = marks_of(Blocks())
    assert mark(marks, [File(Cid("../../etc/passwd"), FOREVER), File(Cid(""))], now=NOW, max_bytes=0) == []
    assert marks.digests == set()


def test_a_bomb_of_links_is_walked_block_by_block():
    """Six nodes that link to the next one 500 times each would be 500^6 visits."""
    blocks = Blocks()
    cid, size = blocks.leaf(b"x"), 1
    for _ in range(6):
        cid, size = blocks.node([(cid, size)] * 500), size * 500
    reads: list[Cid] = []

    def read(cid: Cid) -> Block | None:
        reads.append(cid)
        return blocks[cid]

    marks = Marks(read, lambda cid: len(blocks[cid].data))
    mark(marks, [File(cid, FOREVER)], now=NOW, max_bytes=0)
    assert len(reads) == 6
    assert len(marks.digests) == 7


def test_a_walk_ends_where_the_room_does():
    blocks = Blocks()
    root = blocks.file(content_of(16 * 81), SMALL)
    reads: list[Cid] = []

    def read(cid: Cid) -> Block | None:
        reads.append(cid)
        return blocks[cid]

    marks = Marks(read, lambda cid: len(blocks[cid].data))
    assert not marks.keep_if_it_fits(root, 300)
    assert len(reads) <= 3
    assert (marks.digests, marks.bytes) == (set(), 0)
