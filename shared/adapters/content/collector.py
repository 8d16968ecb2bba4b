"""Garbage collection of the embedded store: one at a time, for whoever needs room.

Mark in a worker thread, forget the files that go, and only then delete their blocks: a crash between any two steps
leaves no pin of a file that is not there.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import TypeVar

import structlog

from shared.adapters.content.blocks import BlockFiles
from shared.adapters.content.in_use import InUse, Watch
from shared.adapters.content.pins import Pins
from shared.content.cid import Block
from shared.content.sweep import Marks, mark
from shared.errors import StoreError, StoreFull
from shared.interfaces import Pin, Swept
from shared.types import Cid

log = structlog.get_logger(__name__)

T = TypeVar("T")

# Parts of the bound: a collection begins early enough for writes to go on meanwhile, and frees enough to be seldom.
_BEGIN_AT, _COLLECT_TO, _GROWN_BY = 0.9, 0.8, 0.02
# A store that is full of what has to stay looks in vain, whatever is written: at most a tenth of the time.
_REST = 9.0  # times what the collection took
_CLOSED = "the content store is closed"
_EVERYTHING = 1 << 62  # bytes, beyond any disk


class Collector:
    """Belongs to one event loop. Raises `StoreError` and `OSError`."""

    def __init__(
        self,
        files: BlockFiles,
        pins: Pins,
        in_use: InUse,
        threads: Executor,
        *,
        max_bytes: int | None,
        now: Callable[[], float],
        told: Callable[[Swept], None],
    ) -> None:
        """`told` hears of each that freed something."""
        self._files, self._pins, self._in_use, self._threads = files, pins, in_use, threads
        self._max_bytes, self._now, self._told = max_bytes, now, told
        self._running: asyncio.Task[Swept] | None = None
        self._target = 0  # bytes, of the one that is running
        self._is_closing = threading.Event()
        self._held_after = 0  # bytes, by the last collection
        self._rests_until = 0.0

    async def close(self) -> None:
        """A collection under way stops where it is."""
        self._is_closing.set()
        while (running := self._under_way()) is not None:
            await asyncio.wait([running])

    async def collect(self, max_bytes: int) -> Swept:
        """See `ContentKeeper.collect`. It goes on when its caller is cancelled."""
        while (running := self._under_way()) is not None:
            await asyncio.wait([running])
        return await self._start(max_bytes)

    async def make_room(self, *, at_any_rate: bool) -> bool:
        """For a write that went over the bound: by what is used least, or by all that may go. False: it did not help
        a moment ago, so nothing was tried. Whoever waits at the same time shares one collection."""
        if self._max_bytes is None:
            return False
        target = 0 if at_any_rate else int(_COLLECT_TO * self._max_bytes)
        while (running := self._under_way()) is not None:
            is_enough = self._target <= target
            await asyncio.wait([running])
            if is_enough:
                return True
        if time.monotonic() < self._rests_until:
            return False
        began_at = time.monotonic()
        swept = await self._start(target)
        if at_any_rate and swept.bytes < _GROWN_BY * self._max_bytes:
            self._rests_until = time.monotonic() + _REST * (time.monotonic() - began_at)
        return True

    def consider(self) -> None:
        """Start one in the background when the store is nearly full, and has grown since the last one."""
        if self._max_bytes is None or self._under_way() is not None or self._is_closing.is_set():
            return
        begin_at = max(_BEGIN_AT * self._max_bytes, self._held_after + _GROWN_BY * self._max_bytes)
        if self._files.held_bytes > begin_at:
            self._start(int(_COLLECT_TO * self._max_bytes)).add_done_callback(_log_failure)

    def expect_garbage(self) -> None:
        """Something that had to stay may go now."""
        self._held_after, self._rests_until = 0, 0.0

    def _under_way(self) -> asyncio.Task[Swept] | None:
        return None if self._running is None or self._running.done() else self._running

    def _start(self, max_bytes: int) -> asyncio.Future[Swept]:
        if self._is_closing.is_set():
            raise StoreError(_CLOSED)
        self._running, self._target = asyncio.create_task(self._collect(max_bytes)), max_bytes
        # Looked at, or asyncio logs it: who asked may be gone by then.
        self._running.add_done_callback(lambda done: done.cancelled() or done.exception())
        return asyncio.shield(self._running)

    # --- one collection --------------------------------------------------------------------------
    async def _collect(self, max_bytes: int) -> Swept:
        try:
            with self._in_use.watch() as watch:
                await self._pins.settle()  # or what is being noted right now could not be dropped
                marks, gone = await self._mark(max_bytes)
                try:
                    await self._keep(marks, await self._pins.drop(gone))
                except StoreFull:  # the disk is full: what no pin names can go without writing anything
                    marks, _ = await self._mark(_EVERYTHING)
                swept = await self._run(lambda: self._sweep(marks, watch))
            if swept.blocks:
                self._told(swept)
                log.info("content.collected", blocks=swept.blocks, bytes=swept.bytes, held_bytes=self._files.held_bytes)
            return swept
        finally:
            self._held_after = self._files.held_bytes

    async def _mark(self, max_bytes: int) -> tuple[Marks, Sequence[Pin]]:
        """(what stays, the pins that do not)."""
        pins, now = self._pins.promised(), self._now()
        marks = Marks(self._peek, self._files.size_of)

        def work() -> Sequence[Pin]:
            self._mark_held(marks)
            return mark(marks, pins, now=now, max_bytes=max_bytes)

        return marks, await self._run(work)

    async def _keep(self, marks: Marks, pins: Sequence[Pin]) -> None:
        """These were used or noted since they were looked at."""

        def work() -> None:
            for pin in pins:
                marks.keep(pin.cid)

        await self._run(work)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _mark_held(self, marks: Marks) -> None:
        for root in self._in_use.take_newly_held():
            marks.keep(root)

    def _peek(self, cid: Cid) -> Block | None:
        if self._is_closing.is_set():
            raise StoreError(_CLOSED)
        return self._files.peek(cid)

    def _sweep(self, marks: Marks, watch: Watch) -> Swept:
        blocks, freed_bytes = 0, 0
        for digest in self._files.digests():
            if self._is_closing.is_set():
                break
            if (freed := self._delete(digest, marks, watch)) is not None:
                blocks, freed_bytes = blocks + 1, freed_bytes + freed
        return Swept(blocks, freed_bytes)

    def _delete(self, digest: bytes, marks: Marks, watch: Watch) -> int | None:
        """Bytes freed; None for what stays."""
        if digest in marks.digests:
            return None
        freed = self._files.delete_unless_used(digest, watch)
        if freed is None:  # in use, or somebody holds another file by now
            self._mark_held(marks)
            if digest not in marks.digests:
                freed = self._files.delete_unless_used(digest, watch)
        return freed


def _log_failure(done: asyncio.Future[Swept]) -> None:
    if not done.cancelled() and (error := done.exception()) is not None:
        log.warning("content.collection_failed", error=str(error))
