"""The node's side of its private door."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, TypeVar

import msgspec
from aiohttp import web

from shared.adapters.content.door.place import listening, socket_path
from shared.adapters.content.door.wire import (
    END,
    About,
    Add,
    Collect,
    Get,
    Keep,
    Question,
    Refusal,
    frame,
    line_of,
    refusal_of,
    until,
)
from shared.adapters.content.store import NodeContentStore
from shared.content.unixfs import PROFILES
from shared.errors import ConfigError, ContentError, ContentTooLarge, ContentUnavailable, PoiError

# Each upload may fill the disk up to the store's own limit, each download holds a few blocks, each check one thread.
MAX_CALLS = 16
# A program may think for long before its next byte, but a stopped one must not keep a place and a file for ever.
IDLE_SECONDS = 600.0
SHUTDOWN_SECONDS = 2.0
_PIECE_BYTES = 1 << 20
_UPLOAD = "upload-"

Q = TypeVar("Q", bound=Question)
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serve_door(store: NodeContentStore, data_dir: Path, max_bytes: int) -> AsyncIterator[None]:
    """Open until the context ends. `max_bytes` bounds one upload.

    Raises `ConfigError` when the socket cannot be made, `StoreBusy` when another node listens on it.
    """
    path = socket_path(data_dir)
    with listening(path) as listener:
        for leftover in path.parent.glob(f"{_UPLOAD}*"):  # of uploads that `kill -9` cut
            leftover.unlink()
        application = web.Application()
        application.add_routes(ContentDoor(store, path.parent, max_bytes).routes())
        runner = web.AppRunner(
            application,
            access_log=None,
            handle_signals=False,
            handler_cancellation=True,  # who hangs up wants no answer, and what is half done is dropped
            shutdown_timeout=SHUTDOWN_SECONDS,
        )
        await runner.setup()
        try:
            await web.SockSite(runner, listener).start()
            yield
        finally:
            await runner.cleanup()


class ContentDoor:
    """One route for each thing that can be asked; see `wire` for how."""

    def __init__(self, store: NodeContentStore, spool: Path, max_bytes: int) -> None:
        self._store, self._spool, self._max_bytes = store, spool, max_bytes
        self._calls = 0

    def routes(self) -> list[web.RouteDef]:
        answers: dict[str, Answer] = {
            "add": self._add,
            "get": self._get,
            "has": self._has,
            "size": self._size,
            "pin": self._pin,
            "unpin": self._unpin,
            "pins": self._pins,
            "collect": self._collect,
            "verify": self._verify,
        }
        return [web.post(f"/{name}", self._guarded(answer)) for name, answer in answers.items()]

    def _guarded(self, answer: Answer) -> Answer:
        async def guarded(request: web.Request) -> web.StreamResponse:
            if self._calls >= MAX_CALLS:
                return _refused(Refusal("failed", f"the node is at {MAX_CALLS} calls already; try again later"), 503)
            self._calls += 1
            try:
                return await answer(request)
            except msgspec.MsgspecError as error:
                return _refused(Refusal("failed", f"not understood: {error}"), 400)
            except PoiError as error:
                return _refused(refusal_of(error), 422)
            finally:
                self._calls -= 1

        return guarded

    # --- files -----------------------------------------------------------------------------------
    async def _add(self, request: web.Request) -> web.Response:
        """The whole file first, then its blocks: an upload that is cut leaves neither."""
        asked = _asked(request, Add)
        profile = PROFILES.get(asked.profile)
        if profile is None:
            raise ConfigError(f"profile {asked.profile!r}: expected one of {', '.join(PROFILES)}")
        try:
            with NamedTemporaryFile(dir=self._spool, prefix=_UPLOAD) as file:
                await self._receive(request, file)
                ref = await self._store.add_file(Path(file.name), profile=profile, keep_until=until(asked.keep_until))
        except ConnectionError:  # the client hung up, and nobody waits for an answer
            raise
        except TimeoutError as error:
            raise ContentError(f"the upload stood still for {IDLE_SECONDS:g} s") from error
        except OSError as error:
            raise ContentError(f"take the upload: {error.strerror or error}") from error
        return _json(ref)

    async def _receive(self, request: web.Request, file: IO[bytes]) -> None:
        received_bytes = 0
        while piece := await _piece_of(request):
            received_bytes += len(piece)
            if received_bytes > self._max_bytes:
                raise ContentTooLarge(f"the file is over {self._max_bytes} bytes (content.max_bytes)")
            await asyncio.to_thread(file.write, piece)
        await asyncio.to_thread(file.flush)

    async def _get(self, request: web.Request) -> web.StreamResponse:
        asked = _asked(request, Get)
        response = web.StreamResponse()
        await response.prepare(request)
        outcome: Refusal | None = None
        try:
            # The store looks at the time between two blocks; a client that stopped reading is stopped here.
            async with asyncio.timeout(asked.timeout_seconds), aclosing(self._open(asked)) as chunks:
                async for chunk in chunks:
                    await response.write(frame(chunk))
        except TimeoutError:
            late = ContentUnavailable(asked.cid, {"local store": f"not all within {asked.timeout_seconds:g} s"})
            outcome = refusal_of(late)
        except PoiError as error:
            outcome = refusal_of(error)
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                await response.write(END + msgspec.json.encode(outcome))
                await response.write_eof()
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
        return response

    def _open(self, asked: Get) -> AsyncGenerator[bytes, None]:
        if asked.is_local:
            return self._store.read(asked.cid)
        return self._store.open(
            asked.cid,
            max_bytes=asked.max_bytes,
            timeout_seconds=asked.timeout_seconds,
            keep_until=until(asked.keep_until),
        )

    async def _has(self, request: web.Request) -> web.Response:
        return _json(await self._store.has(_asked(request, About).cid))

    async def _size(self, request: web.Request) -> web.Response:
        return _json(await self._store.size_of(_asked(request, About).cid))

    # --- care ------------------------------------------------------------------------------------
    async def _pin(self, request: web.Request) -> web.Response:
        asked = _asked(request, Keep)
        await self._store.pin(asked.cid, keep_until=until(asked.keep_until))
        return _json(None)

    async def _unpin(self, request: web.Request) -> web.Response:
        await self._store.unpin(_asked(request, About).cid)
        return _json(None)

    async def _pins(self, _: web.Request) -> web.Response:
        return _json([line_of(pin) for pin in await self._store.pins()])

    async def _collect(self, request: web.Request) -> web.Response:
        return _json(await self._store.collect(_asked(request, Collect).max_bytes))

    async def _verify(self, request: web.Request) -> web.Response:
        return _json(await self._store.verify(_asked(request, About).cid))


async def _piece_of(request: web.Request) -> bytes:
    """Raises `TimeoutError` when nothing comes."""
    # Not `wait_for`: in Python 3.11 it swallows a cancellation that comes with the result.
    async with asyncio.timeout(IDLE_SECONDS):
        return await request.content.read(_PIECE_BYTES)


def _asked(request: web.Request, kind: type[Q]) -> Q:
    return msgspec.json.decode(request.query.get("ask", "{}"), type=kind)


def _json(answer: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(answer), content_type="application/json")


def _refused(refusal: Refusal, status: int) -> web.Response:
    return web.Response(body=msgspec.json.encode(refusal), content_type="application/json", status=status)
