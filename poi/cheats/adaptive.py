"""An adversary that has read the card: it moves whatever it can move within the tolerances, and lies about no number.

It computes in float64, as the referee does, so that nothing of a tolerance is lost to its own rounding. What it
achieves is the freedom that a card leaves, by which the card should be judged: of texts the tokens that could be
chosen, of tensors almost one tolerance.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from poi.cheats.cheat import TENSORS, TEXT, WRONG_TENSORS, WRONG_TOKENS, Cheat, Forwards
from poi.cheats.graph import NotApplicable
from poi.cheats.outputs import check_tensors
from poi.cheats.writing import publish, sampler_for, write
from shared.documents import ModelCard, Output, TextOutput
from shared.interfaces import Tensors
from shared.verification.decoder import spec_of
from shared.verification.method import Compute, Forward, Method, Work
from shared.verification.sampling import Float64, Logits, Sampler, gumbel
from shared.verification.tensor import forward_outputs, output_of
from shared.verification.text import recomputed_logits, text_output

SHARE: Final = 0.99  # of a tolerance or margin; the rest is for the rounding of whoever checks


def adaptive_cheats() -> Iterator[Cheat]:
    yield Cheat(name="adaptive: tokens within the margin", kinds=TEXT, expected=WRONG_TOKENS, play=_steered)
    yield Cheat(name="adaptive: values within the tolerance", kinds=TENSORS, expected=WRONG_TENSORS, play=_leaning)


@dataclass(frozen=True)
class Steered:
    """`free` of the output's tokens had another one within the margin, and are that one."""

    output: TextOutput
    free: int


async def steer(work: Work, compute: Compute) -> Steered:
    """The text of an adversary that takes another token wherever the card leaves one."""
    spec, sampler = spec_of(work.card), sampler_for(work)
    free: set[int] = set()

    def pick(logits: Logits, position: int) -> int:
        others = alternatives(sampler, logits, position, SHARE * spec.margin)
        if others:
            free.add(position)
        return others[0] if others else sampler.pick(logits, position)

    written = await write(work, _with_float32_cache(compute.reference), pick=pick)
    output = publish(work, written)
    logits = await recomputed_logits(work, output, compute.reference)
    return Steered(text_output(spec, output.prompt, output.tokens, logits), len(free))


def _with_float32_cache(reference: Forward) -> Forward:
    """A reference gives keys and values in float64, and takes them in float32 as the model does."""

    async def run(inputs: Tensors) -> Tensors:
        return await reference(
            {name: array.astype(np.float32) if array.dtype == np.float64 else array for name, array in inputs.items()}
        )

    return run


def alternatives(sampler: Sampler, logits: Logits, position: int, margin: float) -> list[int]:
    """The tokens beside the pick that miss being it by `margin` at most, the nearest first."""
    allowed = logits.astype(np.float64)
    allowed[sampler.banned] = -np.inf
    pick, kept = sampler.pick(logits, position), sampler.top_k if sampler.temperature else 0
    perturbed = allowed + sampler.temperature * gumbel(sampler.task_id, position, len(allowed))
    if 0 < kept < len(allowed):
        excluded, boundary = np.partition(allowed, (-kept - 1, -kept))[-kept - 1 : len(allowed) - kept + 1]
        beaten = perturbed[allowed >= excluded + margin].max(initial=-np.inf)
        near = (allowed >= boundary - margin) & (perturbed >= beaten - margin)
    else:
        near = perturbed >= perturbed[pick] - margin
    near[pick] = False
    misses = {int(token): sampler.miss(logits, position, int(token), margin) for token in np.flatnonzero(near)}
    return sorted((token for token, miss in misses.items() if miss <= margin), key=misses.__getitem__)


async def _steered(honest: Method, work: Work, compute: Compute, others: Forwards) -> Output:
    return (await steer(work, compute)).output


async def _leaning(honest: Method, work: Work, compute: Compute, others: Forwards) -> Output:
    """Every value by almost a tolerance in the direction that it wants: of a classifier all scores towards the
    runner-up, elsewhere everything upwards."""
    if not work.card.tolerances:
        raise NotApplicable("the card tolerates nothing")
    check_tensors(work.card)
    arrays = await forward_outputs(work, compute.reference)
    for name, tolerance in work.card.tolerances.items():
        exact, step = arrays[name].astype(np.float64), SHARE * tolerance.absolute
        moved = (exact + step * _wanted(work.card, exact)).astype(np.float32)
        is_over = np.abs(moved - exact) > step  # rounded away from where it came from
        arrays[name] = np.where(is_over, np.nextafter(moved, exact.astype(np.float32)), moved)
    return output_of(work.card, arrays)


def _wanted(card: ModelCard, values: Float64) -> Float64:
    """The direction of each value: 1 or −1."""
    if card.kind != "classify":
        return np.ones(values.shape)
    wanted = np.full(values.size, -1.0)
    wanted[np.argsort(values.reshape(-1))[-2]] = 1.0
    return wanted.reshape(values.shape)
