"""Reading and writing a text: what is fed to which pass, with a cache and without."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from shared.documents import ModelCard
from shared.errors import InferenceFailed
from shared.interfaces import Tensors
from shared.verification.decoder import READ_AT_ONCE, Decoding
from tests.cards import make_text_card

VOCAB = 258


class Counting:
    """Each token gives the sum of all tokens up to it, which its keys carry; remembers (past, ids) of each pass."""

    def __init__(self, *, has_cache: bool) -> None:
        self.has_cache = has_cache
        self.passes: list[tuple[int, int]] = []

    async def run(self, inputs: Tensors) -> Tensors:
        ids = inputs["ids"]
        past = inputs["past_keys"][0, 0, 0, :, 0] if self.has_cache else np.zeros(0, np.float32)
        sums = np.cumsum([*past[-1:], *ids[0]])[len(past[-1:]) :].astype(np.float32)
        self.passes.append((len(past), ids.shape[1]))
        outputs = {"logits": np.repeat(sums[np.newaxis, :, np.newaxis], VOCAB, -1)}
        if self.has_cache:
            kept = np.concatenate([past, sums])[np.newaxis, np.newaxis, np.newaxis, :, np.newaxis]
            outputs |= dict.fromkeys(("keys", "values"), np.repeat(kept, 2, -1).astype(np.float32))
        return outputs


def card(*, has_cache: bool) -> ModelCard:
    made = make_text_card(VOCAB, 2048, 1024)
    if has_cache:
        return made
    return msgspec.structs.replace(made, inputs=made.inputs[:1], outputs=made.outputs[:1])


TEXT = tuple(np.random.default_rng(0).integers(0, 4, 2 * READ_AT_ONCE + 5).tolist())


@pytest.mark.parametrize("has_cache", [True, False])
async def test_a_text_reads_the_same_at_once_and_token_by_token(has_cache):
    model = Counting(has_cache=has_cache)
    at_once = await Decoding(card(has_cache=has_cache), model.run).feed(TEXT)
    one_by_one = Decoding(card(has_cache=has_cache), model.run)
    rows = [await one_by_one.feed((token,)) for token in TEXT]
    np.testing.assert_array_equal(at_once[:, 0], np.cumsum(TEXT))
    np.testing.assert_array_equal(at_once, np.concatenate(rows))


async def test_a_long_text_is_read_in_pieces_behind_each_other():
    model = Counting(has_cache=True)
    decoding = Decoding(card(has_cache=True), model.run)
    await decoding.feed(TEXT)
    await decoding.feed((1,))
    assert model.passes == [(0, READ_AT_ONCE), (READ_AT_ONCE, READ_AT_ONCE), (2 * READ_AT_ONCE, 5), (len(TEXT), 1)]


async def test_without_a_cache_a_text_is_read_whole_each_time():
    model = Counting(has_cache=False)
    decoding = Decoding(card(has_cache=False), model.run)
    await decoding.feed(TEXT)
    await decoding.feed((1, 2))
    assert model.passes == [(0, len(TEXT)), (0, len(TEXT) + 2)]


async def test_logits_for_another_number_of_tokens_are_no_answer():
    async def run(inputs: Tensors) -> Tensors:
        outputs = await Counting(has_cache=True).run(inputs)
        return {**outputs, "logits": outputs["logits"][:, :-1]}

    with pytest.raises(InferenceFailed, match="for 3 tokens"):
        await Decoding(card(has_cache=True), run).feed((1, 2, 3))
