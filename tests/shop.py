"""A performer that works for fees on a chain in memory, with whoever certifies and settles its tasks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from shared.adapters.memory.chain import MemoryChain
from shared.adapters.memory.chain_escrow import Voters
from shared.batch import Batch, make_batch
from shared.crypto import bls
from shared.indices import indices_of
from shared.interfaces import BatchSubmission
from shared.messages import TaskMessage
from shared.types import Digest, TaskCertificate, TaskRequest, Verdict
from tests.cast import REQUESTER
from tests.chain_support import AGGREGATOR, FEES, PAID, PERFORMER, Person
from tests.faulty_chain import FaultyChain
from tests.listening import Bystander, running, until
from tests.roles import PerformerDesk, World
from tests.toy_model import DEFINITION

FEE = FEES.total + 5_000  # what a request offers unless said


@dataclass
class Market:
    """What survives the performer."""

    world: World
    truth: MemoryChain
    aggregator: MemoryChain
    bystander: Bystander

    async def deposit(self, amount: int, requester: Person = REQUESTER) -> None:
        await self.truth.confirm(await self.truth.deposit(requester.address, PERFORMER.address, amount), 10)

    def form(self, nonce: int = 1, fee: int = FEE, requester: Person = REQUESTER, **changes: Any) -> dict[str, Any]:
        """What a requester sends."""
        return self.world.form(self.request(nonce, fee, requester, **changes), signer=requester)

    def request(self, nonce: int = 1, fee: int = FEE, requester: Person = REQUESTER, **changes: Any) -> TaskRequest:
        return self.world.request(nonce=nonce, fee=fee, requester=requester.address, **changes)

    async def certificate(
        self, task_id: Digest, verdict: Verdict = Verdict.VALID, signers: Sequence[int] | None = None
    ) -> TaskCertificate:
        """Once the task is performed."""
        heard = self.bystander.of
        of_task = lambda message: message.task_info.task_id == task_id  # noqa: E731
        await until(lambda: heard(TaskMessage, of_task), "the task is performed")
        return self.world.certificate(heard(TaskMessage, of_task)[0].task_info, verdict, signers)

    async def settle(self, certificate: TaskCertificate) -> None:
        """By itself."""
        await self.truth.confirm(await self.aggregator.submit_task(certificate), 10)

    async def settle_batch(self, certificates: Sequence[TaskCertificate]) -> Batch:
        """And serve the document."""
        world, everybody = self.world, tuple(range(len(self.world.people)))
        batch = make_batch(world.domain, certificates, 1, AGGREGATOR.address, world.roster.table_of)
        await world.content.join(AGGREGATOR.address).add(batch.document)
        digest = world.domain.batch(batch.info)
        signature = bls.aggregate([person.vote.sign(digest) for person in world.people])
        submission = BatchSubmission(batch.info, everybody, signature)
        await self.truth.confirm(await self.aggregator.submit_batch(submission), 10)
        return batch

    def voters(self, certificate: TaskCertificate) -> Voters:
        indices = indices_of(certificate, self.world.table_of(1))
        return Voters(1, 0, certificate.verdict is Verdict.VALID, indices)

    async def shares(self, certificate: TaskCertificate) -> list[int]:
        """What each attester can claim of the pool."""
        pool = self.voters(certificate)
        return [(await self.truth.claimable_of(pool, seat))[1] for seat in range(len(self.world.people))]

    async def earned(self) -> tuple[int, int]:
        """By the performer and by the aggregator."""
        return await self.truth.earned_by(PERFORMER.address), await self.truth.earned_by(AGGREGATOR.address)

    async def left(self, requester: Person = REQUESTER) -> int:
        return (await self.truth.deposit_of(requester.address, PERFORMER.address)).balance


@dataclass
class Shop:
    """A performer that runs."""

    market: Market
    desk: PerformerDesk
    chain: FaultyChain

    async def ask(self, nonce: int = 1, **changes: Any) -> Digest:
        return await self.desk.request(self.market.form(nonce, **changes))

    async def collected(self, *task_ids: Digest, limit_seconds: float = 60.0) -> None:
        fees = self.desk.performer.earnings._fees
        await until(
            lambda: all(task_id in fees and fees[task_id].is_paid for task_id in task_ids),
            "the fees are collected",
            limit_seconds,
        )


@asynccontextmanager
async def market(weights: Sequence[int] = (1, 1, 1, 1)) -> AsyncIterator[Market]:
    async with World(weights) as world:
        truth = await world.chain(PAID)
        definition = await truth.task_definition(0)
        assert definition is not None
        assert definition.model_hash == DEFINITION.model_hash
        world.define(definition)
        yield Market(world, truth, truth.connect(AGGREGATOR.address), await world.bystander())


@asynccontextmanager
async def open_shop(market: Market, **options: Any) -> AsyncIterator[Shop]:
    """Ends as with kill -9."""
    chain = FaultyChain(market.truth.connect())
    async with market.world.performer(chain=chain, **options) as desk, running(desk.performer.run()):
        yield Shop(market, desk, chain)
        desk.file.kill()
