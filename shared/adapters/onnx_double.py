"""A float32 graph in double, on the double kernels of ONNX Runtime's CPU provider.

Operators in `KERNELS` have such a kernel, those in `REWRITTEN` are put together from others, and every other operator
that touches a float is refused by name. Both tables are tested operator by operator.

Tree ensembles (ai.onnx.ml) get their features as doubles. Thresholds and features are float32 numbers, so comparisons
come out the same; but the runtime then sums leaves in double, where it would otherwise sum in float32 in an order that
depends on its threads. It rounds the sum to float32 itself, whence it goes on as a double.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from shared.adapters.onnx_double_operators import REWRITTEN, Call
from shared.adapters.onnx_graph import (
    DOUBLE,
    FLOAT,
    NO_TENSOR,
    Emitter,
    attributes,
    bodies,
    constant_of,
    set_attribute,
)
from shared.errors import InferenceFailed

_MOVING = """Compress Concat DepthToSpace Dropout Expand Flatten Gather GatherElements GatherND Identity Pad Reshape
    ScatterElements ScatterND Slice SpaceToDepth Split Squeeze Tile Transpose Trilu Unsqueeze Where"""
_ONE_BY_ONE = """Abs Add Ceil Clip Cos CumSum Div Exp Floor LeakyRelu Log Max Min Mod Mul Neg PRelu Pow Range Reciprocal
    Relu Round Sign Sin Sqrt Sub Sum Tanh"""
_TO_OTHER_TYPES = "ArgMax ArgMin Equal Greater GreaterOrEqual IsInf IsNaN Less LessOrEqual Shape Size"
_OVER_MANY = """BatchNormalization Einsum Gemm LayerNormalization LogSoftmax LpNormalization MatMul ReduceL1
    ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare TopK"""
KERNELS: Final = frozenset(f"{_MOVING} {_ONE_BY_ONE} {_TO_OTHER_TYPES} {_OVER_MANY} If Loop Scan".split())
TREES: Final = frozenset({"TreeEnsembleClassifier", "TreeEnsembleRegressor"})
_OTHER_FLOATS: Final[Mapping[int, str]] = {
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.COMPLEX64: "complex64",
    TensorProto.COMPLEX128: "complex128",
}


class Doubling:
    """A `Rule`."""

    def __init__(
        self,
        emitter: Emitter,
        types: Mapping[str, int],
        shapes: Mapping[str, tuple[int, ...]],
        *,
        keeps_operators: bool = False,
    ) -> None:
        """`keeps_operators` is for an engine that has doubles of its own everywhere: nothing of ai.onnx is put together
        from parts or refused."""
        self._emitter, self._types, self._shapes, self._keeps = emitter, types, dict(shapes), keeps_operators

    def input(self, name: str) -> str:
        double = self._emitter.cast(name, DOUBLE)
        if name in self._shapes:
            self._shapes[double] = self._shapes[name]
        return double

    def value(self, info: ValueInfoProto) -> None:
        if info.type.tensor_type.elem_type == FLOAT:
            info.type.tensor_type.elem_type = DOUBLE

    def initializer(self, tensor: TensorProto) -> None:
        if tensor.data_type == FLOAT:
            tensor.CopyFrom(_doubled(tensor, tensor.name))
            self._emitter.charge(tensor.ByteSize() // 2)

    def node(self, node: NodeProto) -> None:
        kinds = self._kinds(node)
        if not kinds & {FLOAT, DOUBLE} and not any(bodies(node)):
            self._emitter.keep(node)
        elif node.domain == "ai.onnx.ml" and node.op_type in TREES:
            self._tree(node)
        elif self._is_kept(node):
            _TYPED.get(node.op_type, _keep)(node)
            self._emitter.keep(node)
        elif (node.domain, node.op_type) in REWRITTEN:
            call = Call(self._emitter, node, attributes(node), self._shapes)
            REWRITTEN[node.domain, node.op_type](call)
        else:
            raise InferenceFailed(f"operator {_named(node)} cannot be had in double precision")

    def _is_kept(self, node: NodeProto) -> bool:
        return node.domain in ("", "ai.onnx") and (self._keeps or node.op_type in KERNELS or node.op_type in _TYPED)

    def _kinds(self, node: NodeProto) -> set[int]:
        """The types of what goes in and comes out. Renamed inputs are doubles already."""
        kinds = {self._types.get(name, DOUBLE) for name in node.input if name}
        for name in node.output:
            if name and name not in self._types:
                raise InferenceFailed(f"the type of {name}, which operator {_named(node)} gives, is not known")
            kinds.add(self._types[name] if name else DOUBLE)
        for kind in kinds & _OTHER_FLOATS.keys():
            raise InferenceFailed(
                f"operator {_named(node)} computes in {_OTHER_FLOATS[kind]}; fp64 is for float32 graphs"
            )
        if NO_TENSOR in kinds:
            raise InferenceFailed(f"operator {_named(node)} takes or gives what is not a tensor")
        return kinds

    def _tree(self, node: NodeProto) -> None:
        node.input[0] = self._emitter.cast(node.input[0], DOUBLE)  # integers too: their sums would be in float32
        scores = node.output[-1]
        node.output[-1] = self._emitter.fresh(scores)
        self._emitter.keep(node)
        rounded = self._emitter.cast(node.output[-1], FLOAT)  # is nothing here, but in engines that give doubles
        self._emitter.cast(rounded, DOUBLE, scores)


# --- nodes that name a type ------------------------------------------------------------------------
def _keep(node: NodeProto) -> None:
    """Nothing in it names a type."""


def _cast(node: NodeProto) -> None:
    if attributes(node)["to"] == FLOAT:
        set_attribute(node, "to", DOUBLE)


def _constant(node: NodeProto) -> None:
    tensor = constant_of(node)
    if tensor is not None:
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("value", _doubled(tensor)))


def _constant_of_shape(node: NodeProto) -> None:
    value = attributes(node).get("value")
    if value is None:
        set_attribute(node, "value", numpy_helper.from_array(np.zeros(1)))
    elif isinstance(value, TensorProto) and value.data_type == FLOAT:
        set_attribute(node, "value", _doubled(value))


def _eye_like(node: NodeProto) -> None:
    if attributes(node).get("dtype", FLOAT) == FLOAT:
        set_attribute(node, "dtype", DOUBLE)


_TYPED: Final = {"Cast": _cast, "Constant": _constant, "ConstantOfShape": _constant_of_shape, "EyeLike": _eye_like}


def _doubled(tensor: TensorProto, name: str = "") -> TensorProto:
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), name)


def _named(node: NodeProto) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type
