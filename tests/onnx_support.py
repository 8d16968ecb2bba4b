"""Small ONNX models for tests, written field by field as onnx.proto has them: whole, broken and hostile."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from shared.content.varint import encode_varint
from shared.types import Digest

FLOAT, INT64, BOOL, FLOAT16 = 1, 7, 9, 10  # TensorProto.DataType
ONNX_TYPE = {np.dtype(np.float32): FLOAT, np.dtype(np.int64): INT64, np.dtype(np.bool_): BOOL}


def varint_field(number: int, value: int) -> bytes:
    return encode_varint(number << 3) + encode_varint(value)


def bytes_field(number: int, value: bytes) -> bytes:
    return encode_varint(number << 3 | 2) + encode_varint(len(value)) + value


def digest_of(model: bytes) -> Digest:
    return Digest(hashlib.sha256(model).digest())


def text(number: int, value: str) -> bytes:
    return bytes_field(number, value.encode())


def tensor(name: str, array: npt.NDArray[np.generic], extra: bytes = b"") -> bytes:
    """TensorProto; `extra` is appended."""
    dims = b"".join(varint_field(1, size) for size in array.shape)
    return dims + varint_field(2, ONNX_TYPE[array.dtype]) + text(8, name) + bytes_field(9, array.tobytes()) + extra


def external(name: str, location: str) -> bytes:
    """A TensorProto of one float32 that lies in another file."""
    entry = bytes_field(13, text(1, "location") + text(2, location))
    return varint_field(1, 1) + varint_field(2, FLOAT) + text(8, name) + entry + varint_field(14, 1)


def value(name: str, dtype: int, shape: Sequence[int | str]) -> bytes:
    """ValueInfoProto; a free dimension has a name."""
    dims = [bytes_field(1, text(2, size) if isinstance(size, str) else varint_field(1, size)) for size in shape]
    return text(1, name) + bytes_field(2, bytes_field(1, varint_field(1, dtype) + bytes_field(2, b"".join(dims))))


def attribute(name: str, *, graph: bytes | None = None, tensor: bytes | None = None) -> bytes:
    """AttributeProto of a graph or a tensor."""
    if graph is not None:
        return text(1, name) + bytes_field(6, graph) + varint_field(20, 5)
    return text(1, name) + bytes_field(5, tensor or b"") + varint_field(20, 4)


def node(kind: str, inputs: Sequence[str], outputs: Sequence[str], *attributes: bytes) -> bytes:
    names = [text(1, name) for name in inputs] + [text(2, name) for name in outputs]
    return b"".join(names) + text(4, kind) + b"".join(bytes_field(5, each) for each in attributes)


def graph(
    nodes: Sequence[bytes], inputs: Sequence[bytes], outputs: Sequence[bytes], initializers: Sequence[bytes] = ()
) -> bytes:
    return (
        b"".join(bytes_field(1, each) for each in nodes)
        + text(2, "graph")
        + b"".join(bytes_field(5, each) for each in initializers)
        + b"".join(bytes_field(11, each) for each in inputs)
        + b"".join(bytes_field(12, each) for each in outputs)
    )


def model(graph: bytes, extra: bytes = b"") -> bytes:
    """ModelProto, IR version 8, operator set 17."""
    return varint_field(1, 8) + bytes_field(7, graph) + bytes_field(8, varint_field(2, 17)) + extra


# --- the models of the suites ----------------------------------------------------------------------
X, Y = value("x", FLOAT, ["batch", 3]), value("y", FLOAT, ["batch", 3])


def of_one_operator(kind: str, inputs: Sequence[str] = ("x", "x")) -> bytes:
    """x (batch, 3) to y of the same shape: `Add` doubles, `Mul` squares."""
    return model(graph([node(kind, inputs, ["y"])], [X], [Y]))


def endless() -> bytes:
    """Adds x to itself 2**40 times; the runtime can stop it between two rounds."""
    body = graph(
        [node("Identity", ["go"], ["go_on"]), node("Add", ["sum", "sum"], ["next"])],
        [value("i", INT64, []), value("go", BOOL, []), value("sum", FLOAT, ["batch", 3])],
        [value("go_on", BOOL, []), value("next", FLOAT, ["batch", 3])],
    )
    rounds, go = tensor("rounds", np.array(1 << 40)), tensor("start", np.array(True))
    loop = node("Loop", ["rounds", "start", "x"], ["y"], attribute("body", graph=body))
    return model(graph([loop], [X], [Y], [rounds, go]))


def failing() -> bytes:
    """Fails when it runs, whatever the input: three numbers have no shape of seven."""
    shape = tensor("shape", np.array([7], np.int64))
    y = value("y", FLOAT, ["seven"])
    return model(graph([node("Reshape", ["x", "shape"], ["y"])], [X], [y], [shape]))
