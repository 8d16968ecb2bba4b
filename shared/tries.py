"""Work that may fail for long: a few at once, each again after a growing pause, until it is over or not wanted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
W = TypeVar("W")


class Tries(Generic[K, W]):
    """`attempt` gets the work and says whether it is over; it raises nothing. Pauses double from `first_pause` seconds
    up to `longest_pause`."""

    def __init__(
        self, attempt: Callable[[W], Awaitable[bool]], *, at_once: int, first_pause: float, longest_pause: float
    ) -> None:
        self._attempt, self._at_once = attempt, at_once
        self._first_pause, self._longest_pause = first_pause, longest_pause
        self._tries: dict[K, _Try] = {}

    async def follow(self, wanted: Mapping[K, W]) -> set[K]:
        """Starts what is due, whoever has waited longest first, and ends what is not wanted any more; its keys. To be
        called again and again."""
        gone = self._tries.keys() - wanted.keys()
        await asyncio.gather(*(self._tries.pop(key).end() for key in gone))
        for key in wanted.keys() - self._tries.keys():
            self._tries[key] = _Try(self._first_pause)
        free = self._at_once - sum(each.is_running() for each in self._tries.values())
        due = [(each.due_at, number, key) for number, (key, each) in enumerate(self._tries.items()) if each.is_due()]
        for _, _, key in sorted(due, key=lambda entry: entry[:2])[:free]:
            self._tries[key].task = asyncio.create_task(self._run(self._tries[key], wanted[key]))
        return gone

    async def end(self) -> None:
        """Cancels what runs."""
        await asyncio.gather(*(each.end() for each in self._tries.values()))

    async def _run(self, this: _Try, work: W) -> None:
        this.is_over = await self._attempt(work)
        this.due_at = _now() + this.pause
        this.pause = min(2 * this.pause, self._longest_pause)


class _Try:
    def __init__(self, pause: float) -> None:
        self.due_at, self.pause, self.is_over = _now(), pause, False
        self.task: asyncio.Task[None] | None = None

    def is_running(self) -> bool:
        return self.task is not None and not self.task.done()

    def is_due(self) -> bool:
        return not self.is_over and not self.is_running() and self.due_at <= _now()

    async def end(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)


def _now() -> float:
    return asyncio.get_running_loop().time()
