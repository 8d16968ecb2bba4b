"""A Kubo node's RPC API on loopback, made here: its forms and its faults, over blocks in a dict.

It is written from Kubo's documentation and source, not with the client's code; what real nodes do is for tests/kubo and
for the tests marked `kubo`.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from shared.adapters.content.kubo.api import KuboApi
from shared.adapters.content.kubo.blocks import KuboBlocks
from shared.adapters.content.kubo.ipfshttpclient import IpfsHttpClient
from shared.adapters.content.kubo.rpc import KuboRpc
from shared.adapters.content.store import NodeContentStore, OperatorSources
from shared.content.car import car_header, car_section
from shared.content.cid import Block, Codec, codec_of, decode_cid, make_block, parse_cid
from shared.content.dagpb import decode_node
from shared.content.unixfs import Profile, build_file
from shared.content.varint import decode_varint
from shared.errors import CodecError
from shared.types import Cid
from tests.content_support import OPERATORS, Blocks, EmbeddedNetwork, serving, until

CLIENTS: dict[str, Callable[..., KuboApi]] = {"kubo": KuboRpc, "ipfshttpclient": IpfsHttpClient}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Refused(Exception):
    """What Kubo answers with a 500 and JSON."""


class FakeKubo:
    """One node. `network` is what its peers have: it gets that when it is online, and waits for all else for ever.

    Faults: commands do not answer while they are in `stalled`; `answers` maps a command to what it answers instead,
    `forged` a block's CID to the bytes that are sent for it; what is in `cut` ends half way with a 200, as when a
    trailer says why.
    """

    def __init__(self) -> None:
        self.blocks: dict[bytes, bytes] = {}  # by digest, as Kubo has kept them since go-ipfs 0.12
        self.network: dict[bytes, bytes] = {}
        self.pins: set[str] = set()
        self.connected: list[str] = []
        self.version = "0.43.1"
        self.codec_option = "cid-codec"  # "format" before Kubo 0.13
        self.streams_pins = False
        self.token: str | None = None
        self.stalled: set[str] = set()
        self.answers: dict[str, Callable[[], web.Response]] = {}
        self.forged: dict[str, bytes] = {}
        self.cut: set[str] = set()
        self.renamed: dict[str, str] = {}  # CIDs that it reports as others
        self.calls: list[tuple[str, dict[str, str]]] = []
        self.at_once: Counter[str] = Counter()
        self.most_at_once = 0
        self.url = ""

    # --- for tests -------------------------------------------------------------------------------
    @asynccontextmanager
    async def serving(self) -> AsyncIterator[FakeKubo]:
        commands: dict[str, Handler] = {
            "id": self._id,
            "version": self._version,
            "block/get": self._block_get,
            "block/put": self._block_put,
            "block/stat": self._block_stat,
            "dag/import": self._dag_import,
            "dag/export": self._dag_export,
            "add": self._add,
            "pin/add": self._pin_add,
            "pin/rm": self._pin_rm,
            "pin/ls": self._pin_ls,
            "swarm/connect": self._swarm_connect,
        }
        routes = [web.post(f"/api/v0/{name}", self._route(name, handler)) for name, handler in commands.items()]
        async with serving(routes) as self.url:
            yield self

    def hold(self, blocks: Blocks) -> None:
        self.blocks.update({_digest(cid): block.data for cid, block in blocks.items()})

    def has(self, cid: str) -> bool:
        return _digest(cid) in self.blocks

    def called(self, command: str) -> list[dict[str, str]]:
        return [options for name, options in self.calls if name == command]

    def collect_garbage(self) -> None:
        kept = {_digest(cid) for pin in self.pins for cid in self._walk(pin)}
        self.blocks = {digest: data for digest, data in self.blocks.items() if digest in kept}

    # --- the rules of every call -----------------------------------------------------------------
    def _route(self, command: str, handler: Handler) -> Handler:
        async def serve(request: web.Request) -> web.StreamResponse:
            options = {name.removeprefix("api/"): value for name, value in request.query.items()}
            self.calls.append((command, options))
            if self.token is not None and request.headers.get("Authorization") != self.token:
                return web.Response(
                    status=403, text="Kubo RPC Access Denied: Please provide a valid authorization token"
                )
            self.at_once[command] += 1
            self.most_at_once = max(self.most_at_once, self.at_once.total())
            try:
                await until(lambda: command not in self.stalled, f"{command} is stalled")
                if command in self.answers:
                    return self.answers[command]()
                async with asyncio.timeout(float(options["timeout"].removesuffix("s"))):
                    return await handler(request)
            except TimeoutError:
                return _error("context deadline exceeded")
            except Refused as refused:
                return _error(str(refused))
            finally:
                self.at_once[command] -= 1

        return serve

    async def _wanted(self, request: web.Request) -> bytes:
        """The block, from here or from a peer; a peer that has it may still come."""
        digest = _digest(request.query["arg"])
        if digest in self.blocks:
            return self.blocks[digest]
        if request.query.get("offline", "").lower() in ("true", "1"):
            raise Refused(f"block was not found locally (offline): ipld: could not find {request.query['arg']}")
        await until(lambda: digest in self.network, "nobody has the block")
        self.blocks[digest] = self.network[digest]
        return self.blocks[digest]

    def _walk(self, root: str) -> list[str]:
        """Every CID of the DAG. Raises `Refused` for a block that is missing."""
        todo, seen = [root], [root]
        while todo:
            cid = todo.pop()
            if (data := self.blocks.get(_digest(cid))) is None:
                raise Refused(f"ipld: could not find {cid}")
            if codec_of(Cid(cid)) is Codec.DAG_PB:
                new = [child for child in dict.fromkeys(decode_node(data)[1]) if child not in seen]
                todo += reversed(new)
                seen += new
        return seen

    # --- commands --------------------------------------------------------------------------------
    async def _id(self, _: web.Request) -> web.Response:
        return _json({"ID": "12D3KooWFake", "PublicKey": "", "Addresses": [], "AgentVersion": "kubo/0.43.1/"})

    async def _version(self, _: web.Request) -> web.Response:
        return _json({"Version": self.version, "Commit": "", "Repo": "16", "System": "amd64/linux", "Golang": "go1.26"})

    async def _block_get(self, request: web.Request) -> web.StreamResponse:
        cid = request.query["arg"]
        data = self.forged.get(cid, await self._wanted(request))
        response = web.StreamResponse(headers={"Content-Type": "text/plain", "X-Stream-Output": "1"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(data[: len(data) // 2] if cid in self.cut else data)
        return response

    async def _block_stat(self, request: web.Request) -> web.Response:
        return _json({"Key": request.query["arg"], "Size": len(await self._wanted(request))})

    async def _block_put(self, request: web.Request) -> web.Response:
        data = await _file(request)
        if len(data) > 1 << 20 and request.query.get("allow-big-block") != "true":
            raise Refused("produced block is over 1MiB: big blocks can't be exchanged with other peers")
        block = make_block(Codec.RAW, data)
        self.blocks[_digest(block.cid)] = data
        names = {"raw": Codec.RAW, "dag-pb": Codec.DAG_PB, "protobuf": Codec.DAG_PB}
        name = request.query.get(self.codec_option, "raw" if self.codec_option == "cid-codec" else "v0")
        key = "QmVersionZero" if name == "v0" else make_block(names[name], data).cid
        return _json({"Key": self.renamed.get(key, key), "Size": len(data)})

    async def _dag_import(self, request: web.Request) -> web.StreamResponse:
        archive = _Part(request)
        root = _root_of(await _section(archive))
        while section := await _section(archive):
            cid, data = decode_cid(section[:36]), section[36:]
            if make_block(codec_of(cid), data).cid != cid:
                raise Refused(f"mismatch in content integrity, expected: {cid}")
            self.blocks[_digest(cid)] = data
        said = ""
        if request.query["pin-roots"] == "true":
            try:
                self._walk(root)
                self.pins.add(root)
            except Refused as refused:
                said = str(refused)
        return _json({"Root": {"Cid": {"/": self.renamed.get(root, root)}, "PinErrorMsg": said}})

    async def _dag_export(self, request: web.Request) -> web.StreamResponse:
        root = request.query["arg"]
        await self._wanted(request)
        response = web.StreamResponse(headers={"Content-Type": "application/vnd.ipld.car", "X-Stream-Output": "1"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        blocks = [(Cid(cid), self.blocks[_digest(cid)]) for cid in self._walk(root)]
        sections = [car_header(Cid(root)), *(car_section(Block(cid, data)) for cid, data in blocks)]
        for section in sections[: len(sections) // 2] if root in self.cut else sections:
            await response.write(section)
        return response

    async def _add(self, request: web.Request) -> web.Response:
        """With the settings of somebody who changed them all, unless the request names its own."""
        query = request.query
        profile = Profile(
            "asked",
            int(query.get("chunker", "size-65536").removeprefix("size-")),
            int(query.get("max-file-links", "99")),
        )
        blocks = Blocks()
        root, _ = build_file(io.BytesIO(await _file(request)), blocks.put, profile)
        self.hold(blocks)
        if query.get("pin", "true") == "true":
            self.pins.add(root)
        name = self.renamed.get(root, root)
        size = str(sum(len(block.data) for block in blocks.values()))
        return _json({"Name": "file", "Bytes": 4}, {"Name": name, "Hash": name, "Size": size})

    async def _pin_add(self, request: web.Request) -> web.Response:
        root = request.query["arg"]
        await self._wanted(request)
        self._walk(root)  # a real one would go on looking for what is missing
        self.pins.add(root)
        return _json({"Pins": [self.renamed.get(root, root)]})

    async def _pin_rm(self, request: web.Request) -> web.Response:
        if (root := request.query["arg"]) not in self.pins:
            raise Refused("not pinned or pinned indirectly")
        self.pins.remove(root)
        return _json({"Pins": [root]})

    async def _pin_ls(self, request: web.Request) -> web.Response:
        root = request.query["arg"]
        if root not in self.pins:
            raise Refused(f"path '{root}' is not pinned")
        if self.streams_pins:
            return _json({"Cid": root, "Type": "recursive"})
        return _json({"Keys": {root: {"Type": "recursive", "Name": ""}}})

    async def _swarm_connect(self, request: web.Request) -> web.Response:
        address = request.query["arg"]
        self.connected.append(address)
        if "refuses" in address:
            raise Refused(f"connect {address} failure: failed to dial")
        return _json({"Strings": [f"connect {address} success"]})


def _json(*objects: Any) -> web.Response:
    text = "".join(json.dumps(each) + "\n" for each in objects)
    return web.Response(text=text, content_type="application/json")


def _error(message: str) -> web.Response:
    return web.json_response({"Message": message, "Code": 0, "Type": "error"}, status=500)


def _digest(cid: str) -> bytes:
    try:
        return parse_cid(cid)[1]
    except CodecError as error:
        raise Refused(f"invalid path: {error}") from error


async def _file(request: web.Request) -> bytes:
    part = _Part(request)
    data = b""
    while piece := await part.read(1 << 20):
        data += piece
    return data


class _Part:
    """The one file of a multipart body. It takes exactly as much as is asked for, so that whoever sends feels it.

    Read by hand: what aiohttp has for it warns of itself, depending on where the network cuts the body.
    """

    def __init__(self, request: web.Request) -> None:
        self._body = request.content
        self._end = b"\r\n--" + request.headers["Content-Type"].partition("boundary=")[2].strip('"').encode()
        self._rest, self._is_begun, self._is_ended = b"", False, False

    async def read(self, size: int) -> bytes:
        if not self._is_begun:
            await self._begin()
        while len(self._rest) < size and not self._is_ended:
            await self._take()
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    async def _begin(self) -> None:
        head = await self._body.readuntil(b"\r\n\r\n")
        assert head.startswith(self._end[2:] + b"\r\n")
        assert b'form-data; name="file"' in head
        self._is_begun = True
        self._held = b""

    async def _take(self) -> None:
        piece = await self._body.readany()
        if not piece:
            raise Refused("unexpected EOF")
        data, end, _ = (self._held + piece).partition(self._end)
        self._is_ended = bool(end)
        cut = len(data) if end else max(len(data) - len(self._end), 0)
        self._rest, self._held = self._rest + data[:cut], data[cut:]


async def _section(archive: _Part) -> bytes:
    prefix = b""
    while byte := await archive.read(1):
        prefix += byte
        if byte[0] < 0x80:
            return await archive.read(decode_varint(prefix, 0)[0])
    return b""


def _root_of(header: bytes) -> Cid:
    """DAG-CBOR: {"roots": [CID], "version": 1}."""
    assert header.startswith(b"\xa2\x65roots\x81\xd8\x2a\x58\x25\x00")
    assert header.endswith(b"\x67version\x01")
    return decode_cid(header[13:49])


class KuboNetwork(EmbeddedNetwork):
    """Each operator's store in a Kubo node of its own, all of them fakes; the gateways between them are real."""

    def __init__(self, root: Path, client: str) -> None:
        super().__init__(root)
        self._make_client = CLIENTS[client]
        self.nodes = [FakeKubo() for _ in OPERATORS]

    async def start(self, index: int) -> NodeContentStore:
        stack = self._stacks[index] = AsyncExitStack()
        node = await stack.enter_async_context(self.nodes[index].serving())
        sources = await stack.enter_async_context(OperatorSources(lambda: self.urls, OPERATORS[index]))
        local = KuboBlocks(self._make_client(node.url), self._root / str(index))
        store = self._stores[index] = await stack.enter_async_context(NodeContentStore(local, sources))
        self.urls[OPERATORS[index]] = await stack.enter_async_context(
            serving(store.routes(), [self._misbehaving(index)])
        )
        return store

    async def plant(self, index: int, blocks: Blocks) -> None:
        self.nodes[index].hold(blocks)

    async def drop(self, index: int, cid: Cid) -> None:
        del self.nodes[index].blocks[_digest(cid)]
