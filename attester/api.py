"""What anybody may ask of an attester: `GET /evidence/{task info hash}` opens the commitment that its vote quoted.

| status | when | body |
|---|---|---|
| 200 | its task is certified, or its deadline is over | `{"commitment", "evidence", "salt"}` |
| 400 | the hash is not 32 bytes as 0x-hex | `{"error"}` |
| 404 | no vote of this attester on it, or none whose evidence is kept | `{"error"}` |
| 425 | it could still be copied | `{"error", "until"}`, unix seconds |
| 429, 503 | the client, or everybody, has too many requests open | text |
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from aiohttp import web

from attester.evidence import EvidenceLocker, Sealed
from shared.adapters.content.gateway import SEND_SECONDS, ClientLimits
from shared.adapters.http import CORS
from shared.json_forms import FieldError, from_hex
from shared.types import Digest

MAX_ANSWERS = 16  # at once, of at most two thirds of a megabyte each
MAX_ANSWERS_PER_CLIENT = 4


class EvidenceDoor:
    """The route, mounted on the node's HTTP application."""

    def __init__(self, locker: EvidenceLocker, limits: ClientLimits | None = None) -> None:
        self._locker = locker
        self._limits = limits or ClientLimits(MAX_ANSWERS, MAX_ANSWERS_PER_CLIENT)

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/evidence/{task_info_hash}", self._serve)]

    async def _serve(self, request: web.Request) -> web.Response:
        """An answer counts until it is read, for it is held until then."""
        async with self._limits.body(request.remote):
            response = await self._answer(request.match_info["task_info_hash"])
            response.headers.update(CORS)  # what is sent here is out of the reach of who adds them else
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    await response.prepare(request)
                    await response.write_eof()
            except (ConnectionError, TimeoutError):
                if request.transport is not None:
                    request.transport.abort()
            return response

    async def _answer(self, text: str) -> web.Response:
        try:
            info_hash = Digest(from_hex(text, "task info hash", 32))
        except FieldError as error:
            return _refuse(400, str(error))
        revealed = await self._locker.reveal(info_hash)
        match revealed:
            case None:
                return _refuse(404, "no vote of this attester on that task info, or none whose evidence is kept")
            case Sealed(until):
                return _refuse(425, "sealed until its task is certified or its deadline is over", until=until)
            case bytes():
                return web.Response(body=revealed, content_type="application/json")


def _refuse(status: int, error: str, **details: Any) -> web.Response:
    body = msgspec.json.encode({"error": error, **details})
    return web.Response(body=body, status=status, content_type="application/json")
