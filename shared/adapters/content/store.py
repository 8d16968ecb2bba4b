"""A node's content: its own blocks, its gateway, and every other source behind one verifying walk."""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, Unpack

from aiohttp import web

from shared.adapters.content.addresses import AddressPolicy
from shared.adapters.content.archive import archive
from shared.adapters.content.embedded import EmbeddedBlocks
from shared.adapters.content.gateway import ClientLimits, Gateway
from shared.adapters.content.local import LocalStore
from shared.adapters.content.read import LOCAL, ContentReader, Sources
from shared.adapters.content.sources.operators import OperatorSources
from shared.adapters.content.sources.order import OrderedSources
from shared.adapters.content.watch import ContentWatch, Unwatched
from shared.content.cid import Block
from shared.content.unixfs import UNIXFS_V1_2025, Profile, Walk, read_node
from shared.errors import ContentUnavailable, SourceFailed
from shared.interfaces import Pin, Reading, Source, Swept
from shared.keeping import CACHE
from shared.types import FOREVER, Address, Cid, Ref


class NodeContentStore:
    """A `ContentStore`, `ContentKeeper` and `LocalContent` over any `LocalStore`. Open it with `async with`."""

    def __init__(
        self,
        local: LocalStore,
        sources: Sources,
        limits: ClientLimits | None = None,
        watch: ContentWatch | None = None,
    ) -> None:
        self.local = local
        watch = watch or Unwatched()
        self._reader = ContentReader(local, sources, watch)
        self._gateway = Gateway(self._read_or_none, limits, watch.served)
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Raises what the local store raises."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.local)
            stack.push_async_callback(self._reader.close)
            self._open = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.aclose()

    def routes(self) -> list[web.RouteDef]:
        """The gateway, for a role's application: `application.add_routes(store.routes())`."""
        return self._gateway.routes()

    async def _read_or_none(self, cid: Cid) -> Block | None:
        """What the disk damaged is not here."""
        try:
            return await self.local.read(cid)
        except SourceFailed:
            return None

    # --- ContentStore ----------------------------------------------------------------------------
    async def add(self, data: bytes, *, profile: Profile = UNIXFS_V1_2025, keep_until: float = FOREVER) -> Ref:
        return await self.add_stream(lambda: io.BytesIO(data), profile=profile, keep_until=keep_until)

    async def add_file(self, path: Path, *, profile: Profile = UNIXFS_V1_2025, keep_until: float = FOREVER) -> Ref:
        """As `add`, holding one chunk at a time. Raises `ContentError`, also when the file cannot be read."""
        return await self.add_stream(lambda: path.open("rb"), profile=profile, keep_until=keep_until)

    async def add_stream(
        self, open_stream: Callable[[], BinaryIO], *, profile: Profile = UNIXFS_V1_2025, keep_until: float = FOREVER
    ) -> Ref:
        """As `add_file`, of what `open_stream` opens in a worker thread."""
        return await self.local.build(open_stream, profile, keep_until)

    async def get(self, cid: Cid, **how: Unpack[Reading]) -> bytes:
        return await self._reader.get(cid, **how)

    def open(self, cid: Cid, **how: Unpack[Reading]) -> AsyncGenerator[bytes, None]:
        return self._reader.stream(cid, **how)

    async def has(self, cid: Cid) -> bool:
        return await self.local.is_complete(cid)

    async def unpin(self, cid: Cid) -> None:
        await self.local.unpin(cid)

    # --- ContentKeeper ---------------------------------------------------------------------------
    async def pin(self, cid: Cid, *, keep_until: float = FOREVER) -> None:
        with self.local.hold(cid):  # or a collection could drop it between this look and the promise
            size = await self.size_of(cid)
            if size is None or not await self.has(cid):
                raise ContentUnavailable(cid, {LOCAL: "not all of it is here"})
            await self.local.keep(cid, size, keep_until)

    async def pins(self) -> Sequence[Pin]:
        return await self.local.pins()

    async def collect(self, max_bytes: int = 0) -> Swept:
        return await self.local.collect(max_bytes)

    async def verify(self, cid: Cid) -> Sequence[Cid]:
        """Each block once; what hangs on a lost node is not known. Raises `ContentCorrupt` when it is no file."""
        lost: list[Cid] = []
        todo, seen = [cid], {cid}
        with self.local.hold(cid):
            while todo:
                here = todo.pop()
                block = await self._read_or_none(here)
                if block is None:
                    lost.append(here)
                    continue
                children = dict.fromkeys(child for child, _ in read_node(block).children if child not in seen)
                todo.extend(reversed(children))
                seen.update(children)
        return lost

    async def size_of(self, cid: Cid) -> int | None:
        """Bytes of the file, as its root says; None while the root is not here. Raises `ContentCorrupt`."""
        root = await self._read_or_none(cid)
        return None if root is None else read_node(root).size

    async def touch(self, roots: Collection[Cid]) -> None:
        """They are in use: of what is mere cache they go last. What is not all here stays so. Raises `ContentError`."""
        for pin in await self.local.pins():
            if pin.cid in roots and pin.size is not None:
                await self.local.keep(pin.cid, pin.size, CACHE)

    # --- LocalContent ----------------------------------------------------------------------------
    async def read(self, cid: Cid) -> AsyncGenerator[bytes, None]:
        walk = Walk(cid, max_bytes=1 << 62)
        with self.local.hold(cid):
            while ahead := walk.ahead(1):
                if content := walk.feed(await self._held(ahead[0])):
                    yield content

    def archive(self, cid: Cid) -> AsyncGenerator[bytes, None]:
        return archive(cid, self._held)

    async def _held(self, cid: Cid) -> Block:
        try:
            block = await self.local.read(cid)
        except SourceFailed as failure:
            raise ContentUnavailable(cid, {LOCAL: str(failure)}) from failure
        if block is None:
            raise ContentUnavailable(cid, {LOCAL: "does not have it"})
        return block


class EmbeddedContentStore(NodeContentStore):
    """The store that needs no daemon, with the other operators' gateways as its sources, and any `further` ones.

    `gateways`, `p2p_addresses`: what the registry has. `private_networks`: where operators' gateways may lie besides
    public addresses.
    """

    def __init__(
        self,
        *,
        root: Path,
        gateways: Callable[[], Mapping[Address, str]],
        own: Address | None,
        p2p_addresses: Callable[[], Mapping[Address, str]] = dict,
        private_networks: Sequence[str] = (),
        further: Sequence[Source] = (),
        max_bytes: int | None = None,
        limits: ClientLimits | None = None,
        watch: ContentWatch | None = None,
    ) -> None:
        self.embedded = EmbeddedBlocks(root, max_bytes, watch=watch)
        self._operators = OperatorSources(
            gateways, own, p2p_addresses=p2p_addresses, policy=AddressPolicy(private_networks)
        )
        super().__init__(self.embedded, OrderedSources(self._operators, further), limits, watch)

    async def __aenter__(self) -> Self:
        await self._operators.__aenter__()
        try:
            return await super().__aenter__()
        except BaseException:
            await self._operators.__aexit__()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await super().__aexit__(kind, error, trace)
        await self._operators.__aexit__()
