"""A decoder as `model_card` describes it: prompts into tokens, tokens into logits, with a cache or without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from shared.documents import InputDocument, ModelCard
from shared.errors import InferenceFailed, InputMismatch
from shared.interfaces import Tensors
from shared.model_card import TextSpec
from shared.tensors import Array
from shared.verification.computed import check_computed
from shared.verification.method import Forward
from shared.verification.sampling import Logits


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

    A decoder with a cache sees each token once. One without, as served models are, is given the whole text every time;
    its engine may keep a cache of its own.
    """

    card: ModelCard
    forward: Forward
    _read: list[int] = field(default_factory=list)
    _past: Tensors | None = None

    async def feed(self, tokens: Sequence[int]) -> Logits:
        """Logits (len(tokens), vocabulary), float32, or float64 from a reference. Raises `InferenceFailed` for what no
        sampler can use."""
        self._read.extend(tokens)
        has_cache = any(spec.name == "past_keys" for spec in self.card.inputs)
        fed = tokens if has_cache else self._read
        past = (self._past or empty_past(self.card)) if has_cache else {}
        outputs = check_computed(self.card, await self.forward({"ids": np.array([fed], np.int64), **past}))
        if outputs["logits"].shape[:2] != (1, len(fed)):
            raise InferenceFailed(f"logits of shape {outputs['logits'].shape} for {len(fed)} tokens")
        if has_cache:
            self._past = {"past_keys": outputs["keys"], "past_values": outputs["values"]}
        return cast("Logits", outputs["logits"][0, len(fed) - len(tokens) :])


def empty_past(card: ModelCard) -> dict[str, Array]:
    """No keys and values yet, for one text: the free dimensions are batch and time."""
    past = next(spec for spec in card.inputs if spec.name == "past_keys")
    layers, _, heads, _, width = past.shape
    empty = np.zeros((layers, 1, heads, 0, width), np.float32)
    return {"past_keys": empty, "past_values": empty}
