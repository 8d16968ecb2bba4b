"""A file on its way as one CAR, shared by the fetches of its blocks.

A gateway that has to look for content in the network finds a file's blocks in one request where a request each would
cost a look-up each. What it sends is the gateway's choice, so all that is believed is the hash of each block, and all
that is held is bounded: whoever's block does not come this way asks for it by itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from shared.content.car_reader import CarReader
from shared.content.cid import Block
from shared.errors import CodecError, SourceFailed
from shared.interfaces import Meter
from shared.reasons import SourceFault
from shared.types import Cid

# Blocks that came before anybody asked: what a reader asks for at once, twice over. Then the gateway has to wait.
MAX_HELD_BYTES = 8 << 20
_LEAST_COST_BYTES = 128 << 10  # as which a small block counts, so that at most 64 are held
# Held blocks that nobody takes, and others that somebody waits for: the order is not the file's.
ORDER_SECONDS = 0.25
# Between two fetches a reader writes a block to the disk, and its consumer does what it does.
LINGER_SECONDS = 2.0
_REMEMBERED = 64  # blocks just given; who asks again finds them on the disk, or asks for them alone


@dataclass(eq=False, slots=True)
class _Waiter:
    cid: Cid
    meter: Meter
    came: asyncio.Future[Block]


class Download:
    """Begins at once; ends with its archive once all of it is taken, when nobody asks for LINGER_SECONDS, or closed.

    `pieces` are the archive's bytes; it may raise `SourceFailed`, and is closed.
    """

    def __init__(self, pieces: AsyncGenerator[bytes, None]) -> None:
        self._pieces, self._car = pieces, CarReader()
        self._waiters: set[_Waiter] = set()
        self._held: dict[Cid, Block] = {}
        self._cost = 0  # of what is held, and of what came twice since somebody took a block
        self._given: deque[Cid] = deque(maxlen=_REMEMBERED)
        self._asked = asyncio.Event()
        self._failure: SourceFailed | None = None  # once nothing more comes
        self._linger: asyncio.TimerHandle | None = None
        self.task = asyncio.create_task(self._run())

    async def block(self, cid: Cid, meter: Meter) -> Block:
        """Raises `SourceFailed` when it does not come this way; the time is the caller's to limit."""
        held = self._held.pop(cid, None)
        if held is not None:
            self._note_given(cid)
            self._asked.set()
            if not self._waiters:
                self._await_others()
            return held
        if cid in self._given:
            raise SourceFailed("the archive gave it a moment ago", SourceFault.BAD_ANSWER)
        if self._failure is not None:
            raise self._failure
        waiter = _Waiter(cid, meter, asyncio.get_running_loop().create_future())
        self._waiters.add(waiter)
        self._asked.set()
        self._stop_lingering()
        try:
            return await waiter.came
        finally:
            self._waiters.discard(waiter)
            if not self._waiters:
                self._await_others()

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    def _await_others(self) -> None:
        """Nobody waits any more: for a moment only, or, where the archive has been of no use yet, for good."""
        self._stop_lingering()
        if self._given:
            self._linger = asyncio.get_running_loop().call_later(LINGER_SECONDS, self.task.cancel)
        else:
            self.task.cancel()

    def _stop_lingering(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None

    # --- the archive -----------------------------------------------------------------------------
    async def _run(self) -> None:
        try:
            self._end(await self._read_all())
            while self._held:
                await self._be_asked()
        finally:
            self._end(SourceFailed("the archive was given up", SourceFault.BAD_ANSWER))
            self._held.clear()

    async def _read_all(self) -> SourceFailed:
        """What is to be said of blocks that did not come."""
        try:
            await self._read()
        except SourceFailed as failure:
            return failure
        except CodecError as error:
            return SourceFailed(f"wrong archive: {error}", SourceFault.WRONG_BYTES)
        return SourceFailed("the archive ended without the block", SourceFault.BAD_ANSWER)

    async def _read(self) -> None:
        """Raises `SourceFailed`, `CodecError`."""
        async with aclosing(self._pieces) as pieces:
            async for piece in pieces:
                for waiter in self._waiters:
                    waiter.meter.received_bytes += len(piece)
                for block in self._car.push(piece):
                    await self._give(block)
        self._car.finish()

    async def _give(self, block: Block) -> None:
        """To those who wait for it, or to whoever will. Raises `SourceFailed` when all wait for others."""
        while not self._deliver(block):
            if self._cost + _cost(block) <= MAX_HELD_BYTES:
                self._held[block.cid] = block
                self._cost += _cost(block)
                return
            try:
                async with asyncio.timeout(ORDER_SECONDS if self._waiters else None):
                    await self._be_asked()
            except TimeoutError:
                raise SourceFailed("the archive has another order", SourceFault.BAD_ANSWER) from None

    async def _be_asked(self) -> None:
        self._asked.clear()
        await self._asked.wait()

    def _deliver(self, block: Block) -> bool:
        found = [waiter for waiter in self._waiters if waiter.cid == block.cid and not waiter.came.done()]
        for waiter in found:
            waiter.came.set_result(block)
        if found:
            self._note_given(block.cid)
        return bool(found)

    def _note_given(self, cid: Cid) -> None:
        self._given.append(cid)
        self._cost = sum(_cost(block) for block in self._held.values())

    def _end(self, failure: SourceFailed) -> None:
        """Nothing more comes. The first reason stays."""
        if self._failure is None:
            self._failure = failure
        for waiter in self._waiters:
            if not waiter.came.done():
                waiter.came.set_exception(self._failure)


def _cost(block: Block) -> int:
    return max(len(block.data), _LEAST_COST_BYTES)
