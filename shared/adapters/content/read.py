"""Reading a file by CID: local blocks first, then sources, through the one verifying walk, a few blocks ahead."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Protocol

from shared.adapters.content.race import Source, SourceFailed, SourceOrder, race
from shared.content.cid import Block
from shared.content.unixfs import Walk
from shared.errors import ContentUnavailable
from shared.types import Address, Cid

# Four blocks of at most 2 MiB hide a round trip and keep a model of any size in a few MiB of memory.
BLOCKS_AHEAD = 4
LOCAL = "local store"


class LocalBlocks(Protocol):
    """This node's own blocks. Raises `SourceFailed` when the disk does not play along."""

    async def read(self, cid: Cid) -> Block | None: ...

    async def write(self, block: Block) -> None: ...

    async def pin(self, root: Cid, size_bytes: int) -> None: ...


class _Flight:
    """One block on its way, for everybody who waits for it."""

    def __init__(self) -> None:
        self.causes: dict[str, str] = {}
        self.waiters = 0
        self.task: asyncio.Task[tuple[Block, bool]]


class ContentReader:
    """Concurrent reads share the blocks that both wait for: a block is fetched once, however many want it."""

    def __init__(self, local: LocalBlocks, sources: Callable[[], Mapping[Address, Source]]) -> None:
        self._local, self._sources = local, sources
        self._is_closed = False
        self._flights: dict[Cid, _Flight] = {}
        self._tasks: set[asyncio.Task[tuple[Block, bool]]] = set()

    async def close(self) -> None:
        """Reads under way, and later ones, end in `ContentUnavailable`."""
        self._is_closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def get(self, cid: Cid, *, max_bytes: int, timeout_seconds: float, prefer: Address | None) -> bytes:
        chunks: list[bytes] = []
        async with aclosing(
            self.stream(cid, max_bytes=max_bytes, timeout_seconds=timeout_seconds, prefer=prefer)
        ) as stream:
            async for chunk in stream:
                chunks.append(chunk)  # noqa: PERF401 - a comprehension would not close the stream
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def stream(
        self, cid: Cid, *, max_bytes: int, timeout_seconds: float, prefer: Address | None
    ) -> AsyncGenerator[bytes, None]:
        """The file's bytes in order, each verified; the time counts from the first step, the consumer's included.

        Pins the file once its last block is verified, if any block of it had to be fetched.
        """
        walk = Walk(cid, max_bytes=max_bytes)
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        window = _Window(self, self._order(prefer))
        size, is_fetched = 0, False
        try:
            while ahead := walk.ahead(BLOCKS_AHEAD):
                block, was_fetched = await window.next(ahead, cid, deadline)
                content = walk.feed(block)
                size, is_fetched = size + len(content), is_fetched or was_fetched
                if is_fetched and not walk.ahead(1):
                    await self._pin(cid, size)
                if content:
                    yield content
        finally:
            window.close()

    def _order(self, prefer: Address | None) -> SourceOrder:
        """`prefer` first; the rest by chance, so that no operator serves everybody."""
        sources = dict(self._sources())
        first = [sources.pop(prefer)] if prefer is not None and prefer in sources else []
        rest = list(sources.values())
        random.shuffle(rest)
        return SourceOrder([*first, *rest])

    async def _pin(self, root: Cid, size_bytes: int) -> None:
        try:
            await self._local.pin(root, size_bytes)
        except SourceFailed as failure:
            raise ContentUnavailable(root, {LOCAL: str(failure)}) from failure

    # --- blocks ----------------------------------------------------------------------------------
    def join(self, cid: Cid, order: SourceOrder) -> _Flight:
        """The block's flight, started when there is none. Every `join` needs its `leave`."""
        flight = self._flights.get(cid)
        if flight is None:
            flight = self._flights[cid] = _Flight()
            flight.task = asyncio.create_task(self._load(cid, order, flight.causes))
            self._tasks.add(flight.task)
            flight.task.add_done_callback(lambda _: self._land(cid, flight))
        flight.waiters += 1
        return flight

    def leave(self, cid: Cid, flight: _Flight) -> None:
        """The last to leave cancels what nobody waits for."""
        flight.waiters -= 1
        if not flight.waiters and not flight.task.done():
            flight.task.cancel()
            self._forget(cid, flight)  # at once, or a newcomer would join a cancelled flight

    def _land(self, cid: Cid, flight: _Flight) -> None:
        self._tasks.discard(flight.task)
        self._forget(cid, flight)
        if not flight.task.cancelled():
            flight.task.exception()  # fetched ahead for a read that ended earlier: nobody else will look

    def _forget(self, cid: Cid, flight: _Flight) -> None:
        if self._flights.get(cid) is flight:
            del self._flights[cid]

    async def _load(self, cid: Cid, order: SourceOrder, causes: dict[str, str]) -> tuple[Block, bool]:
        """The block, and whether a source had to deliver it."""
        try:
            if not self._is_closed:
                return await self._local_or_fetched(cid, order, causes)
        except asyncio.CancelledError:
            if not self._is_closed:
                raise
        causes[LOCAL] = "closed"
        raise ContentUnavailable(cid, causes)

    async def _local_or_fetched(self, cid: Cid, order: SourceOrder, causes: dict[str, str]) -> tuple[Block, bool]:
        block = await self._read_local(cid, causes)
        if block is not None:
            return block, False
        block = await race(cid, order, causes)
        try:
            await self._local.write(block)
        except SourceFailed as failure:
            causes[LOCAL] = str(failure)
            raise ContentUnavailable(cid, causes) from failure
        return block, True

    async def _read_local(self, cid: Cid, causes: dict[str, str]) -> Block | None:
        try:
            return await self._local.read(cid)
        except SourceFailed as failure:  # a damaged block is fetched again, and then overwritten
            causes[LOCAL] = str(failure)
            return None


class _Window:
    """The flights of one read: those of the next few blocks, so that memory stays bounded."""

    def __init__(self, reader: ContentReader, order: SourceOrder) -> None:
        self._reader, self._order = reader, order
        self._flights: dict[Cid, _Flight] = {}

    async def next(self, ahead: list[Cid], root: Cid, deadline: float) -> tuple[Block, bool]:
        """The first block of `ahead`. Raises `ContentUnavailable` about `root`, also at the deadline."""
        self._move(ahead)
        flight = self._flights[ahead[0]]
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(flight.task)
        except (TimeoutError, ContentUnavailable) as error:
            raise ContentUnavailable(root, dict(flight.causes)) from error

    def _move(self, ahead: list[Cid]) -> None:
        """Blocks that a node just read has put further off are let go; they are local when their turn comes."""
        for cid in self._flights.keys() - set(ahead):
            self._reader.leave(cid, self._flights.pop(cid))
        for cid in ahead:
            if cid not in self._flights:
                self._flights[cid] = self._reader.join(cid, self._order)

    def close(self) -> None:
        self._move([])
