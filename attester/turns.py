"""Who may occupy this attester: performers take turns, so that none can hold up the others.

A performer whose gateway takes every request and answers none costs an attester seconds a task, and cannot be slashed
for it. Without turns one of them would be enough to stop everybody's work.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared.types import Address


class Turns:
    """At most `total` at a time, of which one performer never gets the last; who waits is served performer by
    performer."""

    def __init__(self, total: int) -> None:
        self._free, self._share = total, max(1, total - 1)
        self._running: Counter[Address] = Counter()
        self._waiting: OrderedDict[Address, deque[asyncio.Future[None]]] = OrderedDict()  # whose turn is next, first

    @asynccontextmanager
    async def of(self, performer: Address) -> AsyncIterator[None]:
        """Waits for a place."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(performer, deque()).append(turn)
        self._admit()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self._free += 1
                _lower(self._running, performer)
            self._admit()

    def _admit(self) -> None:
        while self._free and (performer := self._next()) is not None:
            turns = self._waiting.pop(performer)
            turn = turns.popleft()
            if turns:
                self._waiting[performer] = turns  # behind the others
            if not turn.cancelled():
                self._free -= 1
                self._running[performer] += 1
                turn.set_result(None)

    def _next(self) -> Address | None:
        return next((performer for performer in self._waiting if self._running[performer] < self._share), None)


class Openings:
    """Which tasks are open here, by performer. What is full is full for those who filled it: everybody else still gets
    a part of it, so that the whole stays within a small multiple of `limit`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._of: Counter[Address] = Counter()

    def add(self, performer: Address) -> None:
        self._of[performer] += 1

    def remove(self, performer: Address) -> None:
        _lower(self._of, performer)

    def is_over(self, performer: Address) -> bool:
        """Whether one of this performer's, counted already, is too many."""
        return self._of.total() > self._limit and self._of[performer] > self._limit // len(self._of)


def _lower(counts: Counter[Address], performer: Address) -> None:
    counts[performer] -= 1
    if not counts[performer]:
        del counts[performer]
