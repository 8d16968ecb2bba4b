"""An ONNX model's weights, wherever the exporter put them, each with the axis that its output channels are on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from shared.errors import PoiError

Weights = npt.NDArray[np.float32]
Change = Callable[[Weights], Weights]
"""From weights (channels, weights of each) to others of the same shape."""

MIN_ELEMENTS = 65  # smaller tensors are constants of the graph and heads of a few numbers, which nobody compresses
# Operators that multiply by weights, and which of their inputs those are. What nothing of these takes (norms, biases,
# tables of positions) stays as it is, as in the engines of those who save money.
WEIGHTED = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Einsum": (0, 1),
    "Gather": (0,),
    "Gemm": (0, 1),
    "GRU": (1, 2),
    "LSTM": (1, 2),
    "MatMul": (0, 1),
    "RNN": (1, 2),
}
# On the way from where a weight is stored to where it is used.
PASSING = frozenset({"Cast", "Identity", "Reshape", "Transpose", "Unsqueeze", "Squeeze"})


class NotApplicable(PoiError):
    """A cheat that cannot be played on this model or task, and why."""


def change_weights(model: bytes, change: Change) -> bytes:
    """The same graph with `change` applied to each matrix of weights. Raises `NotApplicable` where there is none."""
    parsed = parse(model)
    weights = list(_weights(parsed.graph))
    if not weights:
        raise NotApplicable(f"no float32 weights of {MIN_ELEMENTS} elements or more in the model")
    for each in weights:
        each.replace(change(each.rows()))
    return parsed.SerializeToString()


def parse(model: bytes) -> ModelProto:
    return onnx.load_model_from_string(model)


@dataclass(frozen=True)
class _Weight:
    tensor: TensorProto
    axis: int  # of the output channels

    def rows(self) -> Weights:
        """(channels, weights of each)."""
        moved = np.moveaxis(numpy_helper.to_array(self.tensor), self.axis, 0)
        return np.ascontiguousarray(moved.reshape(len(moved), -1), np.float32)

    def replace(self, rows: Weights) -> None:
        shape = list(self.tensor.dims)
        moved = rows.astype(np.float32).reshape([shape.pop(self.axis), *shape])
        array = np.ascontiguousarray(np.moveaxis(moved, 0, self.axis))
        self.tensor.CopyFrom(numpy_helper.from_array(array, self.tensor.name))


def _weights(graph: GraphProto) -> Iterator[_Weight]:
    """In the order of the file; those of bodies of If, Loop and Scan last."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            stored[node.output[0]] = node.attribute[0].t
    axes = _axes(graph)
    for name, tensor in stored.items():
        is_weight = tensor.data_type == TensorProto.FLOAT and len(tensor.dims) > 1 and name in axes
        if is_weight and int(np.prod(tensor.dims)) >= MIN_ELEMENTS:
            yield _Weight(tensor, axes[name])
    for node in graph.node:
        for attribute in node.attribute:
            for body in [attribute.g] if attribute.HasField("g") else [*attribute.graphs]:
                yield from _weights(body)


def _axes(graph: GraphProto) -> dict[str, int]:
    """By the name of each value that is multiplied by: the axis of its output channels. Behind a transposition that is
    not known; the first will do."""
    axes: dict[str, int] = {}
    for node in reversed(graph.node):  # users stand behind what they use
        for index in WEIGHTED.get(node.op_type, ()):
            if index < len(node.input):
                axes.setdefault(node.input[index], _channel_axis(node, index))
        if node.op_type in PASSING and node.output[0] in axes:
            axes.setdefault(node.input[0], 0)
    return axes


def _channel_axis(node: NodeProto, index: int) -> int:
    """A product's right-hand matrix is (in, out), transposed (out, in); convolutions are (out, in, …)."""
    if node.op_type == "ConvTranspose":
        return 1
    if node.op_type == "MatMul":
        return -1 if index == 1 else 0
    is_transposed = any(each.name == "transB" and each.i for each in node.attribute)
    return -1 if node.op_type == "Gemm" and index == 1 and not is_transposed else 0
