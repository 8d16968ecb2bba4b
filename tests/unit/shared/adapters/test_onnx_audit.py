"""Taking models apart: which products are audited, what is left, and that both halves are the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from poi.calibration.audit import on_engine
from shared.adapters.engine_onnx import OnnxEngine
from shared.adapters.onnx_audit import LEAST_WEIGHTS, split
from shared.errors import InferenceFailed
from shared.verification.linear import AuditParts
from tests.audit_support import FLOAT, INT64, decoder, mlp, nodes_of, onnx_file, random
from tests.onnx_support import external

W = {"w": random(64, 64)}


def one_node(node: NodeProto, constants: Mapping[str, Any], inputs: Mapping[str, Sequence[Any]] | None = None) -> bytes:
    """The node under test, behind a product that is always audited."""
    first = helper.make_node("MatMul", ["x", "always"], ["first"])
    return onnx_file([first, node], inputs or {"x": ["n", 64]}, ["y"], {"always": random(64, 64), **constants})


def audited(parts: AuditParts) -> list[str]:
    return [linear.result for linear in parts.linears]


# --- what comes of it --------------------------------------------------------------------------------
def test_an_mlp_loses_its_products_and_keeps_the_rest() -> None:
    parts = split(mlp())
    assert parts.replay is not None
    assert [(each.source, each.result, each.shape) for each in parts.linears] == [
        ("x", "sum1", ("batch", 64)),
        ("active1", "sum2", ("batch", 64)),
        ("active2", "y", ("batch", 64)),
    ]
    assert dict(parts.inputs) == {"x": ("batch", 64)}
    assert nodes_of(parts.exposed) == ["Gemm", "Relu", "MatMul", "Tanh", "MatMul"]
    assert nodes_of(parts.replay) == ["Relu", "Tanh"]
    assert len(parts.replay) < 500  # its weights have gone


def test_a_gemm_is_a_product_with_its_factors_and_its_bias() -> None:
    first, second, _ = split(mlp(seed=5)).linears
    np.testing.assert_array_equal(first.weight, random(64, 64, seed=6, scale=0.2).T)
    assert first.bias is not None
    np.testing.assert_array_equal(first.bias, 2 * random(64, seed=7))
    assert (first.alpha, second.alpha, second.bias) == (0.5, 1.0, None)
    assert all(each.weight.flags.c_contiguous for each in (first, second))


def test_the_same_model_gives_the_same_parts() -> None:
    """Its graphs are known by their hash, and made again when an engine has let go of them."""
    one, other = split(decoder()), split(decoder())
    assert (one.exposed, one.replay) == (other.exposed, other.replay)


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (mlp(), {"x": random(9, 64, seed=3)}),
        (decoder(), {"ids": np.random.default_rng(0).integers(0, 96, (3, 7))}),
    ],
    ids=["mlp", "decoder"],
)
async def test_exposed_and_replayed_together_are_the_model(model: bytes, inputs: dict[str, Any]) -> None:
    parts, engine = split(model), OnnxEngine(max_loaded_bytes=1 << 28)
    opening = on_engine(engine)
    assert parts.replay is not None
    outputs = await (await opening(model))(inputs)
    exposed = await (await opening(parts.exposed))(inputs)
    given = {**inputs, **{name: exposed[name] for name in audited(parts)}}
    values = {**given, **await (await opening(parts.replay))(given)}
    await engine.close()
    assert set(exposed) == {*outputs, *audited(parts)}
    for name, output in outputs.items():
        np.testing.assert_allclose(exposed[name], output, atol=1e-5)
        np.testing.assert_allclose(values[name], output, atol=1e-5)
    for linear in parts.linears:
        product = linear.alpha * (values[linear.source] @ linear.weight)
        product = product if linear.bias is None else product + linear.bias
        np.testing.assert_allclose(values[linear.result], product, atol=1e-4)


def test_a_decoder_shares_one_source_among_several_products() -> None:
    parts = split(decoder())
    assert [(each.source, each.result) for each in parts.linears] == [
        ("h0", "q"), ("h0", "k"), ("h0", "v"), ("mixed", "o"), ("n1", "g"), ("n1", "u"), ("gated", "d"),
    ]  # fmt: skip
    assert all(each.shape == ("batch", "time", 64) for each in parts.linears)
    assert parts.replay is not None
    replayed = onnx.load_model_from_string(parts.replay).graph
    assert [value.name for value in replayed.output] == ["logits", "h0", "mixed", "n1", "gated"]
    assert [tensor.name for tensor in replayed.initializer] == ["table", "scale"]


def test_products_in_a_chain_leave_nothing_to_replay() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("MatMul", ["a", "w"], ["y"])]
    parts = split(onnx_file(nodes, {"x": ["n", 64]}, ["y"], W))
    assert (audited(parts), parts.replay) == (["a", "y"], None)


def test_a_constant_node_is_a_constant_too() -> None:
    constant = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(W["w"]))
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    assert audited(split(onnx_file([constant, product], {"x": ["n", 64]}, ["y"], {}))) == ["y"]


def test_what_a_body_reads_is_kept() -> None:
    """The branches of an If read a value and a weight of the graph around them."""
    value = helper.make_tensor_value_info("out", FLOAT, None)
    branch = helper.make_graph([helper.make_node("Add", ["active", "shift"], ["out"])], "branch", [], [value])
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["first"]),
        helper.make_node("Relu", ["first"], ["active"]),
        helper.make_node("If", ["go"], ["y"], then_branch=branch, else_branch=branch),
    ]
    model = onnx_file(nodes, {"x": ["n", 64]}, ["y"], {**W, "shift": random(64), "go": np.array(True)})
    parts = split(model)
    assert parts.replay is not None
    assert nodes_of(parts.replay) == ["Relu", "If"]
    assert {each.name for each in onnx.load_model_from_string(parts.replay).graph.initializer} == {"shift", "go"}


# --- what is replayed instead of audited ---------------------------------------------------------------
SMALL = {"w": random(64, 63)}
CASES: dict[str, tuple[NodeProto, dict[str, Any]]] = {
    "few weights": (helper.make_node("MatMul", ["first", "w"], ["y"]), SMALL),
    "no constant": (helper.make_node("MatMul", ["first", "x"], ["y"]), {}),
    "constant on the left": (helper.make_node("MatMul", ["w", "first"], ["y"]), W),
    "double": (helper.make_node("MatMul", ["w", "w"], ["y"]), W),
    "three axes": (helper.make_node("MatMul", ["first", "w"], ["y"]), {"w": random(2, 64, 64)}),
    "transposed source": (helper.make_node("Gemm", ["first", "w"], ["y"], transA=1), W),
    "a bias for each row": (helper.make_node("Gemm", ["first", "w", "b"], ["y"]), {**W, "b": random(5, 64)}),
    "a computed bias": (helper.make_node("Gemm", ["first", "w", "first"], ["y"]), W),
    "no second factor": (helper.make_node("MatMul", ["first"], ["y"]), {}),
}


@pytest.mark.parametrize(("node", "constants"), CASES.values(), ids=CASES)
def test_what_cannot_be_audited_is_replayed(node: NodeProto, constants: dict[str, Any]) -> None:
    parts = split(one_node(node, constants))
    assert audited(parts) == ["first"]
    assert parts.replay is not None
    assert nodes_of(parts.replay) == [node.op_type]


def test_the_least_matrix_is_audited() -> None:
    width = LEAST_WEIGHTS // 64
    node = helper.make_node("MatMul", ["first", "w"], ["y"])
    assert audited(split(one_node(node, {"w": random(64, width)}))) == ["first", "y"]


@pytest.mark.parametrize("bias", [random(64), random(1, 64), random(1), random(1, 1), np.float32(3).reshape(())])
def test_a_bias_of_all_rows_is_audited(bias: Any) -> None:
    parts = split(one_node(helper.make_node("Gemm", ["first", "w", "b"], ["y"]), {**W, "b": bias}))
    assert audited(parts) == ["first", "y"]
    np.testing.assert_array_equal(parts.linears[1].bias, np.broadcast_to(bias.reshape(-1), (64,)))


def test_an_initializer_that_callers_may_replace_is_no_constant() -> None:
    model = onnx_file(
        [helper.make_node("MatMul", ["x", "always"], ["first"]), helper.make_node("MatMul", ["first", "w"], ["y"])],
        {"x": ["n", 64], "w": [64, 64]},
        ["y"],
        {"always": random(64, 64), **W},
    )
    assert audited(split(model)) == ["first"]


def test_a_shape_that_depends_on_values_is_not_audited() -> None:
    """How many rows are not zero, no input's shape says: what was published of them could be of any."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["first"]),
        helper.make_node("NonZero", ["first"], ["where"]),
        helper.make_node("Transpose", ["where"], ["turned"], perm=[1, 0]),
        helper.make_node("GatherND", ["first", "turned"], ["picked"]),
        helper.make_node("Reshape", ["picked", "shape"], ["rows"]),
        helper.make_node("MatMul", ["rows", "w"], ["y"]),
    ]
    model = onnx_file(nodes, {"x": ["n", 64]}, ["y"], {**W, "shape": np.array([-1, 64])})
    assert audited(split(model)) == ["first"]


def test_what_the_file_claims_of_shapes_is_not_believed() -> None:
    """An honest batch must not be malformed because of the model's author."""
    model = onnx.load_model_from_string(mlp())
    claimed = helper.make_tensor_value_info("sum1", FLOAT, [7, 64])
    model.graph.value_info.append(claimed)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", FLOAT, ["rows", 64]))
    assert [each.shape for each in split(model.SerializeToString()).linears] == [("batch", 64)] * 3


def test_free_dimensions_without_a_name_get_one() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    parts = split(onnx_file(nodes, {"x": [None, None, 64]}, ["y"], W))
    assert parts.linears[0].shape == ("x:0", "x:1", 64)


# --- what is no model to take apart --------------------------------------------------------------------
@pytest.mark.parametrize(
    "model",
    [
        b"",
        b"no model",
        mlp()[:-100],
        one_node(helper.make_node("MatMul", ["first", "w"], ["y"], domain="elsewhere"), W),
        onnx_file([helper.make_node("Relu", ["x"], ["y"])], {"x": ["n", 64]}, ["y"], {}),
        onnx_file([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 64]}, ["y"], SMALL),
    ],
    ids=["empty", "text", "cut", "unknown domain", "no product", "small products"],
)
def test_what_cannot_be_taken_apart_says_why(model: bytes) -> None:
    with pytest.raises(InferenceFailed, match=r"taken apart|no product"):
        split(model)


def test_a_weight_in_another_file_is_refused() -> None:
    model = onnx.load_model_from_string(mlp())
    elsewhere = TensorProto()
    elsewhere.ParseFromString(external("w2", "/etc/passwd"))
    model.graph.initializer.append(elsewhere)
    with pytest.raises(InferenceFailed, match="another file"):
        split(model.SerializeToString())


def test_whole_numbers_are_not_audited() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["n"]), helper.make_node("Cast", ["n"], ["y"], to=FLOAT)]
    model = onnx_file(nodes, {"x": ["n", 64]}, ["y"], {"w": np.ones((64, 64), np.int64)}, input_types={"x": INT64})
    with pytest.raises(InferenceFailed, match="no product"):
        split(model)


def test_a_constant_that_gives_nothing_is_refused() -> None:
    constant = helper.make_node("Constant", [], [], value=numpy_helper.from_array(np.zeros(1, np.float32)))
    with pytest.raises(InferenceFailed, match="taken apart"):
        split(onnx_file([constant, helper.make_node("Relu", ["x"], ["y"])], {"x": ["n", 64]}, ["y"], {}))
