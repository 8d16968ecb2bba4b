"""A performer that runs the right model, knows the card, and takes every liberty that the tolerances leave it.

In a text: wherever another token would still pass it writes that one, and goes on from there (`poi.cheats.adaptive`);
what it wrote is then judged. In a classification: it moves the two highest scores towards each other, as far as
the tolerance goes, and names the other label where that is enough.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.allowance import while_allowed
from bench.bounds import upper_bound
from bench.detection_subjects import Subject
from bench.table import Row, Sheet
from poi.cheats.adaptive import steer
from shared.adapters.onnx_precision import convert
from shared.adapters.onnx_runner import Runner, Setting
from shared.documents import ClassifyOutput, Parameters, data_of
from shared.interfaces import Tensors
from shared.tensors import encode_tensor
from shared.types import Verdict
from shared.verification.method import Compute, Forward, Work
from shared.verification.tensor import forward_outputs, label_of
from shared.verification.verify import verify

GOAL, PLACES_GOAL = 1e-3, 20_000
ATTESTER = Setting(2, "off")  # another configuration than the adversary's, which is the runtime's default


@dataclass(frozen=True)
class Steered:
    """A game over one kind of task."""

    name: str
    places: int  # tokens, or labels, that it could have changed
    changed: int
    outputs: int
    different: int  # outputs that say something else than the honest one
    accepted: int  # of those
    nearest: float | None = None  # label that it could not claim, in tolerances that it would have had to move scores


def steer_text(subject: Subject, texts: int, parameters: Parameters, name: str, seconds: float) -> Steered:
    return asyncio.run(_steer_text(subject, while_allowed(subject.works(texts, parameters), seconds), name))


def steer_labels(subject: Subject, outputs: int) -> Steered:
    return asyncio.run(_steer_labels(subject, subject.works(outputs)))


def rows_of(texts: Sequence[Steered]) -> list[Row]:
    places, changed = sum(each.places for each in texts), sum(each.changed for each in texts)
    return [
        Row("adaptive adversary, fp32: share of tokens it can change", changed / places, "", GOAL),
        Row("adaptive adversary, fp32: share at most (exact 95 % bound)", upper_bound(changed, places), "", GOAL),
        Row("adaptive adversary, fp32: tokens played", places, "tokens", PLACES_GOAL, at_least=True),
    ]


def sheet_of(games: Sequence[Steered]) -> Sheet:
    header = ("adaptive adversary", "tokens or labels", "changed", "share at most (95 %)", "outputs", "that differ")
    lines = [
        (
            each.name,
            each.places,
            each.changed,
            upper_bound(each.changed, each.places),
            each.outputs,
            each.different,
            each.accepted,
            each.nearest,
        )
        for each in games
    ]
    return Sheet(
        "An adversary that knows the card and steers within its tolerances",
        (*header, "of those accepted", "nearest label refused, in tolerances"),
        lines,
    )


# --- texts -------------------------------------------------------------------------------------------
async def _steer_text(subject: Subject, works: Iterable[Work], name: str) -> Steered:
    runner = Runner(subject.model)
    own, attester = Compute(runner.forward, Runner(convert(subject.model, "fp64")).forward), _attester(runner)
    places = changed = outputs = different = accepted = 0
    for work in works:
        written = await steer(work, own)
        outputs += 1
        places, changed = places + len(written.output.tokens), changed + written.free
        if written.free:
            different += 1
            judgement = await verify(subject.method, work, written.output, data_of(written.output), attester)
            accepted += judgement.verdict is Verdict.VALID
    return Steered(name, places, changed, outputs, different, accepted)


def _attester(runner: Runner) -> Compute:
    async def run(inputs: Tensors) -> Tensors:
        return runner.run(inputs, ATTESTER)

    return Compute(run, run)


# --- labels ------------------------------------------------------------------------------------------
async def _steer_labels(subject: Subject, works: Sequence[Work]) -> Steered:
    runner = Runner(subject.model)
    changed = accepted = 0
    nearest = math.inf
    for work in works:
        output, needed = await _other_label(work, runner.forward)
        judgement = await verify(subject.method, work, output, data_of(output), _attester(runner))
        accepted += judgement.verdict is Verdict.VALID
        changed += needed <= 1
        nearest = min(nearest, needed) if needed > 1 else nearest
    return Steered(f"{subject.name}, labels", len(works), changed, len(works), len(works), accepted, nearest)


async def _other_label(work: Work, forward: Forward) -> tuple[ClassifyOutput, float]:
    """The least lie that has another label: the two highest scores at their middle, the second a float32 step higher.
    And by how many tolerances it moves each."""
    name = work.card.outputs[0].name
    scores = (await forward_outputs(work, forward))[name].astype(np.float32)
    second, first = np.argsort(scores[0], kind="stable")[-2:]
    middle = np.float32((float(scores[0, first]) + float(scores[0, second])) / 2)
    needed = (float(scores[0, first]) - float(scores[0, second])) / 2 / work.card.tolerances[name].absolute
    lie = scores.copy()
    lie[0, first], lie[0, second] = middle, np.nextafter(middle, np.float32(math.inf))
    return ClassifyOutput(scores=encode_tensor(lie), label=label_of(lie)), needed
