"""Method `text` on the real decoder: the honest path, and each kind of liar with what catches it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.documents import ClassifyOutput, InputDocument, Parameters, TextOutput
from shared.errors import InferenceFailed, InputMismatch
from shared.interfaces import Tensors
from shared.reasons import InvalidReason
from shared.tensors import Tensor
from shared.types import Digest, Verdict
from shared.verification import METHODS
from tests.cards import make_card, make_text_card
from tests.inference_support import MODELS, OTHER_TASK, TASK, card_of, giving, never_run, prove, runner_of, verify

CARD = card_of("text")
HONEST = runner_of("text").forward
PROMPT = InputDocument(prompt="And the king said")
SAMPLED = Parameters(max_tokens=48, temperature=0.8, top_k=40)
GREEDY = Parameters(max_tokens=48)
BOS, EOS = 256, 257


async def write(
    parameters: Parameters = SAMPLED, document: InputDocument = PROMPT, task_id: Digest = TASK
) -> TextOutput:
    output = await prove(CARD, document, HONEST, parameters, task_id)
    assert isinstance(output, TextOutput)
    return output


async def reason_for(
    output: TextOutput, parameters: Parameters = SAMPLED, document: InputDocument = PROMPT
) -> InvalidReason | None:
    """Why an honest attester calls it invalid; None when it calls it valid."""
    judgement = await verify(CARD, document, output, HONEST, parameters)
    assert (judgement.verdict is Verdict.VALID) == (judgement.reason is None)
    assert judgement.verdict is not Verdict.ABSTAIN
    return judgement.reason if isinstance(judgement.reason, InvalidReason) else None


def with_token(output: TextOutput, at: int, token: int) -> TextOutput:
    return msgspec.structs.replace(output, tokens=(*output.tokens[:at], token, *output.tokens[at + 1 :]))


# --- the honest path -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "parameters",
    [GREEDY, SAMPLED, Parameters(max_tokens=1), Parameters(max_tokens=192, temperature=1.0)],
    ids=["greedy", "sampled", "one token", "long"],
)
@pytest.mark.parametrize("prompt", ["", "In the beginning", "été ☃ 漢字", "x" * 50])
async def test_an_honest_text_is_valid(prompt: str, parameters: Parameters) -> None:
    document = InputDocument(prompt=prompt)
    output = await write(parameters, document)
    assert output.prompt == (BOS, *prompt.encode())
    judgement = await verify(CARD, document, output, HONEST, parameters)
    assert (judgement.verdict, judgement.reason) == (Verdict.VALID, None)
    assert judgement.score <= 0.5


async def test_decoding_and_another_configuration_agree_on_every_sample_prompt() -> None:
    """The performer decodes with the cache, the attester runs once over all, without optimisations, on two threads."""

    async def run(inputs: Tensors) -> Tensors:
        return runner_of("text").run(inputs, 2, "DISABLE_ALL")

    for prompt in json.loads((MODELS / "text" / "prompts.json").read_text()):
        document = InputDocument(prompt=prompt)
        output = await write(SAMPLED, document)
        judgement = await verify(CARD, document, output, run, SAMPLED)
        assert judgement.verdict is Verdict.VALID
        assert judgement.score <= 0.5


async def test_greedy_text_does_not_depend_on_the_task_and_sampled_text_does() -> None:
    assert await write(GREEDY) == await write(GREEDY, task_id=OTHER_TASK)
    assert await write(SAMPLED) != await write(SAMPLED, task_id=OTHER_TASK)


async def test_a_text_ends_at_its_end_or_at_the_limit() -> None:
    outputs = [
        await write(Parameters(max_tokens=192, temperature=0.8), task_id=Digest(bytes([i]) * 32)) for i in range(5)
    ]
    assert {output.stop for output in outputs} == {"eos", "length"}
    for output in outputs:
        assert (output.tokens[-1] == EOS) == (output.stop == "eos")
        assert len(output.tokens) == 192 or output.stop == "eos"


async def test_data_is_the_hash_of_the_text() -> None:
    output = await write()
    spelled = bytes(token for token in output.tokens if token < 256)
    assert spelled == output.text
    assert METHODS["text"].data_of(CARD, output) == hashlib.sha256(spelled).digest()
    assert spelled.isascii()


async def test_the_attester_runs_the_model_once() -> None:
    runs: list[tuple[int, ...]] = []

    async def run(inputs: Tensors) -> Tensors:
        runs.append(np.asarray(inputs["ids"]).shape)
        return await HONEST(inputs)

    output = await write()
    await verify(CARD, PROMPT, output, run, SAMPLED)
    assert runs == [(1, len(output.prompt) + len(output.tokens) - 1)]


# --- liars: the tokens -----------------------------------------------------------------------------
@pytest.mark.parametrize("at", [0, 1, 20, 47])
@pytest.mark.parametrize("parameters", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
async def test_a_substituted_token(parameters: Parameters, at: int) -> None:
    output = await write(parameters)
    for other in (ord("Q"), (output.tokens[at] + 1) % 256, BOS):
        assert await reason_for(with_token(output, at, other), parameters) is InvalidReason.TOKENS_DIFFER


async def test_every_other_token_is_caught_at_three_positions() -> None:
    output = await write()
    for at in (0, 17, 47):
        spared = {token for token in range(32, 123) if await reason_for(with_token(output, at, token)) is None}
        assert spared == {output.tokens[at]}


async def test_a_dropped_token() -> None:
    output = await write()
    shorter = msgspec.structs.replace(output, tokens=output.tokens[:20] + output.tokens[21:])
    assert await reason_for(shorter) is InvalidReason.STOP_RULE
    filled = msgspec.structs.replace(output, tokens=(*shorter.tokens, ord("e")))
    assert await reason_for(filled) is InvalidReason.TOKENS_DIFFER


async def test_an_appended_token() -> None:
    output = await write()
    longer = msgspec.structs.replace(output, tokens=(*output.tokens, ord(" ")))
    assert await reason_for(longer) is InvalidReason.STOP_RULE


async def test_swapped_tokens() -> None:
    output = await write()
    at = next(i for i in range(20, 40) if output.tokens[i] != output.tokens[i + 1])
    swapped = with_token(with_token(output, at, output.tokens[at + 1]), at + 1, output.tokens[at])
    assert await reason_for(swapped) is InvalidReason.TOKENS_DIFFER


async def test_text_written_by_somebody_else() -> None:
    output = await write()
    lie = msgspec.structs.replace(output, tokens=tuple(b"I am a fine answer that no model had to compute."))
    assert await reason_for(lie) is InvalidReason.TOKENS_DIFFER


# --- liars: the end --------------------------------------------------------------------------------
async def test_an_early_stop() -> None:
    output = await write()
    cut = msgspec.structs.replace(output, tokens=output.tokens[:10])
    assert await reason_for(cut) is InvalidReason.STOP_RULE
    ended = msgspec.structs.replace(output, tokens=(*output.tokens[:10], EOS), stop="eos")
    assert await reason_for(ended) is InvalidReason.TOKENS_DIFFER


async def ended_text() -> tuple[TextOutput, Parameters]:
    """One that ends by eos, and the parameters it was written under."""
    for tenths in range(5, 16):
        parameters = Parameters(max_tokens=192, temperature=tenths / 10)
        output = await write(parameters)
        if output.stop == "eos":
            return output, parameters
    raise AssertionError("no text ends: choose another prompt")


async def test_going_on_after_the_end() -> None:
    output, parameters = await ended_text()
    beyond = msgspec.structs.replace(output, tokens=(*output.tokens, *b" And"))
    assert await reason_for(beyond, parameters) is InvalidReason.STOP_RULE
    filler = (ord(" "),) * (193 - len(output.tokens))
    over_the_end = msgspec.structs.replace(output, tokens=output.tokens[:-1] + filler, stop="length")
    assert await reason_for(over_the_end, parameters) is InvalidReason.TOKENS_DIFFER


async def test_a_stop_that_is_not_what_it_says() -> None:
    ended, parameters = await ended_text()
    assert await reason_for(ended, parameters) is None
    assert await reason_for(msgspec.structs.replace(ended, stop="length"), parameters) is InvalidReason.STOP_RULE
    assert await reason_for(msgspec.structs.replace(await write(), stop="eos")) is InvalidReason.STOP_RULE


async def test_no_token_at_all() -> None:
    lie = msgspec.structs.replace(await write(), tokens=())
    assert await reason_for(lie) is InvalidReason.OUTPUT_MALFORMED


# --- liars: the terms ------------------------------------------------------------------------------
async def test_another_seed() -> None:
    assert await reason_for(await write(task_id=OTHER_TASK)) is InvalidReason.TOKENS_DIFFER


@pytest.mark.parametrize(
    "parameters",
    [
        Parameters(max_tokens=48, temperature=0.4, top_k=40),
        Parameters(max_tokens=48, temperature=1.2, top_k=40),
        Parameters(max_tokens=48, temperature=0.0, top_k=40),
        Parameters(max_tokens=48, temperature=0.8, top_k=1),
    ],
)
async def test_other_parameters(parameters: Parameters) -> None:
    assert await reason_for(await write(parameters)) is InvalidReason.TOKENS_DIFFER


@pytest.mark.parametrize("count", [47, 49])
async def test_another_number_of_tokens(count: int) -> None:
    lie = await write(msgspec.structs.replace(SAMPLED, max_tokens=count))
    assert await reason_for(lie) is InvalidReason.STOP_RULE


@pytest.mark.parametrize("prompt", ["And the king said ", "And the King said", "nd the king said", ""])
async def test_another_prompt(prompt: str) -> None:
    lie = await write(document=InputDocument(prompt=prompt))
    assert await reason_for(lie) is InvalidReason.PROMPT_DIFFERS
    relabelled = msgspec.structs.replace(lie, prompt=(BOS, *b"And the king said"))
    assert await reason_for(relabelled) is InvalidReason.TOKENS_DIFFER


@pytest.mark.parametrize(
    "change", [lambda p: p[1:], lambda p: (p[0], *p), lambda p: (EOS, *p[1:]), lambda p: (), lambda p: (*p, EOS)]
)
async def test_prompt_tokens_that_are_not_the_prompts(
    change: Callable[[tuple[int, ...]], tuple[int, ...]],
) -> None:
    output = await write()
    lie = msgspec.structs.replace(output, prompt=change(output.prompt))
    assert await reason_for(lie) is InvalidReason.PROMPT_DIFFERS


@pytest.mark.parametrize("data", [b"", bytes(32), hashlib.sha256(b"a fine answer").digest()])
async def test_data_that_does_not_follow(data: bytes) -> None:
    judgement = await verify(CARD, PROMPT, await write(), never_run, SAMPLED, data=data)
    assert (judgement.verdict, judgement.reason) == (Verdict.INVALID, InvalidReason.DATA_MISMATCH)


# --- liars: the model ------------------------------------------------------------------------------
@pytest.mark.parametrize("change", ["fp16 weights", "int8 weights", "1 % pruned"])
async def test_the_same_model_made_cheaper(change: str) -> None:
    """Caught whenever the text differs from the honest one, and never otherwise: what is sold is the text."""
    differing = 0
    for prompt in json.loads((MODELS / "text" / "prompts.json").read_text())[:8]:
        document = InputDocument(prompt=prompt)
        lie = await prove(CARD, document, runner_of("text", change).forward, SAMPLED)
        assert isinstance(lie, TextOutput)
        differs = lie != await write(SAMPLED, document)
        differing += differs
        expected = InvalidReason.TOKENS_DIFFER if differs else None
        assert await reason_for(lie, SAMPLED, document) is expected
    assert differing >= 2 or change != "int8 weights"


# --- malformed -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "tokens", [(258,), (1 << 19,), (-1,), (257,) * 300, tuple(range(600))], ids=["vocab", "large", "-1", "long", "far"]
)
async def test_token_ids_that_there_are_not(tokens: tuple[int, ...]) -> None:
    lie = msgspec.structs.replace(await write(), tokens=tokens)
    judgement = await verify(CARD, PROMPT, lie, never_run, SAMPLED, data=b"")
    assert judgement.verdict is Verdict.INVALID
    assert judgement.reason in (InvalidReason.OUTPUT_MALFORMED, InvalidReason.STOP_RULE)
    assert (judgement.reason is InvalidReason.STOP_RULE) == (tokens == (257,) * 300)


async def test_an_output_of_another_kind() -> None:
    lie = ClassifyOutput(scores=Tensor("float32", (1, 2), bytes(8)), label=0)
    judgement = await verify(CARD, PROMPT, lie, never_run, SAMPLED, data=b"")
    assert (judgement.verdict, judgement.reason) == (Verdict.INVALID, InvalidReason.OUTPUT_MALFORMED)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.integers(0, 257), max_size=20),
    st.lists(st.integers(0, 257), max_size=60),
    st.sampled_from(["eos", "length"]),
)
async def test_no_made_up_text_is_valid_and_none_breaks_the_attester(
    prompt: list[int], tokens: list[int], stop: str
) -> None:
    lie = TextOutput(prompt=tuple(prompt), tokens=tuple(tokens), stop=stop)  # type: ignore[arg-type]
    assert await reason_for(lie) is not None
    with_prompt = msgspec.structs.replace(lie, prompt=(BOS, *b"And the king said"))
    assert await reason_for(with_prompt) is not None


# --- nobody's lie ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("document", "parameters", "field"),
    [
        (InputDocument(tensors={"x": np.zeros(1)}), SAMPLED, "prompt"),
        (InputDocument(prompt="x" * 208), SAMPLED, "prompt"),
        (InputDocument(prompt="☃" * 70), SAMPLED, "prompt"),
    ],
)
async def test_a_document_that_does_not_fit_is_the_requesters_trouble(
    document: InputDocument, parameters: Parameters, field: str
) -> None:
    output = await write()
    for attempt in (
        prove(CARD, document, never_run, parameters),
        verify(CARD, document, output, never_run, parameters),
    ):
        with pytest.raises(InputMismatch) as caught:
            await attempt
        assert caught.value.field == field


async def test_the_longest_prompt_that_fits() -> None:
    document = InputDocument(prompt="x" * 207)
    assert await reason_for(await write(SAMPLED, document), SAMPLED, document) is None


LOGITS = np.zeros((1, 1, 258), np.float32)
PAST = np.zeros((1, 1, 1, 1, 2), np.float32)


@pytest.mark.parametrize(
    "outputs",
    [
        {"logits": np.full_like(LOGITS, np.nan), "keys": PAST, "values": PAST},
        {"logits": LOGITS[:, :0], "keys": PAST, "values": PAST},
        {"logits": LOGITS[:, :, :100], "keys": PAST, "values": PAST},
        {"logits": LOGITS.astype(np.float64), "keys": PAST, "values": PAST},
        {"logits": LOGITS, "keys": PAST},
    ],
    ids=["NaN", "time", "vocab", "dtype", "missing"],
)
async def test_a_model_that_is_not_what_its_card_says_is_nobodys_offence(outputs: Tensors) -> None:
    card, document, parameters = make_text_card(), InputDocument(prompt=""), Parameters(max_tokens=1)
    claim = TextOutput(prompt=(BOS,), tokens=(0,), stop="length")
    for attempt in (
        prove(card, document, giving(outputs), parameters),
        verify(card, document, claim, giving(outputs), parameters),
    ):
        with pytest.raises(InferenceFailed):
            await attempt


async def test_an_engine_that_fails_is_the_attesters_trouble() -> None:
    async def run(inputs: Tensors) -> Tensors:
        raise InferenceFailed("no memory")

    for attempt in (prove(CARD, PROMPT, run, SAMPLED), verify(CARD, PROMPT, await write(), run, SAMPLED)):
        with pytest.raises(InferenceFailed, match="no memory"):
            await attempt


async def test_a_card_of_another_kind_has_no_text() -> None:
    with pytest.raises(InputMismatch):
        await METHODS["text"].prove(task_id=TASK, card=make_card(), document=PROMPT, parameters=SAMPLED, run=never_run)


def test_data_of_another_kind_is_a_bug_of_the_caller() -> None:
    with pytest.raises(TypeError):
        METHODS["text"].data_of(CARD, ClassifyOutput(scores=Tensor("float32", (1, 2), bytes(8)), label=0))
