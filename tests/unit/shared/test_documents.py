"""Input documents, parameters and proof objects: round trips, limits, and exact paths in errors."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.constants import MAX_INPUT_BYTES, MAX_PARAMETERS_BYTES, MAX_PROOF_BYTES
from shared.documents import (
    ClassifyOutput,
    InputDocument,
    Output,
    Parameters,
    ProofObject,
    TensorOutput,
    TextOutput,
    decode_input,
    decode_parameters,
    decode_proof,
    encode_input,
    encode_parameters,
    encode_proof,
    output_view,
    validate_input,
)
from shared.errors import CodecError, InputMismatch
from shared.tensors import Tensor, encode_tensor
from shared.types import Cid, Digest, Fingerprint
from tests.cards import make_card, make_text_card

CARD, TEXT_CARD = make_card(), make_text_card()
SCORES = np.array([[0.5, -1.25, 3.0]], np.float32)
OUTPUTS: dict[str, Output] = {
    "classify": ClassifyOutput(scores=encode_tensor(SCORES), label=2),
    "tensor": TensorOutput(tensors={"y": encode_tensor(SCORES), "n": encode_tensor(np.array([1, 2]))}),
    "text": TextOutput(encoding="bytes", prompt=(256, 65), tokens=(104, 105, 257), stop="eos", tops=bytes(144)),
}


def proof(output: Output = OUTPUTS["classify"]) -> ProofObject:
    return ProofObject(
        task_id=Digest(bytes(range(32))),
        card_cid=Cid("bafkreicard"),
        model_hash=Digest(bytes(31) + b"\x01"),
        input_cid=Cid("bafkreiinput"),
        parameters='{"top_k":7}',
        seed=Digest(bytes([5]) * 32),
        output=output,
        engine=Fingerprint("onnxruntime", "1.0", "CPUExecutionProvider", "x86_64"),
    )


def changed(document: bytes, **changes: Any) -> bytes:
    """`a__b=1` sets $.a.b; ... removes."""
    form = json.loads(document)
    for path, value in changes.items():
        *parents, last = path.split("__")
        at = form
        for name in parents:
            at = at[name]
        if value is ...:
            del at[last]
        else:
            at[last] = value
    return json.dumps(form, sort_keys=True, separators=(",", ":")).encode()


# --- the input document ------------------------------------------------------------------------------
def test_tensors_survive() -> None:
    document = InputDocument(tensors={"x": SCORES, "n": np.array([True])})
    decoded = decode_input(encode_input(document))
    assert decoded.prompt is None
    assert decoded.tensors is not None
    assert {name: array.tolist() for name, array in decoded.tensors.items()} == {"x": SCORES.tolist(), "n": [True]}


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_prompts_survive(prompt: str) -> None:
    assert decode_input(encode_input(InputDocument(prompt=prompt))) == InputDocument(prompt=prompt)


def test_an_input_document_need_not_be_canonical() -> None:
    assert decode_input(b' {\n"prompt" : "\\u0061" } ') == InputDocument(prompt="a")


TENSOR = {"dtype": "float32", "shape": [1], "data": "AAAAAA=="}


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"tensors": {}},
        {"tensors": None, "prompt": None},
        {"tensors": {"x": TENSOR}, "prompt": "both"},
        {"tensors": {"x": TENSOR}, "prompt": "both", "more": 1},
        {"prompt": "a", "temperature": 1},
        {"prompt": 7},
        {"prompt": ["a"]},
        {"tensors": [TENSOR]},
        {"tensors": {"": TENSOR}},
        {"tensors": {"x" * 257: TENSOR}},
        {"tensors": {f"x{i}": TENSOR for i in range(17)}},
        {"tensors": {"x": {**TENSOR, "shape": [2]}}},
        {"tensors": {"x": {**TENSOR, "shape": [4194304, 4194304]}}},
        {"tensors": {"x": {**TENSOR, "data": "AADAfw=="}}},  # NaN
        {"tensors": {"x": {**TENSOR, "data": "AACAfw=="}}},  # infinity
    ],
)
def test_other_documents_are_refused(form: dict[str, Any]) -> None:
    with pytest.raises(CodecError):
        decode_input(json.dumps(form).encode())


def test_a_document_over_the_limit_is_refused() -> None:
    frame = len(b'{"prompt":""}')
    largest = b'{"prompt":"' + b"a" * (MAX_INPUT_BYTES - frame) + b'"}'
    assert len(decode_input(largest).prompt or "") == MAX_INPUT_BYTES - frame
    with pytest.raises(CodecError, match="at most"):
        decode_input(largest + b" ")


def test_tensors_have_a_limit_together() -> None:
    one = {"dtype": "bool", "shape": [4194304], "data": ""}
    with pytest.raises(CodecError):
        decode_input(json.dumps({"tensors": {"a": one, "b": one}}).encode())


KEYS = st.sampled_from(["tensors", "prompt", "x", "dtype", "shape", "data", "output", "kind"]) | st.text()
FORMS = st.recursive(
    st.none() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300)
@given(st.binary(max_size=200) | FORMS.map(lambda form: json.dumps(form).encode()))
def test_any_bytes_are_a_document_or_a_codec_error(data: bytes) -> None:
    for decode in (decode_input, decode_proof):
        try:
            decode(data)
        except CodecError:
            continue


# --- parameters ------------------------------------------------------------------------------------
def test_parameters_and_their_defaults() -> None:
    assert decode_parameters(TEXT_CARD, '{"max_tokens":9,"temperature":0.5,"top_k":3}') == Parameters(9, 0.5, 3)
    assert decode_parameters(TEXT_CARD, "{}") == Parameters(16, 0.0, 0)  # the card's own limit is below the default
    assert decode_parameters(make_text_card(context=256, max_tokens=100), "{}") == Parameters(64, 0.0, 0)
    assert decode_parameters(TEXT_CARD, '{"temperature":1}') == Parameters(16, 1.0, 0)
    assert decode_parameters(CARD, "{}") == Parameters()


def test_parameters_survive() -> None:
    parameters = Parameters(max_tokens=3, temperature=0.25, top_k=7)
    assert encode_parameters(parameters) == '{"max_tokens":3,"temperature":0.25,"top_k":7}'
    assert decode_parameters(TEXT_CARD, encode_parameters(parameters)) == parameters
    assert encode_parameters(None) == "{}"


@pytest.mark.parametrize(
    ("text", "field", "expected"),
    [
        ('{"max_tokens":0}', "max_tokens", "an integer from 1 to 16"),
        ('{"max_tokens":17}', "max_tokens", "an integer from 1 to 16"),
        ('{"max_tokens":1.0}', "max_tokens", "an integer from 1 to 16"),
        ('{"max_tokens":true}', "max_tokens", "an integer from 1 to 16"),
        ('{"max_tokens":null}', "max_tokens", "an integer from 1 to 16"),
        ('{"max_tokens":100000000000000000000000}', "max_tokens", "an integer from 1 to 16"),
        ('{"top_k":-1}', "top_k", "an integer from 0 to 258"),
        ('{"top_k":259}', "top_k", "an integer from 0 to 258"),
        ('{"temperature":-1}', "temperature", "0 (greedy) or a number from 0.01 to 10.0"),
        ('{"temperature":0.001}', "temperature", "0 (greedy) or a number from 0.01 to 10.0"),
        ('{"temperature":10.5}', "temperature", "0 (greedy) or a number from 0.01 to 10.0"),
        ('{"temperature":true}', "temperature", "a number"),
        ('{"temperature":"hot"}', "temperature", "a number"),
        ('{"top_p":0.9}', "top_p", "one of max_tokens, temperature, top_k"),
    ],
)
def test_a_wrong_parameter_is_named(text: str, field: str, expected: str) -> None:
    with pytest.raises(InputMismatch) as caught:
        decode_parameters(TEXT_CARD, text)
    assert (caught.value.field, caught.value.expected) == (f"parameters.{field}", expected)


def test_a_model_that_is_no_text_takes_no_parameter() -> None:
    with pytest.raises(InputMismatch) as caught:
        decode_parameters(CARD, '{"temperature":1.0}')
    assert (caught.value.field, caught.value.expected) == ("parameters.temperature", "{} for kind tensor")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{} ",
        '{"top_k":1,"max_tokens":1}',
        '{"temperature":0.50}',
        '{"temperature":NaN}',
        '{"temperature":1e999}',
        '{"x":"\ud800"}',
        '{"x":"' + "a" * MAX_PARAMETERS_BYTES + '"}',
        '{"x":' + "[" * 4000,
    ],
)
def test_parameters_are_canonical_json(text: str) -> None:
    with pytest.raises(CodecError):
        decode_parameters(TEXT_CARD, text)


# --- input against card ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("document", "field", "expected"),
    [
        (InputDocument(prompt="a"), "tensors", "tensors, as kind tensor takes"),
        (InputDocument(tensors={"y": SCORES}), "tensors.y", "one of x"),
        (InputDocument(tensors={"x": SCORES.astype(np.float64)}), "tensors.x.dtype", "float32"),
        (InputDocument(tensors={"x": SCORES[0]}), "tensors.x.shape", "[-1, 3]"),
    ],
)
def test_tensors_that_do_not_fit_the_card(document: InputDocument, field: str, expected: str) -> None:
    validate_input(CARD, InputDocument(tensors={"x": SCORES}), Parameters())
    with pytest.raises(InputMismatch) as caught:
        validate_input(CARD, document, Parameters())
    assert (caught.value.field, caught.value.expected) == (field, expected)


def test_prompts_that_do_not_fit_the_card() -> None:
    """Of a context of 32, one goes to bos and the rest to prompt and output."""
    parameters = Parameters(max_tokens=10)
    validate_input(TEXT_CARD, InputDocument(prompt="x" * 21), parameters)
    for prompt, got in (("x" * 22, "22 bytes"), ("☃" * 8, "24 bytes")):
        with pytest.raises(InputMismatch) as caught:
            validate_input(TEXT_CARD, InputDocument(prompt=prompt), parameters)
        assert caught.value.field == "prompt"
        assert caught.value.expected == "at most 21 bytes before 10 tokens"
        assert caught.value.got == got
    with pytest.raises(InputMismatch) as caught:
        validate_input(TEXT_CARD, InputDocument(tensors={"x": SCORES}), parameters)
    assert caught.value.field == "prompt"


# --- the proof ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", OUTPUTS)
def test_a_proof_survives(kind: str) -> None:
    encoded = encode_proof(proof(OUTPUTS[kind]))
    assert decode_proof(encoded) == proof(OUTPUTS[kind])
    assert encode_proof(decode_proof(encoded)) == encoded
    assert json.loads(encoded)["output"]["kind"] == kind


def test_the_form_of_a_proof() -> None:
    form = json.loads(encode_proof(proof()))
    assert set(form) == {
        "version",
        "taskId",
        "cardCid",
        "modelHash",
        "inputCid",
        "parameters",
        "seed",
        "output",
        "engine",
    }
    assert form["taskId"] == "0x" + bytes(range(32)).hex()
    assert form["output"]["label"] == 2


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("classify", {"version": 1}),
        ("classify", {"version": ...}),
        ("classify", {"more": 1}),
        ("classify", {"taskId": "00" * 32}),
        ("classify", {"taskId": "0x" + "00" * 31}),
        ("classify", {"taskId": "0x" + "AA" * 32}),
        ("classify", {"taskId": "0x" + "00" * 32 + "\n"}),
        ("classify", {"modelHash": ...}),
        ("classify", {"inputCid": "b" * 129}),
        ("classify", {"engine": {}}),
        ("classify", {"engine__device": ""}),
        ("classify", {"engine__device": "x" * 257}),
        ("classify", {"engine__speed": "fast"}),
        ("classify", {"output": None}),
        ("classify", {"output__kind": "verdict"}),
        ("classify", {"output__kind": "text"}),
        ("classify", {"output__kind": ...}),
        ("classify", {"output__more": 1}),
        ("classify", {"output__label": -1}),
        ("classify", {"output__label": 2.0}),
        ("classify", {"output__label": 1 << 70}),
        ("classify", {"output__scores__shape": [1, 4]}),
        ("classify", {"output__scores__shape": [4194304, 4194304]}),
        ("classify", {"output__scores__data": "AADAfwAAwH8AAMB/"}),  # NaN
        ("classify", {"output__scores__dtype": "float16"}),
        ("tensor", {"output__tensors": {}}),
        ("tensor", {"output__tensors__y__data": "AAAA"}),
        ("text", {"output__tokens": [-1]}),
        ("text", {"output__tokens": [1 << 20]}),
        ("text", {"output__tokens": [0.5]}),
        ("text", {"output__tokens": ["a"]}),
        ("text", {"output__tokens": [0] * 4097}),
        ("text", {"output__prompt": [0] * 4097}),
        ("text", {"output__stop": "tired"}),
    ],
)
def test_what_is_not_a_proof(kind: str, changes: dict[str, Any]) -> None:
    honest = encode_proof(proof(OUTPUTS[kind]))
    assert changed(honest) == honest
    with pytest.raises(CodecError):
        decode_proof(changed(honest, **changes))


def test_a_proof_has_one_spelling() -> None:
    encoded = encode_proof(proof())
    for spelling in (
        encoded + b"\n",
        json.dumps(json.loads(encoded)).encode(),
        encoded.replace(b'"version":2', b'"version":2 '),
    ):
        with pytest.raises(CodecError, match="canonical"):
            decode_proof(spelling)


def test_a_proof_over_the_limit_is_refused_unread() -> None:
    with pytest.raises(CodecError, match="at most"):
        decode_proof(b" " * (MAX_PROOF_BYTES + 1))


@settings(max_examples=200)
@given(st.sampled_from(sorted(OUTPUTS)), st.data())
def test_a_damaged_proof_is_refused_or_another_proof(kind: str, data: st.DataObject) -> None:
    encoded = bytearray(encode_proof(proof(OUTPUTS[kind])))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = decode_proof(bytes(encoded))
    except CodecError:
        return
    assert encode_proof(decoded) == encoded  # so its CID is its own


# --- what people see ---------------------------------------------------------------------------------
def test_views() -> None:
    assert output_view(OUTPUTS["classify"]) == {"kind": "classify", "label": 2, "scores": [0.5, -1.25, 3.0]}
    assert output_view(OUTPUTS["text"]) == {"kind": "text", "text": "hi", "stop": "eos", "tokens": [104, 105, 257]}
    view = output_view(OUTPUTS["tensor"])
    assert view["tensors"]["y"]["shape"] == [1, 3]
    json.dumps(view)


def test_a_view_of_half_a_character_is_text() -> None:
    cut = msgspec.structs.replace(OUTPUTS["text"], tokens=(0xE2, 0x98), stop="length")
    assert output_view(cut)["text"] == "\ufffd"


def test_an_output_that_was_built_by_hand_is_not_checked_by_its_struct() -> None:
    """Methods must decode tensors themselves: a struct in memory may hold anything."""
    assert ClassifyOutput(scores=Tensor("float32", (1, 9), b""), label=0).scores.shape == (1, 9)
