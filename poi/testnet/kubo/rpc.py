"""Part of Kubo's RPC API (docs.ipfs.tech/reference/kubo/rpc) over a Kubo node that has none.

It keeps Kubo's habits, the awkward ones too: POST only, nothing for browsers, errors as 500 with a JSON body, waiting
for ever without `timeout`, and an archive that breaks off under status 200 when a block is missing. What it cannot do
it refuses; Kubo has many more commands and options.
"""

from __future__ import annotations

import asyncio
import json
import platform
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final

from aiohttp import web

from poi.testnet.kubo.libkubo import KUBO_VERSION, KuboFailed
from poi.testnet.kubo.node import PUT_AT_ONCE, Kubo
from poi.testnet.kubo.requests import (
    RpcRefused,
    argument,
    canonical,
    cid_of,
    files_of,
    first_file,
    flag,
    name_of,
    not_here,
    timeout_of,
)
from shared.adapters.content.archive import archive
from shared.content.car import car_header, read_car
from shared.content.cid import Block, Codec, decode_cid, encode_cid, make_block
from shared.content.unixfs import UNIXFS_V1_CLASSIC, Profile, Walk, build_file
from shared.errors import CodecError, ContentCorrupt
from shared.types import Cid

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

LARGEST_BLOCK: Final = 1 << 20  # that Kubo 0.22 takes in by block/put
LARGEST_CHUNK: Final = 1 << 20
_TEXT: Final = {"Content-Type": "text/plain", "X-Stream-Output": "1"}
_LINES: Final = {"Content-Type": "application/json", "X-Chunked-Output": "1"}
_SOME_CID: Final = make_block(Codec.RAW, b"").cid
_ROOT_OFFSET: Final = car_header(_SOME_CID).index(encode_cid(_SOME_CID))  # where a CAR with one root names it


class Rpc:
    """The commands, for an application: `rpc.application()`."""

    def __init__(self, kubo: Kubo) -> None:
        self._kubo = kubo

    def application(self) -> web.Application:
        application = web.Application(middlewares=[_as_kubo_answers])
        commands: dict[str, Handler] = {
            "id": self._id,
            "version": self._version,
            "add": self._add,
            "cat": self._cat,
            "block/get": self._block_get,
            "block/put": self._block_put,
            "block/stat": self._block_stat,
            "dag/import": self._dag_import,
            "dag/export": self._dag_export,
            "pin/add": self._pin_add,
            "pin/rm": self._pin_rm,
            "pin/ls": self._pin_ls,
            "swarm/connect": self._swarm_connect,
            "swarm/peers": self._swarm_peers,
        }
        application.add_routes([web.route("*", f"/api/v0/{name}", handler) for name, handler in commands.items()])
        return application

    # --- the node --------------------------------------------------------------------------------
    async def _id(self, _: web.Request) -> web.Response:
        node = self._kubo.node
        return web.json_response(
            {
                "ID": node.peer_id,
                "Addresses": [node.address],
                "AgentVersion": f"kubo/{KUBO_VERSION}/",
                "Protocols": ["/ipfs/bitswap/1.2.0"],
            }
        )

    async def _version(self, _: web.Request) -> web.Response:
        system = f"{platform.machine()}/{platform.system().lower()}"
        return web.json_response(
            {"Version": KUBO_VERSION, "Commit": "", "Repo": "14", "System": system, "Golang": "go1.19"}
        )

    async def _swarm_connect(self, request: web.Request) -> web.Response:
        address = argument(request)
        await self._kubo.connect(address)
        return web.json_response({"Strings": [f"connect {address.rpartition('/')[2]} success"]})

    async def _swarm_peers(self, _: web.Request) -> web.Response:
        peers = await asyncio.to_thread(self._kubo.node.peers)
        return web.json_response({"Peers": [{"Addr": "", "Peer": peer} for peer in peers]})

    # --- blocks ----------------------------------------------------------------------------------
    async def _block(self, request: web.Request, cid: Cid) -> Block:
        if not flag(request, "offline", default=False):
            return await self._kubo.fetch_block(cid, timeout_of(request))
        block = await self._kubo.read(cid)
        if block is None:
            raise not_here(cid)
        return block

    async def _block_get(self, request: web.Request) -> web.Response:
        block = await self._block(request, cid_of(request))
        return web.Response(body=block.data, headers=_TEXT)

    async def _block_stat(self, request: web.Request) -> web.Response:
        block = await self._block(request, cid_of(request))
        return web.json_response({"Key": block.cid, "Size": len(block.data)})

    async def _block_put(self, request: web.Request) -> web.Response:
        codec = {"raw": Codec.RAW, "dag-pb": Codec.DAG_PB}.get(request.query.get("cid-codec", "raw"))
        if codec is None or request.query.get("mhtype", "sha2-256") != "sha2-256":
            raise RpcRefused("this node puts blocks of raw and dag-pb under sha2-256")
        async with first_file(request) as stream:
            data = await asyncio.to_thread(stream.read, LARGEST_BLOCK + 1)
        if len(data) > LARGEST_BLOCK and not flag(request, "allow-big-block", default=False):
            raise RpcRefused("produced block is over 1MiB: big blocks can't be exchanged with other peers")
        block = make_block(codec, data)
        await self._kubo.put([block])
        if flag(request, "pin", default=False):
            await self._kubo.pin(block.cid, timeout_of(request))
        return web.json_response({"Key": block.cid, "Size": len(data)})

    # --- files -----------------------------------------------------------------------------------
    async def _file(self, request: web.Request, root: Cid) -> None:
        """Makes sure that it is all here."""
        if not flag(request, "offline", default=False):
            await self._kubo.fetch_file(root, timeout_of(request))
        elif not await self._kubo.is_complete(root):
            raise not_here(root)

    async def _cat(self, request: web.Request) -> web.StreamResponse:
        root = cid_of(request)
        await self._file(request, root)
        return await _streamed(request, _TEXT, self._content(root))

    async def _content(self, root: Cid) -> AsyncGenerator[bytes, None]:
        walk = Walk(root, max_bytes=1 << 62)
        while ahead := walk.ahead(1):
            yield walk.feed(await self._held(ahead[0]))

    async def _held(self, cid: Cid) -> Block:
        block = await self._kubo.read(cid)
        if block is None:
            raise not_here(cid)
        return block

    async def _add(self, request: web.Request) -> web.StreamResponse:
        make = self._importer(request)

        async def lines() -> AsyncGenerator[bytes, None]:
            async for name, path in files_of(request):
                cid, total = await make(path)
                size = {} if total is None else {"Size": str(total)}
                yield _line({"Name": name or cid, "Hash": cid, **size})

        return await _streamed(request, _LINES, lines())

    def _importer(self, request: web.Request) -> Callable[[Path], Awaitable[tuple[str, int | None]]]:
        """Of a file to (CID, bytes of all its blocks), as the options say; version 0 is made by Kubo itself, which
        does not say how many bytes."""
        query = request.query
        for option in ("trickle", "wrap-with-directory", "inline", "nocopy", "preserve-mode", "preserve-mtime"):
            if flag(request, option, default=False):
                raise RpcRefused(f"this node cannot add with {option}")
        if query.get("hash", "sha2-256") != "sha2-256":
            raise RpcRefused("this node adds with sha2-256 alone")
        is_pinned, is_kept = flag(request, "pin", default=True), not flag(request, "only-hash", default=False)
        is_v1 = query.get("cid-version", "0") == "1"
        has_raw_leaves = flag(request, "raw-leaves", default=is_v1)
        chunker = query.get("chunker", f"size-{UNIXFS_V1_CLASSIC.chunk_bytes}")
        max_links = int(query.get("max-file-links", UNIXFS_V1_CLASSIC.max_links))
        name, _, size = chunker.partition("-")
        if name != "size" or not size.isdecimal() or not 0 < int(size) <= LARGEST_CHUNK or not 1 < max_links <= 1024:
            raise RpcRefused(f"this node cannot add with chunker={chunker}, max-file-links={max_links}")
        profile = Profile("as asked", int(size), max_links)
        if is_v1 and has_raw_leaves:

            async def by_us(path: Path) -> tuple[str, int | None]:
                return await self._build(path, profile, is_kept=is_kept, is_pinned=is_pinned)

            return by_us
        if is_v1 or has_raw_leaves or (profile.chunk_bytes, max_links) != _OF_VERSION_0:
            raise RpcRefused("this node adds version 0 as Kubo does by itself, or version 1 with raw leaves")

        async def by_kubo(path: Path) -> tuple[str, int | None]:
            return await self._kubo.add(path, only_hash=not is_kept), None

        return by_kubo

    async def _build(self, path: Path, profile: Profile, *, is_kept: bool, is_pinned: bool) -> tuple[Cid, int]:
        blocks: list[Block] = []
        loop, total = asyncio.get_running_loop(), 0

        def put(block: Block) -> None:
            nonlocal total
            total += len(block.data)
            blocks.append(block)
            if len(blocks) == PUT_AT_ONCE:
                flush()

        def flush() -> None:
            if is_kept and blocks:
                asyncio.run_coroutine_threadsafe(self._kubo.put(tuple(blocks)), loop).result()
            blocks.clear()

        def build() -> Cid:
            with path.open("rb") as stream:
                root, _ = build_file(stream, put, profile)
            flush()
            return root

        root = await asyncio.to_thread(build)
        if is_kept and is_pinned:
            await self._kubo.pin(root, None)
        return root, total

    # --- archives --------------------------------------------------------------------------------
    async def _dag_export(self, request: web.Request) -> web.StreamResponse:
        """The whole file is fetched first. What cannot be had in time ends the archive where Kubo's would end, in order
        and under status 200; Kubo says so in a trailer, which aiohttp has no way to send."""
        root = cid_of(request)
        try:
            await self._file(request, root)
        except (RpcRefused, KuboFailed, TimeoutError):
            if await self._kubo.read(root) is None:
                raise
        return await _streamed(request, _TEXT, archive(root, self._held))

    async def _dag_import(self, request: web.Request) -> web.StreamResponse:
        async with first_file(request) as stream:
            root = await asyncio.to_thread(_root_of, stream)
            count, total = await self._import(read_car(stream, root))
        lines: list[object] = []
        if flag(request, "pin-roots", default=True):
            lines.append({"Root": {"Cid": {"/": root}, "PinErrorMsg": await self._pin_offline(root)}})
        if flag(request, "stats", default=False):
            lines.append({"Stats": {"BlockCount": count, "BlockBytesCount": total}})
        return web.Response(body=b"".join(map(_line, lines)), headers=_LINES)

    async def _import(self, blocks: Iterator[Block]) -> tuple[int, int]:
        """(blocks, bytes) of an archive."""
        count = total = 0
        try:
            while some := await asyncio.to_thread(lambda: list(islice(blocks, PUT_AT_ONCE))):
                await self._kubo.put(some)
                count, total = count + len(some), total + sum(len(block.data) for block in some)
        except CodecError as error:
            raise RpcRefused(f"import failed: {error}") from error
        return count, total

    async def _pin_offline(self, root: Cid) -> str:
        """What went wrong, or nothing: an import asks nobody else for what its archive lacks."""
        if not await self._kubo.is_complete(root):
            return str(not_here(root))
        await self._kubo.pin(root, None)
        return ""

    # --- pins ------------------------------------------------------------------------------------
    async def _pin_add(self, request: web.Request) -> web.Response:
        root = cid_of(request)
        await self._file(request, root)
        await self._kubo.pin(root, timeout_of(request))
        return web.json_response({"Pins": [root]})

    async def _pin_rm(self, request: web.Request) -> web.Response:
        root = name_of(argument(request))
        canonical(root)
        if not await self._kubo.unpin(root):
            raise RpcRefused("not pinned or pinned indirectly")
        return web.json_response({"Pins": [root]})

    async def _pin_ls(self, request: web.Request) -> web.Response:
        wanted, one = request.query.get("type", "all"), request.query.get("arg")
        pins = await self._kubo.pins()
        if one is not None:
            name = name_of(one)
            canonical(name)
            if name not in pins or wanted not in ("all", pins[name]):
                raise RpcRefused(f"path '{one}' is not pinned")
            pins = {name: pins[name]}
        shown = {cid: kind for cid, kind in pins.items() if wanted in ("all", kind)}
        if flag(request, "stream", default=False):
            lines = b"".join(_line({"Cid": cid, "Type": kind}) for cid, kind in shown.items())
            return web.Response(body=lines, headers=_LINES)
        return web.json_response({"Keys": {cid: {"Type": kind} for cid, kind in shown.items()}})


_OF_VERSION_0: Final = (UNIXFS_V1_CLASSIC.chunk_bytes, UNIXFS_V1_CLASSIC.max_links)


# --- requests and answers ------------------------------------------------------------------------
@web.middleware
async def _as_kubo_answers(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The rules for every command, and errors as Kubo words them."""
    if request.method != "POST":
        return web.Response(status=405, text="405 - Method Not Allowed", headers={"Allow": "POST"})
    if "Origin" in request.headers or request.headers.get("User-Agent", "").startswith("Mozilla"):
        return web.Response(status=403, text="403 - Forbidden")
    try:
        return await handler(request)
    except RpcRefused as refused:
        return _error(str(refused), refused.status)
    except TimeoutError:
        return _error("context deadline exceeded")
    except (KuboFailed, CodecError, ContentCorrupt) as error:
        return _error(str(error))


def _error(said: str, status: int = 500) -> web.Response:
    return web.json_response({"Message": said, "Code": int(status != 500), "Type": "error"}, status=status)


def _line(document: object) -> bytes:
    return json.dumps(document).encode() + b"\n"


async def _streamed(
    request: web.Request, headers: dict[str, str], parts: AsyncGenerator[bytes, None]
) -> web.StreamResponse:
    """An error before the first part is an error; a later one ends the body in order, and nobody can tell."""
    response = web.StreamResponse(headers=headers)
    try:
        first = await anext(parts, b"")
        await response.prepare(request)
        await response.write(first)
        try:
            async for part in parts:
                await response.write(part)
        except (RpcRefused, KuboFailed, TimeoutError, CodecError, ContentCorrupt):
            pass
        await response.write_eof()
        return response
    finally:
        await parts.aclose()


def _root_of(stream: BinaryIO) -> Cid:
    """The one root that the archive names; the stream is at its start again."""
    header = stream.read(len(car_header(_SOME_CID)))
    stream.seek(0)
    try:
        return decode_cid(header[_ROOT_OFFSET : _ROOT_OFFSET + len(encode_cid(_SOME_CID))])
    except CodecError as error:
        raise RpcRefused(f"import failed: this node imports archives of version 1 with one root: {error}") from None
