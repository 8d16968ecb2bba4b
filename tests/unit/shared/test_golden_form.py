"""Golden vectors: written and read, held to their card, and refused when they are anything else."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.canonical import encode_canonical
from shared.card_parts import Golden
from shared.constants import MAX_GOLDEN_BYTES
from shared.documents import InputDocument, Parameters, TensorOutput, TextOutput
from shared.errors import CodecError
from shared.golden import MAX_VECTORS, GoldenVector, decode_golden, encode_golden
from shared.tensors import encode_tensor
from tests.cards import make_card, make_text_card
from tests.inference_support import MODELS, TASK, card_of

CARD = make_card()
VECTOR = GoldenVector(
    TASK,
    InputDocument(tensors={"x": np.array([[1, 2, 3]], np.float32)}),
    Parameters(),
    TensorOutput(tensors={"y": encode_tensor(np.zeros((1, 3), np.float32)), "n": encode_tensor(np.zeros(2, np.int64))}),
)
TEXT_CARD = make_text_card()
TEXT_VECTOR = GoldenVector(
    TASK,
    InputDocument(prompt="été"),
    Parameters(max_tokens=4, temperature=0.8, top_k=40),
    TextOutput(encoding="bytes", prompt=(256, *"été".encode()), tokens=(97, 257), stop="eos", tops=bytes(2 * 48)),
)


def form_of(data: bytes) -> Any:
    return json.loads(data)


def assert_same(one: GoldenVector, other: GoldenVector) -> None:
    assert (one.task_id, one.parameters, one.output) == (other.task_id, other.parameters, other.output)
    assert one.document.prompt == other.document.prompt
    tensors, others = one.document.tensors or {}, other.document.tensors or {}
    assert tensors.keys() == others.keys()
    assert all(np.array_equal(tensors[name], others[name]) for name in tensors)


def test_vectors_survive() -> None:
    for card, vector in ((CARD, VECTOR), (TEXT_CARD, TEXT_VECTOR)):
        (decoded,) = decode_golden(card, encode_golden(card, [vector]))
        assert_same(decoded, vector)


def test_their_form_is_that_of_the_protocol() -> None:
    form = form_of(encode_golden(TEXT_CARD, [TEXT_VECTOR]))
    assert form["version"] == 1
    (vector,) = form["vectors"]
    assert set(vector) == {"taskId", "document", "parameters", "output"}
    assert vector["taskId"] == f"0x{TASK.hex()}"
    assert vector["document"] == {"prompt": "été"}
    assert vector["parameters"] == {"max_tokens": 4, "temperature": 0.8, "top_k": 40}
    assert form_of(encode_golden(CARD, [VECTOR]))["vectors"][0]["parameters"] == {}


@pytest.mark.parametrize("name", sorted(path.parent.name for path in MODELS.glob("*/card.json")))
def test_those_of_the_shipped_cards_can_be_read(name: str) -> None:
    card = card_of(name)
    vectors = decode_golden(card, (MODELS / name / "golden.json").read_bytes())
    assert card.golden is not None
    assert len(vectors) == card.golden.vectors == 16
    assert len({vector.task_id for vector in vectors}) == 16


@pytest.mark.parametrize("vectors", [2, 64])
def test_as_many_as_the_card_says(vectors: int) -> None:
    card = msgspec.structs.replace(CARD, golden=Golden(cid="bafkrei", vectors=vectors))
    with pytest.raises(CodecError, match="1 of them, and the card names another number"):
        decode_golden(card, encode_golden(CARD, [VECTOR]))


@pytest.mark.parametrize("count", [0, MAX_VECTORS + 1])
def test_none_and_too_many_are_refused(count: int) -> None:
    with pytest.raises(CodecError, match="length"):
        decode_golden(CARD, encode_golden(CARD, [VECTOR] * count))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("version", 2),
        ("more", 1),
        ("vectors.0.more", 1),
        ("vectors.0.taskId", "00" * 32),
        ("vectors.0.taskId", "0x" + "00" * 31),
        ("vectors.0.document", {}),
        ("vectors.0.document", {"prompt": "a"}),
        ("vectors.0.document", {"prompt": "a", "tensors": {}}),
        ("vectors.0.document", 1),
        ("vectors.0.document", {"tensors": {"x": {"dtype": "float32", "shape": [1, 2], "data": "AAAAAAAAAAA="}}}),
        ("vectors.0.parameters", {"max_tokens": 1}),
        ("vectors.0.parameters", []),
        ("vectors.0.output", {"kind": "poem"}),
        ("vectors.0.output", {"kind": "classify"}),
    ],
)
def test_anything_else_is_refused(path: str, value: object) -> None:
    form = form_of(encode_golden(CARD, [VECTOR]))
    *parents, last = path.split(".")
    at = form
    for name in parents:
        at = at[int(name) if name.isdigit() else name]
    at[last] = value
    with pytest.raises(CodecError):
        decode_golden(CARD, encode_canonical(form))


def test_they_have_one_spelling_and_a_limit() -> None:
    data = encode_golden(TEXT_CARD, [TEXT_VECTOR])
    for spelled in (
        data + b" ",
        data.replace(b'"top_k":40', b'"top_k":40.0'),
        data.replace(b'"top_k":40', b'"top_k" :40'),
    ):
        assert spelled != data
        with pytest.raises(CodecError):
            decode_golden(TEXT_CARD, spelled)
    spaced = data.replace('{"prompt":"été"}'.encode(), '{"prompt": "été"}'.encode())
    assert spaced != data
    with pytest.raises(CodecError, match="not canonical"):
        decode_golden(TEXT_CARD, spaced)
    with pytest.raises(CodecError, match="at most"):
        decode_golden(CARD, b" " * (MAX_GOLDEN_BYTES + 1))


@given(st.binary(max_size=200))
def test_any_bytes_are_vectors_or_a_codec_error(data: bytes) -> None:
    with pytest.raises(CodecError):
        decode_golden(CARD, data)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_no_flipped_byte_raises_anything_else(at: int, flip: int) -> None:
    data = bytearray(encode_golden(TEXT_CARD, [TEXT_VECTOR]))
    data[at % len(data)] ^= flip
    try:
        decode_golden(TEXT_CARD, bytes(data))
    except CodecError:
        return
