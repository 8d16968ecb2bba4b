"""Other weights for the text model: what a dishonest performer would run in its place.

    model = variant("ft1_lr1e-6")  # the bytes of a whole ONNX file, with the inputs and outputs of model.onnx

`variants/small.onnx` is a graph of its own. The others are `variants/NAME.npz`: for every initializer of model.onnx
that differs, the difference from the shipped weights as int8 or float16, and under "INITIALIZER scale" what to multiply
it by. `train.py` makes them all in one run with model.onnx:

- one fine-tuning step: float16, one scale a tensor; each weight moves as far as it really did to within 0.1 %
- other seed: float16, one scale a tensor
- ten fine-tuning steps and stale checkpoints: int8, one scale a row; each difference is off by up to 0.4 % of the
  largest in its row
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

VARIANTS: Final[Mapping[str, str]] = {
    "stale98": "an old checkpoint: the weights after 98 % of the training steps",
    "stale90": "an old checkpoint: the weights after 90 % of the training steps",
    "ft1_lr1e-6": "fine-tuned: one AdamW step at rate 1e-6 on training passages",
    "ft10_lr1e-5": "fine-tuned: ten AdamW steps at rate 1e-5",
    "ft10_lr1e-4": "fine-tuned: ten AdamW steps at rate 1e-4",
    "seed2": "another model of the same shape: another seed, trained a quarter as long",
    "small": "a smaller model: half the width, three layers of five, trained a quarter as long",
}
OWN_GRAPH: Final = frozenset({"small"})
STORED_AS: Final[Mapping[str, str]] = {
    "stale98": "int8",
    "stale90": "int8",
    "ft1_lr1e-6": "float16",
    "ft10_lr1e-5": "int8",
    "ft10_lr1e-4": "int8",
    "seed2": "float16",
}
FOLDER: Final = Path(__file__).parent
_SCALE = " scale"

Array = npt.NDArray[Any]


def variant(name: str) -> bytes:
    """The whole ONNX file of one of VARIANTS. Raises `KeyError` for another name."""
    if name not in VARIANTS:
        raise KeyError(f"no variant {name!r} of the text model; there are {', '.join(VARIANTS)}")
    if name in OWN_GRAPH:
        return (FOLDER / "variants" / f"{name}.onnx").read_bytes()
    with np.load(FOLDER / "variants" / f"{name}.npz") as packed:
        return unpack((FOLDER / "model.onnx").read_bytes(), packed)


def pack(model: bytes, changed: bytes, dtype: str) -> dict[str, Array]:
    """What `unpack` needs to make `changed` out of `model`: the same graph with other weights."""
    ours, theirs = _weights(model), _weights(changed)
    if ours.keys() != theirs.keys():
        raise ValueError(f"not the same graph: these initializers are in one only: {ours.keys() ^ theirs.keys()}")
    packed = {}
    for name, weights in ours.items():
        if not np.array_equal(weights, theirs[name]):
            change = theirs[name].astype(np.float64) - weights
            packed[name], packed[name + _SCALE] = _by_row(change) if dtype == "int8" else _by_tensor(change)
    return packed


def unpack(model: bytes, packed: Mapping[str, Array]) -> bytes:
    proto = onnx.load_from_string(model)
    for tensor in proto.graph.initializer:
        if tensor.name in packed:
            change = packed[tensor.name].astype(np.float64) * packed[tensor.name + _SCALE]
            weights = (numpy_helper.to_array(tensor) + change).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
    return proto.SerializeToString()


def _weights(model: bytes) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(model).graph.initializer}


def _by_row(change: Array) -> tuple[Array, Array]:
    """int8, and a float32 scale for each row of the last axis."""
    scale = np.maximum(np.abs(change).max(-1, keepdims=True), 1e-30).astype(np.float32) / np.float32(127)
    return np.rint(change / scale).clip(-127, 127).astype(np.int8), scale


def _by_tensor(change: Array) -> tuple[Array, Array]:
    """float16 up to 1: unscaled, steps of 1e-6 would be subnormal there and lose most of their digits."""
    scale = np.float32(np.abs(change).max())
    return (change / scale).astype(np.float16), np.asarray(scale)
