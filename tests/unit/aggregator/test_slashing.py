"""Queued slashes: executed after their window and not before, by whoever runs then, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from structlog.testing import capture_logs

from aggregator.finality import LOOKS_SECONDS
from aggregator.slashing import SlashExecutor
from shared.adapters.memory.chain import MemoryChain
from shared.errors import ChainUnavailable, Dropped, Reverted
from shared.types import Digest, SlashExecuted, Verdict
from tests.chain_support import ETHER, PERFORMER
from tests.faulty_chain import FaultyChain
from tests.listening import running, until, virtual
from tests.roles import TERMS, World

WINDOW = TERMS.dispute_window_seconds
FINAL = sum(LOOKS_SECONDS)


@dataclass
class Court:
    """A slash executor, and a chain on which tasks can be rejected."""

    world: World
    chain: MemoryChain
    faulty: FaultyChain

    async def reject(self, *names: str) -> None:
        for name in names:
            certificate = self.world.certificate(self.world.info(name), Verdict.INVALID)
            await self.chain.confirm(await self.chain.submit_task(certificate), 10)

    def due_in(self, name: str) -> float:
        """Seconds."""
        return self.chain._state().slashes[self.task_id(name)].executable_at - self.world.clock.now()

    def task_id(self, name: str) -> Digest:
        return self.world.info(name).task_id

    @property
    def executed(self) -> list[Digest]:
        self.chain._state()
        return [event.task_id for event in self.chain._ledger.events if isinstance(event, SlashExecuted)]


@asynccontextmanager
async def court(world: World | None = None, chain: MemoryChain | None = None) -> AsyncIterator[Court]:
    world = World() if world is None else world
    chain = await world.chain() if chain is None else chain
    faulty = FaultyChain(chain)
    async with running(SlashExecutor(settlement=faulty, clock=world.clock).run()):
        yield Court(world, chain, faulty)


@virtual
async def test_it_waits_for_the_window_and_moves_the_stake() -> None:
    async with court() as c:
        await c.reject("x")
        await asyncio.sleep(c.due_in("x") - 2)
        assert (c.faulty.calls, c.executed) == ([], [])
        assert await c.chain.stake_of(PERFORMER.address) == 10 * ETHER
        await asyncio.sleep(5)
        assert c.executed == [c.task_id("x")]
        assert await c.chain.stake_of(PERFORMER.address) == 9 * ETHER
        assert await c.chain.vault_balance() == ETHER


@virtual
async def test_each_rejected_task_is_slashed_once() -> None:
    async with court() as c:
        await c.reject("x", "y", "z")
        await asyncio.sleep(WINDOW + 2 * FINAL)
        assert sorted(c.executed) == sorted(map(c.task_id, "xyz"))
        calls = c.faulty.count("execute_slash")
        await asyncio.sleep(10 * FINAL)
        assert c.faulty.count("execute_slash") == calls  # and it asks no more


@virtual
async def test_a_chain_whose_clock_lags_is_asked_again() -> None:
    async with court() as c:
        c.faulty.fail("execute_slash", *[Reverted("SlashNotDue", (bytes(32), 0))] * 5)
        await c.reject("x")
        await asyncio.sleep(WINDOW + 20)
        assert c.executed == [c.task_id("x")]


@pytest.mark.parametrize("call", ["execute_slash", "confirm"])
@pytest.mark.parametrize("trouble", [ChainUnavailable("the chain is away"), Dropped("gone")])
@virtual
async def test_an_outage_delays_it(call: str, trouble: Exception) -> None:
    async with court() as c:
        c.faulty.fail(call, trouble, trouble)
        await c.reject("x")
        await asyncio.sleep(WINDOW + 20)
        assert c.executed == [c.task_id("x")]


@virtual
async def test_a_refusal_that_time_cannot_mend_is_told_and_left() -> None:
    async with court() as c:
        c.faulty.fail("execute_slash", Reverted("NoSlashQueued", (bytes(32),)))
        await c.reject("x", "y")
        with capture_logs() as logs:
            await asyncio.sleep(WINDOW + 20)
        assert [entry["reason"] for entry in logs if entry["event"] == "slash not executed"] == ["NoSlashQueued"]
        assert len(c.executed) == 1  # the other one


@virtual
async def test_one_that_somebody_else_executed_is_not_executed_again() -> None:
    async with court() as c:
        await c.reject("x")
        c.chain.warp(WINDOW)
        await asyncio.sleep(1)
        await c.chain.confirm(await c.chain.execute_slash(c.task_id("x")), 10)
        await asyncio.sleep(2 * WINDOW + FINAL)
        assert c.executed == [c.task_id("x")]
        assert await c.chain.stake_of(PERFORMER.address) == 9 * ETHER


@virtual
async def test_one_that_became_due_while_nobody_ran_is_executed_by_who_runs_next() -> None:
    world = World()
    async with court(world) as c:
        await c.reject("x")
    await asyncio.sleep(WINDOW + 10)
    async with court(world, c.chain) as c:
        await until(lambda: c.executed == [c.task_id("x")], "it is executed")
    await asyncio.sleep(WINDOW + FINAL)
    async with court(world, c.chain) as c:
        await asyncio.sleep(WINDOW + FINAL)
        assert c.executed == [c.task_id("x")]
        assert c.faulty.count("execute_slash") <= 1  # long done with: asked at most once, and not for ever


@virtual
async def test_a_slash_that_a_reorg_took_back_is_executed_again() -> None:
    async with court() as c:
        await c.reject("x")
        await until(lambda: c.faulty.count("execute_slash"), "it is sent", WINDOW + 20)
        await until(lambda: c.executed, "it is executed")
        sent = [tx for tx, found in c.chain._ledger._known.items() if found.block == c.chain._ledger.events[-1].block]
        c.chain.reorg(8, dropped=sent)
        assert c.executed == []
        await asyncio.sleep(LOOKS_SECONDS[0] + 10)
        assert c.executed == [c.task_id("x")]
        assert await c.chain.stake_of(PERFORMER.address) == 9 * ETHER
