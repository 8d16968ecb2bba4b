"""The embedded content store: this node's blocks, its gateway, and the other operators' gateways behind one walk."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, ParamSpec, Self, TypeVar

import aiohttp
from aiohttp import web

from shared.adapters.content.embedded import BlockFiles, Pins
from shared.adapters.content.fetch import GatewaySource, open_session
from shared.adapters.content.gateway import ClientLimits, Gateway
from shared.adapters.content.race import Source, SourceFailed
from shared.adapters.content.read import ContentReader
from shared.content.cid import Block
from shared.content.unixfs import build_file
from shared.errors import CodecError, ContentError, StoreError
from shared.types import Address, Cid

P = ParamSpec("P")
T = TypeVar("T")

# Threads for the disk: enough for fsync calls to share the journal's commits, apart from those that run models.
_DISK_THREADS = 8


class EmbeddedContentStore:
    """A `ContentStore` that needs no daemon.

    `gateways` gives the registered operators' gateway URLs and is asked again for every read; no URL comes from
    anywhere else. `max_bytes` bounds the blocks on disk. Open it with `async with`.
    """

    def __init__(
        self,
        *,
        root: Path,
        gateways: Callable[[], Mapping[Address, str]],
        own: Address | None,
        max_bytes: int | None = None,
        limits: ClientLimits | None = None,
    ) -> None:
        self._gateways, self._own = gateways, own
        self._disk = _Disk(root, max_bytes)
        self._reader = ContentReader(self._disk, self._sources)
        self._gateway = Gateway(self._disk.read_or_none, limits)
        self._session: aiohttp.ClientSession
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Raises `StoreBusy` when another process has the folder, `StoreError` when it cannot be used."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._disk)
            self._session = await stack.enter_async_context(open_session())
            stack.push_async_callback(self._reader.close)
            self._open = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.aclose()

    def routes(self) -> list[web.RouteDef]:
        """The gateway, for a role's application: `application.add_routes(store.routes())`."""
        return self._gateway.routes()

    # --- ContentStore ----------------------------------------------------------------------------
    async def add(self, data: bytes) -> Cid:
        """Raises `ContentError` when the disk does not take it."""
        return await self._add(lambda: io.BytesIO(data))

    async def get(self, cid: Cid, *, max_bytes: int, timeout_seconds: float, prefer: Address | None = None) -> bytes:
        return await self._reader.get(cid, max_bytes=max_bytes, timeout_seconds=timeout_seconds, prefer=prefer)

    async def has(self, cid: Cid) -> bool:
        with _disk_errors("look for content"):
            return await self._disk.run(self._disk.files.is_complete, cid)

    async def unpin(self, cid: Cid) -> None:
        with _disk_errors("unpin content"):
            await self._disk.pins.remove(cid)

    # --- content of any size ---------------------------------------------------------------------
    async def add_file(self, path: Path) -> Cid:
        """As `add`, holding one chunk at a time. Raises `ContentError`, also when the file cannot be read."""
        return await self._add(lambda: path.open("rb"))

    def open(
        self, cid: Cid, *, max_bytes: int, timeout_seconds: float, prefer: Address | None = None
    ) -> AsyncGenerator[bytes, None]:
        """As `get`, chunk by chunk, each verified before it comes; the errors come in their place.

        Time counts until the last chunk is taken. Whoever stops early closes it (`contextlib.aclosing`).
        """
        return self._reader.stream(cid, max_bytes=max_bytes, timeout_seconds=timeout_seconds, prefer=prefer)

    async def pins(self) -> dict[Cid, int]:
        """The roots that must stay, with their file sizes in bytes."""
        with _disk_errors("list pins"):
            return await self._disk.pins.all()

    # --- within ----------------------------------------------------------------------------------
    def _sources(self) -> dict[Address, Source]:
        return {
            address: GatewaySource(self._session, f"0x{address.hex()}", url)
            for address, url in self._gateways().items()
            if address != self._own
        }

    async def _add(self, open_stream: Callable[[], BinaryIO]) -> Cid:
        abandoned = threading.Event()
        try:
            with _disk_errors("store content"):
                root, size_bytes = await self._disk.run(self._disk.build, open_stream, abandoned)
                await self._disk.pins.add(root, size_bytes)  # last: it promises every block
        finally:
            abandoned.set()  # a thread cannot be cancelled; it looks here before every block
        return root


class _Disk:
    """This node's folder. What blocks runs in worker threads. `LocalBlocks` for the reader."""

    def __init__(self, root: Path, max_bytes: int | None) -> None:
        self._root, self._max_bytes = root, max_bytes
        self.pins = Pins(root / "pins.sqlite")
        self.files: BlockFiles
        self._threads = ThreadPoolExecutor(_DISK_THREADS, thread_name_prefix="content")
        self._is_open = False

    async def __aenter__(self) -> Self:
        await self.pins.open()  # first: its lock keeps other processes out of the whole folder
        try:
            self.files = await self.run(BlockFiles, self._root, self._max_bytes)
        except BaseException as error:  # cancelled, too
            await self.__aexit__()
            if isinstance(error, OSError):
                raise StoreError(f"open content folder {self._root}: {_said(error)}") from error
            raise
        self._is_open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        """Waits for what the threads are at."""
        self._is_open = False
        await asyncio.to_thread(self._threads.shutdown)
        await self.pins.close()

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: function(*args, **kwargs))

    def build(self, open_stream: Callable[[], BinaryIO], abandoned: threading.Event) -> tuple[Cid, int]:
        """(root, file size), every block durable. In a worker thread."""

        def put(block: Block) -> None:
            if abandoned.is_set():
                raise OSError("nobody waits for it any more")
            self.files.write(block, is_durable=True)

        with open_stream() as stream:
            return build_file(stream, put)

    async def read(self, cid: Cid) -> Block | None:
        if not self._is_open:  # the application that serves our gateway may end after us
            raise SourceFailed("closed")
        try:
            return await self.run(self.files.read, cid)
        except CodecError as error:
            raise SourceFailed(f"damaged: {error}") from error
        except OSError as error:
            raise SourceFailed(_said(error)) from error

    async def read_or_none(self, cid: Cid) -> Block | None:
        """For the gateway: what the disk damaged is not here."""
        try:
            return await self.read(cid)
        except SourceFailed:
            return None

    async def write(self, block: Block) -> None:
        """Whole or not at all. Not durable: others served it and can again, and reading checks its hash."""
        try:
            await self.run(self.files.write, block, is_durable=False)
        except OSError as error:
            raise SourceFailed(_said(error)) from error

    async def pin(self, root: Cid, size_bytes: int) -> None:
        try:
            await self.pins.add(root, size_bytes)
        except StoreError as error:
            raise SourceFailed(str(error)) from error


@contextmanager
def _disk_errors(doing: str) -> Iterator[None]:
    """The disk's and the database's errors as `ContentError`, told by what was being done."""
    try:
        yield
    except (OSError, StoreError) as error:
        raise ContentError(f"{doing}: {_said(error)}") from error


def _said(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
