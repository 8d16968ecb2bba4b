"""A `Caller` whose services are functions, for simulations."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from shared.constants import MAX_ANSWER_BYTES
from shared.errors import ServiceFailed

Service = Callable[[bytes | None], bytes]
"""The body of a POST, None for a GET, to the answer; raises `ServiceFailed` for any answer but 200."""


class FunctionCaller:
    """`services` by URL; each takes `seconds` of the loop's time."""

    def __init__(self, services: Mapping[str, Service], *, seconds: float = 0.0) -> None:
        self.services, self.seconds = dict(services), seconds

    async def get(self, url: str, *, timeout_seconds: float) -> bytes:
        return await self._call(url, None, timeout_seconds)

    async def post(self, url: str, body: bytes, *, timeout_seconds: float) -> bytes:
        return await self._call(url, body, timeout_seconds)

    async def _call(self, url: str, body: bytes | None, timeout_seconds: float) -> bytes:
        service = self.services.get(url)
        if service is None:
            raise ServiceFailed(f"{url} is not there")
        try:
            async with asyncio.timeout(timeout_seconds):
                await asyncio.sleep(self.seconds)
        except TimeoutError:
            raise ServiceFailed(f"{url} did not answer within {timeout_seconds:g} s") from None
        answer = service(body)
        if len(answer) > MAX_ANSWER_BYTES:
            raise ServiceFailed(f"{url} answered more than {MAX_ANSWER_BYTES} bytes")
        return answer
