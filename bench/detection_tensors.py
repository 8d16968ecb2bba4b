"""Cheats on scores, embeddings and regressions, output by output, against every method that there is for them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from bench.allowance import while_allowed
from bench.bounds import upper_bound
from bench.detection_subjects import Subject
from bench.table import Row, Sheet
from poi.cheats.catalogue import CHEATS
from poi.cheats.graph import NotApplicable
from poi.cheats.models import model_cheats
from poi.cheats.others import other_model
from shared.adapters.onnx_precision import convert
from shared.adapters.onnx_runner import Runner, Setting
from shared.documents import ClassifyOutput, Output, data_of
from shared.errors import InferenceFailed
from shared.interfaces import Tensors
from shared.types import Verdict
from shared.verification.cosine import cosine_distance
from shared.verification.exact import hash_of
from shared.verification.method import Compute, Forward, Work
from shared.verification.tensor import published_of
from shared.verification.verify import verify

ATTESTER: Final = Setting(2, "off")  # another configuration than the performers', which is the runtime's default
LEAST_SIMILARITY: Final = 0.85
PROJECT: Final = "this project"
METHODS: Final = (PROJECT, "exact hash", "similarity ≥ 0.85", "label equal")
HONEST: Final = "honest, other configuration"
NUDGED: Final = "nudged weights"
ADAPTIVE: Final = "adaptive"


@dataclass
class Tried:
    """One cheat's outputs on one model, and what became of them."""

    model: str
    name: str
    outputs: int = 0
    scores: list[float] = field(default_factory=list)
    methods: dict[str, int] = field(default_factory=lambda: dict.fromkeys(METHODS, 0))  # accepted
    is_classified: bool = False

    @property
    def accepted(self) -> int:
        return self.methods[PROJECT]


def try_tensors(subject: Subject, count: int, seconds: float) -> list[Tried]:
    """Every cheat that can be played on this model, on as many outputs; the honest one comes first."""
    return asyncio.run(_try_all(subject, while_allowed(subject.works(count), seconds)))


def rows_of(tried: Sequence[Tried]) -> list[Row]:
    names = {cheat.name for cheat in model_cheats()} - {NUDGED}
    direct = [each for each in tried if each.name in names]
    outputs = sum(each.outputs for each in direct)
    refused = outputs - sum(each.accepted for each in direct)
    models = len({each.model for each in tried})
    nudged = [each for each in tried if each.name == NUDGED]
    rows = [
        Row(
            f"fp32: weight cheats on {models} models of tensors, per single output: refused",
            100 * refused / outputs,
            "%",
        ),
        Row(f"fp32: weight cheats on {models} models of tensors, judged", outputs, "outputs"),
    ]
    if nudged:
        outputs = sum(each.outputs for each in nudged)
        share = 100 - 100 * sum(each.accepted for each in nudged) / outputs
        rows.append(Row(f"fp32: {NUDGED} (1e-6 each) on models of tensors: refused", share, "%"))
    return rows


def sheet_of(tried: Sequence[Tried]) -> Sheet:
    lines = [
        (
            f"{each.model}: {each.name}",
            each.outputs,
            each.accepted,
            upper_bound(each.accepted, each.outputs),
            min(each.scores, default=None),
            *(
                None if method == "label equal" and not each.is_classified else each.methods[method] / each.outputs
                for method in METHODS
            ),
        )
        for each in tried
    ]
    header = ("cheat", "outputs", "accepted", "share at most (95 %)", "smallest score")
    return Sheet("Tensors, and the share accepted by each method", (*header, *METHODS), lines)


# --- performing and judging --------------------------------------------------------------------------
class _Models:
    """The model's relatives by name, loaded once."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._runners: dict[str, Runner] = {}
        self._missing: dict[str, NotApplicable] = {}

    def __call__(self, name: str) -> Forward:
        if name in self._missing:
            raise self._missing[name]
        if name not in self._runners:
            try:
                self._runners[name] = Runner(other_model(name, self._subject.model, self._subject.folder))
            except NotApplicable as error:
                self._missing[name] = error
                raise
        return self._runners[name].forward


async def _try_all(subject: Subject, works: Iterable[Work]) -> list[Tried]:
    runner, others = Runner(subject.model), _Models(subject)
    reference = Runner(convert(subject.model, "fp64")).forward

    async def attest(inputs: Tensors) -> Tensors:
        return runner.run(inputs, ATTESTER)

    performer, attester = Compute(runner.forward, reference), Compute(attest, reference)
    tried = {HONEST: Tried(subject.name, HONEST)}
    for work in works:
        await _judge(subject, work, tried[HONEST], await subject.method.prove(work, performer), attester)
        for cheat in CHEATS.values():
            if subject.card.kind not in cheat.kinds or cheat.name.startswith(ADAPTIVE):
                continue
            try:
                output = await cheat.prove(subject.method, work, performer, others)
            except (NotApplicable, InferenceFailed):
                continue  # what this model has nothing of, or what gives nothing to publish
            each = tried.setdefault(cheat.name, Tried(subject.name, cheat.name))
            await _judge(subject, work, each, output, attester)
    return list(tried.values())


async def _judge(subject: Subject, work: Work, tried: Tried, output: Output, attester: Compute) -> None:
    judgement = await verify(subject.method, work, output, data_of(output), attester)
    tried.outputs += 1
    tried.is_classified = isinstance(output, ClassifyOutput)
    if subject.method.fault(work, output) is not None:
        return  # refused by its form, by all methods alike
    tried.scores.append(judgement.score)
    own = await subject.method.prove(work, attester)
    claimed, recomputed = published_of(work.card, output), published_of(work.card, own)
    if claimed is None or recomputed is None:
        raise TypeError("an output without tensors")
    name = work.card.outputs[0].name
    accepted = {
        PROJECT: judgement.verdict is Verdict.VALID,
        "exact hash": hash_of(output) == hash_of(own),
        "similarity ≥ 0.85": cosine_distance(claimed[name], recomputed[name]) <= 1 - LEAST_SIMILARITY,
        "label equal": isinstance(own, ClassifyOutput)
        and isinstance(output, ClassifyOutput)
        and own.label == output.label,
    }
    for method, is_accepted in accepted.items():
        tried.methods[method] += is_accepted
