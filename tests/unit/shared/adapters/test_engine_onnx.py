"""What only the real engine does: files it refuses, providers it reads back, options it sets."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from shared.adapters.engine_onnx import OnnxEngine
from shared.adapters.onnx_precision import PRECISIONS, Precision
from shared.errors import ConfigError, InferenceFailed
from tests.onnx_support import (
    FLOAT,
    FLOAT16,
    X,
    Y,
    digest_of,
    endless,
    external,
    graph,
    model,
    node,
    of_one_operator,
    tensor,
    value,
)

DOUBLE, ENDLESS = of_one_operator("Add"), endless()
INPUT = {"x": np.ones((1, 3), np.float32)}
ONE = np.ones(3, np.float32)
MODELS = Path(__file__).resolve().parents[4] / "models"


@pytest.fixture
async def engine() -> AsyncIterator[OnnxEngine]:
    engine = OnnxEngine(max_loaded_bytes=1 << 20, max_concurrent=1)
    yield engine
    await engine.close()


async def refusal(engine: OnnxEngine, data: bytes) -> str:
    with pytest.raises(InferenceFailed) as caught:
        await engine.load(digest_of(data), data)
    assert not engine.is_loaded(digest_of(data))
    return str(caught.value)


# --- files -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "data",
    [b"", b"\x00" * 1000, b"GIF89a" + bytes(100), b"ORTM" + bytes(100), DOUBLE[:40], DOUBLE[:-1]],
    ids=["empty", "zeros", "picture", "ORT format", "head", "cut"],
)
async def test_garbage_is_refused(engine: OnnxEngine, data: bytes) -> None:
    await refusal(engine, data)


async def test_a_tensor_in_another_file_is_refused_though_the_file_is_there(
    engine: OnnxEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights").write_bytes(np.ones(1, np.float32).tobytes())
    monkeypatch.chdir(tmp_path)
    hostile = model(graph([node("Add", ["x", "w"], ["y"])], [X], [Y], [external("w", "weights")]))
    assert "another file" in await refusal(engine, hostile)


async def test_an_unknown_operator_is_refused(engine: OnnxEngine) -> None:
    assert "onnxruntime" in await refusal(engine, of_one_operator("Steal"))


@pytest.mark.parametrize("inside", [True, False])
async def test_types_that_documents_cannot_carry_are_refused(engine: OnnxEngine, inside: bool) -> None:
    x, y = value("x", FLOAT16 if inside else FLOAT, [3]), value("y", FLOAT if inside else FLOAT16, [3])
    cast = node("Cast", ["x"], ["y"], b"\x0a\x02to\x18" + bytes([FLOAT if inside else FLOAT16]) + b"\xa0\x01\x02")
    assert "type tensor(float16)" in await refusal(engine, model(graph([cast], [x], [y])))


# --- providers ---------------------------------------------------------------------------------------
def test_a_provider_that_is_not_there_is_an_error_that_says_what_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ConfigError, match="has no CUDAExecutionProvider; it has CPUExecutionProvider"):
        OnnxEngine(max_loaded_bytes=1, provider="cuda")


class Asked:
    """Stands for `onnxruntime.InferenceSession`: notes what it is asked for and says that `ran` runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *ran: str) -> None:
        self.providers: list[tuple[str, dict[str, str]]] = []
        self.ran = ran
        available = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
        monkeypatch.setattr(onnxruntime, "InferenceSession", self)

    def __call__(self, data: bytes, options: Any, providers: list[tuple[str, dict[str, str]]]) -> Asked:
        self.providers = providers
        return self

    def get_providers(self) -> list[str]:
        return [*self.ran, "CPUExecutionProvider"]

    def get_inputs(self) -> list[Any]:
        return []

    get_outputs = get_inputs


async def test_a_silent_fall_back_to_the_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    Asked(monkeypatch, "CPUExecutionProvider")
    engine = OnnxEngine(max_loaded_bytes=1 << 20, provider="cuda")
    assert "asked for CUDAExecutionProvider, got CPUExecutionProvider" in await refusal(engine, DOUBLE)


@pytest.mark.parametrize("foreign", ["TensorrtExecutionProvider", "DnnlExecutionProvider"])
async def test_a_provider_that_came_uninvited_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, foreign: str) -> None:
    Asked(monkeypatch, "CUDAExecutionProvider", foreign)
    engine = OnnxEngine(max_loaded_bytes=1 << 20, provider="cuda")
    assert f"{foreign} would run part of the model" in await refusal(engine, DOUBLE)


@pytest.mark.parametrize("provider", ["tensorrt", "openvino", "CPUExecutionProvider"])
def test_a_provider_that_nobody_calibrated_is_refused_by_name(provider: Any) -> None:
    with pytest.raises(ConfigError, match=f"{provider} is not one of cpu, cuda"):
        OnnxEngine(max_loaded_bytes=1, provider=provider)


@pytest.mark.parametrize(("allowed", "option"), [(False, "0"), (True, "1")])
async def test_tf32_is_off_unless_allowed(monkeypatch: pytest.MonkeyPatch, allowed: bool, option: str) -> None:
    asked = Asked(monkeypatch, "CUDAExecutionProvider")
    engine = OnnxEngine(max_loaded_bytes=1 << 20, provider="cuda", allow_tf32=allowed)
    await engine.load(digest_of(DOUBLE), DOUBLE)
    [(provider, options)] = asked.providers
    assert (provider, options["use_tf32"]) == ("CUDAExecutionProvider", option)
    assert options["cudnn_conv_algo_search"] == "DEFAULT"  # the others choose by a race, anew each time
    assert engine.fingerprint(digest_of(DOUBLE)).device == "cuda:0"


async def test_the_fingerprint_is_the_runtimes_word(engine: OnnxEngine) -> None:
    await engine.load(digest_of(DOUBLE), DOUBLE)
    fingerprint = engine.fingerprint(digest_of(DOUBLE))
    assert (fingerprint.runtime, fingerprint.version) == ("onnxruntime", onnxruntime.__version__)
    assert fingerprint.provider == "CPUExecutionProvider"


# --- precisions --------------------------------------------------------------------------------------
@pytest.mark.parametrize("precision", PRECISIONS)
async def test_the_model_is_known_by_the_hash_of_the_original(precision: Precision) -> None:
    engine = OnnxEngine(max_loaded_bytes=1 << 20, precision=precision)
    await engine.load(digest_of(DOUBLE), DOUBLE)
    outputs = await engine.run(digest_of(DOUBLE), INPUT)
    assert outputs["y"].dtype == (np.float64 if precision == "fp64" else np.float32)
    assert outputs["y"].tolist() == [[2, 2, 2]]
    assert engine.fingerprint(digest_of(DOUBLE)).precision == precision
    await engine.close()


async def test_rounded_doubles_are_float32_and_exact() -> None:
    """In float32 the sum 2**24 + 1 is lost at once."""
    engine = OnnxEngine(max_loaded_bytes=1 << 20, precision="fp64", rounded=True)
    add_and_take = model(
        graph([node("Add", ["x", "w"], ["sum"]), node("Sub", ["sum", "x"], ["y"])], [X], [Y], [tensor("w", ONE)])
    )
    await engine.load(digest_of(add_and_take), add_and_take)
    outputs = await engine.run(digest_of(add_and_take), {"x": np.full((1, 3), 2**24, np.float32)})
    assert outputs["y"].dtype == np.float32
    assert outputs["y"].tolist() == [[1, 1, 1]]
    await engine.close()


async def test_an_operator_without_a_double_is_refused_by_name() -> None:
    engine = OnnxEngine(max_loaded_bytes=1 << 20, precision="fp64")
    assert "operator Tan cannot be had in double precision" in await refusal(engine, of_one_operator("Tan", ["x"]))


def test_an_unknown_precision_is_an_error_that_says_which_there_are() -> None:
    unknown: Any = "fp8"
    with pytest.raises(ConfigError, match="fp8 is not one of native, fp64, tf32, fp16, bf16"):
        OnnxEngine(max_loaded_bytes=1, precision=unknown)


@pytest.mark.parametrize("name", ["digits", "text"])
async def test_exact_outputs_are_the_same_bytes_for_any_number_of_threads_and_any_batch(name: str) -> None:
    data = (MODELS / name / "model.onnx").read_bytes()
    inputs = example_of(name, 6)
    outputs = []
    for threads, batch in ((1, 6), (2, 6), (2, 1)):
        engine = OnnxEngine(max_loaded_bytes=1 << 30, threads=threads, precision="fp64", rounded=True)
        await engine.load(digest_of(data), data)
        runs = [await engine.run(digest_of(data), part(inputs, at, batch)) for at in range(0, 6, batch)]
        first = "scores" if name == "digits" else "logits"
        outputs.append(np.concatenate([run[first] for run in runs]).tobytes())
        await engine.close()
    assert outputs[0] == outputs[1] == outputs[2]


def example_of(name: str, count: int) -> dict[str, npt.NDArray[Any]]:
    rng = np.random.default_rng(7)
    if name == "digits":
        return {"image": rng.random((count, 1, 8, 8)).astype(np.float32)}
    past = np.zeros((5, count, 4, 0, 32), np.float32)
    return {"ids": rng.integers(0, 258, (count, 40)), "past_keys": past, "past_values": past}


def part(inputs: dict[str, npt.NDArray[Any]], at: int, size: int) -> dict[str, npt.NDArray[Any]]:
    """Some of a batch, which is the second dimension of caches."""
    cut = slice(at, at + size)
    return {name: array[:, cut] if name.startswith("past") else array[cut] for name, array in inputs.items()}


# --- threads -----------------------------------------------------------------------------------------
async def test_a_run_out_of_time_frees_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one thread, the next run starts only when the runtime has really stopped."""
    engine = OnnxEngine(max_loaded_bytes=1 << 20, max_concurrent=1, timeout_seconds=0.2)
    await engine.load(digest_of(ENDLESS), ENDLESS)
    with pytest.raises(InferenceFailed, match=r"0\.2 seconds"):
        await engine.run(digest_of(ENDLESS), INPUT)
    monkeypatch.setattr(engine, "_timeout_seconds", 20.0)
    await engine.load(digest_of(DOUBLE), DOUBLE)
    assert (await engine.run(digest_of(DOUBLE), INPUT))["y"].tolist() == [[2, 2, 2]]
    await engine.close()


async def test_the_event_loop_lives_while_models_run(engine: OnnxEngine) -> None:
    await engine.load(digest_of(ENDLESS), ENDLESS)
    run = asyncio.create_task(engine.run(digest_of(ENDLESS), INPUT))
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert not run.done()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run


async def test_closing_waits_for_its_threads() -> None:
    engine = OnnxEngine(max_loaded_bytes=1 << 20)
    await engine.load(digest_of(DOUBLE), DOUBLE)
    await engine.run(digest_of(DOUBLE), INPUT)
    own = engine._pool._pool._threads
    assert own
    await engine.close()
    assert not any(thread.is_alive() for thread in threading.enumerate() if thread in own)
    with pytest.raises(InferenceFailed):
        await engine.run(digest_of(DOUBLE), INPUT)


async def test_loading_after_closing_fails_in_our_words() -> None:
    engine = OnnxEngine(max_loaded_bytes=1 << 20)
    await engine.close()
    for _ in range(3):
        with pytest.raises(InferenceFailed, match="closed"):
            await engine.load(digest_of(DOUBLE), DOUBLE)


async def test_closing_stops_what_would_run_for_ever() -> None:
    engine = OnnxEngine(max_loaded_bytes=1 << 20, max_concurrent=1, timeout_seconds=1000)
    await engine.load(digest_of(ENDLESS), ENDLESS)
    runs = [asyncio.create_task(engine.run(digest_of(ENDLESS), INPUT)) for _ in range(3)]
    await asyncio.sleep(0.05)
    await asyncio.wait_for(engine.close(), 20)
    results = await asyncio.gather(*runs, return_exceptions=True)
    assert [type(result) for result in results] == [InferenceFailed] * 3
