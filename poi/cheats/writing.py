"""Texts as a dishonest performer writes them: after any prompt, with any model, by any rule for the next token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from shared.documents import TextOutput
from shared.verification.decoder import Decoding, prompt_tokens, spec_of
from shared.verification.method import Forward, Work
from shared.verification.sampling import Logits, Sampler
from shared.verification.text import sampler_of, text_output

Pick = Callable[[Logits, int], int]
"""From the logits (vocabulary,) before a position, and the position, to the token there."""


@dataclass(frozen=True)
class Written:
    """`rows` (tokens, vocabulary) are the logits before each token."""

    tokens: tuple[int, ...]
    rows: Logits

    def __len__(self) -> int:
        return len(self.tokens)


async def write(
    work: Work,
    forward: Forward,
    *,
    prompt: tuple[int, ...] | None = None,
    pick: Pick | None = None,
    max_tokens: int | None = None,
) -> Written:
    """Honest in what is not given: the task's prompt, sampler and length."""
    spec = spec_of(work.card)
    choose, decoding = pick or sampler_for(work).pick, Decoding(work.card, forward)
    tokens: list[int] = []
    rows: list[Logits] = []
    feed = prompt_tokens(spec, work.document) if prompt is None else prompt
    while not tokens or (tokens[-1] != spec.eos and len(tokens) < (max_tokens or work.parameters.max_tokens)):
        rows.append((await decoding.feed(feed))[-1])
        tokens.append(choose(rows[-1], len(tokens)))
        feed = (tokens[-1],)
    return Written(tuple(tokens), np.stack(rows))


def publish(work: Work, written: Written, *, prompt: tuple[int, ...] | None = None) -> TextOutput:
    """Under the task's prompt, unless another is given."""
    spec = spec_of(work.card)
    claimed = prompt_tokens(spec, work.document) if prompt is None else prompt
    return text_output(spec, claimed, written.tokens, written.rows)


def sampler_for(work: Work) -> Sampler:
    return sampler_of(spec_of(work.card), work.task_id, work.parameters)


def second_best(sampler: Sampler, logits: Logits, position: int) -> int:
    """What the sampler would pick if its pick were not there."""
    others = np.array(logits, np.float64)
    others[sampler.pick(logits, position)] = -np.inf
    return sampler.pick(others, position)
