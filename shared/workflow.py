"""The life of a task (protocol §7): `advance` is the only place that sets a phase.

REQUESTED → PERFORMED → CERTIFIED → SUBMITTED → APPROVED | REJECTED; REQUESTED or PERFORMED → EXPIRED at the
deadline; what the chain says wins from every phase.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from shared.errors import IllegalTransition
from shared.types import Digest, Ref, TaskCertificate, TaskInfo, TaskRequest


class Phase(StrEnum):
    """Where a task stands."""

    REQUESTED = "requested"
    PERFORMED = "performed"
    CERTIFIED = "certified"
    SUBMITTED = "submitted"
    APPROVED = "approved"
    REJECTED = "rejected"
    EXPIRED = "expired"


FINAL = frozenset({Phase.APPROVED, Phase.REJECTED, Phase.EXPIRED})


class Inclusion(msgspec.Struct, frozen=True):
    """What `AttestationCenter.included` takes besides the task id (protocol §8.1)."""

    root: Digest  # of the settled batch
    task_info_hash: Digest
    is_approved: bool
    voters_hash: Digest
    path: tuple[bytes, ...]  # the leaf's proof


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One task as a role remembers it. Stamps are unix seconds."""

    task_id: Digest
    request: TaskRequest
    requester_signature: bytes
    requested_at: float
    phase: Phase = Phase.REQUESTED
    task_info: TaskInfo | None = None
    performer_signature: bytes = b""
    performed_at: float | None = None
    inference_seconds: float | None = None
    certificate: TaskCertificate | None = None
    valid_power: int = 0
    invalid_power: int = 0
    total_power: int = 0
    certified_at: float | None = None
    tx_hash: Digest | None = None
    settled_at: float | None = None
    gas_used: int | None = None  # the whole transaction's
    settled_in_batch_of: int = 0  # 0: settled by itself
    inclusion: Inclusion | None = None  # None: settled by itself, or not at all
    failure: str | None = None
    content: Ref | None = None  # of the proof

    @property
    def is_final(self) -> bool:
        return self.phase in FINAL


class Performed(msgspec.Struct, frozen=True):
    """The performer ran the model and signed its task info."""

    task_info: TaskInfo
    performer_signature: bytes
    inference_seconds: float
    at: float
    content: Ref | None = None  # where its proof may be fetched


class Certified(msgspec.Struct, frozen=True):
    """A strict quorum voted."""

    certificate: TaskCertificate
    valid_power: int
    invalid_power: int
    total_power: int
    at: float


class Submitted(msgspec.Struct, frozen=True):
    """A transaction that settles the task is under way."""

    tx_hash: Digest


class DroppedFromPool(msgspec.Struct, frozen=True):
    """That transaction is gone, unmined."""


class SettledOnChain(msgspec.Struct, frozen=True):
    """The chain recorded the verdict."""

    is_approved: bool
    tx_hash: Digest
    gas_used: int
    batch_size: int  # 0: by itself
    at: float
    inclusion: Inclusion | None = None


class DeadlinePassed(msgspec.Struct, frozen=True):
    """The requester's deadline is over."""


class Failed(msgspec.Struct, frozen=True):
    """The performer could not perform; the task runs out without a result."""

    reason: str


Event = Performed | Certified | Submitted | DroppedFromPool | SettledOnChain | DeadlinePassed | Failed


def advance(task: Task, event: Event) -> Task:
    """The task after the event; an event that came before changes nothing. Raises `IllegalTransition`."""
    match event, task.phase:
        case SettledOnChain() as settled, _:
            return _settle(task, settled)
        case Performed() as done, Phase.REQUESTED:
            return msgspec.structs.replace(
                task,
                phase=Phase.PERFORMED,
                task_info=done.task_info,
                performer_signature=done.performer_signature,
                inference_seconds=done.inference_seconds,
                performed_at=done.at,
                content=done.content,
            )
        case Certified() as seen, Phase.PERFORMED | Phase.REQUESTED | Phase.EXPIRED:
            # A certificate may arrive before this node knows of the performance, and after its own clock gave up.
            return _certify(task, seen, Phase.CERTIFIED)
        case Certified() as seen, Phase.APPROVED | Phase.REJECTED if task.certificate is None:
            # The chain was faster than gossip; the requester still wants what a contract can check.
            return _certify(task, seen, task.phase)
        case Certified(), Phase.CERTIFIED | Phase.SUBMITTED | Phase.APPROVED | Phase.REJECTED:
            return task
        case Submitted(tx_hash=tx_hash), Phase.CERTIFIED | Phase.SUBMITTED:
            return msgspec.structs.replace(task, phase=Phase.SUBMITTED, tx_hash=tx_hash)
        case DroppedFromPool(), Phase.SUBMITTED:
            return msgspec.structs.replace(task, phase=Phase.CERTIFIED, tx_hash=None)
        case DeadlinePassed(), Phase.REQUESTED | Phase.PERFORMED:
            return msgspec.structs.replace(task, phase=Phase.EXPIRED)
        case DeadlinePassed(), _:
            return task
        case Failed(reason=reason), Phase.REQUESTED:
            return msgspec.structs.replace(task, failure=reason)
        case _:
            raise IllegalTransition(f"{type(event).__name__} in phase {task.phase}")


def _certify(task: Task, seen: Certified, phase: Phase) -> Task:
    return msgspec.structs.replace(
        task,
        phase=phase,
        task_info=seen.certificate.task_info,
        certificate=seen.certificate,
        valid_power=seen.valid_power,
        invalid_power=seen.invalid_power,
        total_power=seen.total_power,
        certified_at=seen.at,
    )


def _settle(task: Task, settled: SettledOnChain) -> Task:
    return msgspec.structs.replace(
        task,
        phase=Phase.APPROVED if settled.is_approved else Phase.REJECTED,
        tx_hash=settled.tx_hash,
        gas_used=settled.gas_used,
        settled_in_batch_of=settled.batch_size,
        inclusion=settled.inclusion,
        settled_at=settled.at,
    )
