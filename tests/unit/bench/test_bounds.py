from __future__ import annotations

from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.bounds import lower_bound, upper_bound


@pytest.mark.parametrize(
    ("count", "trials", "confidence", "expected"),
    [
        (0, 10, 0.95, 1 - 0.05 ** (1 / 10)),
        (0, 30_000, 0.95, 1 - 0.05 ** (1 / 30_000)),
        (0, 10_000_000, 0.95, 1 - 0.05 ** (1 / 10_000_000)),
        (1, 10, 0.95, 0.394163),
        (5, 10, 0.95, 0.777559),
        (9, 10, 0.95, 0.95 ** (1 / 10)),
        (3, 100, 0.975, 0.085176),
        (10, 10, 0.95, 1.0),
        (0, 0, 0.95, 1.0),
    ],
)
def test_upper_bounds_are_those_of_the_tables(count, trials, confidence, expected):
    assert upper_bound(count, trials, confidence) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("count", "trials", "expected"),
    [(1984, 1984, 0.05 ** (1 / 1984)), (9, 10, 1 - 0.394163), (0, 10, 0.0), (0, 0, 0.0)],
)
def test_lower_bounds_mirror_them(count, trials, expected):
    assert lower_bound(count, trials) == pytest.approx(expected, rel=1e-5)


@given(st.integers(1, 60).flatmap(lambda trials: st.tuples(st.integers(0, trials - 1), st.just(trials))))
def test_at_the_bound_so_few_are_exactly_as_rare_as_allowed(counted):
    count, trials = counted
    share = upper_bound(count, trials)
    at_most = sum(comb(trials, k) * share**k * (1 - share) ** (trials - k) for k in range(count + 1))
    assert at_most == pytest.approx(0.05, rel=1e-9)
    assert lower_bound(count, trials) <= count / trials < share
