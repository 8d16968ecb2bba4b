"""The evaluator agrees with ONNX Runtime on real models and on every operator, and says what it does not know."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from shared.adapters.engine_onnx import OnnxEngine
from shared.adapters.engine_reference import ReferenceEngine
from shared.errors import InferenceFailed
from shared.interfaces import InferenceEngine, Tensors
from tests.onnx_support import FLOAT, FLOAT16, digest_of, graph, model, node, of_one_operator, value
from tests.operator_cases import CASES, Case, name_of
from tests.tree_support import Forest

MODELS = Path(__file__).resolve().parents[4] / "models"


async def outputs_of(engine: InferenceEngine, data: bytes, inputs: Tensors) -> Tensors:
    await engine.load(digest_of(data), data)
    return await engine.run(digest_of(data), inputs)


async def both(data: bytes, inputs: Tensors, precision: Literal["native", "fp64"]) -> tuple[Tensors, Tensors]:
    reference = ReferenceEngine(max_loaded_bytes=1 << 30, precision=precision)
    runtime = OnnxEngine(max_loaded_bytes=1 << 30, precision=precision)
    found = await outputs_of(reference, data, inputs), await outputs_of(runtime, data, inputs)
    await reference.close()
    await runtime.close()
    return found


def example_of(name: str) -> dict[str, npt.NDArray[Any]]:
    rng = np.random.default_rng(11)
    if name == "digits":
        return {"image": rng.random((3, 1, 8, 8)).astype(np.float32)}
    past = np.zeros((5, 1, 4, 0, 32), np.float32)
    return {"ids": rng.integers(0, 258, (1, 30)), "past_keys": past, "past_values": past}


@pytest.mark.parametrize("name", ["digits", "text"])
async def test_a_real_model_gives_the_same_exact_bytes_on_both_engines(name: str) -> None:
    mine, theirs = await both((MODELS / name / "model.onnx").read_bytes(), example_of(name), "fp64")
    assert mine.keys() == theirs.keys()
    for output in mine:
        assert mine[output].dtype == np.float64
        assert mine[output].astype(np.float32).tobytes() == theirs[output].astype(np.float32).tobytes()


@pytest.mark.parametrize("name", ["digits", "text"])
async def test_a_real_model_gives_nearly_the_same_in_float32(name: str) -> None:
    mine, theirs = await both((MODELS / name / "model.onnx").read_bytes(), example_of(name), "native")
    for output in mine:
        assert mine[output].dtype == np.float32
        np.testing.assert_allclose(mine[output], theirs[output], rtol=1e-4, atol=1e-4)


async def test_a_forest_gives_the_same_exact_bytes() -> None:
    forest = Forest(trees=20, features=4, seed=1)
    x = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    mine, theirs = await both(forest.model(), {"x": x}, "fp64")
    assert mine["y"].tobytes() == theirs["y"].tobytes()
    assert np.array_equal(mine["y"], forest.exact(x).astype(np.float64))


@pytest.mark.parametrize("case", CASES, ids=name_of)
async def test_every_operator_in_double_is_the_runtimes(case: Case) -> None:
    typed = onnx.load_from_string(case.model(np.float32))
    mine, theirs = await both(typed.SerializeToString(), {"x0": case.inputs[0]}, "fp64")
    for output in mine:
        assert mine[output].dtype == theirs[output].dtype
        np.testing.assert_allclose(mine[output], theirs[output], rtol=1e-13, atol=1e-14)


async def test_an_unknown_operator_is_refused_by_name() -> None:
    engine = ReferenceEngine(max_loaded_bytes=1 << 20)
    data = of_one_operator("Steal")
    with pytest.raises(InferenceFailed, match="Steal"):
        await engine.load(digest_of(data), data)
    await engine.close()


async def test_types_that_documents_cannot_carry_are_refused() -> None:
    engine = ReferenceEngine(max_loaded_bytes=1 << 20)
    data = model(graph([node("Identity", ["x"], ["y"])], [value("x", FLOAT16, [3])], [value("y", FLOAT, [3])]))
    with pytest.raises(InferenceFailed, match=r"x of type tensor\(float16\)"):
        await engine.load(digest_of(data), data)
    await engine.close()


async def test_the_fingerprint_names_the_evaluator() -> None:
    engine = ReferenceEngine(max_loaded_bytes=1 << 20, precision="fp64")
    data = of_one_operator("Add")
    await engine.load(digest_of(data), data)
    fingerprint = engine.fingerprint(digest_of(data))
    assert (fingerprint.runtime, fingerprint.version) == ("onnx.reference", onnx.__version__)
    assert fingerprint.precision == "fp64"
    await engine.close()
