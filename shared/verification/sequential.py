"""Method `sequential`: text in fp16 or bf16, judged by what a performer's texts say together (protocol §6).

In these profiles an honest performer's own rounding is as large as what many cheats change, so no single output tells
them apart; their sizes do, token after token. The yardstick is this attester's own run in the same precision. For each
token it compares the error of the published logits with that of its own, both against the float64 reference: honest
errors are as large as one's own, whatever the token, and a cheat's are larger. Errors are centred first: what moves all
eight logits together comes from the normalisation, and says little.

The sampler's picks are held to the reference too. Near-ties are missed by honest performers; how often, and by how
much, is evidence against one whose cheaper model wrote the text while the right one supplied the logits.
"""

from __future__ import annotations

import hashlib
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from shared.canonical import encode_canonical
from shared.card_parts import Sequence
from shared.documents import ModelCard, Output, TextOutput
from shared.errors import InferenceFailed, InputMismatch
from shared.reasons import AbstainReason, InvalidReason
from shared.top_logits import TopLogits, normalise, unpack
from shared.types import Address, Digest, Verdict
from shared.verification.decoder import spec_of
from shared.verification.method import Compute, Forward, Judgement, Measurement, Work, abstain
from shared.verification.sampling import Logits
from shared.verification.text import (
    SeededText,
    at,
    misses_of,
    reason_of,
    recomputed_logits,
    sampler_of,
    shortfall_of,
    spread_of,
    text_output,
)
from shared.verification.wealth import Growth, Wealth, growth_of
from shared.verification.zones import INVALID_ABOVE, VALID_UP_TO, judgement_of

# Logits are published as float32, whose own rounding is about this: smaller errors say nothing.
LEAST_ERROR: Final = 1e-5


class Ledger(Protocol):
    """What an attester remembers of a performer's texts."""

    async def add(self, account: bytes, task_id: Digest, text: bytes, growth: Growth, limit: float) -> float:
        """The evidence (nats) on `account` with this text, durable before it returns.

        A task counts once, and is told again what it was told first. A text counts once, whatever its task: asked the
        same again and again, an honest performer repeats its roundings, and luck must not be multiplied. Over `limit`
        the account is told so, and starts anew."""
        ...


class NoLedger:
    """A `Ledger` that remembers nothing: every text is its performer's first."""

    async def add(self, account: bytes, task_id: Digest, text: bytes, growth: Growth, limit: float) -> float:
        return Wealth().after(growth).evidence


class SequentialText:
    """See `Measuring`. The performer's half and the form of the output are those of `text`."""

    def __init__(self, ledger: Ledger | None = None) -> None:
        self._ledger = ledger or NoLedger()
        self._text = SeededText()

    async def prove(self, work: Work, compute: Compute) -> Output:
        return await self._text.prove(work, compute)

    def fault(self, work: Work, output: Output) -> InvalidReason | None:
        return self._text.fault(work, output)

    async def judge(self, work: Work, output: Output, compute: Compute) -> Judgement:
        text = _text_of(output)
        try:
            reference = await recomputed_logits(work, text, compute.reference)
        except (InferenceFailed, InputMismatch):
            return abstain(AbstainReason.REFERENCE_FAILED)
        own = await recomputed_logits(work, text, compute.run)
        misses = await _misses(work, text, reference)
        alone = _measured(work, text, reference, misses)
        if alone.score > VALID_UP_TO:
            return judgement_of(alone, is_refereed=True)
        ratios = log_ratios(_published(work, text), normalise(own), normalise(reference))
        sequence = sequence_of(work.card)
        growth = growth_of(ratios, misses / spec_of(work.card).margin, sequence)
        account, digest = account_of(work.performer, work.card), text_digest(text)
        evidence = await self._ledger.add(account, work.task_id, digest, growth, sequence.limit)
        return Judgement(
            verdict=Verdict.INVALID if evidence > sequence.limit else Verdict.VALID,
            reason=InvalidReason.SEQUENCE_DIFFERS if evidence > sequence.limit else None,
            score=max(alone.score, evidence / sequence.limit),
            statistics={**alone.statistics, "log ratio": float(ratios.mean()), "evidence": evidence},
            recomputed=text_output(spec_of(work.card), text.prompt, text.tokens, own),
            is_refereed=True,
        )

    async def measure(self, work: Work, output: Output, forward: Forward) -> Measurement:
        """Of one text alone: grossly off, or not. Ten times the tolerance is its limit, because in these profiles
        honest errors have long tails; published ids get none of it, for what they hide could not be compared."""
        text = _text_of(output)
        logits = await recomputed_logits(work, text, forward)
        return _measured(work, text, logits, await _misses(work, text, logits))


# --- the statistics ----------------------------------------------------------------------------------
def log_ratios(
    published: TopLogits, own: npt.NDArray[np.float64], reference: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """For each token ln(‖claim - reference‖ / ‖own - reference‖) over its published ids, errors centred. About 0 for
    an honest claim. `own` and `reference` are normalised logits (tokens, vocabulary)."""
    exact = at(published, reference)
    ratios: npt.NDArray[np.float64] = _log_error(published.values - exact) - _log_error(at(published, own) - exact)
    return ratios


def _log_error(errors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    centred = errors - errors.mean(-1, keepdims=True)
    result: npt.NDArray[np.float64] = np.log(np.mean(centred**2, -1) + LEAST_ERROR**2) / 2
    return result


def _measured(work: Work, text: TextOutput, logits: Logits, misses: npt.NDArray[np.float64]) -> Measurement:
    spec, tolerance = spec_of(work.card), work.card.tolerances["logits"].absolute
    published, normalised = _published(work, text), normalise(logits)
    missed = float(misses.max()) / spec.margin
    spread = float(spread_of(published, normalised).max()) / tolerance
    shortfall = float(shortfall_of(published, normalised).max()) / tolerance
    drifted = max(spread / INVALID_ABOVE, shortfall)
    return Measurement(
        score=max(missed / INVALID_ABOVE, drifted),
        reason=reason_of(spec, text, misses, drifted),
        statistics={
            "margin of tokens": missed,
            "distance of logits": max(spread, shortfall),
            "tokens": float(len(misses)),
        },
        recomputed=text_output(spec, text.prompt, text.tokens, logits),
    )


async def _misses(work: Work, text: TextOutput, logits: Logits) -> npt.NDArray[np.float64]:
    spec = spec_of(work.card)
    return await misses_of(sampler_of(spec, work.task_id, work.parameters), logits, text.tokens, spec.margin)


def _published(work: Work, text: TextOutput) -> TopLogits:
    return unpack(text.tops, len(text.tokens), spec_of(work.card).vocab)


# --- who and what is counted -------------------------------------------------------------------------
def account_of(performer: Address, card: ModelCard) -> bytes:
    """One for each performer and card: another calibration is another history."""
    return hashlib.sha256(performer + encode_canonical(card)).digest()


def text_digest(text: TextOutput) -> bytes:
    """The same for the same tokens behind the same prompt."""
    return hashlib.sha256(encode_canonical([text.prompt, text.tokens])).digest()


def sequence_of(card: ModelCard) -> Sequence:
    if card.sequence is None:
        raise TypeError("the card has no sequence, which `check_card` keeps out")
    return card.sequence


def _text_of(output: Output) -> TextOutput:
    if not isinstance(output, TextOutput):
        raise TypeError(f"{type(output).__name__} is no text, which `fault` keeps out")
    return output
