"""JSON-RPC 2.0 over aiohttp: one POST route, bounded, and every refusal with a code, a field and what was expected."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
import structlog
from aiohttp import web

from shared.canonical import check_nesting
from shared.constants import MAX_RPC_BODY_BYTES
from shared.errors import CodecError, PoiError, RequestRefused

log = structlog.get_logger(__name__)

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS, INTERNAL_ERROR = -32700, -32600, -32601, -32602, -32603
BUSY = -32005
MAX_CALLS = 16  # in one JSON array: each may wait for its own answer
MAX_HELD_BYTES = 16 * MAX_RPC_BODY_BYTES  # of bodies that are read or answered now, of all callers together
BODY_SECONDS = 30.0  # for the whole body: 8 MiB at 2.3 Mbit/s
MAX_ID_CHARACTERS = 128

Method = Callable[[Mapping[str, Any]], Awaitable[Any]]


class JsonRpc:
    """Methods by name, each with the names of its parameters in positional order."""

    def __init__(
        self,
        methods: Mapping[str, tuple[Method, tuple[str, ...]]],
        *,
        max_held_bytes: int = MAX_HELD_BYTES,
        body_seconds: float = BODY_SECONDS,
    ) -> None:
        self._methods, self._max_held_bytes, self._body_seconds = methods, max_held_bytes, body_seconds
        self._held_bytes = 0

    async def handle(self, request: web.Request) -> web.Response:
        """The route. Always HTTP 200 with a JSON-RPC answer, 204 for notifications alone; 413 over the size limit, 408
        for a body that does not come, 503 while all bodies together are too many bytes."""
        body = bytearray()
        try:
            async with asyncio.timeout(self._body_seconds):
                await self._read(request, body)
            return await self._handle_body(bytes(body))
        except _Refused as refused:
            return refused.response
        except TimeoutError:
            return _refuse(408, INVALID_REQUEST, "the request did not come", f"all of it in {self._body_seconds:g} s")
        finally:
            self._held_bytes -= len(body)

    async def _read(self, request: web.Request, body: bytearray) -> None:
        # aiohttp's own limit (client_max_size) is the application's; this route states its own, wherever it is mounted.
        async for chunk in request.content.iter_chunked(1 << 16):
            body += chunk
            self._held_bytes += len(chunk)
            if len(body) > MAX_RPC_BODY_BYTES:
                expected = f"at most {MAX_RPC_BODY_BYTES} bytes"
                raise _Refused(_refuse(413, INVALID_REQUEST, "the request is too large", expected))
            if self._held_bytes > self._max_held_bytes:
                raise _Refused(_refuse(503, BUSY, "too many large requests are under way", "try again in a moment"))

    async def _handle_body(self, body: bytes) -> web.Response:
        try:
            check_nesting(body)
            call = msgspec.json.decode(body)
        except (CodecError, msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
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
        expected = f"one of {', '.join(names)}" if names else "no parameters"
        raise RequestRefused(INVALID_PARAMS, "unknown parameter", unknown[0][:64], expected)
    expected = f"an object or array of {', '.join(names)}" if names else "no parameters"
    raise RequestRefused(INVALID_PARAMS, "wrong params", "params", expected)


def _is_id(call_id: Any) -> bool:
    if isinstance(call_id, str):
        return len(call_id) <= MAX_ID_CHARACTERS
    return call_id is None or (isinstance(call_id, int | float) and not isinstance(call_id, bool))


def _error(call_id: Any, code: int, message: str, field: str | None, expected: str | None) -> dict[str, Any]:
    data = {name: value for name, value in (("field", field), ("expected", expected)) if value is not None}
    return {"jsonrpc": "2.0", "id": call_id, "error": {"code": code, "message": message, "data": data}}


def _respond(answer: Any, *, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(answer), content_type="application/json", status=status)


def _refuse(status: int, code: int, message: str, expected: str) -> web.Response:
    return _respond(_error(None, code, message, None, expected), status=status)


class _Refused(Exception):
    def __init__(self, response: web.Response) -> None:
        super().__init__(response.status)
        self.response = response
