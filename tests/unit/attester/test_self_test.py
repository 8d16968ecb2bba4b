"""An attester tests its own engine: once before its first vote, every hour, never twice at once, and says what it
found."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from attester.judge import _Decided, _Fit
from attester.self_test import LOOK_FOR, Outcome, SelfTest, largest, limit_of
from shared.adapters.memory.engine import FunctionEngine, FunctionModel
from shared.canonical import encode_canonical
from shared.card_parts import Golden
from shared.constants import SELF_TEST_RETRY_SECONDS, SELF_TEST_SECONDS
from shared.content.unixfs import cid_of
from shared.golden import GoldenVector, encode_golden
from shared.interfaces import Tensors
from shared.messages import AbstainMessage, VoteMessage
from shared.metrics import Metrics
from shared.model_library import ModelLibrary, ModelUnavailable, ReadyModel
from shared.outputs import ClassifyOutput, TensorOutput
from shared.profiles import Profile
from shared.reasons import AbstainReason, InvalidReason
from shared.tensors import encode_tensor
from shared.types import Verdict
from shared.verification.method import AuditRuns
from shared.verification.zones import MOST_DEVIATION
from tests.chain_support import PERFORMER
from tests.judging import LABEL_2, repeat
from tests.listening import running, until, virtual
from tests.roles import World
from tests.toy_model import CARD, CARD_CID, GOLDEN, GOLDEN_BYTES, MODEL_HASH, OUTPUT, X, multiply

UNFIT = AbstainReason.SELF_TEST_FAILED
TOLERANCE = CARD.tolerances["scores"].absolute


@dataclass
class Engine:
    """A matrix, off by so many tolerances; counts its runs."""

    off: float = 0.0
    fails: bool = False
    runs: int = 0

    def multiply(self, inputs: Tensors) -> Tensors:
        self.runs += 1
        if self.fails:
            raise RuntimeError("out of memory")
        return {"scores": multiply(inputs)["scores"] + np.float32(self.off * TOLERANCE)}

    def engine(self, seconds: float = 0.0) -> FunctionEngine:
        return FunctionEngine({MODEL_HASH: FunctionModel((X,), self.multiply)}, seconds=seconds)


async def ready(world: World, engine: Engine, seconds: float = 0.0) -> ReadyModel:
    library = world.library_of(world.people[0], engine.engine(seconds))
    return await library.ready(world.roster.definitions[0])


def with_card(model: ReadyModel, **changes: Any) -> ReadyModel:
    """Another card before the same engine."""
    card = msgspec.structs.replace(model.card, **changes)
    return ReadyModel(card, cid_of(encode_canonical(card)), model.model_hash, model.compute, model.fingerprint)


# --- the decision ------------------------------------------------------------------------------------
@pytest.mark.parametrize("profile", Profile)
def test_exact_means_exact_and_else_a_quarter(profile: Profile) -> None:
    card = msgspec.structs.replace(CARD, profile=profile)
    assert limit_of(card) == (0.0 if profile.is_exact else 0.25) <= MOST_DEVIATION


@given(st.lists(st.floats(0, allow_nan=False), min_size=1), st.data())
def test_one_score_that_is_no_number_is_as_large_as_any(scores: list[float], data: st.DataObject) -> None:
    assert largest(scores) == max(scores)
    place = data.draw(st.integers(0, len(scores)))
    assert largest([*scores[:place], math.nan, *scores[place:]]) == math.inf


@pytest.mark.parametrize(
    ("reason", "seconds"),
    [
        (None, 3600),
        (UNFIT, 180),
        (AbstainReason.MODEL_MISMATCH, 3600),
        (AbstainReason.CARD_UNAVAILABLE, 15),
        (AbstainReason.ENGINE_FAILED, 15),
    ],
)
def test_how_long_an_outcome_lasts(reason: AbstainReason | None, seconds: float) -> None:
    outcome = Outcome(reason, None, None, 1000.0)
    assert [outcome.is_due(1000.0 + after) for after in (0, seconds - 1, seconds)] == [False, False, True]


# --- testing -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("off", "expected"),
    [
        (0.0, None),
        (0.2, None),
        (-0.2, None),
        (0.3, UNFIT),
        (9, UNFIT),
    ],
)
@virtual
async def test_an_engine_is_fit_up_to_a_quarter_of_the_tolerance(off: float, expected: AbstainReason | None) -> None:
    async with World() as world:
        assert await world.self_test().check(await ready(world, Engine(off))) is expected


@virtual
async def test_the_largest_score_of_all_vectors_counts() -> None:
    """The second one's output is not what this engine gives."""
    other = np.frombuffer(OUTPUT.scores.data, np.float32).reshape(1, 3) + np.float32(0.3 * TOLERANCE)
    strays = ClassifyOutput(scores=encode_tensor(other), label=int(np.argmax(other)))
    vectors = [GOLDEN, GoldenVector(GOLDEN.task_id, GOLDEN.document, GOLDEN.parameters, strays)]
    async with World() as world:
        model = await _with_golden(world, encode_golden(CARD, vectors), 2)
        self_test = world.self_test()
        assert await self_test.check(model) is UNFIT
        assert self_test.view()[0]["score"] == pytest.approx(0.3, abs=0.02)


async def _with_golden(world: World, data: bytes, vectors: int = 1, engine: Engine | None = None) -> ReadyModel:
    """A card with this golden file, which the performer serves."""
    cid = (await world.content.join(PERFORMER.address).add(data)).cid
    return with_card(await ready(world, engine or Engine()), golden=Golden(cid=cid, vectors=vectors))


@virtual
async def test_it_is_tested_once_an_hour_and_asked_for_nothing_in_between() -> None:
    engine = Engine()
    async with World() as world:
        model, self_test = await ready(world, engine), world.self_test()
        for _ in range(10):
            assert await self_test.check(model) is None
        assert engine.runs == 1
        await asyncio.sleep(SELF_TEST_SECONDS - 1)
        await self_test.check(model)
        assert engine.runs == 1
        await asyncio.sleep(1)
        engine.off = 1.0
        assert await self_test.check(model) is UNFIT
        assert engine.runs == 2


@virtual
async def test_one_that_failed_is_tested_again_every_three_minutes_and_recovers_by_itself() -> None:
    engine = Engine(off=0.5)
    async with World() as world:
        model, self_test = await ready(world, engine), world.self_test()
        with capture_logs() as logs:
            for _ in range(5):
                assert await self_test.check(model) is UNFIT
                await asyncio.sleep(SELF_TEST_RETRY_SECONDS)
            assert engine.runs == 5
            engine.off = 0.0
            assert await self_test.check(model) is None
        [error, mended] = logs  # said once, not five times
        assert (error["log_level"], error["card"], error["look_for"]) == ("error", model.card_cid, LOOK_FOR)
        assert (error["score"], error["limit"]) == (pytest.approx(0.5, abs=0.02), 0.25)
        assert error["engine"] == "memory 1, FunctionProvider on python, native"
        assert (mended["log_level"], mended["event"]) == ("info", "self-test passed")


@virtual
async def test_many_who_ask_at_once_wait_for_one_test() -> None:
    engine = Engine()
    async with World() as world:
        model, self_test = await ready(world, engine, seconds=2.0), world.self_test()
        asked = [asyncio.create_task(self_test.check(model)) for _ in range(20)]
        await asyncio.sleep(1)
        assert not any(task.done() for task in asked)
        assert await asyncio.gather(*asked) == [None] * 20
        assert engine.runs == 1


@virtual
async def test_while_it_is_tested_again_the_last_word_stands() -> None:
    """A test may take minutes, and every vote on the card would hold a place meanwhile."""
    engine = Engine()
    async with World() as world:
        model, self_test = await ready(world, engine, seconds=2.0), world.self_test()
        await self_test.check(model)
        await asyncio.sleep(SELF_TEST_SECONDS)
        engine.off = 1.0
        testing = asyncio.create_task(self_test.check(model))
        await asyncio.sleep(1)
        assert await self_test.check(model) is None
        assert not testing.done()
        assert await testing is UNFIT
        assert await self_test.check(model) is UNFIT
        assert engine.runs == 2


@virtual
async def test_who_gives_up_waiting_takes_nothing_from_the_others() -> None:
    """The one that tests is cancelled: the next one tests."""
    engine = Engine()
    async with World() as world:
        model, self_test = await ready(world, engine, seconds=2.0), world.self_test()
        first, second = (asyncio.create_task(self_test.check(model)) for _ in range(2))
        await asyncio.sleep(1)
        first.cancel()
        assert await second is None
        assert first.cancelled()


@virtual
async def test_cards_are_tested_apart() -> None:
    """Two cards of one model: the stricter one finds the engine wanting."""
    tolerances = {"scores": msgspec.structs.replace(CARD.tolerances["scores"], relative=1e-6)}
    async with World() as world:
        model, self_test = await ready(world, Engine(off=0.1)), world.self_test()
        strict = with_card(model, tolerances=tolerances)
        assert await self_test.check(model) is None
        assert await self_test.check(strict) is UNFIT
        assert [view["isFit"] for view in self_test.view()] == [True, False]


# --- where there is nothing to test, or nothing to test with ---------------------------------------------
@pytest.mark.parametrize("changes", [{"golden": None}, {"method": "external"}, {"method": "a method of tomorrow"}])
@virtual
async def test_without_vectors_or_a_distance_there_is_nothing_to_test(changes: dict[str, Any]) -> None:
    engine = Engine(off=9)
    async with World() as world:
        self_test = world.self_test()
        assert await self_test.check(with_card(await ready(world, engine), **changes)) is None
        assert engine.runs == 0
        assert self_test.view() == []  # nobody says that it passed


@virtual
async def test_vectors_that_nobody_serves_are_asked_for_again_soon() -> None:
    async with World() as world:
        model, self_test = await ready(world, Engine()), world.self_test()
        world.content.withhold(PERFORMER.address, cid_of(GOLDEN_BYTES))
        with capture_logs() as logs:
            assert await self_test.check(model) is AbstainReason.CARD_UNAVAILABLE
            world.content.release(PERFORMER.address, cid_of(GOLDEN_BYTES))
            assert await self_test.check(model) is AbstainReason.CARD_UNAVAILABLE  # nobody waits for it every time
            await asyncio.sleep(15)
            assert await self_test.check(model) is None
        assert [line["log_level"] for line in logs] == ["warning", "info"]


BAD: dict[str, Callable[[], bytes]] = {
    "garbage": lambda: b"these are no vectors",
    "empty": lambda: b"",
    "of another card": lambda: GOLDEN_BYTES.replace(b'"x":', b'"y":'),
    "an output that has a fault": lambda: GOLDEN_BYTES.replace(b'"label":1', b'"label":2'),
}


@pytest.mark.parametrize("what", BAD)
@virtual
async def test_a_file_that_is_no_golden_file_is_the_cards_fault(what: str) -> None:
    engine = Engine()
    async with World() as world:
        model = await _with_golden(world, BAD[what](), engine=engine)
        assert await world.self_test().check(model) is AbstainReason.MODEL_MISMATCH
        assert engine.runs == 0


@virtual
async def test_a_batch_audits_vectors_have_the_outputs_alone() -> None:
    """And those are held to the card's form, too."""
    card = msgspec.structs.replace(CARD, kind="tensor", method="batch-audit")
    for name, expected in (("scores", None), ("skores", AbstainReason.MODEL_MISMATCH)):
        output = TensorOutput({name: OUTPUT.scores})
        data = encode_golden(card, [GoldenVector(GOLDEN.task_id, GOLDEN.document, GOLDEN.parameters, output)])
        async with World() as world:
            model = with_card(await _with_golden(world, data), kind="tensor", method="batch-audit")
            assert await world.self_test().check(model) is expected


@virtual
async def test_fewer_vectors_than_the_card_says_are_none() -> None:
    async with World() as world:
        model = await _with_golden(world, GOLDEN_BYTES, vectors=2)
        assert await world.self_test().check(model) is AbstainReason.MODEL_MISMATCH


@virtual
async def test_a_golden_cid_that_is_none_is_the_cards_fault() -> None:
    async with World() as world:
        model = with_card(await ready(world, Engine()), golden=Golden(cid="bafkrei", vectors=1))
        assert await world.self_test().check(model) is AbstainReason.MODEL_MISMATCH


@virtual
async def test_an_engine_that_does_not_run_is_not_fit() -> None:
    engine = Engine(fails=True)
    async with World() as world:
        model, self_test = await ready(world, engine), world.self_test()
        assert await self_test.check(model) is AbstainReason.ENGINE_FAILED
        engine.fails = False
        await asyncio.sleep(15)
        assert await self_test.check(model) is None


@virtual
async def test_a_test_without_end_is_ended_and_given_a_rest() -> None:
    """Vectors that each take just less than a run may."""
    async with World() as world:
        model = await ready(world, Engine())

        async def slow(inputs: Any) -> Any:
            await asyncio.sleep(301)
            return await model.compute.run(inputs)

        slowed = dataclasses.replace(model, compute=dataclasses.replace(model.compute, run=slow))
        self_test, began = world.self_test(), asyncio.get_running_loop().time()
        assert await self_test.check(slowed) is AbstainReason.ENGINE_FAILED
        assert asyncio.get_running_loop().time() - began == pytest.approx(300, abs=1)
        assert await self_test.check(model) is AbstainReason.ENGINE_FAILED  # nine times as long as it took
        await asyncio.sleep(9 * 301)
        assert await self_test.check(model) is None


@virtual
async def test_a_card_that_makes_the_test_fail_in_any_way_keeps_to_itself() -> None:
    async with World() as world:
        model = await ready(world, Engine())

        async def failing(inputs: Any) -> Any:
            raise ZeroDivisionError

        broken = dataclasses.replace(model, compute=dataclasses.replace(model.compute, run=failing))
        assert await world.self_test().check(broken) is AbstainReason.INTERNAL


# --- what people see -----------------------------------------------------------------------------------
@virtual
async def test_metrics_and_health_say_how_it_stands() -> None:
    engine, metrics = Engine(off=0.5), Metrics("attester")
    async with World() as world:
        self_test = SelfTest(content=world.content.join(world.people[0].address), metrics=metrics)
        model = await ready(world, engine)
        await self_test.check(model)
        assert _exposed(metrics) == {"poi_attester_unfit_cards": 1, 'poi_attester_self_tests_total{result="failed"}': 1}
        await asyncio.sleep(60)
        [view] = self_test.view()
        assert view == {
            "cardCid": model.card_cid,
            "isFit": False,
            "reason": "self_test_failed",
            "score": pytest.approx(0.5, abs=0.02),
            "engine": "memory 1, FunctionProvider on python, native",
            "secondsAgo": 60,
        }
        engine.off = 0.0
        await asyncio.sleep(SELF_TEST_RETRY_SECONDS)
        await self_test.check(model)
        assert _exposed(metrics)["poi_attester_unfit_cards"] == 0
        assert _exposed(metrics)['poi_attester_self_tests_total{result="passed"}'] == 1


def _exposed(metrics: Metrics) -> dict[str, float]:
    lines = metrics.exposition()[0].decode().splitlines()
    named = [line.rsplit(" ", 1) for line in lines if line.startswith(("poi_attester_unfit", "poi_attester_self"))]
    return {name: float(value) for name, value in named}


@virtual
async def test_an_infinite_score_is_shown_as_none() -> None:
    """It is no JSON number."""
    async with World() as world:
        self_test = world.self_test()
        self_test._outcomes[CARD_CID] = Outcome(UNFIT, math.inf, None, 0.0)
        assert [(view["isFit"], view["score"]) for view in self_test.view()] == [(False, None)]


# --- in the attester -----------------------------------------------------------------------------------
@virtual
async def test_cards_are_tested_before_the_first_task_and_in_time() -> None:
    engine = Engine()
    async with World() as world:
        library, self_test = world.library_of(world.people[0], engine.engine()), world.self_test()
        async with (
            running(library.keep_ready(lambda: world.roster)),
            running(self_test.keep_fresh(lambda: world.roster, library)),
        ):
            await until(self_test.view, "tested")
            assert engine.runs == 1
            await asyncio.sleep(SELF_TEST_SECONDS + 5)
            assert engine.runs == 2


@virtual
async def test_the_duty_outlives_a_model_that_is_gone() -> None:
    engine = Engine()
    async with World() as world:
        library, self_test = Flaky(world, engine), world.self_test()
        async with running(self_test.keep_fresh(lambda: world.roster, library)):
            await asyncio.sleep(5)
            assert self_test.view() == []
            library.is_away = False
            await until(self_test.view, "tested")


class Flaky(ModelLibrary):
    """Says that it is ready, and is not while it is away."""

    def __init__(self, world: World, engine: Engine) -> None:
        self.is_away, self._inner = True, world.library_of(world.people[0], engine.engine())
        self.ready_ids = {0}

    async def ready(self, definition: Any, *, prefer: Any = None) -> ReadyModel:
        if self.is_away:
            raise ModelUnavailable("bafk")
        return await self._inner.ready(definition, prefer=prefer)


@virtual
async def test_an_unfit_attester_abstains_from_the_cards_tasks_and_votes_when_it_is_mended() -> None:
    engine = Engine(off=0.5)
    async with World() as world, world.attester(engine=engine.engine()) as attester:
        performer = await world.bystander(PERFORMER)
        message = await world.performed()
        await performer.say(message)
        await performer.hears(AbstainMessage)
        assert performer.abstentions == [UNFIT]
        assert [view["isFit"] for view in attester.health()["selfTests"]] == [False]
        engine.off = 0.0
        await asyncio.sleep(SELF_TEST_RETRY_SECONDS)
        [vote] = await performer.hears(VoteMessage)
        assert vote.verdict is Verdict.VALID
        assert set(performer.abstentions) == {UNFIT}


@virtual
async def test_an_honest_performer_is_never_called_a_liar_by_an_engine_far_off() -> None:
    """Without the test this engine would vote invalid."""
    async with World() as world:
        judgement = await world.judge(engine=Engine(off=30).engine()).judge(await world.performed())
        assert (judgement.verdict, judgement.reason) == (Verdict.ABSTAIN, UNFIT)


@virtual
async def test_what_is_wrong_without_a_run_is_said_by_an_unfit_attester_too() -> None:
    engine = Engine(off=30)
    async with World() as world, world.attester(engine=engine.engine()):
        performer = await world.bystander(PERFORMER)
        await repeat(performer, await world.performed(info={"data": LABEL_2}))
        [vote] = await performer.hears(VoteMessage)
        assert vote.verdict is Verdict.INVALID
        judgement = await world.judge(engine=engine.engine()).judge(await world.performed(info={"data": LABEL_2}))
        assert (judgement.reason, judgement.engine) == (InvalidReason.DATA_MISMATCH, None)


@pytest.mark.parametrize(("off", "expected"), [(0.0, ["audit"]), (0.5, [])])
@virtual
async def test_an_unfit_engine_takes_no_model_apart(off: float, expected: list[str]) -> None:
    asked: list[str] = []

    async def audit() -> AuditRuns:
        asked.append("audit")
        return AuditRuns(multiplied, multiplied, (), {})

    async def multiplied(inputs: Tensors) -> Tensors:
        return multiply(inputs)

    async with World() as world:
        model = await ready(world, Engine(off))
        fit = _Fit(world.self_test(), replace(model, compute=replace(model.compute, audit=audit)), PERFORMER.address)
        assert fit.compute.audit is not None
        if expected:
            await fit.compute.audit()
        else:
            with pytest.raises(_Decided, match="self_test_failed"):
                await fit.compute.audit()
        assert (asked, fit.has_run) == (expected, bool(expected))
        assert _Fit(world.self_test(), model, PERFORMER.address).compute.audit is None
