"""Cosine distance: a metric that methods report beside their score."""

from __future__ import annotations

import numpy as np

from shared.tensors import Array


def cosine_distance(one: Array, other: Array) -> float:
    """1 − cosine, from 0 to 2; 0 where both are nothing but zeros, 1 where one is, or where the shapes differ."""
    if one.shape != other.shape:
        return 1.0
    left, right = one.astype(np.float64).ravel(), other.astype(np.float64).ravel()
    # Scaled first: the squares of large finite numbers are not finite.
    left, right = (vector / (np.abs(vector).max(initial=0.0) or 1.0) for vector in (left, right))
    # Sums, not products of vectors: BLAS would wake a thread a core for each.
    norms = float(np.sqrt(np.sum(left * left) * np.sum(right * right)))
    if norms == 0.0:
        return 0.0 if not left.any() and not right.any() else 1.0
    return max(0.0, 1.0 - float(np.sum(left * right)) / norms)
