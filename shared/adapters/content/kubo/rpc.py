"""Kubo's RPC API by aiohttp, as a `KuboApi`.

Its rules (docs.ipfs.tech/reference/kubo/rpc): POST alone; booleans in words; a failure is a 500 with JSON. One that
comes after the body began is in a trailer that aiohttp does not show, so what decides are lengths and hashes, never the
status. What is nowhere is looked for without end, so each call carries a timeout for the node and has one of its own.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Self, TypeVar

import aiohttp
from yarl import URL

from shared.adapters.content.kubo import answers
from shared.adapters.content.kubo.api import LOCAL_SECONDS, KuboNode
from shared.adapters.content.kubo.block_put import BlockPut
from shared.adapters.content.kubo.upload import Upload
from shared.constants import MAX_BLOCK_BYTES
from shared.content.cid import Block, IncomingBlock
from shared.content.unixfs import Profile
from shared.errors import CodecError, SourceFailed
from shared.interfaces import Meter
from shared.reasons import SourceFault
from shared.types import Cid

MAX_CALLS = 8  # at once: each may hold a block, and a node's disk gets no faster by more
MAX_ANSWER_BYTES = 64 * 1024  # of JSON: one object, or a line for the one root
_CONNECT_SECONDS = 5.0
_READ_BYTES = 256 * 1024

IMPORT_OPTIONS = {"pin-roots": "true", "stats": "false", "allow-big-block": "true", "cid-base": "base32"}

T = TypeVar("T")


class KuboRpc:
    """`url` is the node's API, without /api/v0. `authorization` is the header's value; it is shown nowhere and goes to
    no other host, since redirects are not followed. `service` is whose settings errors name. Open it with
    `async with`."""

    def __init__(self, url: str, *, authorization: str | None = None, service: answers.Service = answers.KUBO) -> None:
        self._service = service
        self._url = URL(url) / "api" / "v0"
        self._shown = url
        self._headers = {"Accept-Encoding": "identity"}
        if authorization is not None:
            self._headers["Authorization"] = authorization
        self._slots = asyncio.Semaphore(MAX_CALLS)
        self._block_put = BlockPut()
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._session = await self._open.enter_async_context(
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=MAX_CALLS),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),  # the rest is per call
                auto_decompress=False,
                trust_env=False,
                read_bufsize=_READ_BYTES,
            )
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._open.aclose()

    # --- the node --------------------------------------------------------------------------------
    async def node(self) -> KuboNode:
        identity = await self._ask("id", answers.Identity)
        version = await self._ask("version", answers.Version)
        return KuboNode(identity.id, version.version)

    async def connect(self, multiaddr: str, *, seconds: float) -> None:
        await self._read("swarm/connect", {"arg": multiaddr}, seconds=seconds)

    # --- blocks ----------------------------------------------------------------------------------
    async def get_block(self, cid: Cid, *, seconds: float, is_offline: bool, meter: Meter | None = None) -> Block:
        incoming, meter = IncomingBlock(cid), meter or Meter()
        options = {"arg": cid, "offline": _flag(is_offline)}
        async with self._call("block/get", options, seconds=seconds) as response:
            async for piece in response.content.iter_any():
                incoming.add(piece)
                meter.received_bytes = incoming.size
                if incoming.size > MAX_BLOCK_BYTES:
                    raise SourceFailed(f"block/get: over {MAX_BLOCK_BYTES} bytes", SourceFault.TOO_LARGE)
        try:
            return incoming.finish()
        except CodecError as error:
            raise SourceFailed(f"block/get: wrong bytes: {error}", SourceFault.WRONG_BYTES) from error

    async def block_size(self, cid: Cid) -> int:
        stat = await self._ask("block/stat", answers.BlockStat, {"arg": cid, "offline": "true"})
        return stat.size

    async def put_block(self, block: Block) -> None:
        await self._block_put.put(
            block,
            lambda options: self._ask("block/put", answers.BlockStat, options, upload=Upload(block.data)),
        )

    # --- files -----------------------------------------------------------------------------------
    async def import_archive(self, root: Cid, archive: AsyncIterable[bytes], *, seconds: float) -> None:
        body = await self._read("dag/import", IMPORT_OPTIONS, seconds=seconds, upload=Upload(archive))
        answers.check_imported(answers.decode(body, answers.Imported, "dag/import"), root)

    async def export_archive(self, root: Cid, *, seconds: float, is_offline: bool) -> AsyncGenerator[bytes, None]:
        """The file's blocks as a CAR, unverified: a cut one looks whole. Close it (`contextlib.aclosing`)."""
        options = {"arg": root, "progress": "false", "offline": _flag(is_offline)}
        async with self._call("dag/export", options, seconds=seconds) as response:
            async for piece in response.content.iter_any():
                yield piece

    async def add(self, data: AsyncIterable[bytes], profile: Profile, *, seconds: float) -> Cid:
        """The file's bytes, for services that take no archive. Every setting that decides the CID is named, and yet it
        is the node's word: older ones do not know some of them."""
        options = {
            "cid-version": "1",
            "raw-leaves": "true",
            "chunker": f"size-{profile.chunk_bytes}",
            "max-file-links": str(profile.max_links),
            "hash": "sha2-256",
            "trickle": "false",
            "inline": "false",
            "pin": "true",
            "progress": "false",
            "cid-base": "base32",
        }
        body = await self._read("add", options, seconds=seconds, upload=Upload(data))
        lines = answers.decode(body, answers.Added, "add")
        return Cid(lines[-1].hash if lines else "")

    # --- pins ------------------------------------------------------------------------------------
    async def pin(self, root: Cid, *, seconds: float) -> None:
        options = {"arg": root, "recursive": "true", "progress": "false", "cid-base": "base32"}
        lines = answers.decode(await self._read("pin/add", options, seconds=seconds), answers.Pinned, "pin/add")
        answers.check_pinned(lines, root)

    async def unpin(self, root: Cid) -> None:
        try:
            await self._read("pin/rm", {"arg": root, "recursive": "true"})
        except SourceFailed as failed:
            if failed.fault is not SourceFault.NOT_FOUND:
                raise

    async def is_pinned(self, root: Cid) -> bool:
        options = {"arg": root, "type": "recursive", "cid-base": "base32"}
        try:
            body = await self._read("pin/ls", options)
        except SourceFailed as failed:
            if failed.fault is SourceFault.NOT_FOUND:
                return False
            raise
        return answers.has_pin(answers.decode(body, answers.PinList, "pin/ls"), root)

    # --- calls -----------------------------------------------------------------------------------
    async def _ask(
        self, command: str, kind: type[T], options: Mapping[str, str] | None = None, *, upload: Upload | None = None
    ) -> T:
        return answers.decode_one(await self._read(command, options or {}, upload=upload), kind, command)

    async def _read(
        self,
        command: str,
        options: Mapping[str, str],
        *,
        seconds: float = LOCAL_SECONDS,
        upload: Upload | None = None,
    ) -> bytes:
        async with self._call(command, options, seconds=seconds, upload=upload) as response:
            return await _body(response, command)

    @asynccontextmanager
    async def _call(
        self, command: str, options: Mapping[str, str], *, seconds: float, upload: Upload | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer of status 200, its body still to come. Time counts until the context ends.

        Causes are cut off (`from None`): aiohttp's errors carry the request's headers.
        """
        if self._session.closed:
            raise SourceFailed(f"{command}: closed", SourceFault.UNREACHABLE)
        try:
            async with asyncio.timeout(seconds), self._slots, self._post(command, options, seconds, upload) as response:
                if response.status != 200:
                    raise answers.refusal(response.status, await _body(response, command), command, self._service)
                if response.headers.get("Content-Encoding", "identity") != "identity":
                    raise SourceFailed(f"{command}: compressed, though asked not to", SourceFault.BAD_ANSWER)
                yield response
        except TimeoutError:
            raise SourceFailed(f"{command}: no whole answer within {seconds:g} s", SourceFault.SLOW) from None
        except (aiohttp.ClientError, OSError) as error:
            if upload is not None and upload.failure is not None:
                raise upload.failure from None
            said = f"{type(error).__name__}: {error}"
            raise answers.unreachable(self._shown, command, said, self._service) from None

    def _post(
        self, command: str, options: Mapping[str, str], seconds: float, upload: Upload | None
    ) -> aiohttp.client._RequestContextManager:
        return self._session.post(
            self._url / command,
            params={**options, "timeout": f"{math.ceil(seconds)}s"},
            data=None if upload is None else upload.body(),
            headers=None if upload is None else {"Content-Type": upload.content_type},
            allow_redirects=False,
        )


async def _body(response: aiohttp.ClientResponse, command: str) -> bytes:
    """Raises `SourceFailed` when it is over MAX_ANSWER_BYTES."""
    body = b""
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > MAX_ANSWER_BYTES:
            raise SourceFailed(f"{command}: answer over {MAX_ANSWER_BYTES} bytes", SourceFault.TOO_LARGE)
    return body


def _flag(value: bool) -> str:
    return "true" if value else "false"
