"""Counting texts until a cheat is found: from growths that are given, so that the counts are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.bounds import upper_bound
from bench.detection_sequential import (
    LIVES,
    RESAMPLED,
    SHARE,
    TOKENS,
    Cheated,
    Counts,
    Tried,
    rows_of,
    sheet_of,
    try_sequential,
)
from models.samples import read_documents
from shared.profiles import Profile
from shared.verification.wealth import SHARES, Growth
from tests.inference_support import MODELS, card_of
from tests.sequence_support import SEQUENCE

NOTHING: Growth = (-1.0,) * len(SHARES)
SOME: Growth = (4.0,) * len(SHARES)
ENOUGH: Growth = (10.0,) * len(SHARES)


def cheated(*growths: Growth | None, tokens: int = TOKENS) -> Cheated:
    return Cheated("int8 weights", list(growths), [tokens] * len(growths))


def test_caught_at_once_counts_full_texts_alone() -> None:
    each = cheated(ENOUGH, SOME, None)
    each.growths.append(ENOUGH)
    each.tokens.append(TOKENS - 1)
    assert each.caught_at_once(SEQUENCE.limit) == [True, False, True]


@pytest.mark.parametrize(("growth", "texts"), [(None, 1), (ENOUGH, 1), (SOME, 3), (NOTHING, math.inf)])
def test_tokens_until_it_is_caught(growth: Growth | None, texts: float) -> None:
    found = cheated(growth, tokens=50).tokens_until_caught(SEQUENCE.limit, np.random.default_rng(0))
    assert found == texts * 50


def test_rows_say_what_was_counted() -> None:
    tried = Tried(Profile.BF16, SEQUENCE, 0, 0, [cheated(*[ENOUGH] * 199, SOME)])
    rows = {row.quantity: row for row in rows_of(tried)}
    goal = rows["bf16: int8 weights at FPR ≤ 1e-4 within 64 tokens"]
    assert (goal.value, goal.goal, goal.met) == (0.995, SHARE, True)
    assert (
        rows["bf16: honest texts, share convicted at most (exact 95 % bound)"].value == upper_bound(0, RESAMPLED) < 1e-4
    )
    assert [line[0] for line in sheet_of(tried).lines] == ["int8 weights"]


def test_a_small_run_from_end_to_end() -> None:
    """Enough to see that honest texts pass and that coarse weights do not."""
    folder = MODELS / "text"
    tried = try_sequential(
        card_of("text"),
        (folder / "model.onnx").read_bytes(),
        read_documents(folder),
        folder,
        Profile.BF16,
        Counts(honest=8, goal=2, cheats=1),
        seconds=0.0,
    )
    assert [each.name for each in tried.cheats] == ["int8 weights"]
    assert (tried.false_texts, tried.false_lives) == (0, 0)
    assert len(tried.cheats[0].caught_at_once(tried.part.limit)) == 2
    assert LIVES == 1000
