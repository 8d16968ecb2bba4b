"""dag-pb: a node of bytes and links (ipld.io/specs/codecs/dag-pb), read as strictly as it is written.

PBNode { bytes Data = 1; repeated PBLink Links = 2; }     PBLink { bytes Hash = 1; string Name = 2; uint64 Tsize = 3; }
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from shared.constants import MAX_LINKS
from shared.content.cid import decode_link, encode_cid
from shared.content.varint import decode_varint, encode_varint
from shared.errors import CodecError
from shared.types import Cid

_VARINT, _BYTES = 0, 2  # Protocol Buffers wire types

Field = tuple[int, int | bytes]


@dataclass(frozen=True, slots=True)
class Link:
    """`total_bytes` is the size of all blocks below, as the writer says; nobody can check it, so nobody reads it."""

    cid: Cid
    total_bytes: int


def bytes_field(number: int, value: bytes) -> bytes:
    return bytes((number << 3 | _BYTES,)) + encode_varint(len(value)) + value


def varint_field(number: int, value: int) -> bytes:
    return bytes((number << 3 | _VARINT,)) + encode_varint(value)


def encode_node(data: bytes, links: Sequence[Link]) -> bytes:
    """The canonical form: links first, each with an empty name, then the data."""
    encoded = [
        bytes_field(1, encode_cid(link.cid)) + bytes_field(2, b"") + varint_field(3, link.total_bytes) for link in links
    ]
    return b"".join(bytes_field(2, link) for link in encoded) + bytes_field(1, data)


def decode_node(block: bytes) -> tuple[bytes, list[Cid]]:
    """(data, links). Raises `CodecError`; at the first wrong field, so that a hostile block costs no time."""
    data: bytes | None = None
    links: list[Cid] = []
    for number, value in fields(block):
        if number == 2 and isinstance(value, bytes) and len(links) < MAX_LINKS:
            links.append(_decode_link(value))
        elif number == 1 and isinstance(value, bytes) and data is None:
            data = value
        else:
            raise CodecError(f"dag-pb node: field {number} is unknown, repeated or one link too many")
    return data or b"", links


def _decode_link(encoded: bytes) -> Cid:
    cid: Cid | None = None
    last = 0
    for number, value in fields(encoded):
        if number <= last or number > 3 or isinstance(value, int) != (number == 3):
            raise CodecError(f"dag-pb link: field {number} is unknown, repeated or out of order")
        if number == 1 and isinstance(value, bytes):
            cid = decode_link(value)
        last = number
    if cid is None:
        raise CodecError("dag-pb link: no hash")
    return cid


def fields(encoded: bytes) -> Iterator[Field]:
    """(field number, varint or bytes) in order. Raises `CodecError` for other wire types and for what is cut."""
    offset = 0
    while offset < len(encoded):
        key, offset = decode_varint(encoded, offset)
        value, offset = decode_varint(encoded, offset)
        if key & 7 == _VARINT:
            yield key >> 3, value
        elif key & 7 == _BYTES and offset + value <= len(encoded):
            yield key >> 3, encoded[offset : offset + value]
            offset += value
        else:
            raise CodecError("protobuf field is cut or of another wire type")
