"""Method `exact`: equal hashes, values on the border between two float32 steps, and everything else refused."""

from __future__ import annotations

import hashlib
import math
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.adapters.onnx_precision import convert
from shared.adapters.onnx_runner import Optimisation, Runner, Setting
from shared.documents import ClassifyOutput, InputDocument, TensorOutput, encode_output
from shared.errors import InferenceFailed
from shared.interfaces import Tensors
from shared.profiles import Profile
from shared.reasons import InvalidReason
from shared.tensors import TensorSpec, encode_tensor
from shared.types import Verdict
from shared.verification.exact import MAX_BORDER_SHARE, hash_of, steps_between
from tests.cards import make_card
from tests.inference_support import MODELS, giving, measure, never_run, prove, samples, verify

CARD = make_card(method="exact", profile=Profile.EXACT_FP64, tolerances={})
DOCUMENT = InputDocument(tensors={"x": np.array([[1, 2, 3]], np.float32)})
WHOLE = np.array([1, 3], np.int64)
THIRDS = np.array([[1 / 3, 2 / 3, 4 / 3]])
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def stepped(values: npt.NDArray[np.float32], at: int, steps: int = 1) -> npt.NDArray[np.float32]:
    """One value moved by float32 steps upwards."""
    moved = values.copy()
    for _ in range(steps):
        moved.ravel()[at] = np.nextafter(moved.ravel()[at], np.float32(np.inf))
    return moved


def output(y: npt.NDArray[np.float32], n: npt.NDArray[np.int64] = WHOLE) -> TensorOutput:
    return TensorOutput(tensors={"y": encode_tensor(y), "n": encode_tensor(n)})


HONEST = giving({"y": THIRDS, "n": WHOLE})
PUBLISHED = THIRDS.astype(np.float32)


async def test_float64_is_rounded_once_and_equal_hashes_are_valid() -> None:
    proved = await prove(CARD, DOCUMENT, HONEST)
    assert proved == output(PUBLISHED)
    judged = await verify(CARD, DOCUMENT, proved, giving({"y": THIRDS * (1 + 2**-52), "n": WHOLE}))
    assert (judged.verdict, judged.score) == (Verdict.VALID, 0.0)
    assert judged.statistics == {"values that differ": 0.0}
    assert judged.recomputed == proved


@pytest.mark.parametrize("at", range(3))
async def test_one_value_on_the_border_is_let_through(at: int) -> None:
    judged = await verify(CARD, DOCUMENT, output(stepped(PUBLISHED, at)), HONEST, reference=never_run)
    assert (judged.verdict, judged.score) == (Verdict.VALID, 1.0)
    assert judged.statistics == {"values that differ": 1.0, "largest difference in float32 steps": 1.0}


async def test_two_on_the_border_are_no_rounding() -> None:
    judged = await verify(CARD, DOCUMENT, output(stepped(stepped(PUBLISHED, 0), 2)), HONEST, reference=never_run)
    assert (judged.verdict, judged.reason, judged.score) == (Verdict.INVALID, InvalidReason.HASH_DIFFERS, 2.0)


async def test_two_steps_are_no_border() -> None:
    judged = await verify(CARD, DOCUMENT, output(stepped(PUBLISHED, 1, steps=2)), HONEST)
    assert (judged.verdict, judged.reason, judged.score) == (Verdict.INVALID, InvalidReason.HASH_DIFFERS, math.inf)
    assert judged.statistics["largest difference in float32 steps"] == 2.0


async def test_whole_numbers_have_no_border() -> None:
    judged = await verify(CARD, DOCUMENT, output(PUBLISHED, np.array([1, 4])), HONEST)
    assert (judged.verdict, judged.reason, judged.score) == (Verdict.INVALID, InvalidReason.HASH_DIFFERS, math.inf)


async def test_another_shape_is_another_answer() -> None:
    judged = await verify(CARD, DOCUMENT, output(np.concatenate([PUBLISHED, PUBLISHED])), HONEST)
    assert (judged.verdict, judged.reason, judged.score) == (Verdict.INVALID, InvalidReason.HASH_DIFFERS, math.inf)


async def test_of_a_large_output_one_in_a_hundred_thousand_may_be_on_the_border() -> None:
    values = np.linspace(1, 2, 3 * 100_000).reshape(-1, 3)
    run = giving({"y": values, "n": WHOLE})
    allowed = int(MAX_BORDER_SHARE * (values.size + 2))
    published = values.astype(np.float32)
    for count, verdict in ((allowed, Verdict.VALID), (allowed + 1, Verdict.INVALID)):
        claimed = published
        for at in range(count):
            claimed = stepped(claimed, 1000 * at)
        judged = await verify(CARD, DOCUMENT, output(claimed), run)
        assert (judged.verdict, judged.score) == (verdict, count / allowed)


async def test_a_border_never_moves_a_label() -> None:
    card = make_card(
        kind="classify",
        method="exact",
        profile=Profile.EXACT_FP64,
        tolerances={},
        inputs=(TensorSpec("x", "float32", (1, 3)),),
        outputs=(TensorSpec("y", "float32", (1, 2)),),
    )
    tied = np.array([[1.0, 1.0]], np.float32)
    lie = ClassifyOutput(scores=encode_tensor(stepped(tied, 1)), label=1)
    judged = await verify(card, DOCUMENT, lie, giving({"y": tied}))
    assert (judged.verdict, judged.reason) == (Verdict.INVALID, InvalidReason.HASH_DIFFERS)
    same_label = ClassifyOutput(scores=encode_tensor(stepped(tied, 0)), label=0)
    assert (await verify(card, DOCUMENT, same_label, giving({"y": tied}))).verdict is Verdict.VALID


async def test_what_the_output_itself_shows_is_refused_unrun() -> None:
    lie = TensorOutput(tensors={"y": encode_tensor(PUBLISHED)})
    judged = await verify(CARD, DOCUMENT, lie, never_run)
    assert (judged.verdict, judged.reason) == (Verdict.INVALID, InvalidReason.OUTPUT_MALFORMED)
    judged = await verify(CARD, DOCUMENT, output(PUBLISHED), never_run, data=bytes(32))
    assert (judged.verdict, judged.reason) == (Verdict.INVALID, InvalidReason.DATA_MISMATCH)


async def test_an_engine_that_fails_is_the_attesters_trouble() -> None:
    for outputs in (
        {"y": THIRDS},
        {"y": np.full((1, 3), np.nan), "n": WHOLE},
        {"y": np.full((1, 3), 1e300), "n": WHOLE},
    ):
        with pytest.raises(InferenceFailed):
            await verify(CARD, DOCUMENT, output(PUBLISHED), giving(outputs))


def test_the_hash_is_that_of_the_canonical_output() -> None:
    assert hash_of(output(PUBLISHED)) == hashlib.sha256(encode_output(output(PUBLISHED))).digest()


# --- float32 steps -------------------------------------------------------------------------------------
def test_steps_count_across_zero_and_zeros_are_one() -> None:
    tiny = np.float32(2.0**-149)  # the smallest there is
    ones = [np.array([value], np.float32) for value in (-tiny, -0.0, 0.0, tiny, 2 * tiny)]
    assert [[int(steps_between(a, b)[0]) for b in ones] for a in ones] == [
        [0, 1, 1, 2, 3],
        [1, 0, 0, 1, 2],
        [1, 0, 0, 1, 2],
        [2, 1, 1, 0, 1],
        [3, 2, 2, 1, 0],
    ]


@given(FLOATS, FLOATS)
def test_steps_are_the_same_from_both_sides(one: float, other: float) -> None:
    a, b = np.array([one], np.float32), np.array([other], np.float32)
    assert steps_between(a, b)[0] == steps_between(b, a)[0]
    assert (steps_between(a, b)[0] == 0) == (one == other)


@given(FLOATS, st.integers(1, 50))
def test_steps_are_counted_one_by_one(value: float, steps: int) -> None:
    start = np.array([value], np.float32)
    with np.errstate(over="ignore"):  # beyond the largest there is no step to count
        moved = stepped(start, 0, steps)
    if np.isfinite(moved).all():
        assert steps_between(start, moved)[0] == steps


def test_other_dtypes_and_shapes_are_infinitely_far() -> None:
    assert steps_between(WHOLE, WHOLE).tolist() == [0, 0]
    assert steps_between(WHOLE, WHOLE + 1).tolist() == [math.inf, math.inf]
    assert steps_between(PUBLISHED, PUBLISHED[0]).tolist() == [math.inf]
    assert steps_between(PUBLISHED, THIRDS).tolist() == [math.inf]


# --- the digit classifier in float64 ---------------------------------------------------------------------
@cache
def digits_in_double() -> Runner:
    return Runner(convert((MODELS / "digits" / "model.onnx").read_bytes(), "fp64"))


@pytest.mark.parametrize("optimisation", ["off", "basic", "extended"])
async def test_a_real_model_in_float64_has_one_hash(optimisation: Optimisation) -> None:
    card = make_card(
        kind="classify",
        method="exact",
        profile=Profile.EXACT_FP64,
        tolerances={},
        inputs=(TensorSpec("image", "float32", (1, 1, 8, 8)),),
        outputs=(TensorSpec("scores", "float32", (1, 10)),),
    )

    async def run(inputs: Tensors) -> Tensors:
        return digits_in_double().run(inputs, Setting(2, optimisation))

    for sample in samples():
        pixels = np.array(sample["pixels"], np.float32).reshape(1, 1, 8, 8) / np.float32(16)
        document = InputDocument(tensors={"image": pixels})
        proved = await prove(card, document, digits_in_double().forward)
        measured = await measure(card, document, proved, run)
        assert measured.score == 0
        assert measured.recomputed == proved
