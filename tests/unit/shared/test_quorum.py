"""The strict quorum, at its edges and for all tables."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.quorum import approves, power_of, reached, rejects
from shared.types import Verdict
from tests.builders import APPROVING, ATTESTERS, EVERYBODY, ONE_THIRD, POWERS, REJECTING, TABLE, TWO_THIRDS, table_of

powers = st.integers(0, 2**64 - 1)


@pytest.mark.parametrize(
    ("total", "most_that_fails"),
    [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (6, 4), (100, 66), (3 * 10**18, 2 * 10**18), (3 * 10**18 + 1, 2 * 10**18)],
)
def test_more_than_two_thirds_approve(total: int, most_that_fails: int) -> None:
    assert not approves(most_that_fails, total)
    assert approves(most_that_fails + 1, total)


@pytest.mark.parametrize(
    ("total", "most_that_fails"),
    [(1, 0), (2, 0), (3, 1), (4, 1), (5, 1), (6, 2), (100, 33), (3 * 10**18, 10**18), (3 * 10**18 + 2, 10**18)],
)
def test_more_than_one_third_reject(total: int, most_that_fails: int) -> None:
    assert not rejects(most_that_fails, total)
    assert rejects(most_that_fails + 1, total)


def test_no_float_is_near() -> None:
    # 2**53 is where floats lose the last unit; two thirds of this total is a whole number.
    total = 3 * 2**60
    assert not approves(2 * 2**60, total)
    assert approves(2 * 2**60 + 1, total)
    assert not rejects(2**60, total)
    assert rejects(2**60 + 1, total)


@given(powers, powers)
def test_the_comparison_is_exact(power: int, total: int) -> None:
    assert approves(power, total) == (power > Fraction(2, 3) * total)
    assert rejects(power, total) == (power > Fraction(1, 3) * total)


@given(powers, powers, powers)
def test_both_verdicts_never_hold(valid: int, invalid: int, silent: int) -> None:
    total = valid + invalid + silent
    assert not (approves(valid, total) and rejects(invalid, total))


def test_an_empty_table_decides_nothing() -> None:
    for verdict in Verdict:
        assert not reached(verdict, 0, 0)


@given(powers, powers)
def test_a_verdict_is_reached_by_its_own_rule(power: int, total: int) -> None:
    assert reached(Verdict.VALID, power, total) == approves(power, total)
    assert reached(Verdict.INVALID, power, total) == rejects(power, total)
    assert not reached(Verdict.ABSTAIN, power, total)


# --- power ---------------------------------------------------------------------------------------
def test_power_is_the_signers() -> None:
    assert power_of(TABLE, ()) == 0
    assert power_of(TABLE, (1, 3)) == 3
    assert power_of(TABLE, (3, 1)) == 3
    assert power_of(TABLE, iter(EVERYBODY)) == TABLE.total_power == 6


def test_the_builders_sit_on_the_edges() -> None:
    for signers, is_approved in ((TWO_THIRDS, False), (APPROVING, True), (EVERYBODY, True)):
        assert approves(power_of(TABLE, signers), TABLE.total_power) is is_approved
    for others, is_rejected in ((ONE_THIRD, False), (REJECTING, True), (EVERYBODY, True)):
        assert rejects(power_of(TABLE, others), TABLE.total_power) is is_rejected
    assert 3 * power_of(TABLE, TWO_THIRDS) == 2 * sum(POWERS)
    assert 3 * power_of(TABLE, ONE_THIRD) == sum(POWERS)


def test_an_attester_without_power_adds_none() -> None:
    table = table_of(powers=(0, 0, 0, 1))
    assert power_of(table, (0, 1, 2)) == 0
    assert not approves(0, table.total_power)


@pytest.mark.parametrize("signers", [(0, 0), (0, 1, 0), (-1, -1)])
def test_nobody_is_counted_twice(signers: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="counted twice"):
        power_of(TABLE, signers)


@pytest.mark.parametrize("signers", [(4,), (0, 4), (2**64,), (-1,), (0, -4)])
def test_nobody_outside_of_the_table_is_counted(signers: tuple[int, ...]) -> None:
    with pytest.raises(IndexError):
        power_of(TABLE, signers)


@given(st.lists(powers, max_size=127), st.data())
def test_power_is_a_plain_sum(stakes: list[int], data: st.DataObject) -> None:
    table = table_of(members=ATTESTERS[:1] * len(stakes), powers=stakes)
    everybody = range(len(stakes))
    signers = data.draw(st.sets(st.sampled_from(everybody))) if stakes else set()
    assert power_of(table, signers) + power_of(table, set(everybody) - signers) == table.total_power
