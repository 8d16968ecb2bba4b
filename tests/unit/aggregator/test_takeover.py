"""Two aggregators and one certificate: who settles it, when, and what the other one does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
import pytest

from aggregator.finality import LOOKS_SECONDS
from aggregator.settler import UNSETTLED
from aggregator.turns import TAKEOVER_SECONDS, place_of
from shared.adapters.memory.chain import MemoryChain
from shared.errors import Reverted
from shared.messages import CertificateMessage
from shared.types import Role, TaskCertificate, TaskTerms, Verdict
from tests.chain_support import AGGREGATOR, Person
from tests.listening import Bystander, until, virtual
from tests.office import BATCH_SECONDS, included, now, office
from tests.roles import World
from tests.toy_model import DEFINITION

RIVAL = Person("rival")
FINAL = sum(LOOKS_SECONDS)


def _in_order() -> tuple[Person, Person]:
    world = World()
    world.enlist(RIVAL, Role.AGGREGATOR)
    first, second = sorted((AGGREGATOR, RIVAL), key=lambda person: place_of(person.address, 1, world.roster.operators))
    return first, second


FIRST, SECOND = _in_order()


@asynccontextmanager
async def two() -> AsyncIterator[tuple[World, MemoryChain]]:
    """Registered, and none of them running."""
    async with World() as world:
        world.enlist(RIVAL, Role.AGGREGATOR)
        yield world, await world.chain()


async def _settle_elsewhere(chain: MemoryChain, certificate: TaskCertificate) -> None:
    await chain.confirm(await chain.submit_task(certificate), 10)


async def _certified(world: World, speaker: Bystander, name: str, verdict: Verdict = Verdict.VALID) -> TaskCertificate:
    """By the other aggregator, which says so."""
    certificate = world.certificate(world.info(name), verdict)
    power = 4000 if verdict is Verdict.VALID else 0
    await speaker.say(CertificateMessage(certificate, valid_power=power, invalid_power=4000 - power))
    return certificate


# --- one's own certificates ----------------------------------------------------------------------------
@virtual
async def test_the_first_settles_at_once() -> None:
    async with two() as (world, chain), office(world=world, chain=chain, person=FIRST) as o:
        begin = now()
        await o.take("x", verdict=Verdict.INVALID)
        await o.is_done()
        assert now() - begin < BATCH_SECONDS


@pytest.mark.parametrize("names", ["a", "ab"])
@virtual
async def test_the_second_settles_when_the_first_did_not_for_long_enough(names: str) -> None:
    async with two() as (world, chain), office(world=world, chain=chain, person=SECOND) as o:
        begin = now()
        certificates = await o.take(*names)
        await o.is_done()
        sent = o.faulty.times("submit_task") + o.faulty.times("submit_batch")
        assert len(sent) == 1
        assert TAKEOVER_SECONDS <= sent[0] - begin <= TAKEOVER_SECONDS + BATCH_SECONDS + 2
        if len(names) == 1:
            assert await o.verdict_of("a") is Verdict.VALID
        else:
            assert [await included(o, certificate) for certificate in certificates] == [True, True]


@virtual
async def test_the_second_sends_nothing_when_the_first_settled_and_forgets_when_that_is_final() -> None:
    async with AsyncExitStack() as stack:
        world, chain = await stack.enter_async_context(two())
        first = await stack.enter_async_context(office(world=world, chain=chain, person=FIRST))
        second = await stack.enter_async_context(office(world=world, chain=chain, person=SECOND, attesting=0))
        for names, verdict in (("ab", Verdict.VALID), ("x", Verdict.INVALID)):
            await first.take(*names, verdict=verdict)
            await second.take(*names, verdict=verdict)
        await asyncio.sleep(TAKEOVER_SECONDS + FINAL - 10)
        assert second.stored(UNSETTLED) == 3
        await asyncio.sleep(20)
        assert second.file.entries == {}
        assert (second.faulty.count("submit_task"), second.faulty.count("submit_batch")) == (0, 0)
        assert (first.faulty.count("submit_task"), first.faulty.count("submit_batch")) == (1, 1)


@virtual
async def test_what_the_first_settled_and_a_reorg_took_back_for_good_the_second_settles() -> None:
    async with two() as (world, chain), office(world=world, chain=chain, person=SECOND) as o:
        [certificate] = await o.take("x", verdict=Verdict.INVALID)
        await asyncio.sleep(TAKEOVER_SECONDS - 1)
        await _settle_elsewhere(chain, certificate)
        await asyncio.sleep(3)
        sent = [tx for tx, found in chain._ledger._known.items() if found.block == chain._ledger.events[0].block]
        chain.reorg(20, dropped=sent)
        assert await o.verdict_of("x") is None
        await asyncio.sleep(LOOKS_SECONDS[0] + 5)
        assert await o.verdict_of("x") is Verdict.INVALID
        assert o.faulty.count("submit_task") == 1


# --- other aggregators' certificates ---------------------------------------------------------------------
@pytest.mark.parametrize("person", [FIRST, SECOND], ids=["first", "second"])
@virtual
async def test_anothers_certificate_is_settled_when_its_aggregator_is_gone(person: Person) -> None:
    other = SECOND if person is FIRST else FIRST
    async with two() as (world, chain), office(world=world, chain=chain, person=person) as o:
        speaker = await world.bystander(other)
        begin = now()
        await _certified(world, speaker, "x", Verdict.INVALID)
        await until(lambda: o.stored(UNSETTLED), "it is kept", 1)
        await o.is_done()
        assert await o.verdict_of("x") is Verdict.INVALID
        [sent] = o.faulty.times("submit_task")
        assert TAKEOVER_SECONDS - 1 <= sent - begin <= TAKEOVER_SECONDS + 1


@virtual
async def test_the_first_settles_anothers_certificate_at_once_when_it_has_followed_the_chain() -> None:
    """The other one was quicker to certify, and waits for it."""
    async with two() as (world, chain), office(world=world, chain=chain, person=FIRST) as o:
        speaker = await world.bystander(SECOND)
        await asyncio.sleep(TAKEOVER_SECONDS)
        begin = now()
        await _certified(world, speaker, "x", Verdict.INVALID)
        await until(lambda: o.faulty.count("submit_task"), "it is sent")
        assert now() - begin < 1


@virtual
async def test_an_adopted_certificate_outlives_kill_9() -> None:
    async with two() as (world, chain):
        speaker = await world.bystander(FIRST)
        async with office(world=world, chain=chain, person=SECOND) as o:
            await _certified(world, speaker, "x", Verdict.INVALID)
            await until(lambda: o.stored(UNSETTLED), "it is kept", 1)
        async with office(world=world, chain=chain, person=SECOND) as again:
            await again.is_done()
            assert await again.verdict_of("x") is Verdict.INVALID
            assert again.faulty.count("submit_task") == 1


@pytest.mark.parametrize("is_restarted", [False, True])
@pytest.mark.parametrize("names", ["a", "ab"], ids=["alone", "in a batch"])
@virtual
async def test_an_old_certificate_that_is_repeated_is_never_settled_again(names: str, is_restarted: bool) -> None:
    """By the first in the order, whose memory of it is gone: only the chain and the documents tell."""
    async with AsyncExitStack() as stack:
        world, chain = await stack.enter_async_context(two())
        async with office(world=world, chain=chain, person=SECOND) as other:
            await other.take(*names)
            await other.is_done()
        if is_restarted:
            async with office(world=world, chain=chain, person=FIRST):
                await asyncio.sleep(1)
        o = await stack.enter_async_context(office(world=world, chain=chain, person=FIRST))
        if not is_restarted:
            await asyncio.sleep(TAKEOVER_SECONDS)
        speaker = await world.bystander(SECOND)
        for _ in range(3):
            for name in names:
                await _certified(world, speaker, name)
            await asyncio.sleep(2)
        await asyncio.sleep(TAKEOVER_SECONDS + FINAL + 10)
        assert (o.faulty.count("submit_task"), o.faulty.count("submit_batch")) == (0, 0)
        assert o.file.entries == {}


# --- what can never settle, and what never settles in company ----------------------------------------------
@virtual
async def test_a_certificate_whose_epoch_is_over_is_let_go() -> None:
    async with office() as o:
        o.faulty.fail("submit_task", Reverted("EpochExpired", (1, 1_800_000_000)))
        await o.take("x", verdict=Verdict.INVALID)
        await o.is_done()
        assert (o.file.entries, o.faulty.count("submit_task")) == ({}, 1)


@virtual
async def test_what_settles_singly_never_settles_in_a_batch() -> None:
    async with office() as o:
        alone = msgspec.structs.replace(DEFINITION, terms=TaskTerms(dispute_window=500, settles_singly=True))
        o.world.define(alone)
        await o.take("a", "b", "c")
        await o.is_done()
        assert (o.faulty.count("submit_task"), o.faulty.count("submit_batch")) == (3, 0)
        assert [await o.verdict_of(name) for name in "abc"] == [Verdict.VALID] * 3


@virtual
async def test_what_settles_singly_stays_out_of_the_others_batch() -> None:
    async with office() as o:
        terms = TaskTerms(dispute_window=500, settles_singly=True)
        await o.chain.create_task_definition(
            name="hooked", method="exact", model_hash=DEFINITION.model_hash, card_cid=DEFINITION.card_cid, terms=terms
        )
        o.world.define(msgspec.structs.replace(DEFINITION, id=1, terms=terms))
        batched = await o.take("a", "b")
        await o.take("h", task_definition_id=1)
        await o.is_done()
        assert [submission.batch.size for submission in o.faulty.batches] == [2]
        assert [await included(o, certificate) for certificate in batched] == [True, True]
        assert await o.verdict_of("h") is Verdict.VALID
        assert await o.verdict_of("a") is None
