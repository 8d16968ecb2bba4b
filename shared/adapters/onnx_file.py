"""What an ONNX file may not contain, found before the runtime sees it, by walking its Protocol Buffers.

A model is one file with one hash. A tensor that is kept in another file (`external_data`) would escape the hash, and
would make the runtime open a path of the model author's choosing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from shared.errors import CodecError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_MAX_DEPTH = 64  # graphs within attributes within nodes; real ones have three or four
_MAX_FIELDS = 4_000_000  # a decoder of 80 layers has about 100,000; this many take four seconds
# Functions of the model's own, put where they are called: thirty of them that each call the one before twice are a
# kilobyte, and a billion nodes. Published models have some thousands of nodes, functions included.
_MAX_INLINED_NODES = 1 << 16

# message: its fields that are messages with a tensor somewhere below (onnx.proto, IR version 10)
_CHILDREN: Final[Mapping[str, Mapping[int, str]]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_IR_VERSION, _GRAPH, _FUNCTION = 1, 7, 25  # of the model
_FUNCTION_NAME, _FUNCTION_DOMAIN = _NAMES_OF_FUNCTION = 1, 10
_OPERATOR, _OPERATOR_DOMAIN = 4, 7  # of a node
_RAW_DATA, _DATA_TYPE, _EXTERNAL_DATA, _DATA_LOCATION = 9, 2, 13, 14  # of a tensor
_FLOAT = 1  # of data types


@dataclass(frozen=True, slots=True)
class _Field:
    number: int
    wire: int
    value: int  # of a varint
    start: int  # of the payload, in the file
    stop: int


def check_onnx(model: bytes) -> None:
    """Raises `CodecError` for what is no ONNX model, is cut, refers to another file, or has functions that call
    themselves or grow without bounds where they are called."""
    missing, has_functions = {_IR_VERSION, _GRAPH}, False
    for message, _, field in _walk(model):
        if message == "model":
            missing.discard(field.number)
            has_functions |= field.number == _FUNCTION
        elif message == "tensor" and _is_external(field):
            raise CodecError("the model keeps a tensor in another file")
    if missing:
        raise CodecError("not an ONNX model")
    if has_functions:
        _check_functions(model)


def float32_spans(model: bytes) -> list[tuple[int, int]]:
    """(start, stop) of the raw little-endian bytes of every float32 tensor in the file, in file order."""
    floats: set[int] = set()
    raw: dict[int, tuple[int, int]] = {}
    for message, at, field in _walk(model):
        if message == "tensor" and field.number == _DATA_TYPE and field.value == _FLOAT:
            floats.add(at)
        elif message == "tensor" and field.number == _RAW_DATA:
            raw[at] = (field.start, field.stop)
    return [span for at, span in raw.items() if at in floats]


_Name = tuple[bytes, bytes]  # domain and operator
_MAIN: Final[_Name] = (b"", b"")  # no operator has the empty name


def _check_functions(model: bytes) -> None:
    """Counts the nodes of the main graph with every function put where it is called, without putting any there."""
    calls, sizes = _calls(model), dict[_Name, int]()
    open_names = [_MAIN]
    while open_names:  # depth first; a function is counted when all that it calls are
        name = open_names[-1]
        waiting = [called for called in calls[name] if called in calls and called not in sizes]
        if waiting:
            if waiting[0] in open_names:
                raise CodecError("a function of the model calls itself")
            open_names.append(waiting[0])
            continue
        sizes[open_names.pop()] = sum(count * sizes.get(called, 1) for called, count in calls[name].items())
        if sizes[name] > _MAX_INLINED_NODES:
            raise CodecError(f"the model's functions make more than {_MAX_INLINED_NODES} nodes where they are called")
    # What the graph does not call is counted by nobody, and put nowhere.


def _calls(model: bytes) -> dict[_Name, Counter[_Name]]:
    """By function, and by `_MAIN` for the graph: how often it has each operator. Functions that differ in their
    overload alone are taken together."""
    found: dict[_Name, Counter[_Name]] = {_MAIN: Counter()}
    for top in _fields(model, 0, len(model)):
        if top.wire != _BYTES or top.number not in (_GRAPH, _FUNCTION):
            continue
        kind = "graph" if top.number == _GRAPH else "function"
        own, nodes = dict[int, bytes](), dict[int, dict[int, bytes]]()
        for message, at, field in _walk(model, kind, top.start, top.stop):
            if message == "function":
                own[field.number] = model[field.start : field.stop] if field.number in _NAMES_OF_FUNCTION else b""
            elif message == "node":
                node = nodes.setdefault(at, {})
                if field.number in (_OPERATOR, _OPERATOR_DOMAIN):
                    node[field.number] = model[field.start : field.stop]
        name = _MAIN if kind == "graph" else _name(own.get(_FUNCTION_DOMAIN), own.get(_FUNCTION_NAME))
        called = (_name(node.get(_OPERATOR_DOMAIN), node.get(_OPERATOR)) for node in nodes.values())
        found.setdefault(name, Counter()).update(called)
    return found


def _name(domain: bytes | None, operator: bytes | None) -> _Name:
    return (b"" if domain in (None, b"ai.onnx") else domain or b"", operator or b"-")


def _is_external(field: _Field) -> bool:
    return field.number == _EXTERNAL_DATA or (field.number == _DATA_LOCATION and field.value != 0)


def _walk(
    model: bytes, root: str = "model", start: int = 0, stop: int | None = None
) -> Iterator[tuple[str, int, _Field]]:
    """(message, its offset, field) for every message that has a tensor somewhere below, depth first.

    Holds one iterator a level, however many fields a hostile file crams in. Raises `CodecError`.
    """
    stack = [(root, start, _fields(model, start, len(model) if stop is None else stop))]
    seen = 0
    while stack:
        message, at, fields = stack[-1]
        field = next(fields, None)
        if field is None:
            stack.pop()
            continue
        seen += 1
        if seen > _MAX_FIELDS:
            raise CodecError(f"the model has more than {_MAX_FIELDS} fields")
        yield message, at, field
        child = _CHILDREN[message].get(field.number)
        if child is not None and field.wire == _BYTES:
            if len(stack) == _MAX_DEPTH:
                raise CodecError("the model is nested too deeply")
            stack.append((child, field.start, _fields(model, field.start, field.stop)))


def _fields(data: bytes, start: int, stop: int) -> Iterator[_Field]:
    """The fields of one message in data[start:stop], nothing copied. Raises `CodecError`."""
    while start < stop:
        key, start = _varint(data, start, stop)
        if key >> 32:  # the runtime would cut it to 32 bits and see another field than we do
            raise CodecError("protobuf: field number")
        number, wire = key >> 3, key & 7
        value = 0
        if wire == _VARINT:
            value, end = _varint(data, start, stop)
        elif wire == _BYTES:
            size, start = _varint(data, start, stop)
            end = start + size
        elif wire in (_FIXED32, _FIXED64):
            end = start + (4 if wire == _FIXED32 else 8)
        else:
            raise CodecError(f"protobuf: wire type {wire}")
        if end > stop:
            raise CodecError("protobuf: cut")
        yield _Field(number, wire, value, start, end)
        start = end


def _varint(data: bytes, start: int, stop: int) -> tuple[int, int]:
    """(value, offset behind it). Ten bytes at most: negative numbers fill them."""
    value = 0
    for index, byte in enumerate(data[start : min(start + 10, stop)]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, start + index + 1
    raise CodecError("protobuf: varint is cut or too long")
