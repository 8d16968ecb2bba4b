"""Random projections of a linear layer: honest rows pass, wrong ones do not; whoever knows the vectors may cheat."""

from __future__ import annotations

import math
import random as python_random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.verification.linear import Linear, shape_at, sizes_of
from shared.verification.projection import (
    BASIS_SIZE,
    Projection,
    RandomBytes,
    draw_basis,
    draw_projection,
    residuals,
)
from tests.audit_support import Floats, random

HONEST = 1e-7  # more than any honest row here; measured: 3e-8


def seeded(seed: int = 0) -> RandomBytes:
    return python_random.Random(seed).randbytes


def layer(inputs: int = 96, outputs: int = 64, *, bias: bool = True, alpha: float = 1.0, seed: int = 0) -> Linear:
    weight = random(inputs, outputs, seed=seed, scale=0.1)
    return Linear("a", "y", weight, random(outputs, seed=seed + 1) if bias else None, alpha, ("batch", outputs))


def apply(linear: Linear, a: Floats) -> Floats:
    y = linear.alpha * (a @ linear.weight)
    return (y if linear.bias is None else y + linear.bias).astype(np.float32)


def projection_of(linear: Linear, seed: int = 0, draws: int = 3) -> Projection:
    return draw_projection(draw_basis(linear, seeded(seed)), draws, seeded(seed + 1000))


def largest(linear: Linear, a: Floats, y: Any, seed: int = 0) -> float:
    return float(residuals(linear, projection_of(linear, seed), a, y).max(initial=0.0))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("alpha", [1.0, 0.3])
@pytest.mark.parametrize("outputs", [64, 5000])
def test_honest_rows_lie_within_rounding(bias: bool, alpha: float, outputs: int) -> None:
    """Also where a row is longer than one block."""
    linear = layer(outputs=outputs, bias=bias, alpha=alpha)
    a = random(33, 96, seed=5)
    assert 0 < largest(linear, a, apply(linear, a)) < HONEST


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e10, 1e25])
def test_rounding_is_relative_whatever_the_scale(scale: float) -> None:
    linear = layer(bias=False)
    a = random(8, 96, seed=5, scale=scale)
    assert largest(linear, a, apply(linear, a)) < HONEST


def test_rows_of_a_sequence_count_one_by_one() -> None:
    linear = layer()
    a = random(2, 5, 96, seed=3)
    y = apply(linear, a)
    y[1, 2, 7] += 1
    rows = residuals(linear, projection_of(linear), a, y)
    assert rows.shape == (10,)
    assert [i for i, row in enumerate(rows) if row > HONEST] == [7]


def test_a_row_of_large_numbers_buys_no_other_row_a_tolerance() -> None:
    linear = layer()
    a = random(4, 96, seed=3)
    a[0] *= np.float32(1e12)
    y = apply(linear, a)
    y[3, 1] += np.float32(1e-2)
    rows = residuals(linear, projection_of(linear), a, y)
    assert (rows[:3] < HONEST).all()
    assert rows[3] > 100 * HONEST


def test_where_all_is_zero_only_zero_passes() -> None:
    """A row of zeros, and a column of no weight."""
    linear = Linear("a", "y", np.zeros((96, 64), np.float32), None, 1.0, ("batch", 64))
    a, y = np.zeros((2, 96), np.float32), np.zeros((2, 64), np.float32)
    assert largest(linear, a, y) == 0
    y[1, 3] = 1e-6
    assert largest(linear, a, y) > 1


def test_no_rows_have_no_residual() -> None:
    assert largest(layer(), np.zeros((0, 96), np.float32), np.zeros((0, 64), np.float32)) == 0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda a, y: (a, y[:-1]),
        lambda a, y: (a, np.concatenate([y, y])),
        lambda a, y: (a, np.where(y == y[0, 0], np.nan, y)),
        lambda a, y: (a, np.where(y == y[0, 0], np.inf, y)),
        lambda a, y: (a, np.full_like(y, 3e38)),
        lambda a, y: (np.full_like(a, np.inf), y),
        lambda a, y: (np.full_like(a, np.nan), y),
    ],
    ids=["too few", "too many", "NaN", "infinite", "overflow", "infinite source", "NaN source"],
)
def test_what_cannot_be_measured_is_infinitely_far(spoil: Any) -> None:
    linear = layer()
    a = random(4, 96, seed=3)
    assert largest(linear, *spoil(a, apply(linear, a))) == math.inf


def test_numbers_whose_squares_overflow_still_count() -> None:
    """An infinite norm would let every result of that row pass."""
    linear = layer(bias=False)
    a = random(3, 96, seed=3)
    a[1] *= np.float32(1e30)
    y = apply(linear, a)
    assert largest(linear, a, y) < HONEST
    y[1, 4] *= np.float32(1.1)
    assert largest(linear, a, y) > 100 * HONEST


# --- properties --------------------------------------------------------------------------------------
# Of layers with 64 columns, an entry that is wrong by 1e-3 of its row's and its column's norm is wrong by some 250
# tolerances of 5e-7: three vectors miss it with (0.8 / 250)³, once in thirty million.
TOLERANCE, WRONG = 5e-7, 1e-3


@given(
    seed=st.integers(0, 1 << 32),
    rows=st.integers(1, 40),
    row=st.integers(0, 39),
    column=st.integers(0, 63),
    sign=st.sampled_from([-1.0, 1.0]),
    factor=st.floats(1, 1e6),
    bias=st.booleans(),
)
@settings(deadline=None)
def test_any_single_changed_entry_is_found_and_its_row_named(
    seed: int, rows: int, row: int, column: int, sign: float, factor: float, bias: bool
) -> None:
    linear = layer(bias=bias, seed=seed % 1000)
    a = random(rows, 96, seed=seed)
    y = apply(linear, a)
    assert largest(linear, a, y, seed) < HONEST
    row %= rows
    norm = math.sqrt(float((a[row].astype(np.float64) ** 2).sum()) + bias)
    y[row, column] += np.float32(sign * factor * WRONG * norm / float(linear.column_weights[column]))
    found = residuals(linear, projection_of(linear, seed), a, y)
    assert found.argmax() == row
    assert found[row] > TOLERANCE
    assert (np.delete(found, row) < HONEST).all()


@given(st.integers(0, 1 << 32), st.integers(1, 30))
@settings(deadline=None)
def test_rows_that_change_places_are_found(seed: int, shift: int) -> None:
    linear = layer()
    a = random(31, 96, seed=seed)
    y = np.roll(apply(linear, a), shift, axis=0)
    assert (residuals(linear, projection_of(linear, seed), a, y) > TOLERANCE).all()


# --- who knows the vectors ---------------------------------------------------------------------------
def forgery(linear: Linear, vectors: Any) -> Floats:
    """What can be added to any row, and is 0 under every one of `vectors`: large, and otherwise anything."""
    _, _, rows = np.linalg.svd(np.asarray(vectors, np.float64))
    error: Floats = (100 * rows[-1]).astype(np.float32)
    return error


def test_whoever_knows_the_vectors_can_forge_and_whoever_does_not_cannot() -> None:
    linear = layer()
    a = random(8, 96, seed=3)
    y, known = apply(linear, a), projection_of(linear, seed=7)
    forged = y + forgery(linear, known.vectors)
    assert np.abs(forged - y).max() > 1
    assert residuals(linear, known, a, forged).max() < TOLERANCE
    for seed in range(100, 150):
        assert (residuals(linear, projection_of(linear, seed), a, forged) > 1000 * TOLERANCE).all()


def test_one_audits_vectors_help_nobody_in_the_next_audit_with_the_same_basis() -> None:
    linear = layer()
    a = random(8, 96, seed=3)
    basis, random_bytes = draw_basis(linear, seeded(1)), seeded(2)
    y, known = apply(linear, a), draw_projection(basis, 3, random_bytes)
    forged = y + forgery(linear, known.vectors)
    assert residuals(linear, known, a, forged).max() < TOLERANCE
    for _ in range(50):
        assert (residuals(linear, draw_projection(basis, 3, random_bytes), a, forged) > 100 * TOLERANCE).all()


def test_two_values_that_are_wrong_by_as_much_do_not_cancel() -> None:
    """As they would in one of eight audits with three vectors of mere signs."""
    linear = layer()
    a = random(1, 96, seed=3)
    y = apply(linear, a)
    y[0, 3] += np.float32(0.1) / linear.column_weights[3]
    y[0, 9] += np.float32(0.1) / linear.column_weights[9]
    assert min(largest(linear, a, y, seed) for seed in range(200)) > 100 * TOLERANCE


def test_a_projection_is_a_combination_of_its_basis_and_so_is_its_image() -> None:
    linear = layer(outputs=1500)
    basis = draw_basis(linear, seeded())
    drawn = draw_projection(basis, 2, seeded(1))
    assert (basis.vectors.shape, basis.images.shape) == ((BASIS_SIZE, 1500), (BASIS_SIZE, 96))
    assert (drawn.vectors.shape, drawn.images.shape, drawn.biases.shape) == ((2, 1500), (2, 96), (2,))
    exact = drawn.vectors.astype(np.float64) @ linear.weight.T.astype(np.float64)
    np.testing.assert_allclose(drawn.images, exact, atol=1e-6 * np.abs(exact).max())
    np.testing.assert_allclose(drawn.biases, drawn.vectors.astype(np.float64) @ linear.bias, rtol=1e-5, atol=1e-5)


# --- shapes --------------------------------------------------------------------------------------------
def test_sizes_come_from_the_inputs() -> None:
    shapes = {"x": ("batch", 3), "mask": ("batch", "time")}
    arrays = {"x": np.zeros((5, 3)), "mask": np.zeros((5, 7))}
    assert sizes_of(shapes, arrays) == {"batch": 5, "time": 7}
    assert shape_at(("time", "batch", 4), {"batch": 5, "time": 7}) == (7, 5, 4)


@pytest.mark.parametrize(
    "arrays",
    [
        {"x": np.zeros((5, 3)), "mask": np.zeros((1, 7))},
        {"x": np.zeros((5, 3))},
        {"x": np.zeros((5, 3)), "mask": np.zeros(7)},
    ],
    ids=["two sizes of one name", "missing", "another rank"],
)
def test_inputs_that_do_not_say_how_large_it_is(arrays: Any) -> None:
    assert sizes_of({"x": ("batch", 3), "mask": ("batch", "time")}, arrays) is None
