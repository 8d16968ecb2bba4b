"""Every operator that is said to be had in double, against numpy's doubles; and what is refused, by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from shared.adapters.onnx_double import KERNELS
from shared.adapters.onnx_double_operators import MAX_KERNEL_POSITIONS, REWRITTEN
from shared.adapters.onnx_graph import MAX_GROWTH, ROOM_BYTES
from shared.adapters.onnx_precision import convert
from shared.errors import InferenceFailed
from tests.onnx_support import endless
from tests.tree_support import Forest

Array = npt.NDArray[Any]
SHAPE = (2, 4, 5, 6)
ML = "ai.onnx.ml"


@dataclass(frozen=True)
class Case:
    """One operator: its inputs (float ones are data, the rest constants), and attributes."""

    kind: str
    inputs: tuple[Array, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    outputs: int = 1
    opset: int = 17
    domain: str = ""

    def model(self, dtype: npt.DTypeLike) -> bytes:
        """With its floats in `dtype`; the first input is the graph's, the others are weights."""
        arrays = [each.astype(dtype) if each.dtype == np.float32 else each for each in self.inputs]
        names = [f"x{index}" for index in range(len(arrays))]
        outputs = [f"y{index}" for index in range(self.outputs)]
        node = helper.make_node(self.kind, names, outputs, domain=self.domain, **self.attributes)
        kind = helper.np_dtype_to_tensor_dtype(arrays[0].dtype)
        graph = helper.make_graph(
            [node],
            "one",
            [helper.make_tensor_value_info("x0", kind, arrays[0].shape)],
            [
                helper.make_tensor_value_info(name, kind, None)
                if self.domain
                else helper.make_empty_tensor_value_info(name)
                for name in outputs
            ],
            [numpy_helper.from_array(array, name) for name, array in zip(names[1:], arrays[1:], strict=True)],
        )
        sets = [helper.make_opsetid("", self.opset), helper.make_opsetid(ML, 3)]
        made = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=sets, ir_version=8))
        return made.SerializeToString()


def run(model: bytes, feed: Mapping[str, Array], threads: int = 1) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    found: list[Array] = session.run(None, dict(feed))
    return found


def floats(*shape: int, seed: int = 0, scale: float = 3.0) -> Array:
    return np.asarray(np.random.default_rng(seed).normal(size=shape) * scale, np.float32)


def scalar(value: float) -> Array:
    return np.array(value, np.float32)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


X, V = floats(*SHAPE), floats(6)
POSITIVE = np.abs(X) + np.float32(0.1)
CHANNELS = tuple(np.abs(floats(4, seed=seed)) + np.float32(0.5) for seed in range(4))
MASK = np.arange(6) % 2 == 0

CASES = [
    Case("Compress", (X, MASK), {"axis": 3}),
    Case("Concat", (X, X), {"axis": 1}),
    Case("DepthToSpace", (X,), {"blocksize": 2}),
    Case("Dropout", (X,)),
    Case("Expand", (V, ints(2, 6))),
    Case("Flatten", (X,)),
    Case("Gather", (X, ints(3, 0)), {"axis": 1}),
    Case("GatherElements", (V, ints(5, 5, 0))),
    Case("GatherND", (X, np.array([[1, 2]]))),
    Case("Identity", (X,)),
    Case("Pad", (V, ints(1, 2), scalar(7))),
    Case("Reshape", (X, ints(0, -1))),
    Case("ScatterElements", (V, ints(1, 3), np.float32([9, 8]))),
    Case("ScatterND", (V, np.array([[2]]), np.float32([9]))),
    Case("Slice", (X, ints(1), ints(3), ints(2))),
    Case("SpaceToDepth", (floats(1, 2, 4, 4),), {"blocksize": 2}),
    Case("Split", (X,), {"axis": 1}, outputs=2),
    Case("Squeeze", (floats(1, 3), ints(0))),
    Case("Tile", (V, ints(2))),
    Case("Transpose", (X,), {"perm": [0, 3, 1, 2]}),
    Case("Trilu", (X,)),
    Case("Unsqueeze", (V, ints(0))),
    Case("Where", (MASK, V, floats(6, seed=1))),
    *(Case(kind, (X,)) for kind in ("Abs", "Ceil", "Cos", "Exp", "Floor", "LeakyRelu", "Neg", "Reciprocal", "Relu")),
    *(Case(kind, (X,)) for kind in ("Round", "Sigmoid", "Sign", "Sin", "Tanh")),
    *(Case(kind, (POSITIVE,)) for kind in ("Log", "Sqrt")),
    *(Case(kind, (X, V)) for kind in ("Add", "Div", "Max", "Min", "Mul", "Sub", "Sum")),
    Case("Clip", (X, scalar(-1), scalar(1.5))),
    Case("CumSum", (X, np.array(2))),
    Case("Mod", (X, V), {"fmod": 1}),
    Case("Pow", (POSITIVE, V)),
    Case("PRelu", (X, V)),
    Case("Range", (scalar(0.5), scalar(9), scalar(0.75))),
    *(Case(kind, (X,), {"axis": 1}) for kind in ("ArgMax", "ArgMin")),
    *(Case(kind, (X, V)) for kind in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")),
    *(Case(kind, (np.float32([1, np.nan, np.inf, -np.inf]),)) for kind in ("IsInf", "IsNaN")),
    *(Case(kind, (X,)) for kind in ("Shape", "Size")),
    Case("BatchNormalization", (X, *CHANNELS)),
    Case("Einsum", (X, floats(6, 3)), {"equation": "abcd,de->abce"}),
    Case("Gemm", (floats(3, 5), floats(5, 4, seed=1), floats(4, seed=2)), {"alpha": 0.5}),
    Case("LayerNormalization", (X, V, floats(6, seed=1))),
    Case("LogSoftmax", (X,), {"axis": 1}),
    Case("LpNormalization", (X,)),
    Case("MatMul", (X, floats(6, 7))),
    Case("MaxPool", (X,), {"kernel_shape": [2, 3], "strides": [2, 1], "pads": [1, 0, 0, 1]}),
    *(
        Case(f"Reduce{kind}", (X,), {"axes": [1, 3]})
        for kind in ("L1", "L2", "Max", "Mean", "Min", "Prod", "SumSquare")
    ),
    *(Case(f"Reduce{kind}", (POSITIVE,), {"axes": [2]}) for kind in ("LogSum", "LogSumExp")),
    Case("ReduceSum", (X, ints(1, 3))),
    Case("Softmax", (X,), {"axis": 1}),
    Case("TopK", (X, ints(3)), outputs=2),
    # put together from others
    Case("AveragePool", (X,), {"kernel_shape": [2, 3]}),
    Case("AveragePool", (X,), {"kernel_shape": [3, 3], "pads": [1, 2, 1, 0], "strides": [2, 2]}),
    Case("AveragePool", (X,), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    Case("Conv", (X, floats(8, 4, 3, 3))),
    Case("Conv", (X, floats(8, 4, 1, 1), floats(8))),
    Case("Conv", (X, floats(8, 2, 3, 2), floats(8)), {"group": 2, "pads": [1, 0, 2, 1], "strides": [2, 1]}),
    Case("Conv", (X, floats(4, 1, 2, 2)), {"group": 4, "dilations": [3, 2]}),
    Case("Conv", (X, floats(3, 4, 3, 3)), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    Case("Conv", (X, floats(3, 4, 2, 2)), {"auto_pad": "SAME_LOWER"}),
    Case("Conv", (X, floats(3, 4, 2, 2)), {"auto_pad": "VALID"}),
    Case("Conv", (floats(2, 4, 9), floats(6, 4, 3)), {"strides": [3], "pads": [2, 1]}),
    Case("Conv", (floats(1, 2, 4, 4, 3), floats(3, 2, 2, 3, 1)), {"pads": [0, 1, 0, 1, 1, 0]}),
    *(Case(kind, (X,)) for kind in ("Elu", "Erf", "HardSigmoid", "HardSwish", "Selu", "Softplus", "Softsign")),
    *(Case("Gelu", (X,), {"approximate": name}, opset=20) for name in ("none", "tanh")),
    *(Case(kind, (X,)) for kind in ("GlobalAveragePool", "GlobalMaxPool")),
    Case("GlobalAveragePool", (X,), opset=20),
    Case("InstanceNormalization", (X, CHANNELS[0], CHANNELS[1])),
    Case("Mean", (X, V, V)),
    Case("LinearRegressor", (floats(3, 2),), {"coefficients": [1.5, -2.0], "intercepts": [0.25]}, domain=ML),
    Case("Scaler", (floats(3, 2),), {"offset": [1.5, -2.0], "scale": [0.25, 3.0]}, domain=ML),
]


def _name(case: Case) -> str:
    return f"{case.kind}-{case.opset}-{'-'.join(case.attributes)}"


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


@pytest.mark.parametrize("case", CASES, ids=_name)
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
