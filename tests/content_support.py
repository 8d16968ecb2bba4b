"""Content for tests: blocks in a dict, DAGs that nobody's builder would make, and networks of stores."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web

from shared.adapters.content.gateway import RAW
from shared.adapters.content.store import EmbeddedContentStore, NodeContentStore
from shared.adapters.memory.content import ContentHub, MemoryContentStore
from shared.content.cid import Block, Codec, make_block
from shared.content.dagpb import Link, bytes_field, encode_node, varint_field
from shared.content.unixfs import UNIXFS_V1_2025, Profile, Walk, build_file
from shared.types import Address, Cid

LOOPBACK = ("127.0.0.0/8",)  # where all gateways of tests are
LIMIT_SECONDS = 60.0  # the machine may be busy with other things, its disk above all
SMALL = Profile("small", chunk_bytes=16, max_links=3)  # many levels from few bytes
OPERATORS = [Address(bytes([number]) * 20) for number in range(1, 4)]
VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "vectors" / "cids.json").read_text())["files"]


@lru_cache(64)
def content_of(size: int) -> bytes:
    """The content of tests/vectors/cids.json."""
    hashes = (hashlib.sha256(counter.to_bytes(4, "big")).digest() for counter in range(-(-size // 32)))
    return b"".join(hashes)[:size]


async def until(condition: Callable[[], object], what: str) -> None:
    """Waits for something that nobody announces."""
    deadline = asyncio.get_running_loop().time() + LIMIT_SECONDS
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, what
        await asyncio.sleep(0.005)


# --- blocks --------------------------------------------------------------------------------------
class Blocks(dict[Cid, Block]):
    """Blocks by CID, and a reader of files among them."""

    def put(self, block: Block) -> Cid:
        self[block.cid] = block
        return block.cid

    def file(self, data: bytes, profile: Profile = UNIXFS_V1_2025) -> Cid:
        return build_file(io.BytesIO(data), self.put, profile)[0]

    def leaf(self, data: bytes) -> Cid:
        return self.put(make_block(Codec.RAW, data))

    def node(
        self,
        children: Sequence[tuple[Cid, int]] = (),
        *,
        content: bytes = b"",
        size: int | None = None,
        kind: int = 2,
        sizes: Iterable[int] | None = None,
        extra: bytes = b"",
    ) -> Cid:
        """A UnixFS node that says whatever it is told to say."""
        total = len(content) + sum(size for _, size in children) if size is None else size
        said = [size for _, size in children] if sizes is None else sizes
        data = varint_field(1, kind) + (bytes_field(2, content) if content else b"") + varint_field(3, total)
        data += b"".join(varint_field(4, size) for size in said) + extra
        return self.put(make_block(Codec.DAG_PB, encode_node(data, [Link(cid, 0) for cid, _ in children])))

    def read(self, root: Cid, *, max_bytes: int = 1 << 20, min_bytes_per_node: int = 4096) -> bytes:
        """Raises what the walk raises, and `KeyError` for a missing block."""
        walk = Walk(root, max_bytes=max_bytes, min_bytes_per_node=min_bytes_per_node)
        chunks = []
        while ahead := walk.ahead(1):
            chunks.append(walk.feed(self[ahead[0]]))
        return b"".join(chunks)


# --- servers -------------------------------------------------------------------------------------
@asynccontextmanager
async def serving(routes: Iterable[web.AbstractRouteDef], middlewares: Sequence[Any] = ()) -> AsyncIterator[str]:
    """The routes on loopback; yields their base URL."""
    application = web.Application(middlewares=middlewares)
    application.add_routes(routes)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def talking(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """A server that says whatever `talk` writes after each request's head, then closes; yields its base URL."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has had enough, which is what most of these tests are about
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# --- networks ------------------------------------------------------------------------------------
class Network(Protocol):
    """Three operators' stores, and what their gateways can be made to do."""

    async def start(self, index: int) -> EmbeddedContentStore | MemoryContentStore: ...

    async def restart(self, index: int) -> EmbeddedContentStore | MemoryContentStore:
        """The store of the same operator, after its process ended."""
        ...

    async def plant(self, index: int, blocks: Blocks) -> None:
        """The operator holds these, whatever they are."""
        ...

    async def drop(self, index: int, cid: Cid) -> None: ...

    def stall(self, index: int) -> None:
        """The operator's gateway answers no more."""
        ...

    def forge(self, index: int, data: bytes) -> None:
        """The operator's gateway serves these bytes, whatever is asked."""
        ...

    def store(self, index: int) -> NodeContentStore: ...

    async def close(self) -> None: ...


class MemoryNetwork:
    def __init__(self) -> None:
        self.hub = ContentHub()

    async def start(self, index: int) -> MemoryContentStore:
        return self.hub.join(OPERATORS[index])

    restart = start

    def store(self, index: int) -> MemoryContentStore:
        return self.hub.join(OPERATORS[index])

    async def plant(self, index: int, blocks: Blocks) -> None:
        self.hub.blocks[OPERATORS[index]].update(blocks)

    async def drop(self, index: int, cid: Cid) -> None:
        del self.hub.blocks[OPERATORS[index]][cid]

    def stall(self, index: int) -> None:
        self.hub.delay(OPERATORS[index], float("inf"))

    def forge(self, index: int, data: bytes) -> None:
        for blocks in self.hub.blocks.values():
            for cid in blocks:
                self.hub.forge(OPERATORS[index], cid, data)

    async def close(self) -> None:
        pass


class EmbeddedNetwork:
    """Real folders, and real gateways on loopback."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.urls: dict[Address, str] = {}
        self._stores: dict[int, EmbeddedContentStore] = {}
        self._stacks: dict[int, AsyncExitStack] = {}
        self._stalled: set[int] = set()
        self._forged: dict[int, bytes] = {}

    async def start(self, index: int) -> EmbeddedContentStore:
        stack = self._stacks[index] = AsyncExitStack()
        store = EmbeddedContentStore(
            root=self._root / str(index),
            gateways=lambda: self.urls,
            own=OPERATORS[index],
            private_networks=LOOPBACK,
        )
        self._stores[index] = await stack.enter_async_context(store)
        url = await stack.enter_async_context(serving(store.routes(), [self._misbehaving(index)]))
        self.urls[OPERATORS[index]] = url
        return store

    async def restart(self, index: int) -> EmbeddedContentStore:
        await self._stacks[index].aclose()
        return await self.start(index)

    def store(self, index: int) -> EmbeddedContentStore:
        return self._stores[index]

    async def plant(self, index: int, blocks: Blocks) -> None:
        for block in blocks.values():
            self._stores[index].embedded.files.put(block, is_durable=False)

    async def drop(self, index: int, cid: Cid) -> None:
        self._stores[index].embedded.files._path(cid).unlink()

    def stall(self, index: int) -> None:
        self._stalled.add(index)

    def forge(self, index: int, data: bytes) -> None:
        self._forged[index] = data

    async def close(self) -> None:
        for stack in self._stacks.values():
            await stack.aclose()

    def _misbehaving(self, index: int) -> Any:
        @web.middleware
        async def misbehave(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            if index in self._stalled:
                await asyncio.get_running_loop().create_future()
            if index in self._forged:
                return web.Response(body=self._forged[index], content_type=RAW)
            return await handler(request)

        return misbehave
