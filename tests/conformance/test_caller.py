"""Both callers: answers come back whole, everything else is `ServiceFailed`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from shared.adapters.http_json import open_caller
from shared.adapters.memory.services import FunctionCaller, Service
from shared.constants import MAX_ANSWER_BYTES
from shared.errors import ServiceFailed
from shared.interfaces import Caller

SECONDS = 5.0


class Outside:
    """Some services, and a caller of the kind under test."""

    def __init__(self, kind: str, stack: AsyncExitStack) -> None:
        self._kind, self._stack = kind, stack

    async def caller(self, services: Mapping[str, Service]) -> tuple[Caller, str]:
        """And the URL under which their paths are."""
        if self._kind == "memory":
            return FunctionCaller({f"http://outside{path}": service for path, service in services.items()}), (
                "http://outside"
            )
        server = TestServer(_application(services), host="127.0.0.1")
        await server.start_server()
        self._stack.push_async_callback(server.close)
        caller = await self._stack.enter_async_context(open_caller(frozenset({f"127.0.0.1:{server.port}"})))
        return caller, f"http://127.0.0.1:{server.port}"


def _application(services: Mapping[str, Service]) -> web.Application:
    app = web.Application(client_max_size=1 << 20)

    async def answer(request: web.Request) -> web.Response:
        body = await request.read() if request.method == "POST" else None
        try:
            return web.Response(body=services[request.path](body), content_type="application/json")
        except (KeyError, ServiceFailed):
            return web.Response(status=500)

    app.router.add_route("*", "/{path:.*}", answer)
    return app


@pytest.fixture(params=["memory", "http"])
async def outside(request: pytest.FixtureRequest) -> AsyncIterator[Outside]:
    async with AsyncExitStack() as stack:
        yield Outside(request.param, stack)


async def test_what_is_asked_and_answered_comes_through(outside: Outside) -> None:
    asked: list[bytes | None] = []

    def echo(body: bytes | None) -> bytes:
        asked.append(body)
        return body or b"{}"

    caller, base = await outside.caller({"/echo": echo})
    assert await caller.get(f"{base}/echo", timeout_seconds=SECONDS) == b"{}"
    assert await caller.post(f"{base}/echo", b'{"a":1}', timeout_seconds=SECONDS) == b'{"a":1}'
    assert asked == [None, b'{"a":1}']


async def test_an_answer_has_a_limit(outside: Outside) -> None:
    caller, base = await outside.caller(
        {"/largest": lambda _: bytes(MAX_ANSWER_BYTES), "/larger": lambda _: bytes(MAX_ANSWER_BYTES + 1)}
    )
    assert len(await caller.get(f"{base}/largest", timeout_seconds=SECONDS)) == MAX_ANSWER_BYTES
    with pytest.raises(ServiceFailed, match="more than"):
        await caller.get(f"{base}/larger", timeout_seconds=SECONDS)


async def test_a_service_that_refuses_or_is_not_there_fails(outside: Outside) -> None:
    def refuse(_: bytes | None) -> bytes:
        raise ServiceFailed("no")

    caller, base = await outside.caller({"/refuse": refuse})
    for path in ("/refuse", "/nowhere"):
        with pytest.raises(ServiceFailed):
            await caller.post(f"{base}{path}", b"{}", timeout_seconds=SECONDS)
