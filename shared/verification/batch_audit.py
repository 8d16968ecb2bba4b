"""Method `batch-audit`: many rows through a model whose cost lies in its linear layers, verified at a part of it.

The performer publishes, beside the outputs, what each linear layer gave; the proof's CID commits it to them. An
attester computes everything but the linear layers from what is published, which is cheap, and checks each of these by
random projections that it draws when it has the proof, so that nobody can have known them.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from shared.constants import MAX_PROOF_BYTES
from shared.documents import BatchOutput, Output, TensorOutput
from shared.errors import CodecError, InferenceFailed, InputMismatch
from shared.interfaces import Tensors
from shared.reasons import InvalidReason
from shared.tensors import Array, Tensor, decode_tensor, encode_tensor
from shared.verification.computed import check_computed
from shared.verification.linear import draw_signs, residual, shape_at, sizes_of
from shared.verification.method import AuditRuns, Compute, Forward, Judgement, Measurement, Work, invalid
from shared.verification.tensor import TensorDistance, score_of
from shared.verification.zones import INVALID_ABOVE, VALID_UP_TO, decide, judgement_of, referee

# A proof carries tensors in base64, and leaves room for the names of 1024 layers and for what else is in it. 11.6 MB:
# with 256 rows, layers of 11,800 values a row together.
MAX_PUBLISHED_BYTES: Final = (MAX_PROOF_BYTES - (512 << 10)) // 4 * 3


class BatchAudit:
    """See `Measuring`. `random_bytes` is what the signs are drawn from: only tests may know it."""

    def __init__(self, random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> None:
        self._random_bytes = random_bytes
        self._tensor = TensorDistance()

    async def prove(self, work: Work, compute: Compute) -> Output:
        """Also raises `InputMismatch` for a batch that no proof has room for."""
        runs = await _runs_of(compute)
        inputs = work.document.tensors or {}
        computed = await runs.exposed(inputs)
        outputs = check_computed(work.card, computed)
        layers = {linear.result: computed[linear.result] for linear in runs.linears if linear.result not in outputs}
        published = {**outputs, **layers}
        size = sum(array.nbytes for array in published.values())
        if size > MAX_PUBLISHED_BYTES:
            raise InputMismatch(
                "tensors", f"a batch that gives at most {MAX_PUBLISHED_BYTES} bytes of outputs and layers", f"{size}"
            )
        try:
            return BatchOutput(tensors=_encode(outputs), layers=_encode(layers))
        except CodecError as error:
            raise InferenceFailed(f"a layer of the model is not what a proof carries: {error}") from None

    def fault(self, work: Work, output: Output) -> InvalidReason | None:
        """Which layers there must be, and of what shapes, depends on the model: `judge` looks at that."""
        if not isinstance(output, BatchOutput) or self._tensor.fault(work, TensorOutput(output.tensors)) is not None:
            return InvalidReason.OUTPUT_MALFORMED
        try:
            for layer in output.layers.values():
                decode_tensor(layer)
        except CodecError:
            return InvalidReason.OUTPUT_MALFORMED
        return None

    async def judge(self, work: Work, output: Output, compute: Compute) -> Judgement:
        runs = await _runs_of(compute)
        inputs = work.document.tensors or {}
        sizes = sizes_of(runs.inputs, inputs)
        if sizes is None:  # the inputs do not say how large the layers are, so nothing published can be held to it
            return await decide(self, work, output, compute)
        results = results_of(work, output, runs, sizes)
        if results is None:
            return invalid(InvalidReason.OUTPUT_MALFORMED)
        given = {**inputs, **results}
        try:
            replayed = await runs.replay(given)
        except InferenceFailed:  # a lie may be what cannot be replayed: an index, say, that is out of range
            return await decide(self, work, output, compute)
        measured = await asyncio.to_thread(self._audit, work, output, runs, {**given, **replayed})
        if VALID_UP_TO < measured.score <= INVALID_ABOVE:
            return await referee(self, work, output, compute, measured.score)
        return judgement_of(measured)

    async def measure(self, work: Work, output: Output, forward: Forward) -> Measurement:
        """The whole batch recomputed, and its outputs compared as `tensor` does."""
        published = TensorOutput(output.tensors) if isinstance(output, BatchOutput) else output
        return await self._tensor.measure(work, published, forward)

    def _audit(self, work: Work, output: Output, runs: AuditRuns, values: Mapping[str, Array]) -> Measurement:
        """Every layer in the order of the model: the first that differs is where the cheat is."""
        audit, residuals = work.card.audit, dict[str, float]()
        if audit is None:
            raise InferenceFailed("the card has no tolerance for a batch audit")
        for linear in runs.linears:
            rows = math.prod(values[linear.source].shape[:-1])
            signs = draw_signs(audit.draws, rows, self._random_bytes)
            distance = residual(linear, values[linear.source], values[linear.result], signs)
            residuals[linear.result] = distance / audit.relative
        distances = _distances(work, output, values)
        first = next((name for name, score in residuals.items() if score > VALID_UP_TO), None)
        return Measurement(
            score=max((*residuals.values(), *distances.values())),
            reason=InvalidReason.TENSOR_DIFFERS if first is None else InvalidReason.LAYER_DIFFERS,
            statistics={
                **{f"distance of {name}": score for name, score in distances.items()},
                **{f"residual of {name}": score for name, score in residuals.items()},
                **({} if first is None else {f"first layer that differs: {first}": residuals[first]}),
            },
        )


async def _runs_of(compute: Compute) -> AuditRuns:
    if compute.audit is None:
        raise InferenceFailed("this node cannot take a model apart, as a batch audit must")
    return await compute.audit()


def results_of(work: Work, output: Output, runs: AuditRuns, sizes: Mapping[str, int]) -> dict[str, Array] | None:
    """What was published of each linear layer; None unless that is every layer and nothing else, float32, and of the
    shapes that the model gives for these inputs. Nothing is computed with other shapes: two that broadcast could
    multiply to more memory than there is."""
    if not isinstance(output, BatchOutput):
        return None
    outputs = {spec.name for spec in work.card.outputs}
    if set(output.layers) != {linear.result for linear in runs.linears} - outputs:
        return None
    published = {**output.layers, **output.tensors}
    results = {linear.result: decode_tensor(published[linear.result]) for linear in runs.linears}
    is_fit = all(
        results[linear.result].dtype == np.float32 and results[linear.result].shape == shape_at(linear.shape, sizes)
        for linear in runs.linears
    )
    return results if is_fit else None


def _distances(work: Work, output: Output, values: Mapping[str, Array]) -> dict[str, float]:
    """Of the published outputs from the replayed ones, in tolerances. An output that a linear layer gave is its own
    replay: its residual speaks for it."""
    published = output.tensors if isinstance(output, BatchOutput) else {}
    names = [spec.name for spec in work.card.outputs]
    scores = {name: score_of(work.card, name, decode_tensor(published[name]), values[name]) for name in names}
    return {name: math.inf if math.isnan(score) else score for name, score in scores.items()}


def _encode(arrays: Tensors) -> dict[str, Tensor]:
    return {name: encode_tensor(array) for name, array in arrays.items()}
