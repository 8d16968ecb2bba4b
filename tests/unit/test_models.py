"""The shipped models are what their papers say, do what they are for, and can be calibrated again."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from models.samples import SENTENCE_BYTES, image_document, read_documents, row_document, sentence_document
from poi.calibration import emulated
from poi.calibration.calibrate import calibrate
from poi.cheats.weights import SETS_FLOOR
from poi.deployment import Model
from shared.adapters.engine_onnx import OnnxEngine
from shared.adapters.onnx_file import check_onnx
from shared.canonical import encode_canonical
from shared.content.unixfs import build_file
from shared.documents import ClassifyOutput, InputDocument, Parameters, TextOutput, decode_card, validate_input
from shared.errors import ConfigError
from shared.tensors import TensorSpec, check_arrays, decode_tensor
from shared.types import Digest
from tests.calibration_support import quiet
from tests.inference_support import MODELS, card_of, prove, runner_of, samples

ALL = ["diabetes", "digits", "sentences", "text", "wine"]
SINGLE_PASS = [name for name in ALL if name != "text"]


def about(folder: str) -> dict[str, Any]:
    form: dict[str, Any] = json.loads((MODELS / folder / "about.json").read_text())
    return form


def specs(folder: str, side: str) -> list[TensorSpec]:
    return [msgspec.convert(spec, TensorSpec) for spec in about(folder)[side]]


def rows(folder: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((MODELS / folder / "rows.json").read_text())
    return found


def outputs_of(name: str, document: InputDocument) -> dict[str, Any]:
    assert document.tensors is not None
    return runner_of(name).run(document.tensors)


def test_all_models_are_here() -> None:
    assert sorted(path.parent.name for path in MODELS.glob("*/about.json")) == ALL
    assert sorted(path.parent.name for path in MODELS.glob("*/card.json")) == ALL


# --- the file and what is said of it -------------------------------------------------------------------
@pytest.mark.parametrize("folder", ALL)
def test_a_model_is_one_small_file_of_opset_17(folder: str) -> None:
    data = (MODELS / folder / "model.onnx").read_bytes()
    check_onnx(data)
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model)
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == 17
    assert len(data) < (5_000_000 if folder == "text" else 1_000_000)  # a clone must stay small


@pytest.mark.parametrize("file", ["model", "decoy"])
@pytest.mark.parametrize("folder", SINGLE_PASS)
def test_the_model_and_its_decoy_take_and_give_what_about_says(folder: str, file: str) -> None:
    assert set(about(folder)) >= set(about("digits"))
    session = runner_of(f"{folder}/{file}").session()
    types = {"float32": "tensor(float)", "int64": "tensor(int64)"}
    for side, values in (("inputs", session.get_inputs()), ("outputs", session.get_outputs())):
        assert [(value.name, value.type) for value in values] == [
            (spec.name, types[spec.dtype]) for spec in specs(folder, side)
        ]
    document = read_documents(MODELS / folder)[0]
    outputs = outputs_of(f"{folder}/{file}", document)
    for spec in specs(folder, "outputs"):
        assert outputs[spec.name].dtype == spec.dtype
        assert spec.admits(outputs[spec.name].shape)


@pytest.mark.parametrize("folder", SINGLE_PASS)
def test_the_samples_are_what_the_model_takes(folder: str) -> None:
    documents = read_documents(MODELS / folder)
    assert len(documents) == 40
    for document in documents:
        assert document.tensors is not None
        check_arrays(tuple(specs(folder, "inputs")), document.tensors)


@pytest.mark.parametrize("folder", SINGLE_PASS)
def test_a_batch_gives_what_its_rows_give(folder: str) -> None:
    """The graphs leave the batch free: calibration and batch audits run many inputs at once."""
    inputs = [document.tensors or {} for document in read_documents(MODELS / folder)[:8]]
    together = runner_of(folder).run({name: np.concatenate([row[name] for row in inputs]) for name in inputs[0]})
    for name, values in together.items():
        alone = np.concatenate([runner_of(folder).run(row)[name] for row in inputs])
        assert np.abs(values - alone).max() <= 1e-5 * np.abs(alone).max()


@pytest.mark.parametrize("folder", SINGLE_PASS)
def test_the_decoy_never_gives_the_models_outputs(folder: str) -> None:
    for document in read_documents(MODELS / folder):
        ours, theirs = outputs_of(folder, document), outputs_of(f"{folder}/decoy", document)
        assert any(np.abs(ours[name] - theirs[name]).max() > 1e-2 * np.abs(ours[name]).max() for name in ours)


# --- the card and the file -----------------------------------------------------------------------------
@pytest.mark.parametrize("folder", ALL)
def test_the_card_names_the_file(folder: str) -> None:
    card, model = card_of(folder), (MODELS / folder / "model.onnx").read_bytes()
    cid, size = build_file(io.BytesIO(model), lambda _: None)
    assert (card.model.sha256, card.model.size, card.model.cid) == (hashlib.sha256(model).hexdigest(), size, cid)


@pytest.mark.parametrize("folder", ALL)
def test_the_card_says_what_about_and_quality_say(folder: str) -> None:
    form = json.loads(encode_canonical(card_of(folder)))
    about = json.loads((MODELS / folder / "about.json").read_text())
    text = about.pop("text", None)
    assert {key: form[key] for key in about} == about
    assert form["quality"] == json.loads((MODELS / folder / "quality.json").read_text())
    assert text is None or {key: form["text"][key] for key in text} == text


@pytest.mark.parametrize("folder", ALL)
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


@pytest.mark.parametrize("folder", ALL)
def test_the_samples_fit_the_card(folder: str) -> None:
    documents = read_documents(MODELS / folder)
    assert len(documents) >= 16
    for document in documents:
        validate_input(card_of(folder), document, Parameters())


def test_a_folder_without_samples_says_which_files_it_might_have(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no sample inputs; one of prompts\.json, .*inputs\.json is expected"):
        read_documents(tmp_path)


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


def embedding(text: str) -> Any:
    return outputs_of("sentences", sentence_document(text))["embedding"][0]


def test_the_encoder_finds_the_verse_that_words_are_missing_from() -> None:
    texts = json.loads((MODELS / "sentences" / "sentences.json").read_text())
    index = np.array([embedding(text) for text in texts])
    assert np.abs(np.linalg.norm(index, axis=1) - 1).max() < 1e-5
    found = 0
    for number, text in enumerate(texts):
        words = text.split()
        del words[len(words) // 2]
        found += int((index @ embedding(" ".join(words))).argmax()) == number
    assert found >= 36


def test_an_empty_text_has_an_embedding_too() -> None:
    """The mean over no token is no division by zero."""
    assert np.isfinite(embedding("")).all()


def test_a_sentence_is_padded_and_a_longer_one_refused() -> None:
    document = sentence_document("é")
    assert document.tensors is not None
    assert document.tensors["ids"].tolist() == [[0xC3, 0xA9, *[256] * 62]]
    assert specs("sentences", "inputs")[0].shape == (1, SENTENCE_BYTES)
    sentence_document("é" * 32)
    with pytest.raises(ValueError, match="at most 64 bytes of UTF-8, this one has 65"):
        sentence_document("é" * 32 + "e")


def test_the_regressor_predicts_progressions_it_has_not_seen() -> None:
    known = np.array([row["progression"] for row in rows("diabetes")])
    outputs = [outputs_of("diabetes", row_document(row["features"])) for row in rows("diabetes")]
    predicted = np.array([output["progression"][0, 0] for output in outputs])
    assert np.abs(predicted - known).mean() < 0.8 * np.abs(known - known.mean()).mean()
    hidden = np.concatenate([output["hidden"] for output in outputs])
    assert np.abs(hidden).max() <= 1
    assert len(np.unique(hidden, axis=0)) == len(hidden)


def test_the_trees_know_the_growers() -> None:
    labels = [int(outputs_of("wine", row_document(row["features"]))["scores"].argmax()) for row in rows("wine")]
    assert sum(label == row["label"] for label, row in zip(labels, rows("wine"), strict=True)) >= 38
    assert set(labels) == {0, 1, 2}


def test_the_trees_are_one_node_without_maps_or_strings() -> None:
    graph = onnx.load(MODELS / "wine" / "model.onnx").graph
    assert [node.op_type for node in graph.node] == ["TreeEnsembleClassifier"]
    assert [output.name for output in graph.output] == ["scores"]
    assert "classlabels_strings" not in {attribute.name for attribute in graph.node[0].attribute}


def test_the_digits_have_a_residual_block_and_no_pooling_that_lacks_float64() -> None:
    operators = [node.op_type for node in onnx.load(MODELS / "digits" / "model.onnx").graph.node]
    assert operators.count("Add") == 2
    assert not {"AveragePool", "GlobalAveragePool", "BatchNormalization"} & set(operators)


# --- calibration -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("folder", ALL)
def test_the_calibration_keeps_honest_and_dishonest_apart(folder: str) -> None:
    card = card_of(folder)
    calibration = card.calibration
    assert calibration is not None
    assert calibration.honest_max <= 0.25 + 1e-9  # four times the largest honest distance is the tolerance
    assert max(calibration.configurations.values()) <= calibration.honest_max + 1e-9
    assert {name for name in calibration.configurations if name.startswith("emulated")} == {
        "emulated Haswell (AVX2)",
        "emulated SandyBridge (AVX)",
    }
    counted = {name: cheat for name, cheat in calibration.cheats.items() if cheat.sets_floor}
    assert SETS_FLOOR & set(counted)
    assert calibration.separation == min(cheat.smallest_score for cheat in counted.values())
    assert calibration.separation >= (7 if folder == "wine" else 10)
    assert all(cheat.caught == 1 for cheat in counted.values())


async def test_calibrating_again_gives_the_same_card_within_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine rounds differently; it may not come to another conclusion."""
    monkeypatch.setattr(emulated, "is_available", lambda: False)
    card, again = card_of("digits"), (await calibrate(MODELS / "digits", progress=quiet())).card
    assert decode_card(encode_canonical(again)) == again
    assert again.tolerances["scores"].absolute < 2 * card.tolerances["scores"].absolute
    assert again.tolerances["scores"].scale == pytest.approx(card.tolerances["scores"].scale)
    same = {"tolerances": card.tolerances, "calibration": card.calibration, "golden": card.golden}
    assert msgspec.structs.replace(again, **same) == card


@pytest.mark.parametrize("folder", ALL)
def test_the_golden_vectors_are_the_cards(folder: str) -> None:
    card = card_of(folder)
    assert card.golden is not None
    assert Model.read(MODELS / folder).card == card
    cid, _ = build_file(io.BytesIO((MODELS / folder / "golden.json").read_bytes()), lambda _: None)
    assert cid == card.golden.cid


@pytest.mark.parametrize(
    ("name", "said"), [("model.onnx", "of another model"), ("golden.json", "names other golden vectors")]
)
def test_files_that_do_not_belong_together_are_no_model(tmp_path: Path, name: str, said: str) -> None:
    for file in ("card.json", "model.onnx", "golden.json"):
        (tmp_path / file).write_bytes((MODELS / "diabetes" / file).read_bytes())
    assert Model.read(tmp_path).card == card_of("diabetes")
    (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(ConfigError, match=said):
        Model.read(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ConfigError, match=r"expected card\.json, model\.onnx and golden\.json"):
        Model.read(tmp_path)
