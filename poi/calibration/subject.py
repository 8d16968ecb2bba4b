"""What is calibrated: a card without numbers, the model's bytes, and samples of the work that it will do."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, cast

import numpy as np

from poi.calibration.samples import with_noise
from shared.documents import InputDocument, ModelCard, Output, Parameters, TextOutput
from shared.errors import CalibrationFailed
from shared.interfaces import Tensors
from shared.tensors import Array
from shared.types import Address, Digest
from shared.verification.decoder import empty_past, spec_of
from shared.verification.method import Compute, Forward, Work
from shared.verification.sampling import Logits
from shared.verification.tensor import output_of
from shared.verification.text import SeededText, text_output

NOBODY: Final = Address(bytes(20))  # performs in no task
TEXTS: Final = 32  # of up to 64 tokens: 2,048 positions
TEMPERATURE, TOP_K, MAX_TOKENS = 0.8, 40, 64


@dataclass(frozen=True, slots=True)
class Sample:
    """One piece of work. `inputs` is what a single forward pass of it is fed: of a text, prompt and output at once."""

    work: Work
    inputs: Tensors
    text: TextOutput | None = None

    def under(self, card: ModelCard) -> Work:
        """The same work, by a card with other numbers."""
        return replace(self.work, card=card)


def tensor_samples(card: ModelCard, documents: Sequence[InputDocument]) -> list[Sample]:
    inputs = with_noise([document.tensors or {} for document in documents])
    return [
        Sample(Work(task_of(i), NOBODY, card, InputDocument(tensors=each), Parameters()), each)
        for i, each in enumerate(inputs)
    ]


async def text_samples(card: ModelCard, documents: Sequence[InputDocument], forward: Forward) -> list[Sample]:
    """Texts that `forward` writes: each prompt as often as it takes to have `TEXTS`."""
    rounds = range(max(TEXTS, len(documents)))
    return [await _write(card, documents[i % len(documents)], forward, i) for i in rounds]


async def _write(card: ModelCard, document: InputDocument, forward: Forward, i: int) -> Sample:
    work = Work(task_of(i), NOBODY, card, document, text_parameters(card, MAX_TOKENS))
    text = await SeededText().prove(work, Compute(forward, forward))
    if not isinstance(text, TextOutput):
        raise CalibrationFailed(f"{card.name}: a decoder gave {type(text).__name__}")
    ids = np.array([text.prompt + text.tokens[:-1]], np.int64)
    return Sample(work, {"ids": ids, **past_of(card)}, text)


def text_parameters(card: ModelCard, max_tokens: int) -> Parameters:
    spec = spec_of(card)
    return Parameters(
        max_tokens=min(max_tokens, spec.max_tokens), temperature=TEMPERATURE, top_k=min(TOP_K, spec.vocab)
    )


def past_of(card: ModelCard) -> dict[str, Array]:
    """What a decoder with a cache is fed at first; nothing for one without."""
    return empty_past(card) if any(spec.name == "past_keys" for spec in card.inputs) else {}


def task_of(i: int) -> Digest:
    return Digest(hashlib.sha256(b"calibration" + i.to_bytes(4, "big")).digest())


def publish(sample: Sample, computed: Tensors) -> Output:
    """What a performer whose model gave `computed` publishes of it."""
    if sample.text is None:
        return output_of(sample.work.card, computed)
    logits = logits_of(sample.text, computed)
    return text_output(spec_of(sample.work.card), sample.text.prompt, sample.text.tokens, logits)


def logits_of(text: TextOutput, computed: Tensors) -> Logits:
    """(tokens, vocabulary): those before each of the text's own tokens."""
    return cast("Logits", computed["logits"][0, len(text.prompt) - 1 :])


def giving(computed: Tensors) -> Forward:
    """A model that was run before."""

    async def forward(inputs: Tensors) -> Tensors:
        return computed

    return forward


def compared(card: ModelCard, computed: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs that a method looks at, in an exact profile as they are published. A decoder's cache is none."""
    specs = [spec for spec in card.outputs if card.text is None or spec.name == "logits"]
    if card.profile.is_exact:
        return {spec.name: computed[spec.name].astype(spec.dtype, copy=False) for spec in specs}
    return {spec.name: computed[spec.name] for spec in specs}
