"""One question to a service that this node's operator chose, and its answer: bounded in size and time, no redirects."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import aiohttp
from yarl import URL

from shared.constants import MAX_ANSWER_BYTES
from shared.errors import SourceFailed
from shared.reasons import SourceFault

_READ_BYTES = 64 * 1024
_MAX_SHOWN = 120  # characters of an error's text


@dataclass(frozen=True, slots=True)
class Answer:
    """What came, whatever its status."""

    status: int
    body: bytes


async def ask(
    session: aiohttp.ClientSession,
    verb: str,
    url: str,
    *,
    timeout_seconds: float,
    max_bytes: int = MAX_ANSWER_BYTES,
    data: object = None,
    headers: Mapping[str, str] | None = None,
    on_received: Callable[[int], None] = lambda _: None,
) -> Answer:
    """`url` is sent as it is, quoted by the caller; `on_received` hears how many bytes came so far.

    Raises `SourceFailed` when no whole answer came, for whatever reason; neither headers nor what was sent are in it.
    """
    try:
        async with (
            asyncio.timeout(timeout_seconds),
            # A redirect would take the token, or the content, to a host that nobody chose.
            session.request(
                verb, URL(url, encoded=True), data=data, headers=headers, allow_redirects=False
            ) as response,
        ):
            return Answer(response.status, await _body(response, max_bytes, on_received))
    except TimeoutError as error:
        raise SourceFailed(f"no whole answer within {timeout_seconds:g} s", SourceFault.SLOW) from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise SourceFailed(f"{type(error).__name__}: {error}"[:_MAX_SHOWN]) from error


async def _body(response: aiohttp.ClientResponse, max_bytes: int, on_received: Callable[[int], None]) -> bytes:
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > max_bytes:
            raise SourceFailed(f"an answer of more than {max_bytes} bytes", SourceFault.TOO_LARGE)
        on_received(len(body))
    return bytes(body)
