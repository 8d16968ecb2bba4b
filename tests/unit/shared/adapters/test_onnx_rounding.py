"""Emulated precisions: the rounding is numpy's, it happens, and no optimisation takes it away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import GraphOptimizationLevel

from shared.adapters.onnx_precision import Precision, convert
from shared.adapters.onnx_rounding import MANTISSA_BITS, round_mantissa

Array = npt.NDArray[Any]
MODELS = Path(__file__).resolve().parents[4] / "models"
LEVELS = [GraphOptimizationLevel.ORT_DISABLE_ALL, GraphOptimizationLevel.ORT_ENABLE_BASIC]
LEVELS += [GraphOptimizationLevel.ORT_ENABLE_EXTENDED, GraphOptimizationLevel.ORT_ENABLE_ALL]
WIDE = np.random.default_rng(1).normal(size=20_000) * 10.0 ** np.random.default_rng(2).integers(-8, 5, 20_000)
# Exact ties of bf16 and of fp16, to even both ways; the largest and smallest; nothing; not numbers.
ODD = [1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-11, 1 + 3 * 2**-11, 65504, 65519.9, 65520, 6e-8, 2e-8, 3.4e38, -0.0, np.inf]
NUMBERS = np.array([*WIDE, *ODD, *np.negative(ODD)], np.float32)


def small(*nodes: onnx.NodeProto, weights: Array | None = None) -> bytes:
    """x (1, n) to y."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [] if weights is None else [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def run(model: bytes, x: Array, level: GraphOptimizationLevel = LEVELS[3], name: str = "x") -> Array:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    found: Array = session.run(None, {name: x})[0]
    return found


def rounded(values: Array, precision: Precision) -> Array:
    if precision == "fp16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(np.float32)
    return round_mantissa(values, MANTISSA_BITS[precision])


# --- the rounding itself ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("value", "bits", "expected"),
    [
        (1 + 2**-8, 7, 1),  # a tie, to even: down
        (1 + 3 * 2**-8, 7, 1 + 2**-6),  # a tie, to even: up
        (1 + 2**-8 + 2**-20, 7, 1 + 2**-7),
        (-(1 + 2**-11), 10, -1),
        (3.4e38, 7, np.inf),
        (2.0**-149, 7, 0),
    ],
)
def test_the_nearest_and_ties_to_even(value: float, bits: int, expected: float) -> None:
    assert round_mantissa(np.array([value], np.float32), bits).tolist() == [expected]


def test_what_is_no_number_stays() -> None:
    found = round_mantissa(np.array([np.nan, np.inf, -np.inf], np.float32), 7)
    assert np.isnan(found[0])
    assert found[1:].tolist() == [np.inf, -np.inf]


@given(st.floats(-(2.0**100), 2.0**100, width=32).filter(lambda x: x == 0 or abs(x) > 2**-100), st.integers(1, 22))
def test_rounding_is_within_half_a_step_and_changes_nothing_twice(value: float, bits: int) -> None:
    once = round_mantissa(np.array([value], np.float32), bits)
    assert abs(float(once[0]) - value) <= abs(value) * 2.0 ** -(bits + 1)
    assert round_mantissa(once, bits).tolist() == once.tolist()


# --- in a graph -------------------------------------------------------------------------------------
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_inputs_and_results_are_rounded_at_every_optimisation_level(
    precision: Precision, level: GraphOptimizationLevel
) -> None:
    """Twice 0.7: each product is rounded, so that the two cannot have become one."""
    model = small(
        helper.make_node("Mul", ["x", "w"], ["part"]),
        helper.make_node("Mul", ["part", "w"], ["y"]),
        weights=np.array([0.7], np.float32),
    )
    weight = rounded(np.array([0.7], np.float32), precision)
    with np.errstate(over="ignore", invalid="ignore"):
        part = rounded(rounded(NUMBERS, precision) * weight, precision)
        expected = rounded(part * weight, precision)
    found = run(convert(model, precision), NUMBERS[None], level)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[0], expected)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_an_identity_is_the_rounding_alone(precision: Precision, level: GraphOptimizationLevel) -> None:
    found = run(convert(small(helper.make_node("Identity", ["x"], ["y"])), precision), NUMBERS[None], level)
    np.testing.assert_array_equal(found[0], rounded(NUMBERS, precision))


@pytest.mark.parametrize("level", LEVELS)
def test_tf32_rounds_operands_and_keeps_results(level: GraphOptimizationLevel) -> None:
    """A product with one number shows each operand; the bias is not cut."""
    x = WIDE.astype(np.float32)
    model = small(
        helper.make_node("Reshape", ["x", "column"], ["rows"]),
        helper.make_node("MatMul", ["rows", "w"], ["y"]),
        weights=np.array([[1.2345678]], np.float32),
    )
    parsed = onnx.load_from_string(model)
    parsed.graph.initializer.append(numpy_helper.from_array(np.array([-1, 1]), "column"))
    found = run(convert(parsed.SerializeToString(), "tf32"), x[None], level)[:, 0]
    expected = rounded(x, "tf32") * rounded(np.array([1.2345678], np.float32), "tf32")
    np.testing.assert_array_equal(found, expected)


def test_tf32_leaves_other_operators_alone() -> None:
    model = small(helper.make_node("Mul", ["x", "w"], ["y"]), weights=np.array([0.7], np.float32))
    np.testing.assert_array_equal(run(convert(model, "tf32"), NUMBERS[None]), run(model, NUMBERS[None]))


def test_tf32_keeps_a_weight_whole_for_its_other_uses() -> None:
    weights = np.array([[1.2345678]], np.float32)
    model = small(
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("Sub", ["product", "w"], ["y"]),
        weights=weights,
    )
    found = run(convert(model, "tf32"), np.ones((1, 1), np.float32))
    assert found.tolist() == (rounded(weights, "tf32") - weights).tolist()


@pytest.mark.parametrize(
    ("precision", "least", "most"), [("tf32", 1e-5, 2e-3), ("fp16", 1e-5, 2e-3), ("bf16", 5e-4, 2e-2)]
)
def test_a_real_model_is_as_far_off_as_its_precision_says(precision: Precision, least: float, most: float) -> None:
    model = (MODELS / "digits" / "model.onnx").read_bytes()
    x = np.random.default_rng(0).random((32, 1, 8, 8)).astype(np.float32)
    exact = run(convert(model, "fp64"), x, name="image")
    found = run(convert(model, precision), x, name="image")
    assert found.dtype == np.float32
    assert least < np.linalg.norm(found - exact) / np.linalg.norm(exact) < most


def test_native_is_the_file_itself() -> None:
    model = small(helper.make_node("Identity", ["x"], ["y"]))
    assert convert(model, "native") is model
