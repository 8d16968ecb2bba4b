"""What fused kernels round: inputs and outputs of products, the residual stream, results; nothing within a kernel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from shared.adapters.onnx_fused import stored_values
from shared.adapters.onnx_precision import convert
from shared.adapters.onnx_runner import Runner

MODELS = Path(__file__).resolve().parents[4] / "models"
HALF = np.eye(2, dtype=np.float32) / 3


def block() -> onnx.ModelProto:
    """x through a norm of sorts, a product and an activation, and added to itself; read twice at the end."""
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["squares"]),
        helper.make_node("Sqrt", ["squares"], ["roots"]),
        helper.make_node("Div", ["x", "roots"], ["normed"]),
        helper.make_node("Transpose", ["normed"], ["turned"], perm=[0, 1]),
        helper.make_node("MatMul", ["turned", "w"], ["product"]),
        helper.make_node("Sigmoid", ["product"], ["gate"]),
        helper.make_node("Mul", ["product", "gate"], ["active"]),
        helper.make_node("Add", ["x", "active"], ["residual"]),
        helper.make_node("Mul", ["residual", "residual"], ["inner"]),
        helper.make_node("Add", ["residual", "inner"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "block",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(HALF, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_what_is_stored() -> None:
    assert stored_values(block().graph) == {"turned", "normed", "w", "product", "residual", "y"}


def test_only_that_is_rounded() -> None:
    """By casts: one for the input, and one for each stored value that is computed and not moved."""
    model = block().SerializeToString()

    def casts(fused: bool) -> int:
        converted = onnx.load_model_from_string(convert(model, "bf16", fused=fused))
        return sum(node.op_type == "Cast" for node in converted.graph.node) // 2

    assert casts(fused=True) == 1 + 4  # normed, product, residual, y
    assert casts(fused=False) == 1 + 9  # all but what is moved


def test_other_precisions_know_no_kernels() -> None:
    model = block().SerializeToString()
    for precision in ("native", "fp64", "tf32"):
        assert convert(model, precision, fused=True) == convert(model, precision)


def test_fused_kernels_are_nearer_to_the_model() -> None:
    """On the decoder: fewer roundings, smaller errors, and they are there."""
    model = (MODELS / "text" / "model.onnx").read_bytes()
    past = np.zeros((5, 1, 4, 0, 32), np.float32)
    feed = {"ids": np.array([[256, *b"In the beginning God"]], np.int64), "past_keys": past, "past_values": past}
    exact = Runner(model).run(feed)["logits"]

    def error(fused: bool) -> float:
        return float(np.std(Runner(convert(model, "bf16", fused=fused)).run(feed)["logits"] - exact))

    assert 0.005 < error(fused=True) < 0.9 * error(fused=False)
