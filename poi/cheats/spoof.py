"""The strongest cover for cheap text: the true model reads it once, and its logits are what is published.

A prefill costs a seventh of writing the text. The numbers are then the model's own to the last digit: only the tokens,
held to the sampler, can give it away.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from poi.cheats.cheat import TEXT, WRONG_TOKENS, Cheat, Forwards, Play
from poi.cheats.graph import NotApplicable
from shared.documents import Output, TextOutput
from shared.verification.decoder import spec_of
from shared.verification.method import Compute, Method, Work
from shared.verification.text import recomputed_logits, text_output

# Whose text is another one altogether. The others write the honest text often enough, and have then delivered it.
CERTAIN: Final = frozenset(
    {"copied output", "layer skipped", "model of another seed", "random output", "smaller model"}
)


def spoofed_cheats(cheats: Iterable[Cheat]) -> Iterator[Cheat]:
    """Each of these cheats on texts again, with the true model's numbers."""
    for cheat in cheats:
        if "text" in cheat.kinds:
            yield Cheat(
                name=f"prefill spoof: {cheat.name}",
                kinds=TEXT,
                expected=WRONG_TOKENS,
                play=_spoofed(cheat),
                model=cheat.model,
                surely_refused=cheat.name in CERTAIN,
            )


def _spoofed(cheat: Cheat) -> Play:
    async def play(honest: Method, work: Work, compute: Compute, others: Forwards) -> Output:
        output = await cheat.prove(honest, work, compute, others)
        if not isinstance(output, TextOutput):
            raise NotApplicable("no text whose logits could be spoofed")
        logits = await recomputed_logits(work, output, compute.run)
        return text_output(spec_of(work.card), output.prompt, output.tokens, logits)

    return play
