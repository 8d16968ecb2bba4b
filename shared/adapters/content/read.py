"""Reading a file by CID: local blocks first, then sources, through the one verifying walk, a few blocks ahead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, closing, contextmanager
from dataclasses import replace
from typing import Unpack

from shared.adapters.content.local import LocalBlocks
from shared.adapters.content.race import SourceOrder, race
from shared.adapters.content.watch import ContentWatch, ReadEnd, Unwatched, WatchedSource
from shared.content.cid import Block
from shared.content.unixfs import Walk
from shared.errors import ContentCorrupt, ContentTooLarge, ContentUnavailable, SourceFailed
from shared.interfaces import Reading, Source, Wanted
from shared.types import Address, Cid, Ref

# Four blocks of at most 2 MiB hide a round trip and keep a model of any size in a few MiB of memory.
BLOCKS_AHEAD = 4
LOCAL = "local store"

Sources = Callable[[Address | None, Ref | None], Sequence[Source]]
"""Whom to ask, in order, for a file that the operator of the address should have; asked anew for every read."""


class _Flight:
    """One block on its way, for everybody who waits for it."""

    def __init__(self) -> None:
        self.causes: dict[str, str] = {}
        self.waiters = 0
        self.task: asyncio.Task[tuple[Block, bool]]


class ContentReader:
    """Concurrent reads share the blocks that both wait for: a block is fetched once, however many want it."""

    def __init__(self, local: LocalBlocks, sources: Sources, watch: ContentWatch | None = None) -> None:
        self._local, self._sources, self._watch = local, sources, watch or Unwatched()
        self._is_closed = False
        self._flights: dict[tuple[Cid, Ref | None], _Flight] = {}
        self._tasks: set[asyncio.Task[tuple[Block, bool]]] = set()

    async def close(self) -> None:
        """Reads under way, and later ones, end in `ContentUnavailable`."""
        self._is_closed = True
        under_way = list(self._tasks)
        await asyncio.sleep(0)  # all have begun: before that, a cancelled one would cancel whoever waits for it
        for task in under_way:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def get(self, cid: Cid, **how: Unpack[Reading]) -> bytes:
        chunks: list[bytes] = []
        async with aclosing(self.stream(cid, **how)) as stream:
            async for chunk in stream:
                chunks.append(chunk)  # noqa: PERF401 - a comprehension would not close the stream
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def stream(
        self,
        cid: Cid,
        *,
        max_bytes: int,
        timeout_seconds: float,
        prefer: Address | None = None,
        ref: Ref | None = None,
        keep_until: float = 0.0,
    ) -> AsyncGenerator[bytes, None]:
        """The file's bytes in order, each verified; the time counts from the first step, the consumer's included.

        Once its last block is verified the file is kept, before its last bytes are given.
        """
        walk = Walk(cid, max_bytes=max_bytes)
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        sources = [WatchedSource(source, self._watch) for source in self._sources(prefer, ref)]
        window = _Window(self, Wanted(cid, cid, ref), SourceOrder(sources))
        size, is_fetched = 0, False
        with self._telling_of_failure(), self._local.hold(cid), closing(window):
            while ahead := walk.ahead(BLOCKS_AHEAD):
                block, was_fetched = await window.next(ahead, deadline)
                content = walk.feed(block)
                size, is_begun = size + len(content), is_fetched
                is_fetched = is_fetched or was_fetched
                if not walk.ahead(1):
                    await self._keep(cid, size, keep_until)
                elif is_fetched and not is_begun:
                    await self._begin(cid)
                if content:
                    yield content
            self._watch.ended(ReadEnd.FETCHED if is_fetched else ReadEnd.HIT)

    @contextmanager
    def _telling_of_failure(self) -> Iterator[None]:
        try:
            yield
        except (ContentCorrupt, ContentTooLarge):
            self._watch.ended(ReadEnd.WRONG)
            raise
        except ContentUnavailable:
            self._watch.ended(ReadEnd.UNAVAILABLE)
            raise

    async def _begin(self, root: Cid) -> None:
        try:
            await self._local.begin(root)
        except SourceFailed as failure:
            raise ContentUnavailable(root, {LOCAL: str(failure)}) from failure

    async def _keep(self, root: Cid, size: int, keep_until: float) -> None:
        try:
            await self._local.keep(root, size, keep_until)
        except SourceFailed as failure:
            raise ContentUnavailable(root, {LOCAL: str(failure)}) from failure

    # --- blocks ----------------------------------------------------------------------------------
    def join(self, wanted: Wanted, order: SourceOrder) -> _Flight:
        """The block's flight, started when there is none. Every `join` needs its `leave`."""
        flight = self._flights.get((wanted.cid, wanted.ref))
        if flight is None:
            flight = self._flights[wanted.cid, wanted.ref] = _Flight()
            flight.task = asyncio.create_task(self._load(wanted, order, flight.causes))
            self._tasks.add(flight.task)
            flight.task.add_done_callback(lambda _: self._land(wanted, flight))
        flight.waiters += 1
        return flight

    def leave(self, wanted: Wanted, flight: _Flight) -> None:
        """The last to leave cancels what nobody waits for."""
        flight.waiters -= 1
        if not flight.waiters and not flight.task.done():
            flight.task.cancel()
            self._forget(wanted, flight)  # at once, or a newcomer would join a cancelled flight

    def _land(self, wanted: Wanted, flight: _Flight) -> None:
        self._tasks.discard(flight.task)
        self._forget(wanted, flight)
        if not flight.task.cancelled():
            flight.task.exception()  # fetched ahead for a read that ended earlier: nobody else will look

    def _forget(self, wanted: Wanted, flight: _Flight) -> None:
        if self._flights.get((wanted.cid, wanted.ref)) is flight:
            del self._flights[wanted.cid, wanted.ref]

    async def _load(self, wanted: Wanted, order: SourceOrder, causes: dict[str, str]) -> tuple[Block, bool]:
        """The block, and whether a source had to deliver it."""
        try:
            if not self._is_closed:
                return await self._local_or_fetched(wanted, order, causes)
        except asyncio.CancelledError:
            if not self._is_closed:
                raise
        causes[LOCAL] = "closed"
        raise ContentUnavailable(wanted.cid, causes)

    async def _local_or_fetched(self, wanted: Wanted, order: SourceOrder, causes: dict[str, str]) -> tuple[Block, bool]:
        block = await self._read_local(wanted.cid, causes)
        if block is not None:
            return block, False
        block = await race(wanted, order, causes)
        try:
            await self._local.write(block)
        except SourceFailed as failure:
            causes[LOCAL] = str(failure)
            raise ContentUnavailable(wanted.cid, causes) from failure
        return block, True

    async def _read_local(self, cid: Cid, causes: dict[str, str]) -> Block | None:
        try:
            return await self._local.read(cid)
        except SourceFailed as failure:  # a damaged block is fetched again, and then overwritten
            causes[LOCAL] = str(failure)
            return None


class _Window:
    """The flights of one read: those of the next few blocks, so that memory stays bounded."""

    def __init__(self, reader: ContentReader, root: Wanted, order: SourceOrder) -> None:
        self._reader, self._root, self._order = reader, root, order
        self._flights: dict[Cid, _Flight] = {}

    async def next(self, ahead: list[Cid], deadline: float) -> tuple[Block, bool]:
        """The first block of `ahead`. Raises `ContentUnavailable` about the root, also at the deadline, and
        `ContentCorrupt`."""
        self._move(ahead)
        flight = self._flights[ahead[0]]
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(flight.task)
        except (TimeoutError, ContentUnavailable) as error:
            raise ContentUnavailable(self._root.cid, dict(flight.causes)) from error

    def _move(self, ahead: list[Cid]) -> None:
        """Blocks that a node just read has put further off are let go; they are local when their turn comes."""
        for cid in self._flights.keys() - set(ahead):
            self._reader.leave(replace(self._root, cid=cid), self._flights.pop(cid))
        for cid in ahead:
            if cid not in self._flights:
                self._flights[cid] = self._reader.join(replace(self._root, cid=cid), self._order)

    def close(self) -> None:
        self._move([])
