"""The honest matrix: every configuration gives each input's own outputs, whatever it is batched with."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from poi.calibration import emulated, independent, matrix
from poi.calibration.draft import draft_card
from poi.calibration.independent import Evaluator
from poi.calibration.matrix import honest_matrix
from poi.calibration.subject import compared, past_of
from shared.adapters import onnx_runner
from shared.adapters.onnx_precision import convert
from shared.adapters.onnx_runner import Runner
from shared.documents import ModelCard
from shared.errors import InferenceFailed
from shared.interfaces import Tensors
from shared.profiles import Profile
from shared.tensors import TensorSpec
from tests.cards import make_card
from tests.inference_support import MODELS, card_of, runner_of


@cache
def drafted(name: str) -> ModelCard:
    return draft_card(MODELS / name)[0]


@pytest.fixture
def one_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread and two optimisation levels: the shapes are what is looked at."""
    monkeypatch.setattr(matrix, "_threads", lambda: [1])
    monkeypatch.setattr(matrix, "LEVELS", {"off": "ORT_DISABLE_ALL", "all": "ORT_ENABLE_ALL"})


def test_the_matrix_of_a_model_with_a_free_batch() -> None:
    names = [each.name for each in honest_matrix(drafted("wine"), runner_of("wine"))]
    assert names[0] == "1 thread, optimisation all, batch 1"
    assert len(names) == len(set(names))
    assert {"2 threads, optimisation off, batch 64", "onnx reference evaluator"} <= set(names)
    assert len(names) == 4 * 3 * len(matrix._threads()) + 1


def test_the_matrix_of_a_decoder() -> None:
    names = [each.name for each in honest_matrix(drafted("text"), runner_of("text"))]
    assert names[0] == "1 thread, optimisation all, prefill, batch 1"
    assert {"1 thread, optimisation all, token by token", "2 threads, optimisation off, prefill, batch 8"} <= set(names)


def test_an_emulator_adds_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulated, "is_available", lambda: True)
    names = [each.name for each in honest_matrix(drafted("wine"), runner_of("wine"))]
    assert names[-2:] == ["emulated Haswell (AVX2)", "emulated SandyBridge (AVX)"]


def test_a_gpu_adds_its_provider_once_a_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "providers", lambda: ("CPUExecutionProvider", "CUDAExecutionProvider"))
    names = [each.name for each in honest_matrix(drafted("wine"), runner_of("wine"))]
    on_gpu = [name for name in names if name.startswith("CUDAExecutionProvider, 1 thread, optimisation ")]
    assert len(on_gpu) == 4 * 3
    assert sum("CUDA" in name for name in names) == len(on_gpu)


def test_providers_whose_numbers_are_not_the_models_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "AzureExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: found)
    assert onnx_runner.providers() == ("CPUExecutionProvider", "CUDAExecutionProvider")
    assert onnx_runner.PROVIDER_OPTIONS["CUDAExecutionProvider"]["use_tf32"] == "0"


@pytest.mark.usefixtures("one_setting")
@pytest.mark.parametrize("name", ["diabetes", "wine", "digits"])
def test_every_configuration_gives_each_input_its_own_outputs(name: str) -> None:
    rng = np.random.default_rng(0)
    (spec,) = drafted(name).inputs
    inputs: list[Tensors] = [{spec.name: rng.random(spec.shape).astype(np.float32)} for _ in range(70)]
    expected = [runner_of(name).run(each) for each in inputs]
    for configuration in honest_matrix(drafted(name), runner_of(name)):
        outputs = configuration.run(inputs)
        assert len(outputs) == 70
        for ours, theirs in zip(expected, outputs, strict=True):
            for output in drafted(name).outputs:
                assert theirs[output.name].shape == ours[output.name].shape
                np.testing.assert_allclose(theirs[output.name], ours[output.name], atol=1e-4, rtol=1e-5)


@pytest.mark.usefixtures("one_setting")
def test_a_text_is_the_same_text_in_every_shape() -> None:
    card = drafted("text")
    inputs: list[Tensors] = [
        {"ids": np.array([[256, *text]], np.int64), **past_of(card)} for text in (b"And the king", b"In", b"x" * 30)
    ]
    expected = [runner_of("text").run(each) for each in inputs]
    for configuration in honest_matrix(card, runner_of("text")):
        for ours, theirs in zip(expected, configuration.run(inputs), strict=True):
            assert theirs["logits"].shape == ours["logits"].shape
            np.testing.assert_allclose(theirs["logits"], ours["logits"], atol=1e-4)


def test_inputs_of_several_rows_come_apart_again() -> None:
    card = make_card(inputs=(TensorSpec("features", "float32", (-1, 13)),))
    rng = np.random.default_rng(0)
    inputs: list[Tensors] = [{"features": rng.random((rows, 13)).astype(np.float32)} for rows in (1, 3, 2)]
    for configuration in list(honest_matrix(card, runner_of("wine")))[:3]:
        assert [each["scores"].shape for each in configuration.run(inputs)] == [(1, 3), (3, 3), (2, 3)]


def test_a_graph_of_fixed_batch_is_run_one_by_one() -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    runner = Runner(model.SerializeToString())
    assert not runner.has_free_batch()
    shapes = [each.name for each in honest_matrix(make_card(), runner)]
    assert not any("batch 8" in name or "batch 64" in name for name in shapes)


# --- the other engine ------------------------------------------------------------------------------------
def test_the_evaluator_is_another_engine_in_float32() -> None:
    (spec,) = drafted("diabetes").inputs
    inputs = {spec.name: np.random.default_rng(0).random(spec.shape).astype(np.float32)}
    outputs = Evaluator((MODELS / "diabetes" / "model.onnx").read_bytes()).run(inputs)
    ours = runner_of("diabetes").run(inputs)
    assert outputs.keys() == ours.keys()
    assert all(outputs[name].dtype == np.float32 for name in ours)
    assert independent.version().startswith("onnx ")


def test_what_the_evaluator_lacks_is_said() -> None:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    node = helper.make_node("FusedGelu", ["x"], ["y"], domain="com.microsoft")
    graph = helper.make_graph([node], "g", value[:1], value[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    with pytest.raises(InferenceFailed, match="onnx reference evaluator"):
        Evaluator(model).run({"x": np.zeros(1, np.float32)})


def test_the_evaluator_has_no_trees_in_double() -> None:
    wide = convert((MODELS / "wine" / "model.onnx").read_bytes(), "fp64")
    with pytest.raises(InferenceFailed, match="trees in float32"):
        Evaluator(wide, in_double=True).run({})


def test_in_an_exact_profile_what_is_compared_is_what_is_published() -> None:
    card = make_card(method="exact", profile=Profile.EXACT_FP64, tolerances={})
    kept = compared(card, {"y": np.array([[1 / 3]]), "n": np.array([1]), "more": np.zeros(1)})
    assert {name: array.dtype.name for name, array in kept.items()} == {"y": "float32", "n": "int64"}
    assert set(
        compared(card_of("text"), runner_of("text").run({"ids": np.array([[256]]), **past_of(drafted("text"))}))
    ) == {"logits"}


# --- the emulator ------------------------------------------------------------------------------------------
@pytest.fixture
def emulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of the emulator's name that runs the command on this very processor, unless it is told otherwise."""
    program = tmp_path / emulated.EMULATOR
    program.write_text('#!/bin/sh\n[ "$1" = -cpu ] && [ "$2" = Haswell ] || exit 9\nshift 2\nexec "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return program


@pytest.mark.usefixtures("emulator")
def test_an_emulated_run_gives_what_was_asked_for() -> None:
    inputs: list[Tensors] = [{"features": np.full((1, 13), i, np.float32)} for i in range(12)]
    model = (MODELS / "wine" / "model.onnx").read_bytes()
    outputs = emulated.run_emulated("Haswell", model, inputs, ["scores"])
    assert len(outputs) == 12
    for each, ours in zip(outputs, inputs, strict=True):
        np.testing.assert_array_equal(each["scores"], runner_of("wine").run(ours)["scores"])


def test_an_emulator_that_fails_says_why(emulator: Path) -> None:
    model, inputs = (MODELS / "wine" / "model.onnx").read_bytes(), [{"features": np.zeros((1, 13), np.float32)}]
    with pytest.raises(InferenceFailed, match="-cpu SandyBridge: 9"):
        emulated.run_emulated("SandyBridge", model, inputs, ["scores"])
    emulator.write_text("#!/bin/sh\necho first >&2\necho Illegal instruction >&2\nexit 4\n")
    with pytest.raises(InferenceFailed, match="-cpu Haswell: Illegal instruction"):
        emulated.run_emulated("Haswell", model, inputs, ["scores"])


def test_an_emulator_that_hangs_is_ended(emulator: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    emulator.write_text("#!/bin/sh\nexec tail -f /dev/null\n")
    monkeypatch.setattr(emulated, "TIMEOUT_SECONDS", 0.2)
    with pytest.raises(InferenceFailed, match=r"took more than 0\.2 seconds"):
        emulated.run_emulated("Haswell", b"", [], [])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(emulated.EMULATOR) is None, reason="qemu-user is not installed")
@pytest.mark.parametrize("cpu", emulated.CPUS)
def test_another_instruction_set_gives_other_bytes_and_the_same_answer(cpu: str) -> None:
    """By the real emulator, on the real wheels."""
    (spec,) = drafted("digits").inputs
    rng = np.random.default_rng(0)
    inputs: list[Tensors] = [{spec.name: rng.random(spec.shape).astype(np.float32)} for _ in range(40)]
    theirs = emulated.run_emulated(cpu, (MODELS / "digits" / "model.onnx").read_bytes(), inputs, ["scores"])
    ours = [runner_of("digits").run(each) for each in inputs]
    apart = [np.abs(a["scores"] - b["scores"]).max() for a, b in zip(ours, theirs, strict=True)]
    assert 0 < max(apart) <= 0.5 * card_of("digits").tolerances["scores"].absolute
