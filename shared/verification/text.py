"""Method `text`: each token is what the seeded sampler picks, checked by one teacher-forced pass over the whole text.

The performer decodes token by token with a key-value cache; the attester feeds prompt and output at once, which costs a
seventh, and asks of each position what the sampler would have picked there. The model is a decoder as `model_card`
describes it.
"""

from __future__ import annotations

import asyncio
import hashlib

import numpy as np

from shared.constants import MAX_TEXT_TOKENS
from shared.documents import InputDocument, ModelCard, Output, Parameters, TextOutput, validate_input
from shared.errors import CodecError, InferenceFailed, InputMismatch
from shared.interfaces import Tensors
from shared.model_card import TextSpec
from shared.reasons import InvalidReason
from shared.tensors import Array, check_arrays, check_finite
from shared.types import Digest
from shared.verification.method import Forward, Judgement, invalid, valid
from shared.verification.sampling import Logits, Sampler


class SeededText:
    """See `Method`."""

    async def prove(
        self, *, task_id: Digest, card: ModelCard, document: InputDocument, parameters: Parameters, run: Forward
    ) -> Output:
        spec = spec_of(card)
        validate_input(card, document, parameters)
        sampler = sampler_of(spec, task_id, parameters)
        prompt = prompt_tokens(spec, document)
        tokens: list[int] = []
        feed, past = prompt, empty_past(card)
        while not tokens or (tokens[-1] != spec.eos and len(tokens) < parameters.max_tokens):
            outputs = await step(card, feed, past, run)
            tokens.append(sampler.pick(last_logits(outputs), len(tokens)))
            feed, past = (tokens[-1],), {"past_keys": outputs["keys"], "past_values": outputs["values"]}
        return TextOutput(prompt=prompt, tokens=tuple(tokens), stop="eos" if tokens[-1] == spec.eos else "length")

    async def verify(
        self,
        *,
        task_id: Digest,
        card: ModelCard,
        document: InputDocument,
        parameters: Parameters,
        output: Output,
        data: bytes,
        run: Forward,
    ) -> Judgement:
        spec = spec_of(card)
        validate_input(card, document, parameters)
        reason = self._fault(card, spec, document, parameters, output, data)
        if reason is not None or not isinstance(output, TextOutput):
            return invalid(reason or InvalidReason.OUTPUT_MALFORMED)
        # The last token is judged and never fed.
        outputs = await step(card, output.prompt + output.tokens[:-1], empty_past(card), run)
        logits = np.asarray(outputs["logits"], np.float32)[0, len(output.prompt) - 1 :]
        score = await _largest_miss(sampler_of(spec, task_id, parameters), logits, output.tokens, spec.margin)
        return valid(score) if score <= 1 else invalid(InvalidReason.TOKENS_DIFFER, score)

    def data_of(self, card: ModelCard, output: Output) -> bytes:
        """SHA-256 of the bytes that the output tokens spell."""
        if not isinstance(output, TextOutput):
            raise TypeError(f"{type(output).__name__} is no text")
        return hashlib.sha256(output.text).digest()

    def _fault(
        self,
        card: ModelCard,
        spec: TextSpec,
        document: InputDocument,
        parameters: Parameters,
        output: Output,
        data: bytes,
    ) -> InvalidReason | None:
        """What is wrong without running the model."""
        if not isinstance(output, TextOutput) or not _is_well_formed(spec, output):
            return InvalidReason.OUTPUT_MALFORMED
        if output.prompt != prompt_tokens(spec, document):
            return InvalidReason.PROMPT_DIFFERS
        if not _stops_rightly(spec, parameters, output):
            return InvalidReason.STOP_RULE
        if data != self.data_of(card, output):
            return InvalidReason.DATA_MISMATCH
        return None


async def _largest_miss(sampler: Sampler, logits: Logits, tokens: tuple[int, ...], margin: float) -> float:
    """In margins. Lets other tasks run between tokens: the noise of a large vocabulary takes milliseconds."""
    largest = 0.0
    for position, token in enumerate(tokens):
        largest = max(largest, sampler.miss(logits[position], position, token, margin) / margin)
        await asyncio.sleep(0)
    return largest


def _is_well_formed(spec: TextSpec, output: TextOutput) -> bool:
    ids = output.prompt + output.tokens
    return len(ids) <= 2 * MAX_TEXT_TOKENS and bool(output.tokens) and all(0 <= token < spec.vocab for token in ids)


def _stops_rightly(spec: TextSpec, parameters: Parameters, output: TextOutput) -> bool:
    """Eos ends the text and only eos may end it early; nothing follows it."""
    tokens = output.tokens
    if len(tokens) > parameters.max_tokens or spec.eos in tokens[:-1]:
        return False
    if tokens[-1] == spec.eos:
        return output.stop == "eos"
    return output.stop == "length" and len(tokens) == parameters.max_tokens


# --- the decoder -----------------------------------------------------------------------------------
def spec_of(card: ModelCard) -> TextSpec:
    """Raises `InputMismatch` for a card of another kind, which `check_card` keeps out."""
    if card.text is None:
        raise InputMismatch("card.text", "a decoder's card", card.kind)
    return card.text


def sampler_of(spec: TextSpec, task_id: Digest, parameters: Parameters) -> Sampler:
    return Sampler(task_id, parameters.temperature, parameters.top_k, banned=spec.bos)


def prompt_tokens(spec: TextSpec, document: InputDocument) -> tuple[int, ...]:
    """Bos, then the bytes of the prompt."""
    return (spec.bos, *(document.prompt or "").encode())


def empty_past(card: ModelCard) -> dict[str, Array]:
    """No keys and values yet, for one text: the free dimensions are batch and time."""
    past = next(spec for spec in card.inputs if spec.name == "past_keys")
    layers, _, heads, _, width = past.shape
    empty = np.zeros((layers, 1, heads, 0, width), np.float32)
    return {"past_keys": empty, "past_values": empty}


async def step(card: ModelCard, tokens: tuple[int, ...], past: Tensors, run: Forward) -> Tensors:
    """One pass over `tokens` after `past`. Raises `InferenceFailed` for logits that no sampler can use."""
    outputs = await run({"ids": np.array([tokens], np.int64), **past})
    try:
        check_arrays(card.outputs, outputs, "outputs")
        check_finite(outputs["logits"])
    except (InputMismatch, CodecError) as error:
        raise InferenceFailed(f"the model's output is not what its card says: {error}") from None
    if outputs["logits"].shape[:2] != (1, len(tokens)):
        raise InferenceFailed(f"logits of shape {outputs['logits'].shape} for {len(tokens)} tokens")
    return outputs


def last_logits(outputs: Tensors) -> Logits:
    logits: Logits = np.asarray(outputs["logits"], np.float32)[0, -1]
    return logits
