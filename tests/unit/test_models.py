"""The shipped models are what their cards say, do what they are for, and can be calibrated again."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from models.calibrate import calibrate
from models.mutations import MUTATIONS, float16, int8, mutate, pruned
from models.samples import image_document, read_documents
from shared.adapters.engine_onnx import OnnxEngine
from shared.canonical import encode_canonical
from shared.content.unixfs import build_file
from shared.documents import ClassifyOutput, InputDocument, Parameters, TextOutput, decode_card, validate_input
from shared.tensors import decode_tensor
from shared.types import Digest
from tests.inference_support import MODELS, card_of, prove, runner_of, samples

FOLDERS = sorted(path.parent.name for path in MODELS.glob("*/card.json"))


def test_both_models_are_here() -> None:
    assert FOLDERS == ["digits", "text"]


# --- the card and the file -----------------------------------------------------------------------------
@pytest.mark.parametrize("folder", FOLDERS)
def test_the_card_names_the_file(folder: str) -> None:
    card, model = card_of(folder), (MODELS / folder / "model.onnx").read_bytes()
    cid, size = build_file(io.BytesIO(model), lambda _: None)
    assert (card.model.sha256, card.model.size, card.model.cid) == (hashlib.sha256(model).hexdigest(), size, cid)
    assert size <= 5_000_000  # a clone must stay small


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_card_says_what_about_and_quality_say(folder: str) -> None:
    form = json.loads(encode_canonical(card_of(folder)))
    about = json.loads((MODELS / folder / "about.json").read_text())
    text = about.pop("text", None)
    assert {key: form[key] for key in about} == about
    assert form["quality"] == json.loads((MODELS / folder / "quality.json").read_text())
    assert text is None or {key: form["text"][key] for key in text} == text


@pytest.mark.parametrize("folder", FOLDERS)
async def test_the_engine_takes_what_the_card_says(folder: str) -> None:
    card, model = card_of(folder), (MODELS / folder / "model.onnx").read_bytes()
    engine = OnnxEngine(max_loaded_bytes=1 << 26)
    model_hash = Digest(bytes.fromhex(card.model.sha256))
    await engine.load(model_hash, model)
    inputs = {
        spec.name: np.zeros([1 if size == -1 else size for size in spec.shape], spec.dtype) for spec in card.inputs
    }
    outputs = await engine.run(model_hash, inputs)
    for spec in card.outputs:
        assert outputs[spec.name].dtype.name == spec.dtype
        assert spec.admits(outputs[spec.name].shape)
    await engine.close()


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_samples_fit_the_card(folder: str) -> None:
    documents = read_documents(MODELS / folder)
    assert len(documents) >= 16
    for document in documents:
        validate_input(card_of(folder), document, Parameters())


def test_samples_of_a_model_of_your_own_are_input_documents(tmp_path: Path) -> None:
    (tmp_path / "inputs.json").write_text('[{"prompt":"a"},{"prompt":"b"}]')
    assert read_documents(tmp_path) == [InputDocument(prompt="a"), InputDocument(prompt="b")]


# --- what they are for -----------------------------------------------------------------------------------
async def test_the_classifier_reads_real_digits() -> None:
    assert len(samples()) == 40
    assert {sample["label"] for sample in samples()} == set(range(10))
    right = 0
    for sample in samples():
        assert len(sample["pixels"]) == 64
        output = await prove(card_of("digits"), image_document(sample["pixels"]), runner_of("digits").forward)
        assert isinstance(output, ClassifyOutput)
        right += output.label == sample["label"]
    assert right >= 39
    assert card_of("digits").quality["heldOutAccuracy"] >= 0.97


async def test_the_decoy_is_plausible_and_another_model() -> None:
    """A liar that ran it would be right often enough to go unnoticed by whoever looks at labels only."""
    card = card_of("digits")
    agreeing = 0
    for sample in samples():
        document = image_document(sample["pixels"])
        ours = await prove(card, document, runner_of("digits").forward)
        theirs = await prove(card, document, runner_of("digits/decoy").forward)
        assert isinstance(ours, ClassifyOutput)
        assert isinstance(theirs, ClassifyOutput)
        agreeing += ours.label == theirs.label
        distance = np.abs(decode_tensor(ours.scores) - decode_tensor(theirs.scores)).max()  # type: ignore[operator]
        assert distance > 1000 * card.tolerances["scores"].absolute
    assert agreeing >= 24


COMMON = """the and of that to in he shall unto for his lord them be not him is they with all thou was which"""


async def test_the_decoder_writes_words() -> None:
    """Chance would spell hardly any of these."""
    common = set(COMMON.split())
    words: list[str] = []
    for number, document in enumerate(read_documents(MODELS / "text")):
        parameters = Parameters(max_tokens=100, temperature=0.6)
        output = await prove(
            card_of("text"), document, runner_of("text").forward, parameters, Digest(bytes([number]) * 32)
        )
        assert isinstance(output, TextOutput)
        assert output.text.isascii()
        words += output.text.decode().lower().split()
    assert sum(word.strip(",.:;") in common for word in words) > 0.4 * len(words)
    assert 3 < sum(map(len, words)) / len(words) < 6


# --- calibration -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("folder", FOLDERS)
def test_the_calibration_keeps_honest_and_dishonest_apart(folder: str) -> None:
    card = card_of(folder)
    limit = card.text.margin if card.text else max(tolerance.relative for tolerance in card.tolerances.values())
    assert limit >= 4 * card.calibration.honest_max
    assert set(MUTATIONS) <= set(card.calibration.cheats)
    assert card.calibration.separation == min(cheat.smallest_deviation for cheat in card.calibration.cheats.values())
    assert card.calibration.separation > 10
    if card.kind == "classify":
        assert all(cheat.caught == 1 for cheat in card.calibration.cheats.values())


def test_calibrating_again_gives_the_same_card_within_rounding() -> None:
    """Another machine rounds differently; it may not come to another conclusion."""
    card, again = card_of("digits"), calibrate(MODELS / "digits")
    assert decode_card(encode_canonical(again)) == again
    assert again.calibration.honest_max < card.tolerances["scores"].relative / 2
    same = {"tolerances": card.tolerances, "calibration": card.calibration}
    assert msgspec.structs.replace(again, **same) == card


def test_a_model_whose_cheats_hide_gets_no_card(tmp_path: Path) -> None:
    """Weights that float16 holds exactly: the cheat is no cheat, and the card would promise what it cannot keep."""
    for name in ("about.json", "quality.json", "samples.json"):
        (tmp_path / name).write_bytes((MODELS / "digits" / name).read_bytes())
    (tmp_path / "model.onnx").write_bytes(mutate((MODELS / "digits" / "model.onnx").read_bytes(), float16))
    with pytest.raises(SystemExit, match=r"within 0\.0\d tolerances"):
        calibrate(tmp_path)


# --- mutations ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("change", MUTATIONS)
@pytest.mark.parametrize("folder", FOLDERS)
def test_a_mutation_keeps_the_graph_and_changes_the_weights(folder: str, change: str) -> None:
    model = (MODELS / folder / "model.onnx").read_bytes()
    changed = mutate(model, MUTATIONS[change])
    assert len(changed) == len(model)
    assert changed != model
    names = [output.name for output in runner_of(folder, change).session().get_outputs()]
    assert names == [spec.name for spec in card_of(folder).outputs]


def test_mutations_do_what_they_are_called() -> None:
    weights = np.linspace(-1, 1, 1000, dtype=np.float32) ** 3
    assert np.array_equal(float16(weights), weights.astype(np.float16))
    assert len(np.unique(int8(weights))) <= 255
    assert np.abs(int8(weights) - weights).max() <= 0.5 / 127 + 1e-6
    assert 10 <= np.count_nonzero(pruned(weights) == 0) <= 11
    assert np.array_equal(int8(np.zeros(3, np.float32)), np.zeros(3, np.float32))
