"""The golden vectors of a card: a few of its samples with what the reference gives for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import msgspec

from poi.calibration.subject import NOBODY, past_of, task_of, text_parameters
from shared.documents import InputDocument, ModelCard, Parameters
from shared.golden import GoldenVector
from shared.interfaces import Tensors
from shared.verification import METHODS
from shared.verification.method import Compute, Forward, Work

VECTORS: Final = 16  # an hourly self-test of a few milliseconds each
TEXT_TOKENS: Final = 16


async def golden_vectors(card: ModelCard, documents: Sequence[InputDocument], reference: Forward) -> list[GoldenVector]:
    """Of the first documents. Their outputs are rounded to the card's dtypes, as a performer's would be."""
    return [await _vector(card, document, reference, i) for i, document in enumerate(documents[:VECTORS])]


async def _vector(card: ModelCard, document: InputDocument, reference: Forward, i: int) -> GoldenVector:
    parameters = Parameters() if card.text is None else text_parameters(card, TEXT_TOKENS)
    work = Work(task_of(i), NOBODY, card, document, parameters)
    forward = reference if card.text is None else _whole_texts(card, reference)
    # What layers give is no part of a self-test: of a batch audit, too, the outputs are compared.
    method = METHODS["tensor" if card.method == "batch-audit" else card.method]
    output = await method.prove(replace(work, card=_without_cache(card)), Compute(forward, forward))
    return GoldenVector(work.task_id, document, parameters, output)


def _without_cache(card: ModelCard) -> ModelCard:
    """A cache holds float32 and would round the reference in the middle: the whole text is computed for each token."""
    if card.text is None:
        return card
    return msgspec.structs.replace(card, inputs=tuple(spec for spec in card.inputs if spec.name == "ids"))


def _whole_texts(card: ModelCard, reference: Forward) -> Forward:
    async def forward(inputs: Tensors) -> Tensors:
        return await reference({**inputs, **past_of(card)})

    return forward
