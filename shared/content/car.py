"""CARv1 archives (ipld.io/specs/transport/car/carv1): a header that names roots, then blocks, each with its CID.

The header's roots and the order of the blocks are the writer's word; a reader believes neither, and a cut archive that
ends between two blocks looks whole. Whether a file is complete is for the walk to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from shared.constants import MAX_BLOCK_BYTES
from shared.content.cid import CID_BYTES, Block, IncomingBlock, decode_cid, decode_link, encode_cid, verify_block
from shared.content.varint import MAX_VARINT_BYTES, decode_varint, encode_varint
from shared.errors import CodecError
from shared.types import Cid

# {"roots": [CID], "version": 1} in DAG-CBOR; a CID is tag 42 on a byte string that starts with 0.
_BEFORE_ROOT = b"\xa2\x65roots\x81\xd8\x2a\x58" + bytes((CID_BYTES + 1,)) + b"\x00"
_BEHIND_ROOT = b"\x67version\x01"
MAX_HEADER_BYTES = 1024  # of another writer's: its roots, two dozen of them
MAX_PASSED_BYTES = 1 << 20  # of blocks that no file of ours has, in one archive
_CID_0_PREFIX, _CID_0_BYTES = b"\x12\x20", 34  # a bare multihash: SHA-256, 32 bytes
_MAX_SECTION_BYTES = CID_BYTES + MAX_BLOCK_BYTES


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
        if not CID_BYTES <= size <= _MAX_SECTION_BYTES:
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


class CarReader:
    """An archive of another writer's, in pieces of any size: each block as soon as it is whole and verified.

    The header may name any roots (gateways differ, and their specification says to ignore them), a CID may be of version
    0 as in a link, and blocks under CIDs that no file of ours links, identity CIDs for one, are passed over. One block
    at most is held between two pieces.
    """

    def __init__(self) -> None:
        self._length = bytearray()
        self._part: _Header | _Section | None = None  # the one under way
        self._is_headed, self._passed_bytes = False, 0

    def push(self, piece: bytes) -> list[Block]:
        """Raises `CodecError`; blocks of the same piece before the fault are lost with it."""
        blocks: list[Block] = []
        rest = memoryview(piece)
        while rest:
            rest = rest[self._take(rest) :]
            if self._part is not None and not self._part.left:
                self._finish_part(blocks)
        return blocks

    def finish(self) -> None:
        """At the end of the archive. Raises `CodecError` when that was within a part."""
        if self._length or self._part is not None or not self._is_headed:
            raise CodecError("CAR: cut")

    def _take(self, data: memoryview) -> int:
        """Bytes used: at least one."""
        if self._part is not None:
            used = min(self._part.left, len(data))
            self._part.add(bytes(data[:used]))
            return used
        self._length.append(data[0])
        if data[0] < 0x80 or len(self._length) == MAX_VARINT_BYTES:
            size, _ = decode_varint(bytes(self._length), 0)
            self._length.clear()
            self._part = _Section(size) if self._is_headed else _Header(size)
        return 1

    def _finish_part(self, blocks: list[Block]) -> None:
        match self._part:
            case _Header() as header:
                header.finish()
                self._is_headed = True
            case _Section() as section:
                if (block := section.finish()) is not None:
                    blocks.append(block)
                else:
                    self._passed_bytes += section.size
        self._part = None
        if self._passed_bytes > MAX_PASSED_BYTES:
            raise CodecError(f"CAR: over {MAX_PASSED_BYTES} bytes of what no file has")


class _Header:
    def __init__(self, size: int) -> None:
        """Raises `CodecError`."""
        if not 0 < size <= MAX_HEADER_BYTES:
            raise CodecError(f"CAR: a header of {size} bytes")
        self.left, self._data = size, bytearray()

    def add(self, data: bytes) -> None:
        self._data += data
        self.left -= len(data)

    def finish(self) -> None:
        """Raises `CodecError`."""
        if _BEHIND_ROOT not in self._data:
            raise CodecError("CAR: not version 1")


class _Section:
    """A CID, and the bytes that it stands for."""

    def __init__(self, size: int) -> None:
        """Raises `CodecError`."""
        if not 0 < size <= _MAX_SECTION_BYTES:  # zeros are padding, which nobody asked for
            raise CodecError(f"CAR: a section of {size} bytes")
        self.size = self.left = size
        self._cid = bytearray()
        self._block: IncomingBlock | None = None

    def add(self, data: bytes) -> None:
        self.left -= len(data)
        if self._block is None:
            data = self._begin(data)
        if self._block is not None:
            self._block.add(data)

    def _begin(self, data: bytes) -> bytes:
        """What is behind the CID."""
        start = self._cid + data[:CID_BYTES]
        cid_bytes = _CID_0_BYTES if start.startswith(_CID_0_PREFIX) else CID_BYTES
        used = max(0, min(len(data), cid_bytes - len(self._cid)))
        self._cid += data[:used]
        if used and len(self._cid) == cid_bytes:
            self._block = _incoming(self._cid)
        return data[used:]

    def finish(self) -> Block | None:
        """None for what is passed over. Raises `CodecError` for bytes that do not hash to their CID."""
        return None if self._block is None else self._block.finish()


def _incoming(cid: bytearray) -> IncomingBlock | None:
    try:
        return IncomingBlock(decode_link(bytes(cid)))
    except CodecError:
        return None
