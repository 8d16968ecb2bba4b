"""Certificates on their way to the chain: rejections at once, approvals in batches (protocol §7, step 7 and 8).

Every certificate is durable before anybody hears of it, and forgotten only when the chain has it for good.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from aggregator.deadlines import passed
from aggregator.elsewhere import SettledElsewhere
from aggregator.evidence import Accuser
from aggregator.finality import (
    CONFIRM_SECONDS,
    LOOKS_SECONDS,
    RETRY_MAX_SECONDS,
    RETRY_SECONDS,
    Finality,
    patiently,
)
from aggregator.second_round import SecondRound
from aggregator.slashing import SlashExecutor
from aggregator.turns import TAKEOVER_SECONDS, has_rivals, patience, place_of
from shared import messages
from shared.batch import decode_document, make_batch
from shared.constants import BATCH_DOCUMENT_SECONDS, MAX_BATCH_SIZE
from shared.digests import Domain
from shared.errors import ChainUnavailable, Dropped, Ignore, Reverted, TransportError
from shared.interfaces import (
    Clock,
    ContentStore,
    Court,
    Gossip,
    OperatorReader,
    Received,
    Settlement,
    SignedVote,
    TaskStore,
)
from shared.messages import BatchVote, SubmittedMessage, Topics
from shared.roster import Roster
from shared.types import Address, BatchSettled, Digest, Settled, TaskCertificate, TaskRequest, Verdict

log = structlog.get_logger(__name__)

UNSETTLED = "unsettled"  # task id → certificate
BATCH = "batch"  # root → batch document
LATE = "late"  # task id → request: its certificate lacks votes that its definition waits for until the deadline
ALONE = "alone"  # task id → nothing: it was sent by itself, and is not to settle in a batch beside that
MAX_PARALLEL = 8
ALREADY_SETTLED = frozenset({"TaskAlreadySettled", "BatchAlreadySettled"})


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
        court: Court,
        reader: OperatorReader,
        store: TaskStore,
        clock: Clock,
        batch_seconds: float,
        max_batch: int,
    ) -> None:
        self._domain, self._address, self._roster = domain, address, roster
        self._gossip, self._topics, self._content = gossip, topics, content
        self._settlement, self._store = settlement, store
        self._batch_seconds, self._max_batch = batch_seconds, min(max_batch, MAX_BATCH_SIZE)
        self._approved: asyncio.Queue[TaskCertificate] = asyncio.Queue()
        self._single: asyncio.Queue[TaskCertificate] = asyncio.Queue()  # rejections, late and singly settling ones
        self._standby: asyncio.Queue[tuple[TaskCertificate, bool]] = asyncio.Queue()  # and whether it is surely new
        self._held: set[Digest] = set()  # tasks that are on the disk here; certified again, they are settled once
        self._batches: dict[Digest, tuple[TaskCertificate, ...]] = {}  # of a former process, by root
        self._settled: dict[Digest, tuple[TaskCertificate, ...]] = {}  # likewise, by task id or root
        self._alone: list[TaskCertificate] = []  # likewise
        self._late: dict[Digest, TaskRequest] = {}  # by task id; each is on the disk
        self._finality = Finality(settlement=settlement, store=store)
        self._elsewhere = SettledElsewhere(
            domain=domain, roster=roster, settlement=settlement, reader=reader, content=content
        )
        self._clock = clock
        self._slashes = SlashExecutor(court=court, settlement=settlement, store=store, clock=clock)
        self._accuser = Accuser(court=court, settlement=settlement, store=store)
        self._round = SecondRound(domain=domain, roster=roster, gossip=gossip, topics=topics)
        self._slots = asyncio.Semaphore(MAX_PARALLEL)
        self._group: asyncio.TaskGroup
        self._started = 0.0  # of the loop's time

    async def add(self, certificate: TaskCertificate, request: TaskRequest | None = None) -> None:
        """This aggregator's own; `request` is needed where its definition waits for votes that it lacks. Durable before
        it returns."""
        await self._take(certificate, request, is_new=True)

    async def adopt(self, certificate: TaskCertificate, request: TaskRequest | None = None) -> None:
        """Another aggregator's, which may be gone before it settles it, or have settled it long since. Durable before
        it returns; left to the others when it lacks votes and nobody here knows the request."""
        await self._take(certificate, request, is_new=False)

    async def remember(self, task_id: Digest, request: TaskRequest) -> None:
        """Whom a slash over this task compensates."""
        await self._slashes.remember(task_id, request)

    async def accuse(self, attester: Address, first: SignedVote, second: SignedVote) -> None:
        """Takes an equivocation to the court."""
        await self._accuser.accuse(attester, first, second)

    async def recover(self) -> None:
        """Take up again what a crash left unsettled, or not settled for good; `run` asks the chain about it."""
        self._late = {Digest(key): messages.decode_request(stored) async for key, stored in self._store.scan(LATE)}
        async for root, document in self._store.scan(BATCH):
            self._batches[Digest(root)] = decode_document(document)
        self._settled = await self._finality.kept()
        for certificates in self._settled.values():  # a crash may have come between keeping and forgetting
            await self._forget(certificates)
        for certificates in (*self._batches.values(), *self._settled.values()):
            self._hold(certificates)
        sent_alone = {task_id async for task_id, _ in self._store.scan(ALONE)}
        async for task_id, stored in self._store.scan(UNSETTLED):
            certificate = messages.decode_stored_certificate(stored)
            if task_id in sent_alone and task_id not in self._held:
                self._hold((certificate,))
                self._alone.append(certificate)
            self._queue(certificate, is_new=False)
        for task_id in self._late.keys() - self._held:  # a crash came before its certificate, or while it was let go
            await self._forget_request(task_id)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group, self._started = group, asyncio.get_running_loop().time()
            for root, certificates in self._batches.items():
                group.create_task(self._resume(root, certificates))
            for certificate in self._alone:
                group.create_task(self._settle_one(certificate))
            for key, certificates in self._settled.items():
                group.create_task(self._see_through(key, certificates))
            group.create_task(self._settle_single())
            group.create_task(self._settle_approvals())
            group.create_task(self._follow())
            group.create_task(self._stand_by())
            group.create_task(self._accuser.run())

    async def on_batch_message(self, received: Received) -> None:
        """Votes of the second round."""
        message = messages.decode_batch(received.data)
        if isinstance(message, BatchVote) and message.batch.aggregator == self._address:
            self._round.count(message)

    async def _take(self, certificate: TaskCertificate, request: TaskRequest | None, *, is_new: bool) -> None:
        task_id = certificate.task_info.task_id
        is_better = self._is_better(certificate)
        if task_id in self._held and not is_better:
            return
        if self._roster().lacks_votes(certificate):
            if request is None:
                log.info("votes are missing, and the request is not known; left to others", task=task_id.hex()[:8])
                return
            await self._store.put(LATE, task_id, messages.encode_request(request))
            self._late[task_id] = request
        await self._store.put(UNSETTLED, task_id, messages.encode_certificate(certificate))
        if is_better:
            await self._let_go((certificate,))
        self._queue(certificate, is_new=is_new)

    def _is_better(self, certificate: TaskCertificate) -> bool:
        """Whether it has the votes that the one which is held lacks, and need not wait as that one still does."""
        late = self._late.get(certificate.task_info.task_id)
        return late is not None and self._clock.now() <= late.deadline and not self._roster().lacks_votes(certificate)

    def _queue(self, certificate: TaskCertificate, *, is_new: bool) -> None:
        if certificate.task_info.task_id not in self._held:
            self._hold((certificate,))
            self._standby.put_nowait((certificate, is_new))

    async def _stand_by(self) -> None:
        while True:
            self._group.create_task(self._await_turn(*await self._standby.get()))

    async def _await_turn(self, certificate: TaskCertificate, is_new: bool) -> None:
        """Settles it if nobody before this one did; forgets it when it stands for good."""
        task_id = certificate.task_info.task_id
        if task_id in self._late:
            await passed(self._late[task_id].deadline, self._clock)
            if task_id not in self._late:
                return  # one with all votes took its place
        await asyncio.sleep(self._seconds_before_turn(certificate, is_new=is_new))
        for seconds in (0.0, *LOOKS_SECONDS):
            await asyncio.sleep(seconds)
            if not await patiently(partial(self._elsewhere.holds, task_id)):
                self._settle_soon(certificate)
                return
        log.info("settled by another", task=task_id.hex()[:8])
        await self._forget((certificate,))
        await self._let_go((certificate,))

    def _seconds_before_turn(self, certificate: TaskCertificate, *, is_new: bool) -> float:
        operators = self._roster().operators
        seconds = patience(place_of(self._address, certificate.task_info.epoch, operators))
        if is_new or not has_rivals(self._address, operators):
            return seconds
        # Others may have settled it while this process did not run; it has not read all of the chain's events yet.
        return max(seconds, self._started + TAKEOVER_SECONDS - asyncio.get_running_loop().time())

    def _settle_soon(self, certificate: TaskCertificate) -> None:
        info = certificate.task_info
        is_single = self._roster().settles_singly(info) or info.task_id in self._late
        is_batched = certificate.verdict is Verdict.VALID and not is_single
        (self._approved if is_batched else self._single).put_nowait(certificate)

    async def _follow(self) -> None:
        """The chain's events from the beginning, so that neither a slash nor a settlement is missed."""
        async for event in self._settlement.events(0):
            if isinstance(event, Settled | BatchSettled):
                self._group.create_task(self._elsewhere.on_settled(event))
            else:
                self._slashes.on_event(event, self._group)

    def _hold(self, certificates: tuple[TaskCertificate, ...]) -> None:
        self._held.update(certificate.task_info.task_id for certificate in certificates)

    async def _settle_single(self) -> None:
        while True:
            certificate = await self._single.get()
            self._group.create_task(self._settle_one(certificate))

    async def _settle_approvals(self) -> None:
        while True:
            certificates = await self._collect()
            self._group.create_task(self._settle_many(certificates))

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

    async def _resume(self, root: Digest, certificates: tuple[TaskCertificate, ...]) -> None:
        """The former process may have sent the batch. Together again it has the same root, which settles once; apart,
        or among others, its tasks could settle beside it."""
        if await patiently(partial(self._settlement.is_batch_settled, root)):
            await self._on_settled(root, certificates)
        else:
            await self._settle_many(list(certificates))
        await self._store.delete(BATCH, root)

    async def _see_through(self, key: Digest, certificates: tuple[TaskCertificate, ...]) -> None:
        """What a reorg takes back is settled again, and together again if it was together."""
        if await self._finality.stands(key, certificates):
            await self._finality.drop(key)
            await self._let_go(certificates)
            return
        log.warning("a settlement is gone from the chain; settling again", tasks=len(certificates))
        for certificate in certificates:
            await self._store.put(UNSETTLED, certificate.task_info.task_id, messages.encode_certificate(certificate))
        await self._finality.drop(key)
        await self._settle_many(list(certificates))

    async def _settle_many(self, certificates: list[TaskCertificate]) -> None:
        async with self._slots:
            if len(certificates) > 1 and await self._settle_batch(certificates):
                return
        for certificate in certificates:
            await self._settle_one(certificate)

    async def _settle_batch(self, certificates: list[TaskCertificate]) -> bool:
        """Whether the batch settled. False: settle each by itself."""
        try:
            roster = self._roster()
            batch = make_batch(self._domain, certificates, roster.epoch, self._address, roster.table_of)
        # Their document would be over one block, an epoch is over, or a reorg rolled it with other seats.
        except (ValueError, Ignore, Reverted) as error:
            log.warning("no batch; its tasks settle one by one", reason=str(error), size=len(certificates))
            return False
        await self._content.add(batch.document, keep_until=self._clock.now() + BATCH_DOCUMENT_SECONDS)
        submission = await self._round.sign(batch)
        if submission is None:
            log.warning("batch found no quorum; its tasks settle one by one", size=batch.info.size)
            return False
        await self._store.put(BATCH, batch.info.root, batch.document)
        refusal = await self._submit(
            lambda: self._settlement.submit_batch(submission), batch.certificates, what="batch"
        )
        if refusal is None:
            await self._on_settled(batch.info.root, batch.certificates)
        await self._store.delete(BATCH, batch.info.root)
        return refusal is None

    async def _settle_one(self, certificate: TaskCertificate) -> None:
        task_id = certificate.task_info.task_id
        async with self._slots:
            await self._store.put(ALONE, task_id, b"")
            refusal = await self._submit(lambda: self._send(certificate), (certificate,), what="task")
            if refusal is None:
                await self._on_settled(task_id, (certificate,))
            elif refusal == "EpochExpired":  # for ever; others may be mended
                await self._forget((certificate,))
                await self._let_go((certificate,))

    async def _send(self, certificate: TaskCertificate) -> Digest:
        request = self._late.get(certificate.task_info.task_id)
        if request is None:
            return await self._settlement.submit_task(certificate)
        return await self._settlement.submit_task_after_deadline(certificate, request)

    async def _submit(
        self, send: Callable[[], Awaitable[Digest]], certificates: tuple[TaskCertificate, ...], *, what: str
    ) -> str | None:
        """Send and watch until the chain has it, whoever put it there; or why the contract refuses it."""
        delay = RETRY_SECONDS
        while True:
            try:
                tx_hash = await patiently(send)
                await self._announce(tx_hash, certificates)
                await self._settlement.confirm(tx_hash, CONFIRM_SECONDS)
            except Reverted as error:
                if error.name in ALREADY_SETTLED:
                    return None  # another aggregator was faster, or we were, before a crash
                if not _is_behind(error):
                    log.error("the contract refuses to settle", what=what, reason=str(error))
                    return error.name
                log.warning("the chain's node is behind; sending again", what=what, reason=str(error))
            except (Dropped, ChainUnavailable) as error:
                log.warning("transaction lost; sending again", what=what, reason=str(error))
            else:
                log.info("settled", what=what, tx=tx_hash.hex()[:8], tasks=len(certificates))
                return None
            await asyncio.sleep(delay)
            delay = min(2 * delay, RETRY_MAX_SECONDS)

    async def _announce(self, tx_hash: Digest, certificates: tuple[TaskCertificate, ...]) -> None:
        ids = tuple(certificate.task_info.task_id for certificate in certificates)
        try:
            hint = SubmittedMessage(aggregator=self._address, tx_hash=tx_hash, task_ids=ids)
            await self._gossip.publish(self._topics.certificate, messages.encode(hint))
        except TransportError as error:
            log.warning("submission not announced", reason=str(error))

    async def _on_settled(self, key: Digest, certificates: tuple[TaskCertificate, ...]) -> None:
        await self._finality.keep(key, certificates)
        await self._forget(certificates)
        self._group.create_task(self._see_through(key, certificates))

    async def _forget(self, certificates: tuple[TaskCertificate, ...]) -> None:
        for certificate in certificates:
            await self._store.delete(ALONE, certificate.task_info.task_id)
            await self._store.delete(UNSETTLED, certificate.task_info.task_id)

    async def _let_go(self, certificates: tuple[TaskCertificate, ...]) -> None:
        """Settled for good, or never to be."""
        for certificate in certificates:
            self._held.discard(certificate.task_info.task_id)
            await self._forget_request(certificate.task_info.task_id)

    async def _forget_request(self, task_id: Digest) -> None:
        if self._late.pop(task_id, None) is not None:
            await self._store.delete(LATE, task_id)


def _is_behind(error: Reverted) -> bool:
    """An epoch that is yet to come, where a quorum of its table has signed: the node we asked lags, or a reorg took the
    roll back for a moment. A deadline that is yet to come, where it is over here: the chain's clock is its last
    block's."""
    if error.name == "VotesMissing":  # with no deadline at all, no request was shown
        return len(error.arguments) == 2 and error.arguments[1] > 0
    return error.name == "UnknownEpoch" and len(error.arguments) == 2 and error.arguments[0] > error.arguments[1]
