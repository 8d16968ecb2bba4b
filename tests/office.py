"""An aggregator at work among attesters, on a chain that can be made to fail."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aggregator.settler import BATCH, UNSETTLED, Settler
from shared.adapters.memory.chain import MemoryChain
from shared.adapters.memory.store import MemoryFile, MemoryStore
from shared.batch import decode_document, document_cid
from shared.interfaces import BatchSubmission
from shared.types import Digest, TaskCertificate, Verdict
from tests.chain_support import AGGREGATOR, PERFORMER, POWER_UNIT, Person
from tests.faulty_chain import FaultyChain
from tests.listening import Bystander, running, until
from tests.roles import World

BATCH_SECONDS = 1.0


def now() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class Office:
    """An aggregator at work among attesters, on a chain that can be made to fail."""

    world: World
    chain: MemoryChain
    faulty: FaultyChain
    bystander: Bystander
    settler: Settler
    store: MemoryStore
    file: MemoryFile

    async def take(self, *names: str, verdict: Verdict = Verdict.VALID, **changes: Any) -> list[TaskCertificate]:
        certificates = [self.world.certificate(self.world.info(name, **changes), verdict) for name in names]
        for certificate in certificates:
            await self.settler.add(certificate)
        return certificates

    def stored(self, kind: str) -> int:
        return sum(owner == kind for owner, _ in self.file.entries)

    async def is_done(self) -> None:
        await until(lambda: not self.stored(UNSETTLED) and not self.stored(BATCH), "nothing is unsettled", 300)

    async def verdict_of(self, name: str) -> Verdict | None:
        return await self.chain.verdict_of(self.world.info(name).task_id)


@asynccontextmanager
async def office(
    *,
    world: World | None = None,
    chain: MemoryChain | None = None,
    attesting: int = 4,
    begin: bool = True,
    person: Person = AGGREGATOR,
    **options: Any,
) -> AsyncIterator[Office]:
    """Ends as with kill -9. `world` and `chain` of a former one: the next run of the same aggregator."""
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(World()) if world is None else world
        chain = await world.chain() if chain is None else chain
        faulty = FaultyChain(chain)
        bystander = await world.bystander(Person(f"bystander {now()}"))
        for index in range(attesting):
            await stack.enter_async_context(world.attester(index))
        options.setdefault("batch_seconds", BATCH_SECONDS)
        parts = world.aggregator(faulty, person=person, **options)
        aggregator, settler, store = await stack.enter_async_context(parts)
        file = world.files[person.name]
        if begin:
            await stack.enter_async_context(running(aggregator.run()))
        yield Office(world, chain, faulty, bystander, settler, store, file)
        file.kill()


async def included(o: Office, certificate: TaskCertificate) -> bool:
    """Whether a settled batch has it, as a contract that consumes verdicts would ask; the document tells the proof."""
    for submission in o.faulty.batches:
        document = await o.world.content.join(PERFORMER.address).get(
            document_cid(submission.batch.content_hash), max_bytes=1 << 20, timeout_seconds=1
        )
        assert hashlib.sha256(document).digest() == submission.batch.content_hash
        if certificate in decode_document(document):
            return await o.chain.is_batch_settled(submission.batch.root)
    return False


class TakesAll:
    """A chain that takes every transaction; the real model would take seconds for a hundred signatures."""

    async def submit_task(self, certificate: TaskCertificate) -> Digest:
        return certificate.task_info.task_id

    async def confirm(self, tx_hash: Digest, timeout_seconds: float) -> int:
        return 1

    async def verdict_of(self, task_id: Digest) -> Verdict:
        return Verdict.INVALID

    async def power_unit(self) -> int:
        return POWER_UNIT


def by_root(batches: list[BatchSubmission]) -> list[BatchSubmission]:
    return list({submission.batch.root: submission for submission in batches}.values())
