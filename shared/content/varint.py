"""Unsigned LEB128 integers, as multiformats and Protocol Buffers write them."""

from __future__ import annotations

from shared.errors import CodecError

MAX_VARINT_BYTES = 9  # what multiformats allows: 63 bits, beyond any size


def encode_varint(value: int) -> bytes:
    """`value` in 0 .. 2**63 - 1."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode_varint(data: bytes, offset: int) -> tuple[int, int]:
    """(value, offset behind it). Raises `CodecError` when cut, over nine bytes, or longer than it needs to be."""
    value = 0
    for index, byte in enumerate(data[offset : offset + MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            if byte == 0 and index:  # two spellings of one value would make two blocks of one node
                raise CodecError("varint is not minimal")
            return value, offset + index + 1
    raise CodecError("varint is cut or too long")
