"""Who gets in: every refusal over a real server, with its code, field and expectation, and nothing stored after it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from shared.constants import (
    MAX_DEADLINE_SECONDS,
    MAX_PARAMETERS_BYTES,
)
from shared.content.unixfs import cid_of
from shared.crypto.ecdsa import HALF_ORDER
from shared.errors import StoreFull
from shared.json_forms import to_hex
from shared.types import Cid, Digest
from shared.workflow import Phase
from tests.cast import REQUESTER
from tests.chain_support import PERFORMER, Person
from tests.doors import REQUEST_FIELDS, Door, FormOf, asking, open_door, saying
from tests.roles import World
from tests.toy_model import DEFINITION, DOCUMENT, MODEL_HASH, document_of

SECP256K1_ORDER = 2 * HALF_ORDER + 1


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    async with open_door() as door:
        yield door


# --- a request that is taken -------------------------------------------------------------------------
async def test_a_good_request_is_a_task(door: Door) -> None:
    request = door.world.request()
    answer = await door.ask(door.world.form(request))
    task_id = door.world.domain.task_id(request)
    assert answer == {"jsonrpc": "2.0", "id": 1, "result": {"taskId": to_hex(task_id)}}
    task = door.desk.ledger.get(task_id)
    assert task is not None
    assert (task.request, task.phase) == (request, Phase.REQUESTED)
    assert await door.desk.content.has(request.input_cid)


async def test_the_same_request_twice_is_one_task(door: Door) -> None:
    form = door.world.form()
    first = await door.ask(form)
    before = door.stored()
    assert await door.ask(form) == first
    assert door.stored() == before
    assert door.desk.ledger.count_open() == 1


async def test_the_same_request_at_the_same_time_is_one_task(door: Door) -> None:
    form = door.world.form()
    answers = await asyncio.gather(*(door.ask(form) for _ in range(8)))
    assert len({answer["result"]["taskId"] for answer in answers}) == 1
    assert door.desk.ledger.count_open() == 1
    assert door.desk.performer._queue.qsize() == 1


async def test_the_same_input_with_another_nonce_is_another_task(door: Door) -> None:
    answers = [await door.ask(door.world.form(door.world.request(nonce=nonce))) for nonce in (1, 2, 2**256 - 1)]
    assert len({answer["result"]["taskId"] for answer in answers}) == 3


@pytest.mark.parametrize("nonce", ["1", 1])
async def test_integers_come_as_numbers_or_as_text(door: Door, nonce: Any) -> None:
    form = door.world.form()
    form["request"]["nonce"] = nonce
    assert "result" in await door.ask(form)


async def test_an_input_may_be_named_by_its_cid_alone(door: Door) -> None:
    await door.world.content.join(door.world.people[0].address).add(DOCUMENT)
    assert "result" in await door.ask(door.world.form(document=None))


async def test_parameters_by_place(door: Door) -> None:
    form = door.world.form()
    assert "result" in await door.ask([form["request"], form["signature"], form["input"]])


# --- refusals: who and when --------------------------------------------------------------------------
REFUSALS: dict[str, tuple[FormOf, int, str, str]] = {
    "unknown definition": (asking(task_definition_id=7), -32001, "request.taskDefinitionId", "one of [0]"),
    "wrong model hash": (
        asking(model_hash=Digest(bytes(32))),
        -32001,
        "request.modelHash",
        to_hex(MODEL_HASH),
    ),
    "other performer": (
        asking(performer=REQUESTER.address),
        -32602,
        "request.performer",
        to_hex(PERFORMER.address),
    ),
    "parameters too long": (
        asking(parameters='{"a":"' + "ü" * (MAX_PARAMETERS_BYTES // 2) + '"}'),
        -32602,
        "request.parameters",
        f"at most {MAX_PARAMETERS_BYTES} bytes of JSON",
    ),
    "parameters with spaces": (
        asking(parameters="{ }"),
        -32002,
        "request.parameters",
        "canonical JSON: keys sorted, no spaces",
    ),
    "parameters not JSON": (
        asking(parameters="{"),
        -32002,
        "request.parameters",
        "canonical JSON: keys sorted, no spaces",
    ),
    "parameters not an object": (
        asking(parameters="[]"),
        -32002,
        "request.parameters",
        "canonical JSON: keys sorted, no spaces",
    ),
    "parameters of another kind": (
        asking(parameters='{"temperature":0}'),
        -32002,
        "parameters.temperature",
        "{} for kind classify",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_terms(door: Door, name: str) -> None:
    form, code, field, expected = REFUSALS[name]
    await door.is_refused(form(door.world), code, field, expected)


@pytest.mark.parametrize(
    ("seconds", "message"),
    [
        (0, "the deadline has passed"),
        (-1, "the deadline has passed"),
        (-1_800_000_000, "the deadline has passed"),
        (MAX_DEADLINE_SECONDS + 2, "the deadline is too far away"),
        (2**63, "the deadline is too far away"),
    ],
)
async def test_deadlines(door: Door, seconds: int, message: str) -> None:
    at = 1_900_000_000.4
    door.world.clock.now = lambda: at  # type: ignore[method-assign]
    form = asking(deadline=int(at) + seconds)(door.world)
    expected = f"unix seconds between {int(at) + 1} and {int(at) + MAX_DEADLINE_SECONDS}"
    assert await door.is_refused(form, -32003, "request.deadline", expected) == message


async def test_a_definition_may_want_nearer_deadlines_and_may_be_paused(door: Door) -> None:
    door.world.clock.now = lambda: 1_900_000_000.4  # type: ignore[method-assign]
    form = asking(deadline=1_900_000_061)(door.world)
    terms = msgspec.structs.replace(DEFINITION.terms, maximum_deadline=60)
    door.world.define(msgspec.structs.replace(DEFINITION, terms=terms))
    expected = "unix seconds between 1900000001 and 1900000060"
    assert await door.is_refused(form, -32003, "request.deadline", expected) == "the deadline is too far away"
    taken = asking(deadline=1_900_000_060)(door.world)
    answer = await door.ask(taken)
    door.world.define(msgspec.structs.replace(DEFINITION, is_paused=True))
    message = await door.is_refused(form, -32006, "request.taskDefinitionId", "try again later")
    assert message == "the task definition is paused"
    assert await door.ask(taken) == answer  # what was taken before stays


@pytest.mark.parametrize("seconds", [1, MAX_DEADLINE_SECONDS])
async def test_the_outermost_deadlines_are_taken(door: Door, seconds: int) -> None:
    door.world.clock.now = lambda: 1_900_000_000.4  # type: ignore[method-assign]
    assert "result" in await door.ask(asking(deadline=1_900_000_000 + seconds)(door.world))


async def test_a_repeated_request_is_the_same_task_after_its_deadline(door: Door) -> None:
    form = door.world.form()
    first = await door.ask(form)
    now = door.world.clock.now()
    door.world.clock.now = lambda: now + 10_000  # type: ignore[method-assign]
    assert await door.ask(form) == first


async def test_too_many_open_tasks() -> None:
    async with open_door(max_open_tasks=1) as door:
        await door.ask(door.world.form())
        other = asking(nonce=2)(door.world)
        assert (
            await door.is_refused(other, -32005, None, "try again in a moment")
            == "the performer has too many open tasks"
        )


async def test_a_nonce_is_used_once(door: Door) -> None:
    await door.ask(door.world.form())
    again = asking(document_of(9, 9, 9, 9))(door.world)
    message = await door.is_refused(again, -32010, "request.nonce", "a fresh nonce")
    assert message == "the nonce was used for another task"


async def test_another_requester_may_use_the_same_nonce(door: Door) -> None:
    await door.ask(door.world.form())
    other = Person("another requester")
    assert "result" in await door.ask(asking(signer=other, requester=other.address)(door.world))


# --- refusals: signatures ----------------------------------------------------------------------------
def _signature(form: dict[str, Any]) -> bytes:
    return bytes.fromhex(form["signature"][2:])


def _mirrored(signature: bytes) -> bytes:
    """The other signature that the same key could have made, which EIP-2 refuses."""
    s = SECP256K1_ORDER - int.from_bytes(signature[32:64], "big")
    return signature[:32] + s.to_bytes(32, "big") + bytes([55 - signature[64]])


@pytest.mark.parametrize(
    "forge",
    [
        lambda world, good: bytes(65),
        lambda world, good: bytes([255]) * 65,
        lambda world, good: good[:64] + bytes([good[64] - 27]),
        lambda world, good: good[:64] + b"\x1d",
        lambda world, good: _mirrored(good),
        lambda world, good: bytes([good[0] ^ 1]) + good[1:],
        lambda world, good: Person("thief").identity.sign(world.domain.task_id(world.request())),
        lambda world, good: REQUESTER.identity.sign(world.domain.task_id(world.request(nonce=2))),
    ],
    ids=["zero", "ones", "v of 0", "v of 29", "high s", "one bit", "another key", "another request"],
)
async def test_a_wrong_signature(door: Door, forge: Callable[[World, bytes], bytes]) -> None:
    request = door.world.request()
    form = door.world.form(request)
    form["signature"] = to_hex(forge(door.world, _signature(form)))
    form["request"]["deadline"] = request.deadline
    task_id = door.world.domain.task_id(request)
    expected = f"a secp256k1 signature by {to_hex(REQUESTER.address)} over the EIP-712 digest {to_hex(task_id)}"
    message = await door.is_refused(form, -32004, "signature", expected)
    assert message == "the signature is not the requester's over this request"


@pytest.mark.parametrize(
    "signature", ["", "0x", "0x" + "00" * 64, "0x" + "00" * 66, "00" * 65, "0xzz", 5, None, [], {}, "0x" + "0" * 131]
)
async def test_a_signature_of_another_form(door: Door, signature: Any) -> None:
    form = {**door.world.form(), "signature": signature}
    await door.is_refused(form, -32602, "signature", "65 bytes as 0x-hex")


async def test_each_field_is_signed(door: Door) -> None:
    """Who changes a field on the way has another digest, so the signature is not the requester's over it."""
    changes = {
        "nonce": "2",
        "taskDefinitionId": 7,
        "modelHash": to_hex(bytes(32)),
        "parameters": '{"a":1}',
        "seed": to_hex(bytes(32)),
        "deadline": door.world.request().deadline + 1,
        "requester": to_hex(PERFORMER.address),
    }
    before = door.stored()
    for name, value in changes.items():
        answer = await door.ask(saying(**{name: value})(door.world))
        assert answer["error"]["code"] == -32004, name
    assert door.stored() == before


# --- refusals: forms ---------------------------------------------------------------------------------
@pytest.mark.parametrize("missing", ["request", "signature"])
async def test_a_missing_parameter(door: Door, missing: str) -> None:
    form = door.world.form()
    del form[missing]
    await door.is_refused(form, -32602, missing, "see poi_getNetwork and docs/protocol.md")


@pytest.mark.parametrize(
    ("change", "field", "expected"),
    [
        ({"requester": "0x00"}, "request.requester", "20 bytes as 0x-hex"),
        ({"performer": "alice"}, "request.performer", "20 bytes as 0x-hex"),
        ({"modelHash": to_hex(bytes(31))}, "request.modelHash", "32 bytes as 0x-hex"),
        ({"seed": "0x" + "g" * 64}, "request.seed", "32 bytes as 0x-hex"),
        ({"nonce": "-1"}, "request.nonce", "a decimal integer"),
        ({"nonce": "01"}, "request.nonce", "a decimal integer"),
        ({"nonce": "1e3"}, "request.nonce", "a decimal integer"),
        ({"nonce": "9" * 5000}, "request.nonce", "a decimal integer"),
        ({"nonce": "٣"}, "request.nonce", "a decimal integer"),
        ({"nonce": -1}, "request.nonce", "an unsigned integer of 256 bits"),
        ({"nonce": 2**256}, "request.nonce", "an unsigned integer of 256 bits"),
        ({"fee": str(2**256)}, "request.fee", "an unsigned integer of 256 bits"),
        ({"deadline": -1}, "request.deadline", "an unsigned integer of 64 bits"),
        ({"deadline": 2**64}, "request.deadline", "an unsigned integer of 64 bits"),
        ({"taskDefinitionId": -1}, "request.taskDefinitionId", "an unsigned integer of 16 bits"),
        ({"taskDefinitionId": 65536}, "request.taskDefinitionId", "an unsigned integer of 16 bits"),
    ],
)
async def test_a_field_out_of_its_form(door: Door, change: dict[str, Any], field: str, expected: str) -> None:
    await door.is_refused(saying(**change)(door.world), -32602, field, expected)


@pytest.mark.parametrize("name", REQUEST_FIELDS)
@pytest.mark.parametrize("value", [True, 1.5, [], {}, [1]])
async def test_a_field_of_another_type_is_named(door: Door, name: str, value: Any) -> None:
    before = door.stored()
    answer = await door.ask(saying(**{name: value})(door.world))
    assert (answer["error"]["code"], answer["error"]["data"]["field"]) == (-32602, f"request.{name}")
    assert door.stored() == before


@pytest.mark.parametrize("request_form", [None, 1, "text", [], [1], True])
async def test_a_request_that_is_no_object(door: Door, request_form: Any) -> None:
    before = door.stored()
    answer = await door.ask({**door.world.form(), "request": request_form})
    assert (answer["error"]["code"], answer["error"]["data"]["field"]) == (-32602, "request")
    assert door.stored() == before


async def test_a_field_too_many_or_too_few_is_named(door: Door) -> None:
    await door.is_refused(saying(extra=1)(door.world), -32602, "request.extra", "no field of this name")
    await door.is_refused(saying(seed=None)(door.world), -32602, "request.seed", "a value")


async def test_an_unknown_parameter(door: Door) -> None:
    form = {**door.world.form(), "inputs": "{}"}
    await door.is_refused(form, -32602, "inputs", "one of request, signature, input")


@pytest.mark.parametrize(
    "cid",
    [
        "",
        cid_of(DOCUMENT).upper(),
        cid_of(DOCUMENT) + " ",
        cid_of(DOCUMENT)[:-1],
        "/ipfs/" + cid_of(DOCUMENT),
        "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG",
        "zb2rhe5P4gXftAwvA4eXQ5HJwsER2owDyS9sKaQRRVQPn93bA",
        "b" + "a" * 5000,
        "ü",
    ],
)
async def test_a_cid_that_is_not_canonical(door: Door, cid: str) -> None:
    form = asking(input_cid=Cid(cid))(door.world)
    message = await door.is_refused(form, -32602, "request.inputCid", "a canonical CIDv1 in base32")
    assert message == "not a CID"


# --- at the same time ----------------------------------------------------------------------------------
async def test_requests_that_come_together_do_not_share_the_last_place() -> None:
    async with open_door(max_open_tasks=3) as door:
        documents = [document_of(nonce, 0, 0, 0) for nonce in range(8)]
        forms = [asking(document, nonce=nonce)(door.world) for nonce, document in enumerate(documents)]
        answers = await asyncio.gather(*map(door.ask, forms))
        assert [answer.get("error", {}).get("code") for answer in answers].count(-32005) == 5
        assert door.desk.ledger.count_open() == 3
        kept = [await door.desk.content.has(cid_of(document)) for document in documents]
        assert kept == ["result" in answer for answer in answers]


async def test_of_two_requests_with_one_nonce_the_second_leaves_nothing(door: Door) -> None:
    documents = [document_of(number, 0, 0, 0) for number in range(4)]
    answers = await asyncio.gather(*(door.ask(asking(document)(door.world)) for document in documents))
    codes = [answer.get("error", {}).get("code") for answer in answers]
    assert sorted(codes, key=str) == [-32010, -32010, -32010, None]
    kept = [await door.desk.content.has(cid_of(document)) for document in documents]
    assert kept == [code is None for code in codes]
    assert door.desk.ledger.count_open() == 1


async def test_a_full_disk_takes_nothing_and_the_place_comes_back(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise StoreFull("no room on the disk")

    monkeypatch.setattr(door.desk.store, "put", fail)
    answer = await door.ask(door.world.form())
    data = {"expected": "try again later"}
    assert answer["error"] == {"code": -32603, "message": "no room on the disk", "data": data}
    assert (door.desk.ledger.count_open(), door.desk.file.entries) == (0, {})
    monkeypatch.undo()
    assert "result" in await door.ask(door.world.form())
    assert door.desk.ledger.count_open() == 1
