"""Measurements: what counts as another result, distances between runs, and how cheats are judged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from poi.calibration.matrix import Configuration
from poi.calibration.measure import MOST_SCORE, Caught, run_matrix, spread_of, try_cheat, unit_card
from poi.calibration.subject import NOBODY, Sample, giving, task_of, tensor_samples
from shared.card_parts import Similarity, Tolerance
from shared.documents import InputDocument, ModelCard, Parameters
from shared.errors import InferenceFailed
from shared.interfaces import Tensors
from shared.profiles import Profile
from shared.verification.method import Compute, Work
from tests.calibration_support import quiet
from tests.cards import make_card

CARD = make_card()
EXACT = make_card(method="exact", profile=Profile.EXACT_FP64, tolerances={})
INPUTS: list[Tensors] = [{"x": np.full((1, 3), i, np.float32)} for i in range(4)]
TOLERANCE = CARD.tolerances["y"].absolute


def samples(card: ModelCard = CARD) -> list[Sample]:
    return [
        Sample(Work(task_of(i), NOBODY, card, InputDocument(tensors=each), Parameters()), each)
        for i, each in enumerate(INPUTS)
    ]


def outputs(offset: float, dtype: type[np.floating] = np.float32) -> list[Tensors]:
    """Twice the input; the last sample's is off by `offset`."""
    given = [2 * np.asarray(each["x"], np.float64) for each in INPUTS]
    given[-1] = given[-1] + offset
    return [{"y": y.astype(dtype), "n": np.array([1, 3])} for y in given]


def configured(name: str, offset: float, engine: str = "an engine") -> Configuration:
    return Configuration(name, engine, lambda inputs: outputs(offset))


def failing(name: str, reason: str) -> Configuration:
    def run(inputs: Sequence[Tensors]) -> list[Tensors]:
        raise InferenceFailed(reason)

    return Configuration(name, "an engine", run)


def test_configurations_that_give_equal_bytes_are_one_result() -> None:
    matrix = [configured("a", 0.0), configured("b", 0.25), configured("c", 0.0, "another"), configured("d", 0.25)]
    honest = run_matrix(CARD, matrix, samples(), quiet())
    assert honest.same_as == {"a": "a", "b": "b", "c": "a", "d": "b"}
    assert list(honest.distinct) == ["a", "b"]
    assert honest.seconds.keys() == honest.same_as.keys()
    assert honest.engines == ["an engine", "another"]


def test_what_this_machine_cannot_run_is_skipped_by_name() -> None:
    honest = run_matrix(CARD, [configured("a", 0.0), failing("b", "no such kernel\nand more")], samples(), quiet())
    assert honest.skipped == {"b": "no such kernel"}
    assert list(honest.same_as) == ["a"]
    nameless = run_matrix(CARD, [configured("a", 0.0), failing("b", "")], samples(), quiet())
    assert nameless.skipped == {"b": "no reason given"}


def test_a_model_that_does_not_run_at_all_is_not_skipped() -> None:
    with pytest.raises(InferenceFailed, match="no such kernel"):
        run_matrix(CARD, [failing("a", "no such kernel")], samples(), quiet())


async def test_distances_are_in_the_outputs_own_unit_and_the_largest_of_any_pair() -> None:
    matrix = [configured("a", 0.0), configured("b", 0.25), configured("c", -0.5)]
    honest = run_matrix(CARD, matrix, samples(), quiet())
    spread = await spread_of(CARD, samples(), honest, outputs(0.125, np.float64))
    assert spread.largest == {"y": 0.75}
    assert spread.from_reference == {"a": {"y": 0.125}, "b": {"y": 0.125}, "c": {"y": 0.625}}
    assert [each["y"] for each in spread.each["c"]] == [0, 0, 0, 0.625]


async def test_the_reference_counts_as_a_run() -> None:
    honest = run_matrix(CARD, [configured("a", 0.0)], samples(), quiet())
    spread = await spread_of(CARD, samples(), honest, outputs(2.0, np.float64))
    assert spread.largest == {"y": 2.0}


async def test_an_exact_profile_is_measured_by_what_differs() -> None:
    honest = run_matrix(EXACT, [configured("a", 0.0), configured("b", 2.0**-21)], samples(EXACT), quiet())
    spread = await spread_of(EXACT, samples(EXACT), honest, outputs(0.0, np.float64))
    assert spread.from_reference == {"a": {"score": 0.0}, "b": {"score": 3.0}}  # three values one step off, one let by
    assert spread.largest == {"score": 3.0}


def test_the_unit_card_tolerates_one_of_everything() -> None:
    assert unit_card(CARD).tolerances == {"y": Tolerance(relative=1.0, scale=1.0)}
    assert unit_card(EXACT) == EXACT


# --- cheats --------------------------------------------------------------------------------------------
def model(offset: float) -> Compute:
    async def forward(inputs: Tensors) -> Tensors:
        return {"y": 2 * inputs["x"].astype(np.float32) + np.float32(offset), "n": np.array([1, 3])}

    return Compute(forward, forward)


@pytest.mark.parametrize("tolerances", [0.5, 3.0, 20.0])
async def test_a_cheat_is_judged_as_any_performer(tolerances: float) -> None:
    caught = await try_cheat(CARD, samples(), model(tolerances * TOLERANCE).run, model(0.0))
    assert caught.scores == pytest.approx([tolerances] * 4, rel=0.01)
    assert caught.is_rejected == [tolerances > 1] * 4


async def test_the_reference_decides_close_calls() -> None:
    honest = Compute(model(0.0).run, model(2.5 * TOLERANCE).run)
    caught = await try_cheat(CARD, samples(), model(3 * TOLERANCE).run, honest)
    assert caught.scores == pytest.approx([0.5] * 4, rel=0.01)
    assert not any(caught.is_rejected)


async def test_a_cheat_that_gives_nothing_to_publish_is_caught() -> None:
    broken = giving({"y": np.full((1, 3), np.nan, np.float32), "n": np.array([1, 3])})
    caught = await try_cheat(CARD, samples(), broken, model(0.0))
    assert (caught.scores, caught.is_rejected) == ([MOST_SCORE] * 4, [True] * 4)


async def test_infinitely_far_is_what_a_card_can_hold() -> None:
    other = giving({"y": np.zeros((1, 3), np.float32), "n": np.array([1, 4])})
    caught = await try_cheat(CARD, samples(), other, model(0.0))
    assert caught.scores == [MOST_SCORE] * 4


async def test_similarity_is_judged_by_its_own_rule_and_measured_by_distance() -> None:
    similarity = Similarity(output="y", least=0.9, false_rejects=0.0, false_accepts=0.0, outputs=1)
    card = make_card(method="similarity", similarity=similarity)
    work = samples(card)[1:]  # a vector of zeros is similar to nothing
    caught = await try_cheat(card, work, model(100 * TOLERANCE).run, model(0.0))
    assert caught.scores == pytest.approx([100.0] * 3, rel=0.01)
    assert caught.is_rejected == [False] * 3


def test_what_the_card_says_of_a_cheat() -> None:
    cheat = Caught([3.0, 0.5, 20.0, 7.0], [True, False, True, True]).as_in_card(sets_floor=True)
    assert (cheat.smallest_score, cheat.caught, cheat.sets_floor) == (0.5, 0.75, True)


def test_samples_of_tensors_are_the_documents_and_their_noisy_copies() -> None:
    documents = [InputDocument(tensors=each) for each in INPUTS]
    made = tensor_samples(CARD, documents)
    assert len(made) == 256
    assert [sample.inputs for sample in made[:4]] == INPUTS
    assert len({sample.work.task_id for sample in made}) == 256
    assert all(sample.work.document.tensors == sample.inputs for sample in made)
