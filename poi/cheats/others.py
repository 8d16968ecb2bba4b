"""The models that cheats run instead of the task's own, made when one is first asked for."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from poi.cheats.graph import NotApplicable
from poi.cheats.weights import WEIGHT_CHEATS
from shared.errors import InferenceFailed
from shared.interfaces import InferenceEngine, Tensors
from shared.types import Digest
from shared.verification.method import Forward

ARITHMETIC: Final[Mapping[str, Literal["fp16", "bf16", "tf32"]]] = {
    "fp16 arithmetic": "fp16",
    "bf16 arithmetic": "bf16",
    "tf32 arithmetic": "tf32",
}
TRAINED: Final[Mapping[str, str]] = {  # to the names of `models/text/variants.py`
    "fine-tuned 1 step, rate 1e-6": "ft1_lr1e-6",
    "fine-tuned 10 steps, rate 1e-5": "ft10_lr1e-5",
    "fine-tuned 10 steps, rate 1e-4": "ft10_lr1e-4",
    "stale, 98 % trained": "stale98",
    "stale, 90 % trained": "stale90",
    "model of another seed": "seed2",
    "smaller model": "small",
}
DECOY: Final = "another model"  # `decoy.onnx` beside the model
OTHER_MODELS: Final = (*WEIGHT_CHEATS, *ARITHMETIC, *TRAINED, DECOY)


class OtherModels:
    """Forward passes by name (see `Forwards`). `folder` is where the model lies, with a decoy or variants beside it."""

    def __init__(self, model: bytes, engine: InferenceEngine, folder: Path | None = None) -> None:
        self._model, self._engine, self._folder = model, engine, folder
        self._hashes: dict[str, Digest] = {}
        self._making: dict[str, asyncio.Lock] = {}

    def __call__(self, name: str) -> Forward:
        async def run(inputs: Tensors) -> Tensors:
            return await self._engine.run(await self._loaded(name), inputs)

        return run

    async def _loaded(self, name: str) -> Digest:
        async with self._making.setdefault(name, asyncio.Lock()):
            known = self._hashes.get(name)
            if known is not None and self._engine.is_loaded(known):
                return known
            model = await asyncio.to_thread(other_model, name, self._model, self._folder)
            self._hashes[name] = Digest(hashlib.sha256(model).digest())
            await self._engine.load(self._hashes[name], model)
            return self._hashes[name]


def other_model(name: str, model: bytes, folder: Path | None = None) -> bytes:
    """The bytes of one of `OTHER_MODELS`. Raises `NotApplicable` where this model has none."""
    if name in WEIGHT_CHEATS:
        return WEIGHT_CHEATS[name](model)
    if name in ARITHMETIC:
        return _in_precision(model, ARITHMETIC[name])
    if name in TRAINED:
        return _trained(TRAINED[name], folder)
    if name == DECOY:
        return _decoy(folder)
    raise NotApplicable(f"no model of the name {name}; there are {', '.join(OTHER_MODELS)}")


def _in_precision(model: bytes, precision: Literal["fp16", "bf16", "tf32"]) -> bytes:
    from shared.adapters.onnx_precision import convert

    try:
        changed = convert(model, precision)
    except InferenceFailed as error:
        raise NotApplicable(str(error)) from None
    if changed == model:
        raise NotApplicable(f"nothing in the model changes in {precision}")
    return changed


def _trained(name: str, folder: Path | None) -> bytes:
    """Other weights are there for the text model alone, in a clone of the repository."""
    if folder is None or not (folder / "variants").is_dir():
        raise NotApplicable("no other checkpoints of this model are here")
    # Beside the code, not part of the package: a wheel comes without the models.
    variants = importlib.import_module("models.text.variants")
    model: bytes = variants.variant(name)
    return model


def _decoy(folder: Path | None) -> bytes:
    decoy = None if folder is None else folder / "decoy.onnx"
    if decoy is None or not decoy.exists():
        raise NotApplicable("no decoy.onnx beside this model")
    return decoy.read_bytes()
