"""What every verification method is: the performer's half, the attester's half, and the judgement between them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from shared.documents import InputDocument, ModelCard, Output, Parameters
from shared.interfaces import Tensors
from shared.reasons import AbstainReason, InvalidReason
from shared.types import Digest, Verdict

Forward = Callable[[Tensors], Awaitable[Tensors]]
"""One forward pass of the task's model. Raises `InferenceFailed` and the engine's other errors."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """An opinion on one output. `score` is the largest measured distance as a multiple of the card's tolerance: at most
    1 when valid, 0 where nothing was measured."""

    verdict: Verdict
    reason: InvalidReason | AbstainReason | None
    score: float


def valid(score: float) -> Judgement:
    return Judgement(verdict=Verdict.VALID, reason=None, score=score)


def invalid(reason: InvalidReason, score: float = 0.0) -> Judgement:
    return Judgement(verdict=Verdict.INVALID, reason=reason, score=score)


class Method(Protocol):
    """Both halves let the errors of `run` pass, and raise `InputMismatch` for a requester's document or parameters that
    do not fit the card: neither is the performer's fault."""

    async def prove(
        self, *, task_id: Digest, card: ModelCard, document: InputDocument, parameters: Parameters, run: Forward
    ) -> Output:
        """The output to publish. Raises `InferenceFailed` when the model gives NaN, infinities or unfit shapes."""
        ...

    async def verify(
        self,
        *,
        task_id: Digest,
        card: ModelCard,
        document: InputDocument,
        parameters: Parameters,
        output: Output,
        data: bytes,
        run: Forward,
    ) -> Judgement:
        """Valid, or invalid with its reason; what costs no run is checked first. It never abstains by itself."""
        ...

    def data_of(self, card: ModelCard, output: Output) -> bytes:
        """The short answer that the performer signs beside the proof (protocol §6), from an output of its own."""
        ...
