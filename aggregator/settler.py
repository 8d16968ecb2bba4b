"""Certificates on their way to the chain: rejections at once, approvals in batches (protocol §7, step 7 and 8).

Every certificate is durable before anybody hears of it, and forgotten only when the chain has it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import structlog

from aggregator.second_round import SecondRound
from shared import messages
from shared.batch import decode_document, make_batch
from shared.constants import MAX_BATCH_SIZE
from shared.digests import Domain
from shared.errors import ChainUnavailable, Dropped, PoiError, Reverted, TransportError
from shared.interfaces import Clock, ContentStore, Gossip, Received, Settlement, TaskStore
from shared.messages import BatchVote, SubmittedMessage, Topics
from shared.roster import Roster
from shared.types import Address, Digest, SlashExecuted, SlashQueued, TaskCertificate, Verdict

log = structlog.get_logger(__name__)
T = TypeVar("T")

UNSETTLED = "unsettled"  # task id → certificate
BATCH = "batch"  # root → batch document
RETRY_SECONDS = 1.0  # doubles up to the next, while the chain is away
RETRY_MAX_SECONDS = 30.0
CONFIRM_SECONDS = 60.0
SUBMIT_ATTEMPTS = 5
MAX_PARALLEL = 8
ALREADY_SETTLED = frozenset({"TaskAlreadySettled", "BatchAlreadySettled"})
TOO_EARLY = frozenset({"SlashNotDue"})


class Settler:
    """Owns every certificate from its birth to its block."""

    def __init__(
        self,
        *,
        domain: Domain,
        address: Address,
        roster: Callable[[], Roster],
        gossip: Gossip,
        topics: Topics,
        content: ContentStore,
        settlement: Settlement,
        store: TaskStore,
        clock: Clock,
        batch_seconds: float,
        max_batch: int,
    ) -> None:
        self._domain, self._address, self._roster = domain, address, roster
        self._gossip, self._topics, self._content = gossip, topics, content
        self._settlement, self._store, self._clock = settlement, store, clock
        self._batch_seconds, self._max_batch = batch_seconds, min(max_batch, MAX_BATCH_SIZE)
        self._approved: asyncio.Queue[TaskCertificate] = asyncio.Queue()
        self._rejected: asyncio.Queue[TaskCertificate] = asyncio.Queue()
        self._round = SecondRound(domain=domain, roster=roster, gossip=gossip, topics=topics)
        self._slots = asyncio.Semaphore(MAX_PARALLEL)

    async def add(self, certificate: TaskCertificate) -> None:
        """Durable before it returns."""
        await self._store.put(UNSETTLED, certificate.task_info.task_id, messages.encode_certificate(certificate))
        self._queue(certificate)

    async def recover(self) -> None:
        """Queue again what a crash left unsettled."""
        async for root, document in self._store.scan(BATCH):
            if await self._patiently(partial(self._settlement.is_batch_settled, Digest(root))):
                await self._forget(decode_document(document))
            await self._store.delete(BATCH, root)
        async for _, stored in self._store.scan(UNSETTLED):
            self._queue(messages.decode_stored_certificate(stored))

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._settle_rejections(group))
            group.create_task(self._settle_approvals(group))
            group.create_task(self._execute_slashes(group))

    async def on_batch_message(self, received: Received) -> None:
        """Votes of the second round."""
        message = messages.decode_batch(received.data)
        if isinstance(message, BatchVote) and message.batch.aggregator == self._address:
            self._round.count(message)

    def _queue(self, certificate: TaskCertificate) -> None:
        queue = self._approved if certificate.verdict is Verdict.VALID else self._rejected
        queue.put_nowait(certificate)

    async def _settle_rejections(self, group: asyncio.TaskGroup) -> None:
        while True:
            certificate = await self._rejected.get()
            group.create_task(self._settle_one(certificate))

    async def _settle_approvals(self, group: asyncio.TaskGroup) -> None:
        while True:
            certificates = await self._collect()
            group.create_task(self._settle_many(certificates))

    async def _collect(self) -> list[TaskCertificate]:
        """The first approval, and what joins it within `batch_seconds`."""
        collected = [await self._approved.get()]
        try:
            async with asyncio.timeout(self._batch_seconds):
                while len(collected) < self._max_batch:
                    collected.append(await self._approved.get())
        except TimeoutError:
            pass
        return list({certificate.task_info.task_id: certificate for certificate in collected}.values())

    async def _settle_many(self, certificates: list[TaskCertificate]) -> None:
        async with self._slots:
            if len(certificates) > 1 and await self._settle_batch(certificates):
                return
        for certificate in certificates:
            await self._settle_one(certificate)

    async def _settle_batch(self, certificates: list[TaskCertificate]) -> bool:
        """Whether the batch settled. False: settle each by itself."""
        try:
            batch = make_batch(self._domain, certificates, self._roster().epoch, self._address)
        except ValueError as error:  # their document would be over one block
            log.warning("no batch; its tasks settle one by one", reason=str(error), size=len(certificates))
            return False
        await self._content.add(batch.document)
        submission = await self._round.sign(batch)
        if submission is None:
            log.warning("batch found no quorum; its tasks settle one by one", size=batch.info.size)
            return False
        await self._store.put(BATCH, batch.info.root, batch.document)
        is_settled = await self._submit(
            lambda: self._settlement.submit_batch(submission), batch.certificates, what="batch"
        )
        if is_settled:
            await self._forget(batch.certificates)
        await self._store.delete(BATCH, batch.info.root)
        return is_settled

    async def _settle_one(self, certificate: TaskCertificate) -> None:
        async with self._slots:
            is_settled = await self._submit(
                lambda: self._settlement.submit_task(certificate), (certificate,), what="task"
            )
            if is_settled:
                await self._forget((certificate,))

    async def _submit(
        self, send: Callable[[], Awaitable[Digest]], certificates: tuple[TaskCertificate, ...], *, what: str
    ) -> bool:
        """Send and watch until the chain has it, whoever put it there. False when the contract refuses it."""
        for _ in range(SUBMIT_ATTEMPTS):
            try:
                tx_hash = await self._patiently(send)
                await self._announce(tx_hash, certificates)
                await self._settlement.confirm(tx_hash, CONFIRM_SECONDS)
            except Reverted as error:
                if error.name in ALREADY_SETTLED:
                    return True  # another aggregator was faster, or we were, before a crash
                log.error("the contract refuses to settle", what=what, reason=str(error))
                return False
            except (Dropped, ChainUnavailable) as error:
                log.warning("transaction lost; sending again", what=what, reason=str(error))
            else:
                log.info("settled", what=what, tx=tx_hash.hex()[:8], tasks=len(certificates))
                return True
        log.error("gave up settling; it stays stored for the next start", what=what)
        return False

    async def _announce(self, tx_hash: Digest, certificates: tuple[TaskCertificate, ...]) -> None:
        ids = tuple(certificate.task_info.task_id for certificate in certificates)
        try:
            hint = SubmittedMessage(aggregator=self._address, tx_hash=tx_hash, task_ids=ids)
            await self._gossip.publish(self._topics.certificate, messages.encode(hint))
        except TransportError as error:
            log.warning("submission not announced", reason=str(error))

    async def _forget(self, certificates: tuple[TaskCertificate, ...]) -> None:
        for certificate in certificates:
            await self._store.delete(UNSETTLED, certificate.task_info.task_id)

    async def _execute_slashes(self, group: asyncio.TaskGroup) -> None:
        """Anyone may execute a slash after its window; the aggregator sees to it that somebody does."""
        waiting: dict[Digest, asyncio.Task[None]] = {}
        async for event in self._settlement.events(0):
            if isinstance(event, SlashQueued) and event.task_id not in waiting:
                waiting[event.task_id] = group.create_task(self._execute_slash(event))
            elif isinstance(event, SlashExecuted) and event.task_id in waiting:
                waiting.pop(event.task_id).cancel()

    async def _execute_slash(self, slash: SlashQueued) -> None:
        await asyncio.sleep(max(0.0, slash.executable_at - self._clock.now()))
        # The chain's clock is its last block's, which may lag ours: "too early" only means to ask again.
        while True:
            try:
                tx_hash = await self._patiently(lambda: self._settlement.execute_slash(slash.task_id))
                await self._settlement.confirm(tx_hash, CONFIRM_SECONDS)
                return
            except Reverted as error:
                if error.name not in TOO_EARLY:
                    log.info("slash not executed", task=slash.task_id.hex()[:8], reason=str(error))
                    return
            except PoiError as error:
                log.warning("slash not executed yet", task=slash.task_id.hex()[:8], reason=str(error))
            await asyncio.sleep(RETRY_SECONDS)

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask until the chain answers."""
        delay = RETRY_SECONDS
        while True:
            try:
                return await ask()
            except ChainUnavailable as error:
                log.warning("the chain is unavailable", reason=str(error))
                await asyncio.sleep(delay)
                delay = min(2 * delay, RETRY_MAX_SECONDS)
