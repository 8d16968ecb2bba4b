"""The dApp's side: what it signs, what it waits for, and what it says of a door that is none."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from poi import client as client_module
from poi.client import Nonces, PerformerUnreachable, PoiClient, UntrueAnswer
from shared.content.unixfs import cid_of
from shared.crypto import ecdsa
from shared.errors import CodecError, PoiError, RequestRefused
from shared.json_forms import request_from_json, to_hex
from shared.types import Digest, Uint256
from shared.workflow import Certified, Performed, SettledOnChain
from tests.cast import REQUESTER
from tests.chain_support import PERFORMER, Person
from tests.doors import Door, open_door
from tests.false_doors import DOCUMENT_TEXT, NETWORK, TASK_ID, answered, result
from tests.listening import until
from tests.toy_model import DOCUMENT, MODEL_HASH


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    """On the real clock, by which the client makes its deadlines."""
    async with open_door() as door:
        door.world.clock.now = time.time  # type: ignore[method-assign]
        yield door


@pytest.fixture
async def client(door: Door) -> AsyncIterator[PoiClient]:
    async with PoiClient(door.url, REQUESTER.identity) as client:
        yield client


# --- asking ------------------------------------------------------------------------------------------
async def test_a_request_is_signed_for_this_network_and_taken(door: Door, client: PoiClient) -> None:
    task_id, call = await client.prepare(0, DOCUMENT_TEXT)
    request = request_from_json(call["request"])
    assert (request.requester, request.performer) == (REQUESTER.address, PERFORMER.address)
    assert (request.model_hash, request.input_cid, request.fee) == (MODEL_HASH, cid_of(DOCUMENT), 0)
    assert door.world.domain.task_id(request) == task_id
    assert ecdsa.is_signed_by(REQUESTER.address, task_id, bytes.fromhex(call["signature"][2:]))
    assert await client.send(call) == task_id
    assert await client.send(call) == task_id
    assert door.desk.ledger.count_open() == 1
    assert (await client.get(task_id))["phase"] == "requested"


async def test_each_request_is_another_task(door: Door, client: PoiClient) -> None:
    document = json.loads(DOCUMENT_TEXT)
    ids = {await client.request(0, document) for _ in range(3)}
    assert len(ids) == 3
    assert door.desk.ledger.count_open() == 3


async def test_a_fee_is_signed_and_asked_for(door: Door, client: PoiClient) -> None:
    await door.desk.performer.earnings.load()
    _, call = await client.prepare(0, DOCUMENT_TEXT, fee=2**200)
    assert call["request"]["fee"] == str(2**200)
    with pytest.raises(RequestRefused, match="the deposit for this performer has 0") as refused:
        await client.request(0, DOCUMENT_TEXT, fee=10**15)
    error = refused.value
    assert (error.code, error.field) == (-32007, "request.fee")
    assert error.expected == f"TaskEscrow.deposit of {10**15} more for {to_hex(PERFORMER.address)} first"


async def test_nonces_are_in_a_row_so_that_they_share_a_slot_of_the_escrow(client: PoiClient) -> None:
    calls = [(await client.prepare(0, DOCUMENT_TEXT))[1] for _ in range(3)]
    first, second, third = (int(call["request"]["nonce"]) for call in calls)
    assert first % 256 == 0
    assert (second, third) == (first + 1, first + 2)


def test_after_a_word_of_nonces_comes_a_new_one() -> None:
    nonces = Nonces()
    taken = [nonces.take() for _ in range(3 * 256)]
    assert [nonce % 256 for nonce in taken] == 3 * list(range(256))
    words = [nonce // 256 for nonce in taken]
    assert [words[start : start + 256] == [words[start]] * 256 for start in (0, 256, 512)] == [True] * 3
    assert len(set(words)) == 3
    assert len(set(taken)) == len(taken)
    assert all(isinstance(nonce, Uint256) for nonce in taken)


def test_the_last_word_has_no_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    words = iter([2**248 - 1, 5])
    monkeypatch.setattr("poi.client.secrets.randbits", lambda bits: next(words) if bits == 248 else None)
    nonces = Nonces()
    taken = [nonces.take() for _ in range(257)]
    assert taken[255:] == [2**256 - 1, 5 * 256]


def test_a_client_that_forgot_everything_does_not_take_a_nonce_again() -> None:
    taken = {Nonces().take() for _ in range(1000)}
    assert len(taken) == 1000
    assert max(taken) > 2**240  # all of the word is drawn


async def test_a_chosen_nonce_and_deadline_are_used(client: PoiClient) -> None:
    _, call = await client.prepare(0, DOCUMENT_TEXT, nonce=2**256 - 1, deadline_seconds=60)
    _, other = await client.prepare(0, DOCUMENT_TEXT, nonce=2**256 - 1, deadline_seconds=120)
    assert call["request"]["nonce"] == str(2**256 - 1)
    assert 59 <= other["request"]["deadline"] - call["request"]["deadline"] <= 61
    assert call["request"]["seed"] != other["request"]["seed"]


async def test_a_document_is_sent_as_it_was_hashed(client: PoiClient) -> None:
    """Also when it is text that nobody would write like this."""
    odd = '{ "tensors" : ' + json.dumps(json.loads(DOCUMENT_TEXT)["tensors"], indent=3) + "}"
    _, call = await client.prepare(0, odd)
    assert call["input"] == odd
    assert call["request"]["inputCid"] == cid_of(odd.encode())
    assert await client.send(call)


async def test_parameters_are_canonical(client: PoiClient) -> None:
    _, call = await client.prepare(0, DOCUMENT_TEXT, {"top_k": 3, "max_tokens": 5, "temperature": 0.5})
    assert call["request"]["parameters"] == '{"max_tokens":5,"temperature":0.5,"top_k":3}'


async def test_an_unknown_definition_is_not_even_asked_for(client: PoiClient) -> None:
    with pytest.raises(RequestRefused, match="does not serve task definition 7") as refused:
        await client.prepare(7, DOCUMENT_TEXT)
    assert refused.value.code == -32001


async def test_a_refusal_comes_with_code_field_and_expectation(client: PoiClient) -> None:
    with pytest.raises(RequestRefused) as refused:
        await client.request(0, {"prompt": "hello"})
    error = refused.value
    assert (error.code, error.field, error.expected) == (-32002, "tensors", "tensors, as kind classify takes")
    with pytest.raises(RequestRefused) as refused:
        await client.get(TASK_ID)
    assert (refused.value.code, refused.value.field) == (-32008, "taskId")


# --- waiting -----------------------------------------------------------------------------------------
async def advance(door: Door, task_id: Digest) -> None:
    """Performs and certifies the task as the roles would."""
    task = door.desk.ledger.get(task_id)
    assert task is not None
    info = door.world.info("x", task_id=task_id, proof_of_task=(await door.desk.content.add(b"a proof")).cid)
    await door.desk.ledger.advance(task_id, Performed(info, bytes(65), 0.1, 0.0))
    await door.desk.ledger.advance(task_id, Certified(door.world.certificate(info), 4, 0, 4, 0.0))


async def test_it_waits_until_certified_and_until_final(
    door: Door, client: PoiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door.desk.door, "_output", _no_output)
    task_id = await client.request(0, DOCUMENT_TEXT)
    certified = asyncio.create_task(client.wait(task_id, until="certified"))
    final = asyncio.create_task(client.wait(task_id))
    await until(lambda: sum(map(len, door.desk.ledger._changed.values())) == 2, "both wait")
    await advance(door, task_id)
    assert (await certified)["phase"] == "certified"
    assert not final.done()
    await door.desk.ledger.advance(task_id, SettledOnChain(True, Digest(bytes(32)), 1, 0, 0.0))
    assert (await final)["phase"] == "approved"


async def _no_output(_: object) -> None:
    """These proofs are none; what a view shows of one is the door's test."""


async def test_when_the_time_is_over_it_gives_the_task_as_it_is(client: PoiClient) -> None:
    task_id = await client.request(0, DOCUMENT_TEXT)
    assert (await client.wait(task_id, timeout_seconds=0.05))["phase"] == "requested"
    assert (await client.wait(task_id, timeout_seconds=0))["phase"] == "requested"


async def test_where_too_many_wait_it_asks_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "PAUSE_SECONDS", 0.01)
    busy = {"jsonrpc": "2.0", "id": 1, "error": {"code": -32005, "message": "too many requests are waiting"}}
    view = {"taskId": to_hex(TASK_ID), "phase": "requested"}
    async with answered(busy, result(view), busy, result({**view, "phase": "certified"})) as client:
        assert (await client.wait(TASK_ID, until="certified"))["phase"] == "certified"


async def test_a_door_that_answers_at_once_is_not_asked_in_a_rush(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0
    call = PoiClient._call

    async def count(client: PoiClient, method: str, params: dict[str, Any]) -> Any:
        nonlocal asked
        asked += 1
        return await call(client, method, params)

    monkeypatch.setattr(PoiClient, "_call", count)
    async with answered(result({"taskId": to_hex(TASK_ID), "phase": "requested"})) as client:
        assert (await client.wait(TASK_ID, timeout_seconds=0.5))["phase"] == "requested"
    assert asked <= 4


# --- doors that are none, or lie ---------------------------------------------------------------------
async def test_another_tasks_id_is_not_taken_for_ones_own() -> None:
    async with answered(result(NETWORK), result({"taskId": to_hex(TASK_ID)})) as client:
        with pytest.raises(UntrueAnswer, match="the id of another task"):
            await client.request(0, DOCUMENT_TEXT)


@pytest.mark.parametrize("view", [None, [], "certified", {}, {"taskId": to_hex(bytes(32)), "phase": "certified"}])
async def test_a_view_of_another_task_is_not_taken_for_ones_own(view: Any) -> None:
    async with answered(result(view)) as client:
        for ask in (client.get(TASK_ID), client.wait(TASK_ID, until="certified", timeout_seconds=1)):
            with pytest.raises(UntrueAnswer):
                await ask


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>502 Bad Gateway</html>",
        b"null",
        b"[]",
        b"7",
        b'{"error":5}',
        b'{"error":{"message":"no code"}}',
        b'{"error":{"code":"x","message":"m"}}',
        b'{"error":{"code":1,"message":"m","data":7}}',
        b"[" * 100_000,
        b'{"result":' * 50_000,
        b'"\xff"',
        b'{"result":1e999}',
    ],
    ids=range(13),
)
async def test_what_is_no_answer_is_told_as_such(answer: bytes) -> None:
    async with answered(answer) as client:
        with pytest.raises(PerformerUnreachable):
            await client.get(TASK_ID)


@pytest.mark.parametrize(
    "changes",
    [
        {"chainId": "31337"},
        {"chainId": -1},
        {"chainId": 1.5},
        {"attestationCenter": None},
        {"attestationCenter": "0x00"},
        {"performer": "alice"},
        {"taskDefinitions": {}},
        {"taskDefinitions": [5]},
        {"taskDefinitions": [{"taskDefinitionId": 0}]},
        {"taskDefinitions": [{"taskDefinitionId": 0, "modelHash": "0x"}]},
    ],
    ids=str,
)
async def test_a_network_that_is_none_is_told_as_such(changes: dict[str, Any]) -> None:
    async with answered(result({**NETWORK, **changes})) as client:
        with pytest.raises(PoiError):
            await client.prepare(0, DOCUMENT_TEXT)


@pytest.mark.parametrize("network", [None, [], 5, {}])
async def test_no_network_is_told_as_such(network: Any) -> None:
    async with answered(result(network)) as client:
        with pytest.raises(PerformerUnreachable, match="its network is not described"):
            await client.domain()


@pytest.mark.parametrize("answer", [None, [], 5, {}, {"taskId": 5}, {"taskId": "0x00"}])
async def test_an_answer_without_a_task_id_is_told_as_such(answer: Any) -> None:
    async with answered(result(NETWORK), result(answer)) as client:
        with pytest.raises(CodecError, match="taskId"):
            await client.request(0, DOCUMENT_TEXT)


async def test_an_endless_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAX_ANSWER_BYTES", 1000)
    async with answered(b'{"result":"' + b"a" * 2000 + b'"}') as client:
        with pytest.raises(PerformerUnreachable, match="an answer of more than 1000 bytes"):
            await client.get(TASK_ID)


async def test_nobody_there_is_told_as_such() -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    async with PoiClient(f"http://127.0.0.1:{port}", REQUESTER.identity) as client:
        with pytest.raises(PerformerUnreachable, match=str(port)):
            await client.network()


async def test_a_door_that_hangs_up_is_told_as_such() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read(100)
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, PoiClient(f"http://127.0.0.1:{port}", REQUESTER.identity) as client:
        with pytest.raises(PerformerUnreachable):
            await client.network()


async def test_a_client_that_was_not_opened_says_so() -> None:
    with pytest.raises(PerformerUnreachable, match="async context manager"):
        await PoiClient("http://127.0.0.1:1", REQUESTER.identity).network()


async def test_two_requesters_do_not_share_a_session(door: Door) -> None:
    async with (
        PoiClient(door.url, REQUESTER.identity) as first,
        PoiClient(door.url, Person("another").identity) as second,
    ):
        ids = [await client.request(0, DOCUMENT_TEXT) for client in (first, second)]
        assert ids[0] != ids[1]
        assert isinstance(first._session, aiohttp.ClientSession)
        assert first._session is not second._session
    assert first._session.closed
