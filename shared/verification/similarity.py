"""Method `similarity`: accept by cosine similarity of one output, for definitions that insist on it.

Measured, it is no acceptance rule: the outputs of quantised, fine-tuned, stale and pruned models are as similar as
honest ones. A card that wants it all the same must say how often it is wrong, on how many outputs, and `tensor` reports
the same metric without accepting anything by it.
"""

from __future__ import annotations

from shared.card_parts import Similarity
from shared.documents import Output
from shared.reasons import InvalidReason
from shared.verification.cosine import cosine_distance
from shared.verification.method import Forward, Measurement, Work
from shared.verification.tensor import TensorDistance, forward_outputs, output_of, published_of


class CosineSimilarity(TensorDistance):
    """See `Measuring`. The performer's half and the form of the output are those of `tensor`."""

    async def measure(self, work: Work, output: Output, forward: Forward) -> Measurement:
        spec = _spec_of(work)
        published = (published_of(work.card, output) or {})[spec.output]
        recomputed = await forward_outputs(work, forward)
        distance = cosine_distance(published, recomputed[spec.output])
        return Measurement(
            score=distance / (1.0 - spec.least),
            reason=InvalidReason.SIMILARITY_LOW,
            statistics={f"cosine distance of {spec.output}": distance},
            recomputed=output_of(work.card, recomputed),
        )


def _spec_of(work: Work) -> Similarity:
    if work.card.similarity is None:
        raise TypeError("the card has no similarity, which `check_card` keeps out")
    return work.card.similarity
