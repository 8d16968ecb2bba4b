"""Texts in fp16 and bf16 by the method `sequential`: what one text gives away, and what takes a performer many.

The card's numbers are measured here on half of the prompts, with one set of honest engines; false convictions are
counted on the other half, with another set. Its tolerance and margin are as wide as the profile allows, so that what
is refused is refused by evidence. Engines round as fused kernels do; honest performers are neighbours of the attester's
own engine (see `poi.calibration.sequence`), whose errors are as independent of its own as those of a real library's
decode are of its prefill.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import count
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from bench.bounds import lower_bound, upper_bound
from bench.table import Cell, Row, Sheet
from poi.calibration.sequence import Observed, nudged, observe, part_of, works
from poi.cheats.catalogue import CHEATS
from poi.cheats.graph import NotApplicable
from poi.cheats.others import other_model
from shared.adapters.onnx_precision import Precision, convert
from shared.adapters.onnx_runner import Runner
from shared.card_parts import Sequence as SequencePart
from shared.card_parts import Tolerance
from shared.documents import InputDocument, ModelCard, Output, TextOutput
from shared.profiles import MAX_MARGIN, MAX_RELATIVE_TOLERANCE, Profile
from shared.types import Verdict
from shared.verification.decoder import spec_of
from shared.verification.method import Compute, Forward, Work
from shared.verification.sequential import SequentialText
from shared.verification.wealth import Growth, Wealth, growth_of

PRECISION: Final[Mapping[Profile, Precision]] = {Profile.BF16: "bf16", Profile.FP16: "fp16"}
GOAL: Final = "int8 weights"
TRIED: Final = (
    GOAL,
    "bf16 weights",
    "fp16 weights",
    "fp8 weights",
    "int4 weights",
    "1 % pruned",
    "10 % pruned",
    "KV int8",
    "KV int4",
    "fine-tuned 1 step, rate 1e-6",
    "fine-tuned 10 steps, rate 1e-5",
    "fine-tuned 10 steps, rate 1e-4",
    "stale, 98 % trained",
    "layer skipped",
    "smaller model",
    "one prompt token dropped",
    "one prompt token edited",
    "prefill spoof: int8 weights",
    "prefill spoof: fp8 weights",
    "prefill spoof: int4 weights",
    "prefill spoof: KV int4",
    "prefill spoof: stale, 90 % trained",
)
# No cheat: an honest engine of the kind that a card of fused kernels is not for.
OTHER_KERNELS: Final = "honest, but every operator rounds"
TOKENS: Final = 64
BLOCK: Final = 16  # tokens that stay together when honest texts are resampled: neighbours' errors are alike
RESAMPLED: Final = 40_000  # texts: with none convicted, the exact bound is 7.5e-5
LIVES, LIFE = 1000, 100  # honest performers, and texts of each
HUNTS, LONGEST = 200, 256  # lives of a cheat, and after how many texts it is given up
SHARE: Final = 0.99
ENGINES: Final = 4  # honest neighbours in each set


@dataclass(frozen=True)
class Counts:
    """How many texts are written. `goal`: of 64 tokens, by the cheat that the goal names."""

    honest: int = 192
    goal: int = 300
    cheats: int = 16


@dataclass
class Cheated:
    """One cheat's texts: growth of the bets for each, None for one that is refused by itself."""

    name: str
    growths: list[Growth | None] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def caught_at_once(self, limit: float) -> list[bool]:
        """Of the texts that came to 64 tokens: convicted as the first of its performer."""
        full = [growth for growth, tokens in zip(self.growths, self.tokens, strict=True) if tokens == TOKENS]
        return [growth is None or Wealth().after(growth).evidence > limit for growth in full]

    def tokens_until_caught(self, limit: float, noise: np.random.Generator) -> float:
        """Until 99 of 100 performers who draw from these texts are convicted; infinite if not within `LONGEST`."""
        texts = sorted(_texts_until(self.growths, limit, noise) for _ in range(HUNTS))[math.ceil(SHARE * HUNTS) - 1]
        return texts * float(np.mean(self.tokens))


@dataclass(frozen=True)
class Tried:
    """What was counted in one profile."""

    profile: Profile
    part: SequencePart
    false_texts: int  # of RESAMPLED honest texts of 64 tokens, each its performer's first: convicted
    false_lives: int  # of LIVES honest performers of LIFE texts each: ever convicted
    cheats: list[Cheated]


def try_sequential(
    card: ModelCard,
    model: bytes,
    documents: Sequence[InputDocument],
    folder: Path,
    profile: Profile,
    counts: Counts = Counts(),
    seconds: float = math.inf,
) -> Tried:
    """`card` is any of the model's own; after `seconds` no further cheat is begun."""
    stage = Stage(model, folder, profile)
    wide = _as_wide_as_allowed(card, profile)
    calibrating, held_out = documents[::2], documents[1::2]
    first = asyncio.run(_observe_all(stage, works(wide, calibrating, counts.honest), range(ENGINES)))
    part = part_of([first])
    other = works(wide, held_out, counts.honest, first=counts.honest)
    honest = asyncio.run(_observe_all(stage, other, range(ENGINES, 2 * ENGINES)))
    noise = np.random.default_rng(0)
    return Tried(
        profile,
        part,
        _false_texts(honest, part, noise),
        _false_lives(honest, part, noise),
        asyncio.run(_try_cheats(stage, msgspec.structs.replace(wide, sequence=part), documents, counts, seconds)),
    )


def rows_of(tried: Tried) -> list[Row]:
    name = tried.profile.value
    rows = [
        Row(f"{name}: honest 64-token texts convicted", tried.false_texts / RESAMPLED, "share", 1e-4),
        Row(
            f"{name}: honest texts, share convicted at most (exact 95 % bound)",
            upper_bound(tried.false_texts, RESAMPLED),
            "share",
            1e-4,
        ),
        Row(f"{name}: honest performers ever convicted, {LIFE} texts each", tried.false_lives, f"of {LIVES}", 0.0),
    ]
    for cheat in tried.cheats:
        if cheat.name == GOAL:
            caught = cheat.caught_at_once(tried.part.limit)
            found = sum(caught)
            row = f"{name}: int8 weights at FPR ≤ 1e-4 within {TOKENS} tokens"
            rows.append(Row(row, found / len(caught), "share", SHARE if name == "bf16" else None, at_least=True))
            bound = lower_bound(found, len(caught))
            rows.append(Row(f"{name}: int8 weights, share caught at least (exact 95 % bound)", bound, "share"))
            rows.append(Row(f"{name}: int8 weights, texts judged", len(caught), "texts"))
    return rows


def sheet_of(tried: Tried) -> Sheet:
    noise = np.random.default_rng(1)
    lines: list[tuple[Cell, ...]] = []
    for cheat in tried.cheats:
        caught = cheat.caught_at_once(tried.part.limit)
        tokens = cheat.tokens_until_caught(tried.part.limit, noise)
        longest = f"not within {LONGEST * float(np.mean(cheat.tokens)):,.0f}"
        share = sum(caught) / len(caught) if caught else None
        lines.append((cheat.name, len(cheat.growths), share, longest if math.isinf(tokens) else f"{tokens:,.0f}"))
    header = ("cheat", "texts", f"caught by one text of {TOKENS} tokens", f"tokens until {SHARE:.0%} are caught")
    part = tried.part
    title = (
        f"Evidence across texts, {tried.profile.value} (honest mean {part.honest_mean:.3f}, deviation "
        f"{part.honest_deviation:.3f}, miss {part.honest_miss:.2g}, shift {part.shift:.3f}, limit {part.limit:g} nats)"
    )
    return Sheet(title, header, lines)


# --- writing and judging -----------------------------------------------------------------------------
class Stage:
    """One model and its relatives in low precision, loaded when first used."""

    def __init__(self, model: bytes, folder: Path, profile: Profile) -> None:
        self._model, self._folder, self._precision = model, folder, PRECISION[profile]
        self.attester = Compute(self._engine(model), Runner(convert(model, "fp64")).forward)
        self.others: Callable[[str], Forward] = cache(self._other)

    def neighbour(self, seed: int) -> Forward:
        return self._engine(nudged(self._model, seed))

    @cached_property
    def every_operator_rounds(self) -> Forward:
        return Runner(convert(self._model, self._precision)).forward

    def _other(self, name: str) -> Forward:
        """Raises `NotApplicable`."""
        return self._engine(other_model(name, self._model, self._folder))

    def _engine(self, model: bytes) -> Forward:
        return Runner(convert(model, self._precision, fused=True)).forward


@dataclass
class Recorder:
    """A `Ledger` of one text."""

    growth: Growth | None = None

    async def add(self, account: bytes, task_id: bytes, text: bytes, growth: Growth, limit: float) -> float:
        self.growth = growth
        return Wealth().after(growth).evidence


async def _observe_all(stage: Stage, tasks: Sequence[Work], seeds: range) -> list[Observed]:
    engines = [stage.neighbour(seed) for seed in seeds]
    return [await observe(work, engines[i % len(engines)], stage.attester) for i, work in enumerate(tasks)]


async def _try_cheats(
    stage: Stage, card: ModelCard, documents: Sequence[InputDocument], counts: Counts, seconds: float
) -> list[Cheated]:
    started = time.monotonic()
    tried: list[Cheated] = []
    for name in (*TRIED, OTHER_KERNELS):
        if tried and time.monotonic() - started > seconds:
            break
        try:
            tried.append(await _try_cheat(stage, card, documents, name, counts))
        except NotApplicable:
            continue
    return tried


async def _try_cheat(
    stage: Stage, card: ModelCard, documents: Sequence[InputDocument], name: str, counts: Counts
) -> Cheated:
    cheated = Cheated(name)
    for work in _works_without_end(card, documents):
        recorder = Recorder()
        method = SequentialText(recorder)
        output = await _write(stage, name, method, work)
        judgement = await method.judge(work, output, stage.attester)
        if not isinstance(output, TextOutput) or judgement.verdict is Verdict.ABSTAIN:
            raise TypeError(f"{name}: no text that can be judged")
        cheated.growths.append(recorder.growth)
        cheated.tokens.append(len(output.tokens))
        full = cheated.tokens.count(TOKENS)
        if full >= counts.goal if name == GOAL else len(cheated.tokens) >= counts.cheats and full:
            break
    return cheated


async def _write(stage: Stage, name: str, method: SequentialText, work: Work) -> Output:
    if name == OTHER_KERNELS:
        return await method.prove(work, Compute(stage.every_operator_rounds, stage.attester.reference))
    return await CHEATS[name].prove(method, work, stage.attester, stage.others)


def _works_without_end(card: ModelCard, documents: Sequence[InputDocument]) -> Iterator[Work]:
    for number in count():
        yield from works(card, documents, len(documents), first=(1 << 20) + number * len(documents))


def _as_wide_as_allowed(card: ModelCard, profile: Profile) -> ModelCard:
    tolerance = Tolerance(relative=MAX_RELATIVE_TOLERANCE[profile], scale=card.tolerances["logits"].scale)
    text = msgspec.structs.replace(spec_of(card), margin=MAX_MARGIN[profile])
    return msgspec.structs.replace(
        card, method="sequential", profile=profile, tolerances={"logits": tolerance}, text=text
    )


# --- resampling --------------------------------------------------------------------------------------
def _false_texts(honest: Sequence[Observed], part: SequencePart, noise: np.random.Generator) -> int:
    """Of texts put together from blocks of held-out ones, drawn with replacement."""
    whole = [each for each in honest if len(each.ratios) >= BLOCK]
    ratios, misses = (
        np.concatenate([array[: len(array) // BLOCK * BLOCK].reshape(-1, BLOCK) for array in arrays])
        for arrays in ([each.ratios for each in whole], [each.misses for each in whole])
    )
    drawn = noise.integers(0, len(ratios), (RESAMPLED, TOKENS // BLOCK))
    growths = (growth_of(ratios[blocks].ravel(), misses[blocks].ravel(), part) for blocks in drawn)
    return sum(Wealth().after(growth).evidence > part.limit for growth in growths)


def _false_lives(honest: Sequence[Observed], part: SequencePart, noise: np.random.Generator) -> int:
    """Of performers who each draw `LIFE` of the held-out texts with replacement."""
    growths = [growth_of(each.ratios, each.misses, part) for each in honest]
    return sum(_is_ever_convicted(growths, part.limit, noise) for _ in range(LIVES))


def _is_ever_convicted(growths: Sequence[Growth], limit: float, noise: np.random.Generator) -> bool:
    wealth = Wealth()
    for drawn in noise.integers(0, len(growths), LIFE):
        wealth = wealth.after(growths[drawn])
        if wealth.evidence > limit:
            return True
    return False


def _texts_until(growths: Sequence[Growth | None], limit: float, noise: np.random.Generator) -> float:
    wealth = Wealth()
    for text, drawn in enumerate(noise.integers(0, len(growths), LONGEST), 1):
        growth = growths[drawn]
        if growth is None:
            return text
        wealth = wealth.after(growth)
        if wealth.evidence > limit:
            return text
    return math.inf
