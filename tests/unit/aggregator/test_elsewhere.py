"""What others settled, as the chain's events and the batches' documents tell it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from structlog.testing import capture_logs

from aggregator import elsewhere
from aggregator.elsewhere import RETRY_SECONDS, SettledElsewhere
from shared.adapters.memory.chain import MemoryChain
from shared.batch import Batch, document_cid, make_batch
from shared.crypto import bls
from shared.errors import ChainUnavailable
from shared.interfaces import BatchSubmission
from shared.types import BatchInfo, BatchSettled, Digest, Settled, Verdict
from tests.builders import replace
from tests.chain_support import AGGREGATOR, Person
from tests.faulty_chain import FaultyChain
from tests.listening import virtual
from tests.roles import World

OTHER = Person("other aggregator")


@dataclass
class Watch:
    """What others settled, on a chain on which others settle."""

    world: World
    chain: MemoryChain
    faulty: FaultyChain
    elsewhere: SettledElsewhere

    def id(self, name: str) -> Digest:
        return self.world.info(name).task_id

    def batch(self, *names: str) -> Batch:
        certificates = [self.world.certificate(self.world.info(name)) for name in names]
        return make_batch(self.world.domain, certificates, 1, OTHER.address, self.world.roster.table_of)

    async def settle_alone(self, name: str, verdict: Verdict = Verdict.VALID) -> None:
        certificate = self.world.certificate(self.world.info(name), verdict)
        await self.chain.confirm(await self.chain.submit_task(certificate), 10)

    async def settle(self, batch: Batch, *, is_served: bool = True) -> None:
        if is_served:
            await self.world.content.join(OTHER.address).add(batch.document)
        digest = self.world.domain.batch(batch.info)
        signature = bls.aggregate(person.vote.sign(digest) for person in self.world.people)
        tx = await self.chain.submit_batch(BatchSubmission(batch.info, (0, 1, 2, 3), signature))
        await self.chain.confirm(tx, 10)

    async def told(self) -> None:
        """Of each event that there is, at once."""
        self.chain._ledger.head()
        for event in list(self.chain._ledger.events):
            if isinstance(event, Settled | BatchSettled):
                await self.elsewhere.on_settled(event)


@asynccontextmanager
async def watch() -> AsyncIterator[Watch]:
    async with World() as world:
        chain = await world.chain()
        faulty = FaultyChain(chain)
        content = world.content.join(AGGREGATOR.address)
        parts = SettledElsewhere(
            domain=world.domain, roster=lambda: world.roster, settlement=faulty, reader=faulty, content=content
        )
        yield Watch(world, chain, faulty, parts)


@pytest.mark.parametrize("verdict", [Verdict.VALID, Verdict.INVALID])
@virtual
async def test_a_single_task_stands_once_it_was_told_of(verdict: Verdict) -> None:
    async with watch() as w:
        await w.settle_alone("a", verdict)
        assert not await w.elsewhere.holds(w.id("a"))
        assert w.faulty.count("verdict_of") == 0  # what nobody told of costs no call
        await w.told()
        assert await w.elsewhere.holds(w.id("a"))
        assert not await w.elsewhere.holds(w.id("b"))


@virtual
async def test_each_task_under_a_root_stands() -> None:
    async with watch() as w:
        await w.settle(w.batch("a", "b", "c"))
        await w.told()
        assert [await w.elsewhere.holds(w.id(name)) for name in "abcd"] == [True, True, True, False]


@pytest.mark.parametrize("is_batch", [False, True])
@virtual
async def test_what_a_reorg_took_back_does_not_stand_until_it_is_settled_again(is_batch: bool) -> None:
    async with watch() as w:
        batch = w.batch("a", "b")
        await (w.settle(batch) if is_batch else w.settle_alone("a"))
        await w.told()
        assert await w.elsewhere.holds(w.id("a"))
        w.chain.reorg(4, dropped=list(w.chain._ledger._known)[-1:])
        assert not await w.elsewhere.holds(w.id("a"))
        await asyncio.sleep(1)  # the other transactions are mined again
        await w.settle(batch)
        await w.told()
        assert await w.elsewhere.holds(w.id("a"))


@virtual
async def test_a_chain_that_is_away_is_no_answer() -> None:
    async with watch() as w:
        await w.settle_alone("a")
        await w.told()
        w.faulty.fail("verdict_of", ChainUnavailable("away"))
        with pytest.raises(ChainUnavailable):
            await w.elsewhere.holds(w.id("a"))
        assert await w.elsewhere.holds(w.id("a"))


@virtual
async def test_a_document_that_comes_late_is_read_late() -> None:
    async with watch() as w:
        batch = w.batch("a", "b")
        await w.settle(batch, is_served=False)
        telling = asyncio.create_task(w.told())
        await asyncio.sleep(RETRY_SECONDS[0])
        assert not await w.elsewhere.holds(w.id("a"))
        await w.world.content.join(OTHER.address).add(batch.document)
        await telling
        assert await w.elsewhere.holds(w.id("a"))


@virtual
async def test_a_document_that_nobody_serves_says_nothing_and_ends() -> None:
    async with watch() as w:
        await w.settle(w.batch("a", "b"), is_served=False)
        await w.told()
        assert not await w.elsewhere.holds(w.id("a"))


@pytest.mark.parametrize("document", [b"not a document", b'{"certificates":[],"version":1}'])
@virtual
async def test_a_document_that_is_not_what_is_under_its_root_says_nothing(document: bytes) -> None:
    """A quorum would have to sign such a batch."""
    async with watch() as w:
        await w.world.content.join(OTHER.address).add(document)
        info = BatchInfo(Digest(bytes(32)), Digest(hashlib.sha256(document).digest()), 2, 1, OTHER.address)
        with capture_logs() as logs:
            await w.elsewhere.on_settled(BatchSettled(info, 1, Digest(bytes(32)), 1))
        assert [entry["event"] for entry in logs] == ["a settled batch has no readable document"]
        assert not await w.elsewhere.holds(w.id("a"))


@virtual
async def test_batches_of_epochs_that_are_over_stay_unread() -> None:
    async with watch() as w:
        batch = w.batch("a", "b")
        await w.settle(batch)
        w.world.roll()
        w.world.roll()
        assert min(w.world.roster.tables) == 2
        await w.told()
        assert not await w.world.content.join(AGGREGATOR.address).has(document_cid(batch.info.content_hash))
        assert not await w.elsewhere.holds(w.id("a"))
        await w.elsewhere.on_settled(BatchSettled(replace(batch.info, epoch=2), 1, Digest(bytes(32)), 1))
        assert await w.elsewhere.holds(w.id("a"))


@virtual
async def test_what_it_knows_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elsewhere, "MAX_KNOWN", 2)
    async with watch() as w:
        for name in "abc":
            await w.settle_alone(name)
        await w.told()
        assert [await w.elsewhere.holds(w.id(name)) for name in "abc"] == [False, True, True]
