"""Asking several untrusted sources for one block: the next one after a silence, the first verified block wins."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Sequence

from shared.constants import HEDGE_SECONDS
from shared.content.cid import Block
from shared.errors import ContentRefuted, ContentUnavailable, SourceFailed
from shared.interfaces import Meter, Source, Wanted
from shared.reasons import SourceFault

MAX_ATTEMPTS_AT_ONCE = 3  # for one block; each may hold MAX_BLOCK_BYTES
# A source that brings less gets company: 8 Mbit/s over four blocks at once. Dripping slower buys a liar HEDGE_SECONDS,
# dripping at this pace buys eight seconds until the block is over its limit.
PACE_BYTES_PER_SECOND = 256 * 1024


class SourceOrder:
    """Whom to ask first while one file is read: whoever delivered last leads, whoever failed goes to the end."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = list(sources)

    def snapshot(self) -> list[Source]:
        return list(self._sources)

    def delivered(self, source: Source) -> None:
        self._sources.remove(source)
        self._sources.insert(0, source)

    def failed(self, source: Source) -> None:
        self._sources.remove(source)
        self._sources.append(source)


class _Attempt:
    """One source at work on the block."""

    def __init__(self, source: Source, wanted: Wanted) -> None:
        self.source = source
        self._meter = Meter()
        self._checked_bytes, self._checked_at = 0, asyncio.get_running_loop().time()
        self.task = asyncio.create_task(source.fetch(wanted, self._meter))

    def is_on_pace(self) -> bool:
        """Since the last time this was asked."""
        now, received_bytes = asyncio.get_running_loop().time(), self._meter.received_bytes
        due_bytes = PACE_BYTES_PER_SECOND * (now - self._checked_at)
        is_on_pace = received_bytes > self._checked_bytes and received_bytes - self._checked_bytes >= due_bytes
        self._checked_bytes, self._checked_at = received_bytes, now
        return is_on_pace


async def race(wanted: Wanted, order: SourceOrder, causes: dict[str, str]) -> Block:
    """The block, from whoever delivers it first. Raises `ContentUnavailable` when nobody does, `ContentRefuted` when
    one of them proved that there is none.

    `causes` always says what is known of each source so far: a caller that gives up waiting reads it there.
    """
    waiting = deque(order.snapshot())
    first = waiting[0] if waiting else None
    causes.update({source.name: "not asked in time" for source in waiting})
    running: list[_Attempt] = []
    at_once, refutation = 1, ""
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                causes[waiting[0].name] = "no whole block in time"
                running.append(_Attempt(waiting.popleft(), wanted))
            await asyncio.wait(
                [attempt.task for attempt in running], timeout=HEDGE_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            finished = [attempt for attempt in running if attempt.task.done()]
            for attempt in finished:
                running.remove(attempt)
                try:
                    return _result(attempt, order)
                except SourceFailed as failure:
                    causes[attempt.source.name] = str(failure)
                    order.failed(attempt.source)
                    if failure.fault is SourceFault.REFUTED:
                        refutation = str(failure)
            if any(attempt.is_on_pace() for attempt in running):
                at_once = len(running)
            elif finished:  # one more for each failure: that many do not have it must not cost a round trip each
                at_once = min(at_once + len(finished), MAX_ATTEMPTS_AT_ONCE)
            elif waiting:
                await _make_room(running, first, order, causes)
                at_once = len(running) + 1
    finally:
        await _cancel(running)
    if refutation:  # nobody has it, and whoever signed where to get it signed something that can be nothing
        raise ContentRefuted(f"content {wanted.root}: {refutation}")
    raise ContentUnavailable(wanted.cid, causes)


def _result(attempt: _Attempt, order: SourceOrder) -> Block:
    """Raises `SourceFailed`."""
    block = attempt.task.result()
    order.delivered(attempt.source)
    return block


async def _make_room(running: list[_Attempt], first: Source | None, order: SourceOrder, causes: dict[str, str]) -> None:
    """Silent sources must not keep the others from being asked; the first, likeliest to have it, may take its time."""
    if len(running) == MAX_ATTEMPTS_AT_ONCE:
        slowest = next(attempt for attempt in running if attempt.source is not first)
        running.remove(slowest)
        causes[slowest.source.name] = "too slow, given up for another source"
        order.failed(slowest.source)
        await _cancel([slowest])


async def _cancel(attempts: Collection[_Attempt]) -> None:
    for attempt in attempts:
        attempt.task.cancel()
    await asyncio.gather(*(attempt.task for attempt in attempts), return_exceptions=True)
