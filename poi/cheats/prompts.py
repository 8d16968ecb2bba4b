"""Answering another prompt than the one that was paid for: hidden behind the right one, or declared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from poi.cheats.cheat import TEXT, WRONG_LOGITS, Cheat, Forwards, Play
from poi.cheats.graph import NotApplicable
from poi.cheats.writing import publish, write
from shared.documents import Output
from shared.model_card import TextSpec
from shared.reasons import InvalidReason
from shared.verification.decoder import prompt_tokens, spec_of
from shared.verification.method import Compute, Method, Work

Prompt = tuple[int, ...]
OTHER_PROMPT: Final = b"Now these are the words of somebody else"


def other_prompt(spec: TextSpec, prompt: Prompt) -> Prompt:
    """A text of its own where tokens are bytes; elsewhere the ids backwards."""
    return (spec.bos, *OTHER_PROMPT) if spec.tokens == "bytes" else prompt[::-1]


EDITS: Final[Mapping[str, Callable[[TextSpec, Prompt], Prompt]]] = {
    "truncated prompt": lambda _, prompt: prompt[len(prompt) // 2 :],
    "wrong prompt": other_prompt,
    "first prompt token dropped": lambda _, prompt: prompt[1:],
    "one prompt token dropped": lambda _, prompt: _without(prompt, len(prompt) // 2),
    "one prompt token edited": lambda _, prompt: _edited(prompt, len(prompt) // 2),
}


def prompt_cheats() -> Iterator[Cheat]:
    """Each edit twice: under the claim that the prompt was the right one, and by the performer's own word."""
    for name, edit in EDITS.items():
        yield Cheat(name=name, kinds=TEXT, expected=WRONG_LOGITS, play=_hidden(edit), surely_refused=True)
    for name, edit in EDITS.items():
        differs = frozenset({InvalidReason.PROMPT_DIFFERS})
        yield Cheat(name=f"{name}, declared", kinds=TEXT, expected=differs, play=_declared(edit), surely_refused=True)


def _hidden(edit: Callable[[TextSpec, Prompt], Prompt]) -> Play:
    async def play(honest: Method, work: Work, compute: Compute, others: Forwards) -> Output:
        return publish(work, await write(work, compute.run, prompt=_changed(edit, work)))

    return play


def _declared(edit: Callable[[TextSpec, Prompt], Prompt]) -> Play:
    async def play(honest: Method, work: Work, compute: Compute, others: Forwards) -> Output:
        prompt = _changed(edit, work)
        return publish(work, await write(work, compute.run, prompt=prompt), prompt=prompt)

    return play


def _changed(edit: Callable[[TextSpec, Prompt], Prompt], work: Work) -> Prompt:
    spec = spec_of(work.card)
    prompt = prompt_tokens(spec, work.document)
    changed = edit(spec, prompt)[: spec.context - work.parameters.max_tokens]
    if not changed or changed == prompt:
        raise NotApplicable(f"a prompt of {len(prompt)} tokens has nothing to edit")
    return changed


def _without(prompt: Prompt, index: int) -> Prompt:
    return prompt[:index] + prompt[index + 1 :]


def _edited(prompt: Prompt, index: int) -> Prompt:
    """The token's lower neighbour in its place."""
    return (*prompt[:index], abs(prompt[index] - 1), *prompt[index + 1 :])
