"""The door over a real server: every refusal with its code, field and expectation, and nothing stored after it."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from performer.ledger import TaskLedger
from shared.canonical import encode_canonical
from shared.constants import (
    LONG_POLL_SECONDS,
    MAX_DEADLINE_SECONDS,
    MAX_INPUT_BYTES,
    MAX_LONG_POLLS,
    MAX_PARAMETERS_BYTES,
    MAX_RPC_BODY_BYTES,
)
from shared.content.cid import Codec, make_block
from shared.crypto.ecdsa import HALF_ORDER
from shared.documents import InputDocument, encode_input
from shared.json_forms import certificate_from_json, to_hex
from shared.tensors import TensorSpec
from shared.types import Cid, Digest, TaskDefinition, TaskRequest
from shared.workflow import Certified, DeadlinePassed, Failed, Performed, Phase, SettledOnChain, Submitted
from tests.cast import REQUESTER
from tests.chain_support import PERFORMER, Person, sha
from tests.content_support import serving
from tests.inference_support import make_card
from tests.listening import until
from tests.roles import PerformerDesk, World
from tests.toy_model import DATA, DEFINITION, DOCUMENT, MODEL_HASH, OUTPUT, X, cid_of, document_of

SECP256K1_ORDER = 2 * HALF_ORDER + 1


@dataclass
class Door:
    """A performer's door, and what lies behind it. The performer's duty does not run: tasks stay as they came."""

    world: World
    desk: PerformerDesk
    url: str
    session: aiohttp.ClientSession

    async def post(self, body: Any) -> Any:
        async with self.session.post(self.url, data=json.dumps(body).encode()) as response:
            return await response.json()

    async def call(self, method: str, params: Any = None) -> Any:
        return await self.post({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})

    async def ask(self, form: Any) -> Any:
        return await self.call("poi_requestInference", form)

    async def view(self, task_id: Digest, **options: Any) -> dict[str, Any]:
        answer = await self.call("poi_getTask", {"taskId": to_hex(task_id), **options})
        view: dict[str, Any] = answer["result"]
        return view

    async def is_refused(self, form: Any, code: int, field: str | None, expected: str) -> str:
        """Exactly so, and nothing was stored; the message."""
        before = self.stored()
        answer = await self.ask(form)
        data = {"field": field, "expected": expected} if field else {"expected": expected}
        assert (answer["error"]["code"], answer["error"]["data"]) == (code, data), answer
        assert self.stored() == before
        message: str = answer["error"]["message"]
        return message

    def stored(self) -> tuple[Any, ...]:
        """Everything durable of the performer's, and its open tasks. Blocks that were fetched are no one's: pins are
        what stays."""
        blocks, pins = self.world.content.blocks[PERFORMER.address], self.world.content.pins[PERFORMER.address]
        fetched = set(blocks) - self.world.own_blocks
        return dict(self.desk.file.entries), dict(pins), set(blocks) - fetched, self.desk.ledger.count_open()


class DoorWorld(World):
    """Knows which blocks other operators serve."""

    @property
    def own_blocks(self) -> set[Cid]:
        others = [blocks for owner, blocks in self.content.blocks.items() if owner != PERFORMER.address]
        return set(self.content.blocks[PERFORMER.address]) - {cid for blocks in others for cid in blocks}


@asynccontextmanager
async def opened(**options: Any) -> AsyncIterator[Door]:
    async with DoorWorld() as world, world.performer(**options) as desk:
        await desk.library.card(DEFINITION)  # fetched once by whoever comes first
        async with serving(desk.door.routes()) as url, aiohttp.ClientSession() as session:
            yield Door(world, desk, url, session)


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    async with opened() as door:
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
FormOf = Callable[[World], dict[str, Any]]


def asking(document: bytes | None = DOCUMENT, signer: Person = REQUESTER, **changes: Any) -> FormOf:
    """A form that is honest but for the changes, signed as it is."""

    def form(world: World) -> dict[str, Any]:
        named = {"input_cid": cid_of(document)} if document is not None else {}
        return world.form(world.request(**{**named, **changes}), document, signer)

    return form


def saying(**changes: Any) -> FormOf:
    """An honest form with fields of the request replaced afterwards; None takes a field away."""

    def form(world: World) -> dict[str, Any]:
        plain = world.form()
        fields = {**plain["request"], **changes}
        return {**plain, "request": {name: value for name, value in fields.items() if value is not None}}

    return form


REFUSALS: dict[str, tuple[FormOf, int, str, str]] = {
    "unknown definition": (asking(task_definition_id=7), -32001, "request.taskDefinitionId", "one of [0]"),
    "wrong model hash": (
        asking(model_hash=Digest(bytes(32))),
        -32001,
        "request.modelHash",
        to_hex(MODEL_HASH),
    ),
    "fee": (asking(fee=1), -32007, "request.fee", "0"),
    "largest fee": (asking(fee=2**256 - 1), -32007, "request.fee", "0"),
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
    async with opened(max_open_tasks=1) as door:
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


@pytest.mark.parametrize(
    "name",
    list(World().form()["request"])
    if False
    else [
        "requester",
        "nonce",
        "performer",
        "taskDefinitionId",
        "modelHash",
        "inputCid",
        "parameters",
        "seed",
        "fee",
        "deadline",
    ],
)
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


# --- refusals: inputs --------------------------------------------------------------------------------
def tensors(**arrays: Any) -> bytes:
    return encode_input(InputDocument(tensors={name: np.array(value) for name, value in arrays.items()}))


def raw(dtype: str, shape: list[int], data: bytes) -> bytes:
    form = {"dtype": dtype, "shape": shape, "data": base64.b64encode(data).decode()}
    return encode_canonical({"tensors": {"x": form}})


GOOD = np.array([[1, 2, 3, 4]], np.float32)
A_DOCUMENT = "an input document (see docs/protocol.md §5)"

BAD_INPUTS: dict[str, tuple[bytes, str, str]] = {
    "wrong dtype": (tensors(x=GOOD.astype(np.float64)), "tensors.x.dtype", "float32"),
    "wrong dtype, integers": (tensors(x=GOOD.astype(np.int32)), "tensors.x.dtype", "float32"),
    "wrong shape": (tensors(x=np.zeros((1, 5), np.float32)), "tensors.x.shape", "[1, 4]"),
    "wrong rank": (tensors(x=np.zeros(4, np.float32)), "tensors.x.shape", "[1, 4]"),
    "empty": (tensors(x=np.zeros((1, 0), np.float32)), "tensors.x.shape", "[1, 4]"),
    "extra tensor": (tensors(x=GOOD, y=GOOD), "tensors.y", "one of x"),
    "another name": (tensors(y=GOOD), "tensors.y", "one of x"),
    "a prompt": (b'{"prompt":"hello"}', "tensors", "tensors, as kind classify takes"),
    "both": (b'{"prompt":"hello","tensors":' + json.dumps(json.loads(DOCUMENT)["tensors"]).encode() + b"}",
             "input", A_DOCUMENT),
    "neither": (b"{}", "input", A_DOCUMENT),
    "no tensors": (b'{"tensors":{}}', "input", A_DOCUMENT),
    "NaN": (raw("float32", [1, 4], np.array([1, 2, np.nan, 4], "<f4").tobytes()), "input", A_DOCUMENT),
    "infinity": (raw("float32", [1, 4], np.array([1, 2, -np.inf, 4], "<f4").tobytes()), "input", A_DOCUMENT),
    "too few bytes": (raw("float32", [1, 4], bytes(15)), "input", A_DOCUMENT),
    "too many bytes": (raw("float32", [1, 4], bytes(17)), "input", A_DOCUMENT),
    "a declared terabyte": (raw("float32", [1 << 20, 1 << 18], bytes(16)), "input", A_DOCUMENT),
    "negative shape": (raw("float32", [-1, -4], bytes(16)), "input", A_DOCUMENT),
    "unknown dtype": (raw("float16", [1, 4], bytes(8)), "input", A_DOCUMENT),
    "not base64": (b'{"tensors":{"x":{"data":"!!","dtype":"float32","shape":[1,4]}}}', "input", A_DOCUMENT),
    "unknown field": (b'{"prompt":"hello","note":1}', "input", A_DOCUMENT),
    "not JSON": (b"hello", "input", A_DOCUMENT),
    "nothing": (b"", "input", A_DOCUMENT),
    "deep": (b"[" * 50_000, "input", A_DOCUMENT),
    "many values": (b'{"tensors":{"x":{"data":"","dtype":"float32","shape":[' + b"1," * 20_000 + b"1]}}}",
                    "input", A_DOCUMENT),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_INPUTS)
async def test_an_input_that_does_not_fit(door: Door, name: str) -> None:
    document, field, expected = BAD_INPUTS[name]
    await door.is_refused(asking(document)(door.world), -32002, field, expected)


@pytest.mark.parametrize("name", BAD_INPUTS)
async def test_an_unfit_input_named_by_its_cid_is_not_kept(door: Door, name: str) -> None:
    document, field, expected = BAD_INPUTS[name]
    cid = await door.world.content.join(door.world.people[0].address).add(document)
    await door.is_refused(asking(None, input_cid=cid)(door.world), -32002, field, expected)


async def test_a_missing_tensor(door: Door) -> None:
    card = make_card(
        inputs=(X, TensorSpec("y", "int64", (2,))), model=make_card().model.__class__("bafkrei", MODEL_HASH.hex(), 1)
    )
    card_cid = await door.desk.content.add(encode_canonical(card))
    door.world.define(TaskDefinition(1, "two", "tensor", MODEL_HASH, card_cid))
    await door.desk.library.card(door.world.roster.definitions[1])
    form = asking(tensors(x=GOOD), task_definition_id=1)(door.world)
    await door.is_refused(form, -32002, "tensors.y", "a int64 tensor")


async def test_an_input_that_is_not_what_its_cid_says(door: Door) -> None:
    form = {**door.world.form(), "input": document_of(4, 3, 2, 1).decode()}
    expected = cid_of(document_of(4, 3, 2, 1))
    message = await door.is_refused(form, -32002, "request.inputCid", expected)
    assert message == "the input is not what its CID says"


async def test_a_directory_of_another_codec_is_no_input(door: Door) -> None:
    block = make_block(Codec.DAG_PB, DOCUMENT)
    shelf = door.world.people[0].address
    door.world.content.join(shelf)
    door.world.content.blocks[shelf][block.cid] = block
    form = asking(None, input_cid=block.cid)(door.world)
    await door.is_refused(form, -32002, "request.inputCid", f"a file of at most {MAX_INPUT_BYTES} bytes")


async def test_an_input_that_is_too_large(door: Door) -> None:
    document = b" " * (MAX_INPUT_BYTES + 1)
    await door.is_refused(asking(document)(door.world), -32602, "input", f"at most {MAX_INPUT_BYTES} bytes")
    cid = await door.world.content.join(door.world.people[0].address).add(document)
    form = asking(None, input_cid=cid)(door.world)
    await door.is_refused(form, -32002, "request.inputCid", f"a file of at most {MAX_INPUT_BYTES} bytes")


async def test_an_input_that_nobody_serves(door: Door) -> None:
    form = asking(None, input_cid=cid_of(b"nowhere"))(door.world)
    expected = "content that an operator serves, or the document itself as `input`"
    await door.is_refused(form, -32006, "request.inputCid", expected)


@pytest.mark.parametrize("document", [1, True, [], {}, {"tensors": {}}])
async def test_an_input_that_is_no_text(door: Door, document: Any) -> None:
    form = {**door.world.form(), "input": document}
    await door.is_refused(form, -32602, "input", "the input document as a JSON string, exactly as it was hashed")


async def test_a_body_over_the_limit_is_413_and_stores_nothing(door: Door) -> None:
    before = door.stored()
    form = {**door.world.form(), "input": " " * MAX_RPC_BODY_BYTES}
    body = {"jsonrpc": "2.0", "id": 1, "method": "poi_requestInference", "params": form}
    async with door.session.post(door.url, json=body) as response:
        answer = await response.json()
    assert (response.status, answer["error"]["code"]) == (413, -32600)
    assert door.stored() == before


async def test_a_card_that_nobody_serves_is_not_the_requesters_fault(door: Door) -> None:
    door.world.define(TaskDefinition(1, "absent", "exact", MODEL_HASH, cid_of(b"absent")))
    form = asking(task_definition_id=1)(door.world)
    await door.is_refused(form, -32006, None, "try again later, or another performer")


# --- tasks -------------------------------------------------------------------------------------------
async def test_the_network_is_described() -> None:
    async with opened(served=(0,)) as door:
        door.world.define(TaskDefinition(1, "other", "exact", MODEL_HASH, cid_of(b"other")))
        definition = {
            "taskDefinitionId": 0,
            "name": "toy",
            "method": "exact",
            "modelHash": to_hex(MODEL_HASH),
            "cardCid": DEFINITION.card_cid,
        }
        for params in (None, {}, []):
            assert (await door.call("poi_getNetwork", params))["result"] == {
                "chainId": 31337,
                "attestationCenter": to_hex(door.world.domain.contract),
                "performer": to_hex(PERFORMER.address),
                "epoch": 1,
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
    }
    await door.desk.ledger.advance(task_id, SettledOnChain(True, Digest(b"u" * 32), 12345, 7, now + 2))
    view = await door.view(task_id)
    assert view["phase"] == "approved"
    assert view["settlement"] == {"txHash": to_hex(b"u" * 32), "gasUsed": 12345, "batchSize": 7}
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
REQUEST_FIELDS = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("requester", "nonce", "performer", "taskDefinitionId", "modelHash", "inputCid", "parameters", "seed", "fee", "deadline"), JSON | HEXES),
)  # fmt: skip
METHODS = ["poi_getNetwork", "poi_requestInference", "poi_getTask"]


@pytest.fixture
def any_door() -> Any:
    """The door, and the runner that its server lives in."""
    with asyncio.Runner() as runner:
        context = opened()
        yield runner, runner.run(context.__aenter__())
        runner.run(context.__aexit__(None, None, None))


def test_any_params_get_an_answer_never_a_fault_and_leave_nothing(any_door: Any) -> None:
    runner, door = any_door
    honest = runner.run(_honest_form(door))
    forms = st.fixed_dictionaries(
        {"request": REQUEST_FIELDS.map(lambda fields: {**honest["request"], **fields}) | JSON},
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


def test_any_text_as_input_is_taken_or_refused(any_door: Any) -> None:
    """Rightly signed, whatever it is."""
    runner, door = any_door

    @settings(max_examples=100)
    @given(JSON.map(lambda value: json.dumps(value)) | st.text() | st.binary().map(lambda data: data.decode("latin1")))
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
