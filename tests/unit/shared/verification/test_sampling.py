"""The seeded sampler: its noise against an independent Philox, its draws, and how far a claimed token misses."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shared.types import Digest
from shared.verification.sampling import Sampler, gumbel, gumbel_rows
from tests.vector_files import FOLDER, unhex, vectors

TASK = Digest(hashlib.sha256(b"a task").digest())
MARGIN = 1e-3


# --- the noise -------------------------------------------------------------------------------------
def test_noise_is_what_the_specification_says() -> None:
    """The vectors are made in plain Python, by a Philox of their own."""
    for vector in vectors("sampler.json"):
        noise = gumbel(Digest(unhex(vector["taskId"])), int(vector["position"]), len(vector["logits"]))
        np.testing.assert_allclose(noise, vector["noise"], rtol=1e-12)


def test_the_generators_words_are_the_vectors_own() -> None:
    """Where the noise of another implementation differs, this says whether its words or its logarithms do."""
    for vector in vectors("sampler.json"):
        seed = hashlib.sha256(unhex(vector["taskId"]) + int(vector["position"]).to_bytes(8, "big")).digest()
        words = np.random.Philox(key=int.from_bytes(seed[:16], "big")).random_raw(len(vector["words"]))
        assert [f"0x{int(word):016x}" for word in words] == vector["words"]


def test_picks_are_the_vectors_own_and_miss_by_nothing() -> None:
    assert len(vectors("sampler.json")) == 27
    for vector in vectors("sampler.json"):
        chosen = Sampler(
            Digest(unhex(vector["taskId"])), vector["temperature"], int(vector["topK"]), int(vector["banned"])
        )
        logits, position = np.array(vector["logits"], np.float32), int(vector["position"])
        assert chosen.pick(logits, position) == int(vector["token"])
        assert chosen.miss(logits, position, int(vector["token"]), MARGIN) == 0


def test_the_vectors_are_those_that_their_script_makes() -> None:
    script = FOLDER / "sampler.py"
    assert subprocess.run([sys.executable, script, "--check"], check=False).returncode == 0


def test_noise_is_frozen() -> None:
    """Another numpy, another machine: the same numbers, or every text is voted down."""
    noise = gumbel(Digest(bytes(32)), 0, 4)
    frozen = [0.48599161575606636, -0.5451570392520072, -0.516673151547868, 1.6821867667079824]
    np.testing.assert_allclose(noise, frozen, rtol=1e-12)


def test_noise_depends_on_task_and_position_and_is_finite() -> None:
    streams = [gumbel(Digest(bytes([task]) * 32), position, 50) for task in range(3) for position in range(3)]
    assert len({stream.tobytes() for stream in streams}) == 9
    assert all(np.isfinite(stream).all() for stream in streams)


def test_noise_is_gumbel() -> None:
    noise = np.concatenate([gumbel(TASK, position, 1000) for position in range(100)])
    assert noise.mean() == pytest.approx(0.5772, abs=0.02)  # Euler's constant
    assert noise.var() == pytest.approx(math.pi**2 / 6, abs=0.03)


# --- picking ---------------------------------------------------------------------------------------
def sampler(temperature: float = 1.0, top_k: int = 0, task_id: Digest = TASK) -> Sampler:
    """Bans the last token of a vocabulary of five."""
    return Sampler(task_id, temperature, top_k, banned=4)


LOGITS = np.array([1.0, 2.0, 0.0, 1.5, 9.0], np.float32)  # the last one is banned


def test_greedy_takes_the_first_of_the_highest_and_never_the_banned() -> None:
    assert sampler(0.0).pick(LOGITS, 0) == 1
    assert sampler(0.0).pick(np.array([1, 3, 3, 0, 9], np.float32), 0) == 1


def test_draws_follow_the_softmax() -> None:
    draws = [sampler(0.7).pick(LOGITS, position) for position in range(4000)]
    weights = np.exp(LOGITS[:4] / 0.7)
    np.testing.assert_allclose(np.bincount(draws, minlength=5)[:4] / 4000, weights / weights.sum(), atol=0.03)
    assert 4 not in draws


def test_top_k_keeps_the_highest() -> None:
    draws = {sampler(5.0, top_k=2).pick(LOGITS, position) for position in range(500)}
    assert draws == {1, 3}
    assert {sampler(5.0, top_k=1).pick(LOGITS, position) for position in range(50)} == {1}
    assert {sampler(5.0, top_k=5).pick(LOGITS, position) for position in range(500)} == {0, 1, 2, 3}


# --- missing ---------------------------------------------------------------------------------------
SETTINGS = st.tuples(st.sampled_from([0.0, 0.01, 0.8, 3.0]), st.integers(0, 8))
VECTORS = hnp.arrays(np.float64, 12, elements=st.floats(-8, 8))


def any_sampler(settings: tuple[float, int]) -> Sampler:
    return Sampler(TASK, *settings, banned=11)


@given(VECTORS, SETTINGS, st.integers(0, 50))
def test_the_pick_misses_by_nothing(logits: npt.NDArray[np.float64], settings: tuple[float, int], at: int) -> None:
    chosen = any_sampler(settings)
    assert chosen.miss(logits, at, chosen.pick(logits, at), MARGIN) == 0


@settings(max_examples=300)
@given(VECTORS, SETTINGS, st.integers(0, 50), hnp.arrays(np.float64, 12, elements=st.floats(-1, 1)))
def test_honest_noise_is_never_rejected(
    logits: npt.NDArray[np.float64], settings: tuple[float, int], at: int, noise: npt.NDArray[np.float64]
) -> None:
    """The performer's logits differ by up to half a margin each, also where ties and the top-k boundary are near."""
    tight = np.round(logits * 2) * MARGIN  # crowded: a margin holds several tokens
    for ours in (logits, tight):
        chosen = any_sampler(settings)
        token = chosen.pick(ours + noise * MARGIN / 2, at)
        assert chosen.miss(ours, at, token, MARGIN) <= MARGIN * (1 + 1e-9)


@given(VECTORS, SETTINGS, st.integers(0, 50), st.integers(0, 10))
def test_a_token_that_no_honest_run_picks_is_rejected(
    logits: npt.NDArray[np.float64], settings: tuple[float, int], at: int, token: int
) -> None:
    """Logits that are no closer than a margin leave no doubt about which tokens are kept."""
    spaced = np.round(logits, 2) + np.arange(12) * 1e-3 * 1.01
    chosen = any_sampler(settings)
    pick = chosen.pick(spaced, at)
    if token != pick:
        # Every token between it and the pick is farther away, unless the noise itself put two side by side.
        assert chosen.miss(spaced, at, token, 1e-9) > 0


def test_what_lies_near_the_boundary_still_competes_when_it_is_certain() -> None:
    """Two of three are kept, the second and third lie within the margin; the first is certain and wins."""
    logits = np.array([5.0, 1.0, 1.0 - MARGIN / 2, -3.0, 0.0])
    chosen = sampler(0.01, top_k=2)
    assert chosen.pick(logits, 0) == 0
    for token in (1, 2, 3):
        assert chosen.miss(logits, 0, token, MARGIN) > 1


def test_a_forger_gains_nothing_from_a_crowd_at_the_boundary() -> None:
    """The whole kept set lies within the margin of the first excluded token: what is far below is charged for that."""
    logits = np.array([1.0, 1.0 + MARGIN / 2, 1.0 + MARGIN / 4, -3.0, 0.0])
    assert sampler(0.5, top_k=2).miss(logits, 0, 3, MARGIN) >= 4
    # Among those within the margin, any might have been an honest run's.
    assert {token for token in range(4) if sampler(0.5, top_k=2).miss(logits, 0, token, MARGIN) <= MARGIN} <= {0, 1, 2}


def test_ties_at_the_boundary_may_fall_either_way() -> None:
    """Of equal logits we keep all, another honest run, whose last bits differ, only one."""
    ours = np.array([1.0, 1.0, 1.0, 1.0, 0.0])
    for token in range(4):
        theirs = ours.copy()
        theirs[token] += MARGIN / 4
        assert sampler(0.5, top_k=1).pick(theirs, 0) == token
        assert sampler(0.5, top_k=1).miss(ours, 0, token, MARGIN) == 0


def test_the_banned_token_misses_by_everything() -> None:
    for temperature in (0.0, 1.0):
        assert sampler(temperature).miss(LOGITS, 0, 4, MARGIN) == math.inf
        assert sampler(temperature, top_k=3).miss(LOGITS, 0, 4, MARGIN) == math.inf


def test_greedy_misses_by_the_distance_to_the_highest() -> None:
    assert sampler(0.0).miss(LOGITS, 0, 3, MARGIN) == pytest.approx(0.5)


# --- many at once ------------------------------------------------------------------------------------
def test_rows_of_noise_are_those_of_their_positions() -> None:
    rows = gumbel_rows(TASK, 250, 10, 37)
    for row, position in zip(rows, range(250, 260), strict=True):
        np.testing.assert_array_equal(row, gumbel(TASK, position, 37))


@given(hnp.arrays(np.float64, (5, 12), elements=st.floats(-8, 8)), SETTINGS, st.integers(0, 50))
def test_many_tokens_miss_as_each_does_by_itself(
    logits: npt.NDArray[np.float64], settings: tuple[float, int], start: int
) -> None:
    chosen, tokens = any_sampler(settings), [11, 3, 0, 11, 7]
    misses = chosen.misses(logits, start, tokens, MARGIN)
    rows = enumerate(zip(logits, tokens, strict=True), start)
    alone = [chosen.miss(row, position, token, MARGIN) for position, (row, token) in rows]
    np.testing.assert_array_equal(misses, alone)
    assert math.isinf(misses[0])
    assert math.isinf(misses[3])
