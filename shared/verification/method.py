"""What every verification method is: the performer's half, the attester's half, and the judgement between them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from shared.documents import InputDocument, ModelCard, Output, Parameters
from shared.interfaces import Tensors
from shared.reasons import AbstainReason, ContentOutcome, InvalidReason
from shared.types import Address, Cid, Digest, Fingerprint, Verdict
from shared.verification.linear import Linear, Shape

Forward = Callable[[Tensors], Awaitable[Tensors]]
"""One forward pass of the task's model. Raises `InferenceFailed` and the engine's other errors."""


@dataclass(frozen=True, slots=True)
class Work:
    """One task, as far as a method needs it. `document` and `parameters` fit the card."""

    task_id: Digest
    performer: Address
    card: ModelCard
    document: InputDocument
    parameters: Parameters
    definition_id: int = 0  # as services know the kind of task
    proof_of_task: Cid | None = None  # while the performer proves


@dataclass(frozen=True, slots=True)
class AuditRuns:
    """The model taken apart for a batch audit, on this node's engine: see `AuditParts`."""

    exposed: Forward
    replay: Forward
    linears: tuple[Linear, ...]
    inputs: Mapping[str, Shape]


@dataclass(frozen=True, slots=True)
class Compute:
    """What the method may run: `run` in the card's profile, on this node's engine; `reference` the same graph in
    float64, whose float outputs come as float64; `audit` takes the model apart, for `batch-audit` alone."""

    run: Forward
    reference: Forward
    audit: Callable[[], Awaitable[AuditRuns]] | None = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """How far a claim lies from a recomputation: `score` in tolerances (1 is the limit), and what it is made of.

    `reason` is why it is invalid if it is; `recomputed` what this node computed itself, for its evidence."""

    score: float
    reason: InvalidReason
    statistics: Mapping[str, float] = field(default_factory=dict)
    recomputed: Output | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """An opinion on one output. `score` is at most 1 when valid, 0 where nothing was measured; `is_refereed` says that
    the float64 reference decided, `engine` what computed, None where nothing did.

    For this node's log alone: `content`, how the read that decided ended, and `said`, what showed the reason, partly in
    strangers' words."""

    verdict: Verdict
    reason: InvalidReason | AbstainReason | None
    score: float
    statistics: Mapping[str, float] = field(default_factory=dict)
    recomputed: Output | None = None
    is_refereed: bool = False
    engine: Fingerprint | None = None
    content: ContentOutcome | None = field(default=None, compare=False)
    said: str = field(default="", compare=False)


def valid(score: float) -> Judgement:
    return Judgement(verdict=Verdict.VALID, reason=None, score=score)


def invalid(reason: InvalidReason, score: float = 0.0) -> Judgement:
    return Judgement(verdict=Verdict.INVALID, reason=reason, score=score)


def abstain(reason: AbstainReason, score: float = 0.0) -> Judgement:
    return Judgement(verdict=Verdict.ABSTAIN, reason=reason, score=score)


class Method(Protocol):
    """Both halves let the errors of `compute` pass. Input and parameters have been checked against the card."""

    async def prove(self, work: Work, compute: Compute) -> Output:
        """The output to publish. Raises `InferenceFailed` when the model gives NaN, infinities or unfit shapes."""
        ...

    def fault(self, work: Work, output: Output) -> InvalidReason | None:
        """What is wrong with an output without running anything."""
        ...

    async def judge(self, work: Work, output: Output, compute: Compute) -> Judgement:
        """Recompute and decide; `output` has no fault."""
        ...


@runtime_checkable
class Measuring(Method, Protocol):
    """A method whose judgement is a distance: what calibration, self-tests and the detection bench build on."""

    async def measure(self, work: Work, output: Output, forward: Forward) -> Measurement: ...
