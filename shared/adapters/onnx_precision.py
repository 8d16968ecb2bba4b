"""An ONNX model in another arithmetic: in double, or with the rounding of a lower precision.

`fp64` is the reference, and what the profile `exact-fp64` computes in: every float32 value of the graph becomes a
double, so that the differences between honest machines (1e-16) vanish when results are rounded to float32. Inputs stay
float32; what was a float32 output is a double.

`fp16`, `bf16` and `tf32` are emulated on float32 kernels, for calibration: they show what such an engine's numbers look
like, not its speed. In fp16 and bf16 weights are rounded once, and so are the float inputs and the result of every
operator that computes; in tf32 the operands of matrix products and convolutions alone are rounded, to 10 bits of
mantissa. Sums within one operator are in float32, as on the accelerators that have these types. Outputs stay float32.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, checker, inliner, shape_inference

from shared.adapters.onnx_double import Doubling
from shared.adapters.onnx_file import check_onnx
from shared.adapters.onnx_fused import stored_values
from shared.adapters.onnx_graph import (
    LEAST_OPSET,
    MAX_FILE_BYTES,
    Emitter,
    Rule,
    declare_scores,
    rewrite,
    shapes_of,
    types_of,
)
from shared.adapters.onnx_rounding import LowPrecision, Rounding
from shared.errors import CodecError, InferenceFailed

Precision = Literal["native", "fp64", "tf32", "fp16", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def convert(model: bytes, precision: Precision, *, fused: bool = False) -> bytes:
    """The model's bytes in `precision`; `native` returns them as they are. `fused` rounds in fp16 and bf16 only what
    fused kernels store (see `onnx_fused`), which is how served models run; without it every operator rounds.

    Raises `InferenceFailed` for bytes that are no model of one file, for an operator that cannot be had in this
    precision (by name), and for a model that would grow to more than `MAX_GROWTH` times its file.
    """
    if precision == "native":
        return model
    return _rewritten(model, precision, fused=fused)


def widen(model: bytes) -> bytes:
    """As `convert` to fp64, for an engine that has every operator of ai.onnx in double: each stays what it is."""
    return _rewritten(model, "fp64", keeps_operators=True)


def to_float32(output: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Doubles rounded to the nearest float32; others as they are. What is too large becomes infinite, and is refused
    where outputs are encoded."""
    if output.dtype != np.float64:
        return output
    with np.errstate(over="ignore", under="ignore"):
        return output.astype(np.float32)


def _rewritten(
    model: bytes, precision: Literal["fp64", LowPrecision], *, keeps_operators: bool = False, fused: bool = False
) -> bytes:
    parsed = _parsed(model)
    opset = next((each.version for each in parsed.opset_import if each.domain in ("", "ai.onnx")), LEAST_OPSET)
    if opset < LEAST_OPSET:
        raise InferenceFailed(
            f"operator set {opset} has no {precision} form; export the model with {LEAST_OPSET} or newer"
        )
    try:
        emitter = Emitter(parsed, opset, len(model))
        _rewrite_as(parsed, precision, emitter, keeps_operators=keeps_operators, fused=fused)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # What attributes that are missing or of another type raise; the runtime would have refused them.
        raise InferenceFailed(f"not a model that can be rewritten: {type(error).__name__}: {error}") from None
    if parsed.ByteSize() > MAX_FILE_BYTES:
        raise InferenceFailed(
            f"in {precision} the model has more than {MAX_FILE_BYTES} bytes, which no ONNX file may have"
        )
    return parsed.SerializeToString()


def _rewrite_as(
    parsed: ModelProto,
    precision: Literal["fp64", LowPrecision],
    emitter: Emitter,
    *,
    keeps_operators: bool,
    fused: bool,
) -> None:
    types = types_of(parsed)
    rule: Rule
    if precision == "fp64":
        rule = Doubling(emitter, types, shapes_of(parsed), keeps_operators=keeps_operators)
    else:
        rule = Rounding(emitter, types, precision, stored_values(parsed.graph) if fused else None)
    rewrite(parsed.graph, rule, emitter)


def _parsed(model: bytes) -> ModelProto:
    """With the model's own functions put where they are called, and the types of all values."""
    try:
        check_onnx(model)
        parsed = onnx.load_model_from_string(model)
        if parsed.functions:
            parsed = inliner.inline_local_functions(parsed)
        declare_scores(parsed.graph)
        return shape_inference.infer_shapes(parsed)
    except (
        CodecError,
        DecodeError,
        checker.ValidationError,
        shape_inference.InferenceError,
        LookupError,
        ValueError,
        RuntimeError,
    ) as error:
        raise InferenceFailed(f"not a model that can be rewritten: {error}") from None
