"""The dApp's side: what it signs, what it waits for, and that it is shown no other result than was certified."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from poi import client as client_module
from poi.client import PerformerUnreachable, PoiClient, UntrueAnswer
from shared.canonical import encode_canonical
from shared.crypto import ecdsa
from shared.documents import TensorOutput, TextOutput
from shared.errors import CodecError, PoiError, Reject, RequestRefused
from shared.json_forms import certificate_to_json, request_from_json, to_hex
from shared.outputs import Output, output_view
from shared.types import Digest, Verdict
from shared.workflow import Certified, Performed, Phase, SettledOnChain
from tests.cast import REQUESTER, Cast
from tests.chain_support import PERFORMER, Person, sha
from tests.content_support import serving
from tests.doors import Door, open_door
from tests.listening import until
from tests.toy_model import DATA, DOCUMENT, MODEL_HASH, OUTPUT, cid_of

DOCUMENT_TEXT = DOCUMENT.decode()
TASK_ID = Digest(sha("a task"))


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


@asynccontextmanager
async def answered(*answers: Any) -> AsyncIterator[PoiClient]:
    """A client of a door that gives these answers, the last one again and again; bytes as they are."""
    left = list(answers)

    async def answer(_: web.Request) -> web.Response:
        said = left.pop(0) if len(left) > 1 else left[0]
        body = said if isinstance(said, bytes) else json.dumps(said).encode()
        return web.Response(body=body, content_type="text/html")

    async with serving([web.post("/", answer)]) as url, PoiClient(url, REQUESTER.identity) as client:
        yield client


def result(value: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "result": value}


NETWORK = {
    "chainId": 31337,
    "attestationCenter": to_hex(Cast().domain.contract),
    "performer": to_hex(PERFORMER.address),
    "epoch": 1,
    "taskDefinitions": [{"taskDefinitionId": 0, "modelHash": to_hex(MODEL_HASH)}],
}


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
    info = door.world.info("x", task_id=task_id, proof_of_task=await door.desk.content.add(b"a proof"))
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


# --- believing ---------------------------------------------------------------------------------------
CAST = Cast()
TEXT = TextOutput(prompt=(256, 104), tokens=(104, 105, 257), stop="eos")
TENSORS = TensorOutput(tensors={"y": OUTPUT.scores})
OUTPUTS: dict[str, tuple[Output, bytes]] = {
    "label": (OUTPUT, DATA),
    "text": (TEXT, hashlib.sha256(b"hi").digest()),
    "tensors": (TENSORS, hashlib.sha256(encode_canonical(TENSORS)).digest()),
}


def view_of(name: str, verdict: Verdict = Verdict.VALID, **changes: Any) -> dict[str, Any]:
    """What an honest door shows of a certified task."""
    output, data = OUTPUTS[name]
    info = CAST.info(name, data=data)
    view = {
        "taskId": to_hex(info.task_id),
        "phase": str(Phase.CERTIFIED),
        "result": msgspec.to_builtins(output_view(output)),
        "proofOfTask": info.proof_of_task,
        "data": to_hex(data),
        "certificate": certificate_to_json(CAST.certificate(info, verdict)),
    }
    return {**view, **changes}


async def check(view: dict[str, Any]) -> Any:
    async with answered(result(NETWORK)) as client:
        return await client.verify(view, CAST.table_of(1))


@pytest.mark.parametrize("name", OUTPUTS)
async def test_a_true_view_is_believed(name: str) -> None:
    info = CAST.info(name, data=OUTPUTS[name][1])
    assert await check(view_of(name)) == CAST.certificate(info)
    assert await check(view_of(name, result=None)) == CAST.certificate(info)


async def test_a_rejection_is_certified_too() -> None:
    assert (await check(view_of("label", Verdict.INVALID))).verdict is Verdict.INVALID


def result_of(name: str, **changes: Any) -> dict[str, Any]:
    view: dict[str, Any] = msgspec.to_builtins(output_view(OUTPUTS[name][0]))
    return {**view, **changes}


LIES: dict[str, tuple[str, dict[str, Any]]] = {
    "another label": ("label", {"result": result_of("label", label=2)}),
    "a huge label": ("label", {"result": result_of("label", label=1 << 300)}),
    "a negative label": ("label", {"result": result_of("label", label=-1)}),
    "no label": ("label", {"result": {"kind": "classify"}}),
    "another text": ("text", {"result": result_of("text", text="ho")}),
    "other tokens": ("text", {"result": result_of("text", tokens=[104, 111, 257])}),
    "other tensors": ("tensors", {"result": result_of("tensors", tensors={})}),
    "another kind": ("label", {"result": result_of("text")}),
    "an unknown kind": ("label", {"result": {"kind": "image", "label": 1}}),
    "no object": ("label", {"result": "1"}),
    "other data": ("label", {"data": to_hex((2).to_bytes(32, "big")), "result": result_of("label", label=2)}),
    "another proof": ("label", {"proofOfTask": cid_of(b"another")}),
    "another task's certificate": ("label", {"certificate": view_of("text")["certificate"]}),
    "another task": ("label", {"taskId": to_hex(bytes(32))}),
}


@pytest.mark.parametrize("name", LIES)
async def test_a_view_that_is_not_what_was_certified_is_not_believed(name: str) -> None:
    kind, changes = LIES[name]
    with pytest.raises(UntrueAnswer):
        await check(view_of(kind, **changes))


def certificate_of(name: str, **changes: Any) -> dict[str, Any]:
    certificate = CAST.certificate(CAST.info(name, data=OUTPUTS[name][1]))
    return {"certificate": certificate_to_json(msgspec.structs.replace(certificate, **changes))}


FORGED: dict[str, dict[str, Any]] = {
    "turned round": certificate_of("label", verdict=Verdict.INVALID),
    "too few": certificate_of("label", signers=(0, 1)),
    "other signers": certificate_of("label", signers=(0, 1, 2)),
    "out of the table": certificate_of("label", signers=(0, 1, 2, 9)),
    "nobody's": certificate_of("label", signature=bytes(96)),
    "not the performer's": certificate_of("label", performer_signature=bytes(65)),
}


@pytest.mark.parametrize("name", FORGED)
async def test_a_certificate_that_no_quorum_signed_is_not_believed(name: str) -> None:
    with pytest.raises(Reject):
        await check(view_of("label", **FORGED[name]))


async def test_a_certificate_of_other_attesters_is_not_believed() -> None:
    async with answered(result(NETWORK)) as client:
        table = Cast((1, 1, 1)).table_of(1)
        with pytest.raises(Reject):
            await client.verify(view_of("label"), table)


async def test_a_certificate_for_another_contract_is_not_believed() -> None:
    elsewhere = {**NETWORK, "attestationCenter": to_hex(b"\x01" * 20)}
    async with answered(result(elsewhere)) as client:
        with pytest.raises(Reject):
            await client.verify(view_of("label"), CAST.table_of(1))


@pytest.mark.parametrize("certificate", [None, {}, [], "yes", {"verdict": "valid"}])
async def test_no_certificate_is_no_certificate(certificate: Any) -> None:
    with pytest.raises(CodecError):
        await check(view_of("label", certificate=certificate))


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
