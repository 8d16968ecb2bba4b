"""This node's blocks for everybody: a trustless gateway (specs.ipfs.tech/http-gateways/trustless-gateway).

It serves what is here and fetches nothing. Whoever asks checks the hashes, so there is nothing to lie about; what is
bounded is how much memory, disk and time strangers take.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager

from aiohttp import ETag, web

from shared.adapters.content.archive import archive
from shared.content.cid import Block, codec_of
from shared.errors import CodecError, ContentCorrupt
from shared.types import Cid

RAW = "application/vnd.ipld.raw"
CAR = "application/vnd.ipld.car"
_CAR_AS_SENT = f"{CAR}; version=1; order=dfs; dups=n"
_FORMATS = {"raw": RAW, "car": CAR}

MAX_BODIES = 64  # blocks in memory at once, of at most 2 MiB each
MAX_BODIES_PER_CLIENT = 16
MAX_WAITING_PER_CLIENT = 256  # a whole testnet may share one address
SEND_SECONDS = 10.0  # a block that takes a reader longer is not worth its memory

ReadBlock = Callable[[Cid], Awaitable[Block | None]]
"""A block of this node; None when it is not here, or damaged."""


class ClientLimits:
    """Shares a bounded number of bodies among clients; a client is an IPv4 address or an IPv6 /64."""

    def __init__(
        self,
        bodies: int = MAX_BODIES,
        per_client: int = MAX_BODIES_PER_CLIENT,
        waiting_per_client: int = MAX_WAITING_PER_CLIENT,
    ) -> None:
        self._bodies, self._per_client = asyncio.Semaphore(bodies), per_client
        self._present_per_client = per_client + waiting_per_client
        self._present: Counter[str] = Counter()
        self._turns: dict[str, asyncio.Semaphore] = {}

    @asynccontextmanager
    async def body(self, remote: str | None) -> AsyncIterator[None]:
        """Raises `HTTPTooManyRequests` when the client has enough requests waiting already."""
        client = client_of(remote)
        if self._present[client] >= self._present_per_client:
            raise web.HTTPTooManyRequests(headers={"Retry-After": "1"}, text="too many requests at once")
        self._present[client] += 1
        turn = self._turns.setdefault(client, asyncio.Semaphore(self._per_client))
        try:
            async with turn, self._bodies:  # in this order: a client with many requests waits behind itself
                yield
        finally:
            self._present[client] -= 1
            if not self._present[client]:
                del self._present[client], self._turns[client]


def client_of(remote: str | None) -> str:
    """Whom a request counts for. One subscriber has a whole IPv6 /64, so that is one client."""
    try:
        address = ipaddress.ip_address(remote or "")
    except ValueError:  # a unix socket has no address
        return ""
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(address), 64), strict=False))
    return str(address)


class Gateway:
    """`GET | HEAD /ipfs/{cid}`: the raw block, or a CAR of the whole file."""

    def __init__(self, read: ReadBlock, limits: ClientLimits | None = None) -> None:
        self._read, self._limits = read, limits or ClientLimits()

    def routes(self) -> list[web.RouteDef]:
        """For a role's application: `application.add_routes(gateway.routes())`."""
        return [web.get("/ipfs/{cid}", self._serve)]

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        cid, media_type = _requested_cid(request), _requested_type(request)
        etag = ETag(value=f"{cid}.{'raw' if media_type == RAW else 'car'}", is_weak=media_type != RAW)
        async with aclosing((self._raw if media_type == RAW else self._car)(cid, request.remote)) as parts:
            first = await anext(parts)
            if _is_known(request, etag):
                return _describe(web.StreamResponse(status=304), cid, etag)
            response = _describe(web.StreamResponse(), cid, etag)
            response.headers["Content-Type"] = RAW if media_type == RAW else _CAR_AS_SENT
            if media_type == RAW:
                response.content_length = len(first)
            if request.method != "HEAD":
                await _send(request, response, first, parts)
            return response

    async def _raw(self, cid: Cid, remote: str | None) -> AsyncGenerator[bytes, None]:
        async with self._limits.body(remote):
            yield (await self._found(cid)).data

    async def _car(self, root: Cid, remote: str | None) -> AsyncGenerator[bytes, None]:
        """Each block takes its turn anew, so that an archive does not keep others waiting."""
        async with aclosing(archive(root, self._found)) as sections:
            while True:
                async with self._limits.body(remote):
                    section = await anext(sections, None)
                    if section is None:
                        return
                    yield section

    async def _found(self, cid: Cid) -> Block:
        block = await self._read(cid)
        if block is None:
            raise web.HTTPNotFound(text=f"{cid} is not here")
        return block


async def _send(
    request: web.Request, response: web.StreamResponse, first: bytes, rest: AsyncGenerator[bytes, None]
) -> None:
    """Breaks the connection when a block is missing, for a cut CAR must not look whole, and when nobody reads.

    aiohttp would log a traceback for each; that is a stranger's to choose, so they end here without a word.
    """
    try:
        await response.prepare(request)
        await _write(response, first)
        async for part in rest:
            await _write(response, part)
        async with asyncio.timeout(SEND_SECONDS):
            await response.write_eof()
    except (ConnectionError, TimeoutError, ContentCorrupt, web.HTTPException):
        if request.transport is not None:
            request.transport.abort()


async def _write(response: web.StreamResponse, data: bytes) -> None:
    async with asyncio.timeout(SEND_SECONDS):
        await response.write(data)


def _describe(response: web.StreamResponse, cid: Cid, etag: ETag) -> web.StreamResponse:
    response.etag = etag
    response.headers["Cache-Control"] = "public, max-age=29030400, immutable"
    response.headers["Vary"] = "Accept"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["X-Ipfs-Path"] = f"/ipfs/{cid}"
    return response


def _requested_cid(request: web.Request) -> Cid:
    cid = Cid(request.match_info["cid"])
    try:
        codec_of(cid)
    except CodecError as error:
        raise web.HTTPBadRequest(text=str(error)) from error
    return cid


def _requested_type(request: web.Request) -> str:
    """`format` decides, then the first type of `Accept` that is ours; nothing is ever assembled into a file here."""
    if (name := request.query.get("format")) is not None:
        media_type = _FORMATS.get(name)
    else:
        media_types = ",".join(request.headers.getall("Accept", [])).split(",")
        media_type = next((found for text in media_types if (found := _accepted(text)) is not None), None)
    if media_type is None:
        raise web.HTTPNotAcceptable(text=f"only {RAW} and {CAR} (version 1) are served")
    return media_type


def _accepted(media_range: str) -> str | None:
    """The type of ours that one element of `Accept` asks for."""
    media_type, *parameters = (part.strip().lower() for part in media_range.split(";"))
    if "q=0" in parameters or (media_type == CAR and "version=2" in parameters):
        return None
    return media_type if media_type in _FORMATS.values() else None


def _is_known(request: web.Request, etag: ETag) -> bool:
    """Whether the client has it already (If-None-Match compares weakly, RFC 9110 §13.1.2)."""
    return any(known.value in (etag.value, "*") for known in request.if_none_match or ())
