"""A model of the AttestationCenter: as chain_registry.py, for verdicts, batches and slashes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from shared import merkle
from shared.adapters.memory.chain_registry import RegistryModel
from shared.constants import WAD
from shared.crypto import ecdsa
from shared.digests import Domain, leaf
from shared.errors import Reverted
from shared.types import Address, BatchInfo, Cid, Digest, Role, TaskDefinition, TaskInfo, Verdict

MAX_TASK_DEFINITIONS = 2**16


@dataclass(frozen=True, slots=True)
class Details:
    """Solidity's `TaskSubmissionDetails`."""

    is_approved: bool
    performer_signature: bytes
    signature: bytes
    indices: bytes


@dataclass(frozen=True, slots=True)
class Slash:
    """A queued slash."""

    operator: Address
    executable_at: int  # unix seconds
    is_executed: bool = False


@dataclass(slots=True)
class CenterModel:
    """Like `RegistryModel`: methods raise `Reverted`, and change nothing then."""

    domain: Domain
    owner: Address
    registry: RegistryModel
    definitions: list[TaskDefinition] = field(default_factory=list)
    verdicts: dict[Digest, Verdict] = field(default_factory=dict)
    batches: dict[Digest, BatchInfo] = field(default_factory=dict)
    slashes: dict[Digest, Slash] = field(default_factory=dict)

    def __post_init__(self) -> None:
        terms = self.registry.terms
        if not 0 < terms.slash_wad <= WAD:
            raise Reverted("InvalidSetting", ("slashWad", terms.slash_wad))
        if not 0 < terms.dispute_window_seconds <= terms.unbonding_seconds:
            raise Reverted("InvalidSetting", ("disputeWindow", terms.dispute_window_seconds))
        if not any(self.owner):
            raise Reverted("OwnableInvalidOwner", ("0x" + self.owner.hex(),))

    def copy(self) -> CenterModel:
        """Another center in the same state, with a registry of its own."""
        return replace(
            self,
            registry=self.registry.copy(),
            definitions=list(self.definitions),
            verdicts=dict(self.verdicts),
            batches=dict(self.batches),
            slashes=dict(self.slashes),
        )

    def create_task_definition(self, sender: Address, name: str, method: str, model_hash: Digest, card_cid: Cid) -> int:
        """Its id."""
        if sender != self.owner:
            raise Reverted("OwnableUnauthorizedAccount", ("0x" + sender.hex(),))
        if len(self.definitions) == MAX_TASK_DEFINITIONS:
            raise Reverted("TooManyTaskDefinitions", (MAX_TASK_DEFINITIONS,))
        self.definitions.append(TaskDefinition(len(self.definitions), name, method, model_hash, card_cid))
        return len(self.definitions) - 1

    def submit_task(self, info: TaskInfo, details: Details, now: int) -> Slash | None:
        """The slash that a rejection queued."""
        if info.task_id in self.verdicts:
            raise Reverted("TaskAlreadySettled", (info.task_id,))
        self.check_certificate(info, details)
        self.verdicts[info.task_id] = Verdict.VALID if details.is_approved else Verdict.INVALID
        if details.is_approved:
            return None
        slash = Slash(info.task_performer, now + self.registry.terms.dispute_window_seconds)
        self.slashes[info.task_id] = slash
        self.registry.queue_slash(info.task_performer)
        return slash

    def check_certificate(self, info: TaskInfo, details: Details) -> Digest:
        """The task info hash."""
        if info.task_definition_id >= len(self.definitions):
            raise Reverted("UnknownTaskDefinition", (info.task_definition_id,))
        if Role.PERFORMER not in self.registry.roles_of(info.task_performer):
            raise Reverted("NotPerformer", ("0x" + info.task_performer.hex(),))
        info_hash = self.domain.task_info_hash(info)
        if not ecdsa.is_signed_by(info.task_performer, info_hash, details.performer_signature):
            raise Reverted("PerformerSignatureMismatch", ("0x" + info.task_performer.hex(), info_hash))
        verdict = Verdict.VALID if details.is_approved else Verdict.INVALID
        self.registry.verify_quorum(
            self.domain.vote(info_hash, verdict),
            info.epoch,
            is_approval=details.is_approved,
            signature=details.signature,
            indices=details.indices,
        )
        return info_hash

    def submit_batch(self, batch: BatchInfo, signature: bytes, missing: bytes) -> None:
        if batch.size == 0:
            raise Reverted("EmptyBatch", (batch.root,))
        if batch.root in self.batches:
            raise Reverted("BatchAlreadySettled", (batch.root,))
        digest = self.domain.batch(batch)
        self.registry.verify_quorum(digest, batch.epoch, is_approval=True, signature=signature, indices=missing)
        self.batches[batch.root] = batch

    def execute_slash(self, task_id: Digest, now: int) -> tuple[Address, int]:
        """Whose stake moved, and how many wei."""
        slash = self.slashes.get(task_id)
        if slash is None:
            raise Reverted("NoSlashQueued", (task_id,))
        if slash.is_executed:
            raise Reverted("SlashAlreadyExecuted", (task_id,))
        if now < slash.executable_at:
            raise Reverted("SlashNotDue", (task_id, slash.executable_at))
        self.slashes[task_id] = replace(slash, is_executed=True)
        return slash.operator, self.registry.slash(slash.operator, self.registry.terms.slash_wad)

    def included(
        self, root: Digest, task_id: Digest, task_info_hash: Digest, is_approved: bool, proof: Sequence[bytes]
    ) -> bool:
        """Whether a settled batch has this verdict."""
        return root in self.batches and merkle.verify(root, leaf(task_id, task_info_hash, is_approved), proof)
