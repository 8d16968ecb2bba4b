"""The ONNX project's own evaluator as an `InferenceEngine`: numpy, operator by operator, as the standard reads.

It shares no kernel, no optimiser and no thread pool with ONNX Runtime, which makes it the independent engine of
calibration and of the bench. It is slow (a hundred times and more, where an operator is a loop in Python) and keeps
every intermediate value until a run ends. A run is stopped between two operators; one operator runs to its end.
"""

from __future__ import annotations

import hashlib
import math
import platform
import threading
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, ValueInfoProto, helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from shared.adapters.engine_threads import Shelf, Threads
from shared.adapters.onnx_file import check_onnx
from shared.adapters.onnx_precision import to_float32, widen
from shared.constants import INFERENCE_TIMEOUT_SECONDS
from shared.errors import CodecError, InferenceFailed, ModelMismatch
from shared.interfaces import Tensors
from shared.tensors import DTYPES, TensorSpec, check_arrays
from shared.types import Digest, Fingerprint

# Operators are Python: whatever a wrong shape or type raises there, and what the file's own mistakes raise.
ERRORS: Final[tuple[type[Exception], ...]] = (
    ArithmeticError, AssertionError, AttributeError, DecodeError, LookupError, MemoryError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip
_TYPES: Final[dict[int, str]] = {helper.np_dtype_to_tensor_dtype(dtype): name for name, dtype in DTYPES.items()}

_this_run = threading.local()  # `.stop`, an Event, in the thread of a run


class _Stopped(RuntimeError):
    """The run is not wanted any more."""


class _Evaluator(ReferenceEvaluator):
    """Looks between operators, in bodies of loops too, whether it is still wanted: it reports each one to `_log`."""

    def _log(self, level: int, pattern: str, *args: Any) -> None:
        if _this_run.stop.is_set():
            raise _Stopped("stopped")


class Erf(OpRun):
    """The evaluator's own rounds to float32."""

    op_domain = ""

    def _run(self, x: npt.NDArray[Any]) -> tuple[npt.NDArray[Any]]:
        return (_erf(x).astype(x.dtype),)


class Gelu(OpRun):
    """The evaluator's own has float32 constants."""

    op_domain = ""

    def _run(self, x: npt.NDArray[Any], approximate: str | None = None) -> tuple[npt.NDArray[Any]]:
        wide = x.astype(np.float64)
        if approximate == "tanh":
            step = np.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3))
        else:
            step = _erf(wide * math.sqrt(0.5))
        return ((wide / 2 * (1 + step)).astype(x.dtype),)


def _erf(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.asarray(np.vectorize(math.erf, otypes=[np.float64])(x))


@dataclass(frozen=True, slots=True)
class _Loaded:
    evaluator: _Evaluator
    size: int  # bytes of the model file
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    fingerprint: Fingerprint


class ReferenceEngine:
    """`precision`: `native` or `fp64`, whose outputs are doubles unless `rounded`. Bounds as in `OnnxEngine`."""

    def __init__(
        self,
        *,
        max_loaded_bytes: int,
        max_concurrent: int = 1,
        timeout_seconds: float = INFERENCE_TIMEOUT_SECONDS,
        precision: Literal["native", "fp64"] = "native",
        rounded: bool = False,
    ) -> None:
        self._precision, self._is_rounded, self._timeout_seconds = precision, rounded, timeout_seconds
        self._models: Shelf[_Loaded] = Shelf(max_loaded_bytes)
        self._pool = Threads(max_concurrent, "onnx.reference", ERRORS)

    async def load(self, model_hash: Digest, model: bytes) -> None:
        """Raises `ModelMismatch` for other bytes, `InferenceFailed` for bytes that are no model of one file, are over
        the budget, or have an operator that the evaluator does not know."""
        self._models.check_size(model)
        known, stop = self._models.find(model_hash), threading.Event()
        loaded = await self._pool.run(lambda: self._open(model_hash, model, known), stop.set, self._timeout_seconds)
        self._models.keep(model_hash, loaded)

    def is_loaded(self, model_hash: Digest) -> bool:
        return model_hash in self._models

    async def run(self, model_hash: Digest, inputs: Tensors) -> Tensors:
        """Raises `InputMismatch` before anything runs, `InferenceFailed` for the rest, time running out included."""
        loaded, stop = self._models.use(model_hash), threading.Event()
        check_arrays(loaded.inputs, inputs)
        outputs = await self._pool.run(lambda: _evaluate(loaded, inputs, stop), stop.set, self._timeout_seconds)
        return {name: to_float32(output) for name, output in outputs.items()} if self._is_rounded else outputs

    def fingerprint(self, model_hash: Digest) -> Fingerprint:
        """As `OnnxEngine`."""
        return self._models.fingerprint(model_hash)

    async def close(self) -> None:
        """Stops what runs and waits for its threads; nothing can be run afterwards."""
        self._models.clear()
        await self._pool.close()

    def _open(self, model_hash: Digest, model: bytes, known: _Loaded | None) -> _Loaded:
        if hashlib.sha256(model).digest() != model_hash:
            raise ModelMismatch(f"the model's bytes do not have the hash {model_hash.hex()}")
        if known is not None:
            return known
        try:
            check_onnx(model)
            graph = onnx.load_model_from_string(widen(model) if self._precision == "fp64" else model)
        except (CodecError, InferenceFailed) as error:
            raise InferenceFailed(f"model {model_hash.hex()}: {error}") from None
        fixed = {tensor.name for tensor in graph.graph.initializer}
        inputs = tuple(_spec(info) for info in graph.graph.input if info.name not in fixed)
        outputs = tuple(_spec(info).name for info in graph.graph.output)
        fingerprint = Fingerprint(
            "onnx.reference", onnx.__version__, "ReferenceEvaluator", platform.machine() or "cpu", self._precision
        )
        return _Loaded(_Evaluator(graph, new_ops=[Erf, Gelu]), len(model), inputs, outputs, fingerprint)


def _evaluate(loaded: _Loaded, inputs: Tensors, stop: threading.Event) -> dict[str, npt.NDArray[np.generic]]:
    _this_run.stop = stop
    with np.errstate(all="ignore"):  # infinities are a model's own affair; they are refused where outputs are encoded
        found = cast("list[Any]", loaded.evaluator.run(list(loaded.outputs), dict(inputs)))
    return {name: np.asarray(output) for name, output in zip(loaded.outputs, found, strict=True)}


def _spec(info: ValueInfoProto) -> TensorSpec:
    """Free dimensions have a name instead of a size. Raises `InferenceFailed` for a type no document carries."""
    tensor = info.type.tensor_type
    dtype: Any = _TYPES.get(tensor.elem_type)
    if dtype is None:
        name = TensorProto.DataType.Name(tensor.elem_type).lower()
        raise InferenceFailed(f"the model has {info.name} of type tensor({name}), not one of {', '.join(DTYPES)}")
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)
    return TensorSpec(info.name, dtype, shape)
