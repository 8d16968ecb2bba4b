"""Work that may fail for long: how much at once, when again, and when no more."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from shared.tries import Tries
from tests.listening import virtual
from tests.simnet.virtual_time import run_virtual


class Work:
    """Notes when each piece was tried; `seconds` a try, over after `needed` of them."""

    def __init__(self, needed: Sequence[int], seconds: Sequence[float], at_once: int = 2) -> None:
        self.needed, self.seconds = list(needed), seconds
        self.times: list[list[float]] = [[] for _ in needed]
        self.running = self.most = 0
        self.tries: Tries[int, int] = Tries(self.attempt, at_once=at_once, first_pause=1.0, longest_pause=8.0)

    async def attempt(self, number: int) -> bool:
        self.times[number].append(asyncio.get_running_loop().time())
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self.seconds[number])
        finally:
            self.running -= 1
        self.needed[number] -= 1
        return self.needed[number] <= 0

    async def follow(self, seconds: int) -> None:
        """As its user does, once a second."""
        for _ in range(seconds):
            await self.tries.follow({number: number for number in range(len(self.needed))})
            await asyncio.sleep(1)


@virtual
async def test_pauses_grow_to_their_limit_and_what_is_over_is_tried_no_more() -> None:
    work = Work([7, 1], [0.0, 0.0])
    await work.follow(100)
    first = work.times[0]
    assert [round(after - before) for before, after in pairwise(first)] == [1, 2, 4, 8, 8, 8]
    assert work.times[1] == [0.0]


@virtual
async def test_what_is_not_wanted_any_more_is_cancelled_and_starts_anew_when_it_is() -> None:
    work = Work([9, 9], [1000.0, 1000.0])
    await work.tries.follow({0: 0, 1: 1})
    await asyncio.sleep(0)
    assert work.running == 2
    assert await work.tries.follow({1: 1}) == {0}
    assert work.running == 1
    await work.tries.follow({0: 0, 1: 1})
    await asyncio.sleep(0)
    assert (work.running, len(work.times[0]), len(work.times[1])) == (2, 2, 1)
    await work.tries.end()
    assert work.running == 0


@settings(deadline=None, max_examples=20)
@given(
    needed=st.lists(st.integers(1, 4), min_size=1, max_size=8),
    at_once=st.integers(1, 4),
    data=st.data(),
)
def test_whatever_takes_long_everything_is_over_in_the_end_and_never_too_much_at_once(
    needed: list[int], at_once: int, data: st.DataObject
) -> None:
    seconds = data.draw(st.lists(st.floats(0, 10), min_size=len(needed), max_size=len(needed)))
    work = Work(needed, seconds, at_once)
    run_virtual(work.follow(500))
    assert [len(times) for times in work.times] == needed
    assert work.most <= at_once
