"""The blocks that this node itself holds: files, pins, and the threads that wait for the disk."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, ParamSpec, Self, TypeVar

from shared.adapters.content.blocks import BlockFiles
from shared.adapters.content.pins import Pins
from shared.content.cid import Block
from shared.content.unixfs import Profile, build_file
from shared.errors import CodecError, ContentError, SourceFailed, StoreError
from shared.interfaces import Pin, Swept
from shared.reasons import SourceFault
from shared.types import Cid, Ref

P = ParamSpec("P")
T = TypeVar("T")

# Threads for the disk: enough for fsync calls to share the journal's commits, apart from those that run models.
_DISK_THREADS = 8
# How long the blocks of a fetch that ended early wait for its next try: over a night, or an operator's week-end.
RESUME_SECONDS = 3 * 24 * 3600


class EmbeddedBlocks:
    """A `LocalStore` that needs no daemon. `max_bytes` bounds the blocks on disk."""

    def __init__(self, root: Path, max_bytes: int | None = None) -> None:
        self._root, self._max_bytes = root, max_bytes
        self._pins = Pins(root / "pins.sqlite")
        self.files: BlockFiles
        self._threads = ThreadPoolExecutor(_DISK_THREADS, thread_name_prefix="content")
        self._is_open = False

    async def __aenter__(self) -> Self:
        await self._pins.open()  # first: its lock keeps other processes out of the whole folder
        try:
            self.files = await self._run(BlockFiles, self._root, self._max_bytes)
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
        await self._pins.close()

    async def _run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: function(*args, **kwargs))

    # --- writing ---------------------------------------------------------------------------------
    async def build(self, open_stream: Callable[[], BinaryIO], profile: Profile, keep_until: float) -> Ref:
        abandoned = threading.Event()
        try:
            with _disk_errors("store content"):
                root, size = await self._run(self._build, open_stream, profile, abandoned)
                await self._pins.add(Pin(root, size, keep_until, time.time()))  # last: it promises every block
        finally:
            abandoned.set()  # a thread cannot be cancelled; it looks here before every block
        return Ref(root, size, profile.name)

    def _build(
        self, open_stream: Callable[[], BinaryIO], profile: Profile, abandoned: threading.Event
    ) -> tuple[Cid, int]:
        """(root, file size), every block durable. In a worker thread."""

        def put(block: Block) -> None:
            if abandoned.is_set():
                raise OSError("nobody waits for it any more")
            self.files.put(block, is_durable=True)

        with open_stream() as stream:
            return build_file(stream, put, profile)

    # --- pins ------------------------------------------------------------------------------------
    async def is_complete(self, root: Cid) -> bool:
        with _disk_errors("look for content"):
            return await self._run(self.files.is_complete, root)

    async def pins(self) -> Sequence[Pin]:
        return self._pins.all()

    async def unpin(self, root: Cid) -> None:
        with _disk_errors("unpin content"):
            await self._pins.remove(root)

    async def collect(self, max_bytes: int) -> Swept:
        raise NotImplementedError

    # --- LocalBlocks -----------------------------------------------------------------------------
    async def read(self, cid: Cid) -> Block | None:
        if not self._is_open:  # the application that serves our gateway may end after us
            raise SourceFailed("closed", SourceFault.LOCAL)
        try:
            return await self._run(self.files.get, cid)
        except CodecError as error:
            raise SourceFailed(f"damaged: {error}", SourceFault.LOCAL) from error
        except OSError as error:
            raise SourceFailed(_said(error), SourceFault.LOCAL) from error

    async def write(self, block: Block) -> None:
        try:
            await self._run(self.files.put, block, is_durable=False)
        except OSError as error:
            raise SourceFailed(_said(error), SourceFault.LOCAL) from error

    async def begin(self, root: Cid) -> None:
        await self._pin(Pin(root, None, time.time() + RESUME_SECONDS, time.time()))

    async def keep(self, root: Cid, size: int, keep_until: float) -> None:
        await self._pin(Pin(root, size, keep_until, time.time()))

    async def _pin(self, pin: Pin) -> None:
        try:
            await self._pins.add(pin)
        except StoreError as error:
            raise SourceFailed(str(error), SourceFault.LOCAL) from error


@contextmanager
def _disk_errors(doing: str) -> Iterator[None]:
    """The disk's and the database's errors as `ContentError`, told by what was being done."""
    try:
        yield
    except (OSError, StoreError) as error:
        raise ContentError(f"{doing}: {_said(error)}") from error


def _said(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
