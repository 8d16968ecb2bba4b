"""Picking tokens by another rule than the one that was asked for, from the model's own numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import msgspec
import numpy as np

from poi.cheats.cheat import TEXT, WRONG_TOKENS, Cheat, Forwards, Play, drawn
from poi.cheats.graph import NotApplicable
from poi.cheats.writing import publish, sampler_for, second_best, write
from shared.documents import MAX_TEMPERATURE, MIN_TEMPERATURE, Output
from shared.types import Digest
from shared.verification.decoder import spec_of
from shared.verification.method import Compute, Method, Work
from shared.verification.sampling import Logits

TEMPERATURE_STEP: Final = 0.1
TOP_K: Final = 40
TOP_P: Final = 0.95


def sampling_cheats() -> Iterator[Cheat]:
    yield _cheat("temperature raised by 0.1", _warmer(TEMPERATURE_STEP))
    yield _cheat("temperature lowered by 0.1", _warmer(-TEMPERATURE_STEP))
    yield _cheat("greedy instead of sampled", _greedy, surely_refused=True)
    yield _cheat("top-k 40", _top_k)
    yield _cheat("top-p 0.95", _top_p)
    yield _cheat("another seed", _other_seed, surely_refused=True)
    yield _cheat("one token substituted", _one_token, surely_refused=True)


def _cheat(name: str, play: Play, *, surely_refused: bool = False) -> Cheat:
    return Cheat(name=name, kinds=TEXT, expected=WRONG_TOKENS, play=play, surely_refused=surely_refused)


def _warmer(step: float) -> Play:
    async def play(honest: Method, work: Work, compute: Compute, others: Forwards) -> Output:
        _check_sampled(work)
        temperature = work.parameters.temperature + step
        if not MIN_TEMPERATURE <= temperature <= MAX_TEMPERATURE:
            raise NotApplicable(f"temperature {temperature:g} is no temperature")
        return await honest.prove(_with_parameters(work, temperature=temperature), compute)

    return play


async def _greedy(honest: Method, work: Work, compute: Compute, others: Forwards) -> Output:
    _check_sampled(work)
    return await honest.prove(_with_parameters(work, temperature=0.0), compute)


async def _top_k(honest: Method, work: Work, compute: Compute, others: Forwards) -> Output:
    _check_sampled(work)
    if work.parameters.top_k == TOP_K:
        raise NotApplicable(f"top-k {TOP_K} is what was asked for")
    return await honest.prove(_with_parameters(work, top_k=min(TOP_K, spec_of(work.card).vocab)), compute)


async def _top_p(honest: Method, work: Work, compute: Compute, others: Forwards) -> Output:
    _check_sampled(work)
    sampler = sampler_for(work)

    def pick(logits: Logits, position: int) -> int:
        return sampler.pick(_nucleus(logits, work.parameters.temperature), position)

    return publish(work, await write(work, compute.run, pick=pick))


def _nucleus(logits: Logits, temperature: float) -> Logits:
    """The fewest tokens with 95 % of the probability; no others."""
    scaled = logits.astype(np.float64) / temperature
    order = np.argsort(-scaled)
    chances = np.exp(scaled[order] - scaled[order[0]])
    before = (np.cumsum(chances) - chances) / chances.sum()
    kept = np.full(len(logits), -np.inf)
    kept[order[before < TOP_P]] = logits[order[before < TOP_P]]
    return kept


async def _other_seed(honest: Method, work: Work, compute: Compute, others: Forwards) -> Output:
    """The noise of a task that nobody asked for: how a performer would search for the text that it likes."""
    _check_sampled(work)
    return await honest.prove(replace(work, task_id=other_task(work.task_id)), compute)


async def _one_token(honest: Method, work: Work, compute: Compute, others: Forwards) -> Output:
    """The sampler's second choice somewhere, and from there on everything as it should be."""
    sampler = sampler_for(work)
    place = drawn(work.task_id, "place") % len(await write(work, compute.run))

    def pick(logits: Logits, position: int) -> int:
        return second_best(sampler, logits, position) if position == place else sampler.pick(logits, position)

    return publish(work, await write(work, compute.run, pick=pick))


def other_task(task_id: Digest) -> Digest:
    return Digest(drawn(task_id, "another task").to_bytes(32, "big"))


def _with_parameters(work: Work, **changes: float) -> Work:
    return replace(work, parameters=msgspec.structs.replace(work.parameters, **changes))


def _check_sampled(work: Work) -> None:
    if work.parameters.temperature == 0:
        raise NotApplicable("a greedy text has no sampler to change")
