"""A running node's content, asked for through its private door."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO, TypeVar

import aiohttp
import msgspec

from shared.adapters.content.door.place import address_of
from shared.adapters.content.door.wire import (
    DAY_SECONDS,
    FRAME_HEAD_BYTES,
    About,
    Add,
    Collect,
    Get,
    Keep,
    PinLine,
    Question,
    Refusal,
    error_of,
    moment_of,
    pin_of,
)
from shared.constants import MAX_BLOCK_BYTES
from shared.content.unixfs import UNIXFS_V1_2025, Profile
from shared.errors import ContentError, StoreError
from shared.interfaces import Pin, Swept
from shared.types import FOREVER, Cid, Ref

# A million pins. The node is one's own, but something else might sit at its socket.
MAX_ANSWER_BYTES = 256 << 20
CONNECT_SECONDS = 5.0
_PIECE_BYTES = 1 << 20

T = TypeVar("T")


class RemoteContent:
    """As `NodeContentStore`, which is on the other side. Whatever ends the connection raises `ContentError`."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    # --- files -----------------------------------------------------------------------------------
    async def add_stream(
        self, open_stream: Callable[[], BinaryIO], *, profile: Profile = UNIXFS_V1_2025, keep_until: float = FOREVER
    ) -> Ref:
        question, faults = Add(profile=profile.name, keep_until=moment_of(keep_until)), list[OSError]()
        try:
            with closing(await asyncio.to_thread(open_stream)) as stream:
                return await self._ask("add", question, Ref, _pieces(stream, faults))
        except (OSError, ContentError) as error:
            fault = error if isinstance(error, OSError) else next(iter(faults), None)
            if fault is None:
                raise
            raise ContentError(f"read the file: {fault.strerror or fault}") from error

    def open(
        self, cid: Cid, *, max_bytes: int, timeout_seconds: float, keep_until: float = 0.0
    ) -> AsyncGenerator[bytes, None]:
        keep = moment_of(keep_until)
        return self._file(Get(cid, max_bytes=max_bytes, timeout_seconds=timeout_seconds, keep_until=keep))

    def read(self, cid: Cid) -> AsyncGenerator[bytes, None]:
        return self._file(Get(cid, max_bytes=0, timeout_seconds=DAY_SECONDS, is_local=True))

    async def has(self, cid: Cid) -> bool:
        return await self._ask("has", About(cid), bool)

    async def size_of(self, cid: Cid) -> int | None:
        return await self._ask("size", About(cid), int | None)  # type: ignore[arg-type]

    async def _file(self, question: Get) -> AsyncGenerator[bytes, None]:
        try:
            async with self._session.post("/get", params=_params(question)) as response:
                if response.status != HTTPStatus.OK:
                    raise _error(response.status, await _read(response.content))
                async for chunk in _chunks(response.content):
                    yield chunk
        except (aiohttp.ClientError, OSError) as error:
            raise _hung_up(error) from error

    # --- care ------------------------------------------------------------------------------------
    async def pin(self, cid: Cid, *, keep_until: float = FOREVER) -> None:
        await self._ask("pin", Keep(cid, moment_of(keep_until)), object)

    async def unpin(self, cid: Cid) -> None:
        await self._ask("unpin", About(cid), object)

    async def pins(self) -> Sequence[Pin]:
        return [pin_of(line) for line in await self._ask("pins", Question(), list[PinLine])]

    async def collect(self, max_bytes: int = 0) -> Swept:
        return await self._ask("collect", Collect(max_bytes=max_bytes), Swept)

    async def verify(self, cid: Cid) -> Sequence[Cid]:
        return await self._ask("verify", About(cid), list[Cid])

    async def _ask(self, call: str, question: Question, kind: type[T], body: AsyncIterator[bytes] | None = None) -> T:
        try:
            async with self._session.post(f"/{call}", params=_params(question), data=body) as response:
                answer = await _read(response.content)
        except (aiohttp.ClientError, OSError) as error:
            raise _hung_up(error) from error
        if response.status != HTTPStatus.OK:
            raise _error(response.status, answer)
        return _decoded(answer, kind)


@asynccontextmanager
async def knock(path: Path) -> AsyncIterator[RemoteContent | None]:
    """None when nobody is there: no node runs on this folder. Raises `StoreError` when it is another user's."""
    if not await asyncio.to_thread(_is_answered, path):
        yield None
        return
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)  # checking a large model takes minutes
    with address_of(path) as address:
        connector = aiohttp.UnixConnector(path=address)
        async with aiohttp.ClientSession("http://node", connector=connector, timeout=timeout) as session:
            yield RemoteContent(session)


def _is_answered(path: Path) -> bool:
    """Raises `StoreError`."""
    try:
        with address_of(path) as address, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(CONNECT_SECONDS)
            probe.connect(address)
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    except OSError as error:
        raise StoreError(f"content door {path}: {error.strerror or error}; run this as the node's own user") from error
    return True


async def _pieces(stream: BinaryIO, faults: list[OSError]) -> AsyncIterator[bytes]:
    """What the disk said stands in `faults`: the HTTP client makes an error of its own of it."""
    try:
        while piece := await asyncio.to_thread(stream.read, _PIECE_BYTES):
            yield piece
    except OSError as error:
        faults.append(error)
        raise


async def _chunks(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """The frames up to the end, and then what the outcome is: a return, or the error."""
    try:
        while size := int.from_bytes(await stream.readexactly(FRAME_HEAD_BYTES), "big"):
            if size > MAX_BLOCK_BYTES:
                raise ContentError(f"the node's door sent a frame of {size} bytes")
            yield await stream.readexactly(size)
    except asyncio.IncompleteReadError as error:
        raise _hung_up(error) from error
    outcome = _decoded(await _read(stream), Refusal | None)  # type: ignore[arg-type]
    if outcome is not None:
        raise error_of(outcome)


async def _read(stream: aiohttp.StreamReader) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in stream.iter_any():
        parts.append(part)
        size += len(part)
        if size > MAX_ANSWER_BYTES:
            raise ContentError(f"the node's door answered with more than {MAX_ANSWER_BYTES} bytes")
    return b"".join(parts)


def _params(question: Question) -> dict[str, str]:
    return {"ask": msgspec.json.encode(question).decode()}


def _decoded(answer: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(answer, type=kind)
    except msgspec.MsgspecError as error:
        raise ContentError(f"the node's door answered what this program does not know: {error}") from error


def _error(status: int, answer: bytes) -> ContentError:
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        return ContentError("the node failed at it; its log says why")
    return error_of(_decoded(answer, Refusal))


def _hung_up(error: Exception) -> ContentError:
    return ContentError(f"the node ended the call: {str(error) or type(error).__name__}; see its log, and try again")
