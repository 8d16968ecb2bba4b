"""What the testnet sends: digit images and text prompts in turn, honest ones and lies."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poi.testnet.lies import LIES, Lie
from shared.errors import ConfigError

MODELS = Path(__file__).resolve().parents[2] / "models"
DIGITS, TEXT = "digits", "text"
MODEL_NAMES = (DIGITS, TEXT)
TOKENS = 32
TEMPERATURES = (0, 0.8)
FULL_INTENSITY = 16


@dataclass(frozen=True)
class Errand:
    """One task to send. `lie` is None for an honest one."""

    model: str
    document: dict[str, Any]
    parameters: dict[str, Any]
    asked: str
    lie: Lie | None = None

    @property
    def kind(self) -> str:
        """For the table and the JSON."""
        return self.model if self.lie is None else f"{self.model}: {self.lie}"


def model_folder(name: str) -> Path:
    """Raises `ConfigError` where the models are not beside the code, as in a wheel without them."""
    folder = MODELS / name
    if not (folder / "model.onnx").exists():
        raise ConfigError(f"models/{name}/model.onnx is not here; run the testnet from a clone of the repository")
    return folder


def plan(tasks: int, cheats: int) -> list[Errand]:
    """`tasks` honest errands, then `cheats` lies of each kind in turn."""
    samples, prompts = _samples(), _prompts()
    honest = [_digit(samples, i // 2) if i % 2 == 0 else _prompt(prompts, i // 2) for i in range(tasks)]
    return honest + [_lie(samples, prompts, i) for i in range(cheats)]


def _lie(samples: list[dict[str, Any]], prompts: list[str], i: int) -> Errand:
    lie = LIES[i % len(LIES)]
    is_text = lie is Lie.MADE_UP and (i // len(LIES)) % 2 == 1
    errand = _prompt(prompts, i) if is_text else _digit(samples, i + len(samples) // 2)
    return Errand(errand.model, errand.document, errand.parameters, errand.asked, lie)


def _digit(samples: list[dict[str, Any]], i: int) -> Errand:
    import numpy as np

    from shared.tensors import encode_tensor

    sample = samples[i % len(samples)]
    image = np.array(sample["pixels"], np.float32).reshape(1, 1, 8, 8) / np.float32(FULL_INTENSITY)
    return Errand(DIGITS, {"tensors": {"image": encode_tensor(image)}}, {}, f"image of a {sample['label']}")


def _prompt(prompts: list[str], i: int) -> Errand:
    prompt = prompts[i % len(prompts)]
    temperature = TEMPERATURES[i % len(TEMPERATURES)]
    how = "greedy" if temperature == 0 else f"T {temperature}"
    parameters = {"max_tokens": TOKENS, "temperature": temperature, "top_k": 0}
    return Errand(TEXT, {"prompt": prompt}, parameters, f"“{prompt}…”, {how}")


def _samples() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((model_folder(DIGITS) / "samples.json").read_text())
    return rows


def _prompts() -> list[str]:
    return [prompt for prompt in json.loads((model_folder(TEXT) / "prompts.json").read_text()) if prompt]
