"""The card before anything was measured, and folders that are no model's."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from poi.calibration.draft import draft_card
from shared.card_parts import Tolerance
from shared.content.unixfs import cid_of
from shared.errors import ConfigError
from shared.profiles import Profile
from tests.calibration_support import copied

ONE = Tolerance(relative=1.0, scale=1.0)


def changed(folder: Path, **values: Any) -> Path:
    about = json.loads((folder / "about.json").read_text())
    (folder / "about.json").write_text(json.dumps({**about, **values}))
    return folder


def test_it_says_what_the_folder_says(tmp_path: Path) -> None:
    card, model = draft_card(copied("diabetes", tmp_path))
    assert (card.name, card.kind, card.method, card.profile) == ("diabetes", "tensor", "tensor", Profile.FP32)
    assert card.tolerances == {"progression": ONE, "hidden": ONE}
    assert card.model is not None
    assert (card.model.sha256, card.model.size) == (hashlib.sha256(model).hexdigest(), len(model))
    assert (card.model.cid, card.model.opset) == (cid_of(model), 17)


def test_the_command_line_goes_before_the_folder(tmp_path: Path) -> None:
    card, _ = draft_card(copied("diabetes", tmp_path), profile="exact-fp64", method="exact")
    assert (card.profile, card.method, card.tolerances) == (Profile.EXACT_FP64, "exact", {})


def test_a_text_has_the_sampler_and_the_seed_of_the_protocol_unless_it_says_so(tmp_path: Path) -> None:
    folder = copied("text", tmp_path)
    text = {"tokens": "bytes", "vocab": 258, "bos": 256, "eos": 257, "context": 256, "maxTokens": 192}
    card, _ = draft_card(changed(folder, text=text))
    assert card.text is not None
    assert (card.text.sampler, card.text.seed, card.text.margin) == ("gumbel-philox-1", "beacon", 1.0)
    assert card.tolerances == {"logits": ONE}
    card, _ = draft_card(changed(folder, text={**text, "seed": "requester"}))
    assert card.text is not None
    assert card.text.seed == "requester"


def test_similarity_brings_its_limit_and_not_its_errors(tmp_path: Path) -> None:
    folder = changed(copied("diabetes", tmp_path), method="similarity", similarity={"output": "hidden", "least": 0.9})
    card, _ = draft_card(folder)
    assert card.similarity is not None
    assert (card.similarity.output, card.similarity.least) == ("hidden", 0.9)


@pytest.mark.parametrize("name", ["model.onnx", "about.json", "quality.json"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = copied("diabetes", tmp_path)
    (folder / name).unlink()
    with pytest.raises(ConfigError, match=rf"{name}: No such file .*has model\.onnx, about\.json"):
        draft_card(folder)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("model.onnx", b"\xff\xff"),
        ("about.json", b"{"),
        ("about.json", b"[]"),
        ("about.json", b"{}"),
        ("quality.json", b"[1]"),
        ("quality.json", b'{"accuracy":"good"}'),
        ("quality.json", b"\xff"),
    ],
)
def test_a_file_that_is_something_else(tmp_path: Path, name: str, data: bytes) -> None:
    folder = copied("diabetes", tmp_path)
    (folder / name).write_bytes(data)
    with pytest.raises(ConfigError, match=r"models/README\.md says what belongs into the folder"):
        draft_card(folder)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"profile": "fp8"}, "Invalid enum value 'fp8'"),
        (
            {"method": "text"},
            "method text of kind tensor is not calibrated; tensor or exact or similarity or batch-audit is",
        ),
        ({"method": "external", "kind": "json"}, "is not calibrated"),
        ({"method": "exact"}, "method exact and profile fp32 do not go together"),
        ({"profile": "exact-int"}, "method tensor and profile exact-int do not go together"),
        ({"more": 1}, "unknown field"),
    ],
)
def test_what_no_card_may_say_is_said_before_anything_runs(tmp_path: Path, values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        draft_card(changed(copied("diabetes", tmp_path), **values))
