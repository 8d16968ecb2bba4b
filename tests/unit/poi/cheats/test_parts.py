"""The parts that cheats are made of: other models on demand, a cache in few bits, and what a margin leaves free."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from poi.cheats import NotApplicable, OtherModels
from poi.cheats.adaptive import alternatives
from poi.cheats.cache import quantised_cache
from poi.cheats.others import DECOY, TRAINED, other_model
from poi.cheats.sampling import _nucleus
from poi.cheats.weights import WEIGHT_CHEATS
from poi.cheats.writing import second_best
from shared.interfaces import Tensors
from shared.types import Digest
from shared.verification.sampling import Sampler
from tests.cheating import MODELS, PlainEngine

Array = np.ndarray[Any, Any]
TASK = Digest(bytes(range(32)))
IMAGE = {"image": np.full((1, 1, 8, 8), 0.5, np.float32)}


def digits() -> bytes:
    return (MODELS / "digits" / "model.onnx").read_bytes()


# --- other models ----------------------------------------------------------------------------------------
class Forgetful(PlainEngine):
    """Notes what it loads; forgets everything when told."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[Digest] = []

    async def load(self, model_hash: Digest, model: bytes) -> None:
        self.loaded.append(model_hash)
        await super().load(model_hash, model)

    def forget(self) -> None:
        self._sessions.clear()


async def test_a_model_is_made_when_it_is_first_run_and_again_when_it_was_pushed_out() -> None:
    engine = Forgetful()
    forward = OtherModels(digits(), engine)("int8 weights")
    assert engine.loaded == []
    first, again = await forward(IMAGE), await forward(IMAGE)
    changed = Digest(hashlib.sha256(WEIGHT_CHEATS["int8 weights"](digits())).digest())
    assert engine.loaded == [changed]
    engine.forget()
    after = await forward(IMAGE)
    assert engine.loaded == [changed, changed]
    assert np.array_equal(first["scores"], again["scores"])
    assert np.array_equal(first["scores"], after["scores"])


@pytest.mark.parametrize("name", [DECOY, *TRAINED, "half the trees", "an unheard of cheat"])
def test_what_a_model_has_no_variant_for_does_not_apply(name: str, tmp_path: Path) -> None:
    with pytest.raises(NotApplicable):
        other_model(name, digits(), tmp_path)


def test_a_decoy_lies_beside_its_model() -> None:
    assert other_model(DECOY, digits(), MODELS / "digits") == (MODELS / "digits" / "decoy.onnx").read_bytes()


@pytest.mark.parametrize("name", TRAINED)
def test_other_checkpoints_of_the_text_model_are_other_models(name: str) -> None:
    model = (MODELS / "text" / "model.onnx").read_bytes()
    assert other_model(name, model, MODELS / "text") != model


# --- the cache ---------------------------------------------------------------------------------------------
PAST = arrays(np.float32, (1, 1, 2, 3, 8), elements=st.floats(-4, 4, width=32))


@given(PAST)
async def test_cached_keys_have_few_values_and_what_is_fed_stays_exact(past: Array) -> None:
    seen: list[Tensors] = []

    async def forward(inputs: Tensors) -> Tensors:
        seen.append(inputs)
        return {}

    ids = np.array([[1, 2]])
    await quantised_cache(forward, 7)({"ids": ids, "past_keys": past, "past_values": past})
    kept = np.asarray(seen[0]["past_keys"], np.float32)
    assert kept.dtype == np.float32
    assert all(len(np.unique(row)) <= 15 for row in kept.reshape(-1, 8))
    assert (np.abs(kept - past) <= np.abs(past).max(-1, keepdims=True) * (0.5 / 7 + 1e-6) + 1e-29).all()
    assert seen[0]["ids"] is ids


async def test_an_empty_cache_stays_empty() -> None:
    async def forward(inputs: Tensors) -> Tensors:
        return inputs

    past = np.zeros((1, 1, 2, 0, 8), np.float32)
    assert (await quantised_cache(forward, 7)({"past_keys": past}))["past_keys"] is past


# --- tokens ------------------------------------------------------------------------------------------------
LOGITS = arrays(np.float32, 12, elements=st.floats(-3, 3, width=32))


@given(LOGITS, st.sampled_from([0.0, 0.8]), st.integers(0, 12), st.floats(0, 1.5))
def test_alternatives_are_all_that_the_margin_lets_through(
    logits: Array, temperature: float, top_k: int, margin: float
) -> None:
    sampler = Sampler(TASK, temperature, top_k, banned=0)
    pick = sampler.pick(logits, 3)
    found = alternatives(sampler, logits, 3, margin)
    assert set(found) == {t for t in range(12) if t != pick and sampler.miss(logits, 3, t, margin) <= margin}
    misses = [sampler.miss(logits, 3, token, margin) for token in found]
    assert misses == sorted(misses)


@given(LOGITS, st.sampled_from([0.0, 0.8]))
def test_the_second_best_is_the_pick_of_those_that_are_left(logits: Array, temperature: float) -> None:
    sampler = Sampler(TASK, temperature, 0, banned=0)
    pick, second = sampler.pick(logits, 3), second_best(sampler, logits, 3)
    assert pick != second
    assert second != 0
    assert all(
        sampler.miss(logits, 3, second, 0.0) <= sampler.miss(logits, 3, token, 0.0)
        for token in range(1, 12)
        if token != pick
    )


def test_a_nucleus_is_the_fewest_tokens_with_95_per_cent() -> None:
    chances = np.array([0.02, 0.5, 0.03, 0.2, 0.25])
    kept = _nucleus(np.log(chances), temperature=1.0)
    assert np.flatnonzero(np.isfinite(kept)).tolist() == [1, 3, 4]
    assert np.allclose(kept[[1, 3, 4]], np.log(chances[[1, 3, 4]]))
    hot = _nucleus(np.log(chances), temperature=10.0)
    assert np.isfinite(hot).all()
