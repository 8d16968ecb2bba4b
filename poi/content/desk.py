"""Whom the commands ask: the running node by its private door, or else its store, opened here meanwhile."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from shared.adapters.content.door.client import knock
from shared.adapters.content.door.place import socket_path
from shared.adapters.content.store import NodeContentStore
from shared.adapters.content.stores import open_content
from shared.config import Config
from shared.content.unixfs import Profile
from shared.errors import ChainUnavailable, StoreBusy, StoreError
from shared.interfaces import Pin, Swept
from shared.types import FOREVER, Address, Cid, Ref


class Content(Protocol):
    """What `NodeContentStore` and the door's client have in common. Raises `ContentError`."""

    async def add_stream(
        self, open_stream: Callable[[], BinaryIO], *, profile: Profile, keep_until: float = FOREVER
    ) -> Ref: ...

    def open(
        self, cid: Cid, *, max_bytes: int, timeout_seconds: float, keep_until: float = 0.0
    ) -> AsyncGenerator[bytes, None]: ...

    def read(self, cid: Cid) -> AsyncGenerator[bytes, None]: ...

    async def has(self, cid: Cid) -> bool: ...

    async def size_of(self, cid: Cid) -> int | None: ...

    async def pin(self, cid: Cid) -> None: ...

    async def unpin(self, cid: Cid) -> None: ...

    async def pins(self) -> Sequence[Pin]: ...

    async def collect(self, max_bytes: int = 0) -> Swept: ...

    async def verify(self, cid: Cid) -> Sequence[Cid]: ...


@dataclass(frozen=True)
class Desk:
    """`find_sources` comes before a read of what may not be here: a running node knows whom to ask, a store that was
    opened for one command has to look on the chain first."""

    content: Content
    find_sources: Callable[[], Awaitable[None]]


@asynccontextmanager
async def open_desk(config: Config) -> AsyncIterator[Desk]:
    """Raises `StoreError`, `ConfigError`."""
    async with knock(socket_path(config.node.data_dir)) as remote:
        if remote is not None:
            yield Desk(remote, _nothing_to_find)
            return
    gateways: dict[Address, str] = {}

    async def find_sources() -> None:
        gateways.update(await _registered(config))

    async with _own_store(config, gateways) as store:
        yield Desk(store, find_sources)


async def _nothing_to_find() -> None:
    pass


@asynccontextmanager
async def _own_store(config: Config, gateways: dict[Address, str]) -> AsyncIterator[NodeContentStore]:
    """The one that the settings name, wherever it is."""
    folder = config.node.data_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"make node.data_dir {folder}: {error.strerror}") from error
    async with AsyncExitStack() as stack:
        opening = open_content(config.content, folder / "content", gateways=lambda: gateways, own=None)
        try:
            store = await stack.enter_async_context(opening)
        except StoreBusy:
            raise StoreBusy(
                f"{folder} is in use by a process that does not answer: a node that starts or stops at the moment, or "
                "another `poi content`; try again when it is done"
            ) from None
        yield store


async def _registered(config: Config) -> dict[Address, str]:
    """The operators' gateways, less this node's own, which is not running. Raises `ChainUnavailable`."""
    from shared.adapters.chain_evm import EvmClient, EvmOperatorReader, discover  # slow, and seldom needed

    network = config.network
    try:
        async with EvmClient(network.chain_rpc) as client:
            found = await discover(client, network.chain_id, network.attestation_center, network.task_escrow)
            operators = await EvmOperatorReader(client, found).operators()
    except ChainUnavailable as error:
        raise ChainUnavailable(f"{error}; with --offline only what is here is read") from error
    own = config.http.gateway_url
    return {operator.address: operator.gateway_url for operator in operators if operator.gateway_url != own}
