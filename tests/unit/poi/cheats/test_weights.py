"""Models changed on purpose: the same inputs and outputs, other numbers, and a plain refusal where nothing fits."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import helper, numpy_helper

from poi.cheats.graph import MIN_ELEMENTS, change_weights
from poi.cheats.weights import SETS_FLOOR, WEIGHT_CHEATS, NotApplicable, bfloat16, float16, fp8, int4, int8, pruned

MODELS = Path(__file__).resolve().parents[4] / "models"
TREES = ("half the trees", "fp16 thresholds")
TEXT = {
    "ids": np.arange(40, 60).reshape(1, 20),
    "past_keys": np.zeros((5, 1, 4, 0, 32), np.float32),
    "past_values": np.zeros((5, 1, 4, 0, 32), np.float32),
}
Array = np.ndarray[Any, Any]


def run(model: bytes, inputs: dict[str, Array]) -> dict[str, Array]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def text_model() -> bytes:
    return (MODELS / "text" / "model.onnx").read_bytes()


def model_of(nodes: list[onnx.NodeProto], weights: dict[str, Array], width: int = 16) -> bytes:
    """x (1, width) to y (free, free)."""
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, width])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None, None])
    stored = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], stored), opset_imports=opsets, ir_version=8
    ).SerializeToString()


def matrix(seed: int, rows: int = 16, columns: int = 16) -> Array:
    return np.random.default_rng(seed).normal(0, 1, (rows, columns)).astype(np.float32)


def stored(model: bytes) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(model).graph.initializer}


# --- all of them ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [name for name in WEIGHT_CHEATS if name not in TREES])
def test_a_decoder_still_runs_and_says_something_else(name: str) -> None:
    model = text_model()
    changed = WEIGHT_CHEATS[name](model)
    honest, cheating = run(model, TEXT), run(changed, TEXT)
    assert {key: array.shape for key, array in honest.items()} == {key: array.shape for key, array in cheating.items()}
    distance = float(np.abs(honest["logits"] - cheating["logits"]).max() / np.abs(honest["logits"]).max())
    assert 1e-6 < distance < 0.5
    assert WEIGHT_CHEATS[name](model) == changed  # the liar and whoever measures it run the same


@pytest.mark.parametrize("name", TREES)
def test_a_decoder_has_no_trees(name: str) -> None:
    with pytest.raises(NotApplicable, match="no tree ensemble"):
        WEIGHT_CHEATS[name](text_model())


def test_what_sets_the_floor_are_cheats() -> None:
    assert set(WEIGHT_CHEATS) > SETS_FLOOR


def test_the_finer_the_numbers_the_nearer_they_stay() -> None:
    honest = run(text_model(), TEXT)["logits"]
    distances = [
        float(np.abs(run(WEIGHT_CHEATS[name](text_model()), TEXT)["logits"] - honest).max())
        for name in ("nudged weights", "fp16 weights", "bf16 weights", "int8 weights", "fp8 weights", "int4 weights")
    ]
    assert distances == sorted(distances)


# --- numbers -------------------------------------------------------------------------------------------
ROWS = arrays(np.float32, (3, 70), elements=st.floats(-8, 8, width=32))


@given(ROWS)
def test_rounded_weights_stay_within_half_a_step(rows: Array) -> None:
    of_row, of_all = np.abs(rows).max(-1, keepdims=True), np.abs(rows).max()
    assert (np.abs(float16(rows) - rows) <= np.abs(rows) * 2.0**-11 + 2.0**-25).all()
    assert (np.abs(bfloat16(rows) - rows) <= np.abs(rows) * 2.0**-8 + 1e-38).all()
    assert (np.abs(fp8(rows) - rows) <= np.abs(rows) * 2.0**-4 + of_all * 1e-5 + 1e-35).all()
    assert (np.abs(int8(rows) - rows) <= of_row * (0.5 / 127 + 1e-6) + 1e-35).all()
    assert (np.abs(int4(rows) - rows) <= of_row * (0.5 / 7 + 1e-6) + 1e-35).all()


@given(ROWS)
def test_quantised_weights_have_few_values(rows: Array) -> None:
    assert all(len(np.unique(row)) <= 255 for row in int8(rows))
    assert all(len(np.unique(group)) <= 15 for row in int4(rows) for group in (row[:32], row[32:64], row[64:]))


def test_weights_of_nothing_but_zeros_stay_zeros() -> None:
    zeros = np.zeros((2, 70), np.float32)
    for change in (float16, bfloat16, fp8, int8, int4):
        assert np.array_equal(change(zeros), zeros)


def test_pruning_takes_the_smallest() -> None:
    rows = np.arange(1, 201, dtype=np.float32).reshape(2, 100) * np.float32(-1)
    assert np.flatnonzero(pruned(0.01, rows) == 0).tolist() == [0, 1]
    assert np.flatnonzero(pruned(0.1, rows) == 0).tolist() == list(range(20))


# --- which weights -------------------------------------------------------------------------------------
def test_a_scale_belongs_to_an_output_channel() -> None:
    """A product's right-hand matrix has its channels in columns, a transposed one in rows."""
    weights = matrix(1) * np.geomspace(1, 1e6, 16, dtype=np.float32)  # column by column larger
    for nodes, name, array in (
        ([helper.make_node("MatMul", ["x", "w"], ["y"])], "w", weights),
        ([helper.make_node("Gemm", ["x", "w"], ["y"])], "w", weights),
        ([helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)], "w", np.ascontiguousarray(weights.T)),
    ):
        changed = stored(WEIGHT_CHEATS["int8 weights"](model_of(nodes, {name: array})))[name]
        largest = np.abs(array).max(0 if array is weights else 1, keepdims=True)
        assert (np.abs(changed - array) <= largest * (0.5 / 127 + 1e-6)).all()


def test_only_large_matrices_are_touched() -> None:
    large, small, bias = matrix(1), matrix(2, 16, MIN_ELEMENTS // 16), matrix(3, 1, 100)[0]
    nodes = [
        helper.make_node("MatMul", ["x", "large"], ["h"]),
        helper.make_node("Add", ["h", "table"], ["i"]),
        helper.make_node("MatMul", ["i", "small"], ["y"]),
    ]
    weights = {"large": large, "small": small, "table": matrix(4), "bias": bias}
    changed = stored(change_weights(model_of(nodes, weights), lambda rows: rows * 0))
    assert {name for name, array in changed.items() if not np.array_equal(array, weights[name])} == {"large"}


def test_weights_may_be_constants_of_the_graph_behind_a_transposition() -> None:
    constant = helper.make_node("Constant", [], ["stored"], value=numpy_helper.from_array(matrix(1), "stored"))
    nodes = [
        constant,
        helper.make_node("Transpose", ["stored"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    changed = onnx.load_from_string(change_weights(model_of(nodes, {}), lambda rows: rows * 2))
    assert np.array_equal(numpy_helper.to_array(changed.graph.node[0].attribute[0].t), matrix(1) * 2)


def test_weights_in_the_bodies_of_conditions_are_found() -> None:
    def branch(seed: int) -> onnx.GraphProto:
        node = helper.make_node("MatMul", ["x", f"w{seed}"], [f"y{seed}"])
        out = helper.make_tensor_value_info(f"y{seed}", onnx.TensorProto.FLOAT, [1, 16])
        return helper.make_graph([node], "b", [], [out], [numpy_helper.from_array(matrix(seed), f"w{seed}")])

    nodes = [
        helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True), "yes")),
        helper.make_node("If", ["yes"], ["y"], then_branch=branch(1), else_branch=branch(2)),
    ]
    model, x = model_of(nodes, {}), matrix(9, 1, 16)
    changed = change_weights(model, lambda rows: rows * 2)
    assert np.allclose(run(changed, {"x": x})["y"], 2 * run(model, {"x": x})["y"])


@pytest.mark.parametrize("name", WEIGHT_CHEATS)
def test_a_model_without_weights_has_nothing_to_compress(name: str) -> None:
    with pytest.raises(NotApplicable, match=r"^(no|a) .+"):
        WEIGHT_CHEATS[name](model_of([helper.make_node("Relu", ["x"], ["y"])], {}))


def test_dynamic_quantisation_leaves_the_log_as_it_was() -> None:
    root, handlers = logging.getLogger(), list(logging.getLogger().handlers)
    changed = onnx.load_from_string(WEIGHT_CHEATS["int8 dynamic"](text_model()))
    assert {node.op_type for node in changed.graph.node} >= {"DynamicQuantizeLinear", "MatMulInteger"}
    assert (root.handlers, root.isEnabledFor(logging.WARNING)) == (handlers, True)


# --- skipped layers ------------------------------------------------------------------------------------
def test_a_decoder_loses_its_last_layer_whole() -> None:
    before, after = (
        onnx.load_from_string(model) for model in (text_model(), WEIGHT_CHEATS["layer skipped"](text_model()))
    )
    changed = [
        (old.output[0], new.op_type)
        for old, new in zip(before.graph.node, after.graph.node, strict=True)
        if old.SerializeToString() != new.SerializeToString()
    ]
    assert changed == [("/blocks.4/Add_4_output_0", "Identity"), ("/blocks.4/Add_6_output_0", "Identity")]


def test_of_two_projected_sides_the_longer_one_is_the_branch() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "skip"], ["s"]),
        helper.make_node("MatMul", ["x", "first"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "second"], ["m"]),
        helper.make_node("Add", ["m", "bias"], ["b"]),
        helper.make_node("Add", ["b", "s"], ["y"]),
    ]
    weights = {"skip": matrix(1), "first": matrix(2), "second": matrix(3), "bias": matrix(4, 1)}
    x = matrix(9, 1)
    skipped = run(WEIGHT_CHEATS["layer skipped"](model_of(nodes, weights)), {"x": x})["y"]
    assert np.allclose(skipped, x @ weights["skip"], atol=1e-5)


def test_biases_and_products_of_activations_are_no_residuals() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Add", ["h", "bias"], ["b"]),
        helper.make_node("Transpose", ["b"], ["t"]),
        helper.make_node("MatMul", ["t", "b"], ["p"]),
        helper.make_node("Add", ["p", "b"], ["y"]),
    ]
    with pytest.raises(NotApplicable, match="no residual branch"):
        WEIGHT_CHEATS["layer skipped"](model_of(nodes, {"w": matrix(1), "bias": matrix(4, 1)}))


# --- trees ---------------------------------------------------------------------------------------------
def stumps(kind: str, leaves: list[tuple[float, ...]], thresholds: list[float]) -> bytes:
    """Trees of one question each: x[i] ≤ threshold; the left leaf gives the weights, the right one those reversed."""
    trees, classes = len(thresholds), len(leaves[0])
    prefix = "class" if kind == "TreeEnsembleClassifier" else "target"
    table = [(tree, node) for tree in range(trees) for node in (0, 1, 2)]
    votes = [(tree, node, k) for tree in range(trees) for node in (1, 2) for k in range(classes)]
    attributes: dict[str, Any] = {
        "nodes_treeids": [tree for tree, _ in table],
        "nodes_nodeids": [node for _, node in table],
        "nodes_featureids": [tree % 16 for tree, _ in table],
        "nodes_modes": ["BRANCH_LEQ" if node == 0 else "LEAF" for _, node in table],
        "nodes_values": [thresholds[tree] if node == 0 else 0.0 for tree, node in table],
        "nodes_truenodeids": [1 if node == 0 else 0 for _, node in table],
        "nodes_falsenodeids": [2 if node == 0 else 0 for _, node in table],
        f"{prefix}_treeids": [tree for tree, _, _ in votes],
        f"{prefix}_nodeids": [node for _, node, _ in votes],
        f"{prefix}_ids": [k for _, _, k in votes],
        f"{prefix}_weights": [leaves[tree][k if node == 1 else classes - 1 - k] for tree, node, k in votes],
        "post_transform": "NONE",
    }
    if prefix == "class":
        attributes["classlabels_int64s"] = list(range(classes))
    else:
        attributes["n_targets"] = classes
    outputs = ["label", "y"] if prefix == "class" else ["y"]
    return model_of([helper.make_node(kind, ["x"], outputs, domain="ai.onnx.ml", **attributes)], {})


def test_half_a_forest_is_weighted_as_a_whole_one() -> None:
    leaves = [(0.2, 0.05), (0.15, 0.1), (0.25, 0.0), (0.0, 0.25)]
    model, x = stumps("TreeEnsembleClassifier", leaves, [0.5] * 4), np.zeros((1, 16), np.float32)
    assert np.allclose(run(model, {"x": x})["y"], [[0.6, 0.4]])
    assert np.allclose(run(WEIGHT_CHEATS["half the trees"](model), {"x": x})["y"], [[0.7, 0.3]])


def test_half_of_boosted_trees_are_the_first() -> None:
    leaves = [(4.0, 1.0), (2.0, 0.5), (1.0, 0.2)]
    x = np.zeros((1, 16), np.float32)
    for kind in ("TreeEnsembleClassifier", "TreeEnsembleRegressor"):
        model = stumps(kind, leaves, [0.5] * 3)
        assert np.allclose(run(model, {"x": x})["y"], [[7.0, 1.7]])
        assert np.allclose(run(WEIGHT_CHEATS["half the trees"](model), {"x": x})["y"], [[6.0, 1.5]])


def test_a_single_tree_has_no_half() -> None:
    with pytest.raises(NotApplicable, match="single tree"):
        WEIGHT_CHEATS["half the trees"](stumps("TreeEnsembleRegressor", [(1.0,)], [0.5]))


def test_thresholds_and_leaves_are_rounded_and_nothing_else() -> None:
    model = stumps("TreeEnsembleClassifier", [(1 / 3, 0.25), (1e9, 0.125)], [0.1, 0.5])
    old, new = (
        {each.name: helper.get_attribute_value(each) for each in onnx.load_from_string(one).graph.node[0].attribute}
        for one in (model, WEIGHT_CHEATS["fp16 thresholds"](model))
    )
    third, tenth = float(np.float16(1 / 3)), float(np.float16(0.1))
    assert new.pop("nodes_values") == [tenth, 0.0, 0.0, 0.5, 0.0, 0.0]
    assert new.pop("class_weights") == [third, 0.25, 0.25, third, 65504.0, 0.125, 0.125, 65504.0]
    assert new == {name: value for name, value in old.items() if name in new}


def test_ensembles_of_operator_set_5_lose_half_their_roots() -> None:
    def floats(name: str, *values: float) -> onnx.TensorProto:
        return numpy_helper.from_array(np.array(values, np.float32), name)

    node = helper.make_node(
        "TreeEnsemble",
        ["x"],
        ["y"],
        domain="ai.onnx.ml",
        tree_roots=[0, 1],
        nodes_modes=numpy_helper.from_array(np.zeros(2, np.uint8), "modes"),
        nodes_featureids=[0, 1],
        nodes_splits=floats("splits", 0.1, 0.5),
        nodes_trueleafs=[1, 1],
        nodes_truenodeids=[0, 2],
        nodes_falseleafs=[1, 1],
        nodes_falsenodeids=[1, 3],
        leaf_targetids=[0, 0, 0, 0],
        leaf_weights=floats("weights", 1 / 3, 2.0, 4.0, 8.0),
        n_targets=1,
        aggregate_function=1,
        post_transform=0,
    )
    parsed = onnx.load_from_string(model_of([node], {}))
    parsed.opset_import[1].version = 5
    parsed.ir_version = 10
    model, x = parsed.SerializeToString(), np.zeros((1, 16), np.float32)
    third = np.float32(1 / 3)
    assert run(model, {"x": x})["y"].tolist() == [[float(third + np.float32(4))]]
    assert run(WEIGHT_CHEATS["half the trees"](model), {"x": x})["y"].tolist() == [[float(third)]]
    rounded = run(WEIGHT_CHEATS["fp16 thresholds"](model), {"x": x})["y"]
    assert rounded.tolist() == [[float(np.float32(np.float16(1 / 3)) + np.float32(4))]]
