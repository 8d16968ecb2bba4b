"""Running another model than the one that was asked for: cheaper numbers, other weights, a quantised cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from poi.cheats.cache import CACHED, quantised_cache
from poi.cheats.cheat import ANY_KIND, TENSORS, TEXT, WRONG_NUMBERS, WRONG_TOKENS, Cheat, Forwards, Kind, Play
from poi.cheats.graph import NotApplicable
from poi.cheats.others import ARITHMETIC, DECOY, TRAINED
from poi.cheats.weights import WEIGHT_CHEATS
from shared.documents import Output
from shared.errors import InferenceFailed
from shared.verification.method import Compute, Method, Work

TREES: Final = frozenset({"half the trees", "fp16 thresholds"})
CACHES: Final = {"KV int8": 127, "KV int4": 7}
# As near to the model as its own rounding, which a text seldom shows; or apt to overflow, and give nothing at all.
UNSURE: Final = frozenset({"nudged weights", "fine-tuned 1 step, rate 1e-6", *ARITHMETIC})


def model_cheats() -> Iterator[Cheat]:
    for name in (*WEIGHT_CHEATS, *ARITHMETIC):
        yield _cheat(name, TENSORS if name in TREES else ANY_KIND, other_model(name), name)
    for name in TRAINED:
        yield _cheat(name, TEXT, other_model(name), name)
    yield _cheat(DECOY, TENSORS, other_model(DECOY), DECOY)
    for name, steps in CACHES.items():
        yield _cheat(name, TEXT, quantise_cache(steps), model=None)


def _cheat(name: str, kinds: frozenset[Kind], play: Play, model: str | None) -> Cheat:
    return Cheat(
        name=name,
        kinds=kinds,
        expected=WRONG_NUMBERS | WRONG_TOKENS,
        play=play,
        model=model,
        surely_refused=name not in UNSURE,
    )


def other_model(name: str) -> Play:
    """The honest performer's half on another model."""

    async def play(honest: Method, work: Work, compute: Compute, others: Forwards) -> Output:
        try:
            return await honest.prove(work, replace(compute, run=others(name)))
        except InferenceFailed as error:  # as float16 where the model needs larger numbers than it has
            raise NotApplicable(str(error)) from None

    return play


def quantise_cache(steps: int) -> Play:
    async def play(honest: Method, work: Work, compute: Compute, others: Forwards) -> Output:
        if not any(spec.name in CACHED for spec in work.card.inputs):
            raise NotApplicable("the decoder has no cache")
        return await honest.prove(work, replace(compute, run=quantised_cache(compute.run, steps)))

    return play
