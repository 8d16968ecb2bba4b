"""The card before anything was measured: what a model's folder says of it, with tolerances of 1."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import onnx
from google.protobuf.message import DecodeError

from shared.canonical import decode_json, encode_canonical
from shared.card_parts import Calibration, Golden, ModelFile, Tolerance
from shared.constants import MAX_CARD_BYTES
from shared.content.unixfs import cid_of
from shared.documents import ModelCard
from shared.errors import CodecError, ConfigError
from shared.model_card import METHODS_OF
from shared.profiles import MIN_SEPARATION, Profile

# The methods whose numbers come from here.
CALIBRATED: Final = ("tensor", "exact", "text", "sequential", "batch-audit", "similarity")
UNMEASURED: Final = Calibration(
    engines=(), samples=1, configurations={}, honest_max=0.0, cheats={}, separation=MIN_SEPARATION
)
# What `about.json` need not say.
OF_A_TEXT: Final[Mapping[str, Any]] = {"sampler": "gumbel-philox-1", "seed": "beacon", "margin": 1.0}
OF_A_SEQUENCE: Final[Mapping[str, Any]] = {
    "honestMean": 0.0,
    "honestDeviation": 1.0,
    "honestMiss": 0.05,
    "shift": 1.0,
    "limit": 9.22,
}
# Parts of which every number is measured, by method.
MEASURED_PARTS: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "sequential": ("sequence", OF_A_SEQUENCE),
    "batch-audit": ("audit", {"relative": 1e-6, "draws": 1}),
}
OF_SIMILARITY: Final[Mapping[str, Any]] = {"falseRejects": 0.0, "falseAccepts": 0.0, "outputs": 1}


def draft_card(folder: Path, *, profile: str | None = None, method: str | None = None) -> tuple[ModelCard, bytes]:
    """The card, and the model's bytes. `profile` and `method` overrule `about.json`. Raises `ConfigError`."""
    try:
        model, about, quality = ((folder / name).read_bytes() for name in ("model.onnx", "about.json", "quality.json"))
    except OSError as error:
        raise ConfigError(
            f"{error.filename}: {error.strerror}; a model's folder has model.onnx, about.json, and quality.json, for "
            "which {} will do"
        ) from None
    chosen = {name: value for name, value in (("profile", profile), ("method", method)) if value is not None}
    try:
        form = _form({**json.loads(about), **chosen}, json.loads(quality), _file_of(model))
        draft = decode_json(encode_canonical(form), ModelCard, "about.json", max_bytes=MAX_CARD_BYTES)
        _check_method(draft)
    except (ValueError, TypeError, AttributeError, CodecError) as error:
        raise ConfigError(f"{folder}: {error}; models/README.md says what belongs into the folder") from None
    ones = {name: Tolerance(relative=1.0, scale=1.0) for name in _toleranced(draft)}
    return msgspec.structs.replace(draft, tolerances=ones), model


def _form(about: Mapping[str, Any], quality: Any, file: ModelFile) -> dict[str, Any]:
    defaults: dict[str, Mapping[str, Any]] = {"text": OF_A_TEXT, "similarity": OF_SIMILARITY}
    parts: dict[str, Mapping[str, Any]] = {
        name: {**default, **about[name]} for name, default in defaults.items() if about.get(name)
    }
    part, numbers = MEASURED_PARTS.get(str(about.get("method")), ("text", parts.get("text")))
    return {
        "profile": Profile.FP32,
        "text": None,
        **about,
        **parts,
        part: numbers,
        "version": 2,
        "model": file,
        "tolerances": {},
        "reach": {},
        "quality": quality,
        "calibration": UNMEASURED,
        "golden": Golden(cid="", vectors=1),
        "signatures": (),
    }


def _file_of(model: bytes) -> ModelFile:
    """Raises `ValueError` for what is no ONNX file."""
    try:
        opsets = onnx.load_model_from_string(model).opset_import
    except DecodeError as error:
        raise ValueError(f"model.onnx is no ONNX file: {error}") from None
    opset = next((each.version for each in opsets if each.domain in ("", "ai.onnx")), 0)
    return ModelFile(cid=cid_of(model), sha256=hashlib.sha256(model).hexdigest(), size=len(model), opset=opset)


def _check_method(draft: ModelCard) -> None:
    """Raises `ValueError` before minutes of measuring for what no card may say."""
    allowed = [method for method in METHODS_OF[draft.kind] if method in CALIBRATED]
    if draft.method not in allowed:
        raise ValueError(f"method {draft.method} of kind {draft.kind} is not calibrated; {' or '.join(allowed)} is")
    if (draft.method == "exact") != draft.profile.is_exact:
        raise ValueError(f"method {draft.method} and profile {draft.profile} do not go together; exact and exact-* do")


def _toleranced(draft: ModelCard) -> list[str]:
    if draft.profile.is_exact:
        return []
    if draft.kind == "text":
        return ["logits"]
    return [spec.name for spec in draft.outputs if spec.dtype.startswith("float")]
