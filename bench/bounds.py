"""Exact one-sided bounds on a share that was counted (Clopper and Pearson, 1934).

They hold for independent trials. Pairs of runs of one input are not quite that, so such bounds are somewhat too narrow.
"""

from __future__ import annotations

import math

import numpy as np

CONFIDENCE = 0.95
_HALVINGS = 200  # until the interval is two neighbouring floats, whatever the share's size


def upper_bound(count: int, trials: int, confidence: float = CONFIDENCE) -> float:
    """The largest share under which `count` or fewer of `trials` are no rarer than 1 − confidence; 1 without a trial.
    For a count of 0 that is about 3 / trials."""
    if trials == 0 or count >= trials:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _at_most(count, trials, middle) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def lower_bound(count: int, trials: int, confidence: float = CONFIDENCE) -> float:
    """The smallest share under which `count` or more of `trials` are no rarer than 1 − confidence; 0 without
    a trial."""
    return 1.0 - upper_bound(trials - count, trials, confidence) if trials else 0.0


def _at_most(count: int, trials: int, share: float) -> float:
    """P(X ≤ count) of the binomial distribution, by a sum of logarithms."""
    if share <= 0.0 or share >= 1.0:
        return 1.0 if share <= 0.0 else 0.0
    below = np.arange(count + 1)
    choose = np.array([math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1) for k in below])
    terms = choose + below * math.log(share) + (trials - below) * math.log1p(-share)
    largest = float(terms.max())
    return min(1.0, math.exp(largest) * float(np.exp(terms - largest).sum())) if largest > -700.0 else 0.0
