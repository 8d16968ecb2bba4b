"""Fetching blocks from operators' trustless gateways, of which each may lie, stall, flood or vanish."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from shared.adapters.content.gateway import RAW
from shared.constants import MAX_BLOCK_BYTES
from shared.content.cid import Block, IncomingBlock
from shared.errors import CodecError, SourceFailed
from shared.interfaces import Meter, Wanted
from shared.reasons import SourceFault
from shared.types import Cid, SourceKind

# The largest block at the pace below which a source counts as slow, and the connection before it.
ATTEMPT_SECONDS = 10.0
MAX_CONNECTIONS = 64  # each may hold one block: 128 MiB when all of them are liars, one or two blocks on a good day
MAX_CONNECTIONS_PER_HOST = 16
_READ_BYTES = 256 * 1024
_MAX_SHOWN = 80  # characters of a stranger's text in a cause
_DNS_THREADS = 32  # look-ups at once; more wait, each at most for its attempt
_DNS_CACHE_SECONDS = 300


@asynccontextmanager
async def open_session() -> AsyncIterator[aiohttp.ClientSession]:
    """A client without memory: no cookies, no proxies from the environment, no decompression (a bomb's best friend)."""
    resolver = _Resolver()
    connector = aiohttp.TCPConnector(
        limit=MAX_CONNECTIONS,
        limit_per_host=MAX_CONNECTIONS_PER_HOST,
        resolver=resolver,
        ttl_dns_cache=_DNS_CACHE_SECONDS,
    )
    try:
        async with aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept": RAW, "Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(total=None),  # every attempt has its own, around more than the request
            auto_decompress=False,
            trust_env=False,
            read_bufsize=_READ_BYTES,
        ) as session:
            yield session
    finally:
        await resolver.close()


class _Resolver(AbstractResolver):
    """DNS in threads of its own. A name server of a liar's may keep a thread for half a minute, and the event loop's
    own few threads serve everybody else in the process."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_DNS_THREADS, thread_name_prefix="gateway DNS")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        look_up = partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(self._threads, look_up)
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=port,
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, protocol, _, address in found
        ]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class GatewaySource:
    """One operator's gateway, at the URL that the registry has."""

    def __init__(
        self, session: aiohttp.ClientSession, name: str, base_url: str, kind: SourceKind = SourceKind.OPERATOR
    ) -> None:
        self._session, self._name, self._base_url, self._kind = session, name, base_url, kind

    @property
    def name(self) -> str:
        return self._name

    @property
    def kind(self) -> SourceKind:
        return self._kind

    async def fetch(self, wanted: Wanted, meter: Meter) -> Block:
        """Raises `SourceFailed` and nothing else, after ATTEMPT_SECONDS at the latest."""
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                return await self._download(wanted.cid, meter)
        except TimeoutError as error:
            raise SourceFailed(f"no whole block within {ATTEMPT_SECONDS:g} s", SourceFault.SLOW) from error
        except CodecError as error:
            raise SourceFailed(f"wrong bytes: {error}", SourceFault.WRONG_BYTES) from error
        # ValueError: what a host name that is none makes of the libraries below
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise SourceFailed(f"{type(error).__name__}: {error}"[:_MAX_SHOWN]) from error

    async def _download(self, cid: Cid, meter: Meter) -> Block:
        url = _gateway_url(self._base_url, cid)
        # A redirect would lead to a host that no operator registered.
        async with self._session.get(url, allow_redirects=False) as response:
            _check_head(response)
            return await _read_body(response, cid, meter)


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
        raise SourceFailed("does not have it (404)", SourceFault.NOT_FOUND)
    if response.status != 200:
        raise SourceFailed(f"HTTP status {response.status}")
    if response.content_type != RAW:
        raise SourceFailed(f"Content-Type {response.content_type!r}"[:_MAX_SHOWN])
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise SourceFailed("compressed, though asked not to")
    if (response.content_length or 0) > MAX_BLOCK_BYTES:
        raise SourceFailed(f"Content-Length over {MAX_BLOCK_BYTES}")


async def _read_body(response: aiohttp.ClientResponse, cid: Cid, meter: Meter) -> Block:
    """Whatever the head promised, at most MAX_BLOCK_BYTES and a little are ever held. Raises `CodecError`."""
    incoming = IncomingBlock(cid)
    async for piece in response.content.iter_any():
        incoming.add(piece)
        meter.received_bytes = incoming.size
        if incoming.size > MAX_BLOCK_BYTES:
            raise SourceFailed(f"body over {MAX_BLOCK_BYTES} bytes")
    return incoming.finish()
