"""Services and sources outside, over HTTP: bounded answers, no redirects, and only hosts that the operator allows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from shared.adapters.content.session import open_session
from shared.constants import MAX_ANSWER_BYTES
from shared.errors import ServiceFailed

_READ_BYTES: Final = 64 * 1024


@asynccontextmanager
async def open_caller(hosts: frozenset[str] | None) -> AsyncIterator[HttpCaller]:
    """`hosts`: the only ones that are called, as `example.org` or `example.org:8080`; None for any, which is for URLs
    of the operator's own settings alone. A task definition may name any URL, also one within the operator's own
    network."""
    async with open_session(None) as session:
        yield HttpCaller(session, hosts)


class HttpCaller:
    """See `Caller`."""

    def __init__(self, session: aiohttp.ClientSession, hosts: frozenset[str] | None) -> None:
        self._session, self._hosts = session, hosts

    async def get(self, url: str, *, timeout_seconds: float) -> bytes:
        return await self._call("GET", url, None, timeout_seconds)

    async def post(self, url: str, body: bytes, *, timeout_seconds: float) -> bytes:
        return await self._call("POST", url, body, timeout_seconds)

    async def _call(self, verb: str, url: str, body: bytes | None, timeout_seconds: float) -> bytes:
        host = urlsplit(url).netloc.rpartition("@")[2]
        if self._hosts is not None and host not in self._hosts:
            raise ServiceFailed(f"{host} is not among services.feed_hosts; add it to let this node fetch from it")
        headers = {"Accept": "application/json"} | ({} if body is None else {"Content-Type": "application/json"})
        timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        try:
            async with self._session.request(
                verb, url, data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                if response.status != 200:
                    raise ServiceFailed(f"{host} answered {response.status}, expected 200")
                return await _bounded(response, host)
        except TimeoutError:
            raise ServiceFailed(f"{host} did not answer within {timeout_seconds:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ServiceFailed(f"{host}: {type(error).__name__}") from None


async def _bounded(response: aiohttp.ClientResponse, host: str) -> bytes:
    answer = bytearray()
    async for chunk in response.content.iter_chunked(_READ_BYTES):
        answer += chunk
        if len(answer) > MAX_ANSWER_BYTES:
            raise ServiceFailed(f"{host} answered more than {MAX_ANSWER_BYTES} bytes")
    return bytes(answer)
