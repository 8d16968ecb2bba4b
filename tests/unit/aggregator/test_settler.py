"""Certificates on their way to the chain: alone or in batches, and what the contract says of them."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from structlog.testing import capture_logs

from aggregator.finality import LOOKS_SECONDS
from aggregator.settler import UNSETTLED
from shared.adapters.memory.chain import MemoryChain
from shared.batch import document_cid
from shared.constants import BATCH_DOCUMENT_SECONDS, BATCH_VOTE_SECONDS, MAX_BATCH_SIZE, MAX_DATA_BYTES
from shared.errors import Reverted, TransportError
from shared.messages import SubmittedMessage
from shared.types import Offence, Verdict
from tests.chain_support import AGGREGATOR
from tests.faulty_chain import FaultyChain
from tests.listening import until, virtual
from tests.office import BATCH_SECONDS, TakesAll, included, now, office
from tests.roles import TERMS, World


# --- alone -------------------------------------------------------------------------------------------
@virtual
async def test_a_rejection_goes_by_itself_and_at_once() -> None:
    async with office() as o:
        begin = now()
        await o.take("a", verdict=Verdict.INVALID)
        await o.is_done()
        assert now() - begin < BATCH_SECONDS
        assert await o.verdict_of("a") is Verdict.INVALID
        [slash] = o.chain._state().court.slashes.values()
        assert (slash.task_id, slash.offence) == (o.world.info("a").task_id, Offence.REJECTED_TASK)


@virtual
async def test_several_rejections_go_one_by_one() -> None:
    async with office() as o:
        await o.take("a", "b", "c", verdict=Verdict.INVALID)
        await o.is_done()
        assert [await o.verdict_of(name) for name in "abc"] == [Verdict.INVALID] * 3
        assert (o.faulty.count("submit_task"), o.faulty.count("submit_batch")) == (3, 0)


@virtual
async def test_a_lone_approval_waits_for_company_and_goes_by_itself() -> None:
    async with office() as o:
        begin = now()
        await o.take("a")
        await o.is_done()
        assert await o.verdict_of("a") is Verdict.VALID
        assert o.faulty.times("submit_task") == pytest.approx([begin + BATCH_SECONDS], abs=0.1)


@virtual
async def test_a_batchs_document_is_kept_for_who_claims_its_fees() -> None:
    async with office() as o:
        began_at = o.world.clock.now()
        await o.take("a", "b")
        await o.is_done()
        [submission] = o.faulty.batches
        pin = o.world.content.pins[AGGREGATOR.address][document_cid(submission.batch.content_hash)]
        assert began_at <= pin.keep_until - BATCH_DOCUMENT_SECONDS <= o.world.clock.now()


@virtual
async def test_the_same_certificate_twice_is_settled_once() -> None:
    async with office() as o:
        await o.take("a", "a")
        await o.is_done()
        assert (o.faulty.count("submit_task"), o.faulty.count("submit_batch")) == (1, 0)


@virtual
async def test_who_waits_is_told_which_transaction_it_is() -> None:
    async with office() as o:
        certificates = await o.take("a", "b")
        hint: SubmittedMessage = (await o.bystander.hears(SubmittedMessage))[0]
        assert hint.aggregator == AGGREGATOR.address
        assert set(hint.task_ids) == {certificate.task_info.task_id for certificate in certificates}
        assert o.chain._ledger.outcome(hint.tx_hash) is None  # under way, and not said to be more
        await o.is_done()


@virtual
async def test_a_hint_that_cannot_be_sent_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise TransportError("no network")

    async with office() as o:
        monkeypatch.setattr(o.settler._gossip, "publish", fail)
        await o.take("a")
        await o.is_done()
        assert await o.verdict_of("a") is Verdict.VALID


# --- in batches --------------------------------------------------------------------------------------
@virtual
async def test_approvals_that_come_together_become_one_batch() -> None:
    async with office() as o:
        certificates = await o.take("a", "b", "c")
        await o.is_done()
        assert (o.faulty.count("submit_batch"), o.faulty.count("submit_task")) == (1, 0)
        assert o.faulty.batches[0].batch.size == 3
        assert [await included(o, certificate) for certificate in certificates] == [True] * 3
        assert [await o.verdict_of(name) for name in "abc"] == [None] * 3


@virtual
async def test_a_batch_is_no_larger_than_it_may_be() -> None:
    async with office(max_batch=2) as o:
        await o.take("a", "b", "c", "d", "e")
        await o.is_done()
        assert [submission.batch.size for submission in o.faulty.batches] == [2, 2]
        assert o.faulty.count("submit_task") == 1


@virtual
async def test_a_full_batch_does_not_wait() -> None:
    async with office(max_batch=2, batch_seconds=600) as o:
        begin = now()
        await o.take("a", "b")
        await o.is_done()
        assert now() - begin < 10


async def test_no_setting_makes_a_batch_over_the_protocols_size() -> None:
    async with World() as world, world.aggregator(FaultyChain(MemoryChain(TERMS)), max_batch=10_000) as parts:
        assert parts[1]._max_batch == MAX_BATCH_SIZE


@virtual
async def test_a_rejection_never_hides_in_a_batch() -> None:
    """In a batch nobody would be slashed for it."""
    async with office() as o:
        await o.take("a", "b")
        await o.take("x", verdict=Verdict.INVALID)
        await o.is_done()
        assert await o.verdict_of("x") is Verdict.INVALID
        assert [submission.batch.size for submission in o.faulty.batches] == [2]


@pytest.mark.parametrize("attesting", [0, 2])
@virtual
async def test_a_batch_that_finds_no_quorum_goes_one_by_one(attesting: int) -> None:
    async with office(attesting=attesting) as o:
        begin = now()
        await o.take("a", "b")
        await o.is_done()
        assert [await o.verdict_of(name) for name in "ab"] == [Verdict.VALID] * 2
        assert o.faulty.count("submit_batch") == 0
        first = begin + BATCH_SECONDS + BATCH_VOTE_SECONDS
        assert o.faulty.times("submit_task")[0] == pytest.approx(first, abs=0.2)


@virtual
async def test_a_batch_that_the_contract_refuses_goes_one_by_one() -> None:
    async with office() as o:
        o.faulty.fail("submit_batch", Reverted("UnknownEpoch", (1, 3)))
        await o.take("a", "b")
        await o.is_done()
        assert [await o.verdict_of(name) for name in "ab"] == [Verdict.VALID] * 2


@virtual
async def test_a_batch_whose_document_is_too_large_goes_one_by_one() -> None:
    """128 certificates with the longest data are over one block: that must not end the aggregator."""
    async with office(attesting=0) as o:
        o.faulty.chain = cast("MemoryChain", TakesAll())
        names = [f"task {number}" for number in range(MAX_BATCH_SIZE)]
        with capture_logs() as logs:
            await o.take(*names, data=bytes(MAX_DATA_BYTES))
            await o.is_done()
        assert o.faulty.count("submit_task") == MAX_BATCH_SIZE
        said = [entry["reason"] for entry in logs if entry["event"].startswith("no batch")]
        assert len(said) == 1
        assert said[0].endswith("bytes is over 1048576")


# --- what the contract says ----------------------------------------------------------------------------
@virtual
async def test_a_task_that_another_aggregator_settled_is_forgotten() -> None:
    async with office() as o:
        [certificate] = [o.world.certificate(o.world.info("x"), Verdict.INVALID)]
        await o.chain.confirm(await o.chain.submit_task(certificate), 10)
        await o.settler.add(certificate)
        await asyncio.sleep(sum(LOOKS_SECONDS) + 10)
        assert o.file.entries == {}
        assert o.faulty.count("submit_task") == 0


@virtual
async def test_a_batch_that_another_aggregator_settled_is_forgotten() -> None:
    async with office() as o:
        o.faulty.fail("submit_batch", Reverted("BatchAlreadySettled", (bytes(32),)))
        await o.take("a", "b")
        await o.is_done()
        assert o.faulty.count("submit_task") == 0


@virtual
async def test_one_that_lost_the_race_in_the_block_is_forgotten() -> None:
    async with office() as o:
        o.faulty.fail("confirm", Reverted("TaskAlreadySettled", (bytes(32),)))
        await o.take("x", verdict=Verdict.INVALID)
        await o.is_done()
        assert o.faulty.count("submit_task") == 1


@pytest.mark.parametrize(
    "refusal",
    [
        Reverted("UnknownEpoch", (1, 3)),
        Reverted("QuorumNotReached", (1, 3, True)),
        Reverted("out of gas"),
        Reverted(""),
    ],
    ids=str,
)
@virtual
async def test_what_the_contract_refuses_otherwise_is_kept_and_told(refusal: Reverted) -> None:
    async with office() as o:
        o.faulty.fail("submit_task", refusal)
        with capture_logs() as logs:
            await o.take("x", verdict=Verdict.INVALID)
            await o.take("y", verdict=Verdict.INVALID)
            await until(lambda: o.stored(UNSETTLED) == 1, "the other one settled")
        assert [entry["reason"] for entry in logs if entry["log_level"] == "error"] == [str(refusal)]
        assert await o.verdict_of("x") is None
        assert await o.verdict_of("y") is Verdict.INVALID
        await asyncio.sleep(100)
        assert (o.stored(UNSETTLED), o.faulty.count("submit_task")) == (1, 2)


@virtual
async def test_a_node_that_does_not_know_the_epoch_yet_is_asked_again() -> None:
    async with office() as o:
        o.faulty.fail("submit_task", *[Reverted("UnknownEpoch", (2, 1))] * 3)
        await o.take("x", verdict=Verdict.INVALID)
        await o.is_done()
        assert await o.verdict_of("x") is Verdict.INVALID
