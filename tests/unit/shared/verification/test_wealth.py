"""Bets against an honest performer: fair at every step, so that no life of it is long enough to be ruined."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.verification.wealth import MOST_RATIO, SHARES, SHIFTS, STAKES, Growth, Wealth, growth_of
from tests.sequence_support import SEQUENCE

BETTORS = len(SHARES)
LOST: Growth = (-5.0,) * BETTORS
WON: Growth = (5.0,) * BETTORS


def zeros(count: int) -> npt.NDArray[np.float64]:
    return np.zeros(count)


# --- the game --------------------------------------------------------------------------------------
def test_before_the_first_text_there_is_one_unit() -> None:
    assert Wealth().evidence == 0.0
    assert math.isclose(sum(SHARES), 1.0)
    assert len(SHIFTS) + len(STAKES) == BETTORS


def test_nine_tenths_are_staked_at_once() -> None:
    """And ten nats won are ten nats less what is kept back."""
    assert math.isclose(Wealth().after((10.0,) * BETTORS).evidence, math.log(0.9 * math.exp(10) + 0.1))


@given(st.integers(1, 300))
def test_bets_that_change_nothing_leave_one_unit(texts: int) -> None:
    wealth = Wealth()
    for _ in range(texts):
        wealth = wealth.after((0.0,) * BETTORS)
    assert wealth.texts == texts
    assert abs(wealth.evidence) < 1e-9


@given(
    st.lists(st.lists(st.floats(-20, 5), min_size=BETTORS, max_size=BETTORS), max_size=20),
    st.lists(st.floats(0.01, 1.99), min_size=BETTORS, max_size=BETTORS),
)
def test_fair_bets_are_fair_whatever_went_before(past: list[list[float]], odds: list[float]) -> None:
    """Two outcomes, equally likely, under which each bettor's stake is on average what it was."""
    wealth = Wealth()
    for growth in past:
        wealth = wealth.after(tuple(growth))
    lucky = wealth.after(tuple(math.log(each) for each in odds))
    unlucky = wealth.after(tuple(math.log(2 - each) for each in odds))
    expected = np.logaddexp(lucky.evidence, unlucky.evidence) - math.log(2)
    assert math.isclose(expected, wealth.evidence, rel_tol=1e-9, abs_tol=1e-9)


def test_a_long_honest_life_buys_little() -> None:
    """After 1,000 texts with nothing against it, a cheat is found five texts later than a newcomer: ln(10·1000·999)
    more nats, of five each."""

    def texts_until_found(wealth: Wealth) -> int:
        for text in range(1, 20):
            wealth = wealth.after(WON)
            if wealth.evidence > SEQUENCE.limit:
                return text
        raise AssertionError("never found")

    veteran = Wealth()
    for _ in range(1000):
        veteran = veteran.after(LOST)
    assert veteran.evidence == pytest.approx(math.log(0.1 / 1000), abs=0.1)
    assert (texts_until_found(Wealth()), texts_until_found(veteran)) == (2, 6)


# --- the bets --------------------------------------------------------------------------------------
def test_growth_by_hand() -> None:
    """Two tokens, 0.5 above the honest mean together, the second of which missed its pick by half a margin."""
    ratios = np.array([SEQUENCE.honest_mean, SEQUENCE.honest_mean + 0.5])
    growth = growth_of(ratios, np.array([0.0, 0.5]), SEQUENCE)
    shifts = [0.06, 0.12, 0.24]
    assert growth[:3] == pytest.approx([shift * (0.5 - shift) / 0.43**2 for shift in shifts])
    assert growth[3:] == pytest.approx([math.log((1 - 0.001 * stake) * (1 + 0.499 * stake)) for stake in (4, 16)])


def test_no_single_token_says_more_than_its_bound() -> None:
    huge = growth_of(np.array([1e9]), np.array([math.inf]), SEQUENCE)
    assert huge == growth_of(np.array([MOST_RATIO]), np.array([1.0]), SEQUENCE)
    tiny = growth_of(np.array([-1e9]), zeros(1), SEQUENCE)
    assert tiny == growth_of(np.array([-MOST_RATIO]), zeros(1), SEQUENCE)


@pytest.mark.parametrize("missing", [1, 7, 500])
def test_bets_on_misses_are_fair_at_the_honest_mean(missing: int) -> None:
    """Of 1,000 equally likely tokens some miss, as much as makes the card's mean."""
    misses = np.zeros(1000)
    misses[:missing] = SEQUENCE.honest_miss * 1000 / missing
    won = np.array([growth_of(zeros(1), np.array([miss]), SEQUENCE)[3:] for miss in misses])
    assert np.exp(won).mean(0) == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("tokens", [1, 16, 64, 192])
def test_bets_on_shifts_are_fair_at_the_honest_mean(tokens: int) -> None:
    """Normal means of a text, by quadrature; of a card so precise that no token reaches its bound."""
    points, weights = np.polynomial.hermite_e.hermegauss(99)
    precise = SEQUENCE.__class__(honest_mean=0.01, honest_deviation=0.05, honest_miss=0.001, shift=0.01, limit=9.22)
    means = precise.honest_mean + points * precise.honest_deviation / math.sqrt(tokens)
    is_within = np.abs(means) < MOST_RATIO
    growths = np.array([growth_of(np.full(tokens, mean), zeros(tokens), precise)[:3] for mean in means[is_within]])
    expected = (np.exp(growths) * weights[is_within, None]).sum(0) / weights.sum()
    assert expected == pytest.approx([1.0, 1.0, 1.0], rel=1e-6)


# --- lives -----------------------------------------------------------------------------------------
def test_honest_lives_stay_below_every_level_as_often_as_promised() -> None:
    """1,000 performers as bad as the card allows, 40 texts each: at most exp(-level) of them ever reach a level."""
    noise = np.random.default_rng(7)
    highest = np.array([_highest_of_a_life(noise) for _ in range(1000)])
    for level in (1.0, 2.0, 3.0):
        assert (highest > level).mean() <= math.exp(-level)
    assert highest.max() < SEQUENCE.limit


def _highest_of_a_life(noise: np.random.Generator) -> float:
    wealth, highest = Wealth(), 0.0
    for _ in range(40):
        tokens = int(noise.integers(1, 65))
        ratios = noise.normal(SEQUENCE.honest_mean, SEQUENCE.honest_deviation, tokens)
        misses = np.where(noise.random(tokens) < 0.005, SEQUENCE.honest_miss / 0.005, 0.0)
        wealth = wealth.after(growth_of(ratios, misses, SEQUENCE))
        highest = max(highest, wealth.evidence)
    return highest
