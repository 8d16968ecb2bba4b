from __future__ import annotations

import math

import numpy as np
import pytest

from bench.toploc import Difference, Kept, accepts, bfloat16_bits, difference, keep


def kept(*values: float, places: list[int] | None = None) -> Kept:
    return Kept(np.array(places or range(len(values))), bfloat16_bits(np.array(values, np.float32)))


def test_bfloat16_is_rounded_to_nearest_and_even():
    exact, up, tie_down, tie_up = 1.0, 1.0 + 3 * 2**-9, 1.0 + 2**-8, 1.0 + 3 * 2**-8
    bits = bfloat16_bits(np.array([exact, up, tie_down, tie_up, -2.0], np.float32))
    assert bits.tolist() == [0x3F80, 0x3F81, 0x3F80, 0x3F82, 0xC000]


def test_the_128_largest_magnitudes_of_each_32_tokens_are_kept():
    hidden = np.zeros((40, 8), np.float32)
    hidden[3, 5], hidden[31, 7], hidden[32, 0] = -9.0, 4.0, 2.0
    first, second = keep(hidden)
    assert len(first.places) == 128
    assert len(second.places) == 64  # 8 tokens of 8 values are all that is left
    assert {3 * 8 + 5, 31 * 8 + 7} <= set(first.places.tolist())
    assert second.bits[0] == 0x4000


def test_mantissas_are_compared_where_exponents_agree():
    claim, own = kept(1.0, 1.5, 3.0, 8.0), kept(1.0 + 4 * 2**-7, 1.5 + 2 * 2**-7, 5.0, 8.0)
    assert difference(claim, own) == Difference(1, 2.0, 2.0)  # 3.0 against 5.0: another exponent


def test_a_place_that_was_not_kept_is_a_mismatch():
    assert difference(kept(1.0, places=[7]), kept(1.0, places=[8])) == Difference(1, math.inf, math.inf)


@pytest.mark.parametrize(
    ("mismatches", "mean", "median", "is_accepted"),
    [
        (38, 10.0, 8.0, True),
        (39, 10.0, 8.0, False),
        (38, 10.1, 8.0, False),
        (38, 10.0, 8.5, False),
        (128, math.inf, math.inf, False),
    ],
)
def test_the_published_thresholds_are_inclusive(mismatches, mean, median, is_accepted):
    assert Difference(mismatches, mean, median).is_accepted is is_accepted


def test_noise_is_accepted_and_another_model_is_not():
    rng = np.random.default_rng(1)
    hidden = rng.standard_normal((64, 128)).astype(np.float32)
    assert accepts(keep(hidden), hidden * np.float32(1 + 1e-6))
    assert not accepts(keep(hidden), rng.standard_normal((64, 128)).astype(np.float32))
    assert not accepts(keep(hidden)[:1], hidden)
