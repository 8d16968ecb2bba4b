"""Content identifiers: one spelling each, and the same as everybody else's."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multiformats import CID, multihash, varint

from shared.content.cid import Codec, decode_cid, encode_cid, make_block, parse_cid, verify_block
from shared.content.varint import decode_varint, encode_varint
from shared.errors import CodecError
from shared.types import Cid

GOOD = make_block(Codec.RAW, b"content").cid
DIGEST = hashlib.sha256(b"content").digest()
CODEC_NAMES = {Codec.RAW: "raw", Codec.DAG_PB: "dag-pb"}


def other(base: str = "base32", version: int = 1, codec: str = "raw", hash_name: str = "sha2-256", **size: int) -> str:
    """A CID that the oracle writes."""
    return str(CID(base, version, codec, multihash.digest(b"content", hash_name, **size)))


# --- against the oracle --------------------------------------------------------------------------
@given(st.binary(max_size=100), st.sampled_from(Codec))
def test_a_block_gets_the_cid_that_others_give_it(data, codec):
    theirs = CID("base32", 1, CODEC_NAMES[codec], multihash.digest(data, "sha2-256"))
    ours = make_block(codec, data)
    assert ours.cid == str(theirs)
    assert encode_cid(ours.cid) == bytes(theirs)
    assert decode_cid(bytes(theirs)) == ours.cid
    assert parse_cid(ours.cid) == (codec, theirs.raw_digest)


@given(st.integers(0, 2**63 - 1))
def test_varints_are_those_of_others(value):
    assert encode_varint(value) == varint.encode(value)
    assert decode_varint(b"\xff" + varint.encode(value) + b"\x01", 1) == (value, 1 + len(varint.encode(value)))


@given(st.binary(max_size=12))
def test_varints_are_taken_and_refused_as_by_others(data):
    try:
        value, size, _ = varint.decode_raw(data)
    except ValueError:
        with pytest.raises(CodecError):
            decode_varint(data, 0)
    else:
        assert decode_varint(data, 0) == (value, size)


# --- what is refused -----------------------------------------------------------------------------
REFUSED = {
    "nothing": "",
    "no CID": "bafkrei",
    "version 0": "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH",
    "upper case": str(GOOD).upper(),
    "upper case after the base": "b" + GOOD[1:].upper(),
    "one letter in upper case": GOOD[:-2] + GOOD[-2].upper() + GOOD[-1],
    "base32 in upper case": other("base32upper"),
    "base58": other("base58btc"),
    "base16": other("base16"),
    "base64": other("base64url"),
    "padded": other("base32pad"),
    "a letter more": GOOD + "a",
    "a letter less": GOOD[:-1],
    "a space before": " " + GOOD,
    "a line break after": GOOD + "\n",
    "not base32": GOOD[:-1] + "1",
    "not ASCII": GOOD[:-1] + "é",
    "a digit of another script": GOOD[:-1] + "\u0663",
    "stray bits behind the last byte": GOOD[:-1] + chr(ord(GOOD[-1]) + 1),
    "dag-cbor": other(codec="dag-cbor"),
    "identity": str(CID("base32", 1, "raw", multihash.digest(b"content", "identity"))),
    "SHA-1": other(hash_name="sha1"),
    "SHA-512": other(hash_name="sha2-512"),
    "36 zero bytes": "b" + "a" * 58,
    "a cut hash": other(size=20),
    "a path": f"/ipfs/{GOOD}",
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_another_spelling_or_kind_is_refused(text):
    with pytest.raises(CodecError):
        parse_cid(text)


@given(st.text(max_size=70) | st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=58, max_size=58).map("b".__add__))
def test_any_text_is_parsed_or_refused(text):
    try:
        codec, digest = parse_cid(text)
    except CodecError:
        return
    assert str(CID("base32", 1, CODEC_NAMES[codec], ("sha2-256", digest))) == text


@given(st.integers(0, 58), st.characters(codec="utf-8"))
def test_no_second_text_names_the_same_content(index, character):
    text = GOOD[:index] + character + GOOD[index + 1 :]
    try:
        is_named = parse_cid(text) == (Codec.RAW, DIGEST)
    except CodecError:
        is_named = False
    assert is_named == (text == GOOD)


def test_bytes_of_another_length_are_no_cid():
    data = encode_cid(GOOD)
    for wrong in (b"", data[:-1], data + b"\0", b"\x02" + data[1:], data[:3] + b"\x1f" + data[4:]):
        with pytest.raises(CodecError):
            decode_cid(wrong)


# --- blocks --------------------------------------------------------------------------------------
def test_a_block_must_hash_to_its_cid():
    assert verify_block(GOOD, b"content").data == b"content"
    for wrong in (b"", b"content ", b"Content"):
        with pytest.raises(CodecError, match="do not hash to"):
            verify_block(GOOD, wrong)


@given(st.binary(min_size=1, max_size=64), st.data())
def test_a_flipped_bit_is_caught(data, draw):
    block = make_block(Codec.RAW, data)
    bit = draw.draw(st.integers(0, 8 * len(data) - 1))
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CodecError):
        verify_block(block.cid, bytes(flipped))


def test_verifying_against_a_text_that_is_no_cid_is_an_error_of_ours():
    with pytest.raises(CodecError):
        verify_block(Cid("nonsense"), b"")
