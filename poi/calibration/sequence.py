"""The part of a card that the method `sequential` reads: how large honest errors are, by an honest attester's own.

On one machine an emulated engine repeats itself almost to the bit, whatever the shapes; accelerators do not. What sets
them apart is sums in another order, and in low precision the least difference grows within a few layers to what all
rounding makes together. So beside the engine itself the calibration runs *neighbours*: the same model with each weight
moved by 2⁻¹⁸ of itself, far less than the profile's own rounding of it. Their errors are as independent of the
attester's as those that bfloat16 kernels of another library show between prefill and decode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import Final

import numpy as np
import numpy.typing as npt

from poi.calibration.subject import MAX_TOKENS, NOBODY, task_of, text_parameters
from poi.cheats.graph import Weights, change_weights
from shared.adapters.onnx_precision import Precision, convert
from shared.adapters.onnx_runner import Runner
from shared.card_parts import Sequence as SequencePart
from shared.documents import InputDocument, ModelCard, TextOutput
from shared.errors import CalibrationFailed
from shared.top_logits import normalise, unpack
from shared.verification.decoder import spec_of
from shared.verification.method import Compute, Forward, Work
from shared.verification.sequential import log_ratios
from shared.verification.text import SeededText, misses_of, recomputed_logits, sampler_of
from shared.verification.wealth import MOST_RATIO, SHIFTS

TEXTS: Final = 192  # of each group, 64 tokens each: the mean ratio is then known to 0.004
NEIGHBOURS: Final = 8
NUDGE: Final = 2.0**-18  # of a weight
LIMIT: Final = 9.22  # nats: one honest performer in ten thousand is ever convicted
HEADROOM: Final = 4.0  # over the honest mean of missed picks, as for every tolerance
LEAST_MISS: Final = 1e-4  # where no honest run missed any
MOST_MEAN, MOST_DEVIATION = 0.5, 1.0  # what a card may say
ERRORS: Final = 3.0  # standard errors above the measured mean
TEXT_TASKS: Final = 1 << 20  # numbers from here: other texts than those that the tolerances come from

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Observed:
    """One text under the attester's eyes: each token's log ratio, and by how many margins it missed the pick."""

    ratios: Float64
    misses: Float64


def neighbours(model: bytes, precision: Precision, count: int = NEIGHBOURS) -> list[Forward]:
    """Engines whose kernels add up in another order, as far as their numbers show."""
    return [Runner(convert(nudged(model, seed), precision, fused=True)).forward for seed in range(count)]


def nudged(model: bytes, seed: int) -> bytes:
    noise = np.random.default_rng(seed)

    def change(rows: Weights) -> Weights:
        moved: Weights = (rows * (1.0 + NUDGE * noise.choice([-1.0, 1.0], rows.shape))).astype(np.float32)
        return moved

    return change_weights(model, change)


async def sequence_part(
    card: ModelCard,
    documents: Sequence[InputDocument],
    groups: Mapping[str, Sequence[Forward]],
    attester: Compute,
    texts: int = TEXTS,
) -> SequencePart:
    """From `texts` honest texts of each group, written by its engines in turn; every group must be as honest as the
    worst of them. `card` has its tolerances and its margin. Raises `CalibrationFailed` where honest engines lie so far
    apart that nothing can be told from them."""
    observed = {
        name: [
            await observe(work, forward, attester)
            for work, forward in zip(works(card, documents, texts), cycle(engines), strict=False)
        ]
        for name, engines in groups.items()
    }
    return part_of(list(observed.values()))


def part_of(groups: Sequence[Sequence[Observed]]) -> SequencePart:
    mean = max(_mean_at_most(group) for group in groups)
    deviation = max(_deviation(group) for group in groups)
    if mean > MOST_MEAN or deviation > MOST_DEVIATION:
        raise CalibrationFailed(
            f"honest errors are up to {np.exp(mean):.1f} times the attester's own, give or take {deviation:.2f} in the "
            f"logarithm; a card allows {np.exp(MOST_MEAN):.1f} and {MOST_DEVIATION:g}. Give each kind of kernels a card"
        )
    miss = max(float(np.concatenate([each.misses for each in group]).mean()) for group in groups)
    largest = deviation * np.sqrt(2 * (LIMIT + 1) / MAX_TOKENS)  # what one text of so many tokens proves soonest
    return SequencePart(
        honest_mean=mean,
        honest_deviation=max(deviation, 0.05),
        honest_miss=max(HEADROOM * miss, LEAST_MISS),
        shift=float(max(largest / max(SHIFTS), 0.01)),
        limit=LIMIT,
    )


async def observe(work: Work, performer: Forward, attester: Compute) -> Observed:
    """`performer` writes the text token by token; the attester reads it at once."""
    output = await SeededText().prove(work, Compute(performer, performer))
    if not isinstance(output, TextOutput):
        raise CalibrationFailed(f"{work.card.name}: a decoder gave {type(output).__name__}")
    return await observe_text(work, output, attester)


async def observe_text(work: Work, output: TextOutput, attester: Compute) -> Observed:
    spec = spec_of(work.card)
    own = await recomputed_logits(work, output, attester.run)
    reference = await recomputed_logits(work, output, attester.reference)
    sampler = sampler_of(spec, work.task_id, work.parameters)
    misses = await misses_of(sampler, reference, output.tokens, spec.margin)
    published = unpack(output.tops, len(output.tokens), spec.vocab)
    ratios = log_ratios(published, normalise(own), normalise(reference))
    return Observed(np.clip(ratios, -MOST_RATIO, MOST_RATIO), np.minimum(misses / spec.margin, 1.0))


def works(card: ModelCard, documents: Sequence[InputDocument], count: int, first: int = 0) -> list[Work]:
    """`count` tasks, prompt after prompt; those with other numbers sample other texts of the same prompts."""
    parameters = text_parameters(card, MAX_TOKENS)
    base = Work(task_of(0), NOBODY, card, documents[0], parameters)
    return [
        replace(base, task_id=task_of(TEXT_TASKS + first + i), document=document)
        for i, document in enumerate(islice(cycle(documents), count))
    ]


# --- what a group of texts shows ---------------------------------------------------------------------
def _mean_at_most(group: Sequence[Observed]) -> float:
    """Of a token's ratio, by the spread between texts: their tokens are not independent."""
    tokens = sum(len(each.ratios) for each in group)
    return _mean(group) + ERRORS * _deviation(group) / float(np.sqrt(tokens))


def _mean(group: Sequence[Observed]) -> float:
    return float(np.concatenate([each.ratios for each in group]).mean())


def _deviation(group: Sequence[Observed]) -> float:
    """√n times the standard deviation of a text's mean over n tokens, or of a single token where that is more; plus one
    standard error of itself."""
    mean = _mean(group)
    between = np.mean([(each.ratios.sum() - mean * len(each.ratios)) ** 2 / len(each.ratios) for each in group])
    within = np.concatenate([each.ratios for each in group]).var()
    return float(np.sqrt(max(between, within)) * (1 + 1 / np.sqrt(2 * len(group))))
