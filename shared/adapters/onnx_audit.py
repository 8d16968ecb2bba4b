"""An ONNX model taken apart for a batch audit: its large products, and the rest of it.

A product is audited when its weight is a constant float32 matrix of at least `LEAST_WEIGHTS`, and when the shape of
what it gives follows from the shapes of the inputs alone. All others stay in the replayed graph, where an attester
computes them itself: what cannot be audited is recomputed, never taken on trust.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper, shape_inference

from shared.adapters.onnx_file import check_onnx
from shared.errors import CodecError, InferenceFailed
from shared.outputs import MAX_LAYERS
from shared.tensors import MAX_NAME_CHARACTERS
from shared.verification.linear import AuditParts, Linear, Shape

# Under 64 × 64 a product costs no more than publishing, fetching and projecting what it gives.
LEAST_WEIGHTS: Final = 64 * 64
FLOAT: Final = int(TensorProto.FLOAT)
DEFAULT_DOMAINS: Final = ("", "ai.onnx")
# Of the library, and what parts that are missing or of another type raise.
_ERRORS: Final[tuple[type[Exception], ...]] = (
    CodecError, DecodeError, checker.ValidationError, shape_inference.InferenceError, ArithmeticError, AttributeError,
    LookupError, MemoryError, RuntimeError, TypeError, ValueError,
)  # fmt: skip


def split(model: bytes) -> AuditParts:
    """The same bytes for the same model. Raises `InferenceFailed` for bytes that are no model of one file, and for a
    model that has no product to audit."""
    try:
        check_onnx(model)
        parsed = onnx.load_model_from_string(model)
        inputs, shapes = _shapes(parsed)
        linears = _largest(_linears(parsed.graph, shapes))
        return _parts(parsed, linears, inputs)
    except _ERRORS as error:
        raise InferenceFailed(f"not a model that can be taken apart: {type(error).__name__}: {error}") from None


def _parts(parsed: ModelProto, linears: tuple[Linear, ...], inputs: dict[str, Shape]) -> AuditParts:
    """The model is made into the exposed one."""
    if not linears:
        raise InferenceFailed(
            f"the model has no product with a constant float32 matrix of {LEAST_WEIGHTS} weights and a shape that "
            "its inputs set; verify it by the method tensor"
        )
    replay = _replay(parsed, linears)
    _expose(parsed.graph, linears)
    return AuditParts(_bytes(parsed), None if replay is None else _bytes(replay), linears, inputs)


# --- shapes ------------------------------------------------------------------------------------------
def _shapes(model: ModelProto) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """Of the inputs, and of all values whose every dimension is a number or one of the inputs'.

    What the file claims of shapes within the graph is left out: an honest performer is measured by these."""
    asked = ModelProto()
    asked.CopyFrom(model)
    fixed = _fixed(asked.graph)
    inputs: dict[str, Shape] = {}
    for info in asked.graph.input:
        for axis, dimension in enumerate(info.type.tensor_type.shape.dim):
            if not dimension.HasField("dim_value") and not dimension.dim_param:
                dimension.dim_param = f"{info.name}:{axis}"
        if info.name not in fixed:
            inputs[info.name] = _shape(info)
    del asked.graph.value_info[:]
    for info in asked.graph.output:
        info.type.tensor_type.ClearField("shape")
    graph = shape_inference.infer_shapes(asked, data_prop=True).graph
    names = {dimension for shape in inputs.values() for dimension in shape if isinstance(dimension, str)}
    shapes = {info.name: _shape(info) for info in (*graph.input, *graph.value_info, *graph.output)}
    return inputs, {name: shape for name, shape in shapes.items() if _is_set(shape, names)}


def _shape(info: onnx.ValueInfoProto) -> Shape:
    """An unknown dimension has the empty name, an unknown rank is one of these."""
    tensor = info.type.tensor_type
    if not tensor.HasField("shape"):
        return ("",)
    return tuple(each.dim_value if each.HasField("dim_value") else each.dim_param for each in tensor.shape.dim)


def _is_set(shape: Shape, names: set[str]) -> bool:
    return all(isinstance(dimension, int) or dimension in names for dimension in shape)


# --- which products ----------------------------------------------------------------------------------
def _fixed(graph: GraphProto) -> dict[str, TensorProto]:
    """Constants by name. An initializer that is an input too can be replaced by a caller, and is none."""
    free = {info.name for info in graph.input}
    fixed = {tensor.name: tensor for tensor in graph.initializer if tensor.name not in free}
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in DEFAULT_DOMAINS:
            fixed.update((node.output[0], each.t) for each in node.attribute if each.name == "value")
    return fixed


def _linears(graph: GraphProto, shapes: Mapping[str, Shape]) -> list[Linear]:
    """In the graph's order, which is one in which it can be computed."""
    fixed = _fixed(graph)
    found = (_linear(node, fixed, shapes) for node in graph.node if node.domain in DEFAULT_DOMAINS)
    return [linear for linear in found if linear is not None]


def _linear(node: NodeProto, fixed: Mapping[str, TensorProto], shapes: Mapping[str, Shape]) -> Linear | None:
    """None for what is no product that can be audited."""
    if node.op_type not in ("MatMul", "Gemm") or len(node.input) < 2 or len(node.output) != 1:
        return None
    if node.input[0] in fixed or not _is_matrix(fixed.get(node.input[1])):
        return None
    source, result = node.input[0], node.output[0]
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    weight = numpy_helper.to_array(fixed[node.input[1]])
    if attributes.get("transB", 0):
        weight = np.ascontiguousarray(weight.T)
    bias = _bias(node, fixed, attributes.get("beta", 1.0), weight.shape[1])
    shape = shapes.get(result)
    is_fit = (
        not attributes.get("transA", 0)
        and shape is not None
        and len(shape) >= 2
        and max(len(source), len(result)) <= MAX_NAME_CHARACTERS
        and (bias is not None or len(node.input) < 3 or not node.input[2])
    )
    if not is_fit or shape is None:
        return None
    return Linear(source, result, weight, bias, attributes.get("alpha", 1.0), shape)


def _is_matrix(tensor: TensorProto | None) -> bool:
    if tensor is None or tensor.data_type != FLOAT or len(tensor.dims) != 2:
        return False
    return tensor.dims[0] * tensor.dims[1] >= LEAST_WEIGHTS


def _bias(
    node: NodeProto, fixed: Mapping[str, TensorProto], beta: float, width: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None:
    """A constant one that is the same for all rows; None where there is none, or another."""
    tensor = fixed.get(node.input[2]) if len(node.input) > 2 else None
    if tensor is None or tensor.data_type != FLOAT:
        return None
    array = numpy_helper.to_array(tensor)
    if array.size not in (1, width) or any(size != 1 for size in array.shape[:-1]):
        return None
    return np.broadcast_to(np.float32(beta) * array.reshape(-1), (width,)).astype(np.float32)


def _largest(linears: list[Linear]) -> tuple[Linear, ...]:
    """As many as a proof may carry."""
    kept = {linear.result for linear in sorted(linears, key=lambda each: -each.weight.size)[:MAX_LAYERS]}
    return tuple(linear for linear in linears if linear.result in kept)


# --- the two graphs ----------------------------------------------------------------------------------
def _expose(graph: GraphProto, linears: Iterable[Linear]) -> None:
    """In place: every product's result becomes an output."""
    there = {info.name for info in graph.output}
    graph.output.extend(_declared(linear) for linear in linears if linear.result not in there)


def _replay(model: ModelProto, linears: Iterable[Linear]) -> ModelProto | None:
    """The model without its products, and without all that only they needed; None when nothing is left."""
    graph, results = model.graph, {linear.result: linear for linear in linears}
    outputs = [info for info in graph.output if info.name not in results]
    there = {info.name for info in (*graph.input, *outputs)} | set(results)
    sources = dict.fromkeys(linear.source for linear in results.values() if linear.source not in there)
    wanted = [*(info.name for info in outputs), *sources]
    if not wanted:
        return None
    nodes = _needed([node for node in graph.node if not results.keys() & set(node.output)], wanted)
    read = {name for node in nodes for name in _reads(node)} | set(wanted)
    replay = ModelProto(ir_version=model.ir_version, graph=GraphProto(name=graph.name, node=nodes))
    replay.opset_import.extend(model.opset_import)
    replay.functions.extend(model.functions)
    replay.graph.input.extend([*graph.input, *map(_declared, results.values())])
    replay.graph.output.extend([*outputs, *(helper.make_tensor_value_info(name, FLOAT, None) for name in sources)])
    replay.graph.initializer.extend(each for each in graph.initializer if each.name in read)
    replay.graph.sparse_initializer.extend(each for each in graph.sparse_initializer if each.values.name in read)
    return replay


def _declared(linear: Linear) -> onnx.ValueInfoProto:
    """Free dimensions without a name: the runtime is not to compare them, `results_of` does."""
    sizes = [None if isinstance(size, str) else size for size in linear.shape]
    return helper.make_tensor_value_info(linear.result, FLOAT, sizes)


def _needed(nodes: list[NodeProto], wanted: Iterable[str]) -> list[NodeProto]:
    """Those that `wanted` follows from, in the order that they are in."""
    makers = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    needed, open_names = set[int](), list(wanted)
    while open_names:
        index = makers.get(open_names.pop())
        if index is not None and index not in needed:
            needed.add(index)
            open_names.extend(_reads(nodes[index]))
    return [nodes[index] for index in sorted(needed)]


def _reads(node: NodeProto) -> Iterator[str]:
    """Names from outside, those that its bodies read among them."""
    yield from node.input
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            for inner in body.node:
                yield from _reads(inner)
            yield from (info.name for info in body.output)


def _bytes(model: ModelProto) -> bytes:
    return model.SerializeToString(deterministic=True)
