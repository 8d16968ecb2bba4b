"""A decoder as `model_card` describes it: prompts into tokens, tokens into logits, with a cache or without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, cast

import numpy as np

from shared.documents import InputDocument, ModelCard
from shared.errors import InferenceFailed, InputMismatch
from shared.interfaces import Tensors
from shared.model_card import TextSpec
from shared.tensors import Array
from shared.verification.computed import check_computed
from shared.verification.method import Forward
from shared.verification.sampling import Logits

# A longer text is read in pieces: attention takes memory by the square of what is read at once, and time to fetch it.
READ_AT_ONCE: Final = 192


def spec_of(card: ModelCard) -> TextSpec:
    """Raises `InputMismatch` for a card of another kind, which `check_card` keeps out."""
    if card.text is None:
        raise InputMismatch("card.text", "a decoder's card", card.kind)
    return card.text


def prompt_tokens(spec: TextSpec, document: InputDocument) -> tuple[int, ...]:
    """Bos and the bytes of the prompt, or the ids that the requester's tokenizer made."""
    if spec.tokens == "ids":
        return tuple(int(token) for token in np.ravel((document.tensors or {})["ids"]))
    return (spec.bos, *(document.prompt or "").encode())


@dataclass
class Decoding:
    """One text being read, or written, from its beginning: `feed` it tokens and it gives the logits after each.

    A decoder with a cache sees each token once, a long text in pieces. One without, as served models are, is given the
    whole text every time; its engine may keep a cache of its own.
    """

    card: ModelCard
    forward: Forward
    _read: list[int] = field(default_factory=list)
    _past: Tensors | None = None

    async def feed(self, tokens: Sequence[int]) -> Logits:
        """Logits (len(tokens), vocabulary), float32, or float64 from a reference. Raises `InferenceFailed` for what no
        sampler can use."""
        if not any(spec.name == "past_keys" for spec in self.card.inputs):
            self._read.extend(tokens)
            outputs = await self._run(self._read, {})
            return cast("Logits", outputs["logits"][0, len(self._read) - len(tokens) :])
        rows: list[Logits] = []
        for start in range(0, len(tokens), READ_AT_ONCE):
            outputs = await self._run(tokens[start : start + READ_AT_ONCE], self._past or empty_past(self.card))
            # A reference gives float64, and takes float32: a rounding of kept values, far within any tolerance.
            kept = {"past_keys": outputs["keys"], "past_values": outputs["values"]}
            self._past = {name: array.astype(np.float32, copy=False) for name, array in kept.items()}
            rows.append(cast("Logits", outputs["logits"][0]))
        return np.concatenate(rows)

    async def _run(self, ids: Sequence[int], past: Tensors) -> dict[str, Array]:
        outputs = check_computed(self.card, await self.forward({"ids": np.array([ids], np.int64), **past}))
        if outputs["logits"].shape[:2] != (1, len(ids)):
            raise InferenceFailed(f"logits of shape {outputs['logits'].shape} for {len(ids)} tokens")
        return outputs


def empty_past(card: ModelCard) -> dict[str, Array]:
    """No keys and values yet, for one text: the free dimensions are batch and time."""
    past = next(spec for spec in card.inputs if spec.name == "past_keys")
    layers, _, heads, _, width = past.shape
    empty = np.zeros((layers, 1, heads, 0, width), np.float32)
    return {"past_keys": empty, "past_values": empty}
