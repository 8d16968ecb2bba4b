"""Golden vectors (protocol §5): what a card's `golden.cid` names, and what attesters test themselves on.

Each is a task of nobody's: an input, its parameters, and what the float64 reference gave for it, rounded to the card's
dtypes. A text samples with the vector's own task id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from shared.canonical import decode_canonical, encode_canonical
from shared.constants import MAX_GOLDEN_BYTES
from shared.documents import (
    InputDocument,
    ModelCard,
    Output,
    Parameters,
    decode_input,
    decode_parameters,
    encode_input,
    encode_parameters,
    validate_input,
)
from shared.errors import CodecError, InputMismatch
from shared.types import Digest

MAX_VECTORS = 64  # as a card's `golden.vectors`


@dataclass(frozen=True, slots=True)
class GoldenVector:
    """`document` and `parameters` fit the card that names it."""

    task_id: Digest
    document: InputDocument
    parameters: Parameters
    output: Output


class _VectorForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    task_id: Annotated[str, Meta(pattern="^0x[0-9a-f]{64}$", max_length=66)]
    document: msgspec.Raw  # as `encode_input`
    parameters: msgspec.Raw  # as `encode_parameters`
    output: Output


class _GoldenForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: Literal[1]
    vectors: Annotated[tuple[_VectorForm, ...], Meta(min_length=1, max_length=MAX_VECTORS)]


def encode_golden(card: ModelCard, vectors: Sequence[GoldenVector]) -> bytes:
    """Canonical."""
    forms = tuple(
        _VectorForm(
            task_id=f"0x{vector.task_id.hex()}",
            document=msgspec.Raw(encode_input(vector.document)),
            parameters=msgspec.Raw(encode_parameters(_parameters_of(card, vector)).encode()),
            output=vector.output,
        )
        for vector in vectors
    )
    return encode_canonical(_GoldenForm(version=1, vectors=forms))


def decode_golden(card: ModelCard, data: bytes) -> tuple[GoldenVector, ...]:
    """Raises `CodecError` unless it is canonical, its inputs fit the card, and it has as many as the card says."""
    form = decode_canonical(data, _GoldenForm, "golden vectors", max_bytes=MAX_GOLDEN_BYTES)
    if card.golden is None or len(form.vectors) != card.golden.vectors:
        raise CodecError(f"golden vectors: {len(form.vectors)} of them, and the card names another number")
    return tuple(_decode_vector(card, vector) for vector in form.vectors)


def _decode_vector(card: ModelCard, form: _VectorForm) -> GoldenVector:
    document = decode_input(bytes(form.document))
    if encode_input(document) != bytes(form.document):
        raise CodecError("golden vectors: a document is not canonical JSON")
    try:
        # Raw JSON is not looked into: what is no UTF-8 in it is refused by `decode_parameters`.
        parameters = decode_parameters(card, bytes(form.parameters).decode(errors="surrogateescape"))
        validate_input(card, document, parameters)
    except InputMismatch as error:
        raise CodecError(f"golden vectors: {error}") from None
    return GoldenVector(Digest(bytes.fromhex(form.task_id[2:])), document, parameters, form.output)


def _parameters_of(card: ModelCard, vector: GoldenVector) -> Parameters | None:
    return vector.parameters if card.text is not None else None
