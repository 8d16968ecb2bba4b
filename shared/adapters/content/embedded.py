"""The blocks that this node itself holds: files, pins, and the threads that wait for the disk."""

from __future__ import annotations

import asyncio
import errno
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, ParamSpec, Self, TypeVar

from shared.adapters.content.blocks import BlockFiles
from shared.adapters.content.collector import Collector
from shared.adapters.content.in_use import InUse
from shared.adapters.content.pins import Pins
from shared.adapters.content.watch import ContentWatch, Unwatched
from shared.content.cid import Block, parse_cid
from shared.content.unixfs import Profile, build_file
from shared.errors import CodecError, ContentError, SourceFailed, StoreError, StoreFull
from shared.interfaces import Pin, Swept
from shared.reasons import SourceFault
from shared.types import Cid, Ref

P = ParamSpec("P")
T = TypeVar("T")

# Threads for the disk: enough for fsync calls to share the journal's commits, apart from those that run models.
_DISK_THREADS = 8
# Threads that cut files into blocks. They wait for those of the disk, which wait for nobody.
_BUILDING_THREADS = 8
# Blocks of one file on their way to the disk while the next is hashed: at most 4 MiB.
_PUTS_AHEAD = 4


class EmbeddedBlocks:
    """A `LocalStore` that needs no daemon. `max_bytes` bounds the blocks on disk; `now` is unix time."""

    def __init__(
        self,
        root: Path,
        max_bytes: int | None = None,
        *,
        now: Callable[[], float] = time.time,
        watch: ContentWatch | None = None,
    ) -> None:
        self._watch = watch or Unwatched()
        self._root, self._max_bytes, self._now = root, max_bytes, now
        self._pins = Pins(root / "pins.sqlite", now=now)
        self._in_use = InUse()
        self.files: BlockFiles
        self._collector: Collector
        self._threads = ThreadPoolExecutor(_DISK_THREADS, thread_name_prefix="content")
        self._builders = ThreadPoolExecutor(_BUILDING_THREADS, thread_name_prefix="content-build")
        self._is_open = False

    async def __aenter__(self) -> Self:
        await self._pins.open()  # first: its lock keeps other processes out of the whole folder
        try:
            self.files = await self._run(BlockFiles, self._root, self._max_bytes, self._in_use)
        except BaseException as error:  # cancelled, too
            await self._close_threads()
            if isinstance(error, OSError):
                raise StoreError(f"open content folder {self._root}: {_said(error)}") from error
            raise
        self._collector = Collector(
            self.files,
            self._pins,
            self._in_use,
            self._threads,
            max_bytes=self._max_bytes,
            now=self._now,
            told=self._watch.swept,
        )
        self._is_open = True
        self._collector.consider()  # the bound may have been lowered
        return self

    async def __aexit__(self, *_: object) -> None:
        """Waits for what the threads are at."""
        self._is_open = False
        await self._collector.close()
        await self._close_threads()

    async def _close_threads(self) -> None:
        await asyncio.to_thread(self._builders.shutdown)  # first: they wait for the others
        await asyncio.to_thread(self._threads.shutdown)
        await self._pins.close()

    async def _run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: function(*args, **kwargs))

    # --- room ------------------------------------------------------------------------------------
    async def _with_room(self, write: Callable[[], Awaitable[T]]) -> T:
        """What `write` returns, begun anew after a collection where it goes over the bound. It waits here, on the loop:
        a thread that waited could be the one that the collection needs."""
        for at_any_rate in (False, True):
            try:
                return await self._unless_closed(write)
            except OSError as error:
                is_full = error.errno == errno.EDQUOT
                if not is_full or not await self._collector.make_room(at_any_rate=at_any_rate):
                    raise
        return await self._unless_closed(write)

    async def _unless_closed(self, write: Callable[[], Awaitable[T]]) -> T:
        if not self._is_open:
            raise StoreError("it is closed")
        return await write()

    # --- writing ---------------------------------------------------------------------------------
    async def build(self, open_stream: Callable[[], BinaryIO], profile: Profile, keep_until: float) -> Ref:
        abandoned = threading.Event()
        try:
            with _disk_errors("store content"), self._in_use.claim() as claimed:
                root, size = await self._with_room(lambda: self._cut(open_stream, profile, claimed, abandoned))
                await self._pins.add(Pin(root, size, keep_until, self._now()))  # last: it promises every block
        except BaseException:
            self._collector.expect_garbage()
            raise
        finally:
            abandoned.set()  # a thread cannot be cancelled; it looks here before every block
            self._collector.consider()
        return Ref(root, size, profile.name)

    async def _cut(
        self, open_stream: Callable[[], BinaryIO], profile: Profile, claimed: set[bytes], abandoned: threading.Event
    ) -> tuple[Cid, int]:
        """(root, file size), every block durable and `claimed` before."""

        def put(block: Block) -> None:
            if abandoned.is_set():
                raise OSError("nobody waits for it any more")
            self.files.put(block, is_durable=True)

        def work() -> tuple[Cid, int]:
            with open_stream() as stream, _PutsAhead(self._threads, put) as puts:

                def claim_and_put(block: Block) -> None:
                    claimed.add(parse_cid(block.cid)[1])
                    puts.put(block)

                try:
                    return build_file(stream, claim_and_put, profile)
                except OSError as error:
                    if error.errno == errno.EDQUOT and not stream.seekable():  # a pipe gives its bytes once
                        raise StoreFull(_said(error)) from error
                    raise

        return await asyncio.get_running_loop().run_in_executor(self._builders, work)

    # --- pins ------------------------------------------------------------------------------------
    async def is_complete(self, root: Cid) -> bool:
        with _disk_errors("look for content"):
            return await self._run(self.files.is_complete, root)

    async def pins(self) -> Sequence[Pin]:
        return self._pins.promised()

    async def unpin(self, root: Cid) -> None:
        with _disk_errors("unpin content"):
            await self._pins.remove(root)
        self._collector.expect_garbage()

    async def collect(self, max_bytes: int) -> Swept:
        with _disk_errors("collect garbage"):
            return await self._collector.collect(max_bytes)

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
            await self._with_room(lambda: self._run(self.files.put, block, is_durable=False))
        except (OSError, StoreError) as error:
            raise SourceFailed(_said(error), SourceFault.LOCAL) from error
        self._collector.consider()

    def hold(self, root: Cid) -> AbstractContextManager[None]:
        return self._in_use.hold(root)

    async def begin(self, root: Cid) -> None:
        """As cache: whoever serves half a file and then nothing must not fill the disk with what nobody may drop."""
        self._pins.note(Pin(root, None, 0.0, self._now()))

    async def keep(self, root: Cid, size: int, keep_until: float) -> None:
        now = self._now()
        if keep_until <= now:
            self._pins.note(Pin(root, size, 0.0, now))
            return
        try:
            await self._pins.add(Pin(root, size, keep_until, now))
        except StoreError as error:
            raise SourceFailed(str(error), SourceFault.LOCAL) from error


class _PutsAhead:
    """A few blocks on their way to the disk while the next one is hashed. All are there when it exits without error."""

    def __init__(self, threads: Executor, put: Callable[[Block], None]) -> None:
        self._threads, self._put = threads, put
        self._under_way: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        wait(self._under_way)
        while kind is None and self._under_way:
            self._under_way.popleft().result()

    def put(self, block: Block) -> None:
        """Raises what became of an earlier one."""
        if len(self._under_way) == _PUTS_AHEAD:
            self._under_way.popleft().result()
        self._under_way.append(self._threads.submit(self._put, block))


@contextmanager
def _disk_errors(doing: str) -> Iterator[None]:
    """The disk's and the database's errors as `ContentError`, told by what was being done."""
    try:
        yield
    except (OSError, StoreError) as error:
        raise ContentError(f"{doing}: {_said(error)}") from error


def _said(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
