"""JSON-RPC 2.0 over aiohttp: one POST route, bounded, and every refusal with a code, a field and what was expected."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
import structlog
from aiohttp import web

from shared.constants import MAX_RPC_BODY_BYTES
from shared.errors import PoiError, RequestRefused

log = structlog.get_logger(__name__)

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS, INTERNAL_ERROR = -32700, -32600, -32601, -32602, -32603
MAX_CALLS = 16  # in one JSON array: each may wait for its own answer
MAX_ID_CHARACTERS = 128

Method = Callable[[Mapping[str, Any]], Awaitable[Any]]


class JsonRpc:
    """Methods by name, each with the names of its parameters in positional order."""

    def __init__(self, methods: Mapping[str, tuple[Method, tuple[str, ...]]]) -> None:
        self._methods = methods

    async def handle(self, request: web.Request) -> web.Response:
        """The route. Always HTTP 200 with a JSON-RPC answer, 204 for notifications alone; 413 over the size limit."""
        try:
            body = await _read_limited(request)
        except web.HTTPRequestEntityTooLarge:
            answer = _error(
                None, INVALID_REQUEST, "the request is too large", None, f"at most {MAX_RPC_BODY_BYTES} bytes"
            )
            return _respond(answer, status=413)
        try:
            call = msgspec.json.decode(body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            return _respond(_error(None, PARSE_ERROR, f"not JSON: {error}", None, "a JSON-RPC 2.0 request"))
        if isinstance(call, list):
            return await self._handle_many(call)
        reply = await self._answer(call)
        return web.Response(status=204) if reply is None else _respond(reply)

    async def _handle_many(self, calls: list[Any]) -> web.Response:
        if not 0 < len(calls) <= MAX_CALLS:
            return _respond(_error(None, INVALID_REQUEST, "wrong batch size", None, f"1 to {MAX_CALLS} requests"))
        answers = [answer for answer in await asyncio.gather(*map(self._answer, calls)) if answer is not None]
        return _respond(answers) if answers else web.Response(status=204)

    async def _answer(self, call: Any) -> dict[str, Any] | None:
        """None for a notification."""
        if not isinstance(call, dict) or call.get("jsonrpc") != "2.0" or not isinstance(call.get("method"), str):
            return _error(
                None, INVALID_REQUEST, "not a JSON-RPC 2.0 request", None, '{"jsonrpc":"2.0","id":…,"method":…}'
            )
        call_id = call.get("id")
        if not _is_id(call_id):
            return _error(None, INVALID_REQUEST, "wrong id", "id", f"a number, or text of up to {MAX_ID_CHARACTERS}")
        try:
            answer = {"jsonrpc": "2.0", "id": call_id, "result": await self._call(call["method"], call.get("params"))}
        except RequestRefused as error:
            answer = _error(call_id, error.code, str(error), error.field, error.expected)
        except PoiError as error:
            log.warning("call failed", method=call["method"][:64], reason=str(error))
            answer = _error(call_id, INTERNAL_ERROR, str(error), None, "try again later")
        except Exception:
            log.exception("fault while answering", method=call["method"][:64])
            answer = _error(call_id, INTERNAL_ERROR, "internal fault; the performer's log has the details", None, None)
        return answer if "id" in call else None

    async def _call(self, name: str, params: Any) -> Any:
        if name not in self._methods:
            known = ", ".join(sorted(self._methods))
            raise RequestRefused(METHOD_NOT_FOUND, f"no method {name[:64]!r}", "method", f"one of {known}")
        method, names = self._methods[name]
        return await method(_by_name(params, names))


def _by_name(params: Any, names: tuple[str, ...]) -> Mapping[str, Any]:
    if params is None:
        return {}
    if isinstance(params, list) and len(params) <= len(names):
        return dict(zip(names, params, strict=False))
    if isinstance(params, dict):
        unknown = sorted(set(params) - set(names))
        if not unknown:
            return params
        raise RequestRefused(INVALID_PARAMS, "unknown parameter", str(unknown[0])[:64], f"one of {', '.join(names)}")
    raise RequestRefused(INVALID_PARAMS, "wrong params", "params", f"an object or array of {', '.join(names)}")


def _is_id(call_id: Any) -> bool:
    if isinstance(call_id, str):
        return len(call_id) <= MAX_ID_CHARACTERS
    return call_id is None or (isinstance(call_id, int | float) and not isinstance(call_id, bool))


def _error(call_id: Any, code: int, message: str, field: str | None, expected: str | None) -> dict[str, Any]:
    data = {name: value for name, value in (("field", field), ("expected", expected)) if value is not None}
    return {"jsonrpc": "2.0", "id": call_id, "error": {"code": code, "message": message, "data": data}}


def _respond(answer: Any, *, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(answer), content_type="application/json", status=status)


async def _read_limited(request: web.Request) -> bytes:
    # aiohttp's own limit (client_max_size) is the application's; this route states its own, wherever it is mounted.
    body = bytearray()
    async for chunk in request.content.iter_chunked(1 << 16):
        body += chunk
        if len(body) > MAX_RPC_BODY_BYTES:
            raise web.HTTPRequestEntityTooLarge(max_size=MAX_RPC_BODY_BYTES, actual_size=len(body))
    return bytes(body)
