"""Every operator that is said to be had in double, against numpy's doubles; and what is refused, by name."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from shared.adapters.onnx_double import KERNELS
from shared.adapters.onnx_double_operators import MAX_KERNEL_POSITIONS, REWRITTEN
from shared.adapters.onnx_graph import MAX_GROWTH, ROOM_BYTES
from shared.adapters.onnx_precision import Precision, convert
from shared.errors import InferenceFailed
from tests.onnx_support import endless
from tests.operator_cases import CASES, Case, X, floats, name_of, scalar
from tests.tree_support import Forest

Array = npt.NDArray[Any]


def run(model: bytes, feed: Mapping[str, Array], threads: int = 1) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    found: list[Array] = session.run(None, dict(feed))
    return found


def test_every_operator_of_both_tables_has_a_case() -> None:
    tried = {case.kind for case in CASES}
    assert tried == (KERNELS - {"If", "Loop", "Scan"}) | {kind for _, kind in REWRITTEN}


def by_hand(case: Case) -> Array | None:
    """Where numpy's evaluator computes in float32, or not at all."""
    x, given = case.inputs[0].astype(np.float64), case.attributes
    match case.kind, given.get("approximate"):
        case "Erf", _:
            return erf(x)
        case "Gelu", "none":
            return np.asarray(x / 2 * (1 + erf(x * math.sqrt(0.5))))
        case "Gelu", _:
            return np.asarray(x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))
        case "HardSwish", _:
            return np.asarray(x * np.clip(x * float(np.float32(1 / 6)) + 0.5, 0, 1))
        case "Scaler", _:
            return np.asarray((x - given["offset"]) * given["scale"])
        case "LinearRegressor", _:
            return np.asarray(x @ np.array(given["coefficients"])[:, None] + given["intercepts"])
    return None


def erf(x: Array) -> Array:
    return np.asarray(np.vectorize(math.erf)(x))


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_the_operator_is_numpys_in_double(case: Case) -> None:
    data = case.inputs[0]
    known = by_hand(case)
    wide = data.astype(np.float64) if data.dtype == np.float32 else data
    expected = ReferenceEvaluator(case.model(np.float64)).run(None, {"x0": wide}) if known is None else [known]
    found = run(convert(case.model(np.float32), "fp64"), {"x0": data})
    assert len(found) == len(expected)
    for got, wanted in zip(found, expected, strict=True):
        assert got.dtype == np.asarray(wanted).dtype
        np.testing.assert_allclose(got, wanted, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("size", [0.0, 1e-300, 1e-12, 0.49, 0.5, 0.51, 3.75, 5.9, 6.3, 30.0, 1e30])
def test_erf_is_right_at_every_size(size: float) -> None:
    x = np.array([size, -size], np.float32)
    [found] = run(convert(Case("Erf", (x,)).model(np.float32), "fp64"), {"x0": x})
    np.testing.assert_allclose(found, erf(x.astype(np.float64)), rtol=3e-15, atol=0)


# --- convolutions -----------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),  # groups, channels and maps of a group
    st.lists(
        st.tuples(*[st.integers(1, 7)] + [st.integers(1, 3)] * 3 + [st.integers(0, 2)] * 2), min_size=1, max_size=2
    ),
)
def test_any_convolution_is_numpys(parts: tuple[int, int, int], dims: list[tuple[int, ...]]) -> None:
    groups, channels, maps = parts
    sizes, kernel, strides, dilations, begins, ends = zip(*dims, strict=True)
    assume(all(s + b + e > d * (k - 1) for s, k, d, b, e in zip(sizes, kernel, dilations, begins, ends, strict=True)))
    case = Case(
        "Conv",
        (floats(2, groups * channels, *sizes), floats(groups * maps, channels, *kernel, seed=1), floats(groups * maps)),
        {"group": groups, "strides": strides, "dilations": dilations, "pads": [*begins, *ends]},
    )
    [expected] = ReferenceEvaluator(case.model(np.float64)).run(None, {"x0": case.inputs[0].astype(np.float64)})
    [found] = run(convert(case.model(np.float32), "fp64"), {"x0": case.inputs[0]})
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def free_convolution(kernel: tuple[int, int] = (3, 3), **attributes: Any) -> bytes:
    """x of any size to y."""
    node = helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
    graph = helper.make_graph(
        [node],
        "free",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, "h2", "w2"])],
        [numpy_helper.from_array(floats(3, 2, *kernel), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


@pytest.mark.parametrize("shape", [(1, 2, 3, 9), (4, 2, 8, 5)])
def test_free_dimensions_stay_free(shape: tuple[int, ...]) -> None:
    original = free_convolution(strides=[2, 1], pads=[1, 1, 0, 0])
    [single], [double] = (run(model, {"x": floats(*shape)}) for model in (original, convert(original, "fp64")))
    assert double.dtype == np.float64
    np.testing.assert_allclose(double, single, rtol=1e-4, atol=1e-4)


def test_a_pool_that_says_where_the_greatest_were_says_it_still() -> None:
    """Against the runtime's own float32: numpy's evaluator counts places in another way."""
    original = Case("MaxPool", (X,), {"kernel_shape": [2, 2]}, outputs=2).model(np.float32)
    single, double = run(original, {"x0": X}), run(convert(original, "fp64"), {"x0": X})
    assert np.array_equal(double[0], single[0].astype(np.float64))
    assert np.array_equal(double[1], single[1])


# --- whole models -----------------------------------------------------------------------------------
def test_a_forest_sums_in_double_whatever_the_threads_and_the_batch() -> None:
    forest = Forest(trees=150, features=5, seed=3)
    original, x = forest.model(), floats(200, 5, scale=1.0)
    double = convert(original, "fp64")
    for threads, batch in ((1, 1), (1, 200), (2, 7), (2, 200)):
        parts = [run(double, {"x": x[at : at + batch]}, threads)[0] for at in range(0, 200, batch)]
        assert np.concatenate(parts).dtype == np.float64
        assert np.array_equal(np.concatenate(parts).astype(np.float32), forest.exact(x))
    assert not np.array_equal(run(original, {"x": x})[0], forest.exact(x))  # which is why


@pytest.mark.parametrize("transform", ["NONE", "SOFTMAX", "LOGISTIC"])
def test_a_forest_of_classes_scores_in_double_and_keeps_its_labels(transform: str) -> None:
    forest, x = Forest(trees=150, features=5, seed=4), floats(100, 5, scale=1.0)
    original = forest.classifier(transform)
    double = convert(original, "fp64")
    labels, scores = run(double, {"x": x}, 2)
    for threads, batch in ((1, 1), (1, 100), (2, 7)):
        parts = [run(double, {"x": x[at : at + batch]}, threads) for at in range(0, 100, batch)]
        assert np.array_equal(np.concatenate([part[0] for part in parts]), labels)
        assert np.array_equal(np.concatenate([part[1] for part in parts]).astype(np.float32), scores.astype(np.float32))
    single_labels, single_scores = run(original, {"x": x})
    assert (labels.dtype, scores.dtype) == (np.int64, np.float64)
    assert (single_labels == labels).mean() > 0.97
    np.testing.assert_allclose(scores, single_scores, rtol=1e-3, atol=0.1)


def test_bodies_of_loops_are_doubled_and_use_what_is_outside() -> None:
    """y = x, then three times y·0.1 + x: a weight of the body, a value of the graph and a float input within it."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Mul", ["sum", "tenth"], ["part"]),
            helper.make_node("Add", ["part", "x"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, [3]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [3]),
        ],
        [numpy_helper.from_array(np.array(0.1, np.float32), "tenth")],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["rounds", "", "x"], ["y"], body=body)],
        "loop",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])],
        [numpy_helper.from_array(np.array(3), "rounds")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    x = floats(3)
    expected = x.astype(np.float64)
    for _ in range(3):
        expected = expected * float(np.float32(0.1)) + x
    [found] = run(convert(model, "fp64"), {"x": x})
    assert found.tolist() == expected.tolist()


def test_an_endless_loop_is_still_a_model() -> None:
    onnxruntime.InferenceSession(convert(endless(), "fp64"), providers=["CPUExecutionProvider"])


TENTH = float(np.float32(0.1))
EIGHTHS = numpy_helper.from_array(np.array([0.125], np.float32))


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([helper.make_node("Constant", [], ["z"], value_float=0.1)], np.full((2, 2), TENTH)),
        ([helper.make_node("Constant", [], ["z"], value_floats=[0.1, 0.2])], [[TENTH, float(np.float32(0.2))]] * 2),
        ([helper.make_node("Constant", [], ["z"], value=EIGHTHS)], np.full((2, 2), 0.125)),
        ([helper.make_node("ConstantOfShape", ["shape"], ["z"], value=EIGHTHS)], np.full((2, 2), 0.125)),
        ([helper.make_node("ConstantOfShape", ["shape"], ["z"])], np.zeros((2, 2))),
        ([helper.make_node("Cast", ["shape"], ["z"], to=TensorProto.FLOAT)], np.full((2, 2), 2.0)),
        ([helper.make_node("EyeLike", ["x"], ["z"], dtype=TensorProto.FLOAT)], np.eye(2)),
        ([helper.make_node("EyeLike", ["x"], ["z"])], np.eye(2)),
    ],
)
def test_nodes_that_name_a_type_name_the_double(nodes: list[NodeProto], expected: Array) -> None:
    graph = helper.make_graph(
        [*nodes, helper.make_node("Add", ["x", "z"], ["y"])],
        "typed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 2])],
        [numpy_helper.from_array(np.array([2, 2]), "shape")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    [found] = run(convert(model, "fp64"), {"x": np.ones((2, 2), np.float32)})
    assert found.tolist() == (1 + np.array(expected)).tolist()


def test_an_input_that_is_an_output_too_stays_what_it_is() -> None:
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"])],
        "through",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    x, y = run(convert(model, "fp64"), {"x": np.ones(2, np.float32)})
    assert (x.dtype, y.dtype) == (np.float32, np.float64)
    assert (x.tolist(), y.tolist()) == ([1, 1], [-1, -1])


def test_functions_of_the_models_own_are_put_where_they_are_called() -> None:
    tenth = helper.make_node("Constant", [], ["c"], value_float=0.1)
    body = [tenth, helper.make_node("Mul", ["a", "c"], ["b"])]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    function = helper.make_function("own", "Tenth", ["a"], ["b"], body, opsets[:1])
    graph = helper.make_graph(
        [helper.make_node("Tenth", ["x"], ["y"], domain="own")],
        "calls",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
    )
    made = helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=8)
    [found] = run(convert(made.SerializeToString(), "fp64"), {"x": np.ones(2, np.float32)})
    assert found.tolist() == [TENTH, TENTH]


SMALL = Case("Conv", (floats(1, 2, 4, 4), floats(2, 2, 2, 2), floats(2)), {"strides": [1, 2]}).model(np.float32)


# --- what is refused --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Case("Tan", (X,)).model(np.float32), "operator Tan cannot be had in double"),
        (Case("DequantizeLinear", (np.zeros(3, np.uint8), scalar(1))).model(np.float32), "DequantizeLinear cannot be"),
        (Case("Identity", (X.astype(np.float16),)).model(np.float32), "computes in float16"),
        (Case("Sqrt", (X,), opset=12).model(np.float32), "operator set 12"),
        (Case("AveragePool", (X,), {"kernel_shape": [2, 2], "ceil_mode": 1}).model(np.float32), "with ceil_mode"),
        (free_convolution(auto_pad="SAME_UPPER", strides=[2, 2]), "an input of fixed size"),
        (free_convolution(kernel=(64, 64)), f"4096 positions, {MAX_KERNEL_POSITIONS} at most"),
        (b"no model", "not a model"),
    ],
)
def test_what_cannot_be_had_is_named(model: bytes, said: str) -> None:
    with pytest.raises(InferenceFailed, match=said):
        convert(model, "fp64")


@pytest.mark.parametrize(
    ("kind", "inputs"),
    [("AveragePool", ["x"]), ("Cast", ["x"]), ("Conv", []), ("Conv", ["x"]), ("Softmax", []), ("TopK", ["x"])],
)
def test_a_node_without_what_it_must_have_is_refused(kind: str, inputs: list[str]) -> None:
    graph = helper.make_graph(
        [helper.make_node(kind, inputs, ["z"]), helper.make_node("Neg", ["z"], ["y"])],
        "empty",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 2, 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    with pytest.raises(InferenceFailed):
        convert(model, "fp64")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_bytes_are_a_model_or_refused(data: st.DataObject) -> None:
    whole = bytearray(SMALL)
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    for precision in get_args(Precision):
        with contextlib.suppress(InferenceFailed):
            assert isinstance(convert(bytes(whole), precision), bytes)


def test_a_small_file_does_not_become_a_large_model() -> None:
    """A thousand convolutions share one kernel of 32 x 32: each would become a thousand slices."""
    nodes = [helper.make_node("Conv", ["x", "w"], [f"y{index}"]) for index in range(1000)]
    graph = helper.make_graph(
        nodes,
        "many",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 40, 40])],
        [helper.make_tensor_value_info("y0", TensorProto.FLOAT, [1, 1, 9, 9])],
        [numpy_helper.from_array(floats(1, 1, 32, 32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    with pytest.raises(InferenceFailed, match=f"more than {MAX_GROWTH} times its file and {ROOM_BYTES} bytes"):
        convert(model, "fp64")
