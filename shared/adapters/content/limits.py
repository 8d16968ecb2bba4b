"""How much of a node strangers may take: requests, bodies in memory, and bytes a second; shares for each client."""

from __future__ import annotations

import asyncio
import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from shared.token_bucket import Bucket

MAX_BODIES = 64  # blocks in memory at once, of at most 2 MiB each
MAX_BODIES_PER_CLIENT = 16
MAX_WAITING_PER_CLIENT = 256  # a whole testnet may share one address
# A request that waits holds a few KB and a socket. From half of them on nobody may have any wait: the other half is for
# those who come from many addresses to be many of.
MAX_PRESENT = 4096
MAX_CLIENTS = 8192  # remembered, of about a KB each; more than can be present, so one can always be forgotten
# Half of what a gigabit line carries, so that no one client fills it; before that, a model of usual size at full speed.
BYTES_PER_SECOND = 64 << 20
BURST_BYTES = 2 << 30
# What any request costs its client, in bytes: 4096 a second may be asked, for nothing or for what is not here.
REQUEST_BYTES = 16 << 10
# A reader that is cut off has held a body for SEND_SECONDS. It may be a bad line, a few times.
CUT_BYTES = 64 << 20


class Client:
    """One client's share. `clock` is monotonic, in seconds."""

    def __init__(self, bodies: int, rate: float, burst: float, clock: Callable[[], float]) -> None:
        self.present = 0
        self.turns = asyncio.Semaphore(bodies)
        self._clock = clock
        self._bucket = Bucket(rate, burst, clock())

    def charge(self, size: int) -> None:
        """For what was read for it, sent or not: that is what costs the disk, and hashing."""
        self._bucket.owe(size, self._clock())

    def debt(self) -> float:
        """Seconds until it may have more."""
        return self._bucket.owe(0, self._clock())

    async def paid(self) -> None:
        """Waits until its debt is paid. Several may wait for the same; what they then take is the next debt."""
        if (debt := self.debt()) > 0:
            await asyncio.sleep(debt)


class ClientLimits:
    """Shares a bounded number of bodies among clients; a client is an IPv4 address or an IPv6 /64.

    Who is over its bytes a second is refused at the door (429, with when to come again), which costs nothing to keep up
    and lets an honest reader go to another source at once. An archive under way waits instead, between two blocks:
    cutting it would waste what was sent.
    """

    def __init__(
        self,
        bodies: int = MAX_BODIES,
        per_client: int = MAX_BODIES_PER_CLIENT,
        waiting_per_client: int = MAX_WAITING_PER_CLIENT,
        *,
        bytes_per_second: float = BYTES_PER_SECOND,
        burst_bytes: float = BURST_BYTES,
        max_present: int = MAX_PRESENT,
        max_clients: int = MAX_CLIENTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bodies, self._per_client = asyncio.Semaphore(bodies), per_client
        self._present_per_client = per_client + waiting_per_client
        self._rate, self._burst, self._clock = bytes_per_second, burst_bytes, clock
        self._max_present, self._max_clients = max_present, max_clients
        self.present = 0
        self.clients: OrderedDict[str, Client] = OrderedDict()  # the one that was here last is last

    @asynccontextmanager
    async def request(self, remote: str | None) -> AsyncIterator[Client]:
        """One request, from its head to its last byte. Raises `HTTPTooManyRequests`, `HTTPServiceUnavailable`."""
        client = self._client(client_of(remote))
        self._admit(client)
        client.present += 1
        self.present += 1
        client.charge(REQUEST_BYTES)
        try:
            yield client
        finally:
            client.present -= 1
            self.present -= 1

    def _admit(self, client: Client) -> None:
        if self.present >= self._max_present:
            raise web.HTTPServiceUnavailable(headers={"Retry-After": "1"}, text="too many requests at once")
        is_crowded = self.present >= self._max_present // 2
        if client.present >= (self._per_client if is_crowded else self._present_per_client):
            raise web.HTTPTooManyRequests(headers={"Retry-After": "1"}, text="too many requests at once")
        if (debt := client.debt()) > 0:
            seconds = math.ceil(debt)
            raise web.HTTPTooManyRequests(
                headers={"Retry-After": str(seconds)}, text=f"too much in a short time; more in {seconds} s"
            )

    @asynccontextmanager
    async def turn(self, client: Client) -> AsyncIterator[None]:
        """A body in memory."""
        async with client.turns, self._bodies:  # in this order: a client with many requests waits behind itself
            yield

    @asynccontextmanager
    async def body(self, remote: str | None) -> AsyncIterator[Client]:
        """A request that is one body. Raises as `request`."""
        async with self.request(remote) as client, self.turn(client):
            yield client

    def _client(self, name: str) -> Client:
        if name not in self.clients:
            if len(self.clients) >= self._max_clients:
                self._forget_one()
            self.clients[name] = Client(self._per_client, self._rate, self._burst, self._clock)
        self.clients.move_to_end(name)
        return self.clients[name]

    def _forget_one(self) -> None:
        """Who was away longest; whoever comes from ever new addresses gains nothing by it, for each is new anyway."""
        absent = next((name for name, client in self.clients.items() if not client.present), None)
        if absent is not None:
            del self.clients[absent]


def client_of(remote: str | None) -> str:
    """Whom a request counts for. One subscriber has a whole IPv6 /64, so that is one client."""
    try:
        address = ipaddress.ip_address(remote or "")
    except ValueError:  # a unix socket has no address
        return ""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:  # a socket that takes both
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((int(address), 64), strict=False))
    return str(address)
