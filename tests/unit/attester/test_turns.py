"""Turns and openings: whoever waits is served performer by performer, and what is full is full for who filled it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hypothesis import given
from hypothesis import strategies as st

from attester.turns import Openings, Turns
from shared.types import Address
from tests.listening import virtual

A, B, C = (Address(bytes([number]) * 20) for number in (1, 2, 3))


@asynccontextmanager
async def working(turns: Turns, *jobs: tuple[Address, float]) -> AsyncIterator[list[Address]]:
    """Each job holds its place for so many seconds; what is yielded fills with whose job began."""
    began: list[Address] = []

    async def work(performer: Address, seconds: float) -> None:
        async with turns.of(performer):
            began.append(performer)
            await asyncio.sleep(seconds)

    async with asyncio.TaskGroup() as group:
        for performer, seconds in jobs:
            group.create_task(work(performer, seconds))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        yield began


@virtual
async def test_one_performer_gets_all_places_but_the_last() -> None:
    async with working(Turns(4), *[(A, 10.0)] * 6) as began:
        assert began == [A] * 3


@virtual
async def test_the_last_place_is_for_another() -> None:
    async with working(Turns(4), *[(A, 10.0)] * 6, (B, 10.0)) as began:
        assert began == [A, A, A, B]


@virtual
async def test_a_single_place_is_for_anybody() -> None:
    async with working(Turns(1), (A, 1.0), (A, 1.0)) as began:
        assert began == [A]
        await asyncio.sleep(1.5)
        assert began == [A, A]


@virtual
async def test_who_waits_is_served_performer_by_performer() -> None:
    async with working(Turns(1), *[(A, 1.0)] * 4, (B, 1.0), (B, 1.0), (C, 1.0)) as began:
        await asyncio.sleep(10)
        assert began == [A, A, B, C, A, B, A]


@virtual
async def test_a_waiter_that_gives_up_leaves_its_place_to_the_next() -> None:
    turns = Turns(1)
    async with turns.of(A):
        waiting = [asyncio.create_task(_pass(turns)) for _ in range(2)]
        await asyncio.sleep(0)
        waiting[0].cancel()
    await asyncio.wait(waiting)
    assert waiting[0].cancelled()
    assert waiting[1].exception() is None
    assert (turns._free, turns._running, turns._waiting) == (1, {}, {})


@virtual
async def test_a_waiter_cancelled_in_the_moment_of_its_turn_gives_it_on() -> None:
    turns = Turns(1)
    async with turns.of(A):
        waiting = [asyncio.create_task(_pass(turns)) for _ in range(2)]
        await asyncio.sleep(0)
    waiting[0].cancel()  # its turn is there, and it has not run since
    await asyncio.wait(waiting)
    assert waiting[1].exception() is None
    assert (turns._free, turns._running, turns._waiting) == (1, {}, {})


async def _pass(turns: Turns) -> None:
    async with turns.of(B):
        pass


# --- openings --------------------------------------------------------------------------------------
def test_nobody_is_refused_before_all_is_full() -> None:
    openings = Openings(4)
    for _ in range(4):
        openings.add(A)
        assert not openings.is_over(A)
    openings.add(A)
    assert openings.is_over(A)


def test_who_filled_it_is_refused_and_who_comes_new_is_not() -> None:
    openings = Openings(4)
    for _ in range(5):
        openings.add(A)
    for expected in (False, False, True):
        openings.add(B)
        assert openings.is_over(B) is expected
    assert openings.is_over(A)


def test_room_comes_back_when_tasks_close() -> None:
    openings = Openings(2)
    for _ in range(3):
        openings.add(A)
    assert openings.is_over(A)
    openings.remove(A)
    assert not openings.is_over(A)


@given(st.lists(st.integers(0, 7), max_size=200))
def test_the_whole_stays_within_a_small_multiple_of_the_limit(arrivals: list[int]) -> None:
    """Eight performers that try their worst: the limit, and a harmonic sum of it for those that came after."""
    limit, openings, admitted = 8, Openings(8), 0
    for number in arrivals:
        performer = Address(bytes([number]) * 20)
        openings.add(performer)
        if openings.is_over(performer):
            openings.remove(performer)
        else:
            admitted += 1
    assert admitted == openings._of.total() <= limit * sum(1 / k for k in range(1, 9)) + 8
