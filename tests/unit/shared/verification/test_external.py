"""Services of a builder's own: what they say counts, and their silence counts against nobody."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shared.adapters.memory.services import FunctionCaller
from shared.card_parts import Service
from shared.documents import InputDocument, JsonOutput, Parameters, TensorOutput, data_of
from shared.errors import InferenceFailed, ServiceFailed
from shared.interfaces import Tensors
from shared.reasons import AbstainReason, InvalidReason
from shared.types import Address, Cid, Verdict
from shared.verification.external import External
from shared.verification.method import Compute, Work
from shared.verification.verify import verify
from tests.cards import PERFORMER, TASK, make_json_card

EXECUTE, VALIDATE = "http://own/task/execute", "http://own/task/validate"
CARD = make_json_card(method="external", service=Service(description="doubles a number", timeout_seconds=2.0))
WORK = Work(TASK, PERFORMER, CARD, InputDocument(prompt="21"), Parameters(), 7, Cid("bafkreiproof"))
OUTPUT = JsonOutput(body='{"answer":42}', made_at=1000)


async def never(inputs: Tensors) -> Tensors:
    raise AssertionError("no model is run")


COMPUTE = Compute(never, never)


class Clock:
    def now(self) -> float:
        return 1000.9


def external(**services: Any) -> External:
    urls = {"execute": EXECUTE, "validate": VALIDATE}
    caller = FunctionCaller({urls[name]: service for name, service in services.items()})
    return External(caller=caller, clock=Clock(), execution_url=EXECUTE, validation_url=VALIDATE)


def saying(answer: Any) -> Any:
    return lambda _: json.dumps(answer).encode() if not isinstance(answer, bytes) else answer


async def test_the_execution_service_answers_in_canonical_json() -> None:
    asked: list[Any] = []

    def double(body: bytes | None) -> bytes:
        asked.append(json.loads(body or b""))
        return b' { "answer" : 42 } '

    assert await external(execute=double).prove(WORK, COMPUTE) == OUTPUT
    assert asked == [
        {
            "taskId": f"0x{TASK.hex()}",
            "taskDefinitionId": 7,
            "performer": f"0x{PERFORMER.hex()}",
            "input": {"prompt": "21"},
            "parameters": {},
        }
    ]


@pytest.mark.parametrize("answer", [b"", b"no", b"\xff", b"[" * 5000, b'"' + b"x" * 70_000 + b'"'])
async def test_an_execution_service_that_does_not_answer_with_json_fails_the_task(answer: bytes) -> None:
    with pytest.raises(InferenceFailed):
        await external(execute=saying(answer)).prove(WORK, COMPUTE)


async def test_without_a_service_nothing_is_performed_and_nothing_judged() -> None:
    method = External(caller=FunctionCaller({}), clock=Clock(), execution_url="", validation_url="")
    with pytest.raises(InferenceFailed, match=r"services\.execution_url is not set"):
        await method.prove(WORK, COMPUTE)
    judgement = await verify(method, WORK, OUTPUT, data_of(OUTPUT), COMPUTE)
    assert (judgement.verdict, judgement.reason) == (Verdict.ABSTAIN, AbstainReason.SERVICE_FAILED)


async def test_the_validation_service_is_asked_as_an_othentic_one() -> None:
    asked: list[Any] = []

    def validate(body: bytes | None) -> bytes:
        asked.append(json.loads(body or b""))
        return b'{"data":true,"error":false,"message":null}'

    judgement = await verify(external(validate=validate), WORK, OUTPUT, data_of(OUTPUT), COMPUTE)
    assert (judgement.verdict, judgement.reason) == (Verdict.VALID, None)
    [question] = asked
    assert question["proofOfTask"] == "bafkreiproof"
    assert question["data"] == f"0x{data_of(OUTPUT).hex()}"
    assert (question["taskDefinitionId"], question["performer"]) == (7, f"0x{PERFORMER.hex()}")
    assert (question["output"], question["madeAt"]) == ({"answer": 42}, 1000)


OPINIONS = [
    ({"data": True}, Verdict.VALID, None),
    ({"data": False}, Verdict.INVALID, InvalidReason.SERVICE_REFUSED),
    ({"data": False, "error": False, "message": "wrong"}, Verdict.INVALID, InvalidReason.SERVICE_REFUSED),
    ({"data": False, "error": True, "message": "IPFS is away"}, Verdict.ABSTAIN, AbstainReason.SERVICE_FAILED),
    ({"error": True}, Verdict.ABSTAIN, AbstainReason.SERVICE_FAILED),
    ({"data": "false"}, Verdict.ABSTAIN, AbstainReason.SERVICE_FAILED),
    ({"data": 0}, Verdict.ABSTAIN, AbstainReason.SERVICE_FAILED),
    ({}, Verdict.ABSTAIN, AbstainReason.SERVICE_FAILED),
    ([False], Verdict.ABSTAIN, AbstainReason.SERVICE_FAILED),
    (False, Verdict.ABSTAIN, AbstainReason.SERVICE_FAILED),
    (b"", Verdict.ABSTAIN, AbstainReason.SERVICE_FAILED),
    (b"{", Verdict.ABSTAIN, AbstainReason.SERVICE_FAILED),
]


@pytest.mark.parametrize(("answer", "verdict", "reason"), OPINIONS)
async def test_only_a_plain_opinion_is_a_vote(answer: Any, verdict: Verdict, reason: Any) -> None:
    judgement = await verify(external(validate=saying(answer)), WORK, OUTPUT, data_of(OUTPUT), COMPUTE)
    assert (judgement.verdict, judgement.reason) == (verdict, reason)


async def test_a_service_that_is_away_or_hangs_is_no_vote_against_anybody() -> None:
    def away(_: bytes | None) -> bytes:
        raise ServiceFailed("answered 500, expected 200")

    for method in (external(), external(validate=away)):
        judgement = await verify(method, WORK, OUTPUT, data_of(OUTPUT), COMPUTE)
        assert (judgement.verdict, judgement.reason) == (Verdict.ABSTAIN, AbstainReason.SERVICE_FAILED)


@pytest.mark.parametrize(
    "output",
    [
        TensorOutput(tensors={}),
        JsonOutput(body='{"answer": 42}', made_at=1000),
        JsonOutput(body="", made_at=1000),
        JsonOutput(body="[" * 5000, made_at=1000),
        JsonOutput(body="\ud800", made_at=1000),
    ],
)
async def test_what_is_no_canonical_json_is_malformed(output: Any) -> None:
    assert external().fault(WORK, output) is InvalidReason.OUTPUT_MALFORMED


async def test_other_data_than_the_outputs_is_a_mismatch_and_nobody_is_asked() -> None:
    judgement = await verify(external(), WORK, OUTPUT, bytes(32), COMPUTE)
    assert judgement.reason is InvalidReason.DATA_MISMATCH
    assert Address(PERFORMER) == WORK.performer
