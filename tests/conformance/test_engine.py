"""One suite for every `InferenceEngine`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.adapters.engine_genai import GenaiEngine
from shared.adapters.engine_onnx import OnnxEngine
from shared.adapters.engine_openai import OpenAiEngine
from shared.adapters.engine_reference import ReferenceEngine
from shared.adapters.memory.engine import FunctionEngine, FunctionModel
from shared.errors import InferenceFailed, InputMismatch, ModelMismatch
from shared.interfaces import InferenceEngine, Tensors
from shared.tensors import TensorSpec
from tests.engine_kinds import DECODERS, SERVED, SERVED_MODELS, TENSORS, Kind
from tests.genai_support import token_config, write_folder
from tests.onnx_support import digest_of
from tests.openai_support import CompletionServer, serving

OF_TENSORS = ["onnx", "onnx in fp64", "reference", "reference in fp64", "function"]
OF_TOKENS = ["genai", "vllm", "openai", "llamacpp"]
SPEC = (TensorSpec("x", "float32", (-1, 3)),)


def _fail(inputs: Tensors) -> Tensors:
    raise ValueError("three numbers have no shape of seven")


FUNCTIONS: dict[bytes, Callable[[Tensors], Tensors]] = {
    TENSORS.double: lambda inputs: {"y": np.add(inputs["x"], inputs["x"])},
    TENSORS.square: lambda inputs: {"y": np.multiply(inputs["x"], inputs["x"])},
    TENSORS.negate: lambda inputs: {"y": np.negative(inputs["x"])},
    TENSORS.failing: _fail,
    TENSORS.endless: lambda inputs: inputs,
}


@dataclass
class Engines:
    """Makes engines of one kind, and says what they run."""

    name: str
    kind: Kind
    where: Any = None  # a folder or a server
    made: list[Any] = field(default_factory=list)

    def __call__(
        self, *, max_loaded_bytes: int = 1 << 20, timeout_seconds: float = 20.0, slow: bool = False
    ) -> InferenceEngine:
        """`slow` says that the endless model will run, which the function engine must be told."""
        limits: Any = {"max_loaded_bytes": max_loaded_bytes, "timeout_seconds": timeout_seconds}
        self.made.append(self._make(limits, slow))
        engine: InferenceEngine = self.made[-1]
        return engine

    def _make(self, limits: Any, slow: bool) -> Any:
        match self.name:
            case "onnx":
                return OnnxEngine(**limits)
            case "onnx in fp64":
                return OnnxEngine(**limits, precision="fp64", rounded=True)
            case "reference":
                return ReferenceEngine(**limits, max_concurrent=2)
            case "reference in fp64":
                return ReferenceEngine(**limits, max_concurrent=2, precision="fp64", rounded=True)
            case "genai":
                return GenaiEngine(self.where, **limits)
            case "function":
                models = {digest_of(model): FunctionModel(SPEC, function) for model, function in FUNCTIONS.items()}
                return FunctionEngine(models, **limits, seconds=3600 if slow else 0)
        return OpenAiEngine(self.where.url, **limits, style=self.name)


@pytest.fixture(params=[*OF_TENSORS, *OF_TOKENS])
async def make(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engines]:
    async with AsyncExitStack() as stack:
        engines = Engines(request.param, TENSORS)
        if request.param == "genai":
            models = (DECODERS.double, DECODERS.square, DECODERS.negate, DECODERS.failing, DECODERS.endless)
            for index, model in enumerate(models):
                write_folder(tmp_path / str(index), model, token_config())
            engines = Engines(request.param, DECODERS, tmp_path)
        elif request.param in OF_TOKENS:
            server = await stack.enter_async_context(serving(CompletionServer(SERVED_MODELS)))
            engines = Engines(request.param, SERVED, server)
        yield engines
        for engine in engines.made:
            await engine.close()


async def loaded(engine: InferenceEngine, *models: bytes) -> InferenceEngine:
    for model in models:
        await engine.load(digest_of(model), model)
    return engine


async def run(make: Engines, engine: InferenceEngine, model: bytes, *numbers: int) -> list[float]:
    return make.kind.read(await engine.run(digest_of(model), make.kind.feed(*numbers)))


# --- runs ------------------------------------------------------------------------------------------
async def test_a_loaded_model_runs(make: Engines) -> None:
    engine = await loaded(make(), make.kind.double, make.kind.square)
    assert await run(make, engine, make.kind.double, 1, 2, 3) == [2, 4, 6]
    assert await run(make, engine, make.kind.square, 1, 2, 3) == [1, 4, 9]


async def test_outputs_are_float32(make: Engines) -> None:
    engine = await loaded(make(), make.kind.double)
    outputs = await engine.run(digest_of(make.kind.double), make.kind.feed(1, 2, 3))
    assert {output.dtype for output in outputs.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("make", OF_TENSORS, indirect=True)
async def test_a_batch_runs_as_one(make: Engines) -> None:
    engine = await loaded(make(), make.kind.double)
    rows = np.array([(1, 2, 3), (-4, 0.5, 0)], np.float32)
    outputs = await engine.run(digest_of(make.kind.double), {"x": rows})
    assert set(outputs) == {"y"}
    assert outputs["y"].tolist() == [[2, 4, 6], [-8, 1, 0]]


@pytest.mark.parametrize("make", OF_TENSORS, indirect=True)
async def test_a_free_dimension_may_be_empty(make: Engines) -> None:
    engine = await loaded(make(), make.kind.double)
    outputs = await engine.run(digest_of(make.kind.double), {"x": np.zeros((0, 3), np.float32)})
    assert outputs["y"].shape == (0, 3)


@pytest.mark.parametrize("make", OF_TOKENS, indirect=True)
async def test_a_sequence_of_nothing_is_refused(make: Engines) -> None:
    engine = await loaded(make(), make.kind.double)
    with pytest.raises(InputMismatch) as caught:
        await engine.run(digest_of(make.kind.double), {"ids": np.zeros((1, 0), np.int64)})
    assert caught.value.field == "tensors.ids.shape"


@pytest.mark.parametrize("make", OF_TOKENS, indirect=True)
async def test_a_sequence_grows_shrinks_and_changes(make: Engines) -> None:
    engine = await loaded(make(), make.kind.double)
    given = [(1, 2), (1, 2, 3), (1, 2, 3, 4, 5), (1, 2), (1, 2), (1, 7, 3), (9,), (1, 2, 3)]
    for numbers in given:
        assert await run(make, engine, make.kind.double, *numbers) == [2 * number for number in numbers]


@pytest.mark.parametrize("make", OF_TOKENS, indirect=True)
async def test_what_was_given_never_changes_afterwards(make: Engines) -> None:
    engine, model = await loaded(make(), make.kind.double), digest_of(make.kind.double)
    first = await engine.run(model, make.kind.feed(1, 2, 3))
    for numbers in ((1, 2, 3, 4), (1, 5, 6, 7), (2,)):
        await engine.run(model, make.kind.feed(*numbers))
    assert make.kind.read(first) == [2, 4, 6]


async def test_runs_at_once_do_not_mix(make: Engines) -> None:
    engine = await loaded(make(), make.kind.double, make.kind.square)
    doubles = [run(make, engine, make.kind.double, i, i, i) for i in range(20)]
    squares = [run(make, engine, make.kind.square, i, i, i) for i in range(20)]
    found = await asyncio.gather(*doubles, *squares)
    assert [numbers[0] for numbers in found] == [2 * i for i in range(20)] + [i * i for i in range(20)]


async def test_an_input_that_does_not_fit_is_named(make: Engines) -> None:
    engine = await loaded(make(), make.kind.double)
    for inputs, field_, expected in make.kind.mismatches:
        with pytest.raises(InputMismatch) as caught:
            await engine.run(digest_of(make.kind.double), inputs)
        assert (caught.value.field, caught.value.expected) == (field_, expected)


async def test_a_run_that_fails_is_the_engines_trouble_and_the_next_one_runs(make: Engines) -> None:
    engine = await loaded(make(), make.kind.failing, make.kind.double)
    with pytest.raises(InferenceFailed):
        await engine.run(digest_of(make.kind.failing), make.kind.feed(1, 2, 3))
    assert await run(make, engine, make.kind.double, 1, 2, 3) == [2, 4, 6]


async def test_a_run_has_a_time_limit(make: Engines) -> None:
    engine = await loaded(make(timeout_seconds=0.3, slow=True), make.kind.endless)
    started = time.monotonic()
    with pytest.raises(InferenceFailed, match=r"more than 0\.3 seconds"):
        await engine.run(digest_of(make.kind.endless), make.kind.feed(1, 2, 3))
    assert time.monotonic() - started < 20


async def test_many_runs_out_of_time_leave_the_engine_free(make: Engines) -> None:
    engine = await loaded(make(timeout_seconds=0.2, slow=True), make.kind.endless)
    runs = [engine.run(digest_of(make.kind.endless), make.kind.feed(1, 2, 3)) for _ in range(5)]
    results = await asyncio.gather(*runs, return_exceptions=True)
    assert [type(result) for result in results] == [InferenceFailed] * 5


async def test_a_cancelled_run_ends_at_once(make: Engines) -> None:
    engine = await loaded(make(slow=True), make.kind.endless)
    runs = [asyncio.create_task(engine.run(digest_of(make.kind.endless), make.kind.feed(1, 2, 3))) for _ in range(5)]
    await asyncio.sleep(0.05)
    for run in runs:
        run.cancel()
    results = await asyncio.wait_for(asyncio.gather(*runs, return_exceptions=True), 20)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 5


# --- loading ---------------------------------------------------------------------------------------
async def test_other_bytes_are_not_loaded(make: Engines) -> None:
    engine = make()
    with pytest.raises(ModelMismatch):
        await engine.load(digest_of(make.kind.double), make.kind.square)
    assert not engine.is_loaded(digest_of(make.kind.double))
    assert not engine.is_loaded(digest_of(make.kind.square))


async def test_other_bytes_are_refused_for_a_loaded_model_too(make: Engines) -> None:
    engine = await loaded(make(), make.kind.double)
    with pytest.raises(ModelMismatch):
        await engine.load(digest_of(make.kind.double), make.kind.square)
    assert await run(make, engine, make.kind.double, 5, 5, 5) == [10, 10, 10]


async def test_bytes_that_are_no_model_are_refused(make: Engines) -> None:
    engine = make()
    with pytest.raises(InferenceFailed):
        await engine.load(digest_of(b"no model"), b"no model")
    assert not engine.is_loaded(digest_of(b"no model"))


async def test_loading_again_changes_nothing(make: Engines) -> None:
    engine = await loaded(make(), make.kind.double, make.kind.double)
    await asyncio.gather(*(engine.load(digest_of(make.kind.double), make.kind.double) for _ in range(5)))
    assert await run(make, engine, make.kind.double, 1, 2, 3) == [2, 4, 6]


async def test_what_is_not_loaded_does_not_run(make: Engines) -> None:
    engine = await loaded(make(), make.kind.double)
    with pytest.raises(InferenceFailed):
        await engine.run(digest_of(make.kind.square), make.kind.feed(1, 2, 3))


async def test_the_least_recently_used_model_goes(make: Engines) -> None:
    engine = await loaded(make(max_loaded_bytes=2 * make.kind.largest), make.kind.double, make.kind.square)
    await engine.run(digest_of(make.kind.double), make.kind.feed(1, 2, 3))
    await loaded(engine, make.kind.negate)
    models = (make.kind.double, make.kind.square, make.kind.negate)
    assert [engine.is_loaded(digest_of(model)) for model in models] == [True, False, True]
    with pytest.raises(InferenceFailed):
        await engine.run(digest_of(make.kind.square), make.kind.feed(1, 2, 3))


async def test_a_model_over_the_budget_pushes_nothing_out(make: Engines) -> None:
    engine = await loaded(make(max_loaded_bytes=make.kind.largest), make.kind.double)
    with pytest.raises(InferenceFailed):
        await engine.load(digest_of(make.kind.endless), make.kind.endless)
    assert engine.is_loaded(digest_of(make.kind.double))


async def test_the_fingerprint_says_what_ran_and_outlives_the_session(make: Engines) -> None:
    engine = await loaded(make(max_loaded_bytes=make.kind.largest), make.kind.double)
    fingerprint = engine.fingerprint(digest_of(make.kind.double))
    assert all((fingerprint.runtime, fingerprint.version, fingerprint.provider))
    assert all((fingerprint.device, fingerprint.precision))
    await loaded(engine, make.kind.square)
    assert not engine.is_loaded(digest_of(make.kind.double))
    assert engine.fingerprint(digest_of(make.kind.double)) == fingerprint


async def test_there_is_no_fingerprint_of_what_never_ran(make: Engines) -> None:
    with pytest.raises(InferenceFailed):
        make().fingerprint(digest_of(make.kind.double))
