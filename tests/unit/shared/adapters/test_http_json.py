"""What a service outside can do to a node that calls it: nothing, within a bounded time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from shared.adapters.http_json import open_caller
from shared.errors import ServiceFailed


async def redirect(_: web.Request) -> web.Response:
    raise web.HTTPFound("/elsewhere")


async def elsewhere(_: web.Request) -> web.Response:
    raise AssertionError("a redirect was followed")


async def hang(_: web.Request) -> web.Response:
    await asyncio.Event().wait()
    raise AssertionError("nobody sets it")


async def drip(request: web.Request) -> web.StreamResponse:
    """A byte now and then, for ever."""
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(10_000):
        await response.write(b" ")
        await asyncio.sleep(0.01)
    return response


@pytest.fixture
async def base() -> AsyncIterator[str]:
    app = web.Application()
    app.add_routes([web.get(f"/{handler.__name__}", handler) for handler in (redirect, elsewhere, hang, drip)])
    async with TestServer(app, host="127.0.0.1") as server:
        yield f"http://127.0.0.1:{server.port}"


async def test_a_redirect_is_not_followed(base: str) -> None:
    async with open_caller(None) as caller:
        with pytest.raises(ServiceFailed, match="answered 302, expected 200"):
            await caller.get(f"{base}/redirect", timeout_seconds=5)


@pytest.mark.parametrize("path", ["hang", "drip"])
async def test_silence_and_slowness_end_at_the_limit(base: str, path: str) -> None:
    async with open_caller(None) as caller, asyncio.timeout(5):
        with pytest.raises(ServiceFailed, match=r"did not answer within 0\.2 s"):
            await caller.get(f"{base}/{path}", timeout_seconds=0.2)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "http://169.254.169.254/latest", "http://allowed@127.0.0.1:1/"])
async def test_a_host_that_the_operator_does_not_allow_is_not_called(url: str) -> None:
    async with open_caller(frozenset({"allowed"})) as caller:
        with pytest.raises(ServiceFailed, match=r"is not among services\.feed_hosts"):
            await caller.get(url, timeout_seconds=5)


async def test_a_closed_port_is_a_failure() -> None:
    async with open_caller(None) as caller:
        with pytest.raises(ServiceFailed, match="Connect"):
            await caller.get("http://127.0.0.1:1/", timeout_seconds=5)
