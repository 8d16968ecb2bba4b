"""The model card (protocol §5): what a task definition's `cardCid` names.

It says which bytes the model is, what goes in and out, and how far two honest runs may lie apart. Its CID is on chain,
so nobody moves a tolerance after a task.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from shared.canonical import decode_canonical
from shared.constants import MAX_CARD_BYTES, MAX_CID_CHARACTERS, MAX_MODEL_BYTES, MAX_TEXT_TOKENS
from shared.errors import CodecError
from shared.tensors import MAX_TENSORS, Name, TensorSpec

# float32 runs lie within 1e-5 of the scale, float16 weights beyond 1e-4: wider would bless another model.
MAX_RELATIVE_TOLERANCE = 1e-4
# A forger chooses among the tokens within the margin: at 1e-3 logits one position in a thousand has a second one.
MAX_MARGIN = 1e-3
BYTES_VOCABULARY = 256

KINDS = {"classify": "exact", "tensor": "tensor", "text": "text"}  # kind: method

Line = Annotated[str, Meta(max_length=1024)]
Size = Annotated[int, Meta(ge=1, le=MAX_MODEL_BYTES)]
Positive = Annotated[float, Meta(gt=0, le=1e30)]  # a bound also keeps infinity out
Measured = Annotated[float, Meta(ge=-1e30, le=1e30)]


class _Form(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """A part of the card: camelCase, nothing unknown."""


class ModelFile(_Form, frozen=True):
    """The ONNX file."""

    cid: Annotated[str, Meta(max_length=MAX_CID_CHARACTERS)]
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$", max_length=64)]  # equals the chain's model hash
    size: Size


class Tolerance(_Form, frozen=True):
    """Two runs agree when `max|Δ| ≤ relative · scale`."""

    relative: Annotated[float, Meta(gt=0, le=MAX_RELATIVE_TOLERANCE)]
    scale: Positive  # largest magnitude of this output in calibration

    @property
    def absolute(self) -> float:
        return self.relative * self.scale


class TextSpec(_Form, frozen=True):
    """How text becomes tokens and how long it may get. Tokens below 256 are the bytes of UTF-8 text."""

    tokens: Literal["bytes"]
    vocab: Annotated[int, Meta(gt=BYTES_VOCABULARY, le=1 << 20)]
    bos: Annotated[int, Meta(ge=BYTES_VOCABULARY)]
    eos: Annotated[int, Meta(ge=BYTES_VOCABULARY)]
    context: Annotated[int, Meta(ge=2, le=MAX_TEXT_TOKENS)]  # prompt and output together
    max_tokens: Annotated[int, Meta(ge=1, le=MAX_TEXT_TOKENS)]  # of output
    margin: Annotated[float, Meta(gt=0, le=MAX_MARGIN)]  # logits by which a token may miss the sampler's choice
    seed: Literal["beacon", "requester"]  # what a request's seed must be: see `shared.seeds`


class Cheat(_Form, frozen=True):
    """What the calibration measured on a model changed on purpose."""

    smallest_deviation: Measured  # over the samples, as a multiple of the tolerance (or margin)
    caught: Annotated[float, Meta(ge=0, le=1)]  # share of outputs that verification rejects


class Calibration(_Form, frozen=True):
    """How the tolerances came about; see models/calibrate.py."""

    engine: Line
    samples: Annotated[int, Meta(ge=1)]
    configurations: Annotated[tuple[Line, ...], Meta(max_length=256)]
    honest_max: Measured  # the largest distance of two honest runs, in the unit of the tolerance
    cheats: Annotated[dict[Line, Cheat], Meta(max_length=64)]
    separation: Measured  # smallest deviation over all cheats and samples; above 1 every output of them is told apart


class ModelCard(_Form, frozen=True):
    """One model as the network knows it. Only `decode_card` makes one from a stranger's bytes."""

    version: Literal[1]
    name: Name
    kind: Literal["classify", "tensor", "text"]
    method: Name
    model: ModelFile
    inputs: Annotated[tuple[TensorSpec, ...], Meta(min_length=1, max_length=MAX_TENSORS)]
    outputs: Annotated[tuple[TensorSpec, ...], Meta(min_length=1, max_length=MAX_TENSORS)]
    tolerances: Annotated[dict[Name, Tolerance], Meta(max_length=MAX_TENSORS)]  # by output; none for text
    text: TextSpec | None
    trained_on: Line
    licence: Line
    made_by: Line
    quality: Annotated[dict[Line, Measured], Meta(max_length=64)]  # as the training script measured it
    calibration: Calibration


def decode_card(data: bytes) -> ModelCard:
    """Raises `CodecError` unless it is canonical and fit to be verified by its method."""
    card = decode_canonical(data, ModelCard, "model card", max_bytes=MAX_CARD_BYTES)
    check_card(card)
    return card


def check_card(card: ModelCard) -> None:
    """What the fields say together. Raises `CodecError`."""
    if card.method != KINDS[card.kind]:
        raise CodecError(f"model card: kind {card.kind} is verified by {KINDS[card.kind]}")
    for specs in (card.inputs, card.outputs):
        if len({spec.name for spec in specs}) != len(specs):
            raise CodecError("model card: two tensors of one name")
    compared = () if card.kind == "text" else card.outputs
    if set(card.tolerances) != {spec.name for spec in compared if spec.dtype.startswith("float")}:
        raise CodecError("model card: one tolerance for each float output, and no other")
    if (card.text is not None) != (card.kind == "text"):
        raise CodecError("model card: text and kind do not go together")
    if card.kind == "classify":
        _check_classifier(card)
    if card.text is not None:
        _check_decoder(card, card.text)


def _check_classifier(card: ModelCard) -> None:
    if any(-1 in spec.shape for spec in card.inputs):
        raise CodecError("model card: a classifier takes one input of fixed shape")
    scores = card.outputs[0]
    if len(card.outputs) != 1 or scores.dtype != "float32" or scores.shape[:1] != (1,) or len(scores.shape) != 2:
        raise CodecError("model card: a classifier gives float32 scores of shape [1, classes]")
    if scores.shape[1] < 2:
        raise CodecError("model card: fewer than two classes")


def _check_decoder(card: ModelCard, text: TextSpec) -> None:
    """ids (batch, time) and pasts (layers, batch, heads, past, width) in; logits (batch, time, vocab) and pasts out."""
    inputs = {spec.name: (spec.dtype, spec.shape) for spec in card.inputs}
    past = inputs.get("past_keys", ("", ()))
    free = tuple(i for i, size in enumerate(past[1]) if size == -1)
    if past[0] != "float32" or len(past[1]) != 5 or free != (1, 3):
        raise CodecError("model card: past_keys must be float32 of shape [layers, -1, heads, -1, width]")
    if inputs != {"ids": ("int64", (-1, -1)), "past_keys": past, "past_values": past}:
        raise CodecError("model card: a decoder takes int64 ids [-1, -1], past_keys and past_values")
    outputs = {spec.name: (spec.dtype, spec.shape) for spec in card.outputs}
    if outputs != {"logits": ("float32", (-1, -1, text.vocab)), "keys": past, "values": past}:
        raise CodecError("model card: a decoder gives float32 logits [-1, -1, vocab], keys and values")
    if text.bos == text.eos or max(text.bos, text.eos) >= text.vocab:
        raise CodecError("model card: bos and eos must differ and lie within the vocabulary")
    if text.max_tokens >= text.context:
        raise CodecError("model card: max_tokens leaves no room for a prompt")
