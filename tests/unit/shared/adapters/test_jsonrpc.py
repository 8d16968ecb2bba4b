"""JSON-RPC 2.0 over a real server: what is answered, what is refused, and with which code, field and expectation."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from shared.adapters.jsonrpc import (
    BUSY,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    MAX_CALLS,
    MAX_ID_CHARACTERS,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    JsonRpc,
)
from shared.constants import MAX_RPC_BODY_BYTES
from shared.errors import ChainUnavailable, RequestRefused
from tests.content_support import serving
from tests.listening import until

NOT_A_REQUEST = '{"jsonrpc":"2.0","id":…,"method":…}'


async def echo(params: Mapping[str, Any]) -> Any:
    return dict(params)


async def refuse(_: Mapping[str, Any]) -> Any:
    raise RequestRefused(-32099, "not today", "day", "tomorrow")


async def fail(_: Mapping[str, Any]) -> Any:
    raise ChainUnavailable("the chain is away")


async def crash(_: Mapping[str, Any]) -> Any:
    raise ZeroDivisionError("secret detail")


METHODS = {
    "echo": (echo, ("first", "second")),
    "refuse": (refuse, ()),
    "fail": (fail, ()),
    "crash": (crash, ()),
}


@dataclass
class Caller:
    """Speaks to one server."""

    url: str
    session: aiohttp.ClientSession

    async def send(self, body: bytes | str) -> tuple[int, Any]:
        """Status and decoded answer, None for an empty one."""
        data = io.BytesIO(body.encode() if isinstance(body, str) else body)
        async with self.session.post(self.url, data=data) as response:
            text = await response.text()
            return response.status, json.loads(text) if text else None

    async def call(self, method: str, params: Any = None, call_id: Any = 1) -> Any:
        body = {"jsonrpc": "2.0", "id": call_id, "method": method, "params": params}
        status, answer = await self.send(json.dumps(body))
        assert status == 200
        assert answer["jsonrpc"] == "2.0"
        return answer


@asynccontextmanager
async def serving_rpc(rpc: JsonRpc) -> AsyncIterator[Caller]:
    async with serving([web.post("/", rpc.handle)]) as url, aiohttp.ClientSession() as session:
        yield Caller(url, session)


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    async with serving_rpc(JsonRpc(METHODS)) as caller:
        yield caller


def error(code: int, message: str, call_id: Any = None, **data: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": call_id, "error": {"code": code, "message": message, "data": data}}


# --- calls -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("params", "result"),
    [
        ({"first": 1, "second": [2]}, {"first": 1, "second": [2]}),
        ({"second": None}, {"second": None}),
        ([1, 2], {"first": 1, "second": 2}),
        ([1], {"first": 1}),
        ([], {}),
        ({}, {}),
        (None, {}),
    ],
)
async def test_parameters_come_by_name_or_by_place(caller: Caller, params: Any, result: Any) -> None:
    assert await caller.call("echo", params) == {"jsonrpc": "2.0", "id": 1, "result": result}


async def test_params_may_be_left_out(caller: Caller) -> None:
    assert await caller.send('{"jsonrpc":"2.0","id":1,"method":"echo"}') == (
        200,
        {"jsonrpc": "2.0", "id": 1, "result": {}},
    )


@pytest.mark.parametrize("call_id", [0, -1, 2**64, 10**200, 1.5, "", "a" * MAX_ID_CHARACTERS, "ü\u0000", None])
async def test_the_answer_bears_the_id_of_the_call(caller: Caller, call_id: Any) -> None:
    assert (await caller.call("echo", [], call_id))["id"] == call_id


@pytest.mark.parametrize("call_id", [True, False, [], {}, [1], "a" * (MAX_ID_CHARACTERS + 1)])
async def test_an_id_of_another_kind_is_refused(caller: Caller, call_id: Any) -> None:
    answer = await caller.call("echo", [], call_id)
    assert answer == error(INVALID_REQUEST, "wrong id", field="id", expected="a number, or text of up to 128")


@pytest.mark.parametrize("params", ["text", 7, True, 1.5, [1, 2, 3]])
async def test_params_of_another_shape_are_refused(caller: Caller, params: Any) -> None:
    expected = "an object or array of first, second"
    assert await caller.call("echo", params) == error(
        INVALID_PARAMS, "wrong params", 1, field="params", expected=expected
    )


async def test_an_unknown_parameter_is_named(caller: Caller) -> None:
    answer = await caller.call("echo", {"zeroth": 1, "first": 2, "third": 3})
    assert answer == error(INVALID_PARAMS, "unknown parameter", 1, field="third", expected="one of first, second")


async def test_a_long_name_is_cut(caller: Caller) -> None:
    assert (await caller.call("echo", {"x" * 9999: 1}))["error"]["data"]["field"] == "x" * 64
    assert (await caller.call("y" * 9999))["error"]["message"] == f"no method {'y' * 64!r}"


@pytest.mark.parametrize(("params", "field"), [([1], "params"), ({"first": 1}, "first"), ("text", "params")])
async def test_a_method_without_parameters_says_so(caller: Caller, params: Any, field: str) -> None:
    answer = await caller.call("refuse", params)
    assert (answer["error"]["code"], answer["error"]["data"]) == (
        INVALID_PARAMS,
        {"field": field, "expected": "no parameters"},
    )


async def test_an_unknown_method_is_refused_with_the_known_ones(caller: Caller) -> None:
    expected = "one of crash, echo, fail, refuse"
    assert await caller.call("eth_call") == error(
        METHOD_NOT_FOUND, "no method 'eth_call'", 1, field="method", expected=expected
    )


async def test_a_refusal_carries_code_field_and_expectation(caller: Caller) -> None:
    assert await caller.call("refuse") == error(-32099, "not today", 1, field="day", expected="tomorrow")


async def test_a_known_trouble_is_told_and_logged_without_a_traceback(caller: Caller) -> None:
    with capture_logs() as logs:
        answer = await caller.call("fail")
    assert answer == error(INTERNAL_ERROR, "the chain is away", 1, expected="try again later")
    assert [(entry["log_level"], entry["method"]) for entry in logs] == [("warning", "fail")]


async def test_a_fault_is_logged_whole_and_told_not_at_all(caller: Caller) -> None:
    with capture_logs() as logs:
        answer = await caller.call("crash")
    assert answer == error(INTERNAL_ERROR, "internal fault; the performer's log has the details", 1)
    assert [(entry["log_level"], entry["exc_info"]) for entry in logs] == [("error", True)]


# --- what is no call -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"jsonrpc":"2.0"',
        b"NaN",
        b"1e400",
        b"9" * 5000,
        b'"\xff"',
        b"\xef\xbb\xbf{}",
        b'{"jsonrpc":"2.0","id":1,"method":"\\ud800"}',
        b'{"\\udc00":1}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"jsonrpc":"2.0","id":1,"method":"echo","params":[' + b"[" * 50_000 + b"]" * 50_000 + b"]}",
        b"{} {}",
    ],
    ids=range(14),
)
async def test_what_is_not_json_is_a_parse_error(caller: Caller, body: bytes) -> None:
    with capture_logs() as logs:
        status, answer = await caller.send(body)
    assert status == 200
    assert (answer["id"], answer["error"]["code"]) == (None, PARSE_ERROR)
    assert answer["error"]["message"].startswith("not JSON: ")
    assert answer["error"]["data"] == {"expected": "a JSON-RPC 2.0 request"}
    assert logs == []


@pytest.mark.parametrize(
    "call",
    [
        1,
        "echo",
        None,
        True,
        {},
        {"jsonrpc": "1.0", "id": 1, "method": "echo"},
        {"jsonrpc": 2.0, "id": 1, "method": "echo"},
        {"id": 1, "method": "echo"},
        {"jsonrpc": "2.0", "id": 1},
        {"jsonrpc": "2.0", "id": 1, "method": 5},
        {"jsonrpc": "2.0", "id": 1, "method": ["echo"]},
    ],
)
async def test_what_is_not_a_call_is_an_invalid_request(caller: Caller, call: Any) -> None:
    wanted = error(INVALID_REQUEST, "not a JSON-RPC 2.0 request", expected=NOT_A_REQUEST)
    assert await caller.send(json.dumps(call)) == (200, wanted)


# --- many at once ----------------------------------------------------------------------------------
def one(call_id: Any, method: str = "echo", **more: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": call_id, "method": method, **more}


async def test_an_array_of_calls_is_answered_in_order_each_by_itself(caller: Caller) -> None:
    calls = [one(1, params=[7]), one(2, "nothing"), 5, one(3, "refuse"), {"jsonrpc": "2.0", "method": "echo"}, one("x")]
    status, answers = await caller.send(json.dumps(calls))
    assert status == 200
    assert [answer["id"] for answer in answers] == [1, 2, None, 3, "x"]
    assert [answer.get("error", {}).get("code") for answer in answers] == [
        None,
        METHOD_NOT_FOUND,
        INVALID_REQUEST,
        -32099,
        None,
    ]


@pytest.mark.parametrize("count", [0, MAX_CALLS + 1])
async def test_too_many_calls_or_none_are_refused_as_one(caller: Caller, count: int) -> None:
    answer = await caller.send(json.dumps([one(number) for number in range(count)]))
    assert answer == (200, error(INVALID_REQUEST, "wrong batch size", expected=f"1 to {MAX_CALLS} requests"))


async def test_an_array_of_arrays_is_not_looked_into(caller: Caller) -> None:
    status, answers = await caller.send(json.dumps([[one(1)]]))
    assert (status, [answer["error"]["code"] for answer in answers]) == (200, [INVALID_REQUEST])


@pytest.mark.parametrize("method", ["echo", "refuse", "nothing", "crash"])
async def test_a_notification_has_no_answer(caller: Caller, method: str) -> None:
    notification = {"jsonrpc": "2.0", "method": method}
    assert await caller.send(json.dumps(notification)) == (204, None)
    assert await caller.send(json.dumps([notification, notification])) == (204, None)


# --- sizes -----------------------------------------------------------------------------------------
async def test_a_body_at_the_limit_is_read(caller: Caller) -> None:
    frame = '{"jsonrpc":"2.0","id":1,"method":"refuse","params":["%s"]}'
    body = frame % ("a" * (MAX_RPC_BODY_BYTES - len(frame) + 2))
    assert len(body) == MAX_RPC_BODY_BYTES
    status, answer = await caller.send(body)
    assert (status, answer["error"]["code"]) == (200, INVALID_PARAMS)


async def test_a_body_over_the_limit_is_413(caller: Caller) -> None:
    status, answer = await caller.send(b" " * (MAX_RPC_BODY_BYTES + 1))
    expected = f"at most {MAX_RPC_BODY_BYTES} bytes"
    assert (status, answer) == (413, error(INVALID_REQUEST, "the request is too large", expected=expected))
    assert (await caller.call("echo", [1]))["result"] == {"first": 1}


@asynccontextmanager
async def unfinished(url: str, sent: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A request whose body stops after `sent` bytes."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + b" " * sent)
        yield reader, writer
    finally:
        writer.close()


async def test_all_bodies_together_are_bounded_and_the_room_comes_back() -> None:
    rpc = JsonRpc(METHODS, max_held_bytes=1000)
    async with serving_rpc(rpc) as caller:
        async with unfinished(caller.url, 900):
            await until(lambda: rpc._held_bytes == 900, "the first body is being read")
            status, answer = await caller.send(b" " * 200)
            wanted = error(BUSY, "too many large requests are under way", expected="try again in a moment")
            assert (status, answer) == (503, wanted)
            assert (await caller.call("echo", [1]))["result"] == {"first": 1}  # small ones still pass
        await until(lambda: rpc._held_bytes == 0, "the room came back")
        assert (await caller.send(b" " * 900))[1]["error"]["code"] == PARSE_ERROR


async def test_a_body_that_does_not_come_is_given_up() -> None:
    rpc = JsonRpc(METHODS, body_seconds=0.05)
    async with serving_rpc(rpc) as caller, unfinished(caller.url, 10) as (reader, _):
        head, _, body = (await asyncio.wait_for(reader.read(4096), 10)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 ")
        body = body or await asyncio.wait_for(reader.read(4096), 10)
        assert json.loads(body) == error(INVALID_REQUEST, "the request did not come", expected="all of it in 0.05 s")
        assert rpc._held_bytes == 0


# --- anything --------------------------------------------------------------------------------------
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=10), children, max_size=4),
    max_leaves=12,
)
CALL = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.just("2.0") | JSON,
        "id": JSON,
        "method": st.sampled_from(["echo", "refuse"]) | JSON,
        "params": JSON,
        "extra": JSON,
    },
)


def test_any_json_gets_an_answer_and_never_a_fault() -> None:
    with asyncio.Runner() as runner:
        server = serving_rpc(JsonRpc(METHODS))
        caller = runner.run(server.__aenter__())

        @settings(max_examples=150)
        @given(JSON | CALL | st.lists(CALL, max_size=3))
        def anything(value: Any) -> None:
            with capture_logs() as logs:
                status, answer = runner.run(caller.send(json.dumps(value)))
            assert status in (200, 204)
            for part in answer if isinstance(answer, list) else [answer] if answer else []:
                assert ("result" in part) != ("error" in part)
                assert part.get("error", {}).get("code") != INTERNAL_ERROR
            assert logs == []

        try:
            anything()
        finally:
            runner.run(server.__aexit__(None, None, None))
