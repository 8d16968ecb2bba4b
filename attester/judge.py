"""An attester's opinion on one task: steps (2) to (4) of its duty (protocol §7). It decides; it signs nothing.

What each trouble means is written here and nowhere else: the performer's own signed content provably wrong is
*invalid*, everything that kept this attester from checking is *abstain*.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace

from attester.self_test import SelfTest
from shared.constants import FETCH_TIMEOUT_SECONDS, MAX_INPUT_BYTES, MAX_PROOF_BYTES
from shared.documents import InputDocument, ProofObject, decode_input, decode_parameters, decode_proof
from shared.errors import (
    CodecError,
    ContentCorrupt,
    ContentTooLarge,
    ContentUnavailable,
    InferenceFailed,
    InputMismatch,
    ModelMismatch,
)
from shared.interfaces import ContentStore, Tensors
from shared.messages import TaskMessage
from shared.model_library import CardUnavailable, ModelLibrary, ModelUnavailable, ReadyModel
from shared.reasons import AbstainReason, InvalidReason
from shared.roster import Roster
from shared.seeds import is_seed_known
from shared.types import Address, TaskDefinition, Verdict
from shared.verification import METHODS
from shared.verification.binding import unbound
from shared.verification.method import AuditRuns, Compute, Forward, Judgement, Method, Work
from shared.verification.verify import verify


class _Decided(Exception):
    def __init__(self, reason: AbstainReason | InvalidReason) -> None:
        super().__init__(reason)
        verdict = Verdict.INVALID if isinstance(reason, InvalidReason) else Verdict.ABSTAIN
        self.judgement = Judgement(verdict=verdict, reason=reason, score=0.0)


class _Fit:
    """What a method may run for one task: the model, each time on an engine that passed its self-test. What is wrong
    without a run stays provable on one that did not, and whatever golden vectors somebody withholds."""

    def __init__(self, self_test: SelfTest, model: ReadyModel, prefer: Address) -> None:
        self._self_test, self._model, self._prefer = self_test, model, prefer
        self.has_run = False
        self.compute = Compute(
            run=self._tested(model.compute.run),
            reference=self._tested(model.compute.reference),
            audit=self._audit if model.compute.audit is not None else None,
        )

    async def _check(self) -> None:
        unfit = await self._self_test.check(self._model, prefer=self._prefer)
        if unfit is not None:
            raise _Decided(unfit)
        self.has_run = True

    def _tested(self, forward: Forward) -> Forward:
        async def run(inputs: Tensors) -> Tensors:
            await self._check()
            return await forward(inputs)

        return run

    async def _audit(self) -> AuditRuns:
        await self._check()
        if self._model.compute.audit is None:
            raise InferenceFailed("this node cannot take a model apart")
        return await self._model.compute.audit()


class Judge:
    """Fetches, binds, recomputes and compares."""

    def __init__(
        self,
        *,
        address: Address,
        roster: Callable[[], Roster],
        content: ContentStore,
        library: ModelLibrary,
        self_test: SelfTest,
        methods: Mapping[str, Method] = METHODS,
    ) -> None:
        self._address, self._roster, self._content, self._library = address, roster, content, library
        self._self_test, self._methods = self_test, methods

    async def judge(self, message: TaskMessage) -> Judgement:
        """Never raises for what a performer, a requester or the network does."""
        try:
            return await self._judge(message)
        except _Decided as decided:
            return decided.judgement

    async def _judge(self, message: TaskMessage) -> Judgement:
        info = message.task_info
        if info.task_performer == self._address:
            raise _Decided(AbstainReason.OWN_TASK)
        definition = self._definition(message)
        # (2) fetch (3) binding
        proof, document, model = await self._fetch(message, definition)
        # The requester signed the seed, and a reorg may have changed the beacon: never the performer's fault.
        if not is_seed_known(model.card, message.request.seed, self._roster().beacons_for(info.epoch)):
            raise _Decided(AbstainReason.SEED_UNKNOWN)
        # (4) verify by the method
        try:
            work = Work(
                task_id=info.task_id,
                performer=info.task_performer,
                card=model.card,
                document=document,
                parameters=decode_parameters(model.card, message.request.parameters),
                definition_id=definition.id,
                proof_of_task=info.proof_of_task,
            )
            fit = _Fit(self._self_test, model, info.task_performer)
            judgement = await verify(self._methods[definition.method], work, proof.output, info.data, fit.compute)
            return replace(judgement, engine=model.fingerprint()) if fit.has_run else judgement
        except (InputMismatch, CodecError):
            raise _Decided(AbstainReason.INPUT_UNUSABLE) from None
        except InferenceFailed:
            raise _Decided(AbstainReason.ENGINE_FAILED) from None
        # A run may have to load the model again, when another one pushed it out.
        except ModelUnavailable:
            raise _Decided(AbstainReason.MODEL_UNAVAILABLE) from None
        except ModelMismatch:
            raise _Decided(AbstainReason.MODEL_MISMATCH) from None

    def _definition(self, message: TaskMessage) -> TaskDefinition:
        """What this attester knows of the kind of task. Before anything is judged: the proof of an unknown method may
        look like nothing that can be read here, and be right."""
        definition = self._roster().definitions.get(message.request.task_definition_id)
        if definition is None:
            raise _Decided(AbstainReason.CARD_UNAVAILABLE)
        if definition.method not in self._methods:
            raise _Decided(AbstainReason.METHOD_UNKNOWN)
        if definition.model_hash != message.request.model_hash:
            # The requester asked for a model that this definition does not have: no output can be right. Or a reorg
            # gave the id to another definition: then the proof names a card that is not ours, and names it rightly.
            raise _Decided(AbstainReason.INPUT_UNUSABLE)
        return definition

    async def _fetch(
        self, message: TaskMessage, definition: TaskDefinition
    ) -> tuple[ProofObject, InputDocument, ReadyModel]:
        """All at once. The proof decides first: what is wrong with it is provable whatever else cannot be fetched, and
        whoever withholds the input must not hide it."""
        document = asyncio.create_task(self._input(message))
        model = asyncio.create_task(self._model(message, definition))
        try:
            proof = await self._bound_proof(message, definition)
            return proof, *await asyncio.gather(document, model)
        finally:
            for task in (document, model):
                task.cancel()
            await asyncio.gather(document, model, return_exceptions=True)

    async def _bound_proof(self, message: TaskMessage, definition: TaskDefinition) -> ProofObject:
        proof = await self._proof(message)
        reason = unbound(proof, message.task_info.task_id, definition.card_cid, message.request)
        if reason is not None:
            raise _Decided(reason)
        return proof

    async def _proof(self, message: TaskMessage) -> ProofObject:
        try:
            data = await self._content.get(
                message.task_info.proof_of_task,
                max_bytes=MAX_PROOF_BYTES,
                timeout_seconds=FETCH_TIMEOUT_SECONDS,
                prefer=message.task_info.task_performer,
                ref=message.content,
            )
            return decode_proof(data)
        except ContentUnavailable:
            raise _Decided(AbstainReason.PROOF_UNAVAILABLE) from None
        except ContentTooLarge:
            raise _Decided(InvalidReason.PROOF_TOO_LARGE) from None
        except (ContentCorrupt, CodecError):
            raise _Decided(InvalidReason.PROOF_MALFORMED) from None

    async def _input(self, message: TaskMessage) -> InputDocument:
        try:
            data = await self._content.get(
                message.request.input_cid,
                max_bytes=MAX_INPUT_BYTES,
                timeout_seconds=FETCH_TIMEOUT_SECONDS,
                prefer=message.task_info.task_performer,
            )
            return decode_input(data)
        except ContentUnavailable:
            raise _Decided(AbstainReason.INPUT_UNAVAILABLE) from None
        except (ContentTooLarge, ContentCorrupt, CodecError):
            raise _Decided(AbstainReason.INPUT_UNUSABLE) from None

    async def _model(self, message: TaskMessage, definition: TaskDefinition) -> ReadyModel:
        try:
            return await self._library.ready(definition, prefer=message.task_info.task_performer)
        except CardUnavailable:
            raise _Decided(AbstainReason.CARD_UNAVAILABLE) from None
        except ModelUnavailable:
            raise _Decided(AbstainReason.MODEL_UNAVAILABLE) from None
        except ModelMismatch:
            raise _Decided(AbstainReason.MODEL_MISMATCH) from None
        except InferenceFailed:
            raise _Decided(AbstainReason.ENGINE_FAILED) from None
