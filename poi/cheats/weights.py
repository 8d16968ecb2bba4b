"""The model that a performer who saves money runs instead: compressed, pruned, cut short, or a training step away."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import numpy as np
from onnx import TensorProto, helper

from poi.cheats.graph import NotApplicable, Weights, change_weights, parse
from poi.cheats.layers import skip_last_layer
from poi.cheats.trees import half_the_trees, round_to_float16

__all__ = ["SETS_FLOOR", "WEIGHT_CHEATS", "NotApplicable"]

FP8_MAX: Final = 448.0  # the largest e4m3fn
GROUP: Final = 32  # int4 weights share a scale in groups of this many
NUDGE: Final = 1e-6  # one step of AdamW at this rate moves a weight by about as much
DYNAMIC: Final = frozenset({"Conv", "Gather", "Gemm", "LSTM", "MatMul"})  # what the runtime's tool quantises

_BFLOAT16: Final = helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)
_FP8: Final = helper.tensor_dtype_to_np_dtype(TensorProto.FLOAT8E4M3FN)


# --- other numbers; all take and give (channels, weights of each) ------------------------------------
def float16(rows: Weights) -> Weights:
    return rows.astype(np.float16).astype(np.float32)


def bfloat16(rows: Weights) -> Weights:
    return rows.astype(_BFLOAT16).astype(np.float32)


def fp8(rows: Weights) -> Weights:
    """e4m3fn, with one scale a tensor, so that all of its range is used."""
    scale = _scale(np.abs(rows).max(), FP8_MAX)
    return (rows / scale).astype(_FP8).astype(np.float32) * scale


def int8(rows: Weights) -> Weights:
    """Symmetric, one scale a channel."""
    return _quantised(rows, 127)


def int4(rows: Weights) -> Weights:
    """Symmetric, one scale for each 32 weights of a channel."""
    channels, count = rows.shape
    padded = np.pad(rows, ((0, 0), (0, -count % GROUP)))
    return _quantised(padded.reshape(-1, GROUP), 7).reshape(channels, -1)[:, :count]


def pruned(share: float, rows: Weights) -> Weights:
    """The smallest of the tensor set to zero."""
    sizes = np.abs(rows)
    return np.where(sizes <= np.quantile(sizes, share), np.float32(0), rows)


def _quantised(rows: Weights, steps: int) -> Weights:
    scale = _scale(np.abs(rows).max(-1, keepdims=True), steps)
    result: Weights = np.rint(rows / scale).astype(np.float32) * scale
    return result


def _scale(largest: Weights, steps: float) -> Weights:
    """Of one step; 1 where there is nothing to scale, or next to nothing."""
    scale = (largest / np.float32(steps)).astype(np.float32)
    return np.where(scale > np.finfo(np.float32).tiny, scale, np.float32(1)).astype(np.float32)


# --- other models ------------------------------------------------------------------------------------
def nudged(model: bytes) -> bytes:
    """Every weight moved by 1e-6 one way or the other, always the same ones: the smallest step of training."""
    noise = np.random.default_rng(0)
    signs = np.array([-NUDGE, NUDGE], np.float32)

    def change(rows: Weights) -> Weights:
        return rows + noise.choice(signs, rows.shape).astype(np.float32)

    return change_weights(model, change)


def int8_dynamic(model: bytes) -> bytes:
    """Quantised by the runtime's own tool, which is imported when it is first needed."""
    if not any(node.op_type in DYNAMIC for node in parse(model).graph.node):
        raise NotApplicable("no product or convolution in the model")
    from shared.adapters.onnx_dynamic import quantise_dynamically

    return quantise_dynamically(model)


WEIGHT_CHEATS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "fp16 weights": partial(change_weights, change=float16),
    "bf16 weights": partial(change_weights, change=bfloat16),
    "fp8 weights": partial(change_weights, change=fp8),
    "int8 weights": partial(change_weights, change=int8),
    "int4 weights": partial(change_weights, change=int4),
    "int8 dynamic": int8_dynamic,
    "1 % pruned": partial(change_weights, change=partial(pruned, 0.01)),
    "10 % pruned": partial(change_weights, change=partial(pruned, 0.1)),
    "layer skipped": skip_last_layer,
    "nudged weights": nudged,
    "half the trees": half_the_trees,
    "fp16 thresholds": round_to_float16,
}
"""By name: from an ONNX model's bytes to those of the model that is run instead. Each raises `NotApplicable` where the
model has nothing that it could change."""

SETS_FLOOR: Final = frozenset(
    {
        "fp16 weights",
        "bf16 weights",
        "int8 weights",
        "int4 weights",
        "1 % pruned",
        "half the trees",
        "fp16 thresholds",
    }
)
"""Those whose nearest score is a card's separation."""
