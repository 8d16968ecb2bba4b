"""Method `similarity`, and the cosine that others report."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shared.card_parts import Similarity
from shared.documents import InputDocument, TensorOutput
from shared.reasons import InvalidReason
from shared.tensors import encode_tensor
from shared.types import Verdict
from shared.verification.cosine import cosine_distance
from tests.cards import make_card
from tests.inference_support import giving, measure, never_run, prove, verify

LEAST = 0.9
CARD = make_card(
    method="similarity",
    similarity=Similarity(output="y", least=LEAST, false_rejects=0.0, false_accepts=0.4, outputs=100),
)
DOCUMENT = InputDocument(tensors={"x": np.zeros((1, 3), np.float32)})
WHOLE = np.array([1, 3])
HONEST = giving({"y": np.array([[1, 0, 0]], np.float32), "n": WHOLE})
VECTORS = hnp.arrays(np.float32, 5, elements=st.floats(width=32, allow_nan=False, allow_infinity=False))


def at_cosine(cosine: float) -> TensorOutput:
    y = np.array([[cosine, math.sqrt(1 - cosine**2), 0]], np.float32)
    return TensorOutput(tensors={"y": encode_tensor(y), "n": encode_tensor(WHOLE)})


async def test_an_honest_output_is_valid() -> None:
    judged = await verify(CARD, DOCUMENT, await prove(CARD, DOCUMENT, HONEST), HONEST)
    assert (judged.verdict, judged.reason, judged.score) == (Verdict.VALID, None, 0.0)


@pytest.mark.parametrize(
    ("cosine", "verdict"),
    [(0.95, Verdict.VALID), (0.901, Verdict.VALID), (0.89, Verdict.INVALID), (-1.0, Verdict.INVALID)],
)
async def test_the_cards_own_cosine_decides(cosine: float, verdict: Verdict) -> None:
    judged = await verify(CARD, DOCUMENT, at_cosine(cosine), HONEST)
    assert judged.verdict is verdict
    assert judged.reason is (None if verdict is Verdict.VALID else InvalidReason.SIMILARITY_LOW)
    assert judged.score == pytest.approx((1 - cosine) / (1 - LEAST), rel=1e-4)
    assert judged.statistics == {"cosine distance of y": pytest.approx(1 - cosine, rel=1e-4)}


async def test_between_the_zones_the_reference_decides() -> None:
    reference = giving({"y": np.array([[0.5, math.sqrt(0.75), 0]]), "n": WHOLE})
    judged = await verify(CARD, DOCUMENT, at_cosine(0.5), HONEST, reference=reference)
    assert (judged.verdict, judged.is_refereed) == (Verdict.VALID, True)


async def test_it_accepts_what_no_distance_would() -> None:
    """Ten times the answer, and ten per cent more of it: which is why a card that accepts by it must say so."""
    y = np.array([[10, 1, 0]], np.float32)
    lie = TensorOutput(tensors={"y": encode_tensor(y), "n": encode_tensor(WHOLE + 1)})
    assert (await verify(CARD, DOCUMENT, lie, HONEST)).verdict is Verdict.VALID
    assert (await verify(make_card(), DOCUMENT, lie, HONEST)).verdict is Verdict.INVALID


async def test_malformed_outputs_are_refused_unrun() -> None:
    lie = TensorOutput(tensors={"y": at_cosine(1.0).tensors["y"]})
    judged = await verify(CARD, DOCUMENT, lie, never_run)
    assert (judged.verdict, judged.reason) == (Verdict.INVALID, InvalidReason.OUTPUT_MALFORMED)


async def test_a_card_without_its_part_is_a_bug_of_the_caller() -> None:
    card = make_card(method="similarity")
    with pytest.raises(TypeError):
        await measure(card, DOCUMENT, at_cosine(1.0), HONEST)


# --- the cosine ----------------------------------------------------------------------------------------
@given(VECTORS, VECTORS)
def test_a_cosine_distance_is_from_0_to_2_and_the_same_from_both_sides(
    one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]
) -> None:
    distance = cosine_distance(one, other)
    assert 0 <= distance <= 2 + 1e-12
    assert distance == pytest.approx(cosine_distance(other, one), abs=1e-12)
    assert cosine_distance(one, one) == pytest.approx(0, abs=1e-12)


@given(VECTORS, st.floats(1e-3, 1e3))
def test_a_cosine_does_not_see_how_long_a_vector_is(vector: npt.NDArray[np.float32], factor: float) -> None:
    assert cosine_distance(vector, vector.astype(np.float64) * factor) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [
        ([1, 0], [0, 1], 1.0),
        ([1, 0], [-1, 0], 2.0),
        ([0, 0], [0, 0], 0.0),
        ([0, 0], [1, 0], 1.0),
        ([1, 0], [1, 0, 0], 1.0),
        ([], [], 0.0),
    ],
)
def test_cosine_distances(one: list[Any], other: list[Any], distance: float) -> None:
    assert cosine_distance(np.array(one, np.float32), np.array(other, np.float32)) == distance
