"""From a model's folder and its measurements to a card: drafted without numbers, then finished with them."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import onnx

from poi.calibration.measure import Spread, Unit
from shared.canonical import decode_json, encode_canonical
from shared.card_parts import Calibration, Cheat, Golden, ModelFile, Tolerance
from shared.constants import MAX_CARD_BYTES
from shared.content.unixfs import build_file
from shared.documents import ModelCard, decode_card
from shared.errors import CalibrationFailed, CodecError, ConfigError
from shared.interfaces import Tensors
from shared.profiles import MAX_MARGIN, MAX_RELATIVE_TOLERANCE, MIN_SEPARATION, Profile
from shared.types import Cid

HEADROOM: Final = 4.0  # over the largest honest distance: nobody has measured on all hardware there is
FLOOR: Final = 1e-6  # of the scale: eight float32 steps, where this machine's configurations happen to agree
FIXED: Final = {"sampler": "gumbel-philox-1", "seed": "beacon"}  # of a text, where `about.json` says nothing else
NO_GOLDEN: Final = Golden(cid="", vectors=1)
UNMEASURED: Final = Calibration(
    engines=(), samples=1, configurations={}, honest_max=0.0, cheats={}, separation=MIN_SEPARATION
)


def draft_card(folder: Path, *, profile: str | None = None, method: str | None = None) -> tuple[ModelCard, bytes]:
    """A card with everything but what is measured, its tolerances 1; and the model's bytes. Raises `ConfigError`."""
    try:
        model = (folder / "model.onnx").read_bytes()
        about = json.loads((folder / "about.json").read_bytes())
        quality = json.loads((folder / "quality.json").read_bytes())
        opset = _opset(model)
        form = _form(about, quality, {"profile": profile, "method": method})
        card = decode_json(
            encode_canonical(form | {"model": _file(model, opset)}), ModelCard, "about.json", max_bytes=MAX_CARD_BYTES
        )
    except OSError as error:
        raise ConfigError(
            f"{error.filename}: {error.strerror}; a model's folder has model.onnx, about.json and "
            "quality.json ({} will do)"
        ) from None
    except (ValueError, TypeError, KeyError, CodecError) as error:
        raise ConfigError(f"{folder}: {error}; see models/README.md for what belongs into about.json") from None
    return msgspec.structs.replace(
        card, tolerances={name: Tolerance(relative=1.0, scale=1.0) for name in _toleranced(card)}
    ), model


def _form(about: dict[str, Any], quality: dict[str, float], chosen: Mapping[str, str | None]) -> dict[str, Any]:
    text = about.get("text")
    return {
        "profile": Profile.FP32,
        **about,
        **{key: value for key, value in chosen.items() if value is not None},
        "version": 2,
        "tolerances": {},
        "text": None if text is None else {**FIXED, "margin": 1.0, **text},
        "quality": quality,
        "calibration": UNMEASURED,
        "golden": NO_GOLDEN,
        "signatures": (),
    }


def _file(model: bytes, opset: int) -> ModelFile:
    return ModelFile(cid=cid_of(model), sha256=hashlib.sha256(model).hexdigest(), size=len(model), opset=opset)


def _opset(model: bytes) -> int:
    """Of the default operator set. Raises `ValueError`."""
    from google.protobuf.message import DecodeError

    try:
        imports = onnx.load_model_from_string(model).opset_import
    except DecodeError as error:
        raise ValueError(f"model.onnx is no ONNX file: {error}") from None
    return next((each.version for each in imports if each.domain in ("", "ai.onnx")), 0)


def _toleranced(card: ModelCard) -> list[str]:
    if card.profile.is_exact:
        return []
    return ["logits"] if card.text is not None else [o.name for o in card.outputs if o.dtype.startswith("float")]


def cid_of(data: bytes) -> Cid:
    cid, _ = build_file(io.BytesIO(data), lambda _: None)
    return cid


# --- tolerances ----------------------------------------------------------------------------------------
def with_limits(draft: ModelCard, spread: Spread, reference: Sequence[Tensors]) -> ModelCard:
    """Four times the largest honest distance, of each output by itself. Raises `CalibrationFailed` where that is more
    than the profile allows, or where an exact profile is not exact."""
    if draft.profile.is_exact:
        _check_exact(draft, spread)
        return draft
    tolerances = {
        name: _tolerance(draft, name, spread.largest[name], _scale(draft, name, reference)) for name in draft.tolerances
    }
    card = msgspec.structs.replace(draft, tolerances=tolerances)
    if draft.text is None:
        return card
    margin = max(HEADROOM * spread.largest["margin"], FLOOR * tolerances["logits"].scale)
    if margin > MAX_MARGIN[draft.profile]:
        raise CalibrationFailed(
            f"{draft.name}: honest logits lie {spread.largest['margin']:.2g} apart, which needs a margin of "
            f"{margin:.2g}; {draft.profile} allows {MAX_MARGIN[draft.profile]:g}. {_ADVICE}"
        )
    return msgspec.structs.replace(card, text=msgspec.structs.replace(draft.text, margin=margin))


_ADVICE: Final = "Take a profile of lower precision (--profile), or look for what differs in the report's matrix."


def _tolerance(draft: ModelCard, name: str, largest: float, scale: float) -> Tolerance:
    relative = max(HEADROOM * largest / scale, FLOOR)
    if relative > MAX_RELATIVE_TOLERANCE[draft.profile]:
        raise CalibrationFailed(
            f"{draft.name}: honest runs of {name} lie {largest / scale:.2g} of its scale apart, which needs a tolerance "
            f"of {relative:.2g}; {draft.profile} allows {MAX_RELATIVE_TOLERANCE[draft.profile]:g}. {_ADVICE}"
        )
    return Tolerance(relative=relative, scale=scale)


def _scale(card: ModelCard, name: str, reference: Sequence[Tensors]) -> float:
    """The largest magnitude in calibration; of logits as they are published, normalised, it is theirs before."""
    return max(float(np.abs(outputs[name]).max(initial=0.0)) for outputs in reference) or 1.0


def _check_exact(draft: ModelCard, spread: Spread) -> None:
    differing = {name: unit["score"] for name, unit in spread.from_reference.items() if unit["score"] > 0}
    if spread.largest["score"] > 0:
        worst = max(differing, key=lambda name: differing[name], default="two configurations")
        raise CalibrationFailed(
            f"{draft.name}: profile {draft.profile} promises equal bytes, and {worst} gives others "
            f"({len(differing)} of {len(spread.from_reference)} distinct results differ from the reference). Take "
            "--profile fp32, or exact-fp64 for a model of floats."
        )


# --- the whole card ------------------------------------------------------------------------------------
def scores_of(card: ModelCard, distances: Unit) -> float:
    """Distances in tolerances: the largest."""
    if card.profile.is_exact:
        return distances["score"]
    limits = {name: tolerance.absolute for name, tolerance in card.tolerances.items()}
    if card.text is not None:
        limits["margin"] = card.text.margin
    return max(distances[name] / limits[name] for name in limits)


def with_calibration(
    card: ModelCard,
    *,
    engines: Iterable[str],
    samples: int,
    configurations: Mapping[str, float],
    honest_max: float,
    cheats: Mapping[str, Cheat],
) -> ModelCard:
    calibration = Calibration(
        engines=tuple(engines),
        samples=samples,
        configurations=dict(configurations),
        honest_max=honest_max,
        cheats=dict(cheats),
        separation=separation_of(cheats),
    )
    return msgspec.structs.replace(card, calibration=calibration)


def separation_of(cheats: Mapping[str, Cheat]) -> float:
    """0 without a cheat: what was not tried was not told apart."""
    return min((cheat.smallest_score for cheat in cheats.values() if cheat.sets_floor), default=0.0)


def nearest_cheat(cheats: Mapping[str, Cheat]) -> str:
    """Of those that set the floor. Raises `CalibrationFailed` where none could be tried."""
    floor = {name: cheat.smallest_score for name, cheat in cheats.items() if cheat.sets_floor}
    if not floor:
        raise CalibrationFailed("no cheat of the list applies to this model; put a decoy.onnx beside it")
    return min(floor, key=lambda name: floor[name])


def check_separation(card: ModelCard) -> None:
    """Raises `CalibrationFailed`. Only fp32 has a least separation: the other profiles are equal to the bit, or say in
    numbers what they cannot see."""
    calibration = card.calibration
    if calibration is None or card.profile is not Profile.FP32:
        return
    nearest = nearest_cheat(calibration.cheats)
    if calibration.separation < MIN_SEPARATION:
        raise CalibrationFailed(
            f"{card.name}: the cheat {nearest!r} lies {calibration.separation:.2f} tolerances from an honest output, and "
            f"a card needs {MIN_SEPARATION:g}. Publish more of what the model computes (a hidden layer beside a single "
            "number), take samples that are less alike, or --profile exact-fp64, which has no tolerance"
        )


def finished(card: ModelCard, golden: Golden) -> ModelCard:
    """As attesters will read it. Raises `CalibrationFailed` where they would refuse it."""
    try:
        return decode_card(encode_canonical(msgspec.structs.replace(card, golden=golden)))
    except CodecError as error:
        raise CalibrationFailed(str(error)) from None
