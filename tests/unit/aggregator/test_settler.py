"""Certificates on their way to the chain: alone or in a batch, through outages, and whole after kill -9 at any step."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from aggregator.finality import LOOKS_SECONDS, RETRY_MAX_SECONDS
from aggregator.settler import BATCH, UNSETTLED, Settler
from shared.adapters.memory.chain import MemoryChain
from shared.adapters.memory.store import MemoryFile, MemoryStore
from shared.batch import decode_document, document_cid
from shared.constants import BATCH_VOTE_SECONDS, MAX_BATCH_SIZE, MAX_DATA_BYTES
from shared.errors import ChainUnavailable, Dropped, Reverted, StoreError, TransportError
from shared.interfaces import BatchSubmission
from shared.messages import SubmittedMessage
from shared.types import Digest, TaskCertificate, Verdict
from tests.chain_support import AGGREGATOR, PERFORMER, Person
from tests.faulty_chain import FaultyChain
from tests.listening import Bystander, running, until, virtual
from tests.roles import TERMS, World

BATCH_SECONDS = 1.0
AWAY = ChainUnavailable("the chain is away")


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


# --- alone -------------------------------------------------------------------------------------------
@virtual
async def test_a_rejection_goes_by_itself_and_at_once() -> None:
    async with office() as o:
        begin = now()
        await o.take("a", verdict=Verdict.INVALID)
        await o.is_done()
        assert now() - begin < BATCH_SECONDS
        assert await o.verdict_of("a") is Verdict.INVALID
        assert o.chain._state().slashes.keys() == {o.world.info("a").task_id}


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
        o.faulty.chain = cast("MemoryChain", _Sent())
        names = [f"task {number}" for number in range(MAX_BATCH_SIZE)]
        with capture_logs() as logs:
            await o.take(*names, data=bytes(MAX_DATA_BYTES))
            await o.is_done()
        assert o.faulty.count("submit_task") == MAX_BATCH_SIZE
        said = [entry["reason"] for entry in logs if entry["event"].startswith("no batch")]
        assert len(said) == 1
        assert said[0].endswith("bytes is over 1048576")


# --- the chain is away ---------------------------------------------------------------------------------
@virtual
async def test_a_chain_that_is_away_is_waited_for() -> None:
    async with office() as o:
        o.chain.is_down = True
        certificates = await o.take("a", "b")
        await o.take("x", verdict=Verdict.INVALID)
        await asyncio.sleep(1000)
        assert o.stored(UNSETTLED) == 3
        distances = _distances(o.faulty.times("submit_task"))
        assert distances[:6] == pytest.approx([1, 2, 4, 8, 16, RETRY_MAX_SECONDS])
        assert max(distances) == pytest.approx(RETRY_MAX_SECONDS)
        o.chain.is_down = False
        await o.is_done()
        assert await o.verdict_of("x") is Verdict.INVALID
        assert [await included(o, certificate) for certificate in certificates] == [True] * 2


@pytest.mark.parametrize("trouble", [Dropped("the nonce was used"), ChainUnavailable("not mined in time")])
@virtual
async def test_a_transaction_that_is_lost_is_sent_again(trouble: Exception) -> None:
    async with office() as o:
        o.faulty.fail("confirm", trouble, trouble)
        await o.take("x", verdict=Verdict.INVALID)
        await o.is_done()
        assert await o.verdict_of("x") is Verdict.INVALID


@virtual
async def test_a_transaction_that_a_reorg_dropped_is_sent_again() -> None:
    async with office() as o:
        await o.take("x", verdict=Verdict.INVALID)
        hint = (await o.bystander.hears(SubmittedMessage))[0]
        o.chain.reorg(1, dropped=[hint.tx_hash])
        await o.is_done()
        assert await o.verdict_of("x") is Verdict.INVALID
        assert o.faulty.count("submit_task") == 2


@pytest.mark.parametrize("names", ["x", "xy"], ids=["alone", "in a batch"])
@virtual
async def test_what_a_reorg_took_back_is_settled_again_as_it_was(names: str) -> None:
    async with office() as o:
        certificates = await o.take(*names)
        await o.is_done()
        hint = (await o.bystander.hears(SubmittedMessage))[0]
        o.chain.reorg(10, dropped=[hint.tx_hash])
        assert o.chain._state().verdicts == {}
        assert o.chain._state().batches == {}
        await asyncio.sleep(sum(LOOKS_SECONDS) + 60)
        alone = [await o.verdict_of(name) for name in names]
        assert alone == ([Verdict.VALID] if len(names) == 1 else [None, None])
        o.faulty.batches = _by_root(o.faulty.batches)
        assert len(o.faulty.batches) == len(names) - 1
        assert [await included(o, certificate) for certificate in certificates] == [len(names) > 1] * len(names)
        await asyncio.sleep(sum(LOOKS_SECONDS) + 60)
        assert o.file.entries == {}


@virtual
async def test_one_that_was_mined_while_nobody_looked_is_not_sent_twice() -> None:
    """The confirmation was lost, not the transaction: the second submission finds it settled."""
    async with office() as o:
        o.faulty.fail("confirm", ChainUnavailable("no answer"))
        await o.take("x", verdict=Verdict.INVALID)
        o.faulty.fail("submit_task", None)
        await o.is_done()
        assert await o.verdict_of("x") is Verdict.INVALID
        assert len(o.chain._state().slashes) == 1


@virtual
async def test_it_never_gives_up_and_asks_ever_less_often() -> None:
    async with office() as o:
        o.faulty.fail("confirm", *[Dropped("gone")] * 20)
        o.faulty.fail("submit_task", *[None] * 20)
        o.faulty.chain = cast("MemoryChain", _Sent())
        await o.take("x", verdict=Verdict.INVALID)
        await asyncio.sleep(1000)
        assert o.faulty.count("submit_task") == 21
        assert _distances(o.faulty.times("submit_task"))[:6] == pytest.approx([1, 2, 4, 8, 16, RETRY_MAX_SECONDS])
        assert o.stored(UNSETTLED) == 0


class _Sent:
    """A chain that takes every transaction; the real model would take seconds for a hundred signatures."""

    async def submit_task(self, certificate: TaskCertificate) -> Digest:
        return certificate.task_info.task_id

    async def confirm(self, tx_hash: Digest, timeout_seconds: float) -> int:
        return 1

    async def verdict_of(self, task_id: Digest) -> Verdict:
        return Verdict.INVALID


def _distances(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(times)]


# --- what the contract says ----------------------------------------------------------------------------
@virtual
async def test_a_task_that_another_aggregator_settled_is_forgotten() -> None:
    async with office() as o:
        [certificate] = [o.world.certificate(o.world.info("x"), Verdict.INVALID)]
        await o.chain.confirm(await o.chain.submit_task(certificate), 10)
        await o.settler.add(certificate)
        await o.is_done()
        assert o.faulty.count("confirm") == 0


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


# --- kill -9 -------------------------------------------------------------------------------------------
@virtual
async def test_what_was_added_is_settled_by_the_next_run() -> None:
    async with World() as world:
        chain = await world.chain()
        async with office(world=world, chain=chain, begin=False) as o:
            await o.take("a", "b")
            await o.take("x", verdict=Verdict.INVALID)
        async with office(world=world, chain=chain) as o:
            await o.is_done()
            assert await o.verdict_of("x") is Verdict.INVALID
            assert [submission.batch.size for submission in o.faulty.batches] == [2]


@virtual
async def test_a_certificate_that_cannot_be_stored_is_not_taken() -> None:
    async with office() as o:
        o.file.kill()
        with pytest.raises(StoreError):
            await o.take("a")
        await asyncio.sleep(10)
        assert (o.faulty.calls, o.file.entries) == ([], {})


@pytest.mark.parametrize("is_mined", [True, False])
@virtual
async def test_a_batch_that_was_half_submitted_is_settled_once(is_mined: bool) -> None:
    async with World() as world:
        chain = await world.chain()
        async with office(world=world, chain=chain) as o:
            certificates = await o.take("a", "b")
            await until(lambda: o.faulty.count("confirm" if is_mined else "submit_batch"), "it is being submitted")
            assert o.stored(BATCH) == 1
            if not is_mined:
                hint = (await o.bystander.hears(SubmittedMessage))[0]
                chain.reorg(1, dropped=[hint.tx_hash])
        await asyncio.sleep(10)
        async with office(world=world, chain=chain) as again:
            await again.is_done()
            assert again.faulty.count("submit_task") == 0
            assert again.faulty.count("submit_batch") == (0 if is_mined else 1)
            everything = o.faulty.batches + again.faulty.batches
            assert await chain.is_batch_settled(everything[-1].batch.root)
            again.faulty.batches = everything
            assert [await included(again, certificate) for certificate in certificates] == [True] * 2


@virtual
async def test_recovery_waits_for_the_chain() -> None:
    async with World() as world:
        chain = await world.chain()
        async with office(world=world, chain=chain) as o:
            await o.take("a", "b")
            await until(lambda: o.stored(BATCH), "it is being submitted")
        await asyncio.sleep(10)
        chain.is_down = True
        async with office(world=world, chain=chain) as again:
            await asyncio.sleep(100)
            assert again.stored(UNSETTLED) == 2
            chain.is_down = False
            await again.is_done()
            assert again.faulty.count("submit_batch") == 0


class DyingStore:
    """Lets `count` changes through; then the process is dead, before or after the next one reached the disk."""

    def __init__(self, store: MemoryStore, count: int, *, is_after: bool) -> None:
        self.left, self.is_after, self.died = count, is_after, asyncio.Event()
        self.keys = set[tuple[str, bytes]]()  # of everything that ever reached the disk
        for name in ("put", "delete"):
            setattr(store, name, self._wrap(store, getattr(store, name)))

    def _wrap(self, store: MemoryStore, change: Any) -> Any:
        async def count(*arguments: Any) -> None:
            self.left -= 1
            if self.left >= 0 or (self.left == -1 and self.is_after):
                self.keys.add((arguments[0], arguments[1]))
                await change(*arguments)
            if self.left >= 0:
                return
            store._file.kill()
            self.died.set()
            await asyncio.get_running_loop().create_future()

        return count


@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("changes", range(11))
@virtual
async def test_kill_9_at_any_change_of_the_disk_loses_no_certificate(changes: int, is_after: bool) -> None:
    """Two approvals and a rejection make ten: three added, a batch noted, two settlements kept, three certificates
    forgotten, the batch dropped. Each is settled once, alone or in a batch."""
    async with World() as world:
        chain = await world.chain()
        async with office(world=world, chain=chain) as o:
            dying = DyingStore(o.store, changes, is_after=is_after)
            adding = asyncio.create_task(_add_all(o))
            await asyncio.wait(
                [asyncio.create_task(dying.died.wait()), asyncio.create_task(asyncio.sleep(20))],
                return_when=asyncio.FIRST_COMPLETED,
            )
            adding.cancel()
            acknowledged = dying.keys & {(UNSETTLED, world.info(name).task_id) for name in "abx"}
            batches = list(o.faulty.batches)
        async with office(world=world, chain=chain) as again:
            await again.is_done()
            again.faulty.batches = _by_root(batches + again.faulty.batches)
            for name in "abx":
                verdict = Verdict.INVALID if name == "x" else Verdict.VALID
                certificate = world.certificate(world.info(name), verdict)
                settled = [await again.verdict_of(name) is verdict, await included(again, certificate)]
                assert sum(settled) == ((UNSETTLED, world.info(name).task_id) in acknowledged)
            await asyncio.sleep(sum(LOOKS_SECONDS) + 10)
            assert again.file.entries == {}


def _by_root(batches: list[BatchSubmission]) -> list[BatchSubmission]:
    return list({submission.batch.root: submission for submission in batches}.values())


async def _add_all(o: Office) -> None:
    await o.take("a", "b")
    await o.take("x", verdict=Verdict.INVALID)
