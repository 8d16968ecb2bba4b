"""What a cheat is: a performer's half of a method, bent in one way, and the reasons for which it may be refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from shared.documents import Output
from shared.reasons import InvalidReason
from shared.types import Digest
from shared.verification.method import Compute, Forward, Method, Work

Kind = Literal["classify", "tensor", "text"]
ANY_KIND: Final[frozenset[Kind]] = frozenset({"classify", "tensor", "text"})
TENSORS: Final[frozenset[Kind]] = frozenset({"classify", "tensor"})
TEXT: Final[frozenset[Kind]] = frozenset({"text"})

Forwards = Callable[[str], Forward]
"""The forward pass of another model than the task's, by the name that a cheat has for it (`Cheat.model`). Raises
`NotApplicable`, at once or when it is run, where this model has no such variant."""

# Published numbers that are not the model's.
WRONG_TENSORS: Final = frozenset(
    {
        InvalidReason.HASH_DIFFERS,
        InvalidReason.LAYER_DIFFERS,
        InvalidReason.SCORES_DIFFER,
        InvalidReason.SIMILARITY_LOW,
        InvalidReason.TENSOR_DIFFERS,
    }
)
WRONG_LOGITS: Final = frozenset({InvalidReason.LOGITS_DIFFER, InvalidReason.SEQUENCE_DIFFERS})
WRONG_NUMBERS: Final = WRONG_TENSORS | WRONG_LOGITS
# Tokens that the sampler does not pick from the model's numbers; an end token among them counts as a text that was cut.
WRONG_TOKENS: Final = frozenset({InvalidReason.TOKENS_DIFFER, InvalidReason.STOPPED_EARLY})


class Play(Protocol):
    """The performer's half of a method as the cheat plays it. Raises `NotApplicable`, and what the honest half does."""

    async def __call__(self, honest: Method, work: Work, compute: Compute, others: Forwards) -> Output: ...


@dataclass(frozen=True, kw_only=True)
class Cheat:
    """`expected`: the reasons that a refusal may have. `model`: what it asks `others` for. `surely_refused`: every
    output that it made on the shipped models was refused; the others may give, by luck or by design, what an honest
    performer might give as well."""

    name: str
    kinds: frozenset[Kind]
    expected: frozenset[InvalidReason]
    play: Play
    model: str | None = None
    surely_refused: bool = False

    async def prove(self, honest: Method, work: Work, compute: Compute, others: Forwards) -> Output:
        """What the cheating performer publishes."""
        return await self.play(honest, work, compute, others)


def drawn(task_id: Digest, what: str) -> int:
    """A number that follows from the task, so that a cheat can be played again."""
    return int.from_bytes(hashlib.sha256(task_id + what.encode()).digest()[:8], "big")
