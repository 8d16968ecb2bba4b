"""Method `tensor`: scores, embeddings and regressions as full float tensors, each within `tolerance · scale`.

A float sum depends on its order, and so on threads and instruction set: honest runs differ in the last bits, and hashes
of them agree for nobody. The distance between honest runs is measured once a model and stands in its card. A label
alone would hide almost everything: float16 weights, pruning and fine-tuning leave it as it is. Scores do not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from shared.documents import ClassifyOutput, ModelCard, Output, TensorOutput
from shared.errors import CodecError, InputMismatch
from shared.reasons import InvalidReason
from shared.tensors import Array, check_arrays, decode_tensor, encode_tensor
from shared.verification.computed import check_computed
from shared.verification.cosine import cosine_distance
from shared.verification.method import Compute, Forward, Judgement, Measurement, Work
from shared.verification.zones import decide


class TensorDistance:
    """See `Measuring`."""

    async def prove(self, work: Work, compute: Compute) -> Output:
        return output_of(work.card, await forward_outputs(work, compute.run))

    def fault(self, work: Work, output: Output) -> InvalidReason | None:
        published = published_of(work.card, output)
        if published is None:
            return InvalidReason.OUTPUT_MALFORMED
        if isinstance(output, ClassifyOutput) and output.label != label_of(published[work.card.outputs[0].name]):
            return InvalidReason.LABEL_DIFFERS
        return None

    async def judge(self, work: Work, output: Output, compute: Compute) -> Judgement:
        return await decide(self, work, output, compute)

    async def measure(self, work: Work, output: Output, forward: Forward) -> Measurement:
        """The largest distance of any value. Scores within the tolerance put the recomputed argmax at the published
        label, or at one that ties with it within twice the tolerance: no check of its own is left for it."""
        published = published_of(work.card, output) or {}
        recomputed = await forward_outputs(work, forward)
        scores = {name: score_of(work.card, name, published[name], array) for name, array in recomputed.items()}
        cosines = {f"cosine distance of {name}": cosine_distance(published[name], recomputed[name]) for name in scores}
        is_classified = work.card.kind == "classify"
        return Measurement(
            score=max(scores.values()),
            reason=InvalidReason.SCORES_DIFFER if is_classified else InvalidReason.TENSOR_DIFFERS,
            statistics={**{f"distance of {name}": score for name, score in scores.items()}, **cosines},
            recomputed=output_of(work.card, recomputed),
        )


# --- what a model gives, and what a performer publishes of it --------------------------------------
async def forward_outputs(work: Work, forward: Forward) -> dict[str, Array]:
    """As `check_computed`, which may raise `InferenceFailed`."""
    return check_computed(work.card, await forward(work.document.tensors or {}))


def output_of(card: ModelCard, arrays: Mapping[str, Array]) -> ClassifyOutput | TensorOutput:
    """As the proof carries it, rounded to the card's dtypes."""
    rounded = {spec.name: arrays[spec.name].astype(spec.dtype, copy=False) for spec in card.outputs}
    if card.kind == "classify":
        scores = rounded[card.outputs[0].name]
        return ClassifyOutput(scores=encode_tensor(scores), label=label_of(scores))
    return TensorOutput(tensors={name: encode_tensor(array) for name, array in rounded.items()})


def label_of(scores: Array) -> int:
    """The first of the highest."""
    return int(np.argmax(scores))


def published_of(card: ModelCard, output: Output) -> dict[str, Array] | None:
    """None when the performer's tensors are not what the card allows."""
    if card.kind == "classify" and isinstance(output, ClassifyOutput):
        tensors = {card.outputs[0].name: output.scores}
    elif card.kind == "tensor" and isinstance(output, TensorOutput):
        tensors = dict(output.tensors)
    else:
        return None
    try:
        arrays = {name: decode_tensor(tensor) for name, tensor in tensors.items()}
        check_arrays(card.outputs, arrays, "output")
    except (InputMismatch, CodecError):
        return None
    return arrays


# --- the distance ------------------------------------------------------------------------------------
def score_of(card: ModelCard, name: str, published: Array, recomputed: Array) -> float:
    """The largest |Δ| in tolerances; infinite where shapes or whole numbers differ."""
    if published.shape != recomputed.shape:
        return math.inf
    tolerance = card.tolerances.get(name)
    if tolerance is None:
        return 0.0 if np.array_equal(published, recomputed) else math.inf
    if published.size == 0:
        return 0.0
    # Both sides are finite; float64 holds the difference of any two float32 exactly enough.
    with np.errstate(over="ignore"):
        delta = np.abs(published.astype(np.float64) - recomputed.astype(np.float64)).max()
    return float(delta) / tolerance.absolute
