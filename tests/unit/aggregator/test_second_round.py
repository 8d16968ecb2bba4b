"""The second round: who counts for a batch's signature, and when the batch is given up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec
import pytest
from structlog.testing import capture_logs

from aggregator.second_round import SecondRound
from shared.adapters.memory.gossip import MemoryGossip
from shared.batch import Batch, make_batch
from shared.constants import BATCH_VOTE_SECONDS
from shared.crypto import bls
from shared.interfaces import BatchSubmission
from shared.messages import BatchProposal, BatchVote
from shared.types import Digest
from tests.chain_support import AGGREGATOR, Person
from tests.listening import Bystander, virtual
from tests.roles import World


@dataclass
class Table:
    """A round under way, and what the attesters may say in it."""

    world: World
    round: SecondRound
    gossip: MemoryGossip
    bystander: Bystander
    batch: Batch

    def vote(self, index: int, key: bls.SecretKey | None = None, **changes: object) -> BatchVote:
        digest = self.world.domain.batch(self.batch.info)
        signature = (key or self.world.people[index].vote).sign(digest)
        plain = BatchVote(batch=self.batch.info, attester=self.world.people[index].address, signature=signature)
        return msgspec.structs.replace(plain, **changes)

    async def sign(self, *votes: tuple[float, BatchVote]) -> BatchSubmission | None:
        """The outcome, with these votes coming so many seconds after the beginning."""
        signing = asyncio.create_task(self.round.sign(self.batch))
        begin = asyncio.get_running_loop().time()
        await asyncio.sleep(0)
        for when, vote in sorted(votes, key=lambda pair: pair[0]):
            await asyncio.sleep(begin + when - asyncio.get_running_loop().time())
            self.round.count(vote)
        return await signing


@asynccontextmanager
async def table(weights: Sequence[int] = (1, 1, 1, 1)) -> AsyncIterator[Table]:
    async with World(weights) as world, world.gossip_of(AGGREGATOR) as gossip:
        second = SecondRound(domain=world.domain, roster=lambda: world.roster, gossip=gossip, topics=world.topics)
        certificates = [world.certificate(world.info(name)) for name in "ab"]
        batch = make_batch(world.domain, certificates, 1, AGGREGATOR.address, world.roster.table_of)
        yield Table(world, second, gossip, await world.bystander(), batch)


@virtual
async def test_a_strict_quorum_signs_the_batch() -> None:
    async with table() as t:
        submission = await t.sign((0.1, t.vote(3)), (0.2, t.vote(0)), (0.3, t.vote(2)))
        assert submission is not None
        assert (submission.batch, submission.signers) == (t.batch.info, (0, 2, 3))
        keys = [t.world.people[index].vote.public_key for index in submission.signers]
        assert bls.verify_aggregate(keys, t.world.domain.batch(t.batch.info), submission.signature)
        assert t.bystander.of(BatchProposal) == [BatchProposal(1, AGGREGATOR.address, t.batch.certificates)]
        assert t.round._open == {}


@pytest.mark.parametrize(
    ("weights", "signers", "is_signed"),
    [
        ((1, 1, 1), (0, 1), False),  # exactly two thirds
        ((1, 1, 1), (0, 1, 2), True),
        ((1, 1, 1, 1), (0, 1), False),
        ((4, 1, 1), (0,), False),
        ((5, 1, 1), (0,), True),
        ((5, 1, 1), (1, 2), False),
    ],
)
@virtual
async def test_power_counts_and_exactly_two_thirds_are_too_little(
    weights: tuple[int, ...], signers: tuple[int, ...], is_signed: bool
) -> None:
    async with table(weights) as t:
        submission = await t.sign(*((0.1, t.vote(index)) for index in signers))
        assert (submission is not None) == is_signed


@virtual
async def test_without_a_quorum_it_asks_twice_and_gives_up_in_time() -> None:
    async with table() as t:
        begin = asyncio.get_running_loop().time()
        assert await t.sign((0.1, t.vote(0)), (0.2, t.vote(1))) is None
        assert asyncio.get_running_loop().time() - begin == pytest.approx(BATCH_VOTE_SECONDS, abs=0.01)
        assert len(t.bystander.of(BatchProposal)) == 2
        assert t.round._open == {}
        t.round.count(t.vote(2))  # too late, and of no round
        assert t.round._open == {}


@virtual
async def test_votes_for_the_first_question_count_in_the_second_half() -> None:
    async with table() as t:
        late = BATCH_VOTE_SECONDS * 0.9
        assert await t.sign((0.1, t.vote(0)), (0.1, t.vote(1)), (late, t.vote(2))) is not None


@virtual
async def test_a_vote_counts_once_however_often_it_comes() -> None:
    async with table() as t:
        assert await t.sign(*((0.1 * n, t.vote(0)) for n in range(1, 5)), (0.6, t.vote(1))) is None


@virtual
async def test_a_wrong_signature_is_named_and_does_not_take_the_right_ones_place() -> None:
    async with table() as t:
        wrong = t.vote(2, key=t.world.people[3].vote)
        with capture_logs() as logs:
            votes = [(0.1, t.vote(0)), (0.2, t.vote(1)), (0.3, wrong), (0.4, t.vote(2))]
            submission = await t.sign(*votes)
        assert submission is not None
        assert submission.signers == (0, 1, 2)
        assert [(entry["event"], entry["attester"]) for entry in logs] == [
            ("batch vote dropped: wrong signature", t.world.people[2].address.hex())
        ]


@pytest.mark.parametrize("signature", [bytes(96), b"\xff" * 96, b"", b"\x40" + bytes(95)])
@virtual
async def test_a_signature_that_is_no_point_counts_for_nothing(signature: bytes) -> None:
    async with table() as t:
        votes = [(0.1, t.vote(0)), (0.2, t.vote(1)), (0.3, t.vote(2, signature=signature))]
        assert await t.sign(*votes) is None


@virtual
async def test_strangers_and_votes_for_other_batches_change_nothing() -> None:
    async with table() as t:
        other = msgspec.structs.replace(t.batch.info, root=Digest(bytes(32)))
        elsewhere = t.vote(2, batch=other, signature=t.world.people[2].vote.sign(t.world.domain.batch(other)))
        stranger = Person("stranger")
        strange = t.vote(2, key=stranger.vote, attester=stranger.address)
        assert await t.sign((0.1, t.vote(0)), (0.1, t.vote(1)), (0.2, elsewhere), (0.2, strange)) is None


@virtual
async def test_the_power_is_that_of_the_batches_epoch() -> None:
    """The roster may roll while the votes come."""
    async with table() as t:
        signing = asyncio.create_task(t.round.sign(t.batch))
        await asyncio.sleep(0.1)
        t.world.roll()
        for index in range(3):
            t.round.count(t.vote(index))
        submission = await signing
        assert submission is not None
        assert submission.batch.epoch == 1


@virtual
async def test_a_transport_that_fails_is_a_batch_without_a_quorum() -> None:
    async with table() as t:
        t.gossip.fail("the transport died")
        with capture_logs() as logs:
            assert await t.sign() is None
        assert [entry["event"] for entry in logs] == ["batch not proposed"] * 2


@virtual
async def test_two_batches_at_once_do_not_mix() -> None:
    async with table() as t:
        other = make_batch(
            t.world.domain, [t.world.certificate(t.world.info("c"))], 1, AGGREGATOR.address, t.world.roster.table_of
        )
        first, second = (asyncio.create_task(t.round.sign(batch)) for batch in (t.batch, other))
        await asyncio.sleep(0)
        for index in range(3):
            t.round.count(t.vote(index))
        submission = await first
        assert submission is not None
        assert submission.batch == t.batch.info
        assert await second is None
