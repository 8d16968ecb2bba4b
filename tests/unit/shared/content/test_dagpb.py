"""dag-pb nodes: read as strictly as written, and at no cost when hostile."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.constants import MAX_BLOCK_BYTES, MAX_LINKS
from shared.content import dagpb
from shared.content.cid import Codec, decode_cid, encode_cid, make_block
from shared.content.dagpb import Link, bytes_field, decode_node, encode_node, varint_field
from shared.errors import CodecError

LEAF = make_block(Codec.RAW, b"leaf").cid
HASH = bytes_field(1, encode_cid(LEAF))
LINK = HASH + bytes_field(2, b"") + varint_field(3, 4)


def test_the_bytes_are_those_of_the_specification():
    link = b"\x0a\x24\x01\x55\x12\x20" + hashlib.sha256(b"leaf").digest() + b"\x12\x00\x18\x04"
    assert encode_node(b"data", [Link(LEAF, 4)]) == b"\x12" + bytes([len(link)]) + link + b"\x0a\x04data"


@given(st.binary(max_size=50), st.lists(st.binary(max_size=5), max_size=5), st.integers(0, 2**63 - 1))
def test_what_is_written_is_read(data, leaves, total):
    links = [make_block(Codec.RAW, leaf).cid for leaf in leaves]
    assert decode_node(encode_node(data, [Link(cid, total) for cid in links])) == (data, links)


def test_the_older_order_data_first_is_read_too():
    assert decode_node(bytes_field(1, b"data") + bytes_field(2, LINK)) == (b"data", [LEAF])


REFUSED = {
    "an unknown field": bytes_field(3, b""),
    "data as a number": varint_field(1, 1),
    "a link as a number": varint_field(2, 1),
    "data twice": bytes_field(1, b"a") + bytes_field(1, b"b"),
    "a fixed64": b"\x09" + bytes(8),
    "a group": b"\x0b",
    "a fixed32": b"\x0d" + bytes(4),
    "a cut length": b"\x0a",
    "a length beyond the end": b"\x0a\x05abcd",
    "a length of 63 bits": b"\x0a" + b"\xff" * 8 + b"\x7f",
    "an endless varint": b"\x0a" + b"\xff" * 40,
    "a length in two bytes that needs one": b"\x0a\x81\x00x",
    "a link without a hash": bytes_field(2, bytes_field(2, b"")),
    "a link with two hashes": bytes_field(2, HASH + HASH),
    "a link out of order": bytes_field(2, bytes_field(2, b"") + HASH),
    "a link with an unknown field": bytes_field(2, LINK + varint_field(4, 1)),
    "a link whose size is text": bytes_field(2, HASH + bytes_field(3, b"4")),
    "a link whose hash is a number": bytes_field(2, varint_field(1, 4)),
    "a link to a cut version 0": bytes_field(2, bytes_field(1, encode_cid(LEAF)[2:-1])),
    "a link to an identity CID": bytes_field(2, bytes_field(1, b"\x01\x55\x00\x04leaf")),
    "a link to a SHA-1": bytes_field(2, bytes_field(1, b"\x01\x55\x11\x14" + hashlib.sha1(b"leaf").digest())),  # noqa: S324
    "a link to dag-cbor": bytes_field(2, bytes_field(1, b"\x01\x71\x12\x20" + bytes(32))),
    "a link to nothing": bytes_field(2, bytes_field(1, b"")),
    "one link too many": bytes_field(2, LINK) * (MAX_LINKS + 1),
}


def test_a_link_to_version_0_is_one_to_the_dag_pb_block():
    link = bytes_field(2, bytes_field(1, encode_cid(LEAF)[2:]))
    assert decode_node(link) == (b"", [decode_cid(bytes((1, Codec.DAG_PB)) + encode_cid(LEAF)[2:])])


@pytest.mark.parametrize("block", REFUSED.values(), ids=REFUSED)
def test_another_form_is_refused(block):
    with pytest.raises(CodecError):
        decode_node(block)


def test_the_most_links_are_read():
    assert decode_node(bytes_field(2, LINK) * MAX_LINKS) == (b"", [LEAF] * MAX_LINKS)


def test_a_block_full_of_junk_is_dropped_at_its_first_field(monkeypatch):
    """Else 2 MiB of two-byte fields would be a second of work for nothing."""
    read = []
    monkeypatch.setattr(
        dagpb, "decode_varint", lambda data, offset, real=dagpb.decode_varint: read.append(1) or real(data, offset)
    )
    for junk in (b"\x1a\x00", b"\x12\x00", b"\x0a\x00", b"\x08\x01"):
        with pytest.raises(CodecError):
            decode_node(junk * (MAX_BLOCK_BYTES // 2))
    assert len(read) <= 4 * 4


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(block):
    try:
        data, links = decode_node(block)
    except CodecError:
        return
    assert len(data) + 36 * len(links) <= len(block)
