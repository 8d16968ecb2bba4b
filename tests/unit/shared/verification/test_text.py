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

from shared.adapters.onnx_runner import Setting
from shared.canonical import encode_canonical
from shared.card_parts import TextSpec
from shared.documents import ClassifyOutput, InputDocument, Parameters, TextOutput, data_of
from shared.errors import InferenceFailed, InputMismatch
from shared.interfaces import Tensors
from shared.reasons import InvalidReason
from shared.tensors import Tensor, TensorSpec
from shared.top_logits import TopLogits, normalise, pack, top_logits, unpack
from shared.types import Digest, Verdict
from shared.verification.method import Compute, Work
from shared.verification.sampling import Logits
from shared.verification.text import SeededText, drift_of, recomputed_logits
from tests.cards import make_card, make_text_card
from tests.inference_support import (
    MODELS,
    OTHER_TASK,
    PERFORMER,
    TASK,
    card_of,
    giving,
    measure,
    never_run,
    prove,
    reference_of,
    runner_of,
    verify,
)

CARD = card_of("text")
TOLERANCE = CARD.tolerances["logits"].absolute
HONEST = runner_of("text").forward
PROMPT = InputDocument(prompt="And the king said")
SAMPLED = Parameters(max_tokens=48, temperature=0.8, top_k=40)
GREEDY = Parameters(max_tokens=48)
BOS, EOS = 256, 257


WRITTEN: dict[bytes, TextOutput] = {}  # a text takes a twentieth of a second, and most tests want the same one


async def write(
    parameters: Parameters = SAMPLED, document: InputDocument = PROMPT, task_id: Digest = TASK
) -> TextOutput:
    key = encode_canonical([parameters, document.prompt, task_id])
    if key not in WRITTEN:
        output = await prove(CARD, document, HONEST, parameters, task_id)
        assert isinstance(output, TextOutput)
        WRITTEN[key] = output
    return WRITTEN[key]


async def reason_for(
    output: TextOutput, parameters: Parameters = SAMPLED, document: InputDocument = PROMPT
) -> InvalidReason | None:
    """Why an honest attester calls it invalid; None when it calls it valid."""
    judgement = await verify(CARD, document, output, HONEST, parameters)
    assert (judgement.verdict is Verdict.VALID) == (judgement.reason is None)
    assert judgement.verdict is not Verdict.ABSTAIN
    return judgement.reason if isinstance(judgement.reason, InvalidReason) else None


def dummy_tops(tokens: int) -> bytes:
    """Well-formed logits of no model."""
    return pack(TopLogits(np.tile(np.arange(8), (tokens, 1)), np.zeros((tokens, 8), np.float32)), 258)


async def spoofed(
    output: TextOutput, tokens: tuple[int, ...], parameters: Parameters = SAMPLED, document: InputDocument = PROMPT
) -> TextOutput:
    """The strongest forger: whoever wrote `tokens`, their logits are the right model's own, from one prefill."""
    claim = msgspec.structs.replace(output, tokens=tokens, tops=dummy_tops(len(tokens)))
    measured = await measure(CARD, document, claim, HONEST, parameters)
    assert isinstance(measured.recomputed, TextOutput)
    assert measured.recomputed.tokens == tokens
    return measured.recomputed


def with_token(output: TextOutput, at: int, token: int) -> tuple[int, ...]:
    return (*output.tokens[:at], token, *output.tokens[at + 1 :])


def with_tops(output: TextOutput, change: Callable[[TopLogits], None]) -> TextOutput:
    """The published logits changed in place."""
    tops = unpack(output.tops, len(output.tokens), 258)
    moved = TopLogits(tops.ids.copy(), tops.values.copy())
    change(moved)
    return msgspec.structs.replace(output, tops=pack(moved, 258))


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
        return runner_of("text").run(inputs, Setting(2, "off"))

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
    assert data_of(output) == hashlib.sha256(spelled).digest()
    assert spelled.isascii()


async def test_the_published_logits_take_48_bytes_a_token_and_are_the_models_own() -> None:
    output = await write()
    assert len(output.tops) == 48 * len(output.tokens)
    assert await spoofed(output, output.tokens) != output  # a prefill rounds otherwise than decoding does
    measured = await measure(CARD, PROMPT, output, HONEST, SAMPLED)
    assert measured.statistics["tokens"] == len(output.tokens)
    assert 0 <= measured.statistics["margin of tokens"] <= measured.score
    assert 0 < measured.statistics["distance of logits"] == measured.score <= 0.5


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
        forged = await spoofed(output, with_token(output, at, other), parameters)
        assert await reason_for(forged, parameters) is InvalidReason.TOKENS_DIFFER


@pytest.mark.parametrize("at", [0, 20, 46])
async def test_a_substituted_token_under_the_old_logits(at: int) -> None:
    """The logits behind it are those of another text."""
    output = await write()
    forged = msgspec.structs.replace(output, tokens=with_token(output, at, ord("Q")))
    assert await reason_for(forged) is InvalidReason.LOGITS_DIFFER


async def test_every_other_token_is_caught_at_three_positions() -> None:
    output = await write()
    for at in (0, 17, 47):
        forged = {token: await spoofed(output, with_token(output, at, token)) for token in range(32, 123)}
        spared = {token for token, lie in forged.items() if await reason_for(lie) is None}
        assert spared == {output.tokens[at]}


async def test_a_dropped_token() -> None:
    output = await write()
    shorter = await spoofed(output, output.tokens[:20] + output.tokens[21:])
    assert await reason_for(shorter) is InvalidReason.STOPPED_EARLY
    filled = await spoofed(output, (*shorter.tokens, ord("e")))
    assert await reason_for(filled) is InvalidReason.TOKENS_DIFFER


async def test_an_appended_token() -> None:
    output = await write()
    longer = await spoofed(output, (*output.tokens, ord(" ")))
    assert await reason_for(longer) is InvalidReason.PADDED


async def test_swapped_tokens() -> None:
    output = await write()
    at = next(i for i in range(20, 40) if output.tokens[i] != output.tokens[i + 1])
    tokens = (*output.tokens[:at], output.tokens[at + 1], output.tokens[at], *output.tokens[at + 2 :])
    assert await reason_for(await spoofed(output, tokens)) is InvalidReason.TOKENS_DIFFER


async def test_text_written_by_somebody_else() -> None:
    output = await write()
    lie = await spoofed(output, tuple(b"I am a fine answer that no model had to compute."))
    assert await reason_for(lie) is InvalidReason.TOKENS_DIFFER
    unbacked = msgspec.structs.replace(lie, tops=dummy_tops(len(lie.tokens)))
    assert await reason_for(unbacked) is InvalidReason.LOGITS_DIFFER


# --- liars: the end --------------------------------------------------------------------------------
async def test_an_early_stop() -> None:
    output = await write()
    cut = await spoofed(output, output.tokens[:10])
    assert await reason_for(cut) is InvalidReason.STOPPED_EARLY
    ended = await spoofed(output, (*output.tokens[:10], EOS))
    assert ended.stop == "eos"
    assert await reason_for(ended) is InvalidReason.STOPPED_EARLY
    edited = await spoofed(output, (*with_token(output, 3, ord("Q"))[:10], EOS))
    assert await reason_for(edited) is InvalidReason.TOKENS_DIFFER


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
    beyond = await spoofed(output, (*output.tokens, *b" And"), parameters)
    assert await reason_for(beyond, parameters) is InvalidReason.PADDED
    filler = (ord(" "),) * (193 - len(output.tokens))
    over_the_end = await spoofed(output, output.tokens[:-1] + filler, parameters)
    assert over_the_end.stop == "length"
    assert await reason_for(over_the_end, parameters) is InvalidReason.TOKENS_DIFFER


async def test_a_stop_that_is_not_what_it_says() -> None:
    ended, parameters = await ended_text()
    assert await reason_for(ended, parameters) is None
    assert await reason_for(msgspec.structs.replace(ended, stop="length"), parameters) is InvalidReason.STOP_RULE
    assert await reason_for(msgspec.structs.replace(await write(), stop="eos")) is InvalidReason.STOP_RULE


async def test_no_token_at_all() -> None:
    lie = msgspec.structs.replace(await write(), tokens=(), tops=b"")
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


@pytest.mark.parametrize(("count", "reason"), [(47, InvalidReason.STOPPED_EARLY), (49, InvalidReason.PADDED)])
async def test_another_number_of_tokens(count: int, reason: InvalidReason) -> None:
    lie = await write(msgspec.structs.replace(SAMPLED, max_tokens=count))
    assert await reason_for(lie) is reason


@pytest.mark.parametrize("prompt", ["And the king said ", "And the King said", "nd the king said", ""])
async def test_another_prompt(prompt: str) -> None:
    lie = await write(document=InputDocument(prompt=prompt))
    assert await reason_for(lie) is InvalidReason.PROMPT_DIFFERS
    relabelled = msgspec.structs.replace(lie, prompt=(BOS, *b"And the king said"))
    assert await reason_for(relabelled) is InvalidReason.LOGITS_DIFFER
    assert await reason_for(await spoofed(relabelled, lie.tokens)) is InvalidReason.TOKENS_DIFFER


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
@pytest.mark.parametrize("change", ["fp16 weights", "bf16 weights", "int8 weights", "1 % pruned", "layer skipped"])
async def test_the_same_model_made_cheaper(change: str) -> None:
    """By the logits that it publishes, whatever its text; under the right model's logits exactly when that differs."""
    for prompt in json.loads((MODELS / "text" / "prompts.json").read_text())[:8]:
        document = InputDocument(prompt=prompt)
        lie = await prove(CARD, document, runner_of("text", change).forward, SAMPLED)
        assert isinstance(lie, TextOutput)
        assert await reason_for(lie, SAMPLED, document) is InvalidReason.LOGITS_DIFFER
        covered = await spoofed(lie, lie.tokens, SAMPLED, document)
        differs = lie.tokens != (await write(SAMPLED, document)).tokens
        assert await reason_for(covered, SAMPLED, document) is (InvalidReason.TOKENS_DIFFER if differs else None)


# --- the published logits ------------------------------------------------------------------------------
@pytest.mark.parametrize("at", [0, 20, 47])
@pytest.mark.parametrize("tolerances", [12.0, 1e4])
async def test_logits_moved_by_more_than_ten_tolerances(at: int, tolerances: float) -> None:
    def move(tops: TopLogits) -> None:
        tops.values[at] += tolerances * TOLERANCE

    lie = with_tops(await write(), move)
    judged = await verify(CARD, PROMPT, lie, HONEST, SAMPLED, reference=never_run)
    assert (judged.verdict, judged.reason) == (Verdict.INVALID, InvalidReason.LOGITS_DIFFER)
    assert judged.score == pytest.approx(tolerances, abs=1)


@pytest.mark.parametrize("at", [0, 20, 47])
async def test_logits_moved_by_three_tolerances_go_to_the_reference(at: int) -> None:
    def move(tops: TopLogits) -> None:
        tops.values[at] += 3 * TOLERANCE

    lie = with_tops(await write(), move)
    judged = await verify(CARD, PROMPT, lie, HONEST, SAMPLED, reference=reference_of("text").forward)
    assert (judged.verdict, judged.reason) == (Verdict.INVALID, InvalidReason.LOGITS_DIFFER)
    assert judged.is_refereed
    assert judged.score == pytest.approx(3, abs=0.5)


async def test_an_attester_that_is_off_finds_an_honest_text_valid_by_the_reference() -> None:
    """Its own rounding is what it sees; the reference takes that out."""

    async def off(inputs: Tensors) -> Tensors:
        outputs = dict(await HONEST(inputs))
        tilt = np.linspace(-1, 1, 258, dtype=np.float32) * np.float32(8 * TOLERANCE)
        return {**outputs, "logits": outputs["logits"] + tilt}

    honest = await write()
    judged = await verify(CARD, PROMPT, honest, off, SAMPLED, reference=reference_of("text").forward)
    assert (judged.verdict, judged.is_refereed) == (Verdict.VALID, True)
    assert judged.score <= 0.5


async def test_the_reference_finds_every_sample_valid() -> None:
    for prompt in json.loads((MODELS / "text" / "prompts.json").read_text())[:4]:
        document = InputDocument(prompt=prompt)
        measured = await measure(CARD, document, await write(SAMPLED, document), reference_of("text").forward, SAMPLED)
        assert measured.score <= 0.5


async def test_right_logits_of_other_tokens_are_not_the_highest() -> None:
    """A forger who leaves one of the eight out, and publishes the true logit of a lower one instead."""
    output = await write()
    logits = normalise((await recomputed(output))[:1])

    def leave_out(tops: TopLogits) -> None:
        ninth = int(np.argsort(-logits[0], kind="stable")[8])
        tops.ids[0, 3], tops.values[0, 3] = ninth, logits[0, ninth]

    assert await reason_for(with_tops(output, leave_out)) is InvalidReason.LOGITS_DIFFER


async def recomputed(output: TextOutput) -> Logits:
    return await recomputed_logits(Work(TASK, PERFORMER, CARD, PROMPT, SAMPLED), output, HONEST)


@pytest.mark.parametrize("tops", [b"", bytes(47 * 48), bytes(49 * 48), bytes(48 * 48), b"\xff" * 48 * 48])
async def test_logits_that_are_none(tops: bytes) -> None:
    """Cut, padded, one id eight times, and ids outside the vocabulary with NaN."""
    lie = msgspec.structs.replace(await write(), tops=tops)
    judged = await verify(CARD, PROMPT, lie, never_run, SAMPLED)
    assert (judged.verdict, judged.reason) == (Verdict.INVALID, InvalidReason.OUTPUT_MALFORMED)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 48 * 48 - 1), st.integers(1, 255))
async def test_a_flipped_byte_of_the_logits_is_noticed_or_within_the_tolerance(at: int, flip: int) -> None:
    output = await write()
    data = bytearray(output.tops)
    data[at] ^= flip
    lie = msgspec.structs.replace(output, tops=bytes(data))
    judged = await verify(CARD, PROMPT, lie, HONEST, SAMPLED, reference=reference_of("text").forward)
    if judged.verdict is Verdict.VALID:
        before, after = (unpack(each.tops, len(output.tokens), 258) for each in (output, lie))
        assert np.array_equal(before.ids, after.ids)
        assert np.abs(before.values - after.values).max() < 4 * TOLERANCE  # √8 tolerances on one of eight, and noise
    else:
        assert judged.reason in (InvalidReason.OUTPUT_MALFORMED, InvalidReason.LOGITS_DIFFER)


@pytest.mark.parametrize("scale", [0.5, 1.5])
async def test_drift_is_the_root_mean_square_of_a_position(scale: float) -> None:
    normalised = normalise(np.linspace(0, -12, 3 * 20, dtype=np.float32).reshape(3, 20))
    tops = top_logits(normalised)
    moved = TopLogits(tops.ids, tops.values + np.float32(scale) * np.array([[0], [1], [2]], np.float32))
    np.testing.assert_allclose(drift_of(moved, normalised), [0, scale, 2 * scale], atol=1e-6)


# --- malformed -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "tokens", [(258,), (1 << 19,), (-1,), (257,) * 300, tuple(range(600))], ids=["vocab", "large", "-1", "long", "far"]
)
async def test_token_ids_that_there_are_not(tokens: tuple[int, ...]) -> None:
    lie = msgspec.structs.replace(await write(), tokens=tokens, tops=dummy_tops(len(tokens)))
    judgement = await verify(CARD, PROMPT, lie, never_run, SAMPLED, data=b"")
    assert judgement.verdict is Verdict.INVALID
    assert judgement.reason is (InvalidReason.PADDED if tokens == (EOS,) * 300 else InvalidReason.OUTPUT_MALFORMED)


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
    lie = TextOutput(
        encoding="bytes",
        prompt=tuple(prompt),
        tokens=tuple(tokens),
        stop=stop,  # type: ignore[arg-type]
        tops=dummy_tops(len(tokens)),
    )
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
    with pytest.raises(InputMismatch) as caught:
        await verify(CARD, document, output, never_run, parameters)
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
        {"logits": LOGITS.astype(np.int64), "keys": PAST, "values": PAST},
        {"logits": LOGITS, "keys": PAST},
    ],
    ids=["NaN", "time", "vocab", "dtype", "missing"],
)
async def test_a_model_that_is_not_what_its_card_says_is_nobodys_offence(outputs: Tensors) -> None:
    card, document, parameters = make_text_card(), InputDocument(prompt=""), Parameters(max_tokens=1)
    claim = TextOutput(encoding="bytes", prompt=(BOS,), tokens=(0,), stop="length", tops=dummy_tops(1))
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
        await SeededText().prove(Work(TASK, PERFORMER, make_card(), PROMPT, SAMPLED), Compute(never_run, never_run))


async def test_an_output_of_another_kind_is_not_measured() -> None:
    lie = ClassifyOutput(scores=Tensor("float32", (1, 2), bytes(8)), label=0)
    with pytest.raises(TypeError, match="which `fault` keeps out"):
        await measure(CARD, PROMPT, lie, never_run, SAMPLED)


# --- tokens that a requester's tokenizer made, and a decoder without a cache -------------------------------
IDS_CARD = msgspec.structs.replace(
    make_text_card(vocab=20, context=12, max_tokens=4),
    inputs=(TensorSpec("ids", "int64", (-1, -1)),),
    outputs=(TensorSpec("logits", "float32", (-1, -1, 20)),),
    text=TextSpec(
        tokens="ids",
        vocab=20,
        bos=18,
        eos=19,
        context=12,
        max_tokens=4,
        margin=1e-4,
        sampler="gumbel-philox-1",
        seed="requester",
    ),
)
IDS = InputDocument(tensors={"ids": np.array([[3, 1, 4]], np.int64)})
FOUR = Parameters(max_tokens=4, temperature=0.8)


class Served:
    """A decoder that is given the whole text every time, and remembers what it was given."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    async def forward(self, inputs: Tensors) -> Tensors:
        assert set(inputs) == {"ids"}
        ids = np.asarray(inputs["ids"], np.int64)
        self.seen.append(tuple(int(token) for token in ids[0]))
        sums = np.cumsum(ids, 1)[..., None]
        return {"logits": np.sin(sums * (1 + np.arange(20))).astype(np.float32)}


async def test_a_decoder_without_a_cache_is_given_the_whole_text() -> None:
    served = Served()
    output = await prove(IDS_CARD, IDS, served.forward, FOUR)
    assert isinstance(output, TextOutput)
    assert (output.encoding, output.prompt, len(output.tokens)) == ("ids", (3, 1, 4), 4)
    assert served.seen == [(3, 1, 4, *output.tokens[:count]) for count in range(4)]
    assert (await verify(IDS_CARD, IDS, output, served.forward, FOUR)).verdict is Verdict.VALID
    assert served.seen[-1] == (3, 1, 4, *output.tokens[:3])
    assert output.text == b"".join(token.to_bytes(4, "big") for token in output.tokens)


async def test_an_encoding_that_is_not_the_cards() -> None:
    served = Served()
    output = await prove(IDS_CARD, IDS, served.forward, FOUR)
    lie = msgspec.structs.replace(output, encoding="bytes")
    judged = await verify(IDS_CARD, IDS, lie, never_run, FOUR)
    assert (judged.verdict, judged.reason) == (Verdict.INVALID, InvalidReason.OUTPUT_MALFORMED)
