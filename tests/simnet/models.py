"""The shipped models for simulations: their real files and cards, run on the loop itself, without a thread."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from models.samples import read_documents
from poi.cheats import Forwards
from poi.cheats.others import other_model
from shared.adapters.memory.engine import FunctionEngine, FunctionModel
from shared.adapters.onnx_runner import Runner
from shared.documents import ModelCard, encode_input
from shared.interfaces import Tensors
from shared.types import Digest
from tests.inference_support import MODELS, card_of, runner_of

RUN_SECONDS = 0.02  # of virtual time: what a small model takes on a busy machine


@dataclass(frozen=True)
class Shipped:
    """A model as its performer has it, and the inputs beside it."""

    name: str
    card: ModelCard
    card_bytes: bytes
    golden_bytes: bytes
    model_bytes: bytes
    documents: tuple[bytes, ...]

    @property
    def hash(self) -> Digest:
        return Digest(hashlib.sha256(self.model_bytes).digest())


@cache
def shipped(name: str) -> Shipped:
    folder = MODELS / name
    documents = [document for document in read_documents(folder) if document.prompt != ""]
    return Shipped(
        name=name,
        card=card_of(name),
        card_bytes=(folder / "card.json").read_bytes(),
        golden_bytes=(folder / "golden.json").read_bytes(),
        model_bytes=(folder / "model.onnx").read_bytes(),
        documents=tuple(map(encode_input, documents)),
    )


def engine_of(names: tuple[str, ...]) -> FunctionEngine:
    """Runs these models and no other."""
    models = {shipped(name).hash: FunctionModel(shipped(name).card.inputs, runner_of(name).run) for name in names}
    return FunctionEngine(models, seconds=RUN_SECONDS)


def others_of(card: ModelCard) -> Forwards:
    """What cheats run instead of the model of this card."""
    name = next(file.parent.name for file in MODELS.glob("*/card.json") if card_of(file.parent.name) == card)
    return lambda change: _changed(name, change).forward


@cache
def _changed(name: str, change: str) -> Runner:
    return Runner(other_model(change, shipped(name).model_bytes, MODELS / name))


@dataclass
class Bend:
    """How far off an engine is, in tolerances of each output; it may change under the engine's hands."""

    tolerances: float

    def engine_of(self, names: tuple[str, ...]) -> FunctionEngine:
        """As `engine_of`, and off."""
        models = {shipped(name).hash: FunctionModel(shipped(name).card.inputs, self._bent(name)) for name in names}
        return FunctionEngine(models, seconds=RUN_SECONDS)

    def _bent(self, name: str) -> Callable[[Tensors], Tensors]:
        run, tolerances = runner_of(name).run, shipped(name).card.tolerances

        def bent(inputs: Tensors) -> Tensors:
            outputs = dict(run(inputs))
            for output, tolerance in tolerances.items():
                outputs[output] = outputs[output] + np.float32(self.tolerances * tolerance.absolute)
            return outputs

        return bent
