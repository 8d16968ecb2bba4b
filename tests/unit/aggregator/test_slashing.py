"""Queued slashes: executed after their window and not before, by whoever runs then, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from structlog.testing import capture_logs

from aggregator.finality import LOOKS_SECONDS
from aggregator.slashing import HARMED, SlashExecutor
from shared.adapters.memory.chain import MemoryChain
from shared.adapters.memory.chain_court import slash_id_of
from shared.adapters.memory.store import MemoryFile, MemoryStore
from shared.crypto import bls
from shared.errors import ChainUnavailable, Dropped, Reverted
from shared.types import Digest, Fees, Offence, SlashExecuted, TaskRequest, TaskTerms, Uint256, Verdict
from tests.cast import REQUESTER
from tests.chain_support import ETHER, OWNER, PERFORMER
from tests.faulty_chain import FaultyChain
from tests.listening import running, until, virtual
from tests.roles import TERMS, World
from tests.toy_model import DEFINITION

WINDOW = DEFINITION.terms.dispute_window
FINAL = sum(LOOKS_SECONDS)
PAID = TaskTerms(dispute_window=WINDOW, fees=Fees(performer=3 * ETHER))


@dataclass
class Court:
    """A slash executor, and a chain on which tasks can be rejected."""

    world: World
    chain: MemoryChain
    faulty: FaultyChain
    executor: SlashExecutor
    file: MemoryFile

    async def reject_asked(self, request: TaskRequest) -> Digest:
        """Of a task that somebody asked for, as the aggregator that certified it. Its slash's id."""
        task_id = self.world.domain.task_id(request)
        await self.executor.remember(task_id, request)
        certificate = self.world.certificate(
            self.world.info("x", task_id=task_id, task_definition_id=request.task_definition_id), Verdict.INVALID
        )
        await self.chain.confirm(await self.chain.submit_task(certificate), 10)
        return slash_id_of(Offence.REJECTED_TASK, task_id, PERFORMER.address)

    async def reject(self, *names: str) -> None:
        for name in names:
            certificate = self.world.certificate(self.world.info(name), Verdict.INVALID)
            await self.chain.confirm(await self.chain.submit_task(certificate), 10)

    def due_in(self, name: str) -> float:
        """Seconds."""
        return self.chain._state().court.slashes[self.slash_id(name)].executable_at - self.world.clock.now()

    def slash_id(self, name: str) -> Digest:
        return slash_id_of(Offence.REJECTED_TASK, self.task_id(name), PERFORMER.address)

    def task_id(self, name: str) -> Digest:
        return self.world.info(name).task_id

    @property
    def executed(self) -> list[Digest]:
        self.chain._state()
        return [event.task_id for event in self.chain._ledger.events if isinstance(event, SlashExecuted)]


@asynccontextmanager
async def court(
    world: World | None = None, chain: MemoryChain | None = None, file: MemoryFile | None = None
) -> AsyncIterator[Court]:
    """Ends as with kill -9."""
    world = World() if world is None else world
    chain = await _chain(world) if chain is None else chain
    file = MemoryFile() if file is None else file
    faulty = FaultyChain(chain)
    async with MemoryStore(file) as store:
        executor = SlashExecutor(court=faulty, settlement=faulty, store=store, clock=world.clock)
        async with running(_follow(executor, faulty)):
            yield Court(world, chain, faulty, executor, file)
        file.kill()


async def _chain(world: World) -> MemoryChain:
    """With a second definition, whose fees are over a slash: compensation ends with them too."""
    chain = await world.chain()
    await chain.create_task_definition(
        name="paid", method="exact", model_hash=DEFINITION.model_hash, card_cid=DEFINITION.card_cid, terms=PAID
    )
    return chain


async def _follow(executor: SlashExecutor, chain: FaultyChain) -> None:
    async with asyncio.TaskGroup() as group:
        async for event in chain.events(0):
            executor.on_event(event, group)


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
        await c.chain.confirm(await c.chain.execute_slash(c.slash_id("x")), 10)
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


# --- whom it compensates -------------------------------------------------------------------------------
FEE = 12_345
SLASHED = ETHER  # a tenth of the performer's ten


@virtual
async def test_the_requester_is_named_before_the_window_is_over_and_gets_the_fee_and_no_more() -> None:
    async with court() as c:
        slash_id = await c.reject_asked(c.world.request(fee=Uint256(FEE), task_definition_id=1))
        await asyncio.sleep(5)
        slash = c.chain._state().court.slashes[slash_id]
        assert (slash.requester, slash.value) == (REQUESTER.address, FEE)
        await asyncio.sleep(WINDOW + 5)
        assert await c.chain.stake_of(PERFORMER.address) == 10 * ETHER - SLASHED
        assert await c.chain.owed_to(REQUESTER.address) == FEE
        assert await c.chain.vault_balance() == SLASHED - FEE
        await asyncio.sleep(FINAL + 10)
        assert c.file.entries == {}


@virtual
async def test_a_fee_over_the_slash_gets_all_of_it() -> None:
    async with court() as c:
        await c.reject_asked(c.world.request(fee=Uint256(3 * ETHER), task_definition_id=1))
        await asyncio.sleep(WINDOW + 10)
        assert await c.chain.owed_to(REQUESTER.address) == SLASHED
        assert await c.chain.vault_balance() == 0


@virtual
async def test_a_task_without_a_fee_leaves_nothing_on_the_disk() -> None:
    async with court() as c:
        await c.reject_asked(c.world.request())
        assert c.file.entries == {}
        await asyncio.sleep(WINDOW + 10)
        assert (c.faulty.count("name_harmed"), await c.chain.vault_balance()) == (0, SLASHED)


@pytest.mark.parametrize("call", ["name_harmed", "confirm"])
@pytest.mark.parametrize("trouble", [ChainUnavailable("the chain is away"), Dropped("gone")])
@virtual
async def test_an_outage_does_not_cost_the_requester_its_compensation(call: str, trouble: Exception) -> None:
    async with court() as c:
        c.faulty.fail(call, trouble, trouble)
        await c.reject_asked(c.world.request(fee=Uint256(FEE), task_definition_id=1))
        await asyncio.sleep(WINDOW + 10)
        assert await c.chain.owed_to(REQUESTER.address) == FEE


@virtual
async def test_a_name_that_a_reorg_took_back_is_given_again() -> None:
    async with court() as c:
        slash_id = await c.reject_asked(c.world.request(fee=Uint256(FEE), task_definition_id=1))
        before = set(c.chain._ledger._known)
        await until(lambda: c.chain._state().court.slashes[slash_id].value, "it is named")
        c.chain.reorg(4, dropped=set(c.chain._ledger._known) - before)
        assert c.chain._state().court.slashes.get(slash_id) is None
        await asyncio.sleep(WINDOW + 20)
        assert await c.chain.owed_to(REQUESTER.address) == FEE


@virtual
async def test_who_was_harmed_is_known_after_kill_9() -> None:
    world, file = World(), MemoryFile()
    async with court(world, file=file) as c:
        request = world.request(fee=Uint256(FEE), task_definition_id=1)
        await c.executor.remember(world.domain.task_id(request), request)
    async with court(world, c.chain, file) as c:
        certificate = world.certificate(
            world.info("x", task_id=world.domain.task_id(request), task_definition_id=1), Verdict.INVALID
        )
        await c.chain.confirm(await c.chain.submit_task(certificate), 10)
        await asyncio.sleep(WINDOW + 10)
        assert await c.chain.owed_to(REQUESTER.address) == FEE


@virtual
async def test_a_requester_that_somebody_else_named_is_named_once() -> None:
    async with court() as c:
        request = c.world.request(fee=Uint256(FEE), task_definition_id=1)
        c.faulty.fail("name_harmed", ChainUnavailable("the chain is away"))
        slash_id = await c.reject_asked(request)
        await c.chain.confirm(await c.chain.name_harmed(slash_id, request), 10)
        await asyncio.sleep(WINDOW + 10)
        assert c.faulty.count("name_harmed") >= 2
        assert await c.chain.owed_to(REQUESTER.address) == FEE


# --- vetoes and cancellations --------------------------------------------------------------------------
@virtual
async def test_a_veto_is_waited_for_and_its_end_is_the_slashs() -> None:
    async with court() as c:
        slash_id = await c.reject_asked(c.world.request(fee=Uint256(FEE), task_definition_id=1))
        await asyncio.sleep(WINDOW - 20)
        await c.chain.announce_veto(OWNER.address, slash_id)
        await asyncio.sleep(TERMS.veto_delay_seconds)
        asked = c.faulty.count("execute_slash")
        assert 1 < asked < 10  # a veto may wait for hours: it is not asked about by the second
        await c.chain.execute_veto(slash_id)
        await asyncio.sleep(FINAL + 100)
        assert await c.chain.stake_of(PERFORMER.address) == 10 * ETHER
        assert (c.executed, c.file.entries) == ([], {})
        asked = c.faulty.count("execute_slash")
        await asyncio.sleep(10 * FINAL)
        assert c.faulty.count("execute_slash") == asked


@virtual
async def test_a_veto_that_is_overruled_delays_the_slash_and_no_more() -> None:
    async with court() as c:
        slash_id = await c.reject_asked(c.world.request(fee=Uint256(FEE), task_definition_id=1))
        await c.chain.announce_veto(OWNER.address, slash_id)
        await asyncio.sleep(WINDOW + 30)
        assert c.executed == []
        signature = _signed_by_all(c.world, c.chain.deployment.court_domain.overrule_veto(slash_id))
        await c.chain.overrule_veto(slash_id, 1, signature, b"")
        await asyncio.sleep(70)
        assert await c.chain.stake_of(PERFORMER.address) == 10 * ETHER - SLASHED
        assert await c.chain.owed_to(REQUESTER.address) == FEE


@virtual
async def test_one_that_the_operators_cancelled_is_left_alone() -> None:
    async with court() as c:
        slash_id = await c.reject_asked(c.world.request(fee=Uint256(FEE), task_definition_id=1))
        signature = _signed_by_all(c.world, c.chain.deployment.court_domain.cancel_slash(slash_id))
        await c.chain.cancel_slash(slash_id, 1, signature, b"")
        await asyncio.sleep(WINDOW + FINAL + 100)
        assert await c.chain.stake_of(PERFORMER.address) == 10 * ETHER
        assert (c.executed, c.file.entries) == ([], {})


@virtual
async def test_old_slashes_are_done_with_after_a_restart() -> None:
    """What a former process could not delete any more goes too."""
    world, file = World(), MemoryFile()
    async with court(world, file=file) as c:
        await c.reject_asked(world.request(fee=Uint256(FEE), task_definition_id=1))
        await asyncio.sleep(WINDOW + 10)
        assert len(c.executed) == 1
    assert {kind for kind, _ in file.entries} == {HARMED}
    await asyncio.sleep(2 * FINAL)
    async with court(world, c.chain, file) as c:
        await asyncio.sleep(10)
        assert (file.entries, c.executor._queued) == ({}, {})
        assert c.faulty.count("execute_slash") <= 1


def _signed_by_all(world: World, digest: Digest) -> bytes:
    return bls.aggregate(person.vote.sign(digest) for person in world.people)
