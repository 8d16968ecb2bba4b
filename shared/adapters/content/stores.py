"""The stores, and the clients of the operator's own IPFS node, that the settings name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from shared.adapters.content.addresses import AddressPolicy, AddressRefused
from shared.adapters.content.eigenda import open_source
from shared.adapters.content.embedded import EmbeddedBlocks
from shared.adapters.content.kubo.blocks import KuboBlocks
from shared.adapters.content.kubo.ipfshttpclient import IpfsHttpClient
from shared.adapters.content.kubo.rpc import KuboRpc
from shared.adapters.content.kubo.source import KuboSource
from shared.adapters.content.local import LocalStore
from shared.adapters.content.session import open_session
from shared.adapters.content.sources.gateways import open_gateways
from shared.adapters.content.sources.operators import OperatorSources, own_sources, registered_hosts
from shared.adapters.content.sources.order import OrderedSources
from shared.adapters.content.store import NodeContentStore
from shared.adapters.content.watch import ContentWatch
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
    p2p_addresses: Callable[[], Mapping[Address, str]] = dict,
    own: Address | None,
    watch: ContentWatch | None = None,
) -> AsyncIterator[NodeContentStore]:
    """A node's content, with the sources that the settings name. `gateways` and `p2p_addresses` are what the registry
    has now. Raises `ConfigError`, `StoreError`."""
    policy = AddressPolicy(settings.private_networks)

    def peers(ref: Ref | None) -> Sequence[str]:
        return _peers(ref, gateways(), p2p_addresses(), policy)

    async with AsyncExitStack() as stack:
        operators = OperatorSources(gateways, own, p2p_addresses=p2p_addresses, policy=policy)
        await stack.enter_async_context(operators)
        further: list[Source] = []
        if settings.kubo_url:
            further.append(KuboSource(await stack.enter_async_context(kubo_rpc(settings)), peers))
        further += await stack.enter_async_context(open_gateways(settings.gateways))
        if settings.eigenda_url:
            session = await stack.enter_async_context(open_session(None))
            further.append(await stack.enter_async_context(open_source(session, settings.eigenda_url)))
        sources = OrderedSources(operators, further)
        yield await stack.enter_async_context(
            NodeContentStore(local_store(settings, folder, watch), sources, watch=watch)
        )


def _peers(
    ref: Ref | None, gateways: Mapping[Address, str], p2p_addresses: Mapping[Address, str], policy: AddressPolicy
) -> Sequence[str]:
    """Whom the IPFS node may dial for a file: nodes at operators' hosts, whichever operator's, since it knows no
    performers. An address is held to our own policy; a name is the IPFS node's to resolve, and to refuse."""
    hosts = [registered_hosts(url, p2p_addresses.get(address, "")) for address, url in gateways.items()]
    named = own_sources(ref, frozenset().union(*hosts)).multiaddrs
    return [multiaddr for multiaddr in named if _is_allowed(multiaddr, policy)]


def _is_allowed(multiaddr: str, policy: AddressPolicy) -> bool:
    _, protocol, host, *_ = multiaddr.split("/")
    if protocol not in ("ip4", "ip6"):
        return True
    try:
        policy.check(host)
    except AddressRefused:
        return False
    return True


def local_store(settings: ContentConfig, folder: Path, watch: ContentWatch | None = None) -> LocalStore:
    """Where this node keeps its blocks; unopened. Raises `ConfigError` for what the operator can mend."""
    match settings.store:
        case "embedded":
            return EmbeddedBlocks(folder, settings.max_bytes, watch=watch)
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
