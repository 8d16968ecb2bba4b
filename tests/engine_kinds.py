"""What the engines' conformance suite runs, in the form that each kind of engine takes.

Every kind has the same five models: three that compute (number by number), one that fails and one that never ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shared.interfaces import Tensors
from tests.genai_support import token_model
from tests.onnx_support import endless, failing, of_one_operator
from tests.openai_support import manifest

Numbers = Sequence[int]
SERVED_VOCABULARY = 400  # squares below 20² are tokens


@dataclass(frozen=True)
class Kind:
    """`feed` makes an input of a few whole numbers, `read` finds the numbers in the outputs."""

    double: bytes
    square: bytes
    negate: bytes
    failing: bytes
    endless: bytes
    feed: Callable[..., Tensors]
    read: Callable[[Tensors], list[float]]
    mismatches: tuple[tuple[Tensors, str, str], ...]  # an input, the field that is wrong, what was expected

    @property
    def largest(self) -> int:
        """Bytes of the largest of those that compute; the endless one is larger."""
        return max(map(len, (self.double, self.square, self.negate)))


def _rows(*numbers: int) -> Tensors:
    return {"x": np.array([numbers], np.float32)}


def _ids(*numbers: int) -> Tensors:
    return {"ids": np.array([numbers], np.int64)}


def _first_logits(outputs: Tensors) -> list[float]:
    found: list[float] = outputs["logits"][0, :, 0].tolist()
    return found


def _best_tokens(outputs: Tensors) -> list[float]:
    found: list[float] = outputs["logits"][0].argmax(axis=-1).tolist()
    return found


_X = np.zeros((1, 3), np.float32)
TENSORS = Kind(
    double=of_one_operator("Add"),
    square=of_one_operator("Mul"),
    negate=of_one_operator("Neg", ["x"]),
    failing=failing(),
    endless=endless(),
    feed=_rows,
    read=lambda outputs: outputs["y"][0].tolist(),
    mismatches=(
        ({}, "tensors.x", "a float32 tensor"),
        ({"x": _X, "z": np.zeros(1)}, "tensors.z", "one of x"),
        ({"x": np.zeros((1, 3), np.float64)}, "tensors.x.dtype", "float32"),
        ({"x": np.zeros((1, 4), np.float32)}, "tensors.x.shape", "[-1, 3]"),
        ({"x": np.zeros(3, np.float32)}, "tensors.x.shape", "[-1, 3]"),
    ),
)
_MISMATCHED_IDS: tuple[tuple[Tensors, str, str], ...] = (
    ({}, "tensors.ids", "a int64 tensor"),
    ({**_ids(1), "z": np.zeros(1)}, "tensors.z", "one of ids"),
    ({"ids": np.zeros((1, 3), np.int32)}, "tensors.ids.dtype", "int64"),
    ({"ids": np.zeros((2, 3), np.int64)}, "tensors.ids.shape", "[1, -1]"),
    ({"ids": np.zeros(3, np.int64)}, "tensors.ids.shape", "[1, -1]"),
)
DECODERS = Kind(
    double=token_model("Add"),
    square=token_model("Mul"),
    negate=token_model("Neg"),
    failing=token_model("Add", fails=True),
    endless=token_model("Add", is_endless=True),
    feed=_ids,
    read=_first_logits,
    mismatches=_MISMATCHED_IDS,
)
SERVED = Kind(
    **{name: manifest(name, SERVED_VOCABULARY, 2) for name in ("double", "square", "negate", "failing")},
    endless=manifest("one-that-never-ends", SERVED_VOCABULARY, 2),
    feed=_ids,
    read=_best_tokens,
    mismatches=_MISMATCHED_IDS,
)


# --- what the server behind the manifests computes -----------------------------------------------------
def _pointing_at(function: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Callable[[Numbers], Any]:
    """Each position's best token is the function of its own."""

    def logits(ids: Numbers) -> npt.NDArray[np.float32]:
        found = np.zeros((len(ids), SERVED_VOCABULARY), np.float32)
        found[np.arange(len(ids)), function(np.array(ids))] = 9
        return found

    return logits


def _fail(ids: Numbers) -> Any:
    raise ValueError("three numbers have no shape of seven")


SERVED_MODELS: dict[str, Callable[[Numbers], Any]] = {
    "double": _pointing_at(lambda x: x * 2),
    "square": _pointing_at(lambda x: x * x),
    "negate": _pointing_at(lambda x: -x),
    "failing": _fail,
    "one-that-never-ends": lambda ids: np.full((len(ids), SERVED_VOCABULARY), np.nan, np.float32),
}
