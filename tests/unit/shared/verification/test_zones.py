"""The decision zones: what this node's engine decides alone, and what the float64 reference decides."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest

from shared.documents import InputDocument, Output, Parameters, TensorOutput
from shared.errors import InferenceFailed, InputMismatch
from shared.interfaces import Tensors
from shared.reasons import AbstainReason, InvalidReason
from shared.types import Verdict
from shared.verification.method import Compute, Forward, Judgement, Measurement, Work
from shared.verification.zones import decide
from tests.cards import make_card
from tests.inference_support import PERFORMER, TASK

WORK = Work(TASK, PERFORMER, make_card(), InputDocument(prompt=""), Parameters())
OUTPUT = TensorOutput(tensors={})


async def run(inputs: Tensors) -> Tensors:
    raise AssertionError("only its identity matters")


async def reference(inputs: Tensors) -> Tensors:
    raise AssertionError("only its identity matters")


@dataclass
class Scripted:
    """A method that measures what it is told; `asked` are the engines it was asked to measure with."""

    own: float
    refereed: float | Exception = 0.0
    asked: list[Forward] = field(default_factory=list)

    async def prove(self, work: Work, compute: Compute) -> Output:
        return OUTPUT

    def fault(self, work: Work, output: Output) -> InvalidReason | None:
        return None

    async def judge(self, work: Work, output: Output, compute: Compute) -> Judgement:
        return await decide(self, work, output, compute)

    async def measure(self, work: Work, output: Output, forward: Forward) -> Measurement:
        self.asked.append(forward)
        score = self.own if forward is run else self.refereed
        if isinstance(score, Exception):
            raise score
        return Measurement(score, InvalidReason.TENSOR_DIFFERS, {"asked": float(len(self.asked))})


async def judge(method: Scripted) -> Judgement:
    return await method.judge(WORK, OUTPUT, Compute(run, reference))


@pytest.mark.parametrize("score", [0.0, 0.5, 1.0])
async def test_up_to_one_tolerance_is_valid(score: float) -> None:
    method = Scripted(score)
    judged = await judge(method)
    assert (judged.verdict, judged.reason, judged.score, judged.is_refereed) == (Verdict.VALID, None, score, False)
    assert method.asked == [run]


@pytest.mark.parametrize("score", [10.001, 1e9, math.inf])
async def test_over_ten_tolerances_is_invalid_without_a_referee(score: float) -> None:
    method = Scripted(score)
    judged = await judge(method)
    assert (judged.verdict, judged.reason) == (Verdict.INVALID, InvalidReason.TENSOR_DIFFERS)
    assert (judged.score, judged.is_refereed, method.asked) == (score, False, [run])


@pytest.mark.parametrize("score", [1.001, 5.0, 10.0])
@pytest.mark.parametrize(
    ("refereed", "verdict"), [(1.0, Verdict.VALID), (1.001, Verdict.INVALID), (9.0, Verdict.INVALID)]
)
async def test_between_them_the_reference_decides_at_one(score: float, refereed: float, verdict: Verdict) -> None:
    method = Scripted(score, refereed)
    judged = await judge(method)
    assert (judged.verdict, judged.score, judged.is_refereed) == (verdict, refereed, True)
    assert judged.reason is (None if verdict is Verdict.VALID else InvalidReason.TENSOR_DIFFERS)
    assert method.asked == [run, reference]
    assert judged.statistics == {"asked": 2.0}


@pytest.mark.parametrize("error", [InferenceFailed("no kernel"), InputMismatch("x", "a tensor", "nothing")])
async def test_without_a_reference_it_abstains_between_them(error: Exception) -> None:
    judged = await judge(Scripted(2.0, error))
    assert (judged.verdict, judged.reason) == (Verdict.ABSTAIN, AbstainReason.REFERENCE_FAILED)
    assert judged.score == 2.0


async def test_a_distance_that_is_no_number_is_never_valid() -> None:
    """NaN compares with nothing: it must fall to the reference, and be refused if that gives it too."""
    assert (await judge(Scripted(math.nan, math.nan))).verdict is Verdict.INVALID


async def test_this_nodes_own_trouble_passes() -> None:
    class Broken(Scripted):
        async def measure(self, work: Work, output: Output, forward: Forward) -> Measurement:
            raise InferenceFailed("no memory")

    with pytest.raises(InferenceFailed, match="no memory"):
        await judge(Broken(0.0))
