"""Method `exact`: class scores within the card's tolerance, and a label that is exactly what they say.

A label alone would hide almost everything: float16 weights, pruning and fine-tuning leave it as it is. Scores do not.
"""

from __future__ import annotations

import numpy as np

from shared.documents import ClassifyOutput, InputDocument, ModelCard, Output, Parameters, validate_input
from shared.errors import CodecError, InputMismatch
from shared.reasons import InvalidReason
from shared.tensors import Array, check_arrays, decode_tensor, encode_tensor
from shared.types import Digest
from shared.verification.method import Forward, Judgement, invalid, valid
from shared.verification.tensor import distance, forward


class Exact:
    """See `Method`."""

    async def prove(
        self, *, task_id: Digest, card: ModelCard, document: InputDocument, parameters: Parameters, run: Forward
    ) -> Output:
        scores = (await forward(card, document, parameters, run))[card.outputs[0].name]
        return ClassifyOutput(scores=encode_tensor(scores), label=_label(scores))

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
        validate_input(card, document, parameters)
        scores = _published(card, output)
        if scores is None or not isinstance(output, ClassifyOutput):
            return invalid(InvalidReason.OUTPUT_MALFORMED)
        if output.label != _label(scores):
            return invalid(InvalidReason.LABEL_DIFFERS)
        if data != self.data_of(card, output):
            return invalid(InvalidReason.DATA_MISMATCH)
        name = card.outputs[0].name
        score = distance(card, {name: scores}, await forward(card, document, parameters, run))
        # Scores within the tolerance put the recomputed argmax at this label, or at one that ties with it within twice
        # the tolerance: no check of its own is left for it.
        return valid(score) if score <= 1 else invalid(InvalidReason.SCORES_DIFFER, score)

    def data_of(self, card: ModelCard, output: Output) -> bytes:
        """The label as a contract reads it: uint256, 32 bytes big-endian."""
        if not isinstance(output, ClassifyOutput):
            raise TypeError(f"{type(output).__name__} is no classification")
        return output.label.to_bytes(32, "big")


def _label(scores: Array) -> int:
    """The first of the highest."""
    return int(np.argmax(scores))


def _published(card: ModelCard, output: Output) -> Array | None:
    """The scores; None when they are not what the card allows."""
    if not isinstance(output, ClassifyOutput):
        return None
    try:
        scores = decode_tensor(output.scores)
        check_arrays(card.outputs, {card.outputs[0].name: scores}, "output")
    except (InputMismatch, CodecError):
        return None
    return scores
