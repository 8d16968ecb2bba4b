"""An event loop whose time jumps: when every task waits for a timer, the clock moves to the earliest one.

A simulated hour takes as long as its work. Threads would be invisible to it, so simulations use none.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

START = 1_800_000_000.0  # unix seconds; any will do
MAX_IDLE_SELECTS = 1000


class Stuck(Exception):
    """Every task waits for something that no timer will bring."""


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self._idle = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if timeout is None and not ready:
            self._idle += 1
            if self._idle > MAX_IDLE_SELECTS:
                raise Stuck("no task can go on and no timer is set")
        else:
            self._idle = 0
        if timeout and not ready:
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` is seconds since the simulation began."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        self._clock_resolution = 1e-6  # else a timer within rounding of now would never become due

    def time(self) -> float:
        return self._jumping.now


class VirtualClock:
    """A `Clock` that reads the running loop."""

    def now(self) -> float:
        return START + asyncio.get_running_loop().time()


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` on virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
