"""The door over a real server: what is told of tasks, who waits for them, and that no JSON makes it stumble."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from performer.ledger import TaskLedger
from shared.constants import (
    LONG_POLL_SECONDS,
    MAX_LONG_POLLS,
)
from shared.content.unixfs import cid_of
from shared.json_forms import certificate_from_json, to_hex
from shared.types import Digest, TaskDefinition, TaskRequest
from shared.workflow import Certified, DeadlinePassed, Failed, Inclusion, Performed, SettledOnChain, Submitted
from tests.cast import beacon_of
from tests.chain_support import PERFORMER, Person, sha
from tests.doors import REQUEST_FIELDS, Door, asking, open_door
from tests.listening import until
from tests.toy_model import DATA, DEFINITION, MODEL_HASH, OUTPUT


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    async with open_door() as door:
        yield door


# --- tasks -------------------------------------------------------------------------------------------
async def test_the_network_is_described() -> None:
    async with open_door(served=(0,)) as door:
        door.world.define(TaskDefinition(1, "other", "exact", MODEL_HASH, cid_of(b"other")))
        definition = {
            "taskDefinitionId": 0,
            "name": "toy",
            "method": "tensor",
            "modelHash": to_hex(MODEL_HASH),
            "cardCid": DEFINITION.card_cid,
            "leastFee": "0",
            "seed": "requester",
        }
        nothing: list[Any] = [None, {}, []]
        for params in nothing:
            assert (await door.call("poi_getNetwork", params))["result"] == {
                "chainId": 31337,
                "attestationCenter": to_hex(door.world.domain.contract),
                "performer": to_hex(PERFORMER.address),
                "epoch": 1,
                "beacon": to_hex(beacon_of(1)),
                "taskDefinitions": [definition],
            }
        form = asking(task_definition_id=1)(door.world)
        await door.is_refused(form, -32001, "request.taskDefinitionId", "one of [0]")


@pytest.mark.parametrize(
    ("params", "field", "expected"),
    [
        ({}, "taskId", "32 bytes as 0x-hex"),
        ({"taskId": "0x" + "00" * 31}, "taskId", "32 bytes as 0x-hex"),
        ({"taskId": 5}, "taskId", "32 bytes as 0x-hex"),
        ({"taskId": []}, "taskId", "32 bytes as 0x-hex"),
        ({"taskId": to_hex(bytes(32)), "waitFor": "approved"}, "waitFor", "certified or final"),
        ({"taskId": to_hex(bytes(32)), "waitFor": ""}, "waitFor", "certified or final"),
        ({"taskId": to_hex(bytes(32)), "waitFor": []}, "waitFor", "certified or final"),
        ({"taskId": to_hex(bytes(32)), "waitFor": {"final": 1}}, "waitFor", "certified or final"),
        ({"taskId": to_hex(bytes(32)), "timeoutSeconds": -1}, "timeoutSeconds", "0 to 30"),
        ({"taskId": to_hex(bytes(32)), "timeoutSeconds": 30.01}, "timeoutSeconds", "0 to 30"),
        ({"taskId": to_hex(bytes(32)), "timeoutSeconds": 10**400}, "timeoutSeconds", "0 to 30"),
        ({"taskId": to_hex(bytes(32)), "timeoutSeconds": "1"}, "timeoutSeconds", "0 to 30"),
        ({"taskId": to_hex(bytes(32)), "timeoutSeconds": True}, "timeoutSeconds", "0 to 30"),
        ({"taskId": to_hex(bytes(32)), "timeoutSeconds": None}, "timeoutSeconds", "0 to 30"),
    ],
)
async def test_wrong_questions(door: Door, params: dict[str, Any], field: str, expected: str) -> None:
    answer = await door.call("poi_getTask", params)
    data = {"field": field, "expected": expected}
    assert (answer["error"]["code"], answer["error"]["data"]) == (-32602, data)


async def test_an_unknown_task(door: Door) -> None:
    answer = await door.call("poi_getTask", {"taskId": to_hex(bytes(32)), "waitFor": "final"})
    data = {"field": "taskId", "expected": "an id that poi_requestInference returned"}
    assert (answer["error"]["code"], answer["error"]["data"]) == (-32008, data)


async def take(door: Door) -> tuple[Digest, TaskRequest]:
    """A task, taken."""
    request = door.world.request()
    await door.ask(door.world.form(request))
    return door.world.domain.task_id(request), request


async def perform(door: Door, task_id: Digest) -> Performed:
    """As the performer's duty would."""
    message = await door.world.performed()
    assert message.task_info.task_id == task_id
    event = Performed(message.task_info, message.performer_signature, 0.25, door.world.clock.now())
    await door.desk.ledger.advance(task_id, event)
    return event


async def test_a_view_says_what_happened_and_nothing_that_did_not(door: Door) -> None:
    now = door.world.clock.now()
    door.world.clock.now = lambda: now  # type: ignore[method-assign]
    task_id, _ = await take(door)
    view = await door.view(task_id)
    assert view == {
        "taskId": to_hex(task_id),
        "phase": "requested",
        "request": door.world.form()["request"],
        "result": None,
        "proofOfTask": None,
        "data": None,
        "certificate": None,
        "votes": None,
        "settlement": None,
        "fee": {"amount": "0", "isCollected": None},
        "failure": None,
        "timings": {"inferenceMs": None, "performedMs": None, "certificateMs": None, "settledMs": None},
    }
    info = (await perform(door, task_id)).task_info
    view = await door.view(task_id)
    scores = np.frombuffer(OUTPUT.scores.data, np.float32).tolist()
    assert view["phase"] == "performed"
    assert view["result"] == {"kind": "classify", "label": 1, "scores": pytest.approx(scores)}
    assert (view["proofOfTask"], view["data"]) == (info.proof_of_task, to_hex(DATA))
    assert (view["certificate"], view["votes"], view["settlement"]) == (None, None, None)

    certificate = door.world.certificate(info, signers=(0, 1, 2))
    await door.desk.ledger.advance(task_id, Certified(certificate, 3, 1, 4, now + 0.5))
    view = await door.view(task_id)
    assert certificate_from_json(view["certificate"]) == certificate
    assert view["votes"] == {"validPower": 3, "invalidPower": 1, "totalPower": 4}
    assert view["settlement"] is None

    await door.desk.ledger.advance(task_id, Submitted(Digest(b"t" * 32)))
    assert (await door.view(task_id))["settlement"] == {
        "txHash": to_hex(b"t" * 32),
        "gasUsed": None,
        "batchSize": 0,
        "inclusion": None,
    }
    inclusion = Inclusion(Digest(b"r" * 32), Digest(b"i" * 32), True, Digest(b"v" * 32), (b"p" * 32, b"q" * 32))
    await door.desk.ledger.advance(task_id, SettledOnChain(True, Digest(b"u" * 32), 12345, 7, now + 2, inclusion))
    view = await door.view(task_id)
    assert view["phase"] == "approved"
    assert view["settlement"] == {
        "txHash": to_hex(b"u" * 32),
        "gasUsed": 12345,
        "batchSize": 7,
        "inclusion": {
            "root": to_hex(b"r" * 32),
            "taskInfoHash": to_hex(b"i" * 32),
            "isApproved": True,
            "votersHash": to_hex(b"v" * 32),
            "proof": [to_hex(b"p" * 32), to_hex(b"q" * 32)],
        },
    }
    assert view["fee"] == {"amount": "0", "isCollected": None}
    assert view["timings"] == {"inferenceMs": 250, "performedMs": 0, "certificateMs": 500, "settledMs": 2000}


async def test_a_proof_that_is_gone_leaves_the_task_answered(door: Door) -> None:
    task_id, _ = await take(door)
    info = (await perform(door, task_id)).task_info
    del door.world.content.blocks[PERFORMER.address][info.proof_of_task]
    view = await door.view(task_id)
    assert (view["phase"], view["result"], view["data"]) == ("performed", None, to_hex(DATA))


async def test_a_failure_is_told(door: Door) -> None:
    task_id, _ = await take(door)
    await door.desk.ledger.advance(task_id, Failed("the engine is on fire"))
    view = await door.view(task_id)
    assert (view["phase"], view["failure"]) == ("requested", "the engine is on fire")


# --- waiting -----------------------------------------------------------------------------------------
def waiting(ledger: TaskLedger) -> int:
    return sum(map(len, ledger._changed.values()))


async def test_a_long_poll_waits_for_certified_and_for_final(door: Door) -> None:
    task_id, _ = await take(door)
    certified = asyncio.create_task(door.view(task_id, waitFor="certified"))
    final = asyncio.create_task(door.view(task_id, waitFor="final"))
    await until(lambda: waiting(door.desk.ledger) == 2, "both wait")
    info = (await perform(door, task_id)).task_info
    await until(lambda: waiting(door.desk.ledger) == 2, "both wait again")
    assert not certified.done()
    await door.desk.ledger.advance(task_id, Certified(door.world.certificate(info), 4, 0, 4, 0.0))
    assert (await asyncio.wait_for(certified, 10))["phase"] == "certified"
    await until(lambda: waiting(door.desk.ledger) == 1, "one waits still")
    assert not final.done()
    await door.desk.ledger.advance(task_id, SettledOnChain(False, Digest(bytes(32)), 1, 0, 0.0))
    assert (await asyncio.wait_for(final, 10))["phase"] == "rejected"
    assert waiting(door.desk.ledger) == 0


async def test_an_expired_task_ends_every_wait(door: Door) -> None:
    task_id, _ = await take(door)
    polls = [asyncio.create_task(door.view(task_id, waitFor=goal)) for goal in ("certified", "final")]
    await until(lambda: waiting(door.desk.ledger) == 2, "both wait")
    await door.desk.ledger.advance(task_id, DeadlinePassed())
    assert [(await asyncio.wait_for(poll, 10))["phase"] for poll in polls] == ["expired", "expired"]


async def test_a_long_poll_answers_when_its_time_is_over(door: Door) -> None:
    task_id, _ = await take(door)
    assert (await door.view(task_id, waitFor="certified", timeoutSeconds=0.02))["phase"] == "requested"
    assert (await door.view(task_id, waitFor="final", timeoutSeconds=0))["phase"] == "requested"
    assert waiting(door.desk.ledger) == 0


async def test_too_many_waiters_are_told_so_and_the_place_comes_back(door: Door) -> None:
    task_id, _ = await take(door)
    waits = [
        asyncio.create_task(door.desk.ledger.wait(task, LONG_POLL_SECONDS))
        for task in [door.desk.ledger.get(task_id)] * MAX_LONG_POLLS
        if task is not None
    ]
    await until(lambda: waiting(door.desk.ledger) == MAX_LONG_POLLS, "all places are taken")
    answer = await door.call("poi_getTask", {"taskId": to_hex(task_id), "waitFor": "final"})
    assert answer["error"] == {
        "code": -32005,
        "message": "too many requests are waiting",
        "data": {"expected": "poll again in a moment"},
    }
    assert (await door.view(task_id))["phase"] == "requested"  # who does not wait is answered
    waits.pop().cancel()
    await until(lambda: waiting(door.desk.ledger) == MAX_LONG_POLLS - 1, "a place is free")
    assert (await door.view(task_id, waitFor="final", timeoutSeconds=0.01))["phase"] == "requested"
    for wait in waits:
        wait.cancel()


# --- anything ----------------------------------------------------------------------------------------
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**80), 10**80) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=10), children, max_size=4),
    max_leaves=12,
)
HEXES = st.binary(max_size=66).map(to_hex)
CHANGES = st.fixed_dictionaries({}, optional=dict.fromkeys(REQUEST_FIELDS, JSON | HEXES))
METHODS = ["poi_getNetwork", "poi_requestInference", "poi_getTask"]


@pytest.fixture
def any_door() -> Any:
    """The door, and the runner that its server lives in."""
    with asyncio.Runner() as runner:
        context = open_door()
        yield runner, runner.run(context.__aenter__())
        runner.run(context.__aexit__(None, None, None))


def test_any_params_get_an_answer_never_a_fault_and_leave_nothing(any_door: Any) -> None:
    runner, door = any_door
    honest = runner.run(_honest_form(door))
    forms = st.fixed_dictionaries(
        {"request": CHANGES.map(lambda fields: {**honest["request"], **fields}) | JSON},
        optional={"signature": st.just(honest["signature"]) | HEXES | JSON, "input": st.just(honest["input"]) | JSON},
    )
    questions = st.fixed_dictionaries(
        {"taskId": HEXES | st.just(to_hex(bytes(32))) | JSON},
        optional={"waitFor": st.sampled_from(["final", "certified"]) | JSON, "timeoutSeconds": JSON},
    )
    before = door.stored()

    @settings(max_examples=200)
    @given(st.sampled_from(METHODS), JSON | forms | questions)
    def anything(method: str, params: Any) -> None:
        with capture_logs() as logs:
            answer = runner.run(door.call(method, params))
        assert ("result" in answer) == (method == "poi_getNetwork" and params in (None, [], {})), answer
        assert answer.get("error", {}).get("code") != -32603
        assert logs == []
        assert door.stored() == before

    anything()


async def _honest_form(door: Door) -> dict[str, Any]:
    """Signed, but by somebody else, so that no combination of its parts is a request that is taken."""
    return door.world.form(signer=Person("thief"))


def test_any_text_as_input_is_refused(any_door: Any) -> None:
    """Rightly signed, and named by its CID; none of these texts happens to fit the model."""
    runner, door = any_door

    @settings(max_examples=100)
    @given(JSON.map(json.dumps) | st.text() | st.binary().map(lambda data: data.decode("latin1")))
    def anything(text: str) -> None:
        before = door.stored()
        with capture_logs() as logs:
            answer = runner.run(_ask_with(door, text))
        assert answer["error"]["code"] == -32002
        assert logs == []
        assert door.stored() == before

    anything()


async def _ask_with(door: Door, text: str) -> Any:
    return await door.ask(asking(text.encode(), nonce=int.from_bytes(sha(text), "big"))(door.world))
