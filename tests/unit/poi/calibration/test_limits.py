"""From honest distances to tolerances, and what no profile allows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import pytest

from poi.calibration.limits import FLOOR, HEADROOM, score_of, with_limits
from poi.calibration.measure import Spread, unit_card
from shared.documents import ModelCard
from shared.errors import CalibrationFailed
from shared.profiles import Profile
from tests.cards import make_card, make_text_card

DRAFT = unit_card(make_card())
TEXT = unit_card(make_text_card())
EXACT = make_card(method="exact", profile=Profile.EXACT_FP64, tolerances={})


def spread(distances: Mapping[str, float], near: float = 0.1) -> Spread:
    """The farther of two configurations has these distances from the reference, the nearer a part of them."""
    nearer = {name: near * distance for name, distance in distances.items()}
    return Spread(distances, {"the near one": nearer, "the far one": distances}, {})


def reference(**outputs: Any) -> list[Mapping[str, Any]]:
    return [{name: np.array(values, np.float64) for name, values in outputs.items()}]


def test_a_tolerance_is_four_times_the_largest_distance() -> None:
    card = with_limits(DRAFT, spread({"y": 2e-5}), reference(y=[3.0, -20.0]))
    assert card.tolerances["y"].scale == 20.0
    assert card.tolerances["y"].absolute == pytest.approx(HEADROOM * 2e-5)


def test_the_scale_is_the_largest_magnitude_of_any_sample() -> None:
    samples = [*reference(y=[1.0]), *reference(y=[-8.0]), *reference(y=[])]
    assert with_limits(DRAFT, spread({"y": 1e-6}), samples).tolerances["y"].scale == 8.0


@pytest.mark.parametrize("distance", [0.0, 1e-7])
def test_no_tolerance_is_under_eight_float32_steps(distance: float) -> None:
    card = with_limits(DRAFT, spread({"y": distance}), reference(y=[1.0]))
    assert card.tolerances["y"].relative == FLOOR


def test_an_output_of_zeros_has_a_scale_of_one() -> None:
    assert with_limits(DRAFT, spread({"y": 0.0}), reference(y=[0.0])).tolerances["y"].scale == 1.0


def test_what_the_profile_does_not_allow_is_no_card() -> None:
    at_most = with_limits(DRAFT, spread({"y": 5e-5 / HEADROOM}), reference(y=[1.0]))
    assert at_most.tolerances["y"].relative == 5e-5
    with pytest.raises(CalibrationFailed) as caught:
        with_limits(DRAFT, spread({"y": 1.3e-5}), reference(y=[1.0]))
    assert "takes a tolerance of 5.2e-05; fp32 allows 5e-05" in str(caught.value)
    assert "Farthest from the reference: the far one" in str(caught.value)


def test_a_margin_is_four_times_the_largest_distance_of_logits() -> None:
    card = with_limits(TEXT, spread({"logits": 1e-5, "margin": 2e-5}), reference(logits=[[9.0, -3.0]]))
    assert card.text is not None
    assert card.text.margin == pytest.approx(8e-5)
    assert card.tolerances["logits"].absolute == pytest.approx(4e-5)


def test_a_margin_under_which_a_forger_could_choose_is_no_card() -> None:
    with pytest.raises(CalibrationFailed, match=r"takes a margin of 0\.0012; fp32 allows 0\.001\. .*the far one"):
        with_limits(TEXT, spread({"logits": 1e-5, "margin": 3e-4}), reference(logits=[[9.0, -3.0]]))


def test_an_exact_profile_is_exact_or_no_card() -> None:
    assert with_limits(EXACT, spread({"score": 0.0}), []) == EXACT
    with pytest.raises(CalibrationFailed) as caught:
        with_limits(EXACT, spread({"score": 1.0}, near=0.0), [])
    assert "exact-fp64 promises equal bytes, and 1 of 2 different results are not the reference's" in str(caught.value)


def limited(card: ModelCard, relative: float, margin: float | None = None) -> ModelCard:
    text = card.text and msgspec.structs.replace(card.text, margin=margin)
    tolerances = {n: msgspec.structs.replace(t, relative=relative, scale=10.0) for n, t in card.tolerances.items()}
    return msgspec.structs.replace(card, tolerances=tolerances, text=text)


def test_a_score_is_the_largest_part_of_any_limit() -> None:
    assert score_of(limited(DRAFT, 1e-5), {"y": 5e-5}) == pytest.approx(0.5)
    text = limited(TEXT, 1e-5, margin=1e-3)
    assert score_of(text, {"logits": 5e-5, "margin": 1e-4}) == pytest.approx(0.5)
    assert score_of(text, {"logits": 5e-5, "margin": 2e-3}) == pytest.approx(2.0)
    assert score_of(EXACT, {"score": 3.0}) == 3.0
