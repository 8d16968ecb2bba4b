"""ONNX files before the runtime sees them: other files' tensors, wherever they hide, and bytes that are no model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from shared.adapters import onnx_file
from shared.adapters.onnx_file import check_onnx, float32_spans
from shared.adapters.onnx_precision import convert
from shared.content.varint import encode_varint
from shared.errors import CodecError, InferenceFailed
from tests.onnx_support import (
    X,
    Y,
    attribute,
    bytes_field,
    endless,
    external,
    failing,
    graph,
    model,
    node,
    of_one_operator,
    tensor,
    varint_field,
)

MODELS = Path(__file__).resolve().parents[4] / "models"
WEIGHTS = np.arange(3, dtype=np.float32)
ELSEWHERE = external("w", "../secrets")
ADD = node("Add", ["x", "x"], ["y"])


def constant(hidden: bytes) -> bytes:
    """A graph with the tensor in an attribute."""
    return graph([ADD, node("Constant", [], ["w"], attribute("value", tensor=hidden))], [X], [Y])


def nested(hidden: bytes, depth: int) -> bytes:
    """The same, below `depth` graphs in attributes."""
    inner = constant(hidden)
    for _ in range(depth):
        inner = graph([node("If", ["x"], ["y"], attribute("then_branch", graph=inner))], [X], [Y])
    return inner


@pytest.mark.parametrize(
    "path", [*MODELS.glob("*/model.onnx"), *MODELS.glob("*/decoy.onnx")], ids=lambda path: path.parent.name
)
def test_the_shipped_models_are_one_file(path: Path) -> None:
    check_onnx(path.read_bytes())


@pytest.mark.parametrize(
    "whole", [of_one_operator("Add"), endless(), failing(), model(nested(tensor("w", WEIGHTS), 5))]
)
def test_whole_models_pass(whole: bytes) -> None:
    check_onnx(whole)


PLACES = {
    "initializer": model(graph([ADD], [X], [Y], [ELSEWHERE])),
    "attribute": model(constant(ELSEWHERE)),
    "attribute of tensors": model(graph([node("Any", [], ["w"], bytes_field(10, ELSEWHERE))], [X], [Y])),
    "attribute of graphs": model(graph([node("Any", [], ["w"], bytes_field(11, constant(ELSEWHERE)))], [X], [Y])),
    "subgraph": model(nested(ELSEWHERE, 4)),
    "sparse values": model(graph([ADD], [X], [Y]) + bytes_field(15, bytes_field(1, ELSEWHERE))),
    "sparse indices": model(graph([ADD], [X], [Y]) + bytes_field(15, bytes_field(2, ELSEWHERE))),
    "sparse attribute": model(graph([node("Any", [], ["w"], bytes_field(22, bytes_field(1, ELSEWHERE)))], [X], [Y])),
    "training": model(graph([ADD], [X], [Y]), bytes_field(20, bytes_field(1, constant(ELSEWHERE)))),
    "function": model(
        graph([ADD], [X], [Y]),
        bytes_field(25, bytes_field(7, node("Constant", [], ["w"], attribute("value", tensor=ELSEWHERE)))),
    ),
    "second graph": model(graph([ADD], [X], [Y])) + bytes_field(7, constant(ELSEWHERE)),  # parsers merge both
    "location alone": model(graph([ADD], [X], [Y], [tensor("w", WEIGHTS, varint_field(14, 1))])),
    "entry alone": model(graph([ADD], [X], [Y], [tensor("w", WEIGHTS, bytes_field(13, b""))])),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_tensor_in_another_file_is_found_wherever_it_hangs(place: str) -> None:
    with pytest.raises(CodecError, match="another file"):
        check_onnx(PLACES[place])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not an ONNX model"),
        (b"no model", "wire type|cut"),
        (b"\x00" * 100, "not an ONNX model"),
        (varint_field(1, 8), "not an ONNX model"),
        (bytes_field(7, graph([ADD], [X], [Y])), "not an ONNX model"),
        (of_one_operator("Add")[:-3], "cut"),
        (of_one_operator("Add") + b"\x80", "cut"),
        (of_one_operator("Add") + b"\x3b", "wire type 3"),
        (of_one_operator("Add") + encode_varint(1 << 35 | 7 << 3 | 2), "field number"),
        (model(nested(tensor("w", WEIGHTS), 40)), "nested too deeply"),
    ],
)
def test_what_is_no_model(data: bytes, said: str) -> None:
    with pytest.raises(CodecError, match=said):
        check_onnx(data)


def test_a_model_of_nothing_but_fields_costs_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "_MAX_FIELDS", 1000)
    check_onnx(of_one_operator("Add"))
    with pytest.raises(CodecError, match="more than 1000 fields"):
        check_onnx(of_one_operator("Add") + varint_field(5, 1) * 1000)


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_model_or_a_codec_error(data: bytes) -> None:
    for candidate in (data, varint_field(1, 8) + bytes_field(7, data)):
        try:
            check_onnx(candidate)
        except CodecError:
            continue


def test_float32_tensors_are_found_where_they_lie() -> None:
    numbers = tensor("n", np.array([7], np.int64))
    whole = model(graph([ADD], [X], [Y], [tensor("w", WEIGHTS), numbers, tensor("v", 2 * WEIGHTS)]))
    found = [np.frombuffer(whole[start:stop], "<f4").tolist() for start, stop in float32_spans(whole)]
    assert found == [[0, 1, 2], [0, 2, 4]]


# --- functions of the model's own ----------------------------------------------------------------------
def of_functions(*bodies: list[str]) -> bytes:
    """A graph that calls the last of the functions f0, f1, …; each calls those of its body, one after the other."""
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    functions = []
    for number, body in enumerate(bodies):
        names = ["x", *(f"v{at}" for at in range(len(body) - 1)), "y"]
        calls = [
            helper.make_node(kind, [names[at]], [names[at + 1]], domain="own" if kind.startswith("f") else "")
            for at, kind in enumerate(body)
        ]
        functions.append(helper.make_function("own", f"f{number}", ["x"], ["y"], calls, imports))
    first, last = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "ab")
    call = helper.make_node(f"f{len(bodies) - 1}", ["a"], ["b"], domain="own")
    whole = helper.make_graph([call], "g", [first], [last])
    made = helper.make_model(whole, functions=functions, opset_imports=imports, ir_version=8)
    return bytes(made.SerializeToString())


def doubling(levels: int) -> bytes:
    return of_functions(["Neg"], *([f"f{level}", f"f{level}"] for level in range(levels)))


def test_functions_are_inlined_up_to_a_bound() -> None:
    check_onnx(doubling(16))
    with pytest.raises(CodecError, match="more than 65536 nodes"):
        check_onnx(doubling(17))
    with pytest.raises(CodecError, match="more than 65536 nodes"):
        check_onnx(doubling(60))


@pytest.mark.parametrize("bodies", [[["f0"]], [["f1"], ["f0"]], [["Neg"], ["f0", "f2"], ["f1"]]])
def test_a_function_that_calls_itself_is_refused(bodies: list[list[str]]) -> None:
    with pytest.raises(CodecError, match="calls itself"):
        check_onnx(of_functions(*bodies))
    with pytest.raises(InferenceFailed, match="calls itself"):
        convert(of_functions(*bodies), "fp64")
