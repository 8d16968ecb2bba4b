"""A decoder whose keys and values are kept in few bits: what long contexts cost most memory for."""

from __future__ import annotations

import numpy as np

from shared.interfaces import Tensors
from shared.tensors import Array
from shared.verification.method import Forward

CACHED = ("past_keys", "past_values")


def quantised_cache(forward: Forward, steps: int) -> Forward:
    """Each key and value kept from an earlier pass is rounded to ±`steps` steps of one scale a token and head; those of
    the tokens being fed are exact, as in engines that quantise when they store."""

    async def run(inputs: Tensors) -> Tensors:
        return await forward({name: _rounded(name, array, steps) for name, array in inputs.items()})

    return run


def _rounded(name: str, array: Array, steps: int) -> Array:
    """(layers, batch, heads, time, width), one scale along the width."""
    if name not in CACHED or not array.size:
        return array
    values = array.astype(np.float32)
    scale = np.maximum(np.abs(values).max(-1, keepdims=True), np.float32(1e-30)) / np.float32(steps)
    rounded: Array = np.rint(values / scale).astype(np.float32) * scale
    return rounded
