"""Whether a measured card may be published, and its last form."""

from __future__ import annotations

from collections.abc import Mapping

from shared.canonical import encode_canonical
from shared.card_parts import Cheat
from shared.documents import ModelCard, decode_card
from shared.errors import CalibrationFailed, CodecError
from shared.profiles import MIN_SEPARATION, Profile


def publishable(card: ModelCard) -> ModelCard:
    """As attesters will read it. Raises `CalibrationFailed` for one under which cheats pass, or that they would refuse.

    Only fp32 has a least separation. Exact profiles have no tolerance to hide in, and what half precision cannot see
    stands in its card.
    """
    if card.profile is Profile.FP32 and card.calibration is not None:
        _check_separation(card.name, card.calibration.cheats)
    try:
        return decode_card(encode_canonical(card))
    except CodecError as error:
        raise CalibrationFailed(str(error)) from None


def separation_of(cheats: Mapping[str, Cheat]) -> float:
    """The smallest score of those that set the floor; 0 without any: what was not tried was not told apart."""
    return min((cheat.smallest_score for cheat in cheats.values() if cheat.sets_floor), default=0.0)


def nearest_cheat(cheats: Mapping[str, Cheat]) -> str | None:
    """Of those that set the floor."""
    floor = {name: cheat.smallest_score for name, cheat in cheats.items() if cheat.sets_floor}
    return min(floor, key=lambda name: floor[name], default=None)


def _check_separation(name: str, cheats: Mapping[str, Cheat]) -> None:
    nearest, separation = nearest_cheat(cheats), separation_of(cheats)
    if nearest is None:
        raise CalibrationFailed(
            f"{name}: none of the cheats applies to this model, so nobody knows what the card would let through; put "
            "another model that a cheat might run beside it, as decoy.onnx"
        )
    if separation < MIN_SEPARATION:
        raise CalibrationFailed(
            f"{name}: the cheat {nearest!r} comes within {separation:.2f} tolerances of an honest output, and a card "
            f"needs {MIN_SEPARATION:g}. Have the model give more of what it computes (a hidden layer beside a single "
            "number), or take --method exact --profile exact-fp64, which tolerates nothing"
        )
