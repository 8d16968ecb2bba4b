"""The stores, and the clients of the operator's own IPFS node, that the settings name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from shared.adapters.content.eigenda import open_source
from shared.adapters.content.embedded import EmbeddedBlocks
from shared.adapters.content.kubo.blocks import KuboBlocks
from shared.adapters.content.kubo.ipfshttpclient import IpfsHttpClient
from shared.adapters.content.kubo.rpc import KuboRpc
from shared.adapters.content.kubo.source import KuboSource, Peers
from shared.adapters.content.local import LocalStore
from shared.adapters.content.services import open_services
from shared.adapters.content.store import NodeContentStore, OperatorSources
from shared.config import ContentConfig
from shared.crypto.keystore import read_password
from shared.errors import ConfigError
from shared.interfaces import Source
from shared.types import Address, Ref


@asynccontextmanager
async def open_content(
    settings: ContentConfig,
    folder: Path,
    *,
    gateways: Callable[[], Mapping[Address, str]],
    own: Address | None,
    peers: Peers = lambda _: (),
) -> AsyncIterator[NodeContentStore]:
    """A node's content, with the sources that the settings name. `gateways` are the registered operators'; `peers` are
    whom its IPFS node may dial for a file. Raises `ConfigError`, `StoreError`."""
    async with AsyncExitStack() as stack:
        operators = await stack.enter_async_context(OperatorSources(gateways, own))
        further: list[Source] = []
        if settings.kubo_url:
            further.append(KuboSource(await stack.enter_async_context(kubo_rpc(settings)), peers))
        if settings.eigenda_url:
            session = await stack.enter_async_context(open_services())
            further.append(await stack.enter_async_context(open_source(session, settings.eigenda_url)))

        def sources(prefer: Address | None, ref: Ref | None) -> list[Source]:
            return [*operators(prefer, ref), *further]

        yield await stack.enter_async_context(NodeContentStore(local_store(settings, folder), sources))


def local_store(settings: ContentConfig, folder: Path) -> LocalStore:
    """Where this node keeps its blocks; unopened. Raises `ConfigError` for what the operator can mend."""
    match settings.store:
        case "embedded":
            return EmbeddedBlocks(folder, settings.max_bytes)
        case "kubo":
            return KuboBlocks(kubo_rpc(settings), folder)
        case "ipfshttpclient":
            client = IpfsHttpClient(settings.kubo_url, authorization=_authorization(settings))
            return KuboBlocks(client, folder)


def kubo_rpc(settings: ContentConfig) -> KuboRpc:
    """A client of the node at `content.kubo_url`, which is set; unopened. Raises `ConfigError`, as `local_store`."""
    return KuboRpc(settings.kubo_url, authorization=_authorization(settings))


def _authorization(settings: ContentConfig) -> str | None:
    if settings.kubo_auth_file is None:
        return None
    value = read_password(settings.kubo_auth_file)
    if not value.isascii() or not value.isprintable():
        raise ConfigError(
            f"content.kubo_auth_file: {settings.kubo_auth_file} does not hold a header of ASCII characters, "
            'as "Bearer TOKEN"'
        )
    return value
