"""CARv1 archives that come in pieces, from writers that follow the specification in their own ways."""

from __future__ import annotations

from collections.abc import Iterator

from shared.content.car import MAX_SECTION_BYTES
from shared.content.cid import CID_BYTES, Block, IncomingBlock, decode_link
from shared.content.varint import MAX_VARINT_BYTES, decode_varint
from shared.errors import CodecError

MAX_HEADER_BYTES = 1024  # its roots, two dozen of them
MAX_PASSED_BYTES = 1 << 20  # of blocks that no file of ours has, in one archive
_VERSION_1 = b"\x67version\x01"  # "version": 1 in the header's DAG-CBOR
_CID_0_PREFIX, _CID_0_BYTES = b"\x12\x20", 34  # a bare multihash: SHA-256, 32 bytes


class CarReader:
    """An archive of another writer's, in pieces of any size: each block as soon as it is whole and verified.

    The header may name any roots (gateways differ, and their specification says to ignore them), a CID may be of
    version 0 as in a link, and blocks under CIDs that no file of ours links, identity CIDs for one, are passed over.
    One block at most is held between two pieces.
    """

    def __init__(self) -> None:
        self._length = bytearray()
        self._part: _Header | _Section | None = None  # the one under way
        self._is_headed, self._passed_bytes = False, 0

    def push(self, piece: bytes) -> Iterator[Block]:
        """The blocks that end in this piece; to be read to its end before the next. Raises `CodecError`."""
        rest = memoryview(piece)
        while rest:
            rest = rest[self._take(rest) :]
            if self._part is not None and not self._part.left:
                yield from self._finish_part()

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

    def _finish_part(self) -> Iterator[Block]:
        part, self._part = self._part, None
        match part:
            case _Header():
                part.finish()
                self._is_headed = True
            case _Section():
                if (block := part.finish()) is not None:
                    yield block
                else:
                    self._pass(part.size)

    def _pass(self, size: int) -> None:
        self._passed_bytes += size
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
        if _VERSION_1 not in self._data:
            raise CodecError("CAR: not version 1")


class _Section:
    """A CID, and the bytes that it stands for."""

    def __init__(self, size: int) -> None:
        """Raises `CodecError`."""
        if not 0 < size <= MAX_SECTION_BYTES:  # zeros are padding, which nobody asked for
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
