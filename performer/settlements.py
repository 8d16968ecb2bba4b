"""What the chain says about this performer's tasks, alone or under a batch root."""

from __future__ import annotations

import asyncio

import msgspec
import structlog

from performer.earnings import Earnings
from performer.ledger import TaskLedger
from shared.batch import Batch
from shared.constants import FETCH_TIMEOUT_SECONDS, MAX_INPUT_BYTES, MAX_PROOF_BYTES
from shared.digests import Domain
from shared.errors import ChainUnavailable, CodecError, ContentError
from shared.interfaces import Clock, Collection, ContentStore, OperatorReader, Settlement, TaskStore
from shared.keeping import kept_until_executed
from shared.settled_batch import read_settled_batch
from shared.types import BatchSettled, Cid, Digest, Settled, SlashQueued, TaskCertificate, Verdict
from shared.workflow import Inclusion, SettledOnChain

log = structlog.get_logger(__name__)

CURSOR, CURSOR_KEY = "cursor", b"chain"
UNREAD_BATCH = "unread_batch"  # root → event: settled batches whose document is not read yet
REREAD_BLOCKS = 64  # a reorg reaches no further back than the event reader remembers
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(BatchSettled).decode
RETRY_SECONDS, RETRY_MAX_SECONDS = 1.0, 60.0


class SettlementWatch:
    """Turns chain events into the last phase of tasks."""

    def __init__(
        self,
        *,
        domain: Domain,
        settlement: Settlement,
        reader: OperatorReader,
        content: ContentStore,
        ledger: TaskLedger,
        earnings: Earnings,
        store: TaskStore,
        clock: Clock,
    ) -> None:
        self._domain, self._settlement, self._reader, self._content = domain, settlement, reader, content
        self._ledger, self._earnings, self._store, self._clock = ledger, earnings, store, clock

    async def run(self) -> None:
        """Until cancelled; goes on where the last run stopped reading."""
        stored = await self._store.get(CURSOR, CURSOR_KEY)
        cursor = int.from_bytes(stored or b"\0", "big")
        async with asyncio.TaskGroup() as group:
            async for _, unread in self._store.scan(UNREAD_BATCH):
                group.create_task(self._settle_batch(_decode(unread)))
            async for event in self._settlement.events(max(0, cursor - REREAD_BLOCKS)):
                if isinstance(event, Settled):
                    await self._settle_single(event)
                elif isinstance(event, BatchSettled):
                    await self._store.put(UNREAD_BATCH, event.batch.root, _encode(event))
                    group.create_task(self._settle_batch(event))
                elif isinstance(event, SlashQueued):
                    await self._keep_for(event, group)
                if event.block > cursor:
                    cursor = event.block
                    await self._store.put(CURSOR, CURSOR_KEY, cursor.to_bytes(8, "big"))

    async def _keep_for(self, slash: SlashQueued, group: asyncio.TaskGroup) -> None:
        """A dispute about a task of ours may begin later than it was kept for, and last longer: whoever judges it needs
        what the task was, and we have the most to lose by its absence."""
        task = await self._ledger.find(slash.task_id)
        if task is not None and task.task_info is not None:
            until = kept_until_executed(slash.executable_at)
            group.create_task(self._keep(task.task_info.proof_of_task, MAX_PROOF_BYTES, until))
            group.create_task(self._keep(task.request.input_cid, MAX_INPUT_BYTES, until))

    async def _keep(self, cid: Cid, max_bytes: int, until: float) -> None:
        """Fetched from who has it, if it is gone here."""
        try:
            await self._content.get(cid, max_bytes=max_bytes, timeout_seconds=FETCH_TIMEOUT_SECONDS, keep_until=until)
        except ContentError as error:
            log.warning("what a dispute is about is not kept for it", cid=cid, reason=str(error))

    async def _settle_single(self, event: Settled) -> None:
        task = await self._ledger.find(event.task_id)
        # Earned before settled: in between, the fee would be promised by nobody.
        if task is not None and task.task_info is not None:
            await self._earnings.earned(
                task.task_id,
                Collection(
                    request=task.request,
                    requester_signature=task.requester_signature,
                    info_hash=event.task_info_hash,
                    is_approved=event.is_approved,
                    epoch=task.task_info.epoch,
                    indices=event.indices,
                    root=Digest(bytes(32)),
                    aggregator=event.aggregator,
                    path=(),
                ),
            )
        settled = SettledOnChain(event.is_approved, event.tx_hash, event.gas_used, 0, self._clock.now())
        await self._settle(event.task_id, settled)

    async def _settle_batch(self, event: BatchSettled) -> None:
        batch = await self._read_batch(event)
        if batch is not None:
            for certificate in batch.certificates:
                await self._settle_batched(event, batch, certificate)
        await self._store.delete(UNREAD_BATCH, event.batch.root)

    async def _settle_batched(self, event: BatchSettled, batch: Batch, certificate: TaskCertificate) -> None:
        info = certificate.task_info
        task = await self._ledger.find(info.task_id)
        if task is None:
            return
        inclusion = Inclusion(
            root=batch.info.root,
            task_info_hash=self._domain.task_info_hash(info),
            is_approved=certificate.verdict is Verdict.VALID,
            voters_hash=batch.voters_of(certificate),
            path=tuple(batch.proof(certificate)),
        )
        await self._earnings.earned(
            task.task_id,
            Collection(
                request=task.request,
                requester_signature=task.requester_signature,
                info_hash=inclusion.task_info_hash,
                is_approved=inclusion.is_approved,
                epoch=info.epoch,
                indices=batch.indices_of(certificate),
                root=inclusion.root,
                aggregator=batch.info.aggregator,
                path=inclusion.path,
            ),
        )
        settled = SettledOnChain(
            inclusion.is_approved, event.tx_hash, event.gas_used, batch.info.size, self._clock.now(), inclusion
        )
        await self._settle(info.task_id, settled)

    async def _read_batch(self, event: BatchSettled) -> Batch | None:
        """What is under the root. Whoever serves it: it must hash to what the chain says."""
        delay = RETRY_SECONDS
        while True:
            try:
                return await read_settled_batch(self._domain, event.batch, self._content, self._reader)
            except CodecError as error:
                log.error("a settled batch has no readable document", root=event.batch.root.hex(), reason=str(error))
                return None
            except (ContentError, ChainUnavailable) as error:
                log.warning("batch document not here yet", root=event.batch.root.hex()[:8], reason=str(error))
                await asyncio.sleep(delay)
                delay = min(2 * delay, RETRY_MAX_SECONDS)

    async def _settle(self, task_id: Digest, event: SettledOnChain) -> None:
        if self._ledger.get(task_id) is not None:
            await self._ledger.advance(task_id, event)
