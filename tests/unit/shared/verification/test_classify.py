"""Method `tensor` on the real digit classifier: the honest path, and each kind of liar and what catches it."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from models.samples import image_document
from shared.adapters.onnx_runner import Optimisation, Setting
from shared.documents import ClassifyOutput, InputDocument, TextOutput, data_of
from shared.errors import InferenceFailed, InputMismatch
from shared.interfaces import Tensors
from shared.reasons import InvalidReason
from shared.tensors import Tensor, decode_tensor, encode_tensor
from shared.types import Verdict
from tests.inference_support import (
    OTHER_TASK,
    card_of,
    giving,
    measure,
    never_run,
    prove,
    reference_of,
    runner_of,
    samples,
    verify,
)

CARD = card_of("digits")
DOCUMENTS = [image_document(sample["pixels"]) for sample in samples()]
HONEST = runner_of("digits").forward
TOLERANCE = CARD.tolerances["scores"].absolute


async def honest(number: int = 0) -> ClassifyOutput:
    output = await prove(CARD, DOCUMENTS[number], HONEST)
    assert isinstance(output, ClassifyOutput)
    return output


def with_scores(output: ClassifyOutput, index: int, delta: float) -> ClassifyOutput:
    """One score moved, the label following."""
    scores = np.array(decode_tensor(output.scores))
    scores[0, index] += delta
    return ClassifyOutput(scores=encode_tensor(scores), label=int(scores.argmax()))


# --- the honest path -------------------------------------------------------------------------------
@pytest.mark.parametrize("number", range(0, len(DOCUMENTS), 5))
async def test_an_honest_output_is_valid(number: int) -> None:
    judgement = await verify(CARD, DOCUMENTS[number], await honest(number), HONEST)
    assert (judgement.verdict, judgement.reason) == (Verdict.VALID, None)
    assert judgement.score == 0


@pytest.mark.parametrize("optimisation", ["off", "basic"])
async def test_an_attester_with_another_configuration_agrees(optimisation: Optimisation) -> None:
    async def run(inputs: Tensors) -> Tensors:
        return runner_of("digits").run(inputs, Setting(2, optimisation))

    for number, document in enumerate(DOCUMENTS):
        judgement = await verify(CARD, document, await honest(number), run)
        assert judgement.verdict is Verdict.VALID
        assert judgement.score <= 0.5  # tolerances leave room for hardware that nobody has calibrated


async def test_the_label_is_right_for_real_images() -> None:
    labels = [(await honest(number)).label for number in range(len(DOCUMENTS))]
    right = sum(label == sample["label"] for label, sample in zip(labels, samples(), strict=True))
    assert right >= 38


async def test_data_is_the_label_as_uint256() -> None:
    output = await honest()
    data = data_of(output)
    assert len(data) == 32
    assert int.from_bytes(data, "big") == output.label == samples()[0]["label"]


async def test_a_score_within_the_tolerance_counts() -> None:
    judgement = await verify(CARD, DOCUMENTS[0], with_scores(await honest(), 3, 0.5 * TOLERANCE), HONEST)
    assert judgement.verdict is Verdict.VALID
    assert 0.3 < judgement.score < 0.7


# --- liars -----------------------------------------------------------------------------------------
async def test_a_made_up_label() -> None:
    output = await honest()
    lie = msgspec.structs.replace(output, label=(output.label + 1) % 10)
    judgement = await verify(CARD, DOCUMENTS[0], lie, never_run)
    assert (judgement.verdict, judgement.reason) == (Verdict.INVALID, InvalidReason.LABEL_DIFFERS)


async def test_a_label_beyond_the_classes() -> None:
    lie = msgspec.structs.replace(await honest(), label=10)
    judgement = await verify(CARD, DOCUMENTS[0], lie, never_run)
    assert (judgement.verdict, judgement.reason) == (Verdict.INVALID, InvalidReason.LABEL_DIFFERS)


async def test_scores_made_up_to_fit_a_label() -> None:
    output = await honest()
    judgement = await verify(CARD, DOCUMENTS[0], with_scores(output, (output.label + 1) % 10, 100.0), HONEST)
    assert (judgement.verdict, judgement.reason) == (Verdict.INVALID, InvalidReason.SCORES_DIFFER)


async def test_scores_of_another_image_of_the_same_digit() -> None:
    label = samples()[0]["label"]
    twin = next(n for n, sample in enumerate(samples()) if n and sample["label"] == label)
    judgement = await verify(CARD, DOCUMENTS[0], await honest(twin), HONEST)
    assert (judgement.verdict, judgement.reason) == (Verdict.INVALID, InvalidReason.SCORES_DIFFER)


@pytest.mark.parametrize("change", ["fp16 weights", "int8 weights", "1 % pruned"])
async def test_the_same_model_made_cheaper(change: str) -> None:
    """None of these changes a label, and every single output shows it."""
    for number, document in enumerate(DOCUMENTS):
        lie = await prove(CARD, document, runner_of("digits", change).forward)
        assert isinstance(lie, ClassifyOutput)
        assert lie.label == (await honest(number)).label
        judgement = await verify(CARD, document, lie, HONEST)
        assert (judgement.verdict, judgement.reason) == (Verdict.INVALID, InvalidReason.SCORES_DIFFER)
        assert judgement.score > 10


async def test_another_model() -> None:
    for document in DOCUMENTS:
        lie = await prove(CARD, document, runner_of("digits/decoy").forward)
        judgement = await verify(CARD, document, lie, HONEST)
        assert (judgement.verdict, judgement.reason) == (Verdict.INVALID, InvalidReason.SCORES_DIFFER)


@pytest.mark.parametrize("index", range(10))
async def test_one_score_nudged_by_eleven_tolerances(index: int) -> None:
    judgement = await verify(
        CARD,
        DOCUMENTS[0],
        with_scores(await honest(), index, -11 * TOLERANCE),
        HONEST,
        reference=reference_of("digits").forward,
    )
    assert (judgement.verdict, judgement.reason) == (Verdict.INVALID, InvalidReason.SCORES_DIFFER)
    assert 10.5 < judgement.score < 11.5


@pytest.mark.parametrize("index", range(10))
async def test_one_score_nudged_by_two_tolerances_is_refereed(index: int) -> None:
    lie = with_scores(await honest(), index, 2 * TOLERANCE)
    judgement = await verify(CARD, DOCUMENTS[0], lie, HONEST, reference=reference_of("digits").forward)
    assert (judgement.verdict, judgement.reason) == (Verdict.INVALID, InvalidReason.SCORES_DIFFER)
    assert judgement.is_refereed
    assert 1.5 < judgement.score < 2.5


async def test_the_reference_is_as_near_as_any_honest_run() -> None:
    for number, document in enumerate(DOCUMENTS):
        measured = await measure(CARD, document, await honest(number), reference_of("digits").forward)
        assert measured.score <= 0.5


@pytest.mark.parametrize("data", [b"", bytes(31), bytes(32), bytes(33), (7).to_bytes(32, "little")])
async def test_data_that_does_not_follow(data: bytes) -> None:
    judgement = await verify(CARD, DOCUMENTS[0], await honest(), never_run, data=data)
    assert (judgement.verdict, judgement.reason) == (Verdict.INVALID, InvalidReason.DATA_MISMATCH)


@pytest.mark.parametrize(
    "scores",
    [
        Tensor("float32", (1, 10), np.full(10, np.nan, "<f4").tobytes()),
        Tensor("float32", (1, 10), np.full(10, np.inf, "<f4").tobytes()),
        Tensor("float64", (1, 10), np.zeros(10, "<f8").tobytes()),
        Tensor("int32", (1, 10), np.zeros(10, "<i4").tobytes()),
        Tensor("float32", (10,), np.zeros(10, "<f4").tobytes()),
        Tensor("float32", (1, 11), np.zeros(11, "<f4").tobytes()),
        Tensor("float32", (2, 10), np.zeros(20, "<f4").tobytes()),
        Tensor("float32", (1, 10), b""),
        Tensor("float32", (1, 0), b""),
        Tensor("float32", (1 << 22, 1 << 22), b""),
        Tensor("float32", (1, 10), bytes(41)),
    ],
    ids=["NaN", "infinity", "float64", "int32", "rank", "classes", "batch", "empty", "no class", "huge", "odd"],
)
async def test_malformed_scores(scores: Tensor) -> None:
    lie = ClassifyOutput(scores=scores, label=0)
    judgement = await verify(CARD, DOCUMENTS[0], lie, never_run)
    assert (judgement.verdict, judgement.reason) == (Verdict.INVALID, InvalidReason.OUTPUT_MALFORMED)


async def test_an_output_of_another_kind() -> None:
    lie = TextOutput(encoding="bytes", prompt=(256,), tokens=(257,), stop="eos", tops=bytes(48))
    judgement = await verify(CARD, DOCUMENTS[0], lie, never_run, data=b"")
    assert (judgement.verdict, judgement.reason) == (Verdict.INVALID, InvalidReason.OUTPUT_MALFORMED)


# --- nobody's lie ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("document", "field"),
    [
        (InputDocument(prompt="7"), "tensors"),
        (InputDocument(tensors={"picture": np.zeros((1, 1, 8, 8), np.float32)}), "tensors.picture"),
        (InputDocument(tensors={"image": np.zeros((2, 1, 8, 8), np.float32)}), "tensors.image.shape"),
        (InputDocument(tensors={"image": np.zeros((1, 1, 8, 8), np.float64)}), "tensors.image.dtype"),
    ],
)
async def test_a_document_that_does_not_fit_is_the_requesters_trouble(document: InputDocument, field: str) -> None:
    """Whatever the performer published: nobody's output would be right."""
    with pytest.raises(InputMismatch) as caught:
        await verify(CARD, document, await honest(), never_run)
    assert caught.value.field == field


async def test_an_engine_that_fails_is_the_attesters_trouble() -> None:
    async def run(inputs: Tensors) -> Tensors:
        raise InferenceFailed("no memory")

    for attempt in (prove(CARD, DOCUMENTS[0], run), verify(CARD, DOCUMENTS[0], await honest(), run)):
        with pytest.raises(InferenceFailed, match="no memory"):
            await attempt


@pytest.mark.parametrize(
    "outputs",
    [
        {},
        {"scores": np.full((1, 10), np.nan, np.float32)},
        {"scores": np.full((1, 10), -np.inf, np.float32)},
        {"scores": np.zeros((1, 9), np.float32)},
        {"scores": np.zeros((1, 10), np.int64)},
    ],
)
async def test_a_model_that_gives_what_no_proof_carries_is_nobodys_offence(outputs: Tensors) -> None:
    for attempt in (
        prove(CARD, DOCUMENTS[0], giving(outputs)),
        verify(CARD, DOCUMENTS[0], await honest(), giving(outputs)),
    ):
        with pytest.raises(InferenceFailed):
            await attempt


async def test_of_equal_scores_the_first_is_the_label() -> None:
    run = giving({"scores": np.array([[0, 5, 1, 5, 5, 0, 0, 0, 0, 0]], np.float32)})
    output = await prove(CARD, DOCUMENTS[0], run)
    assert isinstance(output, ClassifyOutput)
    assert output.label == 1
    assert (await verify(CARD, DOCUMENTS[0], output, run)).verdict is Verdict.VALID
    lie = msgspec.structs.replace(output, label=3)
    assert (await verify(CARD, DOCUMENTS[0], lie, run)).reason is InvalidReason.LABEL_DIFFERS


async def test_near_ties_may_fall_either_way() -> None:
    """Two honest engines that round a tie differently give different labels, and both are valid."""
    ours = np.array([[0, 5, 0, 5, 0, 0, 0, 0, 0, 0]], np.float32)
    theirs = ours.copy()
    theirs[0, 3] = np.nextafter(np.float32(5), np.float32(6))
    output = await prove(CARD, DOCUMENTS[0], giving({"scores": theirs}))
    assert isinstance(output, ClassifyOutput)
    assert output.label == 3
    assert (await verify(CARD, DOCUMENTS[0], output, giving({"scores": ours}))).verdict is Verdict.VALID


async def test_the_task_id_does_not_matter_to_a_classifier() -> None:
    assert await prove(CARD, DOCUMENTS[0], HONEST, task_id=OTHER_TASK) == await honest()
