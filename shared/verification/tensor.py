"""Method `tensor`: the full output tensors, each within `tolerance · scale` of the recomputed ones.

A float sum depends on its order, and so on threads and instruction set: honest runs differ in the last bits, and hashes
of them agree for nobody. The distance between honest runs is measured once a model and stands in its card.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import numpy as np

from shared.documents import InputDocument, ModelCard, Output, Parameters, TensorOutput, encode_output, validate_input
from shared.errors import CodecError, InferenceFailed, InputMismatch
from shared.interfaces import Tensors
from shared.reasons import InvalidReason
from shared.tensors import Array, check_arrays, check_encodable, decode_tensor, encode_tensor
from shared.types import Digest
from shared.verification.method import Forward, Judgement, invalid, valid


class TensorDistance:
    """See `Method`."""

    async def prove(
        self, *, task_id: Digest, card: ModelCard, document: InputDocument, parameters: Parameters, run: Forward
    ) -> Output:
        outputs = await forward(card, document, parameters, run)
        return TensorOutput(tensors={name: encode_tensor(array) for name, array in outputs.items()})

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
        validate_input(card, document, parameters)  # before the output is judged: a wrong input makes all outputs moot
        published = _published(card, output)
        if published is None:
            return invalid(InvalidReason.OUTPUT_MALFORMED)
        if data != self.data_of(card, output):
            return invalid(InvalidReason.DATA_MISMATCH)
        score = distance(card, published, await forward(card, document, parameters, run))
        return valid(score) if score <= 1 else invalid(InvalidReason.TENSOR_DIFFERS, score)

    def data_of(self, card: ModelCard, output: Output) -> bytes:
        return hashlib.sha256(encode_output(output)).digest()


async def forward(card: ModelCard, document: InputDocument, parameters: Parameters, run: Forward) -> dict[str, Array]:
    """The card's outputs for this input, finite and of the card's shapes."""
    validate_input(card, document, parameters)
    return _fit_outputs(card, await run(document.tensors or {}))


def _fit_outputs(card: ModelCard, outputs: Tensors) -> dict[str, Array]:
    """Raises `InferenceFailed` for what no proof could carry: an overflow here may be none on other hardware, so it is
    nobody's offence."""
    named = {spec.name: outputs[spec.name] for spec in card.outputs if spec.name in outputs}
    try:
        check_arrays(card.outputs, named, "outputs")
        for array in named.values():
            check_encodable(array)
    except (InputMismatch, CodecError) as error:
        raise InferenceFailed(f"the model's output is not what its card says: {error}") from None
    return named


def distance(card: ModelCard, published: Mapping[str, Array], recomputed: Mapping[str, Array]) -> float:
    """The largest |Δ| over all outputs in tolerances; infinite where shapes or whole numbers differ."""
    return max(_one_distance(card, name, published[name], recomputed[name]) for name in recomputed)


def _one_distance(card: ModelCard, name: str, published: Array, recomputed: Array) -> float:
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


def _published(card: ModelCard, output: Output) -> dict[str, Array] | None:
    """None when the performer's tensors are not what the card allows."""
    if not isinstance(output, TensorOutput):
        return None
    try:
        arrays = {name: decode_tensor(tensor) for name, tensor in output.tensors.items()}
        check_arrays(card.outputs, arrays, "output")
    except (InputMismatch, CodecError):
        return None
    return arrays
