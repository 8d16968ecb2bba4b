"""Method `batch-audit`: many rows through a model whose cost lies in its linear layers, verified at a part of it.

The performer publishes, beside the outputs, what each linear layer gave; the proof's CID commits it to them. An
attester computes everything but the linear layers from what is published, which is cheap, and checks each of these by
random projections that it draws when it has the proof, so that nobody can have known them.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Collection, Mapping
from dataclasses import replace
from threading import Lock
from typing import Final
from weakref import WeakKeyDictionary

import numpy as np

from shared.constants import MAX_PROOF_BYTES
from shared.documents import BatchOutput, Output, TensorOutput
from shared.errors import CodecError, InferenceFailed, InputMismatch
from shared.interfaces import Tensors
from shared.reasons import InvalidReason
from shared.tensors import DTYPES, Array, Tensor, encode_tensor
from shared.verification.computed import check_computed
from shared.verification.linear import Linear, shape_at, sizes_of
from shared.verification.method import AuditRuns, Compute, Forward, Judgement, Measurement, Work, invalid
from shared.verification.projection import Basis, Projection, RandomBytes, draw_basis, draw_projection, residuals
from shared.verification.tensor import TensorDistance, score_of
from shared.verification.zones import INVALID_ABOVE, VALID_UP_TO, decide, judgement_of, referee

# If its evidence is revealed, an audit tells a number or two that depend on a basis, with coefficients that nobody
# knows; a basis is 32 vectors of 64 numbers and more. To draw one costs 32 passes over the weights.
MAX_AUDITS_OF_BASIS: Final = 256
# A proof carries tensors in base64, and leaves room for the names of 1024 layers and for what else is in it:
# 12.2 MB: with 256 rows, 11,900 values a row.
MAX_PUBLISHED_BYTES: Final = (MAX_PROOF_BYTES - (512 << 10)) // 4 * 3


class BatchAudit:
    """See `Measuring`. `random_bytes` is what the projections are drawn from: only tests may know it."""

    def __init__(self, random_bytes: RandomBytes = secrets.token_bytes) -> None:
        self._tensor = TensorDistance()
        self._projections = Projections(random_bytes)

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
            output = BatchOutput(tensors=_encode(outputs), layers=_encode(layers))
        except CodecError as error:
            raise InferenceFailed(f"a layer of the model is not what a proof carries: {error}") from None
        sizes = sizes_of(runs.inputs, inputs)
        if sizes is not None and results_of(work, output, runs, sizes) is None:  # every attester would refuse it
            raise InferenceFailed("a layer of the model has another shape than its inputs give it")
        return output

    def fault(self, work: Work, output: Output) -> InvalidReason | None:
        """Which layers there must be, and of what shapes, depends on the model: `judge` looks at that. It also finds
        NaN and infinities in layers, which differ from everything."""
        if not isinstance(output, BatchOutput) or self._tensor.fault(work, TensorOutput(output.tensors)) is not None:
            return InvalidReason.OUTPUT_MALFORMED
        are_whole = all(
            layer.dtype == "float32" and len(layer.data) == 4 * math.prod(layer.shape)
            for layer in output.layers.values()
        )
        return None if are_whole else InvalidReason.OUTPUT_MALFORMED

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
            refereed = await referee(self, work, output, compute, measured.score)
            return replace(refereed, statistics={**measured.statistics, **refereed.statistics})
        return judgement_of(measured)

    async def measure(self, work: Work, output: Output, forward: Forward) -> Measurement:
        """The whole batch recomputed, and its outputs compared as `tensor` does."""
        published = TensorOutput(output.tensors) if isinstance(output, BatchOutput) else output
        return await self._tensor.measure(work, published, forward)

    def _audit(self, work: Work, output: Output, runs: AuditRuns, values: Mapping[str, Array]) -> Measurement:
        """Every layer in the order of the model: the first that differs is where the cheat is."""
        audit, scores, differing = work.card.audit, dict[str, float](), dict[str, float]()
        if audit is None:
            raise InferenceFailed("the card has no tolerance for a batch audit")
        for linear in runs.linears:
            projection = self._projections.draw(linear, audit.draws)
            rows = residuals(linear, projection, values[linear.source], values[linear.result]) / audit.relative
            scores[f"residual of {linear.result}"] = score = float(rows.max(initial=0.0))
            if score > VALID_UP_TO:
                self._projections.forget(linear)
                differing = differing or {f"first layer that differs: {linear.result}, row {rows.argmax()}": score}
        distances = _distances(work, output, values, {linear.result for linear in runs.linears})
        return Measurement(
            score=max((*scores.values(), *distances.values())),
            reason=InvalidReason.LAYER_DIFFERS if differing else InvalidReason.TENSOR_DIFFERS,
            statistics={**distances, **scores, **differing},
        )


class Projections:
    """Fresh for every audit, and a basis for each linear layer that this node audits. In any thread."""

    def __init__(self, random_bytes: RandomBytes) -> None:
        self._random_bytes = random_bytes
        self._bases: WeakKeyDictionary[Linear, tuple[Basis, int]] = WeakKeyDictionary()  # with the audits left to it
        self._lock = Lock()

    def draw(self, linear: Linear, draws: int) -> Projection:
        with self._lock:
            basis, left = self._bases.get(linear) or (draw_basis(linear, self._random_bytes), MAX_AUDITS_OF_BASIS)
            if left > 1:
                self._bases[linear] = basis, left - 1
            else:
                del self._bases[linear]
        return draw_projection(basis, draws, self._random_bytes)

    def forget(self, linear: Linear) -> None:
        """After a refusal: nobody is to learn what slips through by being caught."""
        with self._lock:
            self._bases.pop(linear, None)


async def _runs_of(compute: Compute) -> AuditRuns:
    if compute.audit is None:
        raise InferenceFailed("this node cannot take a model apart, as a batch audit must")
    return await compute.audit()


def results_of(work: Work, output: Output, runs: AuditRuns, sizes: Mapping[str, int]) -> dict[str, Array] | None:
    """What was published of each linear layer; None unless that is every layer and nothing else, and of the shapes that
    the model gives for these inputs. Nothing is computed with other shapes: two that broadcast could multiply to more
    memory than there is."""
    if not isinstance(output, BatchOutput):
        return None
    outputs = {spec.name for spec in work.card.outputs}
    if set(output.layers) != {linear.result for linear in runs.linears} - outputs:
        return None
    published = {**output.layers, **output.tensors}
    results = {linear.result: _view(published[linear.result]) for linear in runs.linears}
    is_fit = all(results[linear.result].shape == shape_at(linear.shape, sizes) for linear in runs.linears)
    return results if is_fit else None


def _distances(work: Work, output: Output, values: Mapping[str, Array], given: Collection[str]) -> dict[str, float]:
    """Of the published outputs from the replayed ones, in tolerances. An output among the `given` is what a product
    gave: its residual speaks for it."""
    published = output.tensors if isinstance(output, BatchOutput) else {}
    names = [spec.name for spec in work.card.outputs if spec.name not in given]
    scores = {name: score_of(work.card, name, _view(published[name]), values[name]) for name in names}
    return {f"distance of {name}": math.inf if math.isnan(score) else score for name, score in scores.items()}


def _view(tensor: Tensor) -> Array:
    """`fault` has measured it."""
    return np.frombuffer(tensor.data, DTYPES[tensor.dtype]).reshape(tensor.shape)


def _encode(arrays: Tensors) -> dict[str, Tensor]:
    return {name: encode_tensor(array) for name, array in arrays.items()}
