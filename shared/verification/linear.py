"""A model taken apart for a batch audit: its linear layers, and the shapes of what they give."""

from __future__ import annotations

from collections.abc import Mapping
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


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Linear:
    """`result = alpha · source · weight + bias`, over the last axis of `source`."""

    source: str  # the tensor that goes in
    result: str  # the tensor that it gives, which the performer publishes
    weight: Floats  # (in, out), in C order: what reads it goes along its rows
    bias: Floats | None  # (out,)
    alpha: float
    shape: Shape  # of `result`
    column_weights: Floats = field(init=False)  # (out,), 1 over the norm of each column of `alpha · weight` and `bias`

    def __post_init__(self) -> None:
        squares = self.alpha**2 * np.einsum("ij,ij->j", self.weight, self.weight, dtype=np.float64)
        if self.bias is not None:
            squares += np.square(self.bias, dtype=np.float64)
        norms = np.maximum(np.sqrt(squares), LEAST_NORM)
        object.__setattr__(self, "column_weights", (1 / norms).astype(np.float32))


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
    """The sizes of the named dimensions, from what goes in; None where that does not fit, or one name has two sizes."""
    sizes: dict[str, int] = {}
    for name, shape in inputs.items():
        array = arrays.get(name)
        if array is None or array.ndim != len(shape):
            return None
        for dimension, size in zip(shape, array.shape, strict=True):
            if isinstance(dimension, str) and sizes.setdefault(dimension, size) != size:
                return None
    return sizes


def shape_at(shape: Shape, sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(sizes[dimension] if isinstance(dimension, str) else dimension for dimension in shape)
