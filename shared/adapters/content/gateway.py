"""This node's blocks for everybody: a trustless gateway (specs.ipfs.tech/http-gateways/trustless-gateway).

It serves what is here and fetches nothing. Whoever asks checks the hashes, so there is nothing to lie about; what is
bounded is how much memory, disk and time strangers take.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from enum import StrEnum

from aiohttp import web

from shared.adapters.content.archive import archive
from shared.adapters.content.asked import CAR, PROBE, RAW, Asked, read_request
from shared.adapters.content.limits import CUT_BYTES, Client, ClientLimits
from shared.adapters.content.preconditions import Verdict, judge
from shared.adapters.http import CORS
from shared.content.cid import Block
from shared.content.selection import Selection
from shared.errors import ContentCorrupt, ContentTooLarge
from shared.types import Cid

__all__ = ["CAR", "RAW", "SEND_SECONDS", "ClientLimits", "Gateway", "Outcome", "Served"]

SEND_SECONDS = 10.0  # a block that takes a reader longer is not worth its memory
# CIDs that all archives under way remember, to send nothing twice: 160 MB at most. The largest model has 65,536 blocks.
MAX_HELD_CIDS = 1 << 20

ReadBlock = Callable[[Cid], Awaitable[Block | None]]
"""A block of this node; None when it is not here, or damaged."""


class Outcome(StrEnum):
    """What became of a request."""

    SERVED = "served"  # all of it, also when nothing but the head was asked for
    UNCHANGED = "unchanged"  # 304: the client has it
    ABSENT = "absent"  # not here
    REFUSED = "refused"  # no request for what is served, or a condition or limit that it does not meet
    CUT = "cut"  # under way: a block is missing or no file's, or the reader went away or does not read


Served = Callable[[str, int, Outcome], None]
"""Told at the end of each request: what was asked for (raw, car, or none if it cannot be told), the bytes of blocks
that were sent, and the outcome."""


class _Sent:
    """The bytes of one answer."""

    form = "none"
    size = 0


class Gateway:
    """`GET | HEAD /ipfs/{cid}`: the raw block, or a CAR of the file or a part of it."""

    def __init__(self, read: ReadBlock, limits: ClientLimits | None = None, served: Served | None = None) -> None:
        self._read, self._limits = read, limits or ClientLimits()
        self._served = served or (lambda form, size, outcome: None)
        self._held_cids = 0

    def routes(self) -> list[web.RouteDef]:
        """For a role's application: `application.add_routes(gateway.routes())`."""
        return [web.get("/ipfs/{cid}", self._serve), web.get("/ipfs/{cid}/{path:.*}", self._refuse_path)]

    async def _refuse_path(self, _: web.Request) -> web.Response:
        """Never a hint of what was asked: it may be anything, of any length."""
        self._served("none", 0, Outcome.REFUSED)
        raise web.HTTPNotFound(text="nothing lies below a CID here: ask for /ipfs/CID", headers=_UNCACHED)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        sent = _Sent()
        outcome = Outcome.CUT  # also when the node ends
        try:
            response = await self._answer(request, sent)
            outcome = _OUTCOMES.get(response.status, Outcome.SERVED)
        except _Cut as cut:
            if request.transport is not None:
                request.transport.abort()
            return cut.response
        except web.HTTPException as refusal:
            refusal.headers.update(_UNCACHED)
            outcome = _OUTCOMES.get(refusal.status, Outcome.REFUSED)
            raise
        finally:
            self._served(sent.form, sent.size, outcome)
        return response

    async def _answer(self, request: web.Request, sent: _Sent) -> web.StreamResponse:
        if request.headers.get("Service-Worker") == "script":
            raise web.HTTPBadRequest(text="no service worker comes from here")
        async with self._limits.request(request.remote) as client:
            asked = read_request(request.match_info["cid"], request.query, request.headers.getall("Accept", []))
            sent.form = asked.form
            if asked.media_type == RAW:
                return await self._answer_raw(request, asked, client, sent)
            return await self._answer_car(request, asked, client, sent)

    async def _answer_raw(self, request: web.Request, asked: Asked, client: Client, sent: _Sent) -> web.StreamResponse:
        async with self._limits.turn(client):
            # The empty identity block, by which others find out whether this is a gateway, is in nobody's store.
            data = b"" if asked.cid == PROBE else (await self._found(asked.cid, request, client)).data
            verdict = judge(request.headers, request.method, asked.etag, len(data))
            response = _describe(request, asked, verdict, len(data))
            if request.method == "GET" and verdict.status in (200, 206):
                async with _reading(response, client):
                    await response.prepare(request)
                    await response.write_eof(data[verdict.part.start : verdict.part.stop])
                sent.size = len(verdict.part)
            return response

    async def _answer_car(self, request: web.Request, asked: Asked, client: Client, sent: _Sent) -> web.StreamResponse:
        """Each block takes its turn anew, so that an archive does not keep others waiting."""

        async def found(cid: Cid) -> Block:
            return await self._found(cid, request, client)

        selection = asked.selection()
        async with aclosing(self._counted(archive(asked.cid, found, selection), selection)) as sections:
            async with self._limits.turn(client):
                first = await anext(sections)
                verdict = judge(request.headers, request.method, asked.etag, None)
                response = _describe(request, asked, verdict, None)
                if request.method == "HEAD" or verdict.status != 200:
                    return response
                async with _reading(response, client):
                    await response.prepare(request)
                await _send(response, first, client, sent)
                del first
            try:
                while await self._send_next(response, sections, client, sent):
                    pass
            except (ContentCorrupt, ContentTooLarge, web.HTTPException) as error:
                raise _Cut(response) from error  # a CAR that ends between two blocks would look whole
            async with _reading(response, client):
                await response.write_eof()
            return response

    async def _send_next(
        self, response: web.StreamResponse, sections: AsyncGenerator[bytes, None], client: Client, sent: _Sent
    ) -> bool:
        await client.paid()  # holding no block
        async with self._limits.turn(client):
            section = await anext(sections, None)
            if section is not None:
                await _send(response, section, client, sent)
            return section is not None

    async def _counted(
        self, sections: AsyncGenerator[bytes, None], selection: Selection
    ) -> AsyncGenerator[bytes, None]:
        """Raises `HTTPServiceUnavailable` when all archives together remember too much; blocks can be had even then."""
        held = 0
        try:
            async with aclosing(sections):
                async for section in sections:
                    self._held_cids += selection.held - held
                    held = selection.held
                    if self._held_cids > MAX_HELD_CIDS:
                        raise web.HTTPServiceUnavailable(
                            headers={"Retry-After": "10"}, text="too many archives at once"
                        )
                    yield section
        finally:
            self._held_cids -= held

    async def _found(self, cid: Cid, request: web.Request, client: Client) -> Block:
        block = await self._read(cid)
        if block is None:
            if "only-if-cached" in request.headers.get("Cache-Control", "").lower():
                raise web.HTTPPreconditionFailed(text="")
            raise web.HTTPNotFound(text=f"{cid} is not here")
        client.charge(len(block.data))
        return block


class _Cut(Exception):
    """The answer cannot be finished: the connection is broken.

    aiohttp would log a traceback for each; that is a stranger's to choose, so they end without a word.
    """

    def __init__(self, response: web.StreamResponse) -> None:
        super().__init__()
        self.response = response


_OUTCOMES = {304: Outcome.UNCHANGED, 404: Outcome.ABSENT}
_UNCACHED = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}  # what is refused now may be here soon


def _describe(request: web.Request, asked: Asked, verdict: Verdict, size: int | None) -> web.StreamResponse:
    """The head of the answer, `size` being the block's. Raises `HTTPPreconditionFailed`,
    `HTTPRequestRangeNotSatisfiable`."""
    if verdict.status == 412:
        raise web.HTTPPreconditionFailed(text="If-Match names none of what is here")
    if verdict.status == 416:
        raise web.HTTPRequestRangeNotSatisfiable(headers={"Content-Range": f"bytes */{size}"})
    response = web.StreamResponse(status=verdict.status)
    response.etag = asked.etag
    told = response.headers
    told.update(CORS)  # what is sent here is out of the reach of who adds them else
    told["Cache-Control"] = "public, max-age=29030400, immutable"
    told["Vary"] = "Accept"
    told["X-Ipfs-Path"] = f"/ipfs/{asked.cid}"
    told["X-Ipfs-Roots"] = asked.cid
    if "format" not in request.query:
        told["Content-Location"] = asked.location
    if verdict.status == 304:
        return response
    told["Content-Type"] = asked.content_type
    told["Content-Disposition"] = f'attachment; filename="{asked.cid}.{"car" if size is None else "bin"}"'
    told["X-Content-Type-Options"] = "nosniff"
    told["Accept-Ranges"] = "none" if size is None else "bytes"
    if size is not None:
        response.content_length = len(verdict.part)
    if verdict.status == 206:
        told["Content-Range"] = f"bytes {verdict.part.start}-{verdict.part.stop - 1}/{size}"
    return response


async def _send(response: web.StreamResponse, section: bytes, client: Client, sent: _Sent) -> None:
    async with _reading(response, client):
        await response.write(section)
    sent.size += len(section)


@asynccontextmanager
async def _reading(response: web.StreamResponse, client: Client) -> AsyncIterator[None]:
    """Raises `_Cut` when nobody reads, which the client is charged for, or nobody is there."""
    try:
        async with asyncio.timeout(SEND_SECONDS):
            yield
    except TimeoutError as error:
        client.charge(CUT_BYTES)
        raise _Cut(response) from error
    except ConnectionError as error:
        raise _Cut(response) from error
