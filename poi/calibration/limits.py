"""From honest distances to what a card tolerates, within what its profile allows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from poi.calibration.measure import Spread, Unit
from shared.card_parts import Tolerance
from shared.documents import ModelCard
from shared.errors import CalibrationFailed
from shared.interfaces import Tensors
from shared.profiles import MAX_MARGIN, MAX_RELATIVE_TOLERANCE

HEADROOM: Final = 4.0  # over the largest honest distance: nobody has measured on all the hardware there is
REACH: Final = 2.0  # times the largest magnitude among the samples
FLOOR: Final = 1e-6  # of the scale: eight float32 steps, where the configurations at hand happen to agree
ADVICE: Final = "Look for what differs (TF32, a quantised provider, kernels that change with the batch), or take "


def with_limits(draft: ModelCard, spread: Spread, reference: Sequence[Tensors]) -> ModelCard:
    """Four times the largest honest distance, for each output by itself. Raises `CalibrationFailed` where that is more
    than the profile allows, or where an exact profile is not exact."""
    if draft.profile.is_exact:
        _check_exact(draft, spread)
        return draft
    tolerances = {name: _tolerance(draft, name, spread, _scale(name, reference)) for name in draft.tolerances}
    card = msgspec.structs.replace(draft, tolerances=tolerances)
    if draft.text is None:
        return card
    margin = _margin(draft, spread, tolerances["logits"].scale)
    return msgspec.structs.replace(card, text=msgspec.structs.replace(draft.text, margin=margin))


def with_reach(card: ModelCard, inputs: Sequence[Tensors]) -> ModelCard:
    """Requests may go twice as far as the samples: rounding grows as the numbers do, and tolerances are four times what
    was seen of it."""
    if card.text is not None:
        return card
    floats = [spec.name for spec in card.inputs if spec.dtype.startswith("float")]
    largest = {name: max(float(np.abs(each[name]).max(initial=0.0)) for each in inputs) for name in floats}
    return msgspec.structs.replace(card, reach={name: REACH * most for name, most in largest.items() if most > 0})


def score_of(card: ModelCard, distances: Unit) -> float:
    """In tolerances: the largest."""
    if card.profile.is_exact:
        return distances["score"]
    limits = {name: tolerance.absolute for name, tolerance in card.tolerances.items()}
    if card.text is not None:
        limits["margin"] = card.text.margin
    return max(distances[name] / limit for name, limit in limits.items())


def _scale(name: str, reference: Sequence[Tensors]) -> float:
    """The largest magnitude in calibration; of logits before they are normalised."""
    return max(float(np.abs(outputs[name]).max(initial=0.0)) for outputs in reference) or 1.0


def _tolerance(draft: ModelCard, name: str, spread: Spread, scale: float) -> Tolerance:
    relative, most = max(HEADROOM * spread.largest[name] / scale, FLOOR), MAX_RELATIVE_TOLERANCE[draft.profile]
    if relative > most:
        raise CalibrationFailed(
            f"{draft.name}: honest runs of {name} lie {spread.largest[name] / scale:.2g} of its scale apart, which "
            f"takes a tolerance of {relative:.2g}; {draft.profile} allows {most:g}. {_farthest(spread, name)}. {ADVICE}"
            "a profile of lower precision"
        )
    return Tolerance(relative=relative, scale=scale)


def _margin(draft: ModelCard, spread: Spread, scale: float) -> float:
    margin, most = max(HEADROOM * spread.largest["margin"], FLOOR * scale), MAX_MARGIN[draft.profile]
    if draft.method == "sequential":
        return min(margin, most)  # a token beyond it is evidence, and no more
    if margin > most:
        raise CalibrationFailed(
            f"{draft.name}: honest logits lie {spread.largest['margin']:.2g} apart, which takes a margin of "
            f"{margin:.2g}; {draft.profile} allows {most:g}. {_farthest(spread, 'margin')}. {ADVICE}a profile of lower "
            "precision"
        )
    return margin


def _check_exact(draft: ModelCard, spread: Spread) -> None:
    if spread.largest["score"] > 0:
        differing = sum(unit["score"] > 0 for unit in spread.from_reference.values())
        raise CalibrationFailed(
            f"{draft.name}: profile {draft.profile} promises equal bytes, and {differing} of "
            f"{len(spread.from_reference)} different results are not the reference's. "
            f"{_farthest(spread, 'score')}. {ADVICE}--profile exact-fp64 for a model of floats, or fp32"
        )


def _farthest(spread: Spread, name: str) -> str:
    farthest = max(spread.from_reference, key=lambda configuration: spread.from_reference[configuration][name])
    return f"Farthest from the reference: {farthest}"
