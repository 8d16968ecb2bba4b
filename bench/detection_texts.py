"""Cheats on texts, each in its own form and behind a prefill spoof, against every method that there is for texts.

All methods share the checks of form: what names another prompt, or ends where it may not, is refused by each of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt

from bench import toploc
from bench.allowance import while_allowed
from bench.bounds import lower_bound, upper_bound
from bench.detection_hidden import Hidden, Recording, with_hidden
from bench.detection_subjects import Subject
from bench.table import Cell, Row, Sheet
from models.samples import SENTENCE_BYTES, sentence_document
from poi.calibration.subject import giving, past_of
from poi.cheats.catalogue import CHEATS
from poi.cheats.cheat import Cheat, Forwards, Play
from poi.cheats.graph import NotApplicable
from poi.cheats.models import model_cheats
from poi.cheats.others import other_model
from poi.cheats.prompts import prompt_cheats
from poi.cheats.sampling import other_task
from poi.cheats.spoof import spoofed_cheats
from shared.adapters.onnx_precision import convert
from shared.adapters.onnx_runner import Runner, Setting
from shared.documents import Output, Parameters, TextOutput, data_of, encode_output
from shared.interfaces import Tensors
from shared.top_logits import TopLogits, normalise, unpack
from shared.types import Verdict
from shared.verification.cosine import cosine_distance
from shared.verification.decoder import spec_of
from shared.verification.method import Compute, Forward, Method, Work
from shared.verification.text import SeededText, drift_of, misses_of, sampler_of, text_output
from shared.verification.verify import verify

ATTESTER: Final = Setting(2, "off")  # another configuration than the performers', which is the runtime's default
PREFIXES: Final = (1, 4, 16, 64)
PROJECT: Final = "this project"
EXACT: Final = "exact hash"
SIMILARITY: Final = "similarity ≥ 0.85"
METHODS: Final = (
    PROJECT,
    EXACT,
    SIMILARITY,
    "argmax equal",
    "top-8 overlap",
    "margin alone",
    "logits alone",
    "TOPLOC",
)
LEAST_SIMILARITY: Final = 0.85
LEAST_OVERLAP: Final = 7  # of the eight ids, at every position
HONEST: Final = "honest, other configuration"
SPOOF: Final = "prefill spoof: "
NUDGED: Final = "nudged weights"
ADAPTIVE: Final = "adaptive"

Prove = Callable[[Work, Compute, Forwards], Awaitable[Output]]


@dataclass
class Tried:
    """One cheat's outputs, and what became of them."""

    name: str
    outputs: int = 0
    different: int = 0  # outputs whose text is not the honest one
    scores: list[float] = field(default_factory=list)  # of outputs that have the right form
    prefixes: dict[int, int] = field(default_factory=lambda: dict.fromkeys(PREFIXES, 0))  # accepted by so many tokens
    methods: dict[str, int] = field(default_factory=lambda: dict.fromkeys(METHODS, 0))  # accepted
    methods_different: dict[str, int] = field(default_factory=lambda: dict.fromkeys(METHODS, 0))

    @property
    def accepted(self) -> int:
        return self.methods[PROJECT]

    @property
    def accepted_different(self) -> int:
        return self.methods_different[PROJECT]


@dataclass(frozen=True)
class Attested:
    """What an attester knows of one output: its own numbers, and its own text for the same prompt by other noise."""

    logits: npt.NDArray[np.floating]  # (tokens, vocabulary)
    hidden: Hidden
    misses: npt.NDArray[np.float64]  # of each token, in margins
    drifts: npt.NDArray[np.float64]  # of each token, in tolerances
    redrawn: bytes


class Stage:
    """The decoder and its relatives, loaded once; performers and attester are watched for their hidden states."""

    def __init__(self, subject: Subject, encoder: bytes | None) -> None:
        self.subject, self.method = subject, subject.method
        self._model = Runner(with_hidden(subject.model))
        self._plain, self._reference = Runner(subject.model), Runner(convert(subject.model, "fp64"))
        self._encoder = None if encoder is None else Runner(encoder)
        self._others: dict[str, Runner] = {}

    def performer(self, recording: Recording) -> Compute:
        return Compute(recording.watch(self._model), self.reference)

    def attester(self) -> Compute:
        return Compute(self._attest, self.reference)

    @property
    def reference(self) -> Forward:
        return self._reference.forward

    def others(self, recording: Recording, name: str) -> Forward:
        """Raises `NotApplicable`."""
        if name not in self._others:
            other = other_model(name, self.subject.model, self.subject.folder)
            self._others[name] = Runner(with_hidden(other))
        return recording.watch(self._others[name])

    async def read(self, work: Work, output: TextOutput) -> tuple[Tensors, Hidden]:
        """The attester's one pass over a text, and the hidden states before its tokens."""
        recording = Recording()
        ids = np.array([output.prompt + output.tokens[:-1]], np.int64)
        computed = await recording.watch(self._model, ATTESTER)({"ids": ids, **past_of(work.card)})
        hidden = recording.before(len(output.tokens))
        if hidden is None:
            raise TypeError("a pass left no hidden state")
        return computed, hidden

    def is_similar(self, one: bytes, other: bytes) -> bool:
        """By the sentence encoder's embeddings of up to its 64 bytes."""
        if self._encoder is None:
            raise TypeError("no encoder, and similarity is not among the methods")
        left, right = (next(iter(self._encoder.run(_sentence(text)).values())) for text in (one, other))
        return cosine_distance(left, right) <= 1 - LEAST_SIMILARITY

    @property
    def methods(self) -> tuple[str, ...]:
        return METHODS if self._encoder is not None else tuple(name for name in METHODS if name != SIMILARITY)

    async def _attest(self, inputs: Tensors) -> Tensors:
        return self._plain.run(inputs, ATTESTER)


def try_texts(
    subject: Subject, encoder: bytes | None, plan: Sequence[tuple[Parameters, int]], seconds: float
) -> list[Tried]:
    """Every cheat on texts, on as many tasks as planned for each kind of sampling; the honest one comes first. What is
    planned is done in an even mixture, as far as the time goes."""
    works = [
        (at / count, work) for parameters, count in plan for at, work in enumerate(subject.works(count, parameters))
    ]
    mixed = [work for _, work in sorted(works, key=lambda placed: placed[0])]
    return asyncio.run(_try_all(Stage(subject, encoder), while_allowed(mixed, seconds)))


async def _try_all(stage: Stage, works: Iterable[Work]) -> list[Tried]:
    tried = {HONEST: Tried(HONEST)}
    cheats = [
        cheat for cheat in CHEATS.values() if "text" in cheat.kinds and not cheat.name.startswith((SPOOF, ADAPTIVE))
    ]
    for work in works:
        honest, _ = await _played(stage, _honest, work)
        redrawn, _ = await _played(stage, _honest, replace(work, task_id=other_task(work.task_id)))
        for name, output, hidden in [
            (HONEST, *await _played(stage, _honest, work)),
            *await _cheated(stage, cheats, work),
        ]:
            each = tried.setdefault(name, Tried(name))
            await _judge(stage, work, each, output, hidden, honest, redrawn)
    return list(tried.values())


async def _honest(work: Work, compute: Compute, others: Forwards) -> Output:
    return await SeededText().prove(work, compute)


async def _cheated(stage: Stage, cheats: Sequence[Cheat], work: Work) -> list[tuple[str, TextOutput, Hidden | None]]:
    """Each cheat that can be played on this task, and its text behind a prefill spoof."""
    made = []
    for cheat in cheats:
        try:
            output, hidden = await _played(stage, partial(cheat.prove, stage.method), work)
        except NotApplicable:
            continue
        made.append((cheat.name, output, hidden))
        if SPOOF + cheat.name in CHEATS:
            spoofed = next(spoofed_cheats([replace(cheat, play=_given(output))]))
            made.append((spoofed.name, *await _played(stage, partial(spoofed.prove, stage.method), work)))
    return made


async def _played(stage: Stage, prove: Prove, work: Work) -> tuple[TextOutput, Hidden | None]:
    recording = Recording()
    output = await prove(work, stage.performer(recording), partial(stage.others, recording))
    if not isinstance(output, TextOutput):
        raise TypeError(f"{type(output).__name__} of a decoder")
    return output, recording.before(len(output.tokens))


def _given(output: Output) -> Play:
    """A cheat that has been played already."""

    async def play(honest: Method, work: Work, compute: Compute, others: Forwards) -> Output:
        return output

    return play


# --- judging by every method -------------------------------------------------------------------------
async def _judge(
    stage: Stage,
    work: Work,
    tried: Tried,
    output: TextOutput,
    hidden: Hidden | None,
    honest: TextOutput,
    redrawn: TextOutput,
) -> None:
    is_different = output.tokens != honest.tokens
    tried.outputs += 1
    tried.different += is_different
    if stage.method.fault(work, output) is not None:
        return  # refused by its form, by all methods alike
    computed, own = await stage.read(work, output)
    judgement = await verify(stage.method, work, output, data_of(output), Compute(giving(computed), stage.reference))
    attested = await _attested(work, output, computed, own, redrawn.text)
    worst = np.maximum(attested.misses, attested.drifts)
    tried.scores.append(judgement.score)
    for count in PREFIXES:
        tried.prefixes[count] += bool((worst[:count] <= 1).all())
    accepted = {PROJECT: judgement.verdict is Verdict.VALID, **_baselines(stage, work, output, hidden, attested)}
    for name, is_accepted in accepted.items():
        tried.methods[name] += is_accepted
        tried.methods_different[name] += is_accepted and is_different


async def _attested(work: Work, output: TextOutput, computed: Tensors, hidden: Hidden, redrawn: bytes) -> Attested:
    spec = spec_of(work.card)
    logits = np.asarray(computed["logits"][0, len(output.prompt) - 1 :], np.float32)
    sampler = sampler_of(spec, work.task_id, work.parameters)
    misses = await misses_of(sampler, logits, output.tokens, spec.margin)
    drifts = drift_of(unpack(output.tops, len(output.tokens), spec.vocab), normalise(logits))
    return Attested(logits, hidden, misses / spec.margin, drifts / work.card.tolerances["logits"].absolute, redrawn)


def _baselines(
    stage: Stage, work: Work, output: TextOutput, hidden: Hidden | None, attested: Attested
) -> dict[str, bool]:
    spec = spec_of(work.card)
    recomputed = text_output(spec, output.prompt, output.tokens, attested.logits)
    claimed = unpack(output.tops, len(output.tokens), spec.vocab)
    own = unpack(recomputed.tops, len(output.tokens), spec.vocab)
    # Where no model ran there is nothing to keep, and numbers are made up as the text was.
    kept = np.random.default_rng(0).normal(size=attested.hidden.shape) if hidden is None else hidden
    accepted = {
        EXACT: encode_output(recomputed) == encode_output(output),
        "argmax equal": bool((claimed.ids[:, 0] == own.ids[:, 0]).all()),
        "top-8 overlap": _least_overlap(claimed, own) >= LEAST_OVERLAP,
        "margin alone": bool(attested.misses.max() <= 1),
        "logits alone": bool(attested.drifts.max() <= 1),
        "TOPLOC": toploc.accepts(toploc.keep(kept), attested.hidden),
    }
    if SIMILARITY in stage.methods:
        accepted[SIMILARITY] = stage.is_similar(output.text, attested.redrawn)
    return accepted


def _least_overlap(one: TopLogits, other: TopLogits) -> int:
    """Ids in common, at the position that has the fewest."""
    return min(len(set(left) & set(right)) for left, right in zip(one.ids.tolist(), other.ids.tolist(), strict=True))


def _sentence(text: bytes) -> Tensors:
    return sentence_document(text[:SENTENCE_BYTES].decode(errors="ignore")).tensors or {}


# --- rows and sheets ---------------------------------------------------------------------------------
def rows_of(tried: Sequence[Tried]) -> list[Row]:
    cheats = [each for each in tried if each.name != HONEST]
    changed = {cheat.name for cheat in (*model_cheats(), *prompt_cheats())} - {NUDGED}
    direct = [each for each in cheats if each.name in changed]
    outputs, refused = _sum(direct, "outputs"), _sum(direct, "outputs") - _sum(direct, "accepted")
    nudged = [each for each in cheats if each.name == NUDGED]
    different, accepted = _sum(cheats, "different"), _sum(cheats, "accepted_different")
    name = "fp32: weight/input cheats"
    goal = f"{name} down to fp16 weights, 1 % pruning, one fine-tuning step (lr 1e-6), per 64-token output"
    bound = 100 * upper_bound(accepted, different)
    rows = [
        Row(f"{goal}: refused", 100 * refused / outputs, "%", 100.0, at_least=True),
        Row(f"{name}, refused at least (exact 95 % bound)", 100 * lower_bound(refused, outputs), "%"),
        Row(f"{name}, judged", outputs, "outputs"),
    ]
    rows += [
        Row(
            f"fp32: {NUDGED} (1e-6 each), nearer than any of those: refused",
            100 - 100 * each.accepted / each.outputs,
            "%",
        )
        for each in nudged
    ]
    rows += [
        Row(
            "fp32: outputs with different text accepted, over all cheats incl. prefill spoof", accepted, "outputs", 0.0
        ),
        Row("fp32: outputs with different text, accepted at most (exact 95 % bound)", bound, "%"),
        Row("fp32: outputs with different text, judged", different, "outputs"),
    ]
    return rows + _baseline_rows(tried[0], cheats)


def _baseline_rows(honest: Tried, cheats: Sequence[Tried]) -> list[Row]:
    """The same two questions of every other method; of one that could not be tried here, none."""
    different = _sum(cheats, "different")
    rows = []
    for method in METHODS[1:]:
        if any(each.methods[method] for each in (honest, *cheats)) or method == EXACT:
            count = sum(each.methods_different[method] for each in cheats)
            rejected = 100 - 100 * honest.methods[method] / honest.outputs
            rows += [
                Row(f"baseline {method}: share of outputs with different text accepted", 100 * count / different, "%"),
                Row(f"baseline {method}: honest outputs rejected", rejected, "%"),
            ]
    return rows


def sheets_of(tried: Sequence[Tried]) -> list[Sheet]:
    own = [each for each in tried if not each.name.startswith(SPOOF)]
    spoofed = [each for each in tried if each.name.startswith(SPOOF)]
    return [
        *(_counted(f"Texts {title}, judged by this project", group) for title, group in _groups(own, spoofed)),
        *(_by_method(f"Texts {title}: share accepted by each method", group) for title, group in _groups(own, spoofed)),
    ]


def _groups(own: Sequence[Tried], spoofed: Sequence[Tried]) -> list[tuple[str, Sequence[Tried]]]:
    return [("with the cheat's own logits", own), ("behind a prefill spoof", spoofed)]


def _counted(title: str, group: Sequence[Tried]) -> Sheet:
    lines: list[tuple[Cell, ...]] = [
        (
            each.name.removeprefix(SPOOF),
            each.outputs,
            each.different,
            each.accepted,
            each.accepted_different,
            upper_bound(each.accepted_different, each.different) if each.different else None,
            min(each.scores, default=None),
            *(each.prefixes[count] for count in PREFIXES),
        )
        for each in group
    ]
    header = ("cheat", "outputs", "other text", "accepted", "accepted with other text", "share of those at most (95 %)")
    after = [f"accepted by {count} token{'s' * (count > 1)}" for count in PREFIXES]
    return Sheet(title, (*header, "smallest score", *after), lines)


def _by_method(title: str, group: Sequence[Tried]) -> Sheet:
    lines: list[tuple[Cell, ...]] = [
        (each.name.removeprefix(SPOOF), *(each.methods[method] / each.outputs for method in METHODS)) for each in group
    ]
    return Sheet(title, ("cheat", *METHODS), lines)


def _sum(tried: Sequence[Tried], what: str) -> int:
    return sum(getattr(each, what) for each in tried)
