"""Method `text`: each token is what the seeded sampler picks, and the published logits are the model's own.

The performer decodes token by token; the attester feeds prompt and output at once, which costs a seventh, and asks two
things of each position. What would the sampler have picked there? That holds the text to the model's numbers, however
they came about: a cheaper model that writes the text and lets the right one supply the logits is caught at the first
token that it gets wrong. And are the eight highest logits those that were published? That catches weights and
arithmetic that did not change the text.
"""

from __future__ import annotations

import asyncio

import numpy as np
import numpy.typing as npt

from shared.constants import MAX_TEXT_TOKENS
from shared.documents import Output, Parameters, TextOutput
from shared.errors import CodecError
from shared.model_card import TextSpec
from shared.reasons import InvalidReason
from shared.top_logits import TopLogits, normalise, pack, top_logits, unpack
from shared.types import Digest
from shared.verification.decoder import Decoding, prompt_tokens, spec_of
from shared.verification.method import Compute, Forward, Judgement, Measurement, Work
from shared.verification.sampling import Logits, Sampler
from shared.verification.zones import decide

Misses = npt.NDArray[np.float64]
LOGITS_AT_ONCE = 1 << 16  # in the sampler's hands: half a megabyte a copy, two milliseconds


class SeededText:
    """See `Measuring`."""

    async def prove(self, work: Work, compute: Compute) -> Output:
        spec, parameters = spec_of(work.card), work.parameters
        sampler, decoding = sampler_of(spec, work.task_id, parameters), Decoding(work.card, compute.run)
        prompt = prompt_tokens(spec, work.document)
        tokens: list[int] = []
        rows: list[Logits] = []
        feed = prompt
        while not tokens or (tokens[-1] != spec.eos and len(tokens) < parameters.max_tokens):
            rows.append((await decoding.feed(feed))[-1])
            tokens.append(sampler.pick(rows[-1], len(tokens)))
            feed = (tokens[-1],)
        return text_output(spec, prompt, tuple(tokens), np.stack(rows))

    def fault(self, work: Work, output: Output) -> InvalidReason | None:
        spec = spec_of(work.card)
        if not isinstance(output, TextOutput) or not _is_well_formed(spec, output):
            return InvalidReason.OUTPUT_MALFORMED
        if output.prompt != prompt_tokens(spec, work.document):
            return InvalidReason.PROMPT_DIFFERS
        return _stop_fault(spec, work.parameters, output)

    async def judge(self, work: Work, output: Output, compute: Compute) -> Judgement:
        return await decide(self, work, output, compute)

    async def measure(self, work: Work, output: Output, forward: Forward) -> Measurement:
        if not isinstance(output, TextOutput):
            raise TypeError(f"{type(output).__name__} is no text, which `fault` keeps out")
        spec = spec_of(work.card)
        logits = await recomputed_logits(work, output, forward)
        sampler = sampler_of(spec, work.task_id, work.parameters)
        misses = await misses_of(sampler, logits, output.tokens, spec.margin)
        normalised = normalise(logits)
        drift = drift_of(unpack(output.tops, len(output.tokens), spec.vocab), normalised)
        missed = float(misses.max()) / spec.margin
        drifted = float(drift.max()) / work.card.tolerances["logits"].absolute
        return Measurement(
            score=max(missed, drifted),
            reason=reason_of(spec, output, misses, drifted),
            statistics={"margin of tokens": missed, "distance of logits": drifted, "tokens": float(len(misses))},
            recomputed=_published(spec, output.prompt, output.tokens, normalised),
        )


# --- the two statistics -----------------------------------------------------------------------------
async def recomputed_logits(work: Work, output: TextOutput, forward: Forward) -> Logits:
    """(tokens, vocabulary): one teacher-forced pass. The last token is judged and never fed."""
    logits = await Decoding(work.card, forward).feed(output.prompt + output.tokens[:-1])
    return logits[len(output.prompt) - 1 :]


async def misses_of(sampler: Sampler, logits: Logits, tokens: tuple[int, ...], margin: float) -> Misses:
    """Logits by which each token misses the sampler's pick. A few rows at once, with other tasks between them: the
    noise of a large vocabulary takes milliseconds."""
    rows = max(1, LOGITS_AT_ONCE // logits.shape[-1])
    parts = []
    for start in range(0, len(tokens), rows):
        parts.append(sampler.misses(logits[start : start + rows], start, tokens[start : start + rows], margin))
        await asyncio.sleep(0)
    return np.concatenate(parts)


def drift_of(published: TopLogits, normalised: npt.NDArray[np.float64]) -> Misses:
    """For each token how far the published logits lie from the recomputed ones: the root mean square over the eight,
    or, where it is more, by how much the least of their ids falls short of being one of the eight highest."""
    drift: Misses = np.maximum(spread_of(published, normalised), shortfall_of(published, normalised))
    return drift


def spread_of(published: TopLogits, normalised: npt.NDArray[np.float64]) -> Misses:
    """For each token the root mean square distance of its published logits."""
    with np.errstate(over="ignore"):
        spread: Misses = np.sqrt(np.mean((published.values.astype(np.float64) - at(published, normalised)) ** 2, -1))
    return spread


def shortfall_of(published: TopLogits, normalised: npt.NDArray[np.float64]) -> Misses:
    """For each token half of what the least of its published ids lacks to the eighth highest logit: each of the two may
    be off by a tolerance."""
    eighth = np.partition(normalised, -published.ids.shape[-1], -1)[:, -published.ids.shape[-1]]
    shortfall: Misses = (eighth - at(published, normalised).min(-1)) / 2
    return shortfall


def at(published: TopLogits, normalised: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The logits (tokens, 8) of the published ids."""
    return np.take_along_axis(normalised, published.ids, -1)


def reason_of(spec: TextSpec, output: TextOutput, misses: Misses, drifted: float) -> InvalidReason:
    """Logits first: under another model's numbers the sampler is not to blame. An end token that was not sampled,
    behind tokens that all were, is a text that was cut."""
    if drifted > 1:
        return InvalidReason.LOGITS_DIFFER
    is_cut = output.tokens[-1] == spec.eos and not (misses[:-1] > spec.margin).any()
    return InvalidReason.STOPPED_EARLY if is_cut else InvalidReason.TOKENS_DIFFER


# --- the form ----------------------------------------------------------------------------------------
def text_output(spec: TextSpec, prompt: tuple[int, ...], tokens: tuple[int, ...], logits: Logits) -> TextOutput:
    """What is published of a text and the logits (tokens, vocabulary) before each of its tokens."""
    return _published(spec, prompt, tokens, normalise(logits))


def _published(
    spec: TextSpec, prompt: tuple[int, ...], tokens: tuple[int, ...], normalised: npt.NDArray[np.float64]
) -> TextOutput:
    return TextOutput(
        encoding=spec.tokens,
        prompt=prompt,
        tokens=tokens,
        stop="eos" if tokens[-1] == spec.eos else "length",
        tops=pack(top_logits(normalised), spec.vocab),
    )


def sampler_of(spec: TextSpec, task_id: Digest, parameters: Parameters) -> Sampler:
    return Sampler(task_id, parameters.temperature, parameters.top_k, banned=spec.bos)


def _is_well_formed(spec: TextSpec, output: TextOutput) -> bool:
    ids = output.prompt + output.tokens
    if output.encoding != spec.tokens or not output.tokens or len(ids) > 2 * MAX_TEXT_TOKENS:
        return False
    try:
        unpack(output.tops, len(output.tokens), spec.vocab)
    except CodecError:
        return False
    return all(0 <= token < spec.vocab for token in ids)


def _stop_fault(spec: TextSpec, parameters: Parameters, output: TextOutput) -> InvalidReason | None:
    """Eos ends the text and only eos may end it early; nothing follows it."""
    tokens = output.tokens
    if len(tokens) > parameters.max_tokens or spec.eos in tokens[:-1]:
        return InvalidReason.PADDED
    if tokens[-1] != spec.eos and len(tokens) < parameters.max_tokens:
        return InvalidReason.STOPPED_EARLY
    return None if (output.stop == "eos") == (tokens[-1] == spec.eos) else InvalidReason.STOP_RULE
