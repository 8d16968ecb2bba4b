"""The measurements behind a card: honest runs against each other and against the reference, and cheats against both.

All distances are those of the method itself, `measure`: what is calibrated is what attesters will compute. Before there
are tolerances they are measured under a card whose every tolerance is 1, and so come out in the output's own unit.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Final

import msgspec
import numpy as np

from poi.calibration.matrix import Configuration
from poi.calibration.progress import Progress
from poi.calibration.subject import Sample, compared, giving, logits_of, publish
from shared.card_parts import Cheat, Tolerance
from shared.documents import ModelCard
from shared.errors import InferenceFailed
from shared.interfaces import Tensors
from shared.types import Verdict
from shared.verification import METHODS
from shared.verification.method import Compute, Forward, Measurement, Measuring, invalid

MOST_SCORE: Final = 1e30  # what a card can hold for "infinitely far"
MOST_REASON: Final = 200  # characters of an engine's complaint

Unit = Mapping[str, float]  # distances in the units of the outputs; `margin` in logits


@dataclass
class Honest:
    """What the honest configurations gave: for each the outputs of all samples. `distinct` has one name for all that
    gave the same bytes."""

    baseline: list[Tensors] = field(default_factory=list)  # with the caches of a decoder, which no method compares
    distinct: dict[str, list[Tensors]] = field(default_factory=dict)
    same_as: dict[str, str] = field(default_factory=dict)  # every configuration: the one in `distinct`
    seconds: dict[str, float] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)  # and why
    engines: list[str] = field(default_factory=list)  # with their versions


def run_matrix(
    card: ModelCard, matrix: Iterable[Configuration], samples: Sequence[Sample], progress: Progress
) -> Honest:
    """Every configuration on every sample. Raises `InferenceFailed` when not even the first runs; later ones that this
    machine or this model cannot have are skipped by name."""
    honest = Honest()
    inputs = [sample.inputs for sample in samples]
    for configuration in matrix:
        with progress.of(configuration.name) as note:
            started = time.perf_counter()
            try:
                outputs = configuration.run(inputs)
            except InferenceFailed as error:
                if not honest.baseline:
                    raise
                honest.skipped[configuration.name] = _first_line(error)
                note(f"skipped: {_first_line(error)}")
                continue
            honest.seconds[configuration.name] = time.perf_counter() - started
            _add(honest, card, configuration, outputs)
            if configuration.name not in honest.distinct:
                note("bytes seen before")
    return honest


def _add(honest: Honest, card: ModelCard, configuration: Configuration, outputs: list[Tensors]) -> None:
    honest.baseline = honest.baseline or outputs
    kept: list[Tensors] = [compared(card, each) for each in outputs]
    name = next((name for name, others in honest.distinct.items() if _are_equal(kept, others)), configuration.name)
    honest.distinct.setdefault(name, kept)
    honest.same_as[configuration.name] = name
    if configuration.engine not in honest.engines:
        honest.engines.append(configuration.engine)


def _first_line(error: InferenceFailed) -> str:
    return (str(error).splitlines() or ["no reason given"])[0][:MOST_REASON]


def _are_equal(one: Sequence[Tensors], other: Sequence[Tensors]) -> bool:
    return all(
        np.array_equal(array, theirs[name])
        for ours, theirs in zip(one, other, strict=True)
        for name, array in ours.items()
    )


# --- honest distances --------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Spread:
    """The largest distances: between any two honest configurations, and of each from the reference."""

    largest: Unit
    from_reference: Mapping[str, Unit]  # by distinct configuration
    each: Mapping[str, list[Unit]]  # of every sample from the reference, by distinct configuration


async def spread_of(card: ModelCard, samples: Sequence[Sample], honest: Honest, reference: Sequence[Tensors]) -> Spread:
    unit = unit_card(card)
    each: dict[str, list[Unit]] = {
        name: [await _distance(unit, sample, *pair) for sample, *pair in zip(samples, outputs, reference, strict=True)]
        for name, outputs in honest.distinct.items()
    }
    from_reference = {name: _largest(distances) for name, distances in each.items()}
    pairs = [
        await _distance(unit, sample, one, {**baseline, **other})
        for first, second in combinations(honest.distinct, 2)
        for sample, baseline, one, other in zip(
            samples, honest.baseline, honest.distinct[first], honest.distinct[second], strict=True
        )
    ]
    return Spread(_largest([*pairs, *from_reference.values()]), from_reference, each)


def unit_card(card: ModelCard) -> ModelCard:
    """Every tolerance 1. Not a card to publish: no profile allows it."""
    return msgspec.structs.replace(
        card, tolerances={name: Tolerance(relative=1.0, scale=1.0) for name in card.tolerances}
    )


async def _distance(unit: ModelCard, sample: Sample, claimed: Tensors, computed: Tensors) -> dict[str, float]:
    """By tolerance; for a text also how far the logits themselves lie apart, which moves its sampler."""
    work = sample.under(unit)
    measured = await _measuring(unit).measure(work, publish(sample, claimed), giving(computed))
    if unit.profile.is_exact:
        return {"score": measured.score}
    distances = {name: measured.statistics[f"distance of {name}"] for name in unit.tolerances}
    if sample.text is None:
        return distances
    ours, theirs = (logits_of(sample.text, each).astype(np.float64) for each in (claimed, computed))
    return {**distances, "margin": float(np.abs(ours - theirs).max())}


def _measuring(card: ModelCard) -> Measuring:
    """How far apart: by `tensor` where the card's own rule is to accept by similarity, or to look at layers."""
    method: Any = METHODS["tensor" if card.method in ("similarity", "batch-audit") else card.method]
    measuring: Measuring = method
    return measuring


def _largest(distances: Iterable[Unit]) -> dict[str, float]:
    largest: dict[str, float] = {}
    for each in distances:
        for name, distance in each.items():
            largest[name] = max(distance, largest.get(name, 0.0))
    return largest


# --- cheats ------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Caught:
    """One cheat's outputs: each one's score, and whether verification rejects it."""

    scores: list[float]
    is_rejected: list[bool]

    def as_in_card(self, *, sets_floor: bool) -> Cheat:
        return Cheat(
            smallest_score=min(self.scores),
            caught=sum(self.is_rejected) / len(self.is_rejected),
            sets_floor=sets_floor,
        )


async def try_cheat(card: ModelCard, samples: Sequence[Sample], cheat: Forward, honest: Compute) -> Caught:
    """The cheat performs, an honest attester judges; `card` is complete but for its cheats."""
    judged = [await _judge(card, sample, cheat, honest) for sample in samples]
    return Caught(
        [min(score, MOST_SCORE) for score, _ in judged],
        [is_rejected for _, is_rejected in judged],
    )


async def _judge(card: ModelCard, sample: Sample, cheat: Forward, honest: Compute) -> tuple[float, bool]:
    method, work = METHODS["tensor" if card.method == "batch-audit" else card.method], sample.under(card)
    try:
        output = await method.prove(work, Compute(cheat, cheat))
    except InferenceFailed:
        return MOST_SCORE, True  # a model so broken that it gives nothing to publish
    fault = method.fault(work, output)
    judgement = invalid(fault, MOST_SCORE) if fault is not None else await method.judge(work, output, honest)
    if card.method == "similarity":
        measured: Measurement = await _measuring(card).measure(work, output, honest.run)
        return measured.score, judgement.verdict is Verdict.INVALID
    return judgement.score, judgement.verdict is Verdict.INVALID
