"""Definitions that wait for all votes: when they make a certificate, and how one that lacks some settles."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
import pytest

from aggregator.deadlines import Deadlines
from aggregator.finality import LOOKS_SECONDS
from aggregator.pool import Tally
from aggregator.settler import LATE, UNSETTLED
from aggregator.turns import TAKEOVER_SECONDS
from shared import messages
from shared.adapters.memory.chain import MemoryChain
from shared.errors import ChainUnavailable, Reverted, StoreFull
from shared.messages import CertificateMessage, TaskMessage
from shared.types import Role, TaskCertificate, TaskTerms, Verdict
from tests.chain_support import AGGREGATOR, PERFORMER, Person
from tests.hall import hall
from tests.listening import until, virtual
from tests.office import Office, included, now, office
from tests.roles import World
from tests.simnet.virtual_time import START
from tests.toy_model import DEFINITION

TERMS = TaskTerms(dispute_window=500, waits_for_all=True)
VALID, INVALID = Verdict.VALID, Verdict.INVALID
FINAL = sum(LOOKS_SECONDS)
RIVAL = Person("rival")


# --- making certificates ---------------------------------------------------------------------------------
@virtual
async def test_a_missing_vote_is_waited_for_until_the_deadline() -> None:
    async with hall(terms=TERMS) as h:
        message = await h.task()
        await h.votes(message, 0, 1, 2)
        await h.none(message.request.deadline - START - now())
        certificate = await h.certificate()
        assert message.request.deadline < h.world.clock.now() <= message.request.deadline + 2
        assert (certificate.task_info, certificate.verdict, certificate.signers) == (
            message.task_info,
            VALID,
            (0, 1, 2),
        )
        await asyncio.sleep(60)
        assert len(h.performer.certificates) == 1


@virtual
async def test_with_all_votes_there_is_a_certificate_at_once() -> None:
    async with hall(terms=TERMS) as h:
        message = await h.task()
        await h.votes(message, 0, 1, 2)
        await h.none()
        begin = now()
        await h.votes(message, 3)
        certificate = await h.certificate()
        assert now() - begin < 1
        assert (certificate.verdict, certificate.signers) == (VALID, (0, 1, 2, 3))


@pytest.mark.parametrize(
    ("valid", "invalid", "verdict"),
    [((0, 1, 2), (3,), VALID), ((1, 2, 3), (0,), VALID), ((0, 2), (1, 3), INVALID), ((0,), (1, 2, 3), INVALID)],
)
@virtual
async def test_mixed_votes_that_are_all_there_decide_at_once_by_the_quorum(
    valid: tuple[int, ...], invalid: tuple[int, ...], verdict: Verdict
) -> None:
    async with hall(terms=TERMS) as h:
        message = await h.task()
        await h.votes(message, *valid)
        await h.votes(message, *invalid[:-1], verdict=INVALID)
        await h.none()
        begin = now()
        await h.votes(message, invalid[-1], verdict=INVALID)
        certificate = await h.certificate()
        assert now() - begin < 1
        assert (certificate.verdict, certificate.signers) == (verdict, valid if verdict is VALID else invalid)
        [said] = h.performer.of(CertificateMessage)
        assert (said.valid_power, said.invalid_power) == (1000 * len(valid), 1000 * len(invalid))
        assert [kind for kind, _ in h.world.files[AGGREGATOR.name].entries if kind in (LATE, UNSETTLED)] == [
            LATE,
            UNSETTLED,
        ]


@virtual
async def test_without_a_quorum_at_the_deadline_the_vote_that_makes_it_certifies() -> None:
    async with hall(terms=TERMS) as h:
        message = await h.task()
        await h.votes(message, 0, 1)
        await h.none(message.request.deadline - START - now() + 10)
        await h.votes(message, 3)
        assert (await h.certificate()).signers == (0, 1, 3)


@virtual
async def test_a_certificate_that_could_not_be_stored_at_the_deadline_is_made_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody repeats a message after the deadline."""
    async with hall(terms=TERMS) as h:
        message = await h.task()
        await h.votes(message, 0, 1, 2)
        put, failures = h.store.put, iter((True, True))

        async def fail(kind: str, key: bytes, value: bytes) -> None:
            if next(failures, False):
                raise StoreFull("no room")
            await put(kind, key, value)

        monkeypatch.setattr(h.store, "put", fail)
        await h.none(message.request.deadline - START - now() + 2)
        assert (await h.certificate()).signers == (0, 1, 2)


@virtual
async def test_after_a_restart_repeated_votes_make_the_certificate_at_the_deadline() -> None:
    async with hall(terms=TERMS) as h:
        message = await h.task()
        await h.votes(message, 0, 1, 2)
        await h.none()
        assert h.world.files[AGGREGATOR.name].entries == {}
    async with hall(terms=TERMS) as h:  # on an equal disk, an empty one
        await h.performer.say(message)
        await h.votes(message, 0, 1, 2)
        await h.none(message.request.deadline - START - now())
        assert (await h.certificate()).signers == (0, 1, 2)


@virtual
async def test_timers_are_as_few_as_the_pool_has_tasks() -> None:
    concluded: list[Tally] = []

    async def conclude(tally: Tally) -> None:
        concluded.append(tally)

    async with World() as world:
        deadlines = Deadlines(clock=world.clock, conclude=conclude, capacity=2)
        tallies = []
        for nonce in (1, 2, 3):
            message = await world.performed(request={"nonce": nonce})
            tallies.append(Tally(world.domain.task_info_hash(message.task_info), message, world.table_of(1)))
        async with asyncio.TaskGroup() as group:
            for tally in (*tallies, *tallies[1:]):
                deadlines.watch(tally, group)
            assert len(deadlines) == 2
            # The pool forgot one, and opened it anew.
            again = Tally(tallies[1].task_info_hash, tallies[1].message, tallies[1].table)
            deadlines.watch(again, group)
            assert len(deadlines) == 2
        assert [id(tally) for tally in concluded] == [id(tallies[2]), id(again)]
        assert len(deadlines) == 0
        assert world.clock.now() == pytest.approx(tallies[0].message.request.deadline + 1)


# --- settling them -------------------------------------------------------------------------------------------
@asynccontextmanager
async def waiting() -> AsyncIterator[tuple[World, MemoryChain]]:
    """Whose definition waits for all votes."""
    async with World() as world:
        world.define(msgspec.structs.replace(DEFINITION, terms=TERMS))
        yield world, await world.chain(TERMS)


async def _lacking(
    world: World, verdict: Verdict = VALID, signers: Sequence[int] = (0, 1, 2)
) -> tuple[TaskMessage, TaskCertificate]:
    message = await world.performed()
    return message, world.certificate(message.task_info, verdict, signers)


def _sent(o: Office) -> tuple[int, int, int]:
    return tuple(o.faulty.count(f"submit_{what}") for what in ("task_after_deadline", "task", "batch"))  # type: ignore[return-value]


@pytest.mark.parametrize(("verdict", "signers"), [(VALID, (0, 1, 2)), (INVALID, (1, 2))])
@virtual
async def test_one_that_lacks_votes_settles_by_itself_after_the_deadline(
    verdict: Verdict, signers: Sequence[int]
) -> None:
    async with waiting() as (world, chain), office(world=world, chain=chain) as o:
        message, certificate = await _lacking(world, verdict, signers)
        await o.settler.add(certificate, message.request)
        batched = await o.take("a", "b")  # with all votes
        await asyncio.sleep(message.request.deadline - START - now())
        assert [await included(o, each) for each in batched] == [True, True]
        assert _sent(o) == (0, 0, 1)
        assert await chain.verdict_of(message.task_info.task_id) is None
        await until(lambda: not o.stored(UNSETTLED), "it is settled", 10)
        assert await chain.verdict_of(message.task_info.task_id) is verdict
        [sent] = o.faulty.times("submit_task_after_deadline")
        assert message.request.deadline < START + sent <= message.request.deadline + 2
        assert (o.stored(LATE), _sent(o)) == (1, (1, 0, 1))
        await asyncio.sleep(FINAL + 10)
        assert set(o.file.entries) <= {("harmed", message.task_info.task_id)}


@virtual
async def test_one_with_all_votes_needs_no_request_and_no_deadline() -> None:
    async with waiting() as (world, chain), office(world=world, chain=chain) as o:
        await o.take("x", verdict=INVALID)
        await o.is_done()
        assert (await o.verdict_of("x"), o.stored(LATE), _sent(o)) == (INVALID, 0, (0, 1, 0))


@pytest.mark.parametrize("when", ["before the deadline", "after the deadline", "while it is sent"])
@virtual
async def test_kill_9_between_certificate_and_settlement_loses_nothing(when: str) -> None:
    async with waiting() as (world, chain):
        message, certificate = await _lacking(world)
        async with office(world=world, chain=chain, begin=when == "while it is sent") as o:
            o.faulty.fail("submit_task_after_deadline", *[ChainUnavailable("no answer")] * 99)
            await o.settler.add(certificate, message.request)
            if when == "while it is sent":
                await asyncio.sleep(message.request.deadline - START - now() + 5)
                assert (o.stored("alone"), _sent(o)[1:]) == (1, (0, 0))
        if when == "after the deadline":
            await asyncio.sleep(message.request.deadline - START - now() + 100)
        async with office(world=world, chain=chain) as again:
            await until(lambda: not again.stored(UNSETTLED), "it is settled", 1000)
            assert await chain.verdict_of(message.task_info.task_id) is VALID
            assert _sent(again)[1:] == (0, 0)
            assert START + again.faulty.times("submit_task_after_deadline")[0] > message.request.deadline
            assert len(chain._ledger.events) == 1
            await asyncio.sleep(FINAL + 10)
            assert again.file.entries == {}


@virtual
async def test_a_request_without_its_certificate_is_swept_away() -> None:
    """What kill -9 leaves between the two."""
    async with waiting() as (world, chain):
        message, _ = await _lacking(world)
        async with office(world=world, chain=chain, begin=False) as o:
            await o.store.put(LATE, message.task_info.task_id, messages.encode_request(message.request))
        async with office(world=world, chain=chain) as again:
            assert again.file.entries == {}


@virtual
async def test_a_chain_whose_clock_lags_is_asked_again() -> None:
    async with waiting() as (world, chain), office(world=world, chain=chain) as o:
        message, certificate = await _lacking(world)
        lag = Reverted("VotesMissing", (message.task_info.task_id, message.request.deadline))
        o.faulty.fail("submit_task_after_deadline", lag, lag)
        await o.settler.add(certificate, message.request)
        await asyncio.sleep(message.request.deadline - START - now() + 10)
        assert (_sent(o), o.stored(UNSETTLED)) == ((3, 0, 0), 0)
        assert await chain.verdict_of(message.task_info.task_id) is VALID


@pytest.mark.parametrize("is_lost", [False, True])
@virtual
async def test_what_the_contract_refuses_for_other_reasons_is_not_sent_again(is_lost: bool) -> None:
    async with waiting() as (world, chain), office(world=world, chain=chain) as o:
        message, certificate = await _lacking(world)
        name, arguments = ("EpochExpired", (1, 2)) if is_lost else ("VotesMissing", (message.task_info.task_id, 0))
        o.faulty.fail("submit_task_after_deadline", Reverted(name, arguments))
        await o.settler.add(certificate, message.request)
        await asyncio.sleep(message.request.deadline - START - now() + 100)
        assert _sent(o) == (1, 0, 0)
        assert (o.stored(UNSETTLED), o.stored(LATE)) == ((0, 0) if is_lost else (1, 1))


@virtual
async def test_what_a_reorg_took_back_is_settled_with_its_request_again() -> None:
    async with waiting() as (world, chain), office(world=world, chain=chain) as o:
        message, certificate = await _lacking(world)
        await o.settler.add(certificate, message.request)
        await asyncio.sleep(message.request.deadline - START - now() + 5)
        sent = [tx for tx, found in chain._ledger._known.items() if found.block == chain._ledger.events[0].block]
        chain.reorg(20, dropped=sent)
        assert await chain.verdict_of(message.task_info.task_id) is None
        await asyncio.sleep(LOOKS_SECONDS[0] + 10)
        assert await chain.verdict_of(message.task_info.task_id) is VALID
        assert _sent(o) == (2, 0, 0)
        await asyncio.sleep(FINAL + 10)
        assert o.file.entries == {}


@virtual
async def test_what_another_settled_with_all_votes_is_let_go() -> None:
    async with waiting() as (world, chain), office(world=world, chain=chain) as o:
        message, certificate = await _lacking(world)
        await o.settler.add(certificate, message.request)
        await asyncio.sleep(10)
        await chain.confirm(await chain.submit_task(world.certificate(message.task_info)), 10)
        await asyncio.sleep(message.request.deadline - START - now() + FINAL + 10)
        assert (_sent(o), o.file.entries) == ((0, 0, 0), {})


# --- other aggregators' -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("order", ["task first", "certificate first", "no task"])
@virtual
async def test_anothers_that_lacks_votes_is_adopted_once_its_request_is_known(order: str) -> None:
    async with AsyncExitStack() as stack:
        world, chain = await stack.enter_async_context(waiting())
        world.enlist(RIVAL, Role.AGGREGATOR)
        o = await stack.enter_async_context(office(world=world, chain=chain, person=AGGREGATOR, attesting=0))
        rival, performer = await world.bystander(RIVAL), await world.bystander(PERFORMER)
        message, certificate = await _lacking(world)
        said = [message, CertificateMessage(certificate, valid_power=3000, invalid_power=0)]
        for each in {"task first": said, "certificate first": said[::-1], "no task": said[1:]}[order]:
            await (performer if isinstance(each, TaskMessage) else rival).say(each)
            await asyncio.sleep(0.5)
        expected = order != "no task"
        assert (o.stored(LATE), o.stored(UNSETTLED)) == (expected, expected)
        await asyncio.sleep(message.request.deadline - START - now() + TAKEOVER_SECONDS + 10)
        assert _sent(o) == (int(expected), 0, 0)
        assert await chain.verdict_of(message.task_info.task_id) is (VALID if expected else None)


@pytest.mark.parametrize("is_own", [True, False])
@pytest.mark.parametrize("first", ["task", "certificate"])
@virtual
async def test_one_with_all_votes_takes_the_place_of_one_that_lacks_some(first: str, is_own: bool) -> None:
    """Somebody published the first as soon as it could."""
    async with AsyncExitStack() as stack:
        world, chain = await stack.enter_async_context(waiting())
        world.enlist(RIVAL, Role.AGGREGATOR)
        o = await stack.enter_async_context(office(world=world, chain=chain, person=AGGREGATOR, attesting=0))
        rival, performer = await world.bystander(RIVAL), await world.bystander(PERFORMER)
        attesters = [await world.bystander(person) for person in world.people]
        message, certificate = await _lacking(world)
        lacking = CertificateMessage(certificate, valid_power=3000, invalid_power=0)
        said = [(performer, message), (rival, lacking)]
        for speaker, each in said if first == "task" else said[::-1]:
            await speaker.say(each)  # type: ignore[arg-type]
            await asyncio.sleep(0.5)
        await until(lambda: o.stored(UNSETTLED), "it is adopted")
        assert o.stored(LATE) == 1
        if is_own:
            for seat, attester in enumerate(attesters):
                await attester.say(world.vote(seat, message.task_info))
        else:
            await rival.say(CertificateMessage(world.certificate(message.task_info), 0, 4000))
        await until(lambda: not o.stored(LATE), "it has given way")
        await o.is_done()
        assert START + now() < message.request.deadline - 100
        assert await chain.verdict_of(message.task_info.task_id) is VALID
        heard = [each.signers for each in o.bystander.certificates]
        assert list(dict.fromkeys(heard)) == [(0, 1, 2), (0, 1, 2, 3)]
        # And the other way round nothing changes any more.
        await rival.say(CertificateMessage(world.certificate(message.task_info, VALID, (1, 2, 3)), 0, 3000))
        await asyncio.sleep(message.request.deadline - START - now() + FINAL + 100)
        assert (_sent(o), o.file.entries) == ((0, 1, 0), {})
