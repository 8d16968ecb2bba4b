"""Models changed on purpose, as a performer who saves money or cheats would change them.

The weights are altered in place in the ONNX file: the same graph, the same names and sizes, other numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from shared.adapters.onnx_file import float32_spans

Weights = npt.NDArray[np.float32]
MIN_ELEMENTS = 65  # smaller tensors are norms, biases and constants of the graph, which nobody compresses


def mutate(model: bytes, change: Callable[[Weights], Weights]) -> bytes:
    """`change` applied to each large float32 tensor of the file, flattened. The result has another hash."""
    changed = bytearray(model)
    for start, stop in float32_spans(model):
        weights = np.frombuffer(model[start:stop], "<f4")
        if weights.size >= MIN_ELEMENTS:
            changed[start:stop] = change(weights).astype("<f4").tobytes()
    return bytes(changed)


def float16(weights: Weights) -> Weights:
    """Rounded to half precision."""
    return weights.astype(np.float16).astype(np.float32)


def int8(weights: Weights) -> Weights:
    """Rounded to 255 steps of one scale a tensor."""
    scale = np.float32(np.abs(weights).max() / 127 or 1)
    return np.round(weights / scale).astype(np.float32) * scale


def pruned(weights: Weights) -> Weights:
    """The smallest hundredth set to zero."""
    return np.where(np.abs(weights) <= np.quantile(np.abs(weights), 0.01), np.float32(0), weights)


MUTATIONS: Mapping[str, Callable[[Weights], Weights]] = {
    "float16 weights": float16,
    "int8 weights": int8,
    "1 % pruned": pruned,
}
