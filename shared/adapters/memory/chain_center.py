"""A model of the AttestationCenter: as chain_tables.py, for definitions and verdicts. Left out: announced changes and
pauses, hooks and fee calculators (no address here has code, so the contract's own check refuses each)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from eth_utils.crypto import keccak

from shared import merkle
from shared.adapters.memory.chain_coins import hex_of
from shared.adapters.memory.chain_registry import NOBODY, RegistryModel
from shared.crypto import ecdsa
from shared.digests import Domain, leaf
from shared.errors import Reverted
from shared.types import (
    Address,
    BatchInfo,
    Cid,
    Digest,
    Role,
    TaskDefinition,
    TaskInfo,
    TaskRequest,
    TaskTerms,
    Verdict,
)

MAX_TASK_DEFINITIONS = 2**16
MAX_DEADLINE_SECONDS = 30 * 24 * 3600
MAX_TEXT_BYTES = 128
MAX_DELAY_SECONDS = 30 * 24 * 3600
NO_ROOT = Digest(bytes(32))


@dataclass(frozen=True, slots=True)
class Details:
    """Solidity's `TaskSubmissionDetails`."""

    is_approved: bool
    performer_signature: bytes
    signature: bytes
    indices: bytes


@dataclass(frozen=True, slots=True)
class SettlementProof:
    """Solidity's: where a verdict stands, by itself (`root` zero) or in a batch."""

    root: Digest = NO_ROOT
    aggregator: Address = NOBODY
    path: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """Solidity's `recordOf`, before it is hashed."""

    verdict: Verdict
    leaf: bytes
    aggregator: Address


def voters_hash_of(epoch: int, attester_set: int, indices: bytes) -> Digest:
    """Solidity's `votersHashOf`."""
    return Digest(keccak(epoch.to_bytes(4, "big") + attester_set.to_bytes(4, "big") + indices))


@dataclass(slots=True)
class CenterModel:
    """Like `RegistryModel`. The court is told by whoever calls `submit_task`: see `HubModel`."""

    domain: Domain
    owner: Address
    registry: RegistryModel
    definitions: list[TaskDefinition] = field(default_factory=list)
    records: dict[Digest, Record] = field(default_factory=dict)
    batches: dict[Digest, BatchInfo] = field(default_factory=dict)

    def __post_init__(self) -> None:
        delay = self.registry.terms.change_delay_seconds
        if not any(self.owner):
            raise Reverted("OwnableInvalidOwner", (hex_of(self.owner),))
        if not 0 < delay <= MAX_DELAY_SECONDS:
            raise Reverted("DelayOutOfBounds", (delay,))

    def copy(self, registry: RegistryModel) -> CenterModel:
        """Another center in the same state."""
        return replace(
            self,
            registry=registry,
            definitions=list(self.definitions),
            records=dict(self.records),
            batches=dict(self.batches),
        )

    # --- task definitions ----------------------------------------------------------------------------
    def create_task_definition(
        self, sender: Address, name: str, method: str, model_hash: Digest, card_cid: Cid, terms: TaskTerms
    ) -> int:
        """Its id."""
        if sender != self.owner:
            raise Reverted("OwnableUnauthorizedAccount", (hex_of(sender),))
        for what, text in (("name", name), ("method", method), ("cardCid", card_cid)):
            if len(text.encode()) > MAX_TEXT_BYTES:
                raise Reverted("InvalidTerms", (what, len(text.encode())))
        self._require_sound(terms)
        if len(self.definitions) == MAX_TASK_DEFINITIONS:
            raise Reverted("TooManyTaskDefinitions", (MAX_TASK_DEFINITIONS,))
        number = len(self.definitions)
        self.definitions.append(TaskDefinition(number, name, method, model_hash, card_cid, terms=terms))
        return number

    def _require_sound(self, terms: TaskTerms) -> None:
        if not 0 < terms.maximum_deadline <= MAX_DEADLINE_SECONDS:
            raise Reverted("InvalidTerms", ("maximumDeadline", terms.maximum_deadline))
        if not 0 < terms.dispute_window <= self.registry.terms.longest_dispute_seconds:
            raise Reverted("InvalidTerms", ("disputeWindow", terms.dispute_window))
        for what, account in (("hook", terms.hook), ("feeCalculator", terms.fee_calculator)):
            if any(account):
                raise Reverted("InvalidTerms", (what, int.from_bytes(account, "big")))
        if terms.attester_set:
            raise Reverted("UnknownAttesterSet", (terms.attester_set,))

    def definition(self, number: int) -> TaskDefinition:
        if number >= len(self.definitions):
            raise Reverted("UnknownTaskDefinition", (number,))
        return self.definitions[number]

    # --- settling ------------------------------------------------------------------------------------
    def submit_task(
        self, sender: Address, info: TaskInfo, details: Details, now: int, request: TaskRequest | None = None
    ) -> TaskTerms:
        """The terms that it settled by. With a request: Solidity's `submitTaskAfterDeadline`."""
        if request is not None:
            if self.domain.task_id(request) != info.task_id:
                raise Reverted("RequestMismatch", (info.task_id,))
            if now <= request.deadline:
                raise Reverted("VotesMissing", (info.task_id, request.deadline))
        if info.task_id in self.records:
            raise Reverted("TaskAlreadySettled", (info.task_id,))
        info_hash = self.check_certificate(info, details, now, is_late=request is not None)
        terms = self.definition(info.task_definition_id).terms
        voters = voters_hash_of(info.epoch, terms.attester_set, details.indices)
        verdict = Verdict.VALID if details.is_approved else Verdict.INVALID
        self.records[info.task_id] = Record(verdict, leaf(info.task_id, info_hash, details.is_approved, voters), sender)
        return terms

    def check_certificate(self, info: TaskInfo, details: Details, now: int, *, is_late: bool = False) -> Digest:
        """The task info hash."""
        terms = self.definition(info.task_definition_id).terms
        performer = info.task_performer
        if Role.PERFORMER not in self.registry.roles_of(performer):
            raise Reverted("NotPerformer", (hex_of(performer),))
        info_hash = self.domain.task_info_hash(info)
        if not ecdsa.is_signed_by(performer, info_hash, details.performer_signature):
            raise Reverted("PerformerSignatureMismatch", (hex_of(performer), info_hash))
        verdict = Verdict.VALID if details.is_approved else Verdict.INVALID
        power = self.registry.tables.verify_quorum(
            self.domain.vote(info_hash, verdict),
            info.epoch,
            terms.attester_set,
            is_approval=details.is_approved,
            signature=details.signature,
            indices=details.indices,
            now=now,
        )
        if terms.waits_for_all and not is_late and power != self.registry.tables.tables[info.epoch].total_power:
            raise Reverted("VotesMissing", (info.task_id, 0))
        return info_hash

    def submit_batch(self, batch: BatchInfo, signature: bytes, missing: bytes, now: int) -> None:
        if batch.size == 0:
            raise Reverted("EmptyBatch", (batch.root,))
        if batch.root in self.batches:
            raise Reverted("BatchAlreadySettled", (batch.root,))
        self.verify_everybody(self.domain.batch(batch), batch.epoch, signature, missing, now)
        self.batches[batch.root] = batch

    def verify_everybody(self, digest: Digest, epoch: int, signature: bytes, missing: bytes, now: int) -> None:
        """More than 2/3 of all power signed it."""
        self.registry.tables.verify_quorum(
            digest, epoch, 0, is_approval=True, signature=signature, indices=missing, now=now
        )

    # --- reading -------------------------------------------------------------------------------------
    def verdict_of(self, task_id: Digest) -> Verdict | None:
        record = self.records.get(task_id)
        return record.verdict if record else None

    def included(
        self,
        root: Digest,
        task_id: Digest,
        info_hash: Digest,
        is_approved: bool,
        voters: Digest,
        path: Sequence[bytes],
    ) -> bool:
        """Whether a settled batch has this verdict."""
        return root in self.batches and merkle.verify(root, leaf(task_id, info_hash, is_approved, voters), path)

    def require_settled(
        self, task_id: Digest, info_hash: Digest, is_approved: bool, voters: Digest, proof: SettlementProof
    ) -> Address:
        """The aggregator of the settled verdict."""
        if proof.root != NO_ROOT:
            if not self.included(proof.root, task_id, info_hash, is_approved, voters, proof.path):
                raise Reverted("NotSettled", (task_id,))
            return self.batches[proof.root].aggregator
        expected = leaf(task_id, info_hash, is_approved, voters)
        record = self.records.get(task_id)
        if record is None or (record.leaf, record.aggregator) != (expected, proof.aggregator):
            raise Reverted("NotSettled", (task_id,))
        return record.aggregator
