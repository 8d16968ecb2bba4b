"""The model card (protocol §5): what a task definition's `cardCid` names.

It says which bytes the model is, what goes in and out, in which arithmetic, and how far two honest runs may lie apart.
Its CID is on chain, so nobody moves a tolerance after a task: a new calibration is a new card, and a new definition.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta

from shared.canonical import decode_canonical
from shared.card_parts import (
    Audit,
    Calibration,
    CalibratorSignature,
    Feed,
    Form,
    Golden,
    Line,
    Measured,
    ModelFile,
    Positive,
    Sequence,
    Service,
    Similarity,
    TextSpec,
    Tolerance,
)
from shared.card_signatures import MAX_SIGNATURES, check_signatures
from shared.constants import MAX_CARD_BYTES, MAX_TENSOR_ELEMENTS
from shared.errors import CodecError
from shared.profiles import (
    MAX_MARGIN,
    MAX_RELATIVE_TOLERANCE,
    MIN_MARGIN,
    MIN_RELATIVE_TOLERANCE,
    MIN_SCALE,
    MIN_SEPARATION,
    Profile,
)
from shared.tensors import MAX_TENSORS, Name, TensorSpec

__all__ = ["Calibration", "ModelCard", "ModelFile", "TextSpec", "Tolerance", "check_card", "decode_card"]

# Which methods can verify which kind of output.
METHODS_OF = {
    "classify": ("tensor", "exact", "similarity"),
    "tensor": ("tensor", "exact", "similarity", "batch-audit"),
    "text": ("text", "sequential"),
    "json": ("external", "oracle"),
}
# A part of the card that one method reads, and that no card of another method has.
PART_OF_METHOD = {
    "similarity": "similarity",
    "batch-audit": "audit",
    "sequential": "sequence",
    "external": "service",
    "oracle": "feed",
}


class ModelCard(Form, frozen=True):
    """One model, or one source, as the network knows it. Only `decode_card` makes one from a stranger's bytes."""

    version: Literal[2]
    name: Name
    kind: Literal["classify", "tensor", "text", "json"]
    method: Name
    profile: Profile
    model: ModelFile | None  # None for `json`: what answers is a service or a source
    inputs: Annotated[tuple[TensorSpec, ...], Meta(max_length=MAX_TENSORS)]
    outputs: Annotated[tuple[TensorSpec, ...], Meta(max_length=MAX_TENSORS)]
    # By output; of a decoder's `logits`, too. None in exact profiles.
    tolerances: Annotated[dict[Name, Tolerance], Meta(max_length=MAX_TENSORS)]
    # By float input: the largest magnitude that a request may have. Beyond what was calibrated, rounding grows with the
    # numbers and tolerances do not; whoever asks for that must not cost an honest performer its stake.
    reach: Annotated[dict[Name, Positive], Meta(max_length=MAX_TENSORS)]
    text: TextSpec | None
    trained_on: Line
    licence: Line
    made_by: Line
    quality: Annotated[dict[Line, Measured], Meta(max_length=64)]  # as the training script measured it
    calibration: Calibration | None  # None for `json`
    golden: Golden | None  # None for `json`
    similarity: Similarity | None = None
    audit: Audit | None = None
    sequence: Sequence | None = None
    service: Service | None = None
    feed: Feed | None = None
    signatures: Annotated[tuple[CalibratorSignature, ...], Meta(max_length=MAX_SIGNATURES)] = ()


def decode_card(data: bytes) -> ModelCard:
    """Raises `CodecError` unless it is canonical, fit to be verified by its method, and signed by whom it says."""
    card = decode_canonical(data, ModelCard, "model card", max_bytes=MAX_CARD_BYTES)
    check_card(card)
    check_signatures(card)
    return card


def check_card(card: ModelCard) -> None:
    """What the fields say together. Raises `CodecError`."""
    if card.method not in METHODS_OF[card.kind]:
        raise CodecError(f"model card: kind {card.kind} is verified by {' or '.join(METHODS_OF[card.kind])}")
    for method, part in PART_OF_METHOD.items():
        if (getattr(card, part) is not None) != (card.method == method):
            raise CodecError(f"model card: {part} and method {method} go together")
    if (card.text is not None) != (card.kind == "text"):
        raise CodecError("model card: text and kind do not go together")
    if card.kind == "json":
        _check_source(card)
        return
    _check_model(card)
    _check_tolerances(card)
    floats = {spec.name for spec in card.inputs if spec.dtype.startswith("float") and card.text is None}
    if not set(card.reach) <= floats:
        raise CodecError(f"model card: a reach for {', '.join(sorted(floats)) or 'nothing'}, and for nothing else")
    if card.similarity is not None and card.similarity.output not in card.tolerances:
        raise CodecError(f"model card: similarity.output is one of {', '.join(sorted(card.tolerances))}")
    if card.kind == "classify":
        _check_classifier(card)
    if card.text is not None:
        _check_decoder(card, card.text)


def _check_source(card: ModelCard) -> None:
    if card.model is not None or card.inputs or card.outputs or card.calibration is not None or card.golden is not None:
        raise CodecError("model card: kind json has no model, tensors, calibration or golden vectors")
    if card.tolerances or card.reach or card.profile is not Profile.EXACT_INT:
        raise CodecError("model card: kind json has no tolerances, and the profile exact-int")
    if card.feed is not None:
        _check_feed(card.feed)


def _check_feed(feed: Feed) -> None:
    try:
        parts = urlsplit(feed.url)
    except ValueError as error:
        raise CodecError(f"model card: feed.url is no URL: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or "{" in parts.netloc:
        raise CodecError("model card: feed.url is an http or https URL whose host is no parameter")
    if set(re.findall(r"{([^{}]*)}", feed.url)) != set(feed.parameters):
        raise CodecError("model card: feed.url has {name} for each of its parameters, and for nothing else")
    if any(pointer and not pointer.startswith("/") for pointer in feed.select):
        raise CodecError("model card: feed.select has JSON pointers, which begin with /")
    if len(set(feed.select)) != len(feed.select):
        raise CodecError("model card: feed.select has a pointer twice")


def _check_model(card: ModelCard) -> None:
    if card.model is None or card.calibration is None or card.golden is None:
        raise CodecError("model card: a model comes with its file, its calibration and its golden vectors")
    if not card.inputs or not card.outputs:
        raise CodecError("model card: a model takes and gives at least one tensor")
    for specs in (card.inputs, card.outputs):
        if len({spec.name for spec in specs}) != len(specs):
            raise CodecError("model card: two tensors of one name")
    if (card.method == "exact") != card.profile.is_exact:
        raise CodecError("model card: the method exact goes with the exact profiles, and with no other")
    if (card.method == "sequential") != (card.profile in (Profile.FP16, Profile.BF16)):
        raise CodecError("model card: the profiles fp16 and bf16 are verified by the method sequential, and no other")
    if card.profile is Profile.FP32 and card.calibration.separation < MIN_SEPARATION:
        raise CodecError(
            f"model card: cheats are {card.calibration.separation:g} tolerances away, under {MIN_SEPARATION:g}"
        )


def _check_tolerances(card: ModelCard) -> None:
    if card.profile.is_exact:
        compared = set[str]()
    elif card.kind == "text":
        compared = {"logits"}
    else:
        compared = {spec.name for spec in card.outputs if spec.dtype.startswith("float")}
    if set(card.tolerances) != compared:
        raise CodecError(f"model card: tolerances for {', '.join(sorted(compared)) or 'nothing'}, and for nothing else")
    floor, cap = MIN_RELATIVE_TOLERANCE[card.profile], MAX_RELATIVE_TOLERANCE[card.profile]
    for name, tolerance in card.tolerances.items():
        if tolerance.relative > cap:
            raise CodecError(f"model card: {name} may differ by {tolerance.relative:g}; {card.profile} allows {cap:g}")
        if tolerance.relative < floor or tolerance.scale < MIN_SCALE:
            raise CodecError(
                f"model card: {name} may differ by {tolerance.relative:g} of {tolerance.scale:g}, and honest engines "
                f"differ by more; {card.profile} takes {floor:g} of {MIN_SCALE:g} at least"
            )


def _check_classifier(card: ModelCard) -> None:
    if any(-1 in spec.shape for spec in card.inputs):
        raise CodecError("model card: a classifier takes one input of fixed shape")
    scores = card.outputs[0]
    if len(card.outputs) != 1 or scores.dtype != "float32" or scores.shape[:1] != (1,) or len(scores.shape) != 2:
        raise CodecError("model card: a classifier gives float32 scores of shape [1, classes]")
    if scores.shape[1] < 2:
        raise CodecError("model card: fewer than two classes")


def _check_decoder(card: ModelCard, text: TextSpec) -> None:
    """With a cache: ids (batch, time) and pasts (layers, batch, heads, past, width) in; logits (batch, time, vocab) and
    pasts out. Without: ids in, logits out."""
    inputs = {spec.name: (spec.dtype, spec.shape) for spec in card.inputs}
    outputs = {spec.name: (spec.dtype, spec.shape) for spec in card.outputs}
    ids, logits = ("int64", (-1, -1)), ("float32", (-1, -1, text.vocab))
    past = inputs.get("past_keys")
    if past is None:
        if inputs != {"ids": ids} or outputs != {"logits": logits}:
            raise CodecError(
                "model card: a decoder without a cache takes int64 ids [-1, -1], gives logits [-1, -1, vocab]"
            )
    else:
        free = tuple(i for i, size in enumerate(past[1]) if size == -1)
        if past[0] != "float32" or len(past[1]) != 5 or free != (1, 3):
            raise CodecError("model card: past_keys must be float32 of shape [layers, -1, heads, -1, width]")
        if past[1][0] * past[1][2] * past[1][4] > MAX_TENSOR_ELEMENTS:  # an empty one is made before the model is run
            raise CodecError(f"model card: past_keys has more than {MAX_TENSOR_ELEMENTS} elements for one token")
        if inputs != {"ids": ids, "past_keys": past, "past_values": past}:
            raise CodecError("model card: a decoder takes int64 ids [-1, -1], past_keys and past_values")
        if outputs != {"logits": logits, "keys": past, "values": past}:
            raise CodecError("model card: a decoder gives float32 logits [-1, -1, vocab], keys and values")
    if text.bos == text.eos or max(text.bos, text.eos) >= text.vocab:
        raise CodecError("model card: bos and eos must differ and lie within the vocabulary")
    if text.tokens == "bytes" and min(text.vocab - 1, text.bos, text.eos) < 256:
        raise CodecError("model card: with bytes as tokens, bos and eos are 256 or more")
    if text.max_tokens >= text.context:
        raise CodecError("model card: max_tokens leaves no room for a prompt")
    if text.margin < MIN_MARGIN:
        raise CodecError(f"model card: margin {text.margin:g}, and honest engines differ by more; take {MIN_MARGIN:g}")
    if text.margin > MAX_MARGIN[card.profile]:
        raise CodecError(f"model card: margin {text.margin:g}; {card.profile} allows {MAX_MARGIN[card.profile]:g}")
