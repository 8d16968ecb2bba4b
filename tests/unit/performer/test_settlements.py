"""What the chain says about a performer's tasks: alone, under a batch root, late, again after a reorg, and lies."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec
import pytest
from structlog.testing import capture_logs

from performer.earnings import Earnings
from performer.ledger import TaskLedger
from performer.settlements import CURSOR, CURSOR_KEY, REREAD_BLOCKS, UNREAD_BATCH, SettlementWatch
from shared import digests, merkle
from shared.adapters.memory.store import MemoryFile, MemoryStore
from shared.batch import Batch, encode_document, make_batch
from shared.content.cid import Codec, make_block
from shared.errors import StoreError
from shared.interfaces import Escrow, OperatorReader, Settlement
from shared.keeping import kept_until_executed
from shared.types import (
    BatchSettled,
    ChainEvent,
    Digest,
    Offence,
    OperatorTable,
    Settled,
    SlashQueued,
    TaskDefinition,
    TaskInfo,
    Verdict,
)
from shared.workflow import Certified, Performed, Phase, Task
from tests.cast import Cast
from tests.chain_support import AGGREGATOR, PERFORMER, sha
from tests.listening import running, until, virtual
from tests.toy_model import DOCUMENT

TX, OTHER_TX = Digest(b"t" * 32), Digest(b"u" * 32)


@dataclass
class Chain:
    """Only the events of a `Settlement`: those that a test put there, from the block that was asked for."""

    said: list[ChainEvent] = field(default_factory=list)
    asked_from: list[int] = field(default_factory=list)

    async def events(self, from_block: int) -> AsyncIterator[ChainEvent]:
        self.asked_from.append(from_block)
        position = 0
        while True:
            while position < len(self.said):
                position += 1
                if self.said[position - 1].block >= from_block:
                    yield self.said[position - 1]
            await asyncio.sleep(0.25)


@dataclass
class Reader:
    """Only what a document is checked against; `is_behind`: the node has not seen the newest epoch yet."""

    cast: Cast
    is_behind: bool = False

    async def operator_table(self, epoch: int, attester_set: int = 0) -> OperatorTable | None:
        assert attester_set == 0
        return None if self.is_behind else self.cast.roster.tables.get(epoch)

    async def task_definition(self, definition_id: int) -> TaskDefinition | None:
        return self.cast.roster.definitions.get(definition_id)


@dataclass
class Books:
    """A performer's ledger, with tasks that it performed."""

    cast: Cast
    chain: Chain
    ledger: TaskLedger
    store: MemoryStore
    file: MemoryFile
    reader: Reader

    async def perform(self, *names: str, certified: bool = True) -> list[TaskInfo]:
        infos = []
        for number, name in enumerate(names):
            info = self.cast.info(name)
            request = self.cast.request(nonce=1000 * len(self.file.entries) + number)
            await self.ledger.add(
                Task(task_id=info.task_id, request=request, requester_signature=bytes(65), requested_at=0.0)
            )
            await self.ledger.advance(info.task_id, Performed(info, bytes(65), 0.1, 0.0))
            if certified:
                await self.ledger.advance(info.task_id, Certified(self.cast.certificate(info), 4, 0, 4, 0.0))
            infos.append(info)
        return infos

    def task(self, name: str) -> Task:
        task = self.ledger.get(self.cast.info(name).task_id)
        assert task is not None
        return task

    async def reaches(self, name: str, phase: Phase) -> Task:
        await until(lambda: self.task(name).phase is phase, f"{name} is {phase}", 300)
        return self.task(name)

    def batch(self, *names: str) -> Batch:
        certificates = [self.cast.certificate(self.cast.info(name)) for name in names]
        return make_batch(self.cast.domain, certificates, 1, AGGREGATOR.address, self.cast.roster.table_of)

    async def publish(self, batch: Batch) -> None:
        """The aggregator serves the document."""
        await self.cast.content.join(AGGREGATOR.address).add(batch.document)

    def unread(self) -> int:
        return sum(kind == UNREAD_BATCH for kind, _ in self.file.entries)


def watch_of(cast_: Cast, chain: Chain, reader: Reader, ledger: TaskLedger, store: MemoryStore) -> SettlementWatch:
    """None of these tasks has a fee: those are test_earnings.py's."""
    settlement, escrow = cast("Settlement", chain), cast("Escrow", chain)
    earnings = Earnings(address=PERFORMER.address, escrow=escrow, settlement=settlement, ledger=ledger, store=store)
    return SettlementWatch(
        domain=cast_.domain,
        settlement=settlement,
        reader=cast("OperatorReader", reader),
        content=cast_.content.join(PERFORMER.address),
        ledger=ledger,
        earnings=earnings,
        store=store,
        clock=cast_.clock,
    )


@asynccontextmanager
async def watching(cast_: Cast, chain: Chain, file: MemoryFile | None = None) -> AsyncIterator[Books]:
    """Running; ends as with kill -9."""
    file = file or MemoryFile()
    async with MemoryStore(file) as store:
        ledger = TaskLedger(store=store)
        await ledger.load()
        reader = Reader(cast_)
        async with running(watch_of(cast_, chain, reader, ledger, store).run()):
            yield Books(cast_, chain, ledger, store, file, reader)
            file.kill()


def settled(name: str, *, is_approved: bool = True, block: int = 5, tx: Digest = TX) -> Settled:
    return Settled(Digest(sha("task", name)), is_approved, block, tx, 170_000)


def slash_queued(name: str, executable_at: int = 0) -> SlashQueued:
    task_id = Digest(sha("task", name))
    return SlashQueued(Digest(sha("slash")), task_id, PERFORMER.address, Offence.REJECTED_TASK, executable_at, 4, TX)


def batch_settled(batch: Batch, block: int = 7) -> BatchSettled:
    return BatchSettled(batch.info, block, TX, 210_000)


# --- alone -------------------------------------------------------------------------------------------
@virtual
async def test_a_task_settled_by_itself_is_final() -> None:
    cast_ = Cast()
    async with watching(cast_, Chain()) as books:
        await books.perform("a", "b", "c")
        books.chain.said += [settled("a"), settled("b", is_approved=False), settled("stranger's")]
        task = await books.reaches("a", Phase.APPROVED)
        assert (task.tx_hash, task.gas_used, task.settled_in_batch_of) == (TX, 170_000, 0)
        assert task.settled_at == pytest.approx(cast_.clock.now(), abs=1)
        await books.reaches("b", Phase.REJECTED)
        assert books.task("c").phase is Phase.CERTIFIED
        assert books.ledger.get(settled("stranger's").task_id) is None


@virtual
async def test_the_chain_is_right_about_a_task_that_nobody_certified_here() -> None:
    async with watching(Cast(), Chain()) as books:
        await books.perform("a", certified=False)
        books.chain.said.append(settled("a"))
        await books.reaches("a", Phase.APPROVED)


@virtual
async def test_after_a_reorg_the_new_branch_counts() -> None:
    async with watching(Cast(), Chain()) as books:
        await books.perform("a")
        books.chain.said.append(settled("a"))
        await books.reaches("a", Phase.APPROVED)
        books.chain.said.append(settled("a", is_approved=False, block=6, tx=OTHER_TX))
        assert (await books.reaches("a", Phase.REJECTED)).tx_hash == OTHER_TX
        batch = books.batch("a")
        await books.publish(batch)
        books.chain.said.append(batch_settled(batch))
        assert (await books.reaches("a", Phase.APPROVED)).inclusion is not None
        books.chain.said.append(settled("a", block=8, tx=OTHER_TX))
        await until(lambda: books.task("a").tx_hash == OTHER_TX, "it settled by itself after all")
        assert books.task("a").inclusion is None


@virtual
async def test_a_queued_slash_settles_nothing() -> None:
    async with watching(Cast(), Chain()) as books:
        await books.perform("a", "b")
        books.chain.said += [slash_queued("a"), settled("b")]
        await books.reaches("b", Phase.APPROVED)
        assert books.task("a").phase is Phase.CERTIFIED


@virtual
async def test_what_a_queued_slash_is_about_is_kept_for_it() -> None:
    """The proof is here, the input has to come from who has it; another performer's task is not ours to keep."""
    cast_, executable_at = Cast(), 2_000_000_000
    async with watching(cast_, Chain()) as books:
        [info] = await books.perform("a")
        await cast_.content.join(PERFORMER.address).add(b"a", keep_until=10.0)
        await cast_.content.join(AGGREGATOR.address).add(DOCUMENT)
        books.chain.said += [slash_queued("of another"), slash_queued("a", executable_at)]
        pins = cast_.content.pins[PERFORMER.address]
        await until(lambda: len(pins) == 2, "both are kept")
        assert {pin.cid: pin.keep_until for pin in pins.values()} == {
            info.proof_of_task: kept_until_executed(executable_at),
            books.task("a").request.input_cid: kept_until_executed(executable_at),
        }


@virtual
async def test_what_nobody_has_any_more_is_told_of_and_ends_nothing() -> None:
    async with watching(Cast(), Chain()) as books:
        await books.perform("a")
        with capture_logs() as logs:
            books.chain.said += [slash_queued("a"), settled("a")]
            await books.reaches("a", Phase.APPROVED)
            await until(lambda: len(logs) == 2, "it is told of")
        assert {entry["event"] for entry in logs} == {"what a dispute is about is not kept for it"}


# --- in a batch --------------------------------------------------------------------------------------
@virtual
async def test_a_batch_settles_what_its_document_says() -> None:
    async with watching(Cast(), Chain()) as books:
        await books.perform("a", "b", "outside")
        batch = books.batch("a", "b", "stranger's")
        await books.publish(batch)
        books.chain.said.append(batch_settled(batch))
        task = await books.reaches("a", Phase.APPROVED)
        assert (task.tx_hash, task.gas_used, task.settled_in_batch_of) == (TX, 210_000, 3)
        inclusion = task.inclusion
        assert inclusion is not None
        task_id = task.task_id
        leaf = digests.leaf(task_id, inclusion.task_info_hash, inclusion.is_approved, inclusion.voters_hash)
        assert merkle.verify(inclusion.root, leaf, inclusion.path)
        assert (inclusion.root, inclusion.is_approved) == (batch.info.root, True)
        await books.reaches("b", Phase.APPROVED)
        assert books.task("outside").phase is Phase.CERTIFIED
        await until(lambda: books.unread() == 0, "nothing is left to read")


@virtual
async def test_a_document_that_is_away_is_read_later() -> None:
    async with watching(Cast(), Chain()) as books:
        await books.perform("a", "b")
        batch = books.batch("a")
        books.chain.said += [batch_settled(batch), settled("b", block=8)]
        await books.reaches("b", Phase.APPROVED)  # later events do not wait for it
        await asyncio.sleep(100)
        assert (books.task("a").phase, books.unread()) == (Phase.CERTIFIED, 1)
        await books.publish(batch)
        await books.reaches("a", Phase.APPROVED)
        await until(lambda: books.unread() == 0, "nothing is left to read")


@virtual
async def test_a_node_that_is_behind_is_asked_again() -> None:
    """Given up, the batch would take the fees of its tasks with it."""
    async with watching(Cast(), Chain()) as books:
        await books.perform("a")
        batch = books.batch("a")
        await books.publish(batch)
        books.reader.is_behind = True
        books.chain.said.append(batch_settled(batch))
        await asyncio.sleep(100)
        assert (books.task("a").phase, books.unread()) == (Phase.CERTIFIED, 1)
        books.reader.is_behind = False
        await books.reaches("a", Phase.APPROVED)


@virtual
async def test_a_document_that_was_away_at_kill_9_is_read_by_the_next_run() -> None:
    """Even when the chain, read from where the last run stopped, does not repeat the event."""
    cast_, file = Cast(), MemoryFile()
    async with watching(cast_, Chain(), file) as books:
        await books.perform("a", "b")
        batch = books.batch("a")
        books.chain.said += [batch_settled(batch, block=7), settled("b", block=7000)]
        await books.reaches("b", Phase.APPROVED)
        await until(lambda: (CURSOR, CURSOR_KEY) in file.entries, "the cursor moved")
    async with watching(cast_, Chain(books.chain.said), file) as books:
        await asyncio.sleep(5)
        assert books.chain.asked_from == [7000 - REREAD_BLOCKS]
        assert books.task("a").phase is Phase.CERTIFIED
        await books.publish(batch)
        await books.reaches("a", Phase.APPROVED)


@virtual
async def test_a_batch_is_remembered_before_the_cursor_passes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with watching(Cast(), Chain()) as books:
        puts: list[str] = []
        put = books.store.put

        async def spy(kind: str, key: bytes, value: bytes) -> None:
            await put(kind, key, value)
            puts.append(kind)

        monkeypatch.setattr(books.store, "put", spy)
        books.chain.said.append(batch_settled(books.batch("a")))
        await until(lambda: CURSOR in puts, "the cursor moved")
        assert puts == [UNREAD_BATCH, CURSOR]


@virtual
async def test_a_run_goes_on_where_the_last_one_stopped() -> None:
    cast_, file = Cast(), MemoryFile()
    async with watching(cast_, Chain(), file) as books:
        await books.perform("a")
        books.chain.said.append(settled("a", block=1000))
        await books.reaches("a", Phase.APPROVED)
        await until(lambda: (CURSOR, CURSOR_KEY) in file.entries, "the cursor moved")
    async with watching(cast_, Chain(), file) as books:
        await until(lambda: books.chain.asked_from, "the next run asked")
        assert books.chain.asked_from == [1000 - REREAD_BLOCKS]
    async with watching(cast_, Chain(), MemoryFile()) as books:
        await until(lambda: books.chain.asked_from, "a first run asked")
        assert books.chain.asked_from == [0]


# --- documents that are not what is under the root -----------------------------------------------------
async def settle_wrongly(books: Books, document: bytes, **changes: Any) -> list[Any]:
    """A batch whose content hash is the document's, and whatever else a quorum of liars may have signed; the errors
    that were logged."""
    block = make_block(Codec.RAW, document)
    books.cast.content.join(AGGREGATOR.address)
    books.cast.content.blocks[AGGREGATOR.address][block.cid] = block
    plain = books.batch("a").info
    content_hash = Digest(hashlib.sha256(document).digest())
    info = msgspec.structs.replace(plain, content_hash=content_hash, **changes)
    with capture_logs() as logs:
        books.chain.said += [BatchSettled(info, 7, TX, 1), settled("end", block=8)]
        await books.reaches("end", Phase.APPROVED)
        await until(lambda: books.unread() == 0, "the batch is given up")
    return [entry["event"] for entry in logs if entry["log_level"] == "error"]


@pytest.mark.parametrize(
    "document", [b"", b"garbage", b"{}", b'{"version":2,"certificates":[]}', b"\xff" * 100, b"[" * 100_000]
)
@virtual
async def test_a_document_that_is_none_settles_nothing(document: bytes) -> None:
    async with watching(Cast(), Chain()) as books:
        await books.perform("a", "end")
        assert await settle_wrongly(books, document) == ["a settled batch has no readable document"]
        assert books.task("a").phase is Phase.CERTIFIED


def with_surrogate(cast_: Cast) -> bytes:
    document = encode_document([cast_.certificate(cast_.info("a"))])
    return document.replace(cast_.info("a").proof_of_task.encode(), b"\\ud800")


@virtual
async def test_a_certificate_that_no_digest_can_take_settles_nothing() -> None:
    async with watching(Cast(), Chain()) as books:
        await books.perform("a", "end")
        assert await settle_wrongly(books, with_surrogate(books.cast)) == ["a settled batch has no readable document"]
        assert books.task("a").phase is Phase.CERTIFIED


def documents(cast_: Cast) -> Sequence[tuple[bytes, dict[str, Any]]]:
    """Readable documents that are not what is under the root, with what the batch says."""
    honest, other = cast_.certificate(cast_.info("a")), cast_.certificate(cast_.info("b"))
    turned = msgspec.structs.replace(honest, verdict=Verdict.INVALID)
    return [
        (encode_document([other]), {}),
        (encode_document([turned]), {}),
        (encode_document([honest, other]), {}),
        (encode_document([honest]), {"size": 2}),
        (encode_document([honest]), {"root": Digest(bytes(32))}),
        (encode_document([honest]) + b" ", {}),
        (encode_document([msgspec.structs.replace(honest, task_info=cast_.info("a", epoch=2))]), {}),
        (encode_document([msgspec.structs.replace(honest, task_info=cast_.info("a", epoch=0))]), {}),
        (encode_document([msgspec.structs.replace(honest, task_info=cast_.info("a", task_definition_id=7))]), {}),
    ]


@pytest.mark.parametrize("number", range(9))
@virtual
async def test_a_document_that_does_not_follow_settles_nothing(number: int) -> None:
    async with watching(Cast(), Chain()) as books:
        await books.perform("a", "b", "end")
        document, changes = documents(books.cast)[number]
        wanted = ["a settled batch has no readable document"]
        assert await settle_wrongly(books, document, **changes) == wanted
        assert [books.task(name).phase for name in "ab"] == [Phase.CERTIFIED] * 2


@virtual
async def test_the_batch_settles_once_though_the_chain_repeats_it() -> None:
    async with watching(Cast(), Chain()) as books:
        await books.perform("a")
        batch = books.batch("a")
        await books.publish(batch)
        books.chain.said += [batch_settled(batch), batch_settled(batch), batch_settled(batch, block=9)]
        await books.reaches("a", Phase.APPROVED)
        await until(lambda: books.unread() == 0, "nothing is left to read")


@virtual
async def test_a_memory_that_fails_ends_the_watch_and_is_not_swallowed() -> None:
    """A performer that cannot store verdicts must not look alive."""
    async with MemoryStore(MemoryFile()) as store:
        chain = Chain([settled("a")])
        cast_ = Cast()
        watch = watch_of(cast_, chain, Reader(cast_), TaskLedger(store=store), store)
        duty = asyncio.create_task(watch.run())
        await until(lambda: chain.asked_from, "it reads")
        store._file.kill()
        chain.said.append(settled("b", block=6))
        with pytest.raises(ExceptionGroup) as caught:
            await duty
    assert caught.group_contains(StoreError)
