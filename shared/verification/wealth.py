"""Evidence over a performer's life: what several bettors against its honesty would have won (protocol §6).

Each bettor starts with its share of one unit and bets at odds that are fair, or worse for it, if the performer is
honest. So the sum of what they own is expected never to grow, and by Ville's inequality it reaches `exp(limit)` in the
life of at most one honest performer in `exp(limit)`, however long that life is and whenever somebody looks.

Who was honest for years could be far in the black, and live on it. So the bettors do not stake all at the first text: a
share is kept back for each later one and enters the game there. A cheat that begins at text n is then found as a
newcomer's would be, for the price of ln(10·n·(n-1)) more nats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Ordered
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from shared.card_parts import Sequence

# On a shift of the mean by this many times the card's `shift`. The largest suits a cheat that one text gives away.
SHIFTS: Final = (1.0, 2.0, 4.0)
# On missed picks: what a bettor stakes a token, in tokens that miss by the whole margin.
STAKES: Final = (4.0, 16.0)
SHARES: Final = (0.3, 0.3, 0.3, 0.05, 0.05)  # of one unit; misses speak only where the logits are spoofed
FIRST: Final = 0.9  # of each share is staked at the first text
MOST_RATIO: Final = 1.5  # a token's log ratio counts up to here, either way: no single one says more

Growth = tuple[float, ...]
"""By how much (log) each bettor's stake grew with one text, in the order of `SHARES`."""


@dataclass(frozen=True, slots=True)
class Wealth:
    """After `texts` texts: the logarithm of what each bettor has in the game, of one unit."""

    texts: int = 0
    staked: Growth = (-math.inf,) * len(SHARES)

    def after(self, growth: Growth) -> Wealth:
        """One text later."""
        entering = math.log(_entering(self.texts + 1))
        return Wealth(
            self.texts + 1,
            tuple(
                float(np.logaddexp(staked, entering)) + grown for staked, grown in zip(self.staked, growth, strict=True)
            ),
        )

    @property
    def evidence(self) -> float:
        """Nats: the logarithm of all that the bettors own, in the game or kept back. 0 before the first text."""
        in_game = np.logaddexp.reduce(np.log(SHARES) + np.array(self.staked))
        return float(np.logaddexp(in_game, math.log(_kept_back(self.texts))))


def _entering(text: int) -> float:
    """The share that enters at this text, from 1."""
    return _kept_back(text - 1) - _kept_back(text)


def _kept_back(texts: int) -> float:
    """The share that has not entered after so many texts."""
    return 1.0 if texts == 0 else (1 - FIRST) / texts


def growth_of(ratios: npt.NDArray[np.float64], misses: npt.NDArray[np.float64], card: Sequence) -> Growth:
    """Of one text. `ratios`: each token's log ratio; `misses`: by how much each token misses the sampler's pick, in
    margins.

    A sum of n honest ratios is taken for normal with mean n·honest_mean and variance n·honest_deviation², which the
    card states as upper bounds, with whatever correlation there is within a text. Misses need only have a mean of at
    most `honest_miss`.
    """
    clipped = np.clip(ratios, -MOST_RATIO, MOST_RATIO)
    return (*_on_shifts(clipped, card), *_on_misses(np.clip(misses, 0.0, 1.0), card))


def _on_shifts(ratios: npt.NDArray[np.float64], card: Sequence) -> Ordered[float]:
    """Log-likelihood ratios of a shifted mean against the honest one."""
    excess = float((ratios - card.honest_mean).sum())
    shifts = [card.shift * times for times in SHIFTS]
    return [shift / card.honest_deviation**2 * (excess - len(ratios) * shift / 2) for shift in shifts]


def _on_misses(misses: npt.NDArray[np.float64], card: Sequence) -> Ordered[float]:
    """Each token a bet that it misses by more than the mean; one that wins nothing costs `stake · honest_miss`."""
    return [float(np.log1p(stake * (misses - card.honest_miss)).sum()) for stake in STAKES]
