"""Rewriting an ONNX graph node by node: what type each value has, fresh names, and how much may be added.

`rewrite` walks the main graph and the bodies of If, Loop and Scan; a `Rule` says what becomes of each node.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from shared.errors import InferenceFailed

Array = npt.NDArray[np.generic]

FLOAT, DOUBLE, INT64 = int(TensorProto.FLOAT), int(TensorProto.DOUBLE), int(TensorProto.INT64)
NO_TENSOR: Final = 0  # the type of sequences, maps and optionals
SCORING: Final = frozenset(  # of ai.onnx.ml: features to float32 numbers, in classifiers behind the label
    {"LinearRegressor", "Scaler", "TreeEnsembleClassifier", "TreeEnsembleRegressor"}
)
LEAST_OPSET: Final = 13  # before it, Squeeze, ReduceSum and Softmax mean something else
# Ten times a weight file is more than any rewriting here needs; the room is for small models of many operators, whose
# nodes grow more than their weights.
MAX_GROWTH: Final = 10
ROOM_BYTES: Final = 4 << 20
MAX_FILE_BYTES: Final = (1 << 31) - 1  # where Protocol Buffers end


class Rule(Protocol):
    """What becomes of the parts of a graph."""

    def input(self, name: str) -> str:
        """The value that stands for a free float32 input of the model from here on."""
        ...

    def value(self, info: onnx.ValueInfoProto) -> None:
        """An input or output of a body, or an output of the model: change its type in place."""
        ...

    def initializer(self, tensor: TensorProto) -> None:
        """Change it in place."""
        ...

    def node(self, node: NodeProto) -> None:
        """Give the emitter whatever takes the node's place. Its bodies are rewritten already."""
        ...


class Emitter:
    """Collects the nodes of the graph that is being written. Raises `InferenceFailed` when the model grows too much."""

    def __init__(self, model: ModelProto, opset: int, size: int) -> None:
        self.opset = opset
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []  # to become initializers of the main graph, which every body sees
        self._names = {name for graph in graphs(model.graph) for name in _names(graph)}
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._left = (MAX_GROWTH - 1) * size + ROOM_BYTES

    def fresh(self, stem: str) -> str:
        """A name that no value of the model has."""
        number = len(self._names)
        while (name := f"{stem}/{number}") in self._names:
            number += 1
        self._names.add(name)
        return name

    def keep(self, node: NodeProto) -> None:
        self.charge(node.ByteSize())
        self.nodes.append(node)

    def add(
        self, kind: str, inputs: Sequence[str], output: str | None = None, domain: str = "", **attributes: object
    ) -> str:
        """One node with one output, whose name is returned."""
        name = output or self.fresh(kind.lower())
        self.keep(helper.make_node(kind, inputs, [name], domain=domain, **attributes))  # type: ignore[arg-type]
        return name

    def cast(self, value: str, to: int, output: str | None = None) -> str:
        return self.add("Cast", [value], output, to=to)

    def constant(self, array: npt.ArrayLike, dtype: npt.DTypeLike = np.float64) -> str:
        """Equal ones are kept once."""
        values = np.asarray(array, dtype)
        key = (values.dtype.name, values.shape, values.tobytes())
        if key not in self._known:
            self._known[key] = self.fresh("constant")
            tensor = numpy_helper.from_array(values, self._known[key])
            self.charge(tensor.ByteSize())
            self.constants.append(tensor)
        return self._known[key]

    def integers(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def reduce(self, kind: str, value: str, axes: Sequence[int], output: str | None = None) -> str:
        """Keeps the dimensions. Axes became an input in operator set 18 (of ReduceSum in 13)."""
        if self.opset >= 18 or kind == "ReduceSum":
            return self.add(kind, [value, self.integers(*axes)], output, keepdims=1)
        return self.add(kind, [value], output, axes=list(axes), keepdims=1)

    def charge(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise InferenceFailed(
                f"the model grows to more than {MAX_GROWTH} times its file and {ROOM_BYTES} bytes in this precision"
            )


def rewrite(graph: GraphProto, rule: Rule, emitter: Emitter) -> None:
    """In place. The model's own inputs keep their types."""
    fixed = {tensor.name for tensor in graph.initializer}
    free = [info for info in graph.input if info.name not in fixed]
    del graph.input[:]  # an input with an initializer is a constant that callers could replace; here it is a constant
    graph.input.extend(free)
    renamed = {info.name: rule.input(info.name) for info in free if info.type.tensor_type.elem_type == FLOAT}
    first, emitter.nodes = emitter.nodes, []
    for info in graph.output:
        if info.name not in renamed:  # or it is the input itself
            rule.value(info)
    _rewrite_nodes(graph, rule, emitter, renamed)
    nodes = [*first, *emitter.nodes]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(emitter.constants)


def _rewrite_body(graph: GraphProto, rule: Rule, emitter: Emitter, renamed: Mapping[str, str]) -> None:
    outer, emitter.nodes = emitter.nodes, []
    for info in (*graph.input, *graph.output):
        rule.value(info)
    _rewrite_nodes(graph, rule, emitter, renamed)
    del graph.node[:]
    graph.node.extend(emitter.nodes)
    emitter.nodes = outer


def _rewrite_nodes(graph: GraphProto, rule: Rule, emitter: Emitter, renamed: Mapping[str, str]) -> None:
    """Fills the emitter."""
    if graph.sparse_initializer:
        raise InferenceFailed("sparse initializers have no other precision here; export the model with dense ones")
    for tensor in graph.initializer:
        rule.initializer(tensor)
    del graph.value_info[:]  # only hints, and of the old types
    for node in graph.node:
        for body in bodies(node):
            _rewrite_body(body, rule, emitter, renamed)
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
        rule.node(node)


def bodies(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """The graph and every body in it."""
    yield graph
    for node in graph.node:
        for body in bodies(node):
            yield from graphs(body)


def declare_scores(graph: GraphProto) -> None:
    """Writes down what shape inference does not know: the types that operators of ai.onnx.ml give."""
    known = {info.name for info in (*graph.value_info, *graph.output)}
    for node in graph.node:
        given = {each.name for each in node.attribute} if node.domain == "ai.onnx.ml" else set()
        for name in node.output if node.op_type in SCORING and node.domain == "ai.onnx.ml" else ():
            is_label = len(node.output) > 1 and name == node.output[0]
            label = TensorProto.STRING if "classlabels_strings" in given else TensorProto.INT64
            if name and name not in known:
                graph.value_info.append(helper.make_tensor_value_info(name, label if is_label else FLOAT, None))


def types_of(model: ModelProto) -> dict[str, int]:
    """The element type of every value in the model, bodies included; names are unique in an ONNX model."""
    types: dict[str, int] = {}
    for graph in graphs(model.graph):
        types.update((tensor.name, tensor.data_type) for tensor in graph.initializer)
        for info in (*graph.input, *graph.output, *graph.value_info):
            is_tensor = info.type.WhichOneof("value") == "tensor_type"
            types[info.name] = info.type.tensor_type.elem_type if is_tensor else NO_TENSOR
    return types


def shapes_of(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """What is known of them; a free dimension is -1."""
    shapes: dict[str, tuple[int, ...]] = {}
    for graph in graphs(model.graph):
        for info in (*graph.input, *graph.output, *graph.value_info):
            if info.type.tensor_type.HasField("shape"):
                dims = info.type.tensor_type.shape.dim
                shapes[info.name] = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims)
        shapes.update((tensor.name, tuple(tensor.dims)) for tensor in graph.initializer)
    return shapes


def attributes(node: NodeProto) -> dict[str, object]:
    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


def set_attribute(node: NodeProto, name: str, value: object) -> None:
    """Replaces it, or adds it."""
    kept = [each for each in node.attribute if each.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def constant_of(node: NodeProto) -> TensorProto | None:
    """The float32 tensor of a Constant, whichever way it is written; None for another type."""
    given = attributes(node)
    tensor = given.get("value")
    if isinstance(tensor, TensorProto):
        return tensor if tensor.data_type == FLOAT else None
    for name in ("value_float", "value_floats"):
        if name in given:
            return numpy_helper.from_array(np.asarray(given[name], np.float32))
    return None


def _names(graph: GraphProto) -> Iterator[str]:
    yield from (tensor.name for tensor in graph.initializer)
    yield from (info.name for info in (*graph.input, *graph.output))
    for node in graph.node:
        yield from node.output
