"""Settlements that a reorg may take back: looked at until none can, and settled again when one did."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from aggregator.finality import LOOKS_SECONDS, RETRY_MAX_SECONDS, SETTLED, Finality, patiently
from shared.adapters.memory.store import MemoryFile, MemoryStore
from shared.batch import make_batch
from shared.errors import ChainUnavailable, Reverted
from shared.types import TaskCertificate, Verdict
from tests.chain_support import AGGREGATOR
from tests.faulty_chain import FaultyChain
from tests.listening import virtual
from tests.roles import World

FINAL = sum(LOOKS_SECONDS)


def now() -> float:
    return asyncio.get_running_loop().time()


@asynccontextmanager
async def looking(file: MemoryFile | None = None) -> AsyncIterator[tuple[World, FaultyChain, Finality]]:
    world = World()
    faulty = FaultyChain(await world.chain())
    async with MemoryStore(file or MemoryFile()) as store:
        yield world, faulty, Finality(settlement=faulty, store=store)


async def settle(faulty: FaultyChain, certificate: TaskCertificate) -> None:
    await faulty.chain.confirm(await faulty.chain.submit_task(certificate), 10)


# --- standing ----------------------------------------------------------------------------------------
@virtual
async def test_a_settlement_that_stays_is_final_after_all_looks() -> None:
    async with looking() as (world, faulty, finality):
        certificate = world.certificate(world.info("a"))
        await settle(faulty, certificate)
        begin = now()
        assert await finality.stands(certificate.task_info.task_id, (certificate,))
        assert now() - begin == pytest.approx(FINAL, abs=1)
        assert faulty.count("verdict_of") == len(LOOKS_SECONDS)


@virtual
async def test_one_that_is_gone_is_noticed_at_the_next_look() -> None:
    async with looking() as (world, faulty, finality):
        certificate = world.certificate(world.info("a"))
        begin = now()
        await settle(faulty, certificate)
        looking_on = asyncio.create_task(finality.stands(certificate.task_info.task_id, (certificate,)))
        await asyncio.sleep(5)
        faulty.chain.reorg(64, dropped=list(faulty.chain._ledger._known))
        assert not await looking_on
        assert now() - begin == pytest.approx(LOOKS_SECONDS[0], abs=2)


@virtual
async def test_an_outage_is_not_a_reorg() -> None:
    async with looking() as (world, faulty, finality):
        certificate = world.certificate(world.info("a"), Verdict.INVALID)
        await settle(faulty, certificate)
        faulty.fail("verdict_of", *[ChainUnavailable("the chain is away")] * 10)
        assert await finality.stands(certificate.task_info.task_id, (certificate,))


@virtual
async def test_a_batch_is_looked_for_by_its_root() -> None:
    async with looking() as (world, faulty, finality):
        certificates = [world.certificate(world.info(name)) for name in "ab"]
        batch = make_batch(world.domain, certificates, 1, AGGREGATOR.address, world.roster.table_of)
        assert not await finality.stands(batch.info.root, batch.certificates)
        assert (faulty.count("is_batch_settled"), faulty.count("verdict_of")) == (1, 0)


# --- remembering -------------------------------------------------------------------------------------
@virtual
async def test_what_is_kept_is_there_after_kill_9_until_it_is_dropped() -> None:
    file = MemoryFile()
    async with looking(file) as (world, _, finality):
        one, two = (world.certificate(world.info(name)) for name in "ab")
        batch = make_batch(world.domain, [one, two], 1, AGGREGATOR.address, world.roster.table_of)
        await finality.keep(one.task_info.task_id, (one,))
        await finality.keep(batch.info.root, batch.certificates)
        file.kill()
    async with looking(file) as (_, _, finality):
        assert await finality.kept() == {one.task_info.task_id: (one,), batch.info.root: batch.certificates}
        await finality.drop(batch.info.root)
        assert {kind for kind, _ in file.entries} == {SETTLED}
        assert await finality.kept() == {one.task_info.task_id: (one,)}


# --- patience ----------------------------------------------------------------------------------------
@virtual
async def test_it_asks_until_the_chain_answers() -> None:
    asked: list[float] = []

    async def ask() -> str:
        asked.append(now())
        if len(asked) < 9:
            raise ChainUnavailable("the chain is away")
        return "answer"

    assert await patiently(ask) == "answer"
    waits = [later - earlier for earlier, later in pairwise(asked)]
    assert waits == pytest.approx([1, 2, 4, 8, 16, RETRY_MAX_SECONDS, RETRY_MAX_SECONDS, RETRY_MAX_SECONDS])


@virtual
async def test_another_error_is_not_waited_out() -> None:
    async def ask() -> None:
        raise Reverted("TaskAlreadySettled", ())

    with pytest.raises(Reverted):
        await patiently(ask)
