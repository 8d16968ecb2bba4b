"""Every operator that is said to be had in double, each as a model of one node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

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
    Case("MaxPool", (X,), {"kernel_shape": [2, 2], "strides": [2, 2]}),
    Case("MaxPool", (X,), {"kernel_shape": [2, 2], "dilations": [2, 1]}),
    Case("MaxPool", (X,), {"kernel_shape": [2, 3], "strides": [2, 2], "ceil_mode": 1}),
    Case("MaxPool", (X,), {"kernel_shape": [2, 3], "strides": [2, 1], "pads": [1, 0, 0, 1]}),
    *(
        Case(f"Reduce{kind}", (X,), {"axes": [1, 3]})
        for kind in ("L1", "L2", "Max", "Mean", "Min", "Prod", "SumSquare")
    ),
    *(Case(f"Reduce{kind}", (POSITIVE,), {"axes": [2]}) for kind in ("LogSum", "LogSumExp")),
    Case("ReduceSum", (X, ints(1, 3))),
    Case("Softmax", (X,), {"axis": 1}),
    Case("Softmax", (X,), opset=20),
    Case("Softmax", (np.float32([[0, -1e9, 1], [700, -700, 0], [-np.inf, 0, 1]]),)),
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


def name_of(case: Case) -> str:
    return f"{case.kind}-{case.opset}-{'-'.join(case.attributes)}"
