"""Which measured cards are published."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from poi.calibration.publish import nearest_cheat, publishable, separation_of
from shared.card_parts import Cheat
from shared.documents import ModelCard
from shared.errors import CalibrationFailed
from shared.profiles import Profile
from tests.cards import CALIBRATION, make_card


def cheat(score: float, *, sets_floor: bool = True) -> Cheat:
    return Cheat(smallest_score=score, caught=1.0, sets_floor=sets_floor)


def measured(cheats: dict[str, Cheat], **changes: Any) -> ModelCard:
    calibration = msgspec.structs.replace(CALIBRATION, cheats=cheats, separation=separation_of(cheats))
    return make_card(calibration=calibration, **changes)


def test_separation_is_the_nearest_of_those_that_count() -> None:
    cheats = {"a": cheat(9.0), "b": cheat(5.0), "c": cheat(0.1, sets_floor=False)}
    assert (separation_of(cheats), nearest_cheat(cheats)) == (5.0, "b")
    assert publishable(measured(cheats)) == measured(cheats)


@pytest.mark.parametrize("score", [3.99, 1.0, 0.0])
def test_a_cheat_that_comes_too_near_is_named(score: float) -> None:
    with pytest.raises(CalibrationFailed, match=rf"the cheat 'b' comes within {score:.2f} tolerances .* needs 4\."):
        publishable(measured({"a": cheat(9.0), "b": cheat(score)}))


@pytest.mark.parametrize("cheats", [{}, {"c": cheat(9.0, sets_floor=False)}])
def test_a_model_that_no_cheat_applies_to_needs_another_model_beside_it(cheats: dict[str, Cheat]) -> None:
    assert (separation_of(cheats), nearest_cheat(cheats)) == (0.0, None)
    with pytest.raises(CalibrationFailed, match=r"none of the cheats applies .* decoy\.onnx"):
        publishable(measured(cheats))


def test_an_exact_card_needs_no_separation() -> None:
    card = measured({}, method="exact", profile=Profile.EXACT_INT, tolerances={})
    assert publishable(card) == card


def test_a_card_that_attesters_would_refuse_is_not_published() -> None:
    with pytest.raises(CalibrationFailed, match="model card: "):
        publishable(measured({"a": cheat(9.0)}, tolerances={}))
