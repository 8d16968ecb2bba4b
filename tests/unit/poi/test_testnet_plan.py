"""What the testnet sends: every kind of model in turn, cheats that are surely refused, and a liar that knows which."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.samples import sentence_document
from poi.cheats import CHEATS, NotApplicable
from poi.cheats.cheat import ANY_KIND
from poi.testnet.lies import LIES, LyingMethod, OthersOnDisk, lie_of, lying_methods
from poi.testnet.plan import MODEL_NAMES, card_of, documents, draw, plan
from poi.testnet.words import WORDS
from shared.documents import InputDocument, Parameters, decode_input, decode_parameters, output_view, validate_input
from shared.outputs import TensorOutput
from shared.reasons import InvalidReason
from shared.tensors import encode_tensor
from shared.types import Digest, Verdict
from shared.verification import METHODS
from shared.verification.method import Compute, Work
from tests.cards import PERFORMER, make_card
from tests.cheating import MODELS, SAMPLED, subject, task
from tests.inference_support import never_run


# --- the plan ------------------------------------------------------------------------------------------
def test_honest_tasks_are_of_every_kind_of_model_in_turn() -> None:
    errands = plan(3 * len(MODEL_NAMES), 0)
    assert [errand.model for errand in errands] == list(MODEL_NAMES) * 3
    assert all(errand.cheat is None for errand in errands)
    assert len({(errand.model, errand.document) for errand in errands}) == len(errands)
    texts = [errand for errand in errands if errand.kind == "text"]
    assert [errand.parameters["temperature"] for errand in texts] == [0, 0.8, 0]
    assert texts[0].asked == "“In the beginning…”, greedy"


def test_what_is_sent_fits_the_cards() -> None:
    for errand in plan(8, 12):
        card = card_of(errand.model)
        parameters = decode_parameters(card, msgspec.json.encode(errand.parameters, order="sorted").decode())
        validate_input(card, decode_input(errand.document.encode()), parameters)
        assert errand.kind == card.kind


def test_every_cheat_comes_once_before_one_comes_again() -> None:
    drawn = draw(70)
    names = [cheat.name for _, cheat in drawn]
    distinct = len(set(names))
    assert distinct > 40
    assert len(set(names[:distinct])) == distinct
    assert set(Counter(names).values()) <= {1, 2}
    assert all(cheat.surely_refused and card_of(model).kind in cheat.kinds for model, cheat in drawn)


def test_a_few_cheats_are_of_several_models_and_reasons() -> None:
    first = draw(len(MODEL_NAMES))
    assert {model for model, _ in first} == set(MODEL_NAMES)
    assert len({cheat.expected for _, cheat in first}) >= 3
    assert draw(9)[: len(first)] == first  # more cheats are the same, and more


async def test_what_is_drawn_can_be_played() -> None:
    for number, (model, cheat) in enumerate(draw(24)):
        one = subject(model)
        judged = await one.judge(one.work(number), await one.cheat(cheat.name, one.work(number)))
        assert judged.verdict is Verdict.INVALID
        assert judged.reason in cheat.expected


# --- the liar ------------------------------------------------------------------------------------------
@given(st.binary(min_size=32, max_size=32), st.sampled_from(sorted(ANY_KIND)))
def test_a_task_id_says_which_lie_it_gets(task_id: bytes, kind: str) -> None:
    cheat = lie_of(Digest(task_id), kind)
    assert cheat in LIES[kind]
    assert lie_of(Digest(task_id), kind) is cheat


def test_every_lie_is_some_task_s() -> None:
    for kind, lies in LIES.items():
        assert {lie_of(Digest(number.to_bytes(8, "big") + bytes(24)), kind).name for number in range(len(lies))} == {
            cheat.name for cheat in lies
        }


def task_of(name: str, kind: str) -> Digest:
    """A task on which the liar plays this cheat."""
    return next(
        task_id
        for task_id in (Digest(number.to_bytes(8, "big") + bytes(24)) for number in range(1000))
        if lie_of(task_id, kind) is CHEATS[name]
    )


async def test_the_liar_plays_the_cheat_and_judges_as_the_honest_do() -> None:
    one = subject("digits")
    work = replace(one.work(0), task_id=task_of("int8 weights", "classify"))
    lying = LyingMethod(one.method, OthersOnDisk(MODELS))
    output = await lying.prove(work, one.compute)
    assert output == await CHEATS["int8 weights"].prove(one.method, work, one.compute, one.others)
    assert lying.fault(work, output) is None
    judged = await lying.judge(work, output, one.compute)
    assert (judged.verdict, judged.reason) == (Verdict.INVALID, InvalidReason.SCORES_DIFFER)


async def test_the_liar_makes_something_up_where_the_model_has_nothing_for_the_cheat() -> None:
    one = subject("digits")
    work = replace(one.work(0), task_id=task_of("half the trees", "classify"))
    output = await LyingMethod(one.method, OthersOnDisk(MODELS)).prove(work, Compute(never_run, never_run))
    assert output == await CHEATS["random output"].prove(one.method, work, one.compute, one.others)


async def test_a_model_that_is_not_here_has_no_other_to_run() -> None:
    others = OthersOnDisk(MODELS)(make_card())
    with pytest.raises(NotApplicable, match="not in this folder"):
        others("int8 weights")


async def test_the_liar_has_no_lie_for_what_services_answer() -> None:
    answered = InputDocument(prompt="x")

    class Service:
        async def prove(self, work: Work, compute: Compute) -> object:
            return answered

    card = msgspec.structs.replace(make_card(), kind="json")
    work = Work(task(0), PERFORMER, card, InputDocument(prompt=""), Parameters())
    lying = LyingMethod(Service(), OthersOnDisk(MODELS))  # type: ignore[arg-type]
    assert await lying.prove(work, Compute(never_run, never_run)) is answered


def test_the_lying_methods_are_all_of_them() -> None:
    assert set(lying_methods(MODELS)) == set(METHODS)


# --- words ---------------------------------------------------------------------------------------------
ANSWERS = {
    "digits": ("a handwritten digit", r"^a \d$"),
    "diabetes": ("diabetes after a year", r"^\d+$"),
    "wine": ("a wine's cultivar", r"^cultivar [012]$"),
    "text": ("“In the beginning…”", r"^….+"),
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_questions_and_answers_fit_on_a_line(name: str) -> None:
    one, (asked, answered) = subject(name), ANSWERS[name]
    assert WORDS[name].asked(documents(name)[0]) == asked
    view = output_view(await one.honest(one.work(0, SAMPLED)))
    said = WORDS[name].answered(view)
    assert "\n" not in said
    assert re.search(answered, said)


def test_an_embedding_is_shown_by_its_first_numbers_and_a_sentence_by_its_bytes() -> None:
    assert WORDS["sentences"].asked(sentence_document("In the beginning")) == "embed “In the beginning”"
    view = output_view(TensorOutput({"embedding": encode_tensor(np.array([[0.25, -1, 2, 3]], np.float32))}))
    assert WORDS["sentences"].answered(view) == "0.25 -1 2 …"


def test_every_model_has_words() -> None:
    assert set(MODEL_NAMES) <= set(WORDS)
