"""Linear layers as a batch audit sees them, and how far what was published of one lies from what it must be.

After Freivalds: for a vector r of random signs, rᵀY = (rᵀA)W costs one pass over A, Y and W, where Y = AW costs a pass
over W for each row. A row that is wrong shows unless other wrong rows cancel it, which half of all r do at best.
Whoever knows r can make wrong rows cancel: r is drawn when Y is published, and by each attester for itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from shared.tensors import Array

Floats = npt.NDArray[np.float32]
Shape = tuple[int | str, ...]
"""A name stands for a dimension that the inputs set: equal names are equal sizes."""

# Of rows and columns. Smaller ones count as this small, so that only what is exactly right passes where all is zero.
LEAST_NORM: Final = 1e-15


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """`result = alpha · source · weight + bias`, over the last axis of `source`."""

    source: str  # the tensor that goes in
    result: str  # the tensor that it gives, which the performer publishes
    weight: Floats  # (in, out)
    bias: Floats | None  # (out,)
    alpha: float
    shape: Shape  # of `result`
    norms: npt.NDArray[np.float64] = field(init=False)  # (out,), of the columns of `alpha · weight` over `bias`

    def __post_init__(self) -> None:
        squares = self.alpha**2 * np.einsum("ij,ij->j", self.weight, self.weight, dtype=np.float64)
        if self.bias is not None:
            squares += np.square(self.bias, dtype=np.float64)
        object.__setattr__(self, "norms", np.maximum(np.sqrt(squares), LEAST_NORM))


@dataclass(frozen=True, slots=True)
class AuditParts:
    """A model taken apart. `exposed` is the whole of it, which also gives the `result` of every linear layer; `replay`
    lacks these layers: it takes the model's inputs and all `result`s, and gives the model's other outputs and every
    `source` that is neither input nor `result`. None where nothing is left to compute."""

    exposed: bytes  # ONNX files
    replay: bytes | None
    linears: tuple[Linear, ...]  # in the order in which they are computed
    inputs: Mapping[str, Shape]  # of the model


def sizes_of(inputs: Mapping[str, Shape], arrays: Mapping[str, Array]) -> dict[str, int] | None:
    """The sizes of the named dimensions, from what goes in; None where one name has two sizes."""
    sizes: dict[str, int] = {}
    for name, shape in inputs.items():
        for dimension, size in zip(shape, arrays[name].shape, strict=True):
            if isinstance(dimension, str) and sizes.setdefault(dimension, size) != size:
                return None
    return sizes


def shape_at(shape: Shape, sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(sizes[dimension] if isinstance(dimension, str) else dimension for dimension in shape)


def draw_signs(draws: int, rows: int, random_bytes: Callable[[int], bytes]) -> Floats:
    """(draws, rows) of ±1, a random bit each."""
    count = draws * rows
    bits = np.unpackbits(np.frombuffer(random_bytes(-(-count // 8)), np.uint8), count=count)
    return (1 - 2 * bits.astype(np.float32)).reshape(draws, rows)


def residual(linear: Linear, source: Array, result: Array, signs: Floats) -> float:
    """The largest |rᵀY − (rᵀA)W| over draws and columns, as a part of the column's norm and √rows.

    Each row's sign is divided by that row's norm in `source`: all rows weigh the same, and one row of large numbers
    buys the others no tolerance. Infinite where rows are missing, or anything is not finite."""
    a = np.ascontiguousarray(source, np.float32).reshape(-1, linear.weight.shape[0])
    y = np.ascontiguousarray(result, np.float32).reshape(-1, linear.weight.shape[1])
    if len(a) != len(y) or len(a) != signs.shape[1]:
        return math.inf
    if len(a) == 0:
        return 0.0
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        r = (signs / _row_norms(a, is_biased=linear.bias is not None)).astype(np.float32)
        expected = linear.alpha * ((r @ a) @ linear.weight).astype(np.float64)
        if linear.bias is not None:
            expected += r.sum(axis=1, dtype=np.float64)[:, None] * linear.bias
        largest = np.max(np.abs(r @ y - expected) / (linear.norms * math.sqrt(len(a))))
    return float(largest) if np.isfinite(largest) else math.inf


def _row_norms(a: Floats, *, is_biased: bool) -> npt.NDArray[np.float64]:
    """A bias is one more column, of ones. In float32, which is quicker, unless squares of it overflow."""
    squares = np.einsum("ij,ij->i", a, a).astype(np.float64)
    if not np.isfinite(squares).all():
        squares = np.einsum("ij,ij->i", a, a, dtype=np.float64)
    norms: npt.NDArray[np.float64] = np.maximum(np.sqrt(squares + is_biased), LEAST_NORM)
    return norms
