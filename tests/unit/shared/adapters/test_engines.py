"""The settings name the engine; the reference is always the same."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.adapters.engine_genai import GenaiEngine
from shared.adapters.engine_onnx import OnnxEngine
from shared.adapters.engine_openai import OpenAiEngine
from shared.adapters.engines import open_engine, open_reference
from shared.config import InferenceConfig
from shared.errors import ConfigError
from tests.onnx_support import digest_of, of_one_operator

DOUBLE = of_one_operator("Add")


async def test_each_name_opens_its_engine(tmp_path: Path) -> None:
    kinds: list[tuple[type[Any], dict[str, Any]]] = [
        (OnnxEngine, {}),
        (GenaiEngine, {"engine": "genai", "genai_dir": tmp_path}),
        (OpenAiEngine, {"engine": "openai", "openai_url": "http://127.0.0.1:1"}),
    ]
    for kind, settings in kinds:
        engine = open_engine(InferenceConfig(**settings))
        assert type(engine) is kind
        await engine.close()


@pytest.mark.parametrize("engine", ["onnx", "genai", "openai"])
async def test_the_reference_is_doubles_rounded_and_an_engine_of_its_own(engine: Any, tmp_path: Path) -> None:
    settings = InferenceConfig(engine=engine, genai_dir=tmp_path, openai_url="http://127.0.0.1:1")
    reference, other = open_reference(settings), open_engine(settings)
    await reference.load(digest_of(DOUBLE), DOUBLE)
    outputs = await reference.run(digest_of(DOUBLE), {"x": np.ones((1, 3), np.float32)})
    assert outputs["y"].dtype == np.float32
    assert reference.fingerprint(digest_of(DOUBLE)).precision == "fp64"
    assert not other.is_loaded(digest_of(DOUBLE))
    await reference.close()
    await other.close()


@pytest.mark.parametrize(("provider", "package"), [("cpu", "onnxruntime-genai"), ("cuda", "onnxruntime-genai-cuda")])
def test_without_its_package_the_engine_says_which_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, provider: Any, package: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=f"needs the package {package}; install it"):
        open_engine(InferenceConfig(engine="genai", genai_dir=tmp_path, provider=provider))


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="missing is not a folder"):
        open_engine(InferenceConfig(engine="genai", genai_dir=tmp_path / "missing"))
