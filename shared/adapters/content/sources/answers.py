"""Asking a trustless gateway, and what becomes of the answers of one that may lie, stall, flood or vanish."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager

import aiohttp
from yarl import URL

from shared.adapters.content.addresses import AddressRefused
from shared.adapters.content.asked import CAR, RAW
from shared.constants import MAX_BLOCK_BYTES
from shared.content.cid import Block, IncomingBlock
from shared.errors import CodecError, SourceFailed
from shared.interfaces import Meter
from shared.reasons import SourceFault
from shared.types import Cid

# The largest block at the pace below which a source counts as slow, and the connection before it.
ATTEMPT_SECONDS = 10.0
_MAX_SHOWN = 80  # characters of a stranger's text in a cause
# The query goes before the header where a gateway reads both; caches and older gateways want the one or the other.
_CAR_QUERY = {"format": "car", "car-version": "1", "car-order": "dfs", "car-dups": "n"}
_CAR_WANTED = f"{CAR}; version=1; order=dfs; dups=n"
_FAULTS = {
    404: SourceFault.NOT_FOUND,
    410: SourceFault.NOT_FOUND,
    429: SourceFault.BUSY,
    451: SourceFault.NOT_FOUND,  # it is not said, and matters to nobody, whether it had it once
    503: SourceFault.BUSY,
    504: SourceFault.SLOW,  # it asked others for too long
}


@asynccontextmanager
async def attempt() -> AsyncIterator[None]:
    """The time that one fetch may take. Raises `SourceFailed` when it is over."""
    try:
        async with asyncio.timeout(ATTEMPT_SECONDS):
            yield
    except TimeoutError as error:
        raise SourceFailed(f"no whole block within {ATTEMPT_SECONDS:g} s", SourceFault.SLOW) from error


async def raw_block(session: aiohttp.ClientSession, base_url: str, cid: Cid, meter: Meter) -> Block:
    """The block by itself. Whatever the head promised, at most MAX_BLOCK_BYTES and a little are ever held. Raises
    `SourceFailed`, within `attempt` at its end at the latest."""
    url = _gateway_url(base_url, cid, {"format": "raw"})
    async with _answer(session, url, RAW, RAW) as response:
        if (response.content_length or 0) > MAX_BLOCK_BYTES:
            raise SourceFailed(f"Content-Length over {MAX_BLOCK_BYTES}", SourceFault.TOO_LARGE)
        incoming = IncomingBlock(cid)
        async for piece in response.content.iter_any():
            incoming.add(piece)
            meter.received_bytes += len(piece)
            if incoming.size > MAX_BLOCK_BYTES:
                raise SourceFailed(f"body over {MAX_BLOCK_BYTES} bytes", SourceFault.TOO_LARGE)
        return incoming.finish()


async def car_pieces(session: aiohttp.ClientSession, base_url: str, root: Cid) -> AsyncGenerator[bytes, None]:
    """The whole file as a CAR, in the pieces that it comes in; it may be endless, and is not checked. Raises
    `SourceFailed`."""
    async with _answer(session, _gateway_url(base_url, root, _CAR_QUERY), _CAR_WANTED, CAR) as response:
        async for piece in response.content.iter_any():
            yield piece


@asynccontextmanager
async def _answer(
    session: aiohttp.ClientSession, url: URL, accept: str, media_type: str
) -> AsyncIterator[aiohttp.ClientResponse]:
    """An answer that may hold what was asked for. Raises `SourceFailed`, also for what goes wrong while it is read."""
    try:
        # A redirect would lead to a host that nobody registered or configured.
        async with session.get(url, headers={"Accept": accept}, allow_redirects=False) as response:
            _check_head(response, media_type)
            yield response
    except CodecError as error:
        raise SourceFailed(f"wrong bytes: {error}", SourceFault.WRONG_BYTES) from error
    # ValueError: what a host name that is none makes of the libraries below
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise _failure(error) from error


def _failure(error: Exception) -> SourceFailed:
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, AddressRefused):
        return SourceFailed(str(cause), SourceFault.ADDRESS_REFUSED)
    is_answered = isinstance(error, (aiohttp.ClientResponseError, aiohttp.ClientPayloadError))
    said = f"{type(error).__name__}: {error}"[:_MAX_SHOWN]
    return SourceFailed(said, SourceFault.BAD_ANSWER if is_answered else SourceFault.UNREACHABLE)


def _gateway_url(base_url: str, cid: Cid, query: Mapping[str, str]) -> URL:
    """Raises `SourceFailed` for anything but http(s)://host[:port][/path]: the registry takes any text."""
    try:
        base = URL(base_url)
        is_plain = base.scheme in ("http", "https") and base.host and base.port and not base.user and not base.password
    except (ValueError, IndexError) as error:  # the latter of http://[]@
        raise SourceFailed(f"gateway URL: {error}"[:_MAX_SHOWN]) from error
    if not is_plain or base.query_string or base.fragment:
        raise SourceFailed("gateway URL is not plain http or https")
    return (base / "ipfs" / cid).with_query(query)


def _check_head(response: aiohttp.ClientResponse, media_type: str) -> None:
    if response.status != 200:
        fault = _FAULTS.get(response.status, SourceFault.BAD_ANSWER)
        said = "does not have it (404)" if response.status == 404 else f"HTTP status {response.status}"
        raise SourceFailed(said, fault)
    # Not aiohttp's own reading of it, which a parameter without a value ("a*") makes fail.
    said_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if said_type != media_type:
        raise SourceFailed(f"Content-Type {said_type!r}"[:_MAX_SHOWN], SourceFault.BAD_ANSWER)
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise SourceFailed("compressed, though asked not to", SourceFault.BAD_ANSWER)
