"""Model cards: what a card must say for its method, and how lenient it may be."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.canonical import encode_canonical
from shared.constants import MAX_CARD_BYTES
from shared.errors import CodecError
from shared.model_card import ModelCard, Tolerance, check_card, decode_card
from shared.tensors import TensorSpec
from tests.cards import make_card, make_text_card
from tests.inference_support import card_of

CLASSIFIER = {
    "kind": "classify",
    "method": "exact",
    "inputs": (TensorSpec("x", "float32", (1, 3)),),
    "outputs": (TensorSpec("y", "float32", (1, 2)),),
}
CARDS = {"tensor": make_card(), "classify": make_card(**CLASSIFIER), "text": make_text_card()}


@pytest.mark.parametrize("kind", CARDS)
def test_a_card_survives(kind: str) -> None:
    assert decode_card(encode_canonical(CARDS[kind])) == CARDS[kind]


@pytest.mark.parametrize("name", ["digits", "text"])
def test_the_shipped_cards_read_in_camel_case(name: str) -> None:
    form = json.loads(encode_canonical(card_of(name)))
    assert {"trainedOn", "madeBy", "licence", "calibration", "tolerances"} <= set(form)
    assert "smallestDeviation" in form["calibration"]["cheats"]["float16 weights"]


def out(name: str = "y", dtype: Any = "float32", shape: tuple[int, ...] = (1, 2)) -> tuple[TensorSpec, ...]:
    return (TensorSpec(name, dtype, shape),)


TEXT = make_text_card()
assert TEXT.text is not None
SPEC = TEXT.text


@pytest.mark.parametrize(
    ("card", "said"),
    [
        (make_card(method="exact"), "is verified by tensor"),
        (make_card(kind="text"), "is verified by text"),
        (make_card(inputs=out() + out()), "one name"),
        (make_card(outputs=out() + out()), "one name"),
        (make_card(tolerances={}), "one tolerance"),
        (make_card(tolerances={**make_card().tolerances, "n": Tolerance(relative=1e-6, scale=1.0)}), "one tolerance"),
        (make_card(text=TEXT.text), "do not go together"),
        (msgspec.structs.replace(TEXT, text=None), "do not go together"),
        (msgspec.structs.replace(TEXT, tolerances=make_card().tolerances), "one tolerance"),
        (make_card(**{**CLASSIFIER, "inputs": out("x", "float32", (-1, 3))}), "fixed shape"),
        (make_card(**{**CLASSIFIER, "outputs": out(shape=(-1, 2))}), "scores of shape"),
        (make_card(**{**CLASSIFIER, "outputs": out(shape=(2, 2))}), "scores of shape"),
        (make_card(**{**CLASSIFIER, "outputs": out(shape=(2,))}), "scores of shape"),
        (make_card(**{**CLASSIFIER, "outputs": out(shape=(1, 1))}), "two classes"),
        (make_card(**{**CLASSIFIER, "outputs": out(shape=(1, -1))}), "two classes"),
        (make_card(**{**CLASSIFIER, "outputs": out(dtype="float64")}), "scores of shape"),
        (msgspec.structs.replace(TEXT, inputs=TEXT.inputs[:2]), "a decoder takes"),
        (msgspec.structs.replace(TEXT, inputs=TEXT.inputs[:1]), "past_keys must be"),
        (
            msgspec.structs.replace(
                TEXT, inputs=(TEXT.inputs[0], *out("past_keys", shape=(1, -1, -1, -1, 2)), TEXT.inputs[2])
            ),
            "past_keys must be",
        ),
        (msgspec.structs.replace(TEXT, inputs=out("ids") + TEXT.inputs[1:]), "a decoder takes"),
        (msgspec.structs.replace(TEXT, outputs=TEXT.outputs[:2]), "a decoder gives"),
        (msgspec.structs.replace(TEXT, outputs=out("logits", shape=(-1, -1, 9)) + TEXT.outputs[1:]), "a decoder gives"),
        (msgspec.structs.replace(TEXT, text=msgspec.structs.replace(SPEC, bos=257)), "must differ"),
        (msgspec.structs.replace(TEXT, text=msgspec.structs.replace(SPEC, eos=258)), "within the vocabulary"),
        (msgspec.structs.replace(TEXT, text=msgspec.structs.replace(SPEC, max_tokens=32)), "no room"),
    ],
)
def test_a_card_that_its_method_cannot_use(card: ModelCard, said: str) -> None:
    with pytest.raises(CodecError, match=said):
        check_card(card)
    with pytest.raises(CodecError, match=said):
        decode_card(encode_canonical(card))


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("tensor", "version", 2),
        ("tensor", "kind", "poem"),
        ("tensor", "more", 1),
        ("tensor", "name", ""),
        ("tensor", "licence", "x" * 1025),
        ("tensor", "inputs", []),
        ("tensor", "outputs", [{"name": f"x{i}", "dtype": "int32", "shape": []} for i in range(17)]),
        ("tensor", "model.sha256", "0x" + "00" * 32),
        ("tensor", "model.sha256", "00" * 31),
        ("tensor", "model.sha256", "AA" * 32),
        ("tensor", "model.size", 0),
        ("tensor", "model.size", 1 << 60),
        ("tensor", "tolerances.y.relative", 0.0),
        ("tensor", "tolerances.y.relative", 1.1e-4),  # float16 weights would pass
        ("tensor", "tolerances.y.scale", 0.0),
        ("tensor", "tolerances.y.scale", -1.0),
        ("tensor", "tolerances.y.scale", 1e31),
        ("tensor", "quality", {"accuracy": "good"}),
        ("tensor", "calibration.samples", 0),
        ("text", "text.margin", 0.0),
        ("text", "text.margin", 2e-3),  # a forger would choose among tokens
        ("text", "text.context", 257),
        ("text", "text.vocab", 256),
        ("text", "text.bos", 255),
        ("text", "text.tokens", "words"),
    ],
)
def test_values_out_of_range_are_refused(kind: str, path: str, value: object) -> None:
    form = json.loads(encode_canonical(CARDS[kind]))
    at = form
    *parents, last = path.split(".")
    for name in parents:
        at = at[name]
    at[last] = value
    with pytest.raises(CodecError, match=r"^model card: "):
        decode_card(encode_canonical(form))


def test_a_card_has_one_spelling_and_a_limit() -> None:
    with pytest.raises(CodecError, match="canonical"):
        decode_card(encode_canonical(make_card()) + b" ")
    with pytest.raises(CodecError, match="at most"):
        decode_card(b" " * (MAX_CARD_BYTES + 1))


def test_a_tolerance_is_a_part_of_the_scale() -> None:
    assert Tolerance(relative=1e-5, scale=20.0).absolute == pytest.approx(2e-4)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_card_or_a_codec_error(data: bytes) -> None:
    with pytest.raises(CodecError):
        decode_card(data)
