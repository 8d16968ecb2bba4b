"""A float32 graph that rounds as a lower precision does, on float32 kernels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from shared.adapters.onnx_graph import FLOAT, Emitter, attributes, constant_of, set_attribute
from shared.errors import InferenceFailed

LowPrecision = Literal["tf32", "fp16", "bf16"]
Floats = npt.NDArray[np.float32]

MANTISSA_BITS: Final = {"bf16": 7, "tf32": 10}  # stored ones; both have float32's exponent
PRODUCTS: Final = frozenset({"Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul"})  # whose operands tf32 cuts
_MOVING = """Abs Compress Concat DepthToSpace Expand Flatten Gather GatherElements GatherND Identity If Loop Max MaxPool
    Min Neg Pad Relu Reshape Scan ScatterElements ScatterND Slice SpaceToDepth Split Squeeze Tile TopK Transpose Trilu
    Unsqueeze Where"""
MOVING: Final = frozenset(_MOVING.split())  # their results are numbers that were rounded before


class Rounding:
    """A `Rule`. In fp16 and bf16 the values named in `stored` are rounded; where it is None, all that are computed."""

    def __init__(
        self,
        emitter: Emitter,
        types: Mapping[str, int],
        precision: LowPrecision,
        stored: frozenset[str] | None = None,
    ) -> None:
        self._emitter, self._types, self._precision, self._stored = emitter, types, precision, stored
        self._weights: dict[str, TensorProto] = {}  # tf32: initializers and constants that a product may use
        self._cut: dict[str, str] = {}

    def input(self, name: str) -> str:
        return name if self._precision == "tf32" else self._rounded(name)

    def value(self, info: ValueInfoProto) -> None:
        """Stays float32."""

    def initializer(self, tensor: TensorProto) -> None:
        if tensor.data_type != FLOAT:
            return
        if self._precision == "tf32":
            self._weights[tensor.name] = tensor
        else:
            tensor.CopyFrom(self._rounded_tensor(tensor, tensor.name))

    def node(self, node: NodeProto) -> None:
        if self._precision == "tf32":
            self._cut_operands(node)
        else:
            self._round_results(node)

    def _round_results(self, node: NodeProto) -> None:
        for name in node.output:
            if name and name not in self._types:
                raise InferenceFailed(f"the type of {name}, which operator {node.op_type} gives, is not known")
        tensor = constant_of(node) if node.op_type == "Constant" else None
        if tensor is not None:
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("value", self._rounded_tensor(tensor)))
        value = attributes(node).get("value") if node.op_type == "ConstantOfShape" else None
        if isinstance(value, TensorProto) and value.data_type == FLOAT:
            set_attribute(node, "value", self._rounded_tensor(value))
        self._emitter.keep(node)
        if node.op_type in MOVING or node.op_type.startswith("Constant"):
            return
        for index, name in enumerate(node.output):
            if name and self._types[name] == FLOAT and (self._stored is None or name in self._stored):
                node.output[index] = self._emitter.fresh(name)
                self._rounded(node.output[index], name)

    def _cut_operands(self, node: NodeProto) -> None:
        if node.op_type == "Constant" and (tensor := constant_of(node)) is not None:
            self._weights[node.output[0]] = tensor
        if node.op_type in PRODUCTS and self._types.get(node.output[0]) == FLOAT:
            operands = len(node.input) if node.op_type == "Einsum" else 2  # the third is a bias
            for index in range(operands):
                node.input[index] = self._operand(node.input[index])
        self._emitter.keep(node)

    def _operand(self, name: str) -> str:
        weights = self._weights.get(name)
        if weights is None:
            return self._rounded(name)
        if name not in self._cut:
            rounded = round_mantissa(numpy_helper.to_array(weights), MANTISSA_BITS["tf32"])
            self._cut[name] = self._emitter.constant(rounded, np.float32)
        return self._cut[name]

    def _rounded(self, name: str, output: str | None = None) -> str:
        emitter = self._emitter
        if self._precision == "fp16":
            return emitter.cast(emitter.cast(name, TensorProto.FLOAT16), FLOAT, output)
        if self._precision == "bf16":
            return emitter.cast(emitter.cast(name, TensorProto.BFLOAT16), FLOAT, output)
        return self._split(name, output)

    def _split(self, name: str, output: str | None = None) -> str:
        """Veltkamp's splitting: x·c - (x·c - x), with c = 2**13 + 1, keeps the upper 11 of 24 bits, rounded to the
        nearest (which of two equally near ones is not said). Numbers over 2**114 overflow."""
        emitter = self._emitter
        scaled = emitter.add("Mul", [name, emitter.constant(8193.0, np.float32)])
        return emitter.add("Sub", [scaled, emitter.add("Sub", [scaled, name])], output)

    def _rounded_tensor(self, tensor: TensorProto, name: str = "") -> TensorProto:
        values = numpy_helper.to_array(tensor)
        if self._precision == "fp16":
            with np.errstate(over="ignore"):  # infinite in float16: then that is what such an engine has
                return numpy_helper.from_array(values.astype(np.float16).astype(np.float32), name)
        return numpy_helper.from_array(round_mantissa(values, MANTISSA_BITS[self._precision]), name)


def round_mantissa(values: npt.NDArray[np.generic], bits: int) -> Floats:
    """Float32 numbers to `bits` stored bits of mantissa, to the nearest, ties to even; NaN and infinities stay."""
    numbers = np.ascontiguousarray(values, np.float32)
    raw = numbers.view(np.uint32).astype(np.uint64)
    drop = np.uint64(23 - bits)
    half = (np.uint64(1) << (drop - np.uint64(1))) - np.uint64(1)
    rounded = (raw + half + ((raw >> drop) & np.uint64(1))) >> drop << drop
    cut = rounded.astype(np.uint32).view(np.float32).reshape(numbers.shape)
    return np.where(np.isfinite(numbers), cut, numbers)
