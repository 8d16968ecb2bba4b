"""A performer that lies, for the local testnet: honest methods whose performer's half is one of `poi.cheats`.

Which cheat it plays follows from the task id, so that whoever sends a task knows what to expect of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from poi.cheats import CHEATS, Cheat, Forwards, NotApplicable, OtherModels
from poi.cheats.cheat import ANY_KIND
from shared.adapters.engine_onnx import OnnxEngine
from shared.documents import ModelCard, Output
from shared.reasons import InvalidReason
from shared.types import Digest
from shared.verification import METHODS
from shared.verification.method import Compute, Forward, Judgement, Method, Work

LOADED_BYTES: Final = 64 << 20  # of the models that it runs instead; a dozen of the shipped ones
# By kind of output. Those that may give the honest output by luck are no lies that a network could be held to.
LIES: Final[Mapping[str, tuple[Cheat, ...]]] = {
    kind: tuple(cheat for cheat in CHEATS.values() if kind in cheat.kinds and cheat.surely_refused) for kind in ANY_KIND
}
ANYWHERE: Final = CHEATS["random output"]  # what it plays where the task's own cheat cannot be played


def lie_of(task_id: Digest, kind: str) -> Cheat:
    """The cheat that `LyingMethod` plays on a task of this kind of output."""
    return LIES[kind][int.from_bytes(task_id[:8], "big") % len(LIES[kind])]


@dataclass(frozen=True)
class LyingMethod:
    """The performer's half cheats; the attester's half is the honest one, and catches it."""

    honest: Method
    others: Callable[[ModelCard], Forwards]

    async def prove(self, work: Work, compute: Compute) -> Output:
        if work.card.kind not in LIES:  # what a service answers; it has no model to cheat with
            return await self.honest.prove(work, compute)
        others = self.others(work.card)
        try:
            return await lie_of(work.task_id, work.card.kind).prove(self.honest, work, compute, others)
        except NotApplicable:
            return await ANYWHERE.prove(self.honest, work, compute, others)

    def fault(self, work: Work, output: Output) -> InvalidReason | None:
        return self.honest.fault(work, output)

    async def judge(self, work: Work, output: Output, compute: Compute) -> Judgement:
        return await self.honest.judge(work, output, compute)


def lying_methods(models: Path) -> Mapping[str, Method]:
    """`models`: the folder of the shipped ones, with their decoys and other checkpoints."""
    others = OthersOnDisk(models)
    return {name: LyingMethod(method, others) for name, method in METHODS.items()}


class OthersOnDisk:
    """For a card, what could be run instead of its model; read when the first task asks for it."""

    def __init__(self, models: Path) -> None:
        self._models = models
        self._engine = OnnxEngine(max_loaded_bytes=LOADED_BYTES)
        self._known: dict[str, Forwards] = {}

    def __call__(self, card: ModelCard) -> Forwards:
        sha256 = "" if card.model is None else card.model.sha256
        if sha256 not in self._known:
            self._known[sha256] = self._find(sha256)
        return self._known[sha256]

    def _find(self, sha256: str) -> Forwards:
        for file in sorted(self._models.glob("*/model.onnx")):
            model = file.read_bytes()
            if hashlib.sha256(model).hexdigest() == sha256:
                return OtherModels(model, self._engine, file.parent)
        return _nothing


def _nothing(name: str) -> Forward:
    raise NotApplicable(f"{name}: the model is not in this folder")
