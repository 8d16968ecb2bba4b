"""Length-prefixed frames out of a byte stream, read in large pieces (defect D13: libp2p reads byte by byte)."""

from __future__ import annotations

from typing import Protocol

from shared.adapters.gossip_libp2p import limits
from shared.errors import CodecError

MAX_PREFIX_BYTES = 4  # 28 bits: more than any limit we set


class Frames:
    """Feeds on chunks, gives whole frames. Holds at most `limit` bytes and one chunk."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, chunk: bytes) -> None:
        self._buffer += chunk

    def take(self) -> bytes | None:
        """The next frame, or None until more is fed. Raises `CodecError` for a prefix over the limit."""
        header = self._header()
        if header is None:
            return None
        start, length = header
        if len(self._buffer) < start + length:
            return None
        frame = bytes(self._buffer[start : start + length])
        del self._buffer[: start + length]
        return frame

    def _header(self) -> tuple[int, int] | None:
        """Where the frame starts and how long it is, from its varint (least significant 7 bits first)."""
        length = 0
        for position, byte in enumerate(self._buffer[:MAX_PREFIX_BYTES]):
            length |= (byte & 0x7F) << (7 * position)
            if byte < 0x80:
                if length > self._limit:
                    raise CodecError(f"a frame of {length} bytes, the limit is {self._limit}")
                return position + 1, length
        if len(self._buffer) >= MAX_PREFIX_BYTES:
            raise CodecError("a length prefix without an end")
        return None


class Readable(Protocol):
    async def read(self, n: int | None = None, /) -> bytes: ...


async def next_frame(stream: Readable, frames: Frames) -> bytes | None:
    """The next frame of a stream; None at its end. What `stream.read` raises is passed on."""
    while (frame := frames.take()) is None:
        chunk = await stream.read(limits.READ_BYTES)
        if not chunk:
            return None
        frames.feed(chunk)
    return frame
