"""A node's HTTP side: health, metrics, what browsers need, and addresses that cannot be listened on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from shared.adapters import http
from shared.adapters.http import CORS, serve
from shared.errors import ConfigError
from shared.metrics import Metrics


@dataclass
class Node:
    """What a server is asked about."""

    is_healthy: bool = True
    details: Mapping[str, Any] = field(default_factory=lambda: {"peers": 3})

    def health(self) -> tuple[bool, Mapping[str, Any]]:
        return self.is_healthy, self.details


async def greet(_: web.Request) -> web.Response:
    return web.json_response({"hello": "world"})


async def stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"streamed")
    return response


async def crash(_: web.Request) -> web.Response:
    raise ZeroDivisionError("secret detail")


@asynccontextmanager
async def serving(node: Node) -> AsyncIterator[tuple[str, aiohttp.ClientSession]]:
    routes = [web.post("/", greet), web.get("/stream", stream), web.get("/crash", crash)]
    metrics = Metrics("performer").exposition
    async with (
        serve(host="127.0.0.1", port=0, routes=routes, health=node.health, metrics=metrics) as port,
        aiohttp.ClientSession() as session,
    ):
        yield f"http://127.0.0.1:{port}", session


def has_cors(response: aiohttp.ClientResponse) -> bool:
    return all(response.headers.get(name) == value for name, value in CORS.items())


async def test_health_is_200_with_details_and_503_when_unfit() -> None:
    node = Node()
    async with serving(node) as (url, session):
        async with session.get(f"{url}/health") as response:
            assert (response.status, await response.json()) == (200, {"status": "ok", "peers": 3})
            assert has_cors(response)
        node.is_healthy, node.details = False, {"peers": 0}
        async with session.get(f"{url}/health") as response:
            assert (response.status, await response.json()) == (503, {"status": "unhealthy", "peers": 0})


async def test_metrics_are_prometheus_text() -> None:
    async with serving(Node()) as (url, session), session.get(f"{url}/metrics") as response:
        assert response.status == 200
        assert response.content_type == "text/plain"
        assert "poi_attester_votes_total" in await response.text()


async def test_the_role_adds_its_routes_and_any_page_may_ask() -> None:
    async with serving(Node()) as (url, session), session.post(url, data=b"{}") as response:
        assert (response.status, await response.json()) == (200, {"hello": "world"})
        assert has_cors(response)


@pytest.mark.parametrize("path", ["/", "/health", "/no/such/path"])
async def test_a_preflight_is_answered_without_work(path: str) -> None:
    async with serving(Node()) as (url, session), session.options(url + path) as response:
        assert (response.status, await response.read()) == (204, b"")
        assert has_cors(response)


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/no/such/path", 404), ("DELETE", "/", 405)])
async def test_a_page_sees_the_refusal_and_not_a_network_error(method: str, path: str, status: int) -> None:
    async with serving(Node()) as (url, session), session.request(method, url + path) as response:
        assert response.status == status
        assert has_cors(response)


async def test_a_response_that_is_under_way_is_left_alone() -> None:
    async with serving(Node()) as (url, session), session.get(f"{url}/stream") as response:
        assert (response.status, await response.read()) == (200, b"streamed")


async def test_a_fault_tells_nothing_of_itself_and_ends_nothing() -> None:
    async with serving(Node()) as (url, session):
        async with session.get(f"{url}/crash") as response:
            assert response.status == 500
            assert "secret detail" not in await response.text()
        async with session.get(f"{url}/health") as response:
            assert response.status == 200


async def test_a_port_in_use_is_a_setting_to_mend() -> None:
    occupant = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = occupant.sockets[0].getsockname()[1]
    try:
        with pytest.raises(ConfigError, match=rf"cannot listen on 127\.0\.0\.1:{port} .*set another http\.port"):
            async with serve(
                host="127.0.0.1", port=port, routes=[], health=Node().health, metrics=lambda: (b"", "text/plain")
            ):
                pass
    finally:
        occupant.close()


async def test_the_port_is_free_after_the_end() -> None:
    async with serving(Node()) as (url, _):
        port = int(url.rpartition(":")[2])
    again = await asyncio.start_server(lambda *_: None, "127.0.0.1", port)
    again.close()


async def test_an_idle_connection_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "KEEP_ALIVE_SECONDS", 0.05)
    async with serving(Node()) as (url, _), asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b"GET /health HTTP/1.1\r\nHost: node\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 OK")  # until the server closes, which we never do
        writer.close()
