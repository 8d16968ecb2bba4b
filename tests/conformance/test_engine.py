"""One suite for every `InferenceEngine`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pytest

from shared.adapters.engine_onnx import OnnxEngine
from shared.adapters.engine_reference import ReferenceEngine
from shared.adapters.memory.engine import FunctionEngine, FunctionModel
from shared.errors import InferenceFailed, InputMismatch, ModelMismatch
from shared.interfaces import InferenceEngine, Tensors
from shared.tensors import TensorSpec
from tests.onnx_support import digest_of, endless, failing, of_one_operator

# Both adapters know these models by the same bytes.
DOUBLE, SQUARE, NEGATE = of_one_operator("Add"), of_one_operator("Mul"), of_one_operator("Neg", ["x"])
FAILING, ENDLESS = failing(), endless()
SPEC = (TensorSpec("x", "float32", (-1, 3)),)


def _fail(inputs: Tensors) -> Tensors:
    raise ValueError("three numbers have no shape of seven")


FUNCTIONS: dict[bytes, Callable[[Tensors], Tensors]] = {
    DOUBLE: lambda inputs: {"y": np.add(inputs["x"], inputs["x"])},
    SQUARE: lambda inputs: {"y": np.multiply(inputs["x"], inputs["x"])},
    NEGATE: lambda inputs: {"y": np.negative(inputs["x"])},
    FAILING: _fail,
    ENDLESS: lambda inputs: inputs,
}
LARGEST = max(map(len, (DOUBLE, SQUARE, NEGATE)))


class Make(Protocol):
    def __call__(
        self, *, max_loaded_bytes: int = 1 << 20, timeout_seconds: float = 20.0, slow: bool = False
    ) -> InferenceEngine: ...


@pytest.fixture(params=["onnx", "onnx in fp64", "reference", "reference in fp64", "function"])
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    """Makes engines; `slow` says that the endless model will run, which the function engine must be told."""
    made: list[Any] = []

    def make(*, max_loaded_bytes: int = 1 << 20, timeout_seconds: float = 20.0, slow: bool = False) -> InferenceEngine:
        limits: Any = {"max_loaded_bytes": max_loaded_bytes, "timeout_seconds": timeout_seconds}
        match request.param:
            case "onnx":
                made.append(OnnxEngine(**limits))
            case "onnx in fp64":
                made.append(OnnxEngine(**limits, precision="fp64", rounded=True))
            case "reference":
                made.append(ReferenceEngine(**limits, max_concurrent=2))
            case "reference in fp64":
                made.append(ReferenceEngine(**limits, max_concurrent=2, precision="fp64", rounded=True))
            case _:
                models = {digest_of(model): FunctionModel(SPEC, function) for model, function in FUNCTIONS.items()}
                made.append(FunctionEngine(models, **limits, seconds=3600 if slow else 0))
        engine: InferenceEngine = made[-1]
        return engine

    yield make
    for engine in made:
        await engine.close()


def x(*rows: tuple[float, float, float]) -> dict[str, npt.NDArray[np.generic]]:
    return {"x": np.array(rows, np.float32)}


async def loaded(engine: InferenceEngine, *models: bytes) -> InferenceEngine:
    for model in models:
        await engine.load(digest_of(model), model)
    return engine


# --- runs ------------------------------------------------------------------------------------------
async def test_a_loaded_model_runs(make: Make) -> None:
    engine = await loaded(make(), DOUBLE, SQUARE)
    doubled = await engine.run(digest_of(DOUBLE), x((1, 2, 3), (-4, 0.5, 0)))
    squared = await engine.run(digest_of(SQUARE), x((1, 2, 3)))
    assert set(doubled) == {"y"}
    assert doubled["y"].dtype == np.float32
    assert doubled["y"].tolist() == [[2, 4, 6], [-8, 1, 0]]
    assert squared["y"].tolist() == [[1, 4, 9]]


async def test_a_free_dimension_may_be_empty(make: Make) -> None:
    engine = await loaded(make(), DOUBLE)
    outputs = await engine.run(digest_of(DOUBLE), {"x": np.zeros((0, 3), np.float32)})
    assert outputs["y"].shape == (0, 3)


async def test_runs_at_once_do_not_mix(make: Make) -> None:
    engine = await loaded(make(), DOUBLE, SQUARE)
    doubles = [engine.run(digest_of(DOUBLE), x((i, i, i))) for i in range(20)]
    squares = [engine.run(digest_of(SQUARE), x((i, i, i))) for i in range(20)]
    outputs = await asyncio.gather(*doubles, *squares)
    assert [output["y"].tolist()[0][0] for output in outputs] == [2 * i for i in range(20)] + [i * i for i in range(20)]


@pytest.mark.parametrize(
    ("inputs", "field", "expected"),
    [
        ({}, "tensors.x", "a float32 tensor"),
        ({"x": np.zeros((1, 3), np.float32), "z": np.zeros(1)}, "tensors.z", "one of x"),
        ({"x": np.zeros((1, 3), np.float64)}, "tensors.x.dtype", "float32"),
        ({"x": np.zeros((1, 4), np.float32)}, "tensors.x.shape", "[-1, 3]"),
        ({"x": np.zeros(3, np.float32)}, "tensors.x.shape", "[-1, 3]"),
    ],
)
async def test_an_input_that_does_not_fit_is_named(make: Make, inputs: Tensors, field: str, expected: str) -> None:
    engine = await loaded(make(), DOUBLE)
    with pytest.raises(InputMismatch) as caught:
        await engine.run(digest_of(DOUBLE), inputs)
    assert (caught.value.field, caught.value.expected) == (field, expected)


async def test_a_run_that_fails_is_the_engines_trouble_and_the_next_one_runs(make: Make) -> None:
    engine = await loaded(make(), FAILING, DOUBLE)
    with pytest.raises(InferenceFailed):
        await engine.run(digest_of(FAILING), x((1, 2, 3)))
    assert (await engine.run(digest_of(DOUBLE), x((1, 2, 3))))["y"].tolist() == [[2, 4, 6]]


async def test_a_run_has_a_time_limit(make: Make) -> None:
    engine = await loaded(make(timeout_seconds=0.3, slow=True), ENDLESS)
    started = time.monotonic()
    with pytest.raises(InferenceFailed, match=r"more than 0\.3 seconds"):
        await engine.run(digest_of(ENDLESS), x((1, 2, 3)))
    assert time.monotonic() - started < 20


async def test_many_runs_out_of_time_leave_the_engine_free(make: Make) -> None:
    engine = await loaded(make(timeout_seconds=0.2, slow=True), ENDLESS)
    runs = [engine.run(digest_of(ENDLESS), x((1, 2, 3))) for _ in range(5)]
    results = await asyncio.gather(*runs, return_exceptions=True)
    assert [type(result) for result in results] == [InferenceFailed] * 5


async def test_a_cancelled_run_ends_at_once(make: Make) -> None:
    engine = await loaded(make(slow=True), ENDLESS)
    runs = [asyncio.create_task(engine.run(digest_of(ENDLESS), x((1, 2, 3)))) for _ in range(5)]
    await asyncio.sleep(0.05)
    for run in runs:
        run.cancel()
    results = await asyncio.wait_for(asyncio.gather(*runs, return_exceptions=True), 20)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 5


# --- loading ---------------------------------------------------------------------------------------
async def test_other_bytes_are_not_loaded(make: Make) -> None:
    engine = make()
    with pytest.raises(ModelMismatch):
        await engine.load(digest_of(DOUBLE), SQUARE)
    assert not engine.is_loaded(digest_of(DOUBLE))
    assert not engine.is_loaded(digest_of(SQUARE))


async def test_other_bytes_are_refused_for_a_loaded_model_too(make: Make) -> None:
    engine = await loaded(make(), DOUBLE)
    with pytest.raises(ModelMismatch):
        await engine.load(digest_of(DOUBLE), SQUARE)
    assert (await engine.run(digest_of(DOUBLE), x((5, 5, 5))))["y"].tolist() == [[10, 10, 10]]


async def test_bytes_that_are_no_model_are_refused(make: Make) -> None:
    engine = make()
    with pytest.raises(InferenceFailed):
        await engine.load(digest_of(b"no model"), b"no model")
    assert not engine.is_loaded(digest_of(b"no model"))


async def test_loading_again_changes_nothing(make: Make) -> None:
    engine = await loaded(make(), DOUBLE, DOUBLE)
    await asyncio.gather(*(engine.load(digest_of(DOUBLE), DOUBLE) for _ in range(5)))
    assert (await engine.run(digest_of(DOUBLE), x((1, 2, 3))))["y"].tolist() == [[2, 4, 6]]


async def test_what_is_not_loaded_does_not_run(make: Make) -> None:
    engine = await loaded(make(), DOUBLE)
    with pytest.raises(InferenceFailed):
        await engine.run(digest_of(SQUARE), x((1, 2, 3)))


async def test_the_least_recently_used_model_goes(make: Make) -> None:
    engine = await loaded(make(max_loaded_bytes=2 * LARGEST), DOUBLE, SQUARE)
    await engine.run(digest_of(DOUBLE), x((1, 2, 3)))
    await loaded(engine, NEGATE)
    assert [engine.is_loaded(digest_of(model)) for model in (DOUBLE, SQUARE, NEGATE)] == [True, False, True]
    with pytest.raises(InferenceFailed):
        await engine.run(digest_of(SQUARE), x((1, 2, 3)))


async def test_a_model_over_the_budget_pushes_nothing_out(make: Make) -> None:
    engine = await loaded(make(max_loaded_bytes=LARGEST), DOUBLE)
    with pytest.raises(InferenceFailed):
        await engine.load(digest_of(ENDLESS), ENDLESS)
    assert engine.is_loaded(digest_of(DOUBLE))


async def test_the_fingerprint_says_what_ran_and_outlives_the_session(make: Make) -> None:
    engine = await loaded(make(max_loaded_bytes=LARGEST), DOUBLE)
    fingerprint = engine.fingerprint(digest_of(DOUBLE))
    assert all((fingerprint.runtime, fingerprint.version, fingerprint.provider, fingerprint.device))
    await loaded(engine, SQUARE)
    assert not engine.is_loaded(digest_of(DOUBLE))
    assert engine.fingerprint(digest_of(DOUBLE)) == fingerprint


async def test_there_is_no_fingerprint_of_what_never_ran(make: Make) -> None:
    with pytest.raises(InferenceFailed):
        make().fingerprint(digest_of(DOUBLE))
