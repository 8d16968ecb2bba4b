"""How far what was published of a linear layer lies from what it must be, seen through a few random vectors.

After Freivalds: to see that Y = AW, look at Ys = A(Ws) for a random vector s. Beside Ws that is one pass over A and Y,
where AW is a pass over W for each row. A wrong row shows unless its errors cancel under s, which they do for few s; and
whoever knows s can make them cancel, so s is drawn when Y is published, by each attester for itself.

Ws alone costs a pass over W, as much as all the rest. So an attester keeps a *basis*, secret vectors with their images
under W, and draws for each audit fresh coefficients of a combination, whose image is that of the images. A basis serves
few audits, fewer than would tell anybody enough of it, and none after an audit that refused something.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from shared.tensors import Array
from shared.verification.linear import LEAST_NORM, Floats, Linear

Doubles = npt.NDArray[np.float64]
RandomBytes = Callable[[int], bytes]

# Errors that hide from all vectors of a basis would hide from every audit with it: with 32, none does by chance, and
# the basis takes 1/16 of the memory of a layer of width 1024.
BASIS_SIZE: Final = 32
BLOCK: Final = 4096  # values of a row that BLAS gets at a time: from 10,000 on it would use threads
NARROW_BLOCK: Final = 512  # the same for products with at most 16 × 32


@dataclass(frozen=True, slots=True)
class Basis:
    """Secret vectors, over the norms of the columns so that all columns count alike, and what the layer makes of them:
    `alpha · weight · vector`, and of its bias."""

    vectors: Doubles  # (BASIS_SIZE, out)
    images: Doubles  # (BASIS_SIZE, in)
    biases: Doubles  # (BASIS_SIZE,)


@dataclass(frozen=True, slots=True)
class Projection:
    """As `Basis`, for one audit."""

    vectors: Floats  # (draws, out)
    images: Floats  # (draws, in)
    biases: Doubles  # (draws,)


def draw_basis(linear: Linear, random_bytes: RandomBytes) -> Basis:
    """`BASIS_SIZE` passes over the weights."""
    vectors = _draw(BASIS_SIZE, linear.weight.shape[1], random_bytes).astype(np.float32) * linear.column_weights
    images = linear.alpha * _dots(linear.weight, vectors).T
    biases = np.zeros(BASIS_SIZE) if linear.bias is None else vectors.astype(np.float64) @ linear.bias
    return Basis(vectors.astype(np.float64), np.ascontiguousarray(images), biases)


def draw_projection(basis: Basis, draws: int, random_bytes: RandomBytes) -> Projection:
    """Fresh combinations of the basis, of about the length of one of its vectors."""
    coefficients = _draw(draws, BASIS_SIZE, random_bytes) / math.sqrt(BASIS_SIZE)
    return Projection(
        _combine(coefficients, basis.vectors), _combine(coefficients, basis.images), coefficients @ basis.biases
    )


def residuals(linear: Linear, projection: Projection, source: Array, result: Array) -> Doubles:
    """Of each row, the largest |Ys − A(Ws)| over the vectors s, as a part of √out and of the row's norm in A.

    About 1e-8 for an honest row, whatever the others are: a row of large numbers buys no other a tolerance. Infinite
    where rows are missing, or anything is not finite."""
    a = np.ascontiguousarray(source, np.float32).reshape(-1, linear.weight.shape[0])
    y = np.ascontiguousarray(result, np.float32).reshape(-1, linear.weight.shape[1])
    if len(a) != len(y):
        return np.array([math.inf])
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        expected = _dots(a, projection.images) + projection.biases
        largest = np.abs(_dots(y, projection.vectors) - expected).max(axis=1)
        largest /= _row_norms(a, is_biased=linear.bias is not None) * math.sqrt(y.shape[1])
    return np.where(np.isfinite(largest), largest, math.inf)


def _draw(rows: int, columns: int, random_bytes: RandomBytes) -> Doubles:
    """Random signs and sizes from 1/2 to 1, 16 bits each. Of signs alone, two values that are wrong by as much would
    cancel in half of all draws."""
    drawn = np.frombuffer(random_bytes(2 * rows * columns), "<i2").reshape(rows, columns)
    numbers: Doubles = np.copysign(0.5, drawn) + drawn / 65536.0
    return numbers


def _combine(coefficients: Doubles, vectors: Doubles) -> Floats:
    parts = [
        coefficients @ vectors[:, start : start + NARROW_BLOCK] for start in range(0, vectors.shape[1], NARROW_BLOCK)
    ]
    return np.concatenate(parts, axis=1).astype(np.float32)


def _dots(matrix: Floats, vectors: Floats) -> Doubles:
    """(rows of one, rows of the other), each row of `matrix` read once; float64 from block to block.

    In one thread: those of BLAS, which this never gives enough to do, would burn the cores that other roles need."""
    total = np.zeros((len(matrix), len(vectors)))
    for start in range(0, matrix.shape[1], BLOCK):
        part = slice(start, start + BLOCK)
        total += np.vecdot(matrix[:, None, part], vectors[None, :, part])
    return total


def _row_norms(a: Floats, *, is_biased: bool) -> Doubles:
    """A bias is one more column, of ones. In float32, which is quicker, unless squares of it overflow."""
    squares = np.zeros(len(a))
    for start in range(0, a.shape[1], BLOCK):
        block = a[:, start : start + BLOCK]
        squares += np.vecdot(block, block)
    if not np.isfinite(squares).all():
        squares = np.einsum("ij,ij->i", a, a, dtype=np.float64)
    norms: Doubles = np.maximum(np.sqrt(squares + is_biased), LEAST_NORM)
    return norms
