"""A node's HTTP side: health, metrics, its content gateway, and what its role adds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web

from shared.errors import ConfigError

SHUTDOWN_SECONDS = 2.0
KEEP_ALIVE_SECONDS = 75.0  # aiohttp's hour would let a stranger hold every file descriptor with idle connections
# What a browser's dApp needs. Nothing here is guarded by cookies, so any page may ask.
CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, HEAD, POST, OPTIONS",
    "Access-Control-Allow-Headers": (
        "Content-Type, Accept, Range, If-Range, If-Match, If-None-Match, Cache-Control, User-Agent, X-Requested-With"
    ),
    # Else a page sees the bytes of a block, and not what they are.
    "Access-Control-Expose-Headers": (
        "Accept-Ranges, Content-Disposition, Content-Length, Content-Location, Content-Range, ETag, Retry-After, "
        "X-Ipfs-Path, X-Ipfs-Roots"
    ),
    "Access-Control-Max-Age": "3600",
}

Health = Callable[[], tuple[bool, Mapping[str, Any]]]
Routes = Sequence[web.AbstractRouteDef]
Metrics = Callable[[], tuple[bytes, str]]  # body and content type


@asynccontextmanager
async def serve(*, host: str, port: int, routes: Routes, health: Health, metrics: Metrics) -> AsyncIterator[int]:
    """Serve until the context ends; yields the port. Raises `ConfigError` when the address cannot be listened on."""
    app = web.Application(middlewares=[_cors])
    app.add_routes([*routes, web.get("/health", _health_route(health)), web.get("/metrics", _metrics_route(metrics))])
    runner = web.AppRunner(
        app,
        access_log=None,
        shutdown_timeout=SHUTDOWN_SECONDS,
        keepalive_timeout=KEEP_ALIVE_SECONDS,
        handle_signals=False,
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, reuse_port=False)
        try:
            await site.start()
        except OSError as error:
            raise ConfigError(
                f"http: cannot listen on {host}:{port} ({error.strerror}); set another http.port"
            ) from None
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@web.middleware
async def _cors(request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
    if request.method == "OPTIONS":
        return web.Response(status=204, headers=CORS)
    try:
        response: web.StreamResponse = await handler(request)
    except web.HTTPException as error:
        error.headers.update(CORS)  # or a page would see a network error instead of the 404
        raise
    if not response.prepared:
        response.headers.update(CORS)
    return response


def _health_route(health: Health) -> Callable[[web.Request], Any]:
    async def answer(_: web.Request) -> web.Response:
        is_healthy, details = health()
        body = msgspec.json.encode({"status": "ok" if is_healthy else "unhealthy", **details})
        return web.Response(body=body, content_type="application/json", status=200 if is_healthy else 503)

    return answer


def _metrics_route(metrics: Metrics) -> Callable[[web.Request], Any]:
    async def answer(_: web.Request) -> web.Response:
        body, content_type = metrics()
        return web.Response(body=body, headers={"Content-Type": content_type})

    return answer
