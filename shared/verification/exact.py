"""Method `exact`: hashes agree. For profiles in which honest outputs are equal to the bit on all hardware.

`exact-fp64` computes in float64 and rounds the published values to float32 once: rounding differences of float64 are
2^-29 of a float32 step, so two machines agree but for values that lie just on the border between two steps. `exact-int`
is for integer graphs and trees. A differing hash is looked into before it is called a lie: a value on the border is
what rounding does, two of them are not.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import numpy.typing as npt

from shared.documents import ClassifyOutput, Output, encode_output
from shared.reasons import InvalidReason
from shared.tensors import Array
from shared.verification.method import Compute, Forward, Judgement, Measurement, Work
from shared.verification.tensor import TensorDistance, forward_outputs, output_of, published_of
from shared.verification.zones import judgement_of

MAX_BORDER_SHARE = 1e-5  # of the values, and one of a small output; measured: none of 8.4 million
MAX_BORDER_STEPS = 1  # float32 steps (units in the last place)


class ExactHash(TensorDistance):
    """See `Measuring`. The performer's half and the output's form are those of `tensor`; `compute.run` is exact."""

    async def judge(self, work: Work, output: Output, compute: Compute) -> Judgement:
        return judgement_of(await self.measure(work, output, compute.run))

    async def measure(self, work: Work, output: Output, forward: Forward) -> Measurement:
        """Score 0 for equal hashes; where nothing but values on the border differs, their number as a part of those
        that are let through."""
        recomputed = await forward_outputs(work, forward)
        own = output_of(work.card, recomputed)
        if hash_of(own) == hash_of(output):
            return Measurement(0.0, InvalidReason.HASH_DIFFERS, {"values that differ": 0.0}, own)
        published = published_of(work.card, output) or {}
        rounded = {spec.name: recomputed[spec.name].astype(spec.dtype, copy=False) for spec in work.card.outputs}
        steps = [steps_between(published[name], rounded[name]) for name in rounded]
        differing = sum(int((each > 0).sum()) for each in steps)
        largest = max(float(each.max(initial=0.0)) for each in steps)
        let_through = max(1, int(MAX_BORDER_SHARE * sum(each.size for each in steps)))
        is_border = largest <= MAX_BORDER_STEPS and not _label_moved(output, own)
        return Measurement(
            score=differing / let_through if is_border else math.inf,
            reason=InvalidReason.HASH_DIFFERS,
            statistics={"values that differ": float(differing), "largest difference in float32 steps": largest},
            recomputed=own,
        )


def hash_of(output: Output) -> bytes:
    """SHA-256 of the canonical output: what two exact nodes compare, and what a certificate can quote."""
    return hashlib.sha256(encode_output(output)).digest()


def steps_between(one: Array, other: Array) -> npt.NDArray[np.float64]:
    """Float32 steps between equal shapes; infinite where integers differ, or shapes."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return np.array([math.inf])
    if one.dtype != np.float32:
        return np.asarray(np.where(one == other, 0.0, math.inf), np.float64)
    steps: npt.NDArray[np.float64] = np.abs(_ordinal(one) - _ordinal(other)).astype(np.float64)
    return steps


def _ordinal(values: Array) -> npt.NDArray[np.int64]:
    """Float32 as whole numbers in order: neighbours differ by 1, and both zeros are 0."""
    bits = np.ascontiguousarray(values, np.float32).view(np.int32).astype(np.int64)
    ordinals: npt.NDArray[np.int64] = np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
    return ordinals


def _label_moved(published: Output, own: Output) -> bool:
    if not isinstance(published, ClassifyOutput) or not isinstance(own, ClassifyOutput):
        return False
    return published.label != own.label
