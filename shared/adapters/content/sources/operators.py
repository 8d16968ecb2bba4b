"""The registered operators' gateways, the performer's first, and what the performer names beside its own."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Self

import aiohttp
import structlog
from yarl import URL

from shared.adapters.content.addresses import AddressPolicy
from shared.adapters.content.session import open_session
from shared.adapters.content.sources import answers
from shared.constants import MAX_SOURCE_CHARACTERS, MAX_SOURCES
from shared.content.cid import Block
from shared.interfaces import Meter, Source, Wanted
from shared.types import Address, Ref, SourceKind

log = structlog.get_logger(__name__)

_HOST_PROTOCOLS = ("ip4", "ip6", "dns", "dns4", "dns6", "dnsaddr")


class OperatorGateway:
    """One operator's gateway, block by block: several at once, which beats one archive where nothing has to be looked
    for."""

    def __init__(
        self, session: aiohttp.ClientSession, name: str, base_url: str, kind: SourceKind = SourceKind.OPERATOR
    ) -> None:
        self._session, self._name, self._base_url, self._kind = session, name, base_url, kind

    @property
    def name(self) -> str:
        return self._name

    @property
    def kind(self) -> SourceKind:
        return self._kind

    async def fetch(self, wanted: Wanted, meter: Meter) -> Block:
        async with answers.attempt():
            return await answers.raw_block(self._session, self._base_url, wanted.cid, meter)


# --- what a message names ------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class OwnSources:
    """Of a signed `Ref`, what lies at its signer's own hosts; `ignored` counts the rest."""

    urls: tuple[str, ...]
    multiaddrs: tuple[str, ...]
    ignored: int


def own_sources(ref: Ref | None, operator_hosts: frozenset[str]) -> OwnSources:
    """`operator_hosts` as of `registered_hosts`. A signer that could name any host could have every attester send
    requests to it."""
    named = ref.sources if ref is not None else ()
    usable = dict.fromkeys(
        source
        for source in named[:MAX_SOURCES]
        if len(source) <= MAX_SOURCE_CHARACTERS and _host_of(source) in operator_hosts
    )
    urls = tuple(source for source in usable if not source.startswith("/"))
    multiaddrs = tuple(source for source in usable if source.startswith("/"))
    return OwnSources(urls, multiaddrs, len(named) - len(usable))


def registered_hosts(gateway_url: str, p2p_address: str) -> frozenset[str]:
    """The hosts of what the chain has of one operator."""
    return frozenset({_host_of(gateway_url), _host_of(p2p_address)} - {""})


def _host_of(source: str) -> str:
    """Of a URL or a multiaddr, in one spelling; "" for what has none."""
    if source.startswith("/"):
        parts = source.split("/")
        return _host(parts[2]) if len(parts) > 2 and parts[1] in _HOST_PROTOCOLS else ""
    try:
        return _host(URL(source).raw_host or "")
    except (ValueError, IndexError):  # the latter of http://[]@
        return ""


def _host(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        return text.rstrip(".").lower()


# --- whom to ask ---------------------------------------------------------------------------------
class OperatorSources:
    """`gateways` and `p2p_addresses` say what the registry has now and are asked again for every read; no other host is
    connected to, whatever a message names. Open it with `async with`."""

    def __init__(
        self,
        gateways: Callable[[], Mapping[Address, str]],
        own: Address | None,
        *,
        p2p_addresses: Callable[[], Mapping[Address, str]] = dict,
        policy: AddressPolicy | None = None,
    ) -> None:
        """`policy`: None for public addresses alone."""
        self._gateways, self._own, self._p2p_addresses = gateways, own, p2p_addresses
        self._policy = policy or AddressPolicy()
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._session = await self._open.enter_async_context(open_session(self._policy))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._open.aclose()

    def __call__(self, prefer: Address | None, ref: Ref | None) -> list[Source]:
        """`prefer` first, at its registered gateway and then at what it names; the rest by chance, so that no operator
        serves everybody."""
        urls = {address: url for address, url in self._gateways().items() if address != self._own}
        rest = [address for address in urls if address != prefer]
        random.shuffle(rest)
        sources: list[Source] = []
        if prefer is not None and prefer in urls:
            sources += self._performer(prefer, urls[prefer], ref)
        return sources + [self._gateway(_name(address), urls[address], SourceKind.OPERATOR) for address in rest]

    def _performer(self, performer: Address, url: str, ref: Ref | None) -> list[OperatorGateway]:
        own = own_sources(ref, registered_hosts(url, self._p2p_addresses().get(performer, "")))
        if own.ignored:
            log.debug("sources at others' hosts are ignored", operator=_name(performer), sources=own.ignored)
        further = [named for named in own.urls if named.rstrip("/") != url.rstrip("/")]
        return [self._gateway(_name(performer), url, SourceKind.PERFORMER)] + [
            self._gateway(f"{_name(performer)}, source {number}", named, SourceKind.PERFORMER)
            for number, named in enumerate(further, 1)
        ]

    def _gateway(self, name: str, url: str, kind: SourceKind) -> OperatorGateway:
        return OperatorGateway(self._session, name, url, kind)


def _name(address: Address) -> str:
    return f"0x{address.hex()}"
