"""An attester's opinion on one task: steps (2) to (4) of its duty (protocol §7). It decides; it signs nothing.

What each trouble means is written here and nowhere else: the performer's own signed content provably wrong is
*invalid*, everything that kept this attester from checking is *abstain*.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace

from attester.said import said_of
from attester.self_test import SelfTest
from shared.constants import FETCH_TIMEOUT_SECONDS, MAX_INPUT_BYTES, MAX_PROOF_BYTES
from shared.documents import InputDocument, ProofObject, decode_input, decode_parameters, decode_proof
from shared.errors import (
    CodecError,
    ContentCorrupt,
    ContentRefuted,
    ContentTooLarge,
    ContentUnavailable,
    InferenceFailed,
    InputMismatch,
    ModelMismatch,
    PoiError,
)
from shared.interfaces import Clock, ContentStore, Tensors
from shared.keeping import Shares, kept_until
from shared.messages import TaskMessage
from shared.model_library import CardUnavailable, ModelLibrary, ModelUnavailable, ReadyModel
from shared.reasons import AbstainReason, ContentOutcome, InvalidReason
from shared.roster import Roster
from shared.seeds import is_seed_known
from shared.types import Address, Cid, Ref, TaskDefinition, Verdict
from shared.verification import METHODS
from shared.verification.binding import unbound
from shared.verification.method import AuditRuns, Compute, Forward, Judgement, Method, Work
from shared.verification.verify import verify


class _Decided(Exception):
    """`error` showed it, where it says more than the reason; `content` is how the read ended, where no error tells."""

    def __init__(
        self,
        reason: AbstainReason | InvalidReason,
        error: PoiError | None = None,
        content: ContentOutcome | None = None,
    ) -> None:
        super().__init__(reason)
        verdict = Verdict.INVALID if isinstance(reason, InvalidReason) else Verdict.ABSTAIN
        self.judgement = Judgement(
            verdict=verdict,
            reason=reason,
            score=0.0,
            content=content if error is None else _outcome(error),
            said="" if error is None else said_of(error),
        )


def _outcome(error: PoiError) -> ContentOutcome | None:
    """What a read that ended in `error` came to. A document that is wrong in itself was read well."""
    match error:
        case ContentUnavailable():
            return ContentOutcome.UNAVAILABLE
        case ContentTooLarge() | ContentCorrupt() | ModelMismatch():
            return ContentOutcome.WRONG
        case CodecError():
            return ContentOutcome.VERIFIED
        case _:
            return None


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
            raise _Decided(unfit, content=ContentOutcome.VERIFIED)
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
        clock: Clock,
        methods: Mapping[str, Method] = METHODS,
    ) -> None:
        self._address, self._roster, self._content, self._library = address, roster, content, library
        self._self_test, self._methods, self._clock = self_test, methods, clock
        self._shares = Shares()

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
            raise _Decided(AbstainReason.SEED_UNKNOWN, content=ContentOutcome.VERIFIED)
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
            judgement = replace(judgement, content=ContentOutcome.VERIFIED)
            return replace(judgement, engine=model.fingerprint()) if fit.has_run else judgement
        except (InputMismatch, CodecError) as error:
            raise _Decided(AbstainReason.INPUT_UNUSABLE, error) from None
        except InferenceFailed as error:
            raise _Decided(AbstainReason.ENGINE_FAILED, error) from None
        # A run may have to load the model again, when another one pushed it out.
        except ModelUnavailable as error:
            raise _Decided(AbstainReason.MODEL_UNAVAILABLE, error) from None
        except ModelMismatch as error:
            raise _Decided(AbstainReason.MODEL_MISMATCH, error) from None

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
        keep_until = self._shares.granted(
            message.task_info.task_performer,
            kept_until(message.request.deadline, definition.terms.dispute_window, self._roster().settle_seconds),
            self._clock.now(),
        )
        document = asyncio.create_task(self._input(message, keep_until))
        model = asyncio.create_task(self._model(message, definition))
        try:
            proof = await self._bound_proof(message, definition, keep_until)
            return proof, *await asyncio.gather(document, model)
        finally:
            for task in (document, model):
                task.cancel()
            await asyncio.gather(document, model, return_exceptions=True)

    async def _bound_proof(self, message: TaskMessage, definition: TaskDefinition, keep_until: float) -> ProofObject:
        proof = await self._proof(message, definition, keep_until)
        reason = unbound(proof, message.task_info.task_id, definition.card_cid, message.request)
        if reason is not None:
            raise _Decided(reason, content=ContentOutcome.VERIFIED)
        return proof

    async def _proof(self, message: TaskMessage, definition: TaskDefinition, keep_until: float) -> ProofObject:
        proof_cid = message.task_info.proof_of_task
        try:
            return decode_proof(await self._read(message, proof_cid, MAX_PROOF_BYTES, keep_until, message.content))
        except ContentUnavailable as error:
            raise _Decided(AbstainReason.PROOF_UNAVAILABLE, error) from None
        except ContentRefuted as error:
            # Who is served, and when, is the performer's choice. Where a vote against the verdict costs stake, it could
            # serve all but one attester, and have that one's vote punished.
            if definition.terms.slashes_outliers:
                unavailable = ContentUnavailable(proof_cid, {"EigenDA": str(error)})
                raise _Decided(AbstainReason.PROOF_UNAVAILABLE, unavailable) from None
            raise _Decided(InvalidReason.PROOF_MALFORMED, error) from None
        except ContentTooLarge as error:
            raise _Decided(InvalidReason.PROOF_TOO_LARGE, error) from None
        except (ContentCorrupt, CodecError) as error:
            raise _Decided(InvalidReason.PROOF_MALFORMED, error) from None

    async def _input(self, message: TaskMessage, keep_until: float) -> InputDocument:
        try:
            return decode_input(await self._read(message, message.request.input_cid, MAX_INPUT_BYTES, keep_until))
        except ContentUnavailable as error:
            raise _Decided(AbstainReason.INPUT_UNAVAILABLE, error) from None
        except (ContentTooLarge, ContentCorrupt, CodecError) as error:
            raise _Decided(AbstainReason.INPUT_UNUSABLE, error) from None

    async def _read(
        self, message: TaskMessage, cid: Cid, max_bytes: int, keep_until: float, ref: Ref | None = None
    ) -> bytes:
        """Served on from here until `keep_until`; taken off the performer's share once, however often it is tried."""
        performer = message.task_info.task_performer
        data = await self._content.get(
            cid,
            max_bytes=max_bytes,
            timeout_seconds=FETCH_TIMEOUT_SECONDS,
            prefer=performer,
            ref=ref,
            keep_until=keep_until,
        )
        self._shares.took(performer, cid, len(data), keep_until)
        return data

    async def _model(self, message: TaskMessage, definition: TaskDefinition) -> ReadyModel:
        try:
            return await self._library.ready(definition, prefer=message.task_info.task_performer)
        except CardUnavailable as error:
            raise _Decided(AbstainReason.CARD_UNAVAILABLE, error) from None
        except ModelUnavailable as error:
            raise _Decided(AbstainReason.MODEL_UNAVAILABLE, error) from None
        except ModelMismatch as error:
            raise _Decided(AbstainReason.MODEL_MISMATCH, error) from None
        except InferenceFailed as error:
            raise _Decided(AbstainReason.ENGINE_FAILED, error) from None
