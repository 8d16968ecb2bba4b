"""The right tokens, and an end that is not theirs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec
import numpy as np

from poi.cheats.cheat import TEXT, Cheat, Forwards, Play
from poi.cheats.graph import NotApplicable
from poi.cheats.writing import Written, publish, sampler_for, second_best, write
from shared.documents import Output, TextOutput
from shared.reasons import InvalidReason
from shared.verification.decoder import prompt_tokens, spec_of
from shared.verification.method import Compute, Method, Work
from shared.verification.sampling import Logits

EXTRA_TOKENS: Final = 8


def form_cheats() -> Iterator[Cheat]:
    yield _cheat("stopped early by an end token", InvalidReason.STOPPED_EARLY, _ended)
    yield _cheat("cut before its end", InvalidReason.STOPPED_EARLY, _cut)
    yield _cheat("padded after its end", InvalidReason.PADDED, _padded)
    yield _cheat("longer than asked", InvalidReason.PADDED, _longer)
    yield _cheat("wrong stop reason", InvalidReason.STOP_RULE, _misnamed)


def _cheat(name: str, reason: InvalidReason, play: Play) -> Cheat:
    return Cheat(name=name, kinds=TEXT, expected=frozenset({reason}), play=play, surely_refused=True)


async def _ended(honest: Method, work: Work, compute: Compute, others: Forwards) -> Output:
    """Half of it, and an end token that the sampler did not pick."""
    written = await _two_or_more(work, compute)
    half = (len(written) - 1) // 2  # before the last, so never where the text ends by itself
    return publish(work, Written((*written.tokens[:half], spec_of(work.card).eos), written.rows[: half + 1]))


async def _cut(honest: Method, work: Work, compute: Compute, others: Forwards) -> Output:
    """Without its last token, whatever that was."""
    written = await _two_or_more(work, compute)
    return publish(work, Written(written.tokens[:-1], written.rows[:-1]))


async def _padded(honest: Method, work: Work, compute: Compute, others: Forwards) -> Output:
    """An end token and one more behind it; the end is put there where the text has none of its own."""
    written, eos = await _two_or_more(work, compute), spec_of(work.card).eos
    if written.tokens[-1] == eos:
        return publish(work, Written((*written.tokens, written.tokens[0]), np.vstack([written.rows, written.rows[:1]])))
    return publish(work, Written((*written.tokens[:-2], eos, written.tokens[-1]), written.rows))


async def _longer(honest: Method, work: Work, compute: Compute, others: Forwards) -> Output:
    """Where tokens are paid for, more of them: an end that comes too soon is passed over."""
    spec, asked, sampler = spec_of(work.card), work.parameters.max_tokens, sampler_for(work)
    room = spec.context - len(prompt_tokens(spec, work.document)) - asked
    if room < 1:
        raise NotApplicable("the context has no room for more")

    def pick(logits: Logits, position: int) -> int:
        token = sampler.pick(logits, position)
        return second_best(sampler, logits, position) if token == spec.eos else token

    return publish(work, await write(work, compute.run, pick=pick, max_tokens=asked + min(EXTRA_TOKENS, room)))


async def _misnamed(honest: Method, work: Work, compute: Compute, others: Forwards) -> Output:
    output = await honest.prove(work, compute)
    if not isinstance(output, TextOutput):
        raise NotApplicable("no text")
    return msgspec.structs.replace(output, stop="length" if output.stop == "eos" else "eos")


async def _two_or_more(work: Work, compute: Compute) -> Written:
    written = await write(work, compute.run)
    if len(written) < 2:
        raise NotApplicable("a text of one token has no other end")
    return written
