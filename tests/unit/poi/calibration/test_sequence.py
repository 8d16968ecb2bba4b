"""What a card says of honest errors: never less than what was measured, and the worst group's."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from models.samples import read_documents
from poi.calibration.sequence import LIMIT, NUDGE, Observed, nudged, observe, part_of, sequence_part, works
from shared.errors import CalibrationFailed
from shared.model_card import check_card
from tests.inference_support import MODELS
from tests.sequence_support import attester, bf16, bf16_card

TEXT = MODELS / "text"


def group(
    seed: int, *, mean: float = 0.0, deviation: float = 0.4, between: float = 0.0, miss: float = 0.0
) -> list[Observed]:
    """100 texts of 1 to 64 tokens; `between` is the deviation of whole texts."""
    noise = np.random.default_rng(seed)

    def text() -> Observed:
        tokens = int(noise.integers(1, 65))
        ratios = mean + noise.normal(0, between) + noise.normal(0, deviation, tokens)
        return Observed(ratios, np.full(tokens, miss))

    return [text() for _ in range(100)]


@given(st.integers(0, 50))
def test_the_mean_is_an_upper_bound_and_a_near_one(seed: int) -> None:
    part = part_of([group(seed, mean=0.05)])
    assert 0.05 - 0.01 < part.honest_mean < 0.05 + 0.06
    assert 0.39 < part.honest_deviation < 0.65
    assert part.limit == LIMIT > math.log(1e4)
    assert part.shift == pytest.approx(part.honest_deviation * math.sqrt(2 * (LIMIT + 1) / 64) / 4)


def test_the_worst_group_counts() -> None:
    quiet, loud = group(1, mean=-0.2, deviation=0.1), group(2, mean=0.1, deviation=0.3, miss=0.001)
    assert part_of([quiet, loud]) == part_of([loud, quiet])
    alone = part_of([loud])
    both = part_of([quiet, loud])
    assert both == alone
    assert both.honest_miss == pytest.approx(0.004)


def test_texts_that_differ_as_wholes_are_worth_less() -> None:
    assert part_of([group(3, between=0.1)]).honest_deviation > 1.3 * part_of([group(3)]).honest_deviation


def test_without_misses_there_is_a_floor() -> None:
    assert part_of([group(4)]).honest_miss == 1e-4


def test_kernels_that_are_worlds_apart_need_cards_of_their_own() -> None:
    with pytest.raises(CalibrationFailed, match="Give each kind of kernels a card"):
        part_of([group(5, mean=1.2)])


# --- neighbours --------------------------------------------------------------------------------------
def test_a_neighbour_has_each_weight_moved_by_a_hair() -> None:
    model = (TEXT / "model.onnx").read_bytes()
    moved = {
        each.name: numpy_helper.to_array(each)
        for each in onnx.load_model_from_string(nudged(model, 1)).graph.initializer
    }
    for tensor in onnx.load_model_from_string(model).graph.initializer:
        weights = numpy_helper.to_array(tensor)
        change = np.abs(moved[tensor.name] / weights - 1)
        if "MatMul" in tensor.name:
            assert change.max() < 1.05 * NUDGE
            assert change.min() > 0.95 * NUDGE
        elif "norm" in tensor.name:
            assert change.max() == 0
    assert nudged(model, 1) == nudged(model, 1) != nudged(model, 2)


async def test_a_neighbours_errors_are_as_large_and_independent() -> None:
    """The same kernels repeat their errors: a yardstick that no other machine has."""
    tasks = works(bf16_card(), read_documents(TEXT), 8)

    async def ratios(engine: str) -> npt.NDArray[np.float64]:
        return np.concatenate([(await observe(work, bf16(engine).forward, attester())).ratios for work in tasks])

    same, neighbour = await ratios(""), await ratios("1")
    assert np.abs(np.median(same)) == 0.0
    assert np.std(same) < 0.15
    assert 0.3 < np.std(neighbour) < 0.55
    assert abs(np.mean(neighbour)) < 0.1


# --- the whole ---------------------------------------------------------------------------------------
async def test_a_measured_part_fits_a_card() -> None:
    groups = {"this engine": [bf16().forward], "neighbours": [bf16("1").forward, bf16("2").forward]}
    part = await sequence_part(bf16_card(), read_documents(TEXT), groups, attester(), texts=6)
    check_card(msgspec.structs.replace(bf16_card(), sequence=part))
    assert 0.3 < part.honest_deviation < 0.8
    assert abs(part.honest_mean) < 0.3


def test_works_go_through_the_prompts_and_never_repeat_a_task() -> None:
    documents = read_documents(TEXT)
    first, second = works(bf16_card(), documents, 20), works(bf16_card(), documents, 20, first=20)
    assert [work.document for work in first] == [documents[i % len(documents)] for i in range(20)]
    assert len({work.task_id for work in (*first, *second)}) == 40
    assert works(bf16_card(), documents, 20) == first
