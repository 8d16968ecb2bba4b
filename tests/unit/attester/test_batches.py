"""An attester on a batch proposal: it signs certificates that it checked, and computes what it signs by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import pytest
from structlog.testing import capture_logs

from shared import messages
from shared.batch import make_batch
from shared.crypto import bls
from shared.messages import BatchProposal, BatchVote
from shared.types import Address, TaskCertificate, TaskTerms, Verdict
from tests.cast import peer_key_of
from tests.chain_support import AGGREGATOR, PERFORMER, Person
from tests.listening import virtual
from tests.roles import World
from tests.toy_model import DEFINITION


def proposal(*certificates: TaskCertificate, epoch: int = 1, aggregator: Address = AGGREGATOR.address) -> BatchProposal:
    return BatchProposal(epoch=epoch, aggregator=aggregator, certificates=certificates)


def certificates(world: World, *names: str) -> list[TaskCertificate]:
    return [world.certificate(world.info(name)) for name in names]


@virtual
async def test_a_batch_of_good_certificates_is_signed() -> None:
    async with World() as world, world.attester(1):
        aggregator = await world.bystander(AGGREGATOR)
        good = certificates(world, "a", "b", "c")
        await aggregator.say(proposal(*good))
        vote: BatchVote = (await aggregator.hears(BatchVote))[0]
        batch = make_batch(world.domain, good, 1, AGGREGATOR.address, world.roster.table_of)
        assert (vote.batch, vote.attester) == (batch.info, world.people[1].address)
        digest = world.domain.batch(batch.info)
        assert bls.verify(world.people[1].vote.public_key, digest, vote.signature)
        assert world.rules().check_batch(peer_key_of(world.people[1]), messages.encode(vote)) == vote


@virtual
async def test_the_order_of_the_certificates_changes_nothing() -> None:
    async with World() as world, world.attester():
        aggregator = await world.bystander(AGGREGATOR)
        good = certificates(world, "a", "b", "c")
        await aggregator.say(proposal(*good))
        await asyncio.sleep(2)
        await aggregator.say(proposal(*reversed(good)))
        first, second = await aggregator.hears(BatchVote, 2)
        assert first == second


@virtual
async def test_certificates_of_the_previous_epoch_still_count() -> None:
    async with World() as world, world.attester():
        aggregator = await world.bystander(AGGREGATOR)
        old = certificates(world, "old")
        world.roll()
        await aggregator.say(proposal(*old, *certificates(world, "new"), epoch=2))
        assert (await aggregator.hears(BatchVote))[0].batch.size == 2


@virtual
async def test_a_batch_for_one_chain_is_signed_for_no_other() -> None:
    async with World() as world, world.attester():
        aggregator = await world.bystander(AGGREGATOR)
        good = certificates(world, "a")
        await aggregator.say(proposal(*good))
        vote = (await aggregator.hears(BatchVote))[0]
        elsewhere = type(world.domain)(world.domain.chain_id + 1, world.domain.contract).batch(vote.batch)
        assert not bls.verify(world.people[0].vote.public_key, elsewhere, vote.signature)


# --- one bad certificate -------------------------------------------------------------------------------
def unsigned_by_performer(world: World) -> TaskCertificate:
    return msgspec.structs.replace(world.certificate(world.info("x")), performer_signature=bytes(65))


def signed_by_another_performer(world: World) -> TaskCertificate:
    info = world.info("x")
    signature = Person("thief").identity.sign(world.domain.task_info_hash(info))
    return msgspec.structs.replace(world.certificate(info), performer_signature=signature)


def of_other_votes(world: World) -> TaskCertificate:
    other = world.certificate(world.info("y"))
    return msgspec.structs.replace(world.certificate(world.info("x")), signature=other.signature)


def turned_round(world: World) -> TaskCertificate:
    return msgspec.structs.replace(world.certificate(world.info("x"), Verdict.INVALID), verdict=Verdict.VALID)


def changed_afterwards(world: World) -> TaskCertificate:
    return msgspec.structs.replace(world.certificate(world.info("x")), task_info=world.info("x", data=b"other"))


BAD: dict[str, tuple[Callable[[World], TaskCertificate], str]] = {
    "two of four": (lambda world: world.certificate(world.info("x"), signers=(0, 1)), "quorum"),
    "one of four against": (lambda world: world.certificate(world.info("x"), Verdict.INVALID, (0,)), "quorum"),
    "unknown epoch": (lambda world: world.certificate(world.info("x", epoch=2)), "unknown epoch"),
    "unsigned by the performer": (unsigned_by_performer, "performer's signature"),
    "another performer": (signed_by_another_performer, "performer's signature"),
    "other votes": (of_other_votes, "aggregate signature"),
    "votes turned round": (turned_round, "aggregate signature"),
    "changed afterwards": (changed_afterwards, "performer's signature"),
    "abstention": (
        lambda world: msgspec.structs.replace(world.certificate(world.info("x")), verdict=Verdict.ABSTAIN),
        "verdict",
    ),
    "no signers": (lambda world: msgspec.structs.replace(world.certificate(world.info("x")), signers=()), "signers"),
    "a signer twice": (
        lambda world: msgspec.structs.replace(world.certificate(world.info("x")), signers=(0, 1, 2, 2)),
        "signers",
    ),
    "a signer out of the table": (
        lambda world: msgspec.structs.replace(world.certificate(world.info("x")), signers=(0, 1, 4)),
        "signers",
    ),
    "twice in the batch": (lambda world: world.certificate(world.info("a")), "two certificates of one task"),
    "two verdicts in the batch": (
        lambda world: world.certificate(world.info("a"), Verdict.INVALID),
        "two certificates of one task",
    ),
}


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("name", BAD)
@virtual
async def test_one_bad_certificate_and_nothing_is_signed(name: str, position: int) -> None:
    make, reason = BAD[name]
    async with World() as world, world.attester():
        aggregator = await world.bystander(AGGREGATOR)
        batch = certificates(world, "a", "b")
        batch.insert(position, make(world))
        with capture_logs() as logs:
            await aggregator.say(proposal(*batch))
            await asyncio.sleep(1)
        assert [entry["reason"] for entry in logs if entry["event"] == "batch not signed"] == [reason]
        assert aggregator.of(BatchVote) == []
        await aggregator.say(proposal(*certificates(world, "a", "b")))  # the good ones alone
        await aggregator.hears(BatchVote)


@pytest.mark.parametrize(
    "propose",
    [
        lambda world: proposal(),
        lambda world: proposal(*certificates(world, "a"), epoch=2),
        lambda world: proposal(*certificates(world, "a"), epoch=0),
        lambda world: proposal(*certificates(world, "a"), aggregator=PERFORMER.address),
    ],
    ids=["empty", "next epoch", "no epoch", "in another's name"],
)
@virtual
async def test_a_proposal_that_gossip_refuses_is_not_looked_at(propose: Callable[[World], BatchProposal]) -> None:
    async with World() as world, world.attester():
        aggregator = await world.bystander(AGGREGATOR)
        with capture_logs() as logs:
            await aggregator.say(propose(world))
            await asyncio.sleep(1)
        assert (logs, aggregator.of(BatchVote)) == ([], [])


@virtual
async def test_only_an_aggregator_may_propose() -> None:
    async with World() as world, world.attester():
        stranger = await world.bystander(world.people[2])
        await stranger.say(proposal(*certificates(world, "a"), aggregator=world.people[2].address))
        await asyncio.sleep(1)
        assert stranger.of(BatchVote) == []


@virtual
async def test_a_batch_with_a_task_that_waits_for_votes_is_not_signed() -> None:
    """It would settle under its root what the contract refuses alone."""
    async with World() as world, world.attester():
        world.define(msgspec.structs.replace(DEFINITION, id=1, terms=TaskTerms(waits_for_all=True)))
        aggregator = await world.bystander(AGGREGATOR)
        infos = [world.info(name, task_definition_id=1) for name in "ab"]
        good = [*certificates(world, "c"), world.certificate(infos[0])]
        with capture_logs() as logs:
            await aggregator.say(proposal(*good, world.certificate(infos[1], signers=(0, 1, 3))))
            await asyncio.sleep(2)
        assert [entry["reason"] for entry in logs if entry["event"] == "batch not signed"] == ["votes are missing"]
        assert aggregator.of(BatchVote) == []
        await aggregator.say(proposal(*good))
        await aggregator.hears(BatchVote)


@virtual
async def test_a_batch_with_a_task_that_settles_singly_is_not_signed() -> None:
    """Its hook would not be called, and its fees could not be collected."""
    async with World() as world, world.attester():
        world.define(msgspec.structs.replace(DEFINITION, id=1, terms=TaskTerms(settles_singly=True)))
        aggregator = await world.bystander(AGGREGATOR)
        good = certificates(world, "a", "b")
        alone = world.certificate(world.info("alone", task_definition_id=1))
        with capture_logs() as logs:
            await aggregator.say(proposal(*good, alone))
            await asyncio.sleep(2)
        assert [entry["reason"] for entry in logs if entry["event"] == "batch not signed"] == ["settles singly"]
        assert aggregator.of(BatchVote) == []
        await aggregator.say(proposal(*good))
        await aggregator.hears(BatchVote)
