"""What an ONNX file may not contain, found before the runtime sees it, by walking its Protocol Buffers.

A model is one file with one hash. A tensor that is kept in another file (`external_data`) would escape the hash, and
would make the runtime open a path of the model author's choosing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from shared.errors import CodecError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_MAX_DEPTH = 64  # graphs within attributes within nodes; real ones have three or four
_MAX_FIELDS = 4_000_000  # a decoder of 80 layers has about 100,000; this many take four seconds

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
_IR_VERSION, _GRAPH = 1, 7  # of the model
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
    """Raises `CodecError` for what is no ONNX model, is cut, or refers to another file."""
    missing = {_IR_VERSION, _GRAPH}
    for message, _, field in _walk(model):
        if message == "model":
            missing.discard(field.number)
        elif message == "tensor" and _is_external(field):
            raise CodecError("the model keeps a tensor in another file")
    if missing:
        raise CodecError("not an ONNX model")


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


def _is_external(field: _Field) -> bool:
    return field.number == _EXTERNAL_DATA or (field.number == _DATA_LOCATION and field.value != 0)


def _walk(model: bytes) -> Iterator[tuple[str, int, _Field]]:
    """(message, its offset, field) for every message that has a tensor somewhere below, depth first.

    Holds one iterator a level, however many fields a hostile file crams in. Raises `CodecError`.
    """
    stack = [("model", 0, _fields(model, 0, len(model)))]
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
