"""How often acceptance by similarity is wrong: a card that insists on it has to say so."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from poi.calibration.measure import Caught, Honest
from poi.calibration.subject import Sample, giving, publish
from shared.card_parts import Similarity
from shared.documents import ModelCard
from shared.interfaces import Tensors
from shared.types import Verdict
from shared.verification import METHODS
from shared.verification.method import Compute


async def with_error_rates(
    card: ModelCard, spec: Similarity, samples: Sequence[Sample], honest: Honest, cheats: Iterable[Caught]
) -> ModelCard:
    """The shares of honest outputs rejected and of cheats' outputs accepted, over all of them."""
    rejected = [
        await _is_rejected(card, sample, claimed, computed)
        for outputs in honest.distinct.values()
        for sample, claimed, computed in zip(samples, outputs, honest.baseline, strict=True)
    ]
    accepted = [not each for cheat in cheats for each in cheat.is_rejected]
    rates = msgspec.structs.replace(
        spec,
        false_rejects=sum(rejected) / len(rejected),
        false_accepts=sum(accepted) / max(1, len(accepted)),
        outputs=min(len(rejected), len(accepted)) or 1,
    )
    return msgspec.structs.replace(card, similarity=rates)


async def _is_rejected(card: ModelCard, sample: Sample, claimed: Tensors, computed: Tensors) -> bool:
    forward = giving(computed)
    judged = await METHODS[card.method].judge(sample.under(card), publish(sample, claimed), Compute(forward, forward))
    return judged.verdict is Verdict.INVALID
