"""A model that is a matrix: card, engine, an input and its honest output, for tests that need no ONNX."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import msgspec
import numpy as np

from shared.adapters.memory.engine import FunctionEngine, FunctionModel
from shared.canonical import encode_canonical
from shared.card_parts import Golden, ModelFile, Tolerance
from shared.content.unixfs import cid_of
from shared.documents import ClassifyOutput, InputDocument, Parameters, encode_input
from shared.golden import GoldenVector, encode_golden
from shared.interfaces import Tensors
from shared.tensors import TensorSpec, encode_tensor
from shared.types import Digest, TaskDefinition, TaskTerms
from tests.cards import make_card, make_text_card

WEIGHTS = (np.arange(12, dtype=np.float32).reshape(4, 3) % 5 - 2) / 7
MODEL = b"scores = x @ WEIGHTS"
MODEL_HASH = Digest(hashlib.sha256(MODEL).digest())
X = TensorSpec("x", "float32", (1, 4))
SCORES = TensorSpec("scores", "float32", (1, 3))
HONEST_X = (1.0, 4.0, 1.0, 0.0)
OUTPUT = ClassifyOutput(
    scores=encode_tensor(np.array([HONEST_X], np.float32) @ WEIGHTS),
    label=int(np.argmax(np.array(HONEST_X, np.float32) @ WEIGHTS)),
)
assert OUTPUT.label == 1  # not 0, which an empty answer would be too
DATA = OUTPUT.label.to_bytes(32, "big")

UNTESTED = make_card(
    kind="classify",
    method="tensor",
    model=ModelFile(cid=cid_of(MODEL), sha256=MODEL_HASH.hex(), size=len(MODEL)),
    inputs=(X,),
    outputs=(SCORES,),
    tolerances={"scores": Tolerance(relative=1e-5, scale=10.0)},
)
GOLDEN = GoldenVector(
    task_id=Digest(hashlib.sha256(b"a golden task").digest()),
    document=InputDocument(tensors={"x": np.array([HONEST_X], np.float32)}),
    parameters=Parameters(),
    output=OUTPUT,
)
GOLDEN_BYTES = encode_golden(UNTESTED, [GOLDEN])
CARD = msgspec.structs.replace(UNTESTED, golden=Golden(cid=cid_of(GOLDEN_BYTES), vectors=1))
CARD_BYTES = encode_canonical(CARD)
CARD_CID = cid_of(CARD_BYTES)
TEXT_CARD = msgspec.structs.replace(make_text_card(seed="beacon"), model=CARD.model)
DEFINITION = TaskDefinition(0, "toy", "tensor", MODEL_HASH, CARD_CID, terms=TaskTerms(dispute_window=500))


def multiply(inputs: Tensors) -> Tensors:
    return {"scores": (inputs["x"].astype(np.float32) @ WEIGHTS).astype(np.float32)}


def engine_of(function: Callable[[Tensors], Tensors] = multiply, seconds: float = 0.0) -> FunctionEngine:
    return FunctionEngine({MODEL_HASH: FunctionModel((X,), function)}, seconds=seconds)


def document_of(*values: float) -> bytes:
    """An input that fits the model; four numbers."""
    x = np.array([values or HONEST_X], np.float32)
    return encode_input(InputDocument(tensors={"x": x}))


DOCUMENT = document_of()
