"""The performer's duty (protocol §7): take a request, run the model, prove it, and see it through to the chain."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import structlog

from performer.admission import Admission, Admitted
from performer.earnings import Earnings
from performer.ledger import TaskLedger
from performer.publishing import Publications
from performer.settlements import SettlementWatch
from shared import messages
from shared.constants import REPUBLISH_SECONDS
from shared.content.unixfs import UNIXFS_V1_2025
from shared.digests import Domain
from shared.documents import ModelCard, ProofObject, data_of, decode_proof, encode_proof
from shared.duty import attend
from shared.errors import PoiError, TransportError
from shared.interfaces import Clock, ContentStore, Gossip, IdentitySigner, Received
from shared.messages import CertificateMessage, TaskMessage, Topics
from shared.metrics import Metrics
from shared.model_library import ModelLibrary
from shared.roster import Roster
from shared.seeds import epoch_for
from shared.types import Cid, Digest, Ref, TaskInfo, TaskRequest
from shared.validation import GossipRules
from shared.verification import METHODS
from shared.verification.method import Method, Work
from shared.workflow import FINAL, Certified, DeadlinePassed, Failed, Performed, Phase, Submitted, Task

if TYPE_CHECKING:
    from shared.node import Node

log = structlog.get_logger(__name__)

OPEN_PHASES = tuple(phase for phase in Phase if phase not in FINAL)
PARALLEL_RUNS = 2  # engines have threads of their own; more would only fight for them

T = TypeVar("T")


class SeedExpired(PoiError):
    """A task waited so long that its seed is no longer one that attesters take."""


@dataclass(frozen=True, slots=True)
class _Proven:
    """A task that ran, its proof in the own store."""

    card: ModelCard
    content: Ref
    data: bytes
    inference_seconds: float


class Performer:
    """Runs models for requesters, and stands for the results with its stake."""

    def __init__(
        self,
        *,
        domain: Domain,
        roster: Callable[[], Roster],
        gossip: Gossip,
        topics: Topics,
        rules: GossipRules,
        content: ContentStore,
        library: ModelLibrary,
        signer: IdentitySigner,
        ledger: TaskLedger,
        admission: Admission,
        settlements: SettlementWatch,
        earnings: Earnings,
        publications: Publications,
        clock: Clock,
        sources: tuple[str, ...] = (),
        methods: Mapping[str, Method] = METHODS,
        metrics: Metrics | None = None,
    ) -> None:
        """`sources`: where else the proofs are, of this operator's own hosts, for the `Ref`."""
        self._metrics = metrics or Metrics("performer")
        self._domain, self._roster = domain, roster
        self._gossip, self._topics, self._rules = gossip, topics, rules
        self._content, self._library, self._signer = content, library, signer
        self.ledger, self._admission, self._settlements, self.earnings = ledger, admission, settlements, earnings
        self._publications, self._sources = publications, sources
        self._clock, self._methods = clock, methods
        self._queue: asyncio.Queue[Task] = asyncio.Queue()
        self._performing: set[Digest] = set()

    @classmethod
    def from_node(cls, node: Node, *, methods: Mapping[str, Method] | None = None) -> Performer:
        """`methods` instead of the node's own."""
        ledger = TaskLedger(store=node.store)
        earnings = Earnings(
            address=node.signer.address,
            escrow=node.escrow,
            settlement=node.settlement,
            ledger=ledger,
            store=node.store,
        )
        return cls(
            domain=node.domain,
            roster=lambda: node.roster.current,
            gossip=node.gossip,
            topics=node.topics,
            rules=node.rules,
            content=node.content,
            library=node.library,
            signer=node.signer,
            ledger=ledger,
            admission=Admission(
                domain=node.domain,
                address=node.signer.address,
                roster=lambda: node.roster.current,
                library=node.library,
                content=node.content,
                ledger=ledger,
                earnings=earnings,
                clock=node.clock,
                served=node.config.performer.definitions,
                max_open_tasks=node.config.performer.max_open_tasks,
            ),
            settlements=SettlementWatch(
                domain=node.domain,
                settlement=node.settlement,
                reader=node.reader,
                content=node.content,
                ledger=ledger,
                earnings=earnings,
                store=node.store,
                clock=node.clock,
            ),
            earnings=earnings,
            publications=Publications(
                publishers=node.publishers,
                store=node.store,
                clock=node.clock,
                count=lambda publisher, state: node.metrics.publications.add(publisher=publisher, state=state),
            ),
            clock=node.clock,
            sources=node.config.content.sources,
            methods=methods or node.methods,
            metrics=node.metrics,
        )

    async def request(self, request: object, signature: object, document: object) -> Task:
        """(1) check and (2) store a request as it came through the door. The same request again is the same task.

        Raises `RequestRefused`; then nothing was stored.
        """
        admitted = await self._admission.admit(request, signature, document)
        if isinstance(admitted, Admitted):
            self._queue.put_nowait(admitted.task)
            log.info("task taken", task=admitted.task.task_id.hex()[:8])
            return admitted.task
        return admitted

    def count_open(self) -> None:
        """Sets the level of open tasks by phase; for whoever is about to expose the metrics."""
        phases = Counter(task.phase for task in self.ledger.open_tasks())
        for phase in OPEN_PHASES:
            self._metrics.open_tasks.set(phases[phase], phase=phase)

    async def run(self) -> None:
        """Until cancelled."""
        await self.ledger.load()
        await self.earnings.load()
        await self._publications.load()
        for task in self.ledger.open_tasks():
            if task.phase is Phase.REQUESTED and task.failure is None:
                self._queue.put_nowait(task)
        async with asyncio.TaskGroup() as group:
            for _ in range(PARALLEL_RUNS):
                group.create_task(self._perform_next(group))
            group.create_task(
                attend(self._gossip, self._topics.certificate, self._rules.check_certificate, self._on_certificate)
            )
            group.create_task(self._settlements.run())
            group.create_task(self.earnings.run())
            group.create_task(self._publications.run())
            group.create_task(self._keep_asking())

    async def _perform_next(self, telling: asyncio.TaskGroup) -> None:
        while True:
            queued = await self._queue.get()
            task = self.ledger.get(queued.task_id)
            if task is None or task.phase is not Phase.REQUESTED or self._clock.now() >= task.request.deadline:
                continue  # settled or run out while it waited
            if task.failure is not None or task.task_id in self._performing:
                continue  # queued twice: by the door, which is open while `run` loads, and by `run`
            self._performing.add(task.task_id)
            proven = await self._guarded(task, self._prove(task))
            if proven is None:
                self._performing.discard(task.task_id)
            else:
                # By itself: the next task need not wait for what certifies this one's proof.
                telling.create_task(self._finish(task, proven))

    async def _finish(self, task: Task, proven: _Proven) -> None:
        await self._guarded(task, self._tell(task, proven))
        self._performing.discard(task.task_id)

    async def _guarded(self, task: Task, step: Coroutine[Any, Any, T]) -> T | None:
        """None when it failed, which is recorded."""
        try:
            return await step
        except PoiError as error:
            log.warning("task not performed", task=task.task_id.hex()[:8], reason=str(error))
            await self.ledger.advance(task.task_id, Failed(str(error)))
        except Exception as error:
            log.exception("fault while performing", task=task.task_id.hex()[:8])
            await self.ledger.advance(task.task_id, Failed(f"internal fault: {type(error).__name__}"))
        return None

    async def _prove(self, task: Task) -> _Proven:
        request = task.request
        definition = self._roster().definitions[request.task_definition_id]
        # (3) fetch card, model, input
        model = await self._library.ready(definition)
        document, parameters = await self._admission.read_input(request, definition, model.card)
        # (4) run (5) prove
        method = self._methods[model.card.method]
        started = time.perf_counter()
        work = Work(task.task_id, self._signer.address, model.card, document, parameters, definition.id)
        output = await method.prove(work, model.compute)
        inference_seconds = time.perf_counter() - started
        proof = ProofObject(
            task_id=task.task_id,
            card_cid=model.card_cid,
            model_hash=model.model_hash,
            input_cid=request.input_cid,
            parameters=request.parameters,
            seed=request.seed,
            output=output,
            engine=model.fingerprint(),
        )
        ref = await self._content.add(
            _checked(encode_proof(proof)), keep_until=self._admission.kept_until(request, definition)
        )
        content = msgspec.structs.replace(ref, sources=self._sources)
        return _Proven(model.card, content, data_of(output), inference_seconds)

    async def _tell(self, task: Task, proven: _Proven) -> None:
        content = await self._publications.publish(proven.content, task.request.deadline)
        # (6) sign
        epoch = self._epoch_for(task.request, proven.card)
        info = self._task_info(task, content.cid, proven.data, epoch)
        signature = await self._signer.sign(self._domain.task_info_hash(info))
        performed = await self.ledger.advance(
            task.task_id,
            Performed(
                info,
                signature,
                proven.inference_seconds,
                self._clock.now(),
                msgspec.structs.replace(content, cid=info.proof_of_task),
            ),
        )
        log.info("performed", task=task.task_id.hex()[:8], ms=round(proven.inference_seconds * 1000, 1))
        # (7) publish
        await self._publish(performed)

    def _task_info(self, task: Task, proof_of_task: Cid, data: bytes, epoch: int) -> TaskInfo:
        return TaskInfo(
            task_id=task.task_id,
            proof_of_task=proof_of_task,
            data=data,
            task_performer=self._signer.address,
            task_definition_id=task.request.task_definition_id,
            epoch=epoch,
        )

    def _epoch_for(self, request: TaskRequest, card: ModelCard) -> int:
        epoch = epoch_for(card, request.seed, self._roster())
        if epoch is None:
            raise SeedExpired("the request's seed is the beacon of no epoch whose votes still settle; request it again")
        return epoch

    async def _publish(self, task: Task) -> None:
        if task.task_info is None:
            return
        message = TaskMessage(
            request=task.request,
            requester_signature=task.requester_signature,
            task_info=task.task_info,
            performer_signature=task.performer_signature,
            content=task.content or Ref(task.task_info.proof_of_task, 0, UNIXFS_V1_2025.name),
        )
        try:
            await self._gossip.publish(self._topics.task, messages.encode(message))
        except TransportError as error:
            log.warning("task not published", task=task.task_id.hex()[:8], reason=str(error))

    async def _keep_asking(self) -> None:
        """(7) publish again until certified or expired: gossip may lose any message, also the certificate, and the
        chain may be faster than it."""
        while True:
            await asyncio.sleep(REPUBLISH_SECONDS)
            now = self._clock.now()
            for task in self.ledger.open_tasks():
                if now >= task.request.deadline:
                    await self.ledger.advance(task.task_id, DeadlinePassed())
                elif task.phase is Phase.PERFORMED and now - (task.performed_at or now) >= REPUBLISH_SECONDS:
                    await self._publish(task)
            for task in self.ledger.uncertified():
                if now < task.request.deadline:
                    await self._publish(task)

    async def _on_certificate(self, received: Received) -> None:
        message = messages.decode_certificate(received.data)
        if isinstance(message, CertificateMessage):
            await self._certified(message)
            return
        for task_id in message.task_ids:
            task = self.ledger.get(task_id)
            if task is not None and task.phase in (Phase.CERTIFIED, Phase.SUBMITTED):
                await self.ledger.advance(task_id, Submitted(message.tx_hash))

    async def _certified(self, message: CertificateMessage) -> None:
        info = message.certificate.task_info
        task = self.ledger.get(info.task_id)
        if task is None:
            return
        if task.task_info is not None and task.task_info != info:
            log.error("a certificate for a task info that is not ours", task=info.task_id.hex()[:8])
            return
        table = self._roster().table_of(info)
        now = self._clock.now()
        event = Certified(message.certificate, message.valid_power, message.invalid_power, table.total_power, now)
        if task.certificate is None:
            self._metrics.certificate_seconds.observe(now - task.requested_at)
        await self.ledger.advance(info.task_id, event)


def _checked(proof: bytes) -> bytes:
    """Raises `CodecError` for what attesters would refuse unread, such as a proof that the model's output makes too
    large: a task without a result costs nothing, a signed one the stake."""
    decode_proof(proof)
    return proof
