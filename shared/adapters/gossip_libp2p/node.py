"""The trio side, put together in the one order that works."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.peer.peerstore import PeerStore
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.tools.anyio_service import background_trio_service
from libp2p.transport.tcp.tcp import TCP
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr

from shared.adapters.gossip_common import Counters, Snapshot
from shared.adapters.gossip_libp2p import limits, logs, patches
from shared.adapters.gossip_libp2p.budgets import ORIGIN, HandshakeQuota
from shared.adapters.gossip_libp2p.gate import noise_only
from shared.adapters.gossip_libp2p.keeper import Keeper
from shared.adapters.gossip_libp2p.members import Members, id_of
from shared.adapters.gossip_libp2p.muxer import BoundedYamux
from shared.adapters.gossip_libp2p.pubsub import Deliver, MemberPubsub
from shared.adapters.gossip_libp2p.router import SteadyGossipSub
from shared.adapters.gossip_libp2p.swarm import MemberHost, MemberSwarm
from shared.interfaces import Validator
from shared.token_bucket import Bucket

CONNECTIONS = ConnectionConfig(
    max_connections=limits.MAX_CONNECTIONS,
    high_watermark=limits.MAX_CONNECTIONS,
    low_watermark=0,
    min_connections=0,
    max_connections_per_peer=limits.MAX_CONNECTIONS_PER_PEER,
    inbound_upgrade_timeout=limits.HANDSHAKE_SECONDS,
    outbound_upgrade_timeout=limits.HANDSHAKE_SECONDS,
)


class Node:
    """What the asyncio side may ask of the trio side."""

    def __init__(self, swarm: MemberSwarm, pubsub: MemberPubsub, keeper: Keeper, members: Members) -> None:
        self._swarm, self._pubsub, self._keeper, self._members = swarm, pubsub, keeper, members
        now, own = time.monotonic(), ORIGIN.scaled(limits.OWN_SHARE)
        self._messages = Bucket(own.messages, own.messages_burst, now)
        self._volume = Bucket(own.size, own.size_burst, now)

    @property
    def address(self) -> str:
        """Where it really listens, without the peer id."""
        listener = next(iter(self._swarm.listeners.values()))
        return str(listener.get_addrs()[0])

    async def publish(self, topic: str, data: bytes) -> None:
        """Waits rather than exceed what others take from one origin: they would drop it without a word. Raises
        `Reject` when our own validator does."""
        now = time.monotonic()
        await trio.sleep(max(self._messages.owe(1, now), self._volume.owe(len(data), now)))
        await self._pubsub.publish(topic, data)

    async def subscribe(self, topic: str, validate: Validator) -> None:
        self._pubsub.validators[topic] = validate
        await self._pubsub.subscribe(topic)

    async def unsubscribe(self, topic: str) -> None:
        self._pubsub.validators.pop(topic, None)
        await self._pubsub.unsubscribe(topic)

    async def run(self, on_snapshot: Callable[[Snapshot], None], *, until: trio.Event) -> None:
        """Reports after each turn of the keeper; hangs up before it returns."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keeper.run, lambda: on_snapshot(self._snapshot()))
            await until.wait()
            nursery.cancel_scope.cancel()
        await self._hang_up()

    async def _hang_up(self) -> None:
        """All at once: libp2p closes one connection after the other, a fifth of a second each."""
        with trio.move_on_after(limits.HANG_UP_SECONDS):
            async with trio.open_nursery() as nursery:
                for connection in self._swarm.get_connections():
                    nursery.start_soon(self._swarm.hang_up, connection)

    def _snapshot(self) -> Snapshot:
        pubsub = self._pubsub
        return Snapshot(
            peers=self._keeper.connected(),
            mesh={topic: len(peers) for topic, peers in pubsub.router.mesh.items()},
            subscribers={t: sum(p in pubsub.peers for p in peers) for t, peers in pubsub.peer_topics.items()},
            counters=pubsub.counters.snapshot(),
            banned=self._members.conduct.banned(time.monotonic()),
            lag_seconds=self._keeper.lag_seconds,
        )


@asynccontextmanager
async def open_node(
    secret: bytes, listen: str, members: Members, deliver: Deliver, max_bytes: Mapping[str, int]
) -> AsyncIterator[Node]:
    """A listening node. Raises `OSError` when the port is taken, `ConfigError` on another libp2p."""
    patches.install()
    logs.install()
    counters = Counters()
    swarm = _build_swarm(secret, members, counters)
    host = MemberHost(swarm, counters)
    router = SteadyGossipSub(counters)
    pubsub = MemberPubsub(host, router, members=members, counters=counters, deliver=deliver, max_bytes=max_bytes)
    # D7: the services first; a peer that dials between the two ends a stock host.
    async with background_trio_service(pubsub), background_trio_service(router):
        await pubsub.wait_until_ready()
        async with host.run([Multiaddr(listen)]):
            yield Node(swarm, pubsub, Keeper(swarm, pubsub, members, counters), members)


def _build_swarm(secret: bytes, members: Members, counters: Counters) -> MemberSwarm:
    """By hand, not by `new_host`: that adds secio, plaintext and a resource manager that refuses by system load."""
    key_pair, peers = create_new_key_pair(secret), PeerStore()
    identity = id_of(members.own)
    peers.add_key_pair(identity, key_pair)
    swarm = MemberSwarm(
        identity,
        peers,
        TransportUpgrader(
            noise_only(key_pair, members.is_welcome),
            {TProtocol(YAMUX): BoundedYamux},
        ),
        transports=[TCP()],
        retry_config=RetryConfig(max_retries=0),
        connection_config=CONNECTIONS,
    )
    swarm.counters, swarm.quota = counters, HandshakeQuota()
    return swarm
