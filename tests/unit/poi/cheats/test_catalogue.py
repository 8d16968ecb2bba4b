"""Every cheat on the shipped models: refused for one of its reasons, or it delivered what an honest performer would."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from poi.cheats import CHEATS, Cheat, NotApplicable
from poi.cheats.adaptive import steer
from poi.cheats.others import OTHER_MODELS
from shared.documents import ClassifyOutput, InputDocument, ModelCard, Parameters, TextOutput
from shared.profiles import MAX_MARGIN, Profile
from shared.reasons import InvalidReason
from shared.tensors import decode_tensor
from shared.types import Verdict
from shared.verification.method import Compute
from shared.verification.tensor import published_of, score_of
from tests.cheating import MODELS, SAMPLED, Subject, subject

TEXT, DIGITS, DIABETES, WINE = "text", "digits", "diabetes", "wine"
SHIPPED = sorted(path.parent.name for path in MODELS.glob("*/card.json"))
TENSORS = [name for name in SHIPPED if name != TEXT]
WITHIN = "adaptive: values within the tolerance"
# The report's 31, each as it is called here.
REPORTED = """fp16 weights|bf16 weights|fp8 weights|int8 weights|int4 weights|int8 dynamic|KV int8|KV int4
1 % pruned|10 % pruned|fine-tuned 1 step, rate 1e-6|fine-tuned 10 steps, rate 1e-5|fine-tuned 10 steps, rate 1e-4
stale, 98 % trained|stale, 90 % trained|layer skipped|model of another seed|smaller model
truncated prompt|wrong prompt|first prompt token dropped|one prompt token dropped
temperature raised by 0.1|temperature lowered by 0.1|greedy instead of sampled|top-k 40|top-p 0.95|another seed
one token substituted|copied output|random output"""
# Trees have no weights and no layers, the regressor has no residuals, and neither of the others has trees; the sentence
# encoder's mask is beyond float16.
NOT_ON = {
    "sentences": {"half the trees", "fp16 thresholds", "fp16 arithmetic"},
    DIGITS: {"half the trees", "fp16 thresholds"},
    DIABETES: {"half the trees", "fp16 thresholds", "layer skipped"},
    TEXT: set[str](),
    WINE: {
        *("fp16 weights", "bf16 weights", "fp8 weights", "int8 weights", "int4 weights", "int8 dynamic"),
        *("1 % pruned", "10 % pruned", "layer skipped", "nudged weights", "tf32 arithmetic"),
    },
}
PLAYED = [
    (model, name) for model in SHIPPED for name, cheat in CHEATS.items() if subject(model).card.kind in cheat.kinds
]


def test_the_list_has_all_of_the_report() -> None:
    reported = [name for line in REPORTED.splitlines() for name in line.split("|")]
    assert len(reported) == 31
    assert set(reported) <= set(CHEATS)
    assert all(cheat.name == name for name, cheat in CHEATS.items())
    assert {cheat.model for cheat in CHEATS.values()} - {None} == set(OTHER_MODELS)


@pytest.mark.parametrize(("model", "name"), PLAYED)
async def test_a_cheat_is_refused_or_delivers_the_honest_output(model: str, name: str) -> None:
    one, cheat = subject(model), CHEATS[name]
    if name in NOT_ON[model]:
        with pytest.raises(NotApplicable):
            await one.cheat(name, one.work(0))
        return
    for number in (0, 1):
        await check_refused_or_honest(one, cheat, number)


async def check_refused_or_honest(one: Subject, cheat: Cheat, number: int) -> None:
    work = one.work(number)
    output = await one.cheat(cheat.name, work)
    judged = await one.judge(work, output)
    if judged.verdict is Verdict.INVALID:
        assert judged.reason in cheat.expected
        return
    assert judged.verdict is Verdict.VALID
    assert not cheat.surely_refused
    if isinstance(output, TextOutput):
        honest = await one.honest(work)
        assert isinstance(honest, TextOutput)
        assert output.tokens == honest.tokens
    else:
        assert cheat.name == WITHIN  # what a tolerance leaves; of tensors nothing else passes


@pytest.mark.parametrize("model", SHIPPED)
async def test_honest_outputs_pass_under_the_same_cards(model: str) -> None:
    one = subject(model)
    for number in range(4):
        judged = await one.judge(one.work(number), await one.honest(one.work(number)))
        assert (judged.verdict, judged.score <= 1) == (Verdict.VALID, True)


async def test_what_has_no_sampler_cannot_be_sampled_otherwise() -> None:
    one = subject(TEXT)
    greedy = one.work(0, Parameters(max_tokens=8))
    for name in (
        "temperature raised by 0.1",
        "temperature lowered by 0.1",
        "greedy instead of sampled",
        "top-k 40",
        "top-p 0.95",
        "another seed",
    ):
        with pytest.raises(NotApplicable, match="greedy text"):
            await one.cheat(name, greedy)
    with pytest.raises(NotApplicable, match="what was asked for"):
        await one.cheat("top-k 40", one.work(0, Parameters(temperature=0.8, top_k=40)))
    with pytest.raises(NotApplicable, match="no temperature"):
        await one.cheat("temperature lowered by 0.1", one.work(0, Parameters(temperature=0.1)))


async def test_too_short_a_text_has_no_other_end() -> None:
    one = subject(TEXT)
    single = one.work(0, Parameters(max_tokens=1))
    for name in ("stopped early by an end token", "cut before its end", "padded after its end"):
        with pytest.raises(NotApplicable, match="one token"):
            await one.cheat(name, single)


@pytest.mark.parametrize("name", ["fp16 weights", "another model", "copied output", "random output", "tampered tensor"])
async def test_exact_cards_refuse_them_by_their_hash(name: str) -> None:
    one = subject(DIGITS)
    exact = msgspec.structs.replace(one.card, method="exact", profile=Profile.EXACT_FP64, tolerances={})
    strict = replace(one, card=exact, compute=Compute(one.compute.reference, one.compute.reference))
    work = strict.work(0)
    assert (await strict.judge(work, await strict.honest(work))).verdict is Verdict.VALID
    judged = await strict.judge(work, await strict.cheat(name, work))
    assert (judged.verdict, judged.reason) == (Verdict.INVALID, InvalidReason.HASH_DIFFERS)


async def test_nothing_can_be_moved_where_nothing_is_tolerated() -> None:
    one = subject(DIGITS)
    strict = replace(one, card=msgspec.structs.replace(one.card, tolerances={}))
    with pytest.raises(NotApplicable, match="tolerates nothing"):
        await strict.cheat(WITHIN, strict.work(0))


async def test_layers_of_a_batch_are_not_made_up() -> None:
    one = subject(DIABETES)
    audited = replace(one, card=msgspec.structs.replace(one.card, method="batch-audit"))
    for name in ("random output", WITHIN):
        with pytest.raises(NotApplicable, match="every layer"):
            await CHEATS[name].prove(one.method, audited.work(0), one.compute, one.others)


async def test_made_up_texts_of_ids_neither_begin_nor_end() -> None:
    one = subject(TEXT)
    assert one.card.text is not None
    text = msgspec.structs.replace(one.card.text, tokens="ids", bos=0, eos=1)
    work = replace(one.work(0), card=msgspec.structs.replace(one.card, text=text), document=ids_document(5, 6, 7))
    output = await CHEATS["random output"].prove(one.method, work, one.compute, one.others)
    assert isinstance(output, TextOutput)
    assert len(set(output.tokens)) > 16
    assert not {0, 1} & set(output.tokens)


def ids_document(*ids: int) -> InputDocument:
    return InputDocument(tensors={"ids": np.array([ids], np.int64)})


# --- what they publish ---------------------------------------------------------------------------------
async def texts(name: str, parameters: Parameters = SAMPLED) -> tuple[TextOutput, TextOutput]:
    """The honest text and the cheat's, of the same task."""
    one = subject(TEXT)
    work = one.work(3, parameters)
    honest, cheating = await one.honest(work), await one.cheat(name, work)
    assert isinstance(honest, TextOutput)
    assert isinstance(cheating, TextOutput)
    return honest, cheating


@pytest.mark.parametrize(
    "edit",
    [
        "truncated prompt",
        "wrong prompt",
        "first prompt token dropped",
        "one prompt token dropped",
        "one prompt token edited",
    ],
)
async def test_an_edited_prompt_is_hidden_or_declared(edit: str) -> None:
    honest, hidden = await texts(edit)
    _, declared = await texts(f"{edit}, declared")
    assert hidden.prompt == honest.prompt != declared.prompt
    assert hidden.tokens == declared.tokens
    assert hidden.tops == declared.tops


async def test_a_substituted_token_is_one_and_what_follows_is_consistent() -> None:
    one = subject(TEXT)
    honest, cheating = await texts("one token substituted")
    place = next(i for i, pair in enumerate(zip(honest.tokens, cheating.tokens, strict=True)) if pair[0] != pair[1])
    judged = await one.judge(one.work(3), cheating)
    wide = replace(one.work(3), card=with_margin(one, judged.score * 1.01))
    assert (await one.judge(wide, cheating)).verdict is Verdict.VALID  # but for that one, every token is the pick
    assert honest.tokens[:place] == cheating.tokens[:place]


def with_margin(one: Subject, factor: float) -> ModelCard:
    assert one.card.text is not None
    text = msgspec.structs.replace(one.card.text, margin=one.card.text.margin * factor)
    return msgspec.structs.replace(one.card, text=text)


async def test_ends_are_moved_and_tokens_stay() -> None:
    honest, ended = await texts("stopped early by an end token")
    half = len(ended.tokens) - 1
    assert ended.tokens == (*honest.tokens[:half], 257)
    assert ended.stop == "eos"
    _, cut = await texts("cut before its end")
    assert cut.tokens == honest.tokens[:-1]
    _, longer = await texts("longer than asked")
    assert (longer.tokens[:32], len(longer.tokens)) == (honest.tokens, 40)
    _, padded = await texts("padded after its end")
    assert padded.tokens == (*honest.tokens[:-2], 257, honest.tokens[-1])
    _, misnamed = await texts("wrong stop reason")
    assert (honest.stop, misnamed.stop) == ("length", "eos")
    assert misnamed.tokens == honest.tokens


async def test_a_spoof_has_the_true_logits_under_the_cheap_tokens() -> None:
    one = subject(TEXT)
    plain, spoof = (
        await one.cheat("int4 weights", one.work(3)),
        await one.cheat("prefill spoof: int4 weights", one.work(3)),
    )
    assert isinstance(plain, TextOutput)
    assert isinstance(spoof, TextOutput)
    assert plain.tokens == spoof.tokens
    judged = await one.judge(one.work(3), spoof)
    assert judged.statistics["distance of logits"] < 0.5 < 100 < (await one.judge(one.work(3), plain)).score


async def test_a_tampered_tensor_differs_in_one_value_by_a_hundred_tolerances() -> None:
    one = subject(DIGITS)
    honest, cheating = await one.honest(one.work(0)), await one.cheat("tampered tensor", one.work(0))
    assert isinstance(honest, ClassifyOutput)
    assert isinstance(cheating, ClassifyOutput)
    assert honest.label == cheating.label
    moved = np.asarray(decode_tensor(honest.scores), np.float64) - np.asarray(decode_tensor(cheating.scores))
    assert np.count_nonzero(moved) == 1
    assert moved.max() == pytest.approx(100 * one.card.tolerances["scores"].absolute, rel=0.02)


async def test_the_same_task_is_cheated_in_the_same_way_again() -> None:
    for model, names in ((TEXT, ("random output", "one token substituted")), (DIGITS, ("random output",))):
        one = subject(model)
        for name in names:
            assert await one.cheat(name, one.work(5)) == await one.cheat(name, one.work(5))
            assert await one.cheat(name, one.work(5)) != await one.cheat(name, one.work(6))


# --- the adversary that has read the card --------------------------------------------------------------
async def test_an_adversary_changes_tokens_where_the_margin_is_wide_and_passes() -> None:
    one = subject(TEXT)
    assert one.card.text is not None
    card = with_margin(one, MAX_MARGIN[Profile.BF16] / one.card.text.margin)
    work = replace(one.work(0), card=card)
    honest, steered = await one.honest(work), await steer(work, one.compute)
    assert isinstance(honest, TextOutput)
    assert 2 <= steered.free < len(steered.output.tokens)
    assert steered.output.tokens != honest.tokens
    judged = await one.judge(work, steered.output)
    assert (judged.verdict, judged.score > 0.01) == (Verdict.VALID, True)


async def test_an_adversary_finds_nothing_to_change_within_a_calibrated_margin() -> None:
    one = subject(TEXT)
    honest, steered = await one.honest(one.work(0)), await steer(one.work(0), one.compute)
    assert isinstance(honest, TextOutput)
    assert (steered.free, steered.output.tokens) == (0, honest.tokens)


@pytest.mark.parametrize("model", TENSORS)
async def test_values_can_be_moved_by_almost_a_tolerance(model: str) -> None:
    one = subject(model)
    work = one.work(0)
    leaning, honest = await one.cheat(WITHIN, work), await one.honest(work)
    moved, true = published_of(one.card, leaning), published_of(one.card, honest)
    assert moved is not None
    assert true is not None
    assert all(0.6 < score_of(one.card, name, moved[name], true[name]) <= 1.25 for name in one.card.tolerances)
    assert (await one.judge(work, leaning)).verdict is Verdict.VALID
