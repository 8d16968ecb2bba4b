"""Golden vectors: what is written is read, and a file that does not fit its card is none."""

from __future__ import annotations

import msgspec
import pytest

from shared.card_parts import Golden
from shared.constants import MAX_GOLDEN_BYTES
from shared.documents import InputDocument, Parameters
from shared.errors import CodecError
from shared.golden import GoldenVector, decode_golden, encode_golden
from shared.outputs import TextOutput
from shared.types import Digest
from tests.cards import make_text_card
from tests.toy_model import CARD, GOLDEN, GOLDEN_BYTES

TEXT_CARD = make_text_card()
TEXT = GoldenVector(
    task_id=Digest(bytes(32)),
    document=InputDocument(prompt='hé"llo\\'),
    parameters=Parameters(max_tokens=2, temperature=0.5, top_k=3),
    output=TextOutput(encoding="bytes", prompt=(256, 104), tokens=(105, 257), stop="eos", tops=bytes(96)),
)


def test_tensors_come_back() -> None:
    [vector] = decode_golden(CARD, GOLDEN_BYTES)
    assert vector.task_id == GOLDEN.task_id
    assert (vector.parameters, vector.output) == (Parameters(), GOLDEN.output)
    assert vector.document.tensors is not None
    assert vector.document.tensors["x"].tolist() == [[1.0, 4.0, 1.0, 0.0]]


def test_texts_come_back_with_their_parameters() -> None:
    card = msgspec.structs.replace(TEXT_CARD, golden=Golden(cid="bafkrei", vectors=2))
    other = GoldenVector(Digest(bytes([1]) * 32), InputDocument(prompt=""), Parameters(max_tokens=1), TEXT.output)
    assert decode_golden(card, encode_golden(card, [TEXT, other])) == (TEXT, other)


GOOD = encode_golden(TEXT_CARD, [TEXT])
BAD = {
    "nothing": b"",
    "no vectors": b'{"vectors":[],"version":1}',
    "one too many": encode_golden(TEXT_CARD, [TEXT, TEXT]),
    "another version": GOOD.replace(b'"version":1', b'"version":2'),
    "not canonical": GOOD.replace(b'"version":1', b'"version": 1'),
    "a document that is not canonical": GOOD.replace(b'{"prompt"', b'{ "prompt"'),
    "a document that does not fit": GOOD.replace(b'{"prompt":"h', b'{"prompt":"' + b"h" * 64),
    "both kinds of input": GOOD.replace(b'{"prompt"', b'{"tensors":{},"prompt"'),
    "parameters that are not canonical": GOOD.replace(b'{"max_tokens"', b'{ "max_tokens"'),
    "parameters out of range": GOOD.replace(b'"max_tokens":2', b'"max_tokens":99'),
    "parameters that are no UTF-8": GOOD.replace(b'"top_k":3', b'"top_k":3,"\xff":1'),
    "parameters that are no object": GOOD.replace(b'{"max_tokens":2,"temperature":0.5,"top_k":3}', b"[]"),
    "an output of no kind": GOOD.replace(b'"kind":"text"', b'"kind":"song"'),
    "a task id that is short": GOOD.replace(b'"0x00', b'"0x'),
    "an unknown field": GOOD.replace(b'"output"', b'"note":1,"output"'),
    "deep brackets": GOOD.replace(b'{"max_tokens":2,"temperature":0.5,"top_k":3}', b"[" * 8000 + b"]" * 8000),
    "too large": b" " * (MAX_GOLDEN_BYTES + 1),
}


@pytest.mark.parametrize("what", BAD)
def test_what_does_not_fit_the_card_is_refused(what: str) -> None:
    assert BAD[what] != GOOD
    assert decode_golden(TEXT_CARD, GOOD) == (TEXT,)
    with pytest.raises(CodecError):
        decode_golden(TEXT_CARD, BAD[what])
