"""Method `sequential` on the real decoder in bfloat16: honest engines, and each kind of liar with what catches it."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as from_numpy

from attester.sequences import SequenceLedger
from poi.cheats import CHEATS
from shared.adapters.memory.store import MemoryFile, MemoryStore
from shared.canonical import encode_canonical
from shared.documents import InputDocument, ModelCard, Output, Parameters, TextOutput, decode_card
from shared.errors import CodecError, InferenceFailed
from shared.interfaces import Tensors
from shared.profiles import Profile
from shared.reasons import AbstainReason, InvalidReason
from shared.top_logits import TopLogits, pack, unpack
from shared.types import Address, Digest, Verdict
from shared.verification import METHODS
from shared.verification.method import Compute, Forward, Judgement, Work
from shared.verification.sequential import SequentialText, account_of, log_ratios, text_digest
from tests.cards import PERFORMER, make_card
from tests.inference_support import card_of, giving
from tests.sequence_support import SEQUENCE, attester, bf16, bf16_card

PROMPTS = ("And it came to pass", "The king said unto", "In the beginning", "Blessed is the man that")
TEXTS = 12


def task(number: int) -> Digest:
    return Digest(hashlib.sha256(b"sequential" + number.to_bytes(4, "big")).digest())


def work_of(number: int, max_tokens: int = 64, temperature: float = 0.8) -> Work:
    document = InputDocument(prompt=PROMPTS[number % len(PROMPTS)])
    parameters = Parameters(max_tokens=max_tokens, temperature=temperature, top_k=40)
    return Work(task(number), PERFORMER, bf16_card(), document, parameters)


async def write(work: Work, forward: Forward) -> TextOutput:
    method = SequentialText()
    output = await method.prove(work, Compute(forward, forward))
    assert isinstance(output, TextOutput)
    assert method.fault(work, output) is None
    return output


@pytest.fixture
async def remembering() -> AsyncIterator[SequentialText]:
    """As an attester has it."""
    async with MemoryStore(MemoryFile()) as store:
        yield SequentialText(SequenceLedger(store))


async def judge_all(method: SequentialText, forward: Forward, texts: int = TEXTS) -> list[Judgement]:
    """One performer's life."""
    judged = []
    for number in range(texts):
        work = work_of(number)
        judged.append(await method.judge(work, await write(work, forward), attester()))
    return judged


async def full_text(forward: Forward) -> tuple[Work, TextOutput]:
    """The first text that comes to 64 tokens without an end."""
    for number in range(20):
        output = await write(work_of(number), forward)
        if len(output.tokens) == 64:
            return work_of(number), output
    raise AssertionError("every text ended early")


def first_conviction(judged: list[Judgement]) -> int | None:
    return next((number for number, each in enumerate(judged) if each.verdict is Verdict.INVALID), None)


# --- the honest path -------------------------------------------------------------------------------
@pytest.mark.parametrize("engine", ["", "3", "4"], ids=["the same kernels", "a neighbour", "another neighbour"])
async def test_honest_texts_are_valid(engine: str, remembering: SequentialText) -> None:
    judged = await judge_all(remembering, bf16(engine).forward)
    assert first_conviction(judged) is None
    assert all(each.reason is None and each.score <= 0.5 and each.is_refereed for each in judged)
    assert abs(np.mean([each.statistics["log ratio"] for each in judged])) < 0.1


@pytest.mark.parametrize("parameters", [Parameters(max_tokens=1), Parameters(max_tokens=192, temperature=1.0)])
async def test_short_and_long_texts_are_valid(parameters: Parameters, remembering: SequentialText) -> None:
    work = replace(work_of(0), parameters=parameters)
    judgement = await remembering.judge(work, await write(work, bf16("3").forward), attester())
    assert (judgement.verdict, judgement.reason) == (Verdict.VALID, None)


async def test_the_performer_half_is_that_of_text() -> None:
    assert set(METHODS) >= {"sequential", "text"}
    work, run = work_of(0, max_tokens=8), bf16().forward
    assert await METHODS["sequential"].prove(work, Compute(run, run)) == await METHODS["text"].prove(
        work, Compute(run, run)
    )


# --- cheats within the profile -----------------------------------------------------------------------
@pytest.mark.parametrize("change", ["int8 weights", "fp8 weights", "int4 weights", "10 % pruned"])
async def test_cheaper_weights_are_found_in_the_first_text_of_64_tokens(
    change: str, remembering: SequentialText
) -> None:
    work, output = await full_text(bf16(change).forward)
    judgement = await remembering.judge(work, output, attester())
    assert (judgement.verdict, judgement.reason) == (Verdict.INVALID, InvalidReason.SEQUENCE_DIFFERS)
    assert judgement.score > 1
    assert judgement.statistics["evidence"] > SEQUENCE.limit


async def test_fp16_weights_pass_because_bf16_allows_more(remembering: SequentialText) -> None:
    """A blind spot, and stated as such: what is finer than the profile's own rounding is not seen."""
    assert first_conviction(await judge_all(remembering, bf16("fp16 weights").forward)) is None


async def spoofed(work: Work, change: str) -> Output:
    name = f"prefill spoof: {change}"
    return await CHEATS[name].prove(SequentialText(), work, Compute(bf16().forward, bf16().forward), others)


def others(name: str) -> Forward:
    return bf16(name).forward


async def test_spoofed_logits_are_found_by_the_tokens_of_many_texts(remembering: SequentialText) -> None:
    alone, reasons = SequentialText(), set()
    for number in range(8):
        work = work_of(number)
        output = await spoofed(work, "int4 weights")
        reasons.add((await remembering.judge(work, output, attester())).reason)
        single = await alone.judge(work, output, attester())
        assert single.statistics["log ratio"] < 0.1
    assert reasons == {None, InvalidReason.SEQUENCE_DIFFERS}


async def test_evidence_of_several_performers_is_kept_apart(remembering: SequentialText) -> None:
    cheat, output = await full_text(bf16("1 % pruned").forward)
    first = await remembering.judge(cheat, output, attester())
    honest = replace(cheat, performer=Address(bytes([9]) * 20))
    judgement = await remembering.judge(honest, output, attester())
    assert judgement.statistics == first.statistics
    assert account_of(cheat.performer, cheat.card) != account_of(honest.performer, honest.card)
    assert account_of(cheat.performer, cheat.card) != account_of(cheat.performer, card_of("text"))


async def test_a_skipped_layer_is_refused_at_once() -> None:
    work, output = await full_text(bf16("layer skipped").forward)
    assert await reason_alone(work, output) is InvalidReason.LOGITS_DIFFER


# --- grossly off -----------------------------------------------------------------------------------
async def never_asked(account: bytes, task_id: Digest, text: bytes, growth: tuple[float, ...], limit: float) -> float:
    raise AssertionError("a text that is refused by itself is no evidence for later")


class NeverAsked:
    """A ledger."""

    add = staticmethod(never_asked)


async def reason_alone(work: Work, output: TextOutput) -> InvalidReason | AbstainReason | None:
    judgement = await SequentialText(NeverAsked()).judge(work, output, attester())
    assert judgement.verdict is Verdict.INVALID
    assert judgement.score > 1
    return judgement.reason


async def test_a_token_far_from_the_pick_is_refused_at_once() -> None:
    work = work_of(0, max_tokens=16)
    output = await write(work, bf16().forward)
    forged = msgspec.structs.replace(output, tokens=(*output.tokens[:-1], 0))
    assert await reason_alone(work, forged) is InvalidReason.TOKENS_DIFFER


async def test_logits_of_another_model_are_refused_at_once() -> None:
    work = work_of(0, max_tokens=16)
    output = await write(work, bf16().forward)
    tops = unpack(output.tops, len(output.tokens), 258)
    forged = pack(TopLogits(tops.ids, tops.values - np.float32(9)), 258)
    assert await reason_alone(work, msgspec.structs.replace(output, tops=forged)) is InvalidReason.LOGITS_DIFFER


async def test_ids_that_are_none_of_the_highest_are_refused_at_once() -> None:
    """A cheat may not choose the logits by which it is compared, however right their values are."""
    work = work_of(0, max_tokens=16)
    output = await write(work, bf16().forward)
    tops = unpack(output.tops, len(output.tokens), 258)
    ids, values = tops.ids.copy(), tops.values.copy()
    ids[3, 7], values[3, 7] = next(each for each in range(258) if each not in ids[3]), np.float32(-18)
    forged = msgspec.structs.replace(output, tops=pack(TopLogits(ids, values), 258))
    assert await reason_alone(work, forged) is InvalidReason.LOGITS_DIFFER


async def test_the_first_text_can_be_cut_by_no_end_token() -> None:
    work = work_of(0, max_tokens=16)
    output = await write(work, bf16().forward)
    tops = unpack(output.tops, len(output.tokens), 258)
    cut = msgspec.structs.replace(
        output,
        tokens=(*output.tokens[:4], 257),
        stop="eos",
        tops=pack(TopLogits(tops.ids[:5], tops.values[:5]), 258),
    )
    assert SequentialText().fault(work, cut) is None
    assert await reason_alone(work, cut) is InvalidReason.STOPPED_EARLY


# --- what cannot be judged ---------------------------------------------------------------------------
async def test_without_a_reference_it_abstains() -> None:
    async def fails(inputs: Tensors) -> Tensors:
        raise InferenceFailed("no double kernels here")

    work = work_of(0, max_tokens=4)
    output = await write(work, bf16().forward)
    judgement = await SequentialText(NeverAsked()).judge(work, output, Compute(bf16().forward, fails))
    assert (judgement.verdict, judgement.reason) == (Verdict.ABSTAIN, AbstainReason.REFERENCE_FAILED)


async def test_what_is_no_text_is_kept_out() -> None:
    work = work_of(0)
    output = await METHODS["tensor"].prove(
        Work(task(0), PERFORMER, make_card(), InputDocument(tensors={"x": np.zeros((1, 3), np.float32)}), Parameters()),
        Compute(*[giving({"y": np.zeros((1, 3), np.float32), "n": np.zeros(2, np.int64)})] * 2),
    )
    assert SequentialText().fault(work, output) is InvalidReason.OUTPUT_MALFORMED
    with pytest.raises(TypeError, match="no text"):
        await SequentialText().judge(work, output, attester())


async def test_a_card_without_the_part_is_a_fault_of_the_caller() -> None:
    card: ModelCard = msgspec.structs.replace(bf16_card(), sequence=None)
    work = replace(work_of(0, max_tokens=4), card=card)
    with pytest.raises(TypeError, match="no sequence"):
        await SequentialText().judge(work, await write(work, bf16().forward), attester())


async def test_a_sound_engine_passes_a_self_test_by_far() -> None:
    """`measure` against what the reference gave: an attester abstains over 1/4."""
    work = work_of(0)
    output = await write(work, bf16("5").forward)
    measured = await SequentialText().measure(work, output, bf16().forward)
    assert measured.score < 0.1
    assert measured.statistics["tokens"] == len(output.tokens)


# --- hostile cards -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("honestMean", 0.51),
        ("honestDeviation", 0.04),
        ("honestDeviation", 1.01),
        ("honestMiss", 0.0),
        ("honestMiss", 0.051),
        ("shift", 0.009),
        ("limit", 9.2),
        ("limit", 26.0),
    ],
)
def test_a_card_may_not_make_the_test_empty_or_unjust(field: str, value: float) -> None:
    card = msgspec.json.decode(encode_canonical(bf16_card()))
    card["sequence"][field] = value
    with pytest.raises(CodecError, match="sequence"):
        decode_card(encode_canonical(card))


def test_the_part_goes_with_the_method_and_the_profiles() -> None:
    assert decode_card(encode_canonical(bf16_card())) == bf16_card()
    for changes in ({"sequence": None}, {"method": "text"}, {"profile": Profile.FP32}):
        with pytest.raises(CodecError, match=r"go together|bf16 are verified|allows"):
            decode_card(encode_canonical(msgspec.structs.replace(bf16_card(), **changes)))


# --- the statistic -----------------------------------------------------------------------------------
def rows(*values: float) -> npt.NDArray[np.float64]:
    return np.array([values])


ALL_FOUR = TopLogits(np.array([[0, 1, 2, 3]]), np.array([[1, 2, 3, 4]], np.float32))


def test_ratios_by_hand() -> None:
    """Errors (2, -2, 0, 0) against (1, -1, 0, 0): twice as large."""
    reference = rows(-1, 4, 3, 4)
    ratio = log_ratios(ALL_FOUR, reference + rows(1, -1, 0, 0), reference)
    assert ratio == pytest.approx([np.log(2)], abs=1e-6)


def test_an_exact_claim_is_far_below_and_two_are_even() -> None:
    reference = rows(1, 2, 3, 4)
    assert log_ratios(ALL_FOUR, reference + rows(1, -1, 0, 0), reference)[0] < -10
    assert log_ratios(ALL_FOUR, reference, reference)[0] == 0


@given(from_numpy.arrays(np.float64, (1, 4), elements=st.floats(-1, 1)), st.floats(-50, 50), st.floats(-50, 50))
def test_what_moves_all_logits_together_does_not_count(
    errors: npt.NDArray[np.float64], one: float, other: float
) -> None:
    reference = rows(1, 2, 3, 4) - errors
    own = reference + rows(0.5, -0.25, 0, 0)
    moved = TopLogits(ALL_FOUR.ids, (ALL_FOUR.values + np.float32(one)).astype(np.float32))
    lost = abs(one) * 1e-6 + 1e-5  # float32's own
    spread = np.std(errors) + 1e-5
    assert log_ratios(moved, own + other, reference) == pytest.approx(
        log_ratios(ALL_FOUR, own, reference), abs=3 * lost / spread
    )


def test_texts_are_the_same_by_their_tokens_alone() -> None:
    text = TextOutput(encoding="bytes", prompt=(256, 65), tokens=(66, 67), stop="length", tops=b"")
    assert text_digest(text) == text_digest(msgspec.structs.replace(text, tops=b"other", stop="eos"))
    for other in ({"prompt": (256, 65, 66), "tokens": (67,)}, {"tokens": (66, 68)}):
        assert text_digest(text) != text_digest(msgspec.structs.replace(text, **other))
