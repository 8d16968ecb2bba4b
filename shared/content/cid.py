"""Content identifiers: CIDv1, raw or dag-pb, SHA-256, base32 lower case, and nothing else.

CIDs are compared as text, on chain too, so every content has one spelling only. An identity CID carries its content in
itself and a weak or cut hash proves nothing: both are refused with all else that the protocol does not use.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

from shared.errors import CodecError
from shared.types import Cid


class Codec(IntEnum):
    """What the block's bytes are (the multicodec table)."""

    RAW = 0x55
    DAG_PB = 0x70


_REMEMBERED = 4096  # texts of one length and their bytes: 1 MB
CID_BYTES = 36  # version, codec, hash function, hash length, 32 bytes of hash
CID_CHARACTERS = 59  # "b" and 288 bits in base32
_PREFIX = {codec: bytes((1, codec, 0x12, 0x20)) for codec in Codec}
_CODEC = {prefix: codec for codec, prefix in _PREFIX.items()}


@dataclass(frozen=True, slots=True)
class Block:
    """Bytes that hash to `cid`: only the functions below make one, so whoever holds it need not check."""

    cid: Cid
    data: bytes


def make_block(codec: Codec, data: bytes) -> Block:
    """A block of our own, under the CID it hashes to."""
    return Block(decode_cid(_PREFIX[codec] + hashlib.sha256(data).digest()), data)


def verify_block(cid: Cid, data: bytes) -> Block:
    """A stranger's bytes as a block. Raises `CodecError` when they do not hash to `cid`."""
    incoming = IncomingBlock(cid)
    incoming.add(data)
    return incoming.finish()


class IncomingBlock:
    """A stranger's bytes that come in pieces, hashed as they come: no large block holds anybody up at its end."""

    def __init__(self, cid: Cid) -> None:
        self._cid, self._hash = cid, hashlib.sha256()
        self._pieces: list[bytes] = []
        self.size = 0

    def add(self, piece: bytes) -> None:
        self._hash.update(piece)
        self._pieces.append(piece)
        self.size += len(piece)

    def finish(self) -> Block:
        """Raises `CodecError`, as `verify_block`."""
        if self._hash.digest() != parse_cid(self._cid)[1]:
            raise CodecError(f"{self.size} bytes do not hash to {self._cid}")
        return Block(self._cid, b"".join(self._pieces))


def parse_cid(text: str) -> tuple[Codec, bytes]:
    """(codec, SHA-256 digest) of a CID's canonical text. Raises `CodecError` for any other text."""
    data = encode_cid(Cid(text))
    return _CODEC[data[:4]], data[4:]


def codec_of(cid: Cid) -> Codec:
    """Raises `CodecError`, as `parse_cid`."""
    return parse_cid(cid)[0]


@lru_cache(_REMEMBERED)  # every step of a fetch asks again
def encode_cid(cid: Cid) -> bytes:
    """The 36 bytes that links and archives carry. Raises `CodecError` when the text is not canonical."""
    if len(cid) != CID_CHARACTERS or not cid.startswith("b"):
        raise CodecError("CID is not a CIDv1 in base32")
    try:
        data = base64.b32decode(cid[1:].upper() + "======")
    except ValueError:  # binascii.Error, or characters beyond ASCII
        raise CodecError("CID is not base32") from None
    if decode_cid(data) != cid:  # upper case, or bits behind the last byte
        raise CodecError("CID is not in its canonical text")
    return data


def decode_link(data: bytes) -> Cid:
    """As `decode_cid`, of a node's link, where CIDv0 (a bare SHA-256 multihash of 34 bytes) stands for the dag-pb block
    with that hash: it is what `ipfs add` writes by default, in nodes that can be named by a CIDv1 all the same."""
    is_version_0 = len(data) == CID_BYTES - 2 and data[:2] == _PREFIX[Codec.DAG_PB][2:]
    return decode_cid(_PREFIX[Codec.DAG_PB][:2] + data if is_version_0 else data)


def decode_cid(data: bytes) -> Cid:
    """The canonical text. Raises `CodecError` for another version, codec, hash or length."""
    if len(data) != CID_BYTES or data[:4] not in _CODEC:
        raise CodecError("CID is not version 1, raw or dag-pb, SHA-256")
    return Cid("b" + base64.b32encode(data).decode().rstrip("=").lower())
