"""Keeps every member connected and everybody else away."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import structlog
import trio
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from shared import peer_id
from shared.adapters.gossip_common import Count, Counters
from shared.adapters.gossip_libp2p import limits
from shared.adapters.gossip_libp2p.members import Members, id_of, key_of
from shared.adapters.gossip_libp2p.pubsub import MemberPubsub
from shared.adapters.gossip_libp2p.swarm import MemberSwarm
from shared.types import PeerKey

log = structlog.get_logger(__name__)
DNS_FAMILIES = {"dns": trio.socket.AF_UNSPEC, "dns4": trio.socket.AF_INET, "dns6": trio.socket.AF_INET6}


@dataclass(slots=True)
class Redial:
    """Where we are with one member."""

    address: str
    due: float
    attempts: int = 0
    is_under_way: bool = False
    connected_since: float | None = None

    def attempted(self, now: float) -> None:
        """The pause doubles also after a success: a peer that always hangs up is not dialled in a loop."""
        self.is_under_way = False
        pause = min(limits.REDIAL_MAX_SECONDS, limits.REDIAL_MIN_SECONDS * 2 ** min(self.attempts, 10))
        self.attempts += 1
        self.due = now + pause * random.uniform(0.7, 1.3)

    def on_connected(self, now: float) -> bool:
        """True when this is news."""
        is_news = self.connected_since is None
        if self.connected_since is None:
            self.connected_since = now
        elif now - self.connected_since > limits.STABLE_SECONDS:
            self.attempts, self.due = 0, now
        return is_news

    def on_absent(self, now: float, head_start: float) -> bool:
        """True when this is news."""
        if self.connected_since is None:
            return False
        self.connected_since = None
        self.due = max(self.due, now + head_start)
        return True


class Keeper:
    """Compares members with connections a few times a second."""

    def __init__(self, swarm: MemberSwarm, pubsub: MemberPubsub, members: Members, counters: Counters) -> None:
        self._swarm, self._pubsub, self._members, self._counters = swarm, pubsub, members, counters
        self._redials: dict[PeerKey, Redial] = {}
        self._unregistered: dict[ID, float] = {}
        self._dials = trio.CapacityLimiter(limits.MAX_CONCURRENT_DIALS)
        self.lag_seconds = 0.0

    async def run(self, on_turn: Callable[[], None]) -> None:
        """Never returns. `on_turn` is called after each comparison."""
        async with trio.open_nursery() as nursery:
            while True:
                self._turn(nursery, trio.current_time())
                on_turn()
                before = trio.current_time()
                await trio.sleep(limits.KEEPER_SECONDS)
                self.lag_seconds = max(0.0, trio.current_time() - before - limits.KEEPER_SECONDS)  # D15: a busy loop

    def _turn(self, nursery: trio.Nursery, now: float) -> None:
        connected = self._swarm.living()
        for peer in connected:
            if not self._members.is_welcome(peer):
                nursery.start_soon(self._disconnect, peer)
        self._repair(connected, now)
        self._plan(connected, now)
        for key, redial in self._redials.items():
            if redial.connected_since is None and not redial.is_under_way and redial.due <= now:
                redial.is_under_way = True
                nursery.start_soon(self._dial, key, redial)

    def _plan(self, connected: set[ID], now: float) -> None:
        """Which members have to be dialled, and when. A banned one is not."""
        addresses = {k: a for k, a in self._members.addresses.items() if self._members.is_welcome(id_of(k))}
        for key in [k for k in self._redials if k not in addresses]:
            del self._redials[key]
        for key, address in addresses.items():
            head_start = 0.0 if self._members.own < key else limits.SECOND_DIALLER_SECONDS
            redial = self._redials.get(key)
            if redial is None or redial.address != address:
                redial = self._redials[key] = Redial(address, now + head_start)
            if id_of(key) in connected:
                if redial.on_connected(now):
                    log.info("a member is connected", peer=peer_id.to_text(key))
            elif redial.on_absent(now, head_start):
                log.info("a member is gone", peer=peer_id.to_text(key))

    def _repair(self, connected: set[ID], now: float) -> None:
        self._pubsub.drop_dead_streams()
        # D35: stock gives up registering a peer when the first negotiation fails, and never sends it anything.
        lacking = {peer for peer in connected if peer not in self._pubsub.peers and self._members.is_welcome(peer)}
        self._unregistered = {peer: self._unregistered.get(peer, now) for peer in lacking}
        for peer, since in self._unregistered.items():
            if now - since > limits.UNREGISTERED_SECONDS:
                self._pubsub._schedule_peer_stream_retry(peer)

    async def _disconnect(self, peer: ID) -> None:
        for connection in self._swarm.get_connections(peer):
            await self._swarm.hang_up(connection)

    async def _dial(self, key: PeerKey, redial: Redial) -> None:
        try:
            async with self._dials:
                with trio.fail_after(limits.DIAL_SECONDS):
                    # Past libp2p's own book-keeping: it refuses a peer for a minute after a failure, waits a quarter
                    # of a second after a success, and mixes in addresses that the peer claimed.
                    await self._swarm.dial_addr(await resolve(redial.address), id_of(key))
        except Exception as error:  # noqa: BLE001  unreachable, refused, nonsense in the registry: all mean "later"
            self._counters.add(Count.DIALS_FAILED)
            say = log.debug if redial.attempts else log.info  # once an outage is enough
            say("cannot reach a member", peer=peer_id.to_text(key), error=repr(error))
        finally:
            redial.attempted(trio.current_time())

    def connected(self) -> tuple[PeerKey, ...]:
        """Members that we can send to, sorted."""
        keys = (key_of(peer) for peer in self._pubsub.peers if self._members.is_welcome(peer))
        return tuple(sorted(key for key in keys if key is not None))


async def resolve(address: str) -> Multiaddr:
    """A multiaddr with an IP address. Raises `ValueError` for anything but `/ip4|ip6|dns…/HOST/tcp/PORT`, and `OSError`
    from DNS."""
    parts = address.split("/")
    if len(parts) != 5 or parts[0] or parts[3] != "tcp":
        raise ValueError(f"{address!r} is not /ip4/HOST/tcp/PORT or the like")
    _, kind, host, _, port = parts
    if kind in DNS_FAMILIES:
        found = await trio.socket.getaddrinfo(host, int(port), DNS_FAMILIES[kind], trio.socket.SOCK_STREAM)
        kind, host = ("ip6" if ":" in str(found[0][4][0]) else "ip4"), str(found[0][4][0])
    if kind not in ("ip4", "ip6"):
        raise ValueError(f"{kind!r} is no kind of host")
    return Multiaddr(f"/{kind}/{host}/tcp/{int(port)}")
