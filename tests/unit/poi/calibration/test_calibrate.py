"""Whole calibrations of small models, what they refuse, and what they leave behind."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from poi.calibration import cheats
from poi.calibration.calibrate import Calibrated, calibrate
from poi.calibration.command import Options, main
from poi.calibration.golden import golden_vectors
from poi.calibration.report import write_report
from poi.cheats.weights import WEIGHT_CHEATS
from poi.deployment import Model
from shared.content.unixfs import cid_of
from shared.crypto import keystore
from shared.documents import decode_card
from shared.errors import CalibrationFailed, ConfigError, InferenceFailed
from shared.golden import GoldenVector, decode_golden
from shared.profiles import Profile
from shared.types import Verdict
from shared.verification import METHODS
from shared.verification.method import Compute, Work
from shared.verification.tensor import TensorDistance
from tests.calibration_support import copied, quiet
from tests.inference_support import MODELS, PERFORMER, card_of, reference_of, runner_of

SHIPPED = ["diabetes", "digits", "sentences", "text", "wine"]


def about(folder: Path, **values: Any) -> Path:
    form = json.loads((folder / "about.json").read_text())
    (folder / "about.json").write_text(json.dumps({**form, **values}))
    return folder


def golden_of(name: str) -> tuple[GoldenVector, ...]:
    return decode_golden(card_of(name), (MODELS / name / "golden.json").read_bytes())


@pytest.fixture
def _no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than calibrating."""
    monkeypatch.setattr("poi.calibration.report.draw", lambda path, calibrated: None)


def run(folder: Path, **options: Any) -> tuple[str, int]:
    """What `poi calibrate` prints, and its exit code."""
    told = io.StringIO()
    code = main(Options(folder, **options), Console(file=told, width=200))
    return told.getvalue(), code


# --- cards ---------------------------------------------------------------------------------------------
async def test_a_regressor_gets_a_card_that_tells_every_cheat_that_counts(tmp_path: Path) -> None:
    calibrated = await calibrate(copied("diabetes", tmp_path), progress=quiet())
    card, calibration = calibrated.card, calibrated.card.calibration
    assert calibration is not None
    assert calibration.samples == 256
    assert calibration.honest_max <= 0.25 + 1e-9
    assert max(calibration.configurations.values()) <= calibration.honest_max + 1e-9
    assert calibration.configurations.keys() == calibrated.honest.same_as.keys()
    assert len(calibration.engines) == 2
    counted = [cheat for cheat in calibration.cheats.values() if cheat.sets_floor]
    assert calibration.separation == min(cheat.smallest_score for cheat in counted) > 20
    assert all(cheat.caught == 1 for cheat in counted)
    assert {"fp16 weights", "int8 weights", "1 % pruned", cheats.DECOY} <= set(calibration.cheats)
    assert card.golden is not None
    assert card.golden.cid == cid_of(calibrated.golden)
    assert {max(scores) for scores in calibrated.honest_scores().values()} == set(calibration.configurations.values())


async def test_a_model_in_float64_is_equal_to_the_bit_everywhere(tmp_path: Path) -> None:
    calibrated = await calibrate(copied("diabetes", tmp_path), profile="exact-fp64", method="exact", progress=quiet())
    card, calibration = calibrated.card, calibrated.card.calibration
    assert calibration is not None
    assert (card.profile, card.tolerances) == (Profile.EXACT_FP64, {})
    assert len(calibrated.honest.distinct) == 1
    assert len(calibrated.honest.same_as) > 12
    assert set(calibration.configurations.values()) == {0.0}
    assert all(cheat.caught == 1 for cheat in calibration.cheats.values())
    assert decode_card(msgspec.json.encode(card, order="sorted")) == card


async def test_float32_is_not_equal_to_the_bit(tmp_path: Path) -> None:
    with pytest.raises(CalibrationFailed, match="exact-int promises equal bytes, and"):
        await calibrate(copied("digits", tmp_path), profile="exact-int", method="exact", progress=quiet())


async def test_a_card_of_similarity_says_how_often_it_is_wrong(tmp_path: Path) -> None:
    folder = about(copied("diabetes", tmp_path), method="similarity", similarity={"output": "hidden", "least": 0.9999})
    calibrated = await calibrate(folder, progress=quiet())
    similarity, calibration = calibrated.card.similarity, calibrated.card.calibration
    assert similarity is not None
    assert calibration is not None
    assert similarity.false_rejects == 0
    assert similarity.false_accepts > 0.3  # of quantised and pruned models, none of which `tensor` accepts
    assert similarity.outputs >= 256
    assert calibration.cheats["int8 weights"].caught < 1
    assert calibration.separation > 20


async def test_a_batch_audit_gets_the_tolerance_of_its_projections(tmp_path: Path) -> None:
    folder = copied("sentences", tmp_path)
    free = {
        side: [
            {**spec, "shape": [-1, *spec["shape"][1:]]}
            for spec in json.loads((folder / "about.json").read_text())[side]
        ]
        for side in ("inputs", "outputs")
    }
    calibrated = await calibrate(about(folder, method="batch-audit", **free), progress=quiet())
    card, calibration = calibrated.card, calibrated.card.calibration
    assert calibration is not None
    assert card.audit is not None
    assert 1e-8 <= card.audit.relative <= 5e-6  # far from the 5e-5 that a card may have
    assert calibration.separation > 20
    assert len(decode_golden(card, calibrated.golden)) == 16
    assert decode_card(msgspec.json.encode(card, order="sorted")) == card


async def test_a_batch_audit_of_a_model_without_large_layers_is_refused_at_once(tmp_path: Path) -> None:
    folder = about(copied("diabetes", tmp_path), method="batch-audit")
    with pytest.raises(InferenceFailed, match="verify it by the method tensor"):
        await calibrate(folder, progress=quiet())


async def test_the_trees_have_cheats_of_their_own(tmp_path: Path) -> None:
    calibration = (await calibrate(copied("wine", tmp_path), progress=quiet())).card.calibration
    assert calibration is not None
    assert set(calibration.cheats) == {"half the trees", "fp16 thresholds", cheats.DECOY}
    assert calibration.separation >= 4


async def test_a_model_that_does_not_run_has_no_card(tmp_path: Path) -> None:
    folder = copied("diabetes", tmp_path)
    (folder / "inputs.json").write_text('[{"tensors":{"x":{"dtype":"int64","shape":[1],"data":"AAAAAAAAAAA="}}}]')
    with pytest.raises(InferenceFailed):
        await calibrate(folder, progress=quiet())


# --- golden vectors ------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", SHIPPED)
async def test_golden_vectors_are_what_an_honest_engine_comes_within_a_quarter_of(name: str) -> None:
    card, runner = card_of(name), runner_of(name)
    vectors = golden_of(name)
    method = METHODS[card.method]
    for vector in vectors:
        work = Work(vector.task_id, PERFORMER, card, vector.document, vector.parameters)
        assert method.fault(work, vector.output) is None
        judged = await method.judge(work, vector.output, Compute(runner.forward, runner.forward))
        assert judged.verdict is Verdict.VALID
        assert judged.score <= 0.25


async def test_golden_vectors_are_the_references() -> None:
    card, reference = card_of("diabetes"), reference_of("diabetes").forward
    documents = [vector.document for vector in golden_of("diabetes")]
    again = await golden_vectors(card, documents * 2, reference)
    assert len(again) == 16
    for vector in again:
        work = Work(vector.task_id, PERFORMER, card, vector.document, vector.parameters)
        measured = await TensorDistance().measure(work, vector.output, reference)
        assert measured.score < 0.1  # float32's own rounding, once


# --- the command ---------------------------------------------------------------------------------------
def test_the_command_writes_a_card_golden_vectors_a_report_and_a_picture(tmp_path: Path) -> None:
    folder = copied("diabetes", tmp_path / "diabetes")
    told, code = run(folder)
    assert code == 0
    for name in ("card.json", "golden.json", "calibration/report.md", "calibration/scores.png"):
        assert f"wrote {folder / name}" in told
        assert (folder / name).exists()
    assert re.search(r"separation \d+.*, nearest cheat: fp16 weights", told)
    assert re.search(r"\d+\.\d s  cheat: fp16 weights  nearest \d", told)
    assert "onnx reference evaluator" in told
    assert Model.read(folder).card.name == "diabetes"
    assert (folder / "calibration/scores.png").read_bytes().startswith(b"\x89PNG")
    assert not list(folder.glob(".*"))  # no draft is left behind


@pytest.mark.usefixtures("_no_picture")
def test_the_command_writes_elsewhere_and_signs(tmp_path: Path) -> None:
    keys = keystore.create(tmp_path / "keystore.json", "secret", kdf="pbkdf2", iterations=1000)
    password = tmp_path / "password"
    password.touch(mode=0o600)
    password.write_text("secret\n")
    folder = copied("diabetes", tmp_path / "diabetes")
    options = {"out": tmp_path / "out", "report": tmp_path / "report", "sign": tmp_path / "keystore.json"}
    run(folder, **options, password_file=password)
    card = decode_card((tmp_path / "out/card.json").read_bytes())
    assert [each.calibrator for each in card.signatures] == [f"0x{keys.address.hex()}"]
    assert (tmp_path / "report/report.md").exists()
    assert not (folder / "card.json").exists()


def test_a_wrong_password_is_said_before_minutes_of_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        run(copied("diabetes", tmp_path), sign=tmp_path / "keystore.json")
    assert not (tmp_path / "calibration").exists()


@pytest.mark.usefixtures("_no_picture")
def test_a_model_whose_cheats_hide_gets_a_report_and_no_card(tmp_path: Path) -> None:
    """Weights that float16 holds exactly: the cheat is no cheat, and the card would promise what it cannot keep."""
    folder = copied("diabetes", tmp_path)
    (folder / "model.onnx").write_bytes(WEIGHT_CHEATS["fp16 weights"]((folder / "model.onnx").read_bytes()))
    with pytest.raises(CalibrationFailed, match=r"the cheat 'fp16 weights' comes within 0\.\d\d tolerances"):
        run(folder)
    assert "| fp16 weights | 0" in (folder / "calibration/report.md").read_text()
    assert not (folder / "card.json").exists()
    assert not (folder / "golden.json").exists()


@pytest.mark.usefixtures("_no_picture")
def test_an_old_card_stays_where_no_new_one_comes(tmp_path: Path) -> None:
    folder = copied("diabetes", tmp_path)
    (folder / "card.json").write_bytes(b"an old card")
    (folder / "decoy.onnx").write_bytes((folder / "model.onnx").read_bytes())
    with pytest.raises(CalibrationFailed, match="the cheat 'another model' comes within 0"):
        run(folder)
    assert (folder / "card.json").read_bytes() == b"an old card"


# --- the report ----------------------------------------------------------------------------------------
@pytest.fixture
async def calibrated(tmp_path: Path) -> Calibrated:
    return await calibrate(copied("diabetes", tmp_path / "diabetes"), progress=quiet())


async def test_the_report_has_every_configuration_and_every_cheat(calibrated: Calibrated, tmp_path: Path) -> None:
    calibrated.honest.skipped["a | GPU"] = "none here"
    report, picture = write_report(tmp_path / "report", calibrated)
    text = report.read_text()
    assert picture == tmp_path / "report/scores.png"
    assert "![scores by configuration and cheat](scores.png)" in text
    for name in (*calibrated.honest.same_as, *calibrated.caught):
        assert f"| {name} | " in text
    assert "| a \\| GPU | none here |" in text
    assert "hidden" in text
    assert "progression" in text


async def test_without_matplotlib_the_report_says_what_to_install(
    calibrated: Calibrated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    report, picture = write_report(tmp_path / "report", calibrated)
    assert picture is None
    assert "`pip install matplotlib` and run it again" in report.read_text()
    assert not (tmp_path / "report/scores.png").exists()
