"""Values fetched twice: what may drift, what may not, and what nobody can tell."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.adapters.memory.services import FunctionCaller
from shared.canonical import encode_canonical
from shared.card_parts import Feed
from shared.constants import MAX_JSON_OUTPUT_CHARACTERS
from shared.documents import InputDocument, JsonOutput, Parameters, data_of, decode_parameters
from shared.errors import InferenceFailed, InputMismatch
from shared.reasons import AbstainReason, InvalidReason
from shared.types import Verdict
from shared.verification.method import Judgement, Work
from shared.verification.oracle import Oracle, measure
from shared.verification.verify import verify
from tests.cards import PERFORMER, TASK, make_json_card
from tests.unit.shared.verification.test_external import COMPUTE

FEED = Feed(
    url="https://prices.example/v1?pair={pair}",
    parameters={"pair": ("ETH/USD", "BTC/USD")},
    select=("/price", "/market/open"),
    relative=0.001,
    absolute=0.5,
    max_age_seconds=60,
    timeout_seconds=5.0,
)
CARD = make_json_card(method="oracle", feed=FEED)
URL = "https://prices.example/v1?pair=ETH%2FUSD"
WORK = Work(TASK, PERFORMER, CARD, InputDocument(prompt=""), Parameters(query={"pair": "ETH/USD"}))


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self._now = now

    def now(self) -> float:
        return self._now


def quoting(price: Any, is_open: Any = True) -> bytes:
    return json.dumps({"price": price, "market": {"open": is_open}, "noise": [1, 2]}).encode()


def oracle(answer: bytes | None, now: float = 1000.0) -> Oracle:
    services = {} if answer is None else {URL: lambda _: answer}
    return Oracle(caller=FunctionCaller(services), clock=Clock(now))


def claim(price: Any, is_open: Any = True, made_at: int = 1000) -> JsonOutput:
    body = encode_canonical({"/price": price, "/market/open": is_open}).decode()
    return JsonOutput(body=body, made_at=made_at)


async def judged(method: Oracle, output: JsonOutput) -> Judgement:
    return await verify(method, WORK, output, data_of(output), COMPUTE)


async def test_the_performer_publishes_what_the_card_selects_and_no_more() -> None:
    assert await oracle(quoting(2000.0)).prove(WORK, COMPUTE) == claim(2000.0)


@pytest.mark.parametrize(
    "answer", [None, b"", b"<html>", b"{}", b'{"price":1}', b'{"price":1,"market":[]}', b"[" * 9000]
)
async def test_a_source_without_the_values_fails_the_task_and_is_no_vote(answer: bytes | None) -> None:
    with pytest.raises(InferenceFailed):
        await oracle(answer).prove(WORK, COMPUTE)
    judgement = await judged(oracle(answer), claim(1))
    assert (judgement.verdict, judgement.reason) == (Verdict.ABSTAIN, AbstainReason.SOURCE_UNAVAILABLE)


# The tolerance at 2000 is 0.5 + 2 = 2.5.
ZONES = [
    (2000.0, Verdict.VALID, None),
    (2002.5, Verdict.VALID, None),
    (1997.5, Verdict.VALID, None),
    (2002.6, Verdict.ABSTAIN, AbstainReason.UNDECIDED),
    (2025.0, Verdict.ABSTAIN, AbstainReason.UNDECIDED),
    (2025.1, Verdict.INVALID, InvalidReason.VALUE_DIFFERS),
    (-2000.0, Verdict.INVALID, InvalidReason.VALUE_DIFFERS),
    ("2000", Verdict.INVALID, InvalidReason.VALUE_DIFFERS),
    (True, Verdict.INVALID, InvalidReason.VALUE_DIFFERS),
    (None, Verdict.INVALID, InvalidReason.VALUE_DIFFERS),
    (10**400, Verdict.INVALID, InvalidReason.VALUE_DIFFERS),
]


@pytest.mark.parametrize(("price", "verdict", "reason"), ZONES)
async def test_the_zones_of_a_number(price: Any, verdict: Verdict, reason: Any) -> None:
    body = f'{{"/market/open":true,"/price":{json.dumps(price)}}}'
    judgement = await judged(oracle(quoting(2000)), JsonOutput(body=body, made_at=1000))
    assert (judgement.verdict, judgement.reason) == (verdict, reason)


async def test_a_value_that_is_no_number_must_be_the_same() -> None:
    judgement = await judged(oracle(quoting(2000)), claim(2000, is_open=1))
    assert (judgement.verdict, judgement.score) == (Verdict.INVALID, math.inf)


@pytest.mark.parametrize("lie", [{"now": 1, "days": [0, 1]}, {"now": True, "days": [False, 1]}])
async def test_true_is_not_1_within_objects_and_lists_either(lie: Any) -> None:
    source = oracle(quoting(2000, {"now": True, "days": [0, 1]}))
    assert (await judged(source, claim(2000, {"now": True, "days": [0, 1]}))).verdict is Verdict.VALID
    assert (await judged(source, claim(2000, lie))).reason is InvalidReason.VALUE_DIFFERS


async def test_a_source_that_says_more_than_a_proof_may_hold_is_no_vote() -> None:
    judgement = await judged(oracle(quoting(2000, "x" * MAX_JSON_OUTPUT_CHARACTERS)), claim(2000))
    assert (judgement.verdict, judgement.reason) == (Verdict.ABSTAIN, AbstainReason.SOURCE_UNAVAILABLE)


@pytest.mark.parametrize("made_at", [0, 939, 1061, 1 << 50])
async def test_what_was_fetched_too_long_ago_or_in_the_future_is_undecided(made_at: int) -> None:
    judgement = await judged(oracle(quoting(2000)), claim(1, made_at=made_at))
    assert (judgement.verdict, judgement.reason) == (Verdict.ABSTAIN, AbstainReason.UNDECIDED)


@pytest.mark.parametrize("body", ['{"/price":1}', '{"/market/open":true,"/price":1,"/volume":2}', "[]", "7"])
async def test_other_values_than_the_selected_are_malformed(body: str) -> None:
    judgement = await judged(oracle(quoting(1)), JsonOutput(body=body, made_at=1000))
    assert judgement.reason is InvalidReason.OUTPUT_MALFORMED


def test_a_request_chooses_among_what_the_card_lists() -> None:
    assert decode_parameters(CARD, '{"pair":"BTC/USD"}').query == {"pair": "BTC/USD"}
    for text in ("{}", '{"pair":"../admin"}', '{"pair":1}', '{"pair":"BTC/USD","x":"y"}'):
        with pytest.raises(InputMismatch):
            decode_parameters(CARD, text)


NUMBERS = st.floats(-1e12, 1e12) | st.integers(-(10**15), 10**15)


@given(NUMBERS, NUMBERS)
def test_the_distance_is_the_difference_in_tolerances(one: float, other: float) -> None:
    fetched = {"/price": other, "/market/open": True}
    score = measure(FEED, {"/price": one, "/market/open": True}, fetched).score
    assert score == pytest.approx(abs(float(one) - float(other)) / (0.5 + 0.001 * abs(float(other))))


async def test_what_is_behind_an_arrays_end_is_nothing() -> None:
    feed = msgspec.structs.replace(FEED, select=("/noise/-",))
    work = dataclasses.replace(WORK, card=make_json_card(method="oracle", feed=feed))
    with pytest.raises(InferenceFailed, match="nothing at"):
        await oracle(quoting(1.0)).prove(work, COMPUTE)


async def test_a_source_that_says_too_much_by_now_is_no_vote() -> None:
    judgement = await judged(oracle(quoting(1.0, "x" * MAX_JSON_OUTPUT_CHARACTERS)), claim(1.0, "x"))
    assert (judgement.verdict, judgement.reason) == (Verdict.ABSTAIN, AbstainReason.SOURCE_UNAVAILABLE)
