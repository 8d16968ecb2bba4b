"""CARv1 archives (ipld.io/specs/transport/car/carv1): a header that names roots, then blocks, each with its CID.

The header's roots and the order of the blocks are the writer's word; a reader believes neither, and a cut archive that
ends between two blocks looks whole. Whether a file is complete is for the walk to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from shared.constants import MAX_BLOCK_BYTES
from shared.content.cid import CID_BYTES, Block, decode_cid, encode_cid, verify_block
from shared.content.varint import MAX_VARINT_BYTES, decode_varint, encode_varint
from shared.errors import CodecError
from shared.types import Cid

# {"roots": [CID], "version": 1} in DAG-CBOR; a CID is tag 42 on a byte string that starts with 0.
_BEFORE_ROOT = b"\xa2\x65roots\x81\xd8\x2a\x58" + bytes((CID_BYTES + 1,)) + b"\x00"
_BEHIND_ROOT = b"\x67version\x01"
MAX_SECTION_BYTES = CID_BYTES + MAX_BLOCK_BYTES


def car_header(root: Cid) -> bytes:
    header = _BEFORE_ROOT + encode_cid(root) + _BEHIND_ROOT
    return encode_varint(len(header)) + header


def car_section(block: Block) -> bytes:
    return encode_varint(CID_BYTES + len(block.data)) + encode_cid(block.cid) + block.data


def read_car(stream: BinaryIO, root: Cid) -> Iterator[Block]:
    """The blocks of an archive whose one root is `root`, each verified and one at a time in memory.

    Raises `CodecError` for another header, a CID that is not ours, wrong bytes, and bytes cut or added anywhere.
    """
    expected = car_header(root)
    if stream.read(len(expected)) != expected:
        raise CodecError("CAR: not version 1 with this root alone")
    while (size := _read_size(stream)) is not None:
        if not CID_BYTES <= size <= MAX_SECTION_BYTES:
            raise CodecError(f"CAR: a section of {size} bytes")
        section = stream.read(size)
        if len(section) != size:
            raise CodecError("CAR: cut within a block")
        yield verify_block(decode_cid(section[:CID_BYTES]), section[CID_BYTES:])


def _read_size(stream: BinaryIO) -> int | None:
    """The varint before a section; None at the orderly end."""
    prefix = b""
    while byte := stream.read(1):
        prefix += byte
        if byte[0] < 0x80 or len(prefix) == MAX_VARINT_BYTES:
            return decode_varint(prefix, 0)[0]
    if prefix:
        raise CodecError("CAR: cut within a length")
    return None
