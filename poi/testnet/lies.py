"""A performer that lies, for the local testnet: honest methods whose performer's half is bent.

Which lie it tells follows from the task id, so that whoever sends a task knows what to expect of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import msgspec
import numpy as np

from shared.adapters.engine_onnx import OnnxEngine
from shared.documents import ClassifyOutput, ModelCard, Output, TextOutput
from shared.interfaces import Tensors
from shared.reasons import InvalidReason
from shared.tensors import Array, decode_tensor, encode_tensor
from shared.types import Digest
from shared.verification import METHODS
from shared.verification.method import Compute, Forward, Judgement, Method, Work

NUDGE = 100.0  # times the card's tolerance: far beyond noise, far below what a person would see
DECOY_BYTES = 64 << 20


class Lie(StrEnum):
    """What a cheating performer hands out."""

    MADE_UP = "made-up output"
    OTHER_MODEL = "another model"
    TAMPERED = "tampered tensor"


LIES = tuple(Lie)


def lie_of(task_id: Digest) -> Lie:
    """The lie that `LyingMethod` tells about a task."""
    return LIES[task_id[0] % len(LIES)]


@dataclass(frozen=True)
class LyingMethod:
    """The performer's half lies; the attester's half is the honest one, and catches it."""

    honest: Method
    decoy: Forward

    async def prove(self, work: Work, compute: Compute) -> Output:
        lie = lie_of(work.task_id)
        output = await self.honest.prove(work, replace(compute, run=self.decoy) if lie is Lie.OTHER_MODEL else compute)
        match lie:
            case Lie.MADE_UP:
                return _made_up(output, work.task_id)
            case Lie.TAMPERED:
                return _tampered(output, work.card)
            case Lie.OTHER_MODEL:
                return output

    def fault(self, work: Work, output: Output) -> InvalidReason | None:
        return self.honest.fault(work, output)

    async def judge(self, work: Work, output: Output, compute: Compute) -> Judgement:
        return await self.honest.judge(work, output, compute)


def lying_methods(decoy_model: Path) -> Mapping[str, Method]:
    """`decoy_model`: an ONNX file with the inputs and outputs of the model it stands in for."""
    decoy = Decoy(decoy_model)
    return {name: LyingMethod(method, decoy.run) for name, method in METHODS.items()}


class Decoy:
    """Another model than the one that was asked for."""

    def __init__(self, path: Path) -> None:
        self._model = path.read_bytes()
        self._hash = Digest(hashlib.sha256(self._model).digest())
        self._engine = OnnxEngine(max_loaded_bytes=DECOY_BYTES)

    async def run(self, inputs: Tensors) -> Tensors:
        if not self._engine.is_loaded(self._hash):
            await self._engine.load(self._hash, self._model)
        return await self._engine.run(self._hash, inputs)


def _made_up(output: Output, task_id: Digest) -> Output:
    """Something that looks like an answer, and was never computed."""
    noise = np.random.default_rng(int.from_bytes(task_id[:8], "big"))
    match output:
        case ClassifyOutput():
            scores = decode_tensor(output.scores)
            return _classified(noise.normal(0, 5, scores.shape).astype(np.float32))
        case TextOutput():
            letters = noise.integers(ord("a"), ord("z") + 1, len(output.tokens)).tolist()
            return msgspec.structs.replace(output, tokens=tuple(letters), stop="length")
        case _:
            raise TypeError(f"no lie about {type(output).__name__}")


def _tampered(output: Output, card: ModelCard) -> Output:
    """The right label, and one score moved by a hair."""
    if not isinstance(output, ClassifyOutput):
        raise TypeError(f"no tensor to tamper with in {type(output).__name__}")
    scores = np.array(decode_tensor(output.scores), np.float32)
    tolerance = card.tolerances[card.outputs[0].name]
    scores[0, (output.label + 1) % scores.shape[1]] -= np.float32(NUDGE * tolerance.absolute)
    return _classified(scores)


def _classified(scores: Array) -> ClassifyOutput:
    return ClassifyOutput(scores=encode_tensor(scores), label=int(np.argmax(scores)))
