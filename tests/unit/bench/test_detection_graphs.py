"""What the bench does to graphs: a hidden state beside the logits, and longer tables of positions."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bench.detection_cost import with_context
from bench.detection_hidden import HIDDEN, Recording, with_hidden
from shared.adapters.onnx_runner import Runner
from shared.interfaces import Tensors

WEIGHTS = np.array([[1.0, 0.0, 2.0], [0.0, 1.0, -1.0]], np.float32)


def model(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> bytes:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "time", 2])
    y = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "time", 3])
    stored = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "toy", [x], [y], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def test_what_the_last_product_takes_is_an_output_too():
    nodes = [
        helper.make_node("Mul", ["x", "two"], ["doubled"]),
        helper.make_node("MatMul", ["doubled", "w"], ["product"]),
        helper.make_node("Identity", ["product"], ["logits"]),
    ]
    runner = Runner(with_hidden(model(nodes, {"two": np.array(2, np.float32), "w": WEIGHTS})))
    x = np.array([[[1.0, 3.0]]], np.float32)
    outputs = runner.run({"x": x})
    np.testing.assert_array_equal(outputs[HIDDEN], 2 * x)
    np.testing.assert_array_equal(outputs["logits"], 2 * x @ WEIGHTS)


def test_of_a_quantised_product_it_is_what_was_quantised():
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"]),
        helper.make_node("MatMulInteger", ["xq", "wq", "xz"], ["integers"]),
        helper.make_node("Cast", ["integers"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["floats", "xs"], ["logits"]),
    ]
    runner = Runner(with_hidden(model(nodes, {"wq": WEIGHTS.astype(np.int8)})))
    x = np.array([[[1.0, 3.0]]], np.float32)
    np.testing.assert_array_equal(runner.run({"x": x})[HIDDEN], x)


def test_logits_without_a_product_are_refused():
    with pytest.raises(SystemExit, match="the logits come from Concat"):
        with_hidden(model([helper.make_node("Concat", ["x", "x"], ["logits"], axis=-1)], {}))


class Scripted(Runner):
    """Gives each fed id back as its hidden state."""

    def __init__(self) -> None:
        pass

    def run(self, inputs: Tensors, setting: object = None) -> dict[str, np.ndarray]:
        return {HIDDEN: inputs["ids"].astype(np.float32)[..., np.newaxis], "logits": np.zeros((1, 1, 2), np.float32)}


def feed(ids: list[int], past: int) -> Tensors:
    return {"ids": np.array([ids]), "past_keys": np.zeros((1, 1, 1, past, 1), np.float32)}


async def test_a_recording_holds_the_states_before_each_token_written():
    recording = Recording()
    forward = recording.watch(Scripted())
    assert recording.before(3) is None
    for ids, past in (([9, 9], 0), ([1, 2, 3], 0), ([4], 3), ([5], 4)):  # a text begun before is forgotten
        outputs = await forward(feed(ids, past))
        assert HIDDEN not in outputs
    assert recording.before(3).ravel().tolist() == [3, 4, 5]


async def test_a_recording_of_a_text_that_was_read_at_once():
    recording = Recording()
    await recording.watch(Scripted())(feed([1, 2, 3, 4, 5], 0))
    assert recording.before(2).ravel().tolist() == [4, 5]


def tables(rows: int, width: int) -> dict[str, np.ndarray]:
    frequency = 10_000.0 ** -(np.arange(0, width, 2) / width)
    angle = np.concatenate([np.outer(np.arange(rows), frequency)] * 2, -1)
    return {"cos": np.cos(angle).astype(np.float32), "sin": np.sin(angle).astype(np.float32)}


def test_tables_of_positions_are_made_longer():
    nodes = [helper.make_node("MatMul", ["x", "w"], ["logits"])]
    longer = onnx.load_model_from_string(with_context(model(nodes, {"w": WEIGHTS, **tables(16, 4)}), 16, 64))
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in longer.graph.initializer}
    for name, table in tables(64, 4).items():
        np.testing.assert_allclose(stored[name], table, atol=1e-6)
    np.testing.assert_array_equal(stored["w"], WEIGHTS)


def test_another_matrix_of_as_many_rows_is_no_table():
    nodes = [helper.make_node("MatMul", ["x", "w"], ["logits"])]
    with pytest.raises(SystemExit, match="w of 2 rows is no table"):
        with_context(model(nodes, {"w": WEIGHTS}), 2, 64)
    with pytest.raises(SystemExit, match="0 tables"):
        with_context(model(nodes, {"w": WEIGHTS}), 16, 64)
