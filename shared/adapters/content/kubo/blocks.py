"""The operator's Kubo node as the place of this node's blocks.

The CIDs are made here and the blocks imported as they are, so no setting of the node's can change them. Kubo holds the
blocks and the pins; until when each is kept is written down here, because Kubo knows no such thing.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import BinaryIO, ParamSpec, Self, TypeVar, cast
from weakref import WeakValueDictionary

import structlog

from shared.adapters.content.kubo.api import KuboApi, seconds_for
from shared.adapters.content.pins import Pins
from shared.content.car import car_header, car_section
from shared.content.cid import Block, Codec, codec_of
from shared.content.unixfs import Profile, build_file, file_blocks, read_node
from shared.errors import CodecError, ContentCorrupt, ContentError, SourceFailed, StoreError
from shared.interfaces import Pin, Swept
from shared.reasons import SourceFault
from shared.types import Cid, Ref

P = ParamSpec("P")
T = TypeVar("T")

# As `keep_until` in the ledger: a pin of ours that promises nothing yet, or, when a crash or a failure came between,
# never will. It is over, so the next sweep takes it back.
OURS = 1.0
READ_SECONDS = 5.0  # for a block from Kubo's disk; the other sources are asked after that
SWEEP_SECONDS = 600.0  # how long a pin may outlive its time
MAX_CACHED = 4096  # files that are listed though nothing keeps them, a hundred bytes each
_SIZES_AT_ONCE = 8
_SPOOL_BYTES = 1 << 20
_BUILDERS = 2  # files that are read and hashed at once: as many as keep a node's import busy

log = structlog.get_logger(__name__)


class KuboBlocks:
    """A `LocalStore` in Kubo. `folder` has the ledger: what this node pinned there, and until when.

    In the ledger, `keep_until` is 0 for what is here and unpinned, and more for what this node pinned or is about to.
    What the operator had pinned by hand is never unpinned. Kubo frees blocks by its own garbage collection, which is
    the operator's to switch on: its `repo/gc` would drop what other programs keep there unpinned, and `block/rm` even
    what is in their folders (MFS).
    """

    def __init__(self, api: KuboApi, folder: Path) -> None:
        self._api = api
        self._folder = folder
        # Its bound is for what nothing keeps alone: a pin whose time is over is still in Kubo, until it is taken back.
        self._ledger = Pins(folder / "kubo.sqlite", now=lambda: 0.0)
        self._pinned: set[Cid] = set()  # by this process, so that a promise is not believed that a crash cut short
        self._in_use: Counter[Cid] = Counter()
        self._turns: WeakValueDictionary[Cid, asyncio.Lock] = WeakValueDictionary()
        self._open = AsyncExitStack()
        self._is_open = False

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await self._ledger.open()  # first: its lock keeps other processes out
            stack.push_async_callback(self._ledger.close)
            await stack.enter_async_context(self._api)
            self._threads = ThreadPoolExecutor(_BUILDERS, thread_name_prefix="content")
            stack.push_async_callback(asyncio.to_thread, self._threads.shutdown)
            try:
                node = await self._api.node()
            except SourceFailed as failure:
                raise StoreError(f"content.store: {failure}") from failure
            log.info("content is kept by Kubo", version=node.version, peer_id=node.peer_id)
            sweeping = asyncio.create_task(self._sweep_for_ever())
            stack.push_async_callback(_ended, sweeping)
            self._open = stack.pop_all()
        self._is_open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_open = False
        await self._open.aclose()

    # --- writing ---------------------------------------------------------------------------------
    async def build(self, open_stream: Callable[[], BinaryIO], profile: Profile, keep_until: float) -> Ref:
        """The stream is read twice: an archive begins with its root, without which Kubo would not pin it."""
        with _told("store content"):
            async with self._rereadable(open_stream) as stream:
                root, size = await self._measured(stream, profile)
                async with self._turn(root):
                    is_ours = await self._announce(root)
                    archive = self._archive(root, stream, profile)
                    await self._api.import_archive(root, archive, seconds=seconds_for(size))
                    await self._note(root, size, keep_until, is_ours=is_ours)
        return Ref(root, size, profile.name)

    @asynccontextmanager
    async def _rereadable(self, open_stream: Callable[[], BinaryIO]) -> AsyncIterator[BinaryIO]:
        """What cannot be read again, as a pipe cannot, goes through a file beside the ledger."""
        async with AsyncExitStack() as stack:
            stream = await self._run(open_stream)
            stack.push_async_callback(self._run, stream.close)
            if not stream.seekable():
                spool = await self._run(self._spool)
                stack.push_async_callback(self._run, spool.close)
                while piece := await self._run(stream.read, _SPOOL_BYTES):
                    await self._run(spool.write, piece)
                await self._run(spool.seek, 0)
                stream = spool
            yield stream

    def _spool(self) -> BinaryIO:
        return cast(BinaryIO, tempfile.TemporaryFile(dir=self._folder))

    async def _measured(self, stream: BinaryIO, profile: Profile) -> tuple[Cid, int]:
        """(root, file size); the stream is at its beginning again."""
        abandoned = threading.Event()

        def go_on(_: Block) -> None:
            if abandoned.is_set():
                raise OSError("nobody waits for it any more")

        def measure() -> tuple[Cid, int]:
            start = stream.tell()
            measured = build_file(stream, go_on, profile)
            stream.seek(start)
            return measured

        try:
            return await self._run(measure)
        finally:
            abandoned.set()  # a thread cannot be cancelled; it looks here before every block

    async def _archive(self, root: Cid, stream: BinaryIO, profile: Profile) -> AsyncGenerator[bytes, None]:
        """One block at a time in memory, leaves first; importing does not mind the order."""
        blocks, last = file_blocks(stream, profile), None
        yield car_header(root)
        while (block := await self._run(next, blocks, None)) is not None:
            last = block.cid
            yield car_section(block)
        if last != root:
            raise OSError("the file changed while it was read")

    async def _run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: function(*args, **kwargs))

    # --- pins ------------------------------------------------------------------------------------
    async def is_complete(self, root: Cid) -> bool:
        with _told("look for content"):
            try:
                return await self._is_complete(root)
            except (CodecError, ContentCorrupt):  # damaged there, or no file at all
                return False
            except SourceFailed as failure:
                if failure.fault in (SourceFault.NOT_FOUND, SourceFault.WRONG_BYTES):
                    return False
                raise

    async def _is_complete(self, root: Cid) -> bool:
        """Nodes are read and checked, of leaves Kubo says whether it has them and how large."""
        todo: list[Cid] = [root]
        seen = {root}
        codec_of(root)
        while todo:
            block = await self._api.get_block(todo.pop(), seconds=READ_SECONDS, is_offline=True)
            new = {child: size for child, size in read_node(block).children if child not in seen}
            seen.update(new)
            todo.extend(child for child in new if codec_of(child) is Codec.DAG_PB)
            leaves = [(child, size) for child, size in new.items() if codec_of(child) is Codec.RAW]
            for start in range(0, len(leaves), _SIZES_AT_ONCE):
                some = leaves[start : start + _SIZES_AT_ONCE]
                sizes = await asyncio.gather(*(self._api.block_size(child) for child, _ in some))
                if sizes != [size for _, size in some]:
                    return False
        return True

    async def pins(self) -> Sequence[Pin]:
        return self._ledger.all()

    async def unpin(self, root: Cid) -> None:
        with _told("unpin content"):
            async with self._turn(root):
                await self._take_back(root)

    async def collect(self, max_bytes: int) -> Swept:
        """Unpins what has had its time, whatever is held. What that frees, and when, is Kubo's: nothing is counted."""
        with _told("collect content"):
            await self._sweep(max_cached=0)
        return Swept(0, 0)

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            try:
                await self._sweep(max_cached=MAX_CACHED)
            except (SourceFailed, StoreError) as error:  # the next one may find Kubo there again
                log.warning("pins that have had their time stay in Kubo for now", error=str(error))

    async def _sweep(self, *, max_cached: int) -> None:
        for root in _past(self._ledger.all(), time.time(), max_cached):
            turn = self._turn(root)
            if turn.locked() or root in self._in_use:  # the next sweep will see what became of it
                continue
            async with turn:
                known = self._ledger.of(root)
                if known is not None and known.keep_until <= time.time():  # nobody has asked to keep it since
                    await self._take_back(root)

    async def _take_back(self, root: Cid) -> None:
        """In its turn. What this node did not pin is left to who did."""
        known = self._ledger.of(root)
        if known is None:
            return
        self._pinned.discard(root)
        if known.keep_until:
            await self._api.unpin(root)
        await self._ledger.remove(root)

    async def _announce(self, root: Cid) -> bool:
        """Whether the pin that is about to be made is ours to take back: written down before, lest a crash leave one in
        Kubo that nobody knows of. In its turn."""
        known = self._ledger.of(root)
        if (known is None or not known.keep_until) and await self._api.is_pinned(root):
            return False
        await self._ledger.add(Pin(root, None, OURS, time.time()))
        return True

    async def _note(self, root: Cid, size: int, keep_until: float, *, is_ours: bool) -> None:
        """It is pinned: by us, or by the operator, whose pin has no end that we know of."""
        if is_ours:
            self._pinned.add(root)
        await self._ledger.add(Pin(root, size, keep_until if is_ours else 0.0, time.time()))

    def _turn(self, root: Cid) -> asyncio.Lock:
        """Of one file's pin: taking it back and renewing it must not cross."""
        return self._turns.setdefault(root, asyncio.Lock())

    # --- LocalBlocks -----------------------------------------------------------------------------
    async def read(self, cid: Cid) -> Block | None:
        if not self._is_open:  # the application that serves our gateway may end after us
            raise SourceFailed("closed", SourceFault.LOCAL)
        try:
            codec_of(cid)
            return await self._api.get_block(cid, seconds=READ_SECONDS, is_offline=True)
        except CodecError as error:
            raise SourceFailed(f"damaged: {error}", SourceFault.LOCAL) from error
        except SourceFailed as failure:
            if failure.fault is SourceFault.NOT_FOUND:
                return None
            raise SourceFailed(str(failure), SourceFault.LOCAL) from failure

    async def write(self, block: Block) -> None:
        with _local():
            await self._api.put_block(block)

    @contextmanager
    def hold(self, root: Cid) -> Iterator[None]:
        """From us; what is not pinned Kubo's garbage collection takes whenever it runs."""
        self._in_use[root] += 1
        try:
            yield
        finally:
            self._in_use[root] -= 1
            if not self._in_use[root]:
                del self._in_use[root]

    async def begin(self, root: Cid) -> None:
        """Kubo pins whole files only: what came of it stays unless Kubo's garbage collection runs meanwhile."""
        with _local():
            await self._ledger.add(Pin(root, None, 0.0, time.time()))

    async def keep(self, root: Cid, size: int, keep_until: float) -> None:
        """Pinned in Kubo before it returns, where it has to be kept at all."""
        with _local():
            if keep_until <= time.time():
                await self._ledger.add(Pin(root, size, 0.0, time.time()))
                return
            async with self._turn(root):
                is_ours = root in self._pinned or await self._announce(root)
                if root not in self._pinned and is_ours:
                    await self._api.pin(root, seconds=seconds_for(size))
                await self._note(root, size, keep_until, is_ours=is_ours)


def _past(pins: Sequence[Pin], now: float, max_cached: int) -> list[Cid]:
    """Whose time is over, and of those that nothing ever kept all but the `max_cached` used last."""
    cached = sorted((pin for pin in pins if not pin.keep_until), key=lambda pin: pin.used_at)
    over = [pin for pin in pins if 0 < pin.keep_until <= now]
    return [pin.cid for pin in (*over, *cached[: max(len(cached) - max_cached, 0)])]


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@contextmanager
def _told(doing: str) -> Iterator[None]:
    """Kubo's, the ledger's and the disk's errors as `ContentError`, told by what was being done."""
    try:
        yield
    except (SourceFailed, StoreError) as error:
        raise ContentError(f"{doing}: {error}") from error
    except OSError as error:
        raise ContentError(f"{doing}: {error.strerror or error}") from error


@contextmanager
def _local() -> Iterator[None]:
    """The same as `SourceFailed`, which is what a reader expects of its own store."""
    try:
        yield
    except (SourceFailed, StoreError) as error:
        raise SourceFailed(str(error), SourceFault.LOCAL) from error
