"""CARv1 archives: whole or refused."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.constants import MAX_BLOCK_BYTES
from shared.content.car import car_header, car_section, read_car
from shared.content.cid import CID_BYTES, Block, encode_cid
from shared.content.varint import encode_varint
from shared.errors import CodecError
from tests.content_support import SMALL, Blocks, content_of


def car_of(blocks: Blocks, root: str) -> bytes:
    return car_header(root) + b"".join(car_section(block) for block in blocks.values())


def read(car: bytes, root: str) -> Blocks:
    blocks = Blocks()
    for block in read_car(io.BytesIO(car), root):
        blocks.put(block)
    return blocks


def file_of(size: int) -> tuple[Blocks, str]:
    blocks = Blocks()
    return blocks, blocks.file(content_of(size), SMALL)


def test_the_header_is_that_of_the_specification():
    _, root = file_of(10)
    link = b"\xd8\x2a\x58\x25\x00" + encode_cid(root)  # tag 42, 37 bytes, the identity multibase
    assert car_header(root) == b"\x3a\xa2\x65roots\x81" + link + b"\x67version\x01"


@given(st.integers(0, 600))
def test_what_is_archived_is_read(size):
    blocks, root = file_of(size)
    assert read(car_of(blocks, root), root).read(root, min_bytes_per_node=1) == content_of(size)


@given(st.integers(1, 300), st.data())
def test_a_cut_archive_never_gives_the_file(size, data):
    blocks, root = file_of(size)
    car = car_of(blocks, root)
    cut = car[: data.draw(st.integers(0, len(car) - 1))]
    try:
        rest = read(cut, root)
    except CodecError:
        return
    with pytest.raises(KeyError):  # cut between two blocks: the walk misses one
        rest.read(root, min_bytes_per_node=1)


@given(st.binary(min_size=1, max_size=200))
def test_a_padded_archive_is_refused(padding):
    blocks, root = file_of(100)
    with pytest.raises(CodecError):
        read(car_of(blocks, root) + padding, root)


@given(st.integers(1, 300), st.data())
def test_any_flipped_bit_in_an_archive_is_caught(size, data):
    blocks, root = file_of(size)
    car = bytearray(car_of(blocks, root))
    bit = data.draw(st.integers(0, 8 * len(car) - 1))
    car[bit // 8] ^= 1 << bit % 8
    try:
        changed = read(bytes(car), root)
    except CodecError:
        return
    with pytest.raises(KeyError):  # the codec of a leaf's CID was changed: another name, not the one asked for
        changed.read(root, min_bytes_per_node=1)


def test_an_archive_of_something_else_is_refused():
    blocks, root = file_of(100)
    _, other = file_of(101)
    with pytest.raises(CodecError, match="with this root alone"):
        read(car_of(blocks, other), root)


REFUSED = {
    "empty": b"",
    "a section of nothing": b"\x00",
    "a section without a block's CID": b"\x04abcd",
    "a section over the limit": encode_varint(CID_BYTES + MAX_BLOCK_BYTES + 1),
    "a section of 63 bits": b"\xff" * 8 + b"\x7f",
    "an endless length": b"\xff" * 100,
    "a length that is not minimal": b"\xa8\x00" + bytes(40),
    "a CID of version 0": b"\x26\x12\x20" + bytes(36),
    "an identity CID": b"\x28\x01\x55\x00\x24" + bytes(36),
}


@pytest.mark.parametrize("section", REFUSED.values(), ids=REFUSED)
def test_a_hostile_section_is_refused_after_reading_little(section):
    _, root = file_of(10)
    stream = io.BytesIO((car_header(root) if section else b"") + section + bytes(1 << 20))
    with pytest.raises(CodecError):
        list(read_car(stream, root))
    assert stream.tell() < 1000


def test_a_block_that_does_not_hash_to_its_cid_is_refused():
    blocks, root = file_of(10)
    forged = car_section(Block(next(iter(blocks)), b"forged"))
    with pytest.raises(CodecError, match="do not hash"):
        read(car_header(root) + forged, root)
