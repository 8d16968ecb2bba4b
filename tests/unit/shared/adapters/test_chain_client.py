"""The JSON-RPC client against nodes that fail in every way: only errors of ours come out, and no address in them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from shared.adapters.chain_evm import EvmClient, client
from shared.adapters.chain_evm.client import Refused, refusal
from shared.adapters.chain_evm.wire import Block, Call, Known, Log, Receipt, payload, quantity
from shared.errors import ChainUnavailable, ConfigError, Reverted
from shared.types import Address

ROOT = Path(__file__).resolve().parents[4]
API_KEY = "v3/0123secret4567"
ADDRESS = Address(b"\x11" * 20)

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def node(answer: Answer, timeout_seconds: float = 5.0) -> AsyncIterator[EvmClient]:
    """A client of a server that does as it likes."""
    app = web.Application()
    app.router.add_post(f"/{API_KEY}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        port = runner.addresses[0][1]
        async with EvmClient(f"http://127.0.0.1:{port}/{API_KEY}", timeout_seconds=timeout_seconds) as found:
            yield found
    finally:
        await runner.cleanup()


def says(result: Any, status: int = 200) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        return web.json_response({"jsonrpc": "2.0", "id": asked["id"]} | result, status=status)

    return answer


def sends(body: bytes, status: int = 200) -> Answer:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=body, status=status)

    return answer


async def hangs(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    raise AssertionError("unreachable")


async def hangs_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def floods(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    with_room = b" " * (1 << 20)
    try:
        while True:
            await response.write(with_room)
    except ConnectionError:
        return response


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (sends(b"<html>busy</html>", 503), "HTTP 503"),
        (sends(b"slow down", 429), "HTTP 429"),
        (sends(b"<html>a login page</html>"), "not JSON"),
        (sends(b""), "not JSON"),
        (sends(b"[]"), "not JSON-RPC"),
        (sends(b"[" * 100_000), "not JSON"),
        (sends(b"{}"), "not JSON-RPC"),
        (sends(b"\xff\xfe{"), "not JSON"),
        (hangs_up, "ServerDisconnected"),
        (says({"result": "0x"}), "no block|answer"),
        (says({"result": [1]}), "answer"),
        (says({"result": {"number": "0x1"}}), "is no block"),
    ],
)
async def test_a_node_that_talks_nonsense_is_unavailable(answer: Answer, reason: str) -> None:
    async with node(answer) as asking:
        with pytest.raises(ChainUnavailable, match=reason) as caught:
            await asking.head()
        assert API_KEY not in str(caught.value)
        assert caught.value.__cause__ is None


async def test_a_node_that_hangs_is_given_up() -> None:
    async with node(hangs, timeout_seconds=0.2) as asking:
        with pytest.raises(ChainUnavailable, match="no answer in time"):
            await asking.head()


async def test_an_endless_answer_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_RESPONSE_BYTES", 3 << 20)
    async with node(floods) as asking:
        with pytest.raises(ChainUnavailable, match="over 3145728 bytes"):
            await asking.head()


async def test_nobody_listens_and_a_closed_client() -> None:
    async with node(says({"result": None})) as asking:
        pass
    with pytest.raises(ChainUnavailable, match="closed"):
        await asking.head()
    async with asking:
        with pytest.raises(ChainUnavailable, match="cannot connect") as caught:
            await asking.head()
        assert API_KEY not in str(caught.value)


async def test_a_connection_that_went_stale_is_made_again() -> None:
    """The node closes it after each answer without saying so."""

    async def answer(request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        response = web.json_response({"jsonrpc": "2.0", "id": asked["id"], "result": "0x5"})
        await response.prepare(request)
        await response.write_eof()
        assert request.transport is not None
        request.transport.close()
        return response

    async with node(answer) as asking:
        for _ in range(5):
            assert await asking.tip() == 5


async def test_errors_keep_their_meaning_under_an_http_error() -> None:
    error = {"error": {"code": -32000, "message": "nonce too low", "data": "0x"}}
    async with node(says(error, status=400)) as asking:
        with pytest.raises(Refused, match="nonce too low") as caught:
            await asking.send_raw(b"")
        assert caught.value.says("nonce too low")


async def test_redirects_are_not_followed() -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        raise web.HTTPTemporaryRedirect("http://127.0.0.1:1/elsewhere")

    async with node(answer) as asking:
        with pytest.raises(ChainUnavailable, match="not JSON"):
            await asking.head()


async def test_the_wrong_network_is_a_matter_of_settings() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        result = {"eth_chainId": "0x5", "eth_getCode": "0x"}[asked["method"]]
        return web.json_response({"jsonrpc": "2.0", "id": asked["id"], "result": result})

    async with node(answer) as asking:
        with pytest.raises(ConfigError, match="on chain 5, the settings say 1"):
            await asking.require_network(1, [])
        await asking.require_network(5, [])
        with pytest.raises(ConfigError, match="no contract at 0x1111"):
            await asking.require_network(5, [ADDRESS])


@pytest.mark.parametrize(
    ("error", "name"),
    [
        ({"code": 3, "message": "execution reverted: too late"}, "too late"),
        ({"code": 3, "message": "execution reverted"}, "no reason given"),
        ({"code": -32000, "message": "execution reverted"}, "no reason given"),
        ({"code": -32015, "message": "VM execution error.", "data": "Reverted 0x01020304"}, "0x01020304"),
        ({"code": -32603, "message": "x", "data": {"data": "0x01020304"}}, "0x01020304"),
        ({"code": -32000, "message": "out of gas"}, "out of gas"),
        ({"code": -32000, "message": "gas required exceeds allowance (5)"}, "gas required exceeds allowance (5)"),
    ],
)
def test_what_contracts_say_through_different_nodes(error: Any, name: str) -> None:
    found = refusal(error)
    assert isinstance(found, Reverted)
    assert found.name == name


@pytest.mark.parametrize(
    "error", ["busy", None, {}, {"code": -32601, "message": "x" * 10_000}, {"data": "0xzz"}, {"data": ["0x"]}]
)
def test_what_nodes_say_themselves(error: Any) -> None:
    found = refusal(error)
    assert isinstance(found, Refused)
    assert len(str(found)) < 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=70) | st.sampled_from(["0x1", "0x" + "11" * 32]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["number", "hash", "parentHash", "timestamp", "blockNumber", "blockHash", "topics", "data"]
            ),
            inner,
        )
    ),
    max_leaves=8,
)


@given(answer=JSON, form=st.sampled_from([Block, Receipt, Log, Known]))
def test_any_json_is_parsed_or_refused(answer: Any, form: Any) -> None:
    try:
        found = form.parse(answer)
    except ChainUnavailable as error:
        found = error
    assert isinstance(found, form) or "the node's answer is no" in str(found)


@given(answer=JSON)
def test_any_number_and_any_data_too(answer: Any) -> None:
    parses: list[Callable[[Any], object]] = [quantity, payload]
    for parse in parses:
        found: object
        try:
            found = parse(answer)
        except ChainUnavailable as error:
            found = error
        assert isinstance(found, int | bytes) or "the node's answer is no" in str(found)


DEEP = """
import json, sys, msgspec
from shared.adapters.chain_evm import EvmClient
from shared.crypto import keystore
from eth_account import Account

assert sys.getrecursionlimit() == 1000, sys.getrecursionlimit()
for decode in (json.loads, msgspec.json.decode):
    try:
        decode(b"[" * 1_000_000)
    except RecursionError:
        print("refused")
try:
    msgspec.msgpack.decode(b"\\x91" * 1_000_000)
except RecursionError:
    print("refused")
"""


def test_deeply_nested_bytes_do_not_end_the_process() -> None:
    """A library below eth_account raises Python's recursion limit so far that they would."""
    done = subprocess.run([sys.executable, "-c", DEEP], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.split()) == (0, ["refused"] * 3), done.stderr


def test_a_call_without_target_creates() -> None:
    assert "to" not in Call(None, b"\1").json(ADDRESS)
    assert json.dumps(Call(ADDRESS, b"\1", 5).json(ADDRESS))
