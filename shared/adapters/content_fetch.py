"""Fetching blocks from operators' trustless gateways, of which each may lie, stall, flood or vanish."""

from __future__ import annotations

import asyncio

import aiohttp
from yarl import URL

from shared.adapters.content_hedge import Meter, SourceFailed
from shared.constants import MAX_BLOCK_BYTES
from shared.content.cid import Block, verify_block
from shared.errors import CodecError
from shared.types import Cid

RAW_BLOCK = "application/vnd.ipld.raw"
# The largest block at the pace below which a source counts as slow, and the connection before it.
ATTEMPT_SECONDS = 10.0
MAX_CONNECTIONS = 64  # each may hold one block: 128 MiB when all of them are liars, one or two blocks on a good day
MAX_CONNECTIONS_PER_HOST = 16
_READ_BYTES = 256 * 1024
_MAX_SHOWN = 80  # characters of a stranger's text in a cause
_HASH_INLINE_BYTES = 64 * 1024  # hashed in 0.1 ms; more would hold up the event loop


def open_session() -> aiohttp.ClientSession:
    """A client without memory: no cookies, no proxies from the environment, no decompression (a bomb's best friend)."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS, limit_per_host=MAX_CONNECTIONS_PER_HOST),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept": RAW_BLOCK, "Accept-Encoding": "identity"},
        timeout=aiohttp.ClientTimeout(total=None),  # every attempt has its own, around more than the request
        auto_decompress=False,
        trust_env=False,
        read_bufsize=_READ_BYTES,
    )


class GatewaySource:
    """One operator's gateway, at the URL that the registry has."""

    def __init__(self, session: aiohttp.ClientSession, name: str, base_url: str) -> None:
        self._session, self._name, self._base_url = session, name, base_url

    @property
    def name(self) -> str:
        return self._name

    async def fetch(self, cid: Cid, meter: Meter) -> Block:
        """Raises `SourceFailed` and nothing else, after ATTEMPT_SECONDS at the latest."""
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                data = await self._download(cid, meter)
        except TimeoutError as error:
            raise SourceFailed(f"no whole block within {ATTEMPT_SECONDS:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise SourceFailed(f"{type(error).__name__}: {error}"[:_MAX_SHOWN]) from error
        try:
            if len(data) <= _HASH_INLINE_BYTES:
                return verify_block(cid, data)
            return await asyncio.to_thread(verify_block, cid, data)
        except CodecError as error:
            raise SourceFailed(f"wrong bytes: {error}") from error

    async def _download(self, cid: Cid, meter: Meter) -> bytes:
        url = _gateway_url(self._base_url, cid)
        # A redirect would lead to a host that no operator registered.
        async with self._session.get(url, allow_redirects=False) as response:
            _check_head(response)
            return await _read_body(response, meter)


def _gateway_url(base_url: str, cid: Cid) -> URL:
    """Raises `SourceFailed` for anything but http(s)://host[:port][/path]: the registry takes any text."""
    try:
        base = URL(base_url)
        is_plain = base.scheme in ("http", "https") and base.host and not base.user and not base.password
    except ValueError as error:
        raise SourceFailed(f"gateway URL: {error}"[:_MAX_SHOWN]) from error
    if not is_plain or base.query_string or base.fragment:
        raise SourceFailed("gateway URL is not plain http or https")
    return (base / "ipfs" / cid).with_query(format="raw")


def _check_head(response: aiohttp.ClientResponse) -> None:
    if response.status == 404:
        raise SourceFailed("does not have it (404)")
    if response.status != 200:
        raise SourceFailed(f"HTTP status {response.status}")
    if response.content_type != RAW_BLOCK:
        raise SourceFailed(f"Content-Type {response.content_type!r}"[:_MAX_SHOWN])
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise SourceFailed("compressed, though asked not to")
    if (response.content_length or 0) > MAX_BLOCK_BYTES:
        raise SourceFailed(f"Content-Length over {MAX_BLOCK_BYTES}")


async def _read_body(response: aiohttp.ClientResponse, meter: Meter) -> bytes:
    """Whatever the head promised, at most MAX_BLOCK_BYTES and a little are ever held."""
    pieces: list[bytes] = []
    async for piece in response.content.iter_any():
        pieces.append(piece)
        meter.received_bytes += len(piece)
        if meter.received_bytes > MAX_BLOCK_BYTES:
            raise SourceFailed(f"body over {MAX_BLOCK_BYTES} bytes")
    return b"".join(pieces)
