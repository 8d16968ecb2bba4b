"""The HTTP client towards strangers and services: without memory, and with a say in who is connected to."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from shared.adapters.content.addresses import AddressPolicy

# Each may hold one block: 192 MiB when all of them are liars, one or two blocks on a good day. A performer that stalls
# on many ports may hold those of all tasks but one: each reads a proof and an input, blocks ahead, attempts at once.
MAX_CONNECTIONS = 96
MAX_CONNECTIONS_PER_HOST = 16
_READ_BYTES = 256 * 1024
_DNS_THREADS = 32  # look-ups at once; more wait, each at most for its attempt
_DNS_CACHE_SECONDS = 300


@asynccontextmanager
async def open_session(policy: AddressPolicy | None) -> AsyncIterator[aiohttp.ClientSession]:
    """No cookies, no proxies from the environment, no decompression (a bomb's best friend), no redirects unless asked.

    `policy` is asked about every address before its socket exists, whether a URL holds it or a name led to it; None is
    for URLs of the operator's own settings alone.
    """
    resolver = _Resolver(policy)
    connector = aiohttp.TCPConnector(
        limit=MAX_CONNECTIONS,
        limit_per_host=MAX_CONNECTIONS_PER_HOST,
        resolver=resolver,
        ttl_dns_cache=_DNS_CACHE_SECONDS,
        socket_factory=None if policy is None else partial(_open_socket, policy),
    )
    try:
        async with aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(total=None),  # every attempt has its own, around more than the request
            auto_decompress=False,
            trust_env=False,
            read_bufsize=_READ_BYTES,
        ) as session:
            yield session
    finally:
        await resolver.close()


def _open_socket(policy: AddressPolicy, address_info: tuple[Any, ...]) -> socket.socket:
    """Raises `AddressRefused`. What is connected to is this very address: a name that changes its mind between a check
    and a connection (DNS rebinding) gains nothing."""
    family, kind, protocol, _, address = address_info
    policy.check(str(address[0]))
    return socket.socket(family=family, type=kind, proto=protocol)


_Name = tuple[str, socket.AddressFamily]
_Found = tuple[Any, ...]  # one address, as `getaddrinfo` has it


class _Resolver(AbstractResolver):
    """DNS in threads of its own. A name server of a liar's may keep a thread for half a minute, and the event loop's
    own few threads serve everybody else in the process. A name has one thread at most, whatever ports it is asked for:
    a performer may name the same host eight times in each of its tasks."""

    def __init__(self, policy: AddressPolicy | None) -> None:
        self._policy = policy
        self._threads = ThreadPoolExecutor(_DNS_THREADS, thread_name_prefix="gateway DNS")
        self._under_way: dict[_Name, asyncio.Future[list[_Found]]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Raises `AddressRefused` when any one of the answers is refused: an honest name does not point both outside
        and inside."""
        found = await asyncio.shield(self._look_up((host.rstrip(".").lower(), family)))
        if self._policy is not None:
            for _, _, _, _, address in found:
                self._policy.check(str(address[0]))
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=port,
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, protocol, _, address in found
        ]

    def _look_up(self, name: _Name) -> asyncio.Future[list[_Found]]:
        """It goes on when nobody waits any more: no thread can be stopped."""
        under_way = self._under_way.get(name)
        if under_way is None:
            look_up = partial(socket.getaddrinfo, name[0], None, name[1], socket.SOCK_STREAM)
            under_way = asyncio.get_running_loop().run_in_executor(self._threads, look_up)
            self._under_way[name] = under_way
            under_way.add_done_callback(lambda done: self._forget(name, done))
        return under_way

    def _forget(self, name: _Name, done: asyncio.Future[list[_Found]]) -> None:
        del self._under_way[name]
        if not done.cancelled():
            done.exception()  # looked at, or asyncio logs it where nobody waits any more

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
