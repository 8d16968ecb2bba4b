"""Method `tensor`: distances, whole numbers, free shapes, and liars."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.documents import ClassifyOutput, InputDocument, TensorOutput, data_of, encode_output
from shared.errors import InferenceFailed, InputMismatch
from shared.interfaces import Tensors
from shared.reasons import InvalidReason
from shared.tensors import Tensor, encode_tensor
from shared.types import Verdict
from shared.verification.tensor import score_of
from tests.cards import make_card
from tests.inference_support import giving, measure, never_run, prove, verify

CARD = make_card()
TOLERANCE = 1e-4  # 1e-5 of the scale 10
DOCUMENT = InputDocument(tensors={"x": np.array([[1, 2, 3]], np.float32)})


async def model(inputs: Tensors) -> Tensors:
    """y = 3x, n = the shape of x."""
    x = np.asarray(inputs["x"], np.float32)
    return {"y": 3 * x, "n": np.array(x.shape, np.int64), "of no interest": np.zeros(1)}


def output(y: Tensor | None = None, n: Tensor | None = None) -> TensorOutput:
    """The honest one unless said otherwise."""
    return TensorOutput(
        tensors={
            "y": y or encode_tensor(np.array([[3, 6, 9]], np.float32)),
            "n": n or encode_tensor(np.array([1, 3], np.int64)),
        }
    )


async def test_an_honest_output_is_valid() -> None:
    proved = await prove(CARD, DOCUMENT, model)
    assert proved == output()
    judgement = await verify(CARD, DOCUMENT, proved, model)
    assert (judgement.verdict, judgement.reason, judgement.score) == (Verdict.VALID, None, 0.0)


def test_data_is_the_hash_of_the_canonical_output() -> None:
    assert data_of(output()) == hashlib.sha256(encode_output(output())).digest()
    assert encode_output(output()).startswith(b'{"kind":"tensor","tensors":{"n":{"data":"')


@pytest.mark.parametrize(("delta", "verdict"), [(0.9, Verdict.VALID), (1.1, Verdict.INVALID), (20, Verdict.INVALID)])
@pytest.mark.parametrize("at", range(3))
async def test_the_largest_distance_decides(delta: float, verdict: Verdict, at: int) -> None:
    y = np.array([[3, 6, 9]], np.float32)
    y[0, at] += delta * TOLERANCE
    judgement = await verify(CARD, DOCUMENT, output(y=encode_tensor(y)), model)
    assert judgement.verdict is verdict
    assert judgement.reason is (None if verdict is Verdict.VALID else InvalidReason.TENSOR_DIFFERS)
    assert judgement.score == pytest.approx(delta, rel=0.01)


async def test_whole_numbers_are_equal_or_not() -> None:
    lie = output(n=encode_tensor(np.array([1, 4], np.int64)))
    judgement = await verify(CARD, DOCUMENT, lie, model)
    assert (judgement.verdict, judgement.reason) == (Verdict.INVALID, InvalidReason.TENSOR_DIFFERS)
    assert judgement.score == math.inf


async def test_a_shape_that_the_card_allows_and_the_model_did_not_give() -> None:
    """Broadcasting must not make one row stand for two."""
    lie = output(y=encode_tensor(np.array([[3, 6, 9]] * 2, np.float32)))
    judgement = await verify(CARD, DOCUMENT, lie, model)
    assert (judgement.verdict, judgement.reason) == (Verdict.INVALID, InvalidReason.TENSOR_DIFFERS)


async def test_an_empty_tensor_for_a_full_one() -> None:
    lie = output(y=encode_tensor(np.zeros((0, 3), np.float32)))
    judgement = await verify(CARD, DOCUMENT, lie, model)
    assert (judgement.verdict, judgement.reason) == (Verdict.INVALID, InvalidReason.TENSOR_DIFFERS)


async def test_an_empty_input_has_an_empty_output() -> None:
    document = InputDocument(tensors={"x": np.zeros((0, 3), np.float32)})
    judgement = await verify(CARD, document, await prove(CARD, document, model), model)
    assert (judgement.verdict, judgement.score) == (Verdict.VALID, 0.0)


@pytest.mark.parametrize(
    "lie",
    [
        TensorOutput(tensors={"y": output().tensors["y"]}),
        TensorOutput(tensors={**output().tensors, "z": output().tensors["n"]}),
        output(y=Tensor("float32", (1, 3), b"")),
        output(y=Tensor("float32", (1 << 22, 3), b"")),
        output(y=Tensor("float32", (1, 3), np.array([3, 6, np.nan], "<f4").tobytes())),
        output(y=encode_tensor(np.array([[3, 6, 9]], np.float64))),
        output(y=encode_tensor(np.array([[3, 6, 9, 9]], np.float32))),
        output(n=encode_tensor(np.array([1], np.int64))),
        ClassifyOutput(scores=output().tensors["y"], label=2),
    ],
    ids=["missing", "unknown", "cut", "huge", "NaN", "dtype", "shape", "fixed", "kind"],
)
async def test_malformed_outputs(lie: TensorOutput) -> None:
    judgement = await verify(CARD, DOCUMENT, lie, never_run)
    assert (judgement.verdict, judgement.reason) == (Verdict.INVALID, InvalidReason.OUTPUT_MALFORMED)


async def test_data_that_does_not_follow() -> None:
    for data in (b"", bytes(32), data_of(output())[::-1]):
        judgement = await verify(CARD, DOCUMENT, output(), never_run, data=data)
        assert (judgement.verdict, judgement.reason) == (Verdict.INVALID, InvalidReason.DATA_MISMATCH)


async def test_a_document_that_does_not_fit_is_the_requesters_trouble() -> None:
    document = InputDocument(tensors={"x": np.zeros((1, 4), np.float32)})
    with pytest.raises(InputMismatch) as caught:
        await verify(CARD, document, output(), never_run)
    assert (caught.value.field, caught.value.expected) == ("tensors.x.shape", "[-1, 3]")


@pytest.mark.parametrize(
    "y", [np.full((1, 3), np.nan, np.float32), np.zeros((1, 2), np.float32), np.zeros((1, 3), np.int64)]
)
async def test_a_model_that_gives_what_no_proof_carries_is_nobodys_offence(y: np.ndarray) -> None:
    run = giving({"y": y, "n": np.array([1, 3])})
    for attempt in (prove(CARD, DOCUMENT, run), verify(CARD, DOCUMENT, output(), run)):
        with pytest.raises(InferenceFailed):
            await attempt


# --- the distance --------------------------------------------------------------------------------------
NUMBERS = st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=3)


@given(NUMBERS, st.floats(-100, 100))
def test_a_score_is_the_largest_difference_in_tolerances(values: list[float], delta: float) -> None:
    ours = np.array([values])
    theirs = ours + np.array([[0.0, delta * TOLERANCE, 0.0]])
    assert score_of(CARD, "y", theirs, ours) == pytest.approx(abs(delta), abs=1e-5)


@given(NUMBERS, NUMBERS)
def test_a_score_is_the_same_from_both_sides(one: list[float], other: list[float]) -> None:
    ours, theirs = np.array([one], np.float32), np.array([other], np.float32)
    assert score_of(CARD, "y", ours, theirs) == score_of(CARD, "y", theirs, ours)
    assert score_of(CARD, "y", ours, ours) == 0


def test_a_score_between_the_largest_numbers_is_infinite_and_no_error() -> None:
    huge = np.full((1, 3), np.finfo(np.float64).max)
    assert score_of(CARD, "y", huge, -huge) == math.inf


async def test_what_was_measured_has_a_name() -> None:
    y = np.array([[3, 6, 9 + TOLERANCE / 2]], np.float32)
    measured = await measure(CARD, DOCUMENT, output(y=encode_tensor(y)), model)
    assert measured.score == measured.statistics["distance of y"] == pytest.approx(0.5, rel=0.01)
    assert measured.statistics["distance of n"] == 0
    assert 0 <= measured.statistics["cosine distance of y"] < 1e-9
    assert measured.recomputed == output()


# --- a reference that gives float64 ----------------------------------------------------------------------
async def test_a_reference_in_float64_is_measured_against_as_it_is() -> None:
    """Rounding it first would add an error of its own to the distance."""

    async def reference(inputs: Tensors) -> Tensors:
        wide = np.asarray(inputs["x"], np.float64)
        return {"y": 3 * wide + TOLERANCE / 4, "n": np.array(wide.shape, np.int64)}

    measured = await measure(CARD, DOCUMENT, output(), reference)
    assert measured.score == pytest.approx(0.25, rel=1e-6)


async def test_a_reference_proves_what_is_rounded_once() -> None:
    third = np.full((1, 3), 1 / 3)
    proved = await prove(CARD, DOCUMENT, giving({"y": third, "n": np.array([1, 3])}))
    assert proved == output(y=encode_tensor(third.astype(np.float32)))
