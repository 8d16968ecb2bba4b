"""An aggregator at work, and everybody else as a test wants them to speak."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import msgspec

from aggregator.service import Aggregator
from shared import messages
from shared.adapters.memory.store import MemoryStore
from shared.crypto import bls
from shared.messages import CertificateMessage, TaskMessage
from shared.types import TaskCertificate, TaskTerms, Verdict
from tests.chain_support import PERFORMER
from tests.faulty_chain import FaultyChain
from tests.listening import Bystander, running
from tests.roles import World
from tests.toy_model import DEFINITION


@dataclass
class Hall:
    """An aggregator at work, and everybody else as a test wants them to speak. Nothing is settled before `BATCH`
    seconds are over, which is later than most of these tests."""

    world: World
    aggregator: Aggregator
    store: MemoryStore
    performer: Bystander
    attesters: list[Bystander]

    async def task(self, **changes: object) -> TaskMessage:
        message = await self.world.performed(**changes)  # type: ignore[arg-type]
        await self.performer.say(message)
        return message

    async def votes(
        self, message: TaskMessage, *indices: int, verdict: Verdict = Verdict.VALID, key: bls.SecretKey | None = None
    ) -> None:
        for index in indices:
            await self.say(index, self.world.vote(index, message.task_info, verdict, key=key))

    async def say(self, index: int, message: messages.VoteTopic) -> None:
        await self.attesters[index].say(message)
        await asyncio.sleep(0.001)

    async def certificate(self) -> TaskCertificate:
        await self.performer.hears(CertificateMessage)
        return self.performer.certificates[-1]

    async def none(self, seconds: float = 1.0) -> None:
        """No certificate, though there was time for it."""
        await asyncio.sleep(seconds)
        assert self.performer.certificates == []

    @property
    def equivocators(self) -> set[bytes]:
        return {attester for _, attester in self.aggregator.pool.equivocations}


BATCH = 600.0


@asynccontextmanager
async def hall(
    weights: Sequence[int] = (1, 1, 1, 1),
    *,
    world: World | None = None,
    batch_seconds: float = BATCH,
    terms: TaskTerms = DEFINITION.terms,
) -> AsyncIterator[Hall]:
    """Ends as with kill -9. `terms` are those of the definition."""
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(World(weights)) if world is None else world
        world.define(msgspec.structs.replace(DEFINITION, terms=terms))
        chain = FaultyChain(await world.chain(terms))
        performer = await world.bystander(PERFORMER)
        attesters = [await world.bystander(person) for person in world.people]
        parts = world.aggregator(chain, batch_seconds=batch_seconds)
        aggregator, _, store = await stack.enter_async_context(parts)
        await stack.enter_async_context(running(aggregator.run()))
        yield Hall(world, aggregator, store, performer, attesters)
