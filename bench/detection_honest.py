"""The honest matrix: everybody performs, everybody judges, and nobody should be rejected.

Each configuration computes each input once; its numbers then stand in for the model wherever it performs or judges, and
the judging is the method's own, whole: form, answer, distance, and the float64 reference where the zones ask for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bench.allowance import while_allowed
from bench.bounds import upper_bound
from bench.detection_engines import Configuration, as_outputs, configurations_of
from bench.detection_subjects import SAMPLED, Subject
from bench.table import Sheet
from poi.calibration.subject import giving, past_of
from shared.adapters.onnx_precision import convert
from shared.adapters.onnx_runner import Runner
from shared.documents import Output, Parameters, TextOutput, data_of
from shared.errors import InferenceFailed
from shared.interfaces import Tensors
from shared.types import Verdict
from shared.verification.decoder import spec_of
from shared.verification.method import Compute, Forward, Work
from shared.verification.tensor import output_of
from shared.verification.text import sampler_of, text_output
from shared.verification.verify import verify

EMULATED = 8  # works on emulated processors, which take thirty times as long
ROUND_OF_TENSORS, ROUND_OF_TEXTS = 128, 32  # between two looks at the clock; each starts the processes anew


@dataclass
class Honest:
    """What was counted. `scores` are those of every check; a check is one output that one attester judged."""

    name: str
    engines: dict[str, set[str]] = field(default_factory=dict)  # engine with its instruction set: configurations
    outputs: int = 0
    scores: list[float] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)  # performer, attester, reason
    refereed: int = 0
    skipped: dict[str, str] = field(default_factory=dict)  # configurations that could not run, and why
    rewritten: int = 0  # texts that a performer writes otherwise than the first one, and so has none to claim

    @property
    def checks(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class Ran:
    """One configuration's numbers for every work, and what it would publish of each (None where it would have written
    another text)."""

    name: str
    computed: list[Tensors]
    published: list[Output | None]


def honest_matrix(subject: Subject, count: int, seconds: float, parameters: Parameters = SAMPLED) -> Honest:
    """Every configuration as performer of `count` outputs, and as attester of those of every other one."""
    honest = Honest(subject.name)
    works = subject.works(count, parameters)
    size = ROUND_OF_TENSORS if subject.card.text is None else ROUND_OF_TEXTS
    rounds = [works[start : start + size] for start in range(0, count, size)]
    for some in while_allowed(rounds, seconds):
        _try_round(some, honest, list(configurations_of(subject)), subject)
    return honest


def emulated_matrix(subject: Subject, honest: Honest) -> None:
    """A few of the same works by the runtime on this machine's processor and on emulated ones; counted in `honest`."""
    _try_round(subject.works(EMULATED), honest, list(configurations_of(subject, is_emulated=True)), subject)


def _try_round(
    works: Sequence[Work], honest: Honest, configurations: Sequence[Configuration], subject: Subject
) -> None:
    reference, runner = Runner(convert(subject.model, "fp64")), Runner(subject.model)
    texts = [asyncio.run(subject.method.prove(work, Compute(runner.forward, runner.forward))) for work in works]
    feeds = [feed_of(work, text) for work, text in zip(works, texts, strict=True)]
    ran = []
    for configuration in configurations:
        try:
            ran.append(_run(configuration, honest, works, texts, feeds))
        except InferenceFailed as error:  # an emulated processor that takes too long, or has too few instructions
            honest.skipped[configuration.name] = str(error)
    honest.outputs += sum(output is not None for each in ran for output in each.published)
    honest.rewritten += sum(output is None for each in ran for output in each.published)
    referee = [_lazy(reference, feed) for feed in feeds]
    asyncio.run(_judge_all(subject, works, ran, referee, honest))


def feed_of(work: Work, output: Output) -> Tensors:
    """What one pass over a work is fed: of a text, prompt and output at once, without the last token."""
    if isinstance(output, TextOutput):
        return {"ids": np.array([output.prompt + output.tokens[:-1]], np.int64), **past_of(work.card)}
    return work.document.tensors or {}


def sheet_of(honest: Sequence[Honest]) -> Sheet:
    lines = [
        (
            each.name,
            sum(map(len, each.engines.values())),
            len(each.engines),
            each.outputs,
            each.checks,
            len(each.rejected),
            upper_bound(len(each.rejected), each.checks),
            max(each.scores),
            each.refereed,
            each.rewritten,
        )
        for each in honest
    ]
    header = ("honest runs of", "configurations", "engines and instruction sets", "outputs", "checks", "rejected")
    return Sheet(
        "Honest outputs, each judged by every other configuration",
        (*header, "share rejected at most (95 %)", "largest score", "decided by the reference", "other texts"),
        lines,
    )


def engines_of(honest: Sequence[Honest]) -> Sheet:
    """Which configurations there were, by engine."""
    engines: dict[str, dict[str, None]] = {}
    for each in honest:
        for engine, names in each.engines.items():
            engines.setdefault(engine, {}).update(dict.fromkeys(sorted(names)))
    lines = [(engine, name.removeprefix("onnxruntime, ")) for engine, names in engines.items() for name in names]
    lines += [("skipped", f"{name}: {why}") for each in honest for name, why in each.skipped.items()]
    return Sheet("Engines and instruction sets, and their configurations", ("engine", "configuration"), lines)


# --- running, and judging ----------------------------------------------------------------------------
def _run(
    configuration: Configuration,
    honest: Honest,
    works: Sequence[Work],
    outputs: Sequence[Output],
    feeds: Sequence[Tensors],
) -> Ran:
    computed = [_kept(work, each) for work, each in zip(works, configuration.run(feeds), strict=True)]
    honest.engines.setdefault(configuration.engine, set()).add(configuration.name)
    published = [_published(*each) for each in zip(works, outputs, computed, strict=True)]
    return Ran(configuration.name, computed, published)


def _kept(work: Work, computed: Tensors) -> Tensors:
    """What the method looks at: a decoder's keys and values are none of that, and large."""
    if work.card.text is not None:
        return as_outputs(work.card, computed["logits"])
    return {spec.name: computed[spec.name] for spec in work.card.outputs}


def _published(work: Work, output: Output, computed: Tensors) -> Output | None:
    """A text is this configuration's own if its sampler picks each token of it from its own numbers."""
    if not isinstance(output, TextOutput):
        return output_of(work.card, computed)
    spec = spec_of(work.card)
    logits = np.asarray(computed["logits"][0, len(output.prompt) - 1 :], np.float32)
    sampler = sampler_of(spec, work.task_id, work.parameters)
    picks = tuple(sampler.pick(row, position) for position, row in enumerate(logits))
    return text_output(spec, output.prompt, picks, logits) if picks == output.tokens else None


async def _judge_all(
    subject: Subject, works: Sequence[Work], ran: Sequence[Ran], referee: Sequence[Forward], honest: Honest
) -> None:
    for performer in ran:
        for attester in ran:
            if performer is attester:
                continue  # the same numbers: nothing would be checked
            for work, output, computed, reference in zip(
                works, performer.published, attester.computed, referee, strict=True
            ):
                if output is None:
                    continue
                compute = Compute(giving(computed), reference)
                judgement = await verify(subject.method, work, output, data_of(output), compute)
                honest.scores.append(judgement.score)
                honest.refereed += judgement.is_refereed
                if judgement.verdict is not Verdict.VALID:
                    honest.rejected.append(f"{performer.name} / {attester.name}: {judgement.reason}")


def _lazy(reference: Runner, feed: Tensors) -> Forward:
    """The reference runs when it is first asked, which for honest outputs is hardly ever."""
    kept: list[Tensors] = []

    async def forward(inputs: Tensors) -> Tensors:
        if not kept:
            kept.append(reference.run(feed))
        return kept[0]

    return forward
