"""Archives in pieces, of other writers: what verifies is taken, whatever is around it, and little is held."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.constants import MAX_BLOCK_BYTES
from shared.content.car import car_header, car_section
from shared.content.car_reader import MAX_HEADER_BYTES, MAX_PASSED_BYTES, CarReader
from shared.content.cid import CID_BYTES, encode_cid
from shared.content.varint import encode_varint
from shared.errors import CodecError
from tests.content_support import SMALL, Blocks, content_of


def car_of(blocks: Blocks, root: str) -> bytes:
    return car_header(root) + b"".join(car_section(block) for block in blocks.values())


def file_of(size: int) -> tuple[Blocks, str]:
    blocks = Blocks()
    return blocks, blocks.file(content_of(size), SMALL)


def push(car: bytes, sizes: list[int]) -> Blocks:
    """In pieces of these sizes, over and over. Raises `CodecError`."""
    blocks, reader, offset = Blocks(), CarReader(), 0
    for size in itertools.cycle(sizes):
        if offset >= len(car):
            break
        for block in reader.push(car[offset : offset + size]):
            blocks.put(block)
        offset += size
    reader.finish()
    return blocks


@given(st.integers(0, 600), st.lists(st.integers(1, 100), min_size=1, max_size=5))
def test_in_pieces_an_archive_is_what_it_is_as_a_whole(size, sizes):
    blocks, root = file_of(size)
    assert list(push(car_of(blocks, root), sizes).items()) == list(blocks.items())


@given(st.integers(1, 300), st.data())
def test_a_cut_archive_in_pieces_is_refused_or_misses_a_block(size, data):
    blocks, root = file_of(size)
    car = car_of(blocks, root)
    cut = car[: data.draw(st.integers(0, len(car) - 1))]
    try:
        rest = push(cut, [data.draw(st.integers(1, 100))])
    except CodecError:
        return
    assert len(rest) < len(blocks)


@given(st.integers(1, 300), st.integers(1, 100), st.data())
def test_any_flipped_bit_in_pieces_is_caught_or_makes_other_names(size, piece, data):
    blocks, root = file_of(size)
    car = bytearray(car_of(blocks, root))
    start = len(car_header(root))  # the header is believed in nothing
    bit = data.draw(st.integers(8 * start, 8 * len(car) - 1))
    car[bit // 8] ^= 1 << bit % 8
    try:
        changed = push(bytes(car), [piece])
    except CodecError:
        return
    with pytest.raises(KeyError):
        changed.read(root, min_bytes_per_node=1)


def test_a_block_comes_as_soon_as_its_last_byte():
    blocks, root = file_of(100)
    car, reader, came = car_of(blocks, root), CarReader(), []
    for number in range(len(car)):
        came += [(number + 1, block.cid) for block in reader.push(car[number : number + 1])]
    ends = itertools.accumulate((len(car_section(block)) for block in blocks.values()), initial=len(car_header(root)))
    assert came == list(zip(list(ends)[1:], blocks, strict=True))


@pytest.mark.parametrize(
    "header",
    [
        b"\xa2\x65roots\x80\x67version\x01",
        b"\xa2\x67version\x01\x65roots\x80",
        b"\xa2\x65roots\x81\xd8\x2a\x45\x00\x01\x55\x00\x00\x67version\x01",  # an identity CID
    ],
)
def test_any_roots_are_taken(header):
    blocks, _ = file_of(100)
    sections = b"".join(car_section(block) for block in blocks.values())
    assert push(encode_varint(len(header)) + header + sections, [50]) == blocks


def section_of(cid: bytes, data: bytes) -> bytes:
    return encode_varint(len(cid) + len(data)) + cid + data


PASSED = {
    "an identity CID": section_of(b"\x01\x55\x00\x03abc", b""),
    "an identity CID and its bytes": section_of(b"\x01\x55\x00\x03abc", b"abc"),
    "another hash": section_of(b"\x01\x70\xb2\x20" + bytes(32), b"data"),
    "another codec": section_of(b"\x01\x71\x12\x20" + bytes(32), b"data"),
    "one byte": section_of(b"", b"\x01"),
}


@pytest.mark.parametrize("section", PASSED.values(), ids=PASSED)
@pytest.mark.parametrize("piece", [1, 1000])
def test_blocks_that_no_file_has_are_passed_over(section, piece):
    blocks, root = file_of(100)
    first, *rest = [car_section(block) for block in blocks.values()]
    car = car_header(root) + first + section + b"".join(rest) + section
    assert push(car, [piece]) == blocks


def test_a_cid_of_version_0_names_the_node_with_its_hash():
    blocks, root = file_of(100)
    node = blocks[root]
    car = car_header(root) + section_of(encode_cid(root)[2:], node.data)
    for piece in (1, 2, 35, 1000):
        assert push(car, [piece]) == {root: node}
    with pytest.raises(CodecError, match="do not hash"):
        push(car[:-1] + b"!", [1000])


BAD_PARTS = {
    "no header": b"\x00",
    "a header over the limit": encode_varint(MAX_HEADER_BYTES + 1),
    "version 2": b"\x0a\xa1\x67version\x02",
    "an endless length": b"\xff" * 100,
}


@pytest.mark.parametrize("start", BAD_PARTS.values(), ids=BAD_PARTS)
def test_what_starts_like_no_archive_is_refused(start):
    with pytest.raises(CodecError):
        list(CarReader().push(start))


@pytest.mark.parametrize("section", [b"\x00", encode_varint(CID_BYTES + MAX_BLOCK_BYTES + 1), b"\xff" * 9, b"\xa8\x00"])
def test_a_hostile_length_is_refused_before_what_it_promises(section):
    _, root = file_of(10)
    reader = CarReader()
    assert list(reader.push(car_header(root))) == []
    with pytest.raises(CodecError):
        list(reader.push(section))


def test_an_archive_of_endless_nothing_is_refused():
    _, root = file_of(10)
    reader = CarReader()
    assert list(reader.push(car_header(root))) == []
    passed = section_of(b"\x01\x71", bytes(1 << 18))
    for _ in range(MAX_PASSED_BYTES // len(passed)):
        assert list(reader.push(passed)) == []
    with pytest.raises(CodecError, match="of what no file has"):
        list(reader.push(passed))
