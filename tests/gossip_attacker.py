"""A member that breaks the rules: a stock libp2p host, in a thread of its own, that writes what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.validators import PUBSUB_SIGNING_PREFIX
from libp2p.utils import encode_varint_prefixed
from multiaddr import Multiaddr

from shared.adapters.gossip_libp2p import LibP2PGossip
from shared.adapters.gossip_libp2p.bridge import TrioThread
from shared.adapters.gossip_libp2p.budgets import ORIGIN, Conduct, Meter
from shared.errors import Reject
from shared.types import PeerKey
from tests.gossip_support import LibP2PNetwork, Reader, secret_of, until

MESHSUB = TProtocol("/meshsub/1.1.0")
SEQUENCE = itertools.count(time.time_ns())


def message(name: str, data: bytes, topic: str = "t", /, **changes: Any) -> rpc_pb2.Message:
    """Signed by `name`; changes come after the signature, `None` takes a field away."""
    pair = create_new_key_pair(secret_of(name))
    signed = rpc_pb2.Message(
        data=data,
        topicIDs=[topic],
        from_id=ID.from_pubkey(pair.public_key).to_bytes(),
        seqno=next(SEQUENCE).to_bytes(8, "big"),
    )
    signed.signature = pair.private_key.sign(PUBSUB_SIGNING_PREFIX.encode() + signed.SerializeToString())
    for field, value in changes.items():
        if value is None:
            signed.ClearField(field)
        elif field == "topicIDs":
            signed.topicIDs[:] = value
        else:
            setattr(signed, field, value)
    return signed


def published(*messages: rpc_pb2.Message) -> bytes:
    return rpc_pb2.RPC(publish=messages).SerializeToString()


def control(**entries: Any) -> bytes:
    return rpc_pb2.RPC(control=rpc_pb2.ControlMessage(**entries)).SerializeToString()


class Failed(Exception):
    """What the attacker tried did not work."""


class Attacker:
    """On the trio side."""

    def __init__(self, host: Any, victim: PeerInfo) -> None:
        self.host, self.victim = host, victim
        self.received_bytes = 0
        host.set_stream_handler(MESHSUB, self._count)

    async def _count(self, stream: Any) -> None:
        while chunk := await stream.read(1 << 16):
            self.received_bytes += len(chunk)

    async def connect(self) -> None:
        """Raises `Failed` when the victim hangs up."""
        try:
            with trio.fail_after(10):
                await self.host.connect(self.victim)
        except Exception as error:
            raise Failed from error

    async def open_stream(self) -> None:
        with trio.fail_after(10):
            self.stream = await self.host.new_stream(self.victim.peer_id, [MESHSUB])

    async def send(self, *frames: bytes) -> None:
        await self.send_raw(b"".join(encode_varint_prefixed(frame) for frame in frames))

    async def send_raw(self, data: bytes) -> None:
        """Silent when the victim has hung up."""
        with contextlib.suppress(Exception), trio.fail_after(10):
            await self.stream.write(data)

    async def reset(self) -> None:
        await self.stream.reset()

    async def wait_for_end(self) -> None:
        """Until the victim ends our stream."""
        with contextlib.suppress(Exception):
            while await self.stream.read(1 << 16):
                pass

    async def wait_for_hang_up(self) -> None:
        """Until no connection is open."""
        while any(  # noqa: ASYNC110  libp2p tells nobody
            not c.muxed_conn.is_closed for c in self.host.get_network().get_connections()
        ):
            await trio.sleep(0.02)

    @property
    def muxed(self) -> Any:
        return self.host.get_network().get_connections(self.victim.peer_id)[0].muxed_conn


class Remote:
    """An `Attacker`, from the asyncio side."""

    def __init__(self, thread: TrioThread[Attacker], attacker: Attacker) -> None:
        self._thread, self.attacker = thread, attacker

    async def do(self, method: str, *args: Any) -> None:
        async with asyncio.timeout(30):
            await self._thread.call(getattr(self.attacker, method), *args)

    async def call(self, function: Any, *args: Any) -> Any:
        async with asyncio.timeout(30):
            return await self._thread.call(function, self.attacker, *args)


@contextlib.asynccontextmanager
async def attacking(name: str, victim: LibP2PGossip, **host_options: Any) -> AsyncIterator[Remote]:
    """A host with the identity `name`, not connected yet."""
    listen = [Multiaddr("/ip4/127.0.0.1/tcp/0")]
    target = PeerInfo(ID.from_base58(victim.peer_id), [Multiaddr(victim.address)])

    async def main(thread: TrioThread[Attacker]) -> None:
        host = new_host(key_pair=create_new_key_pair(secret_of(name)), listen_addrs=listen, **host_options)
        async with host.run(listen_addrs=listen):
            thread.announce(Attacker(host, target))
            await thread.stopping.wait()
            for connection in host.get_network().get_connections():
                await connection.muxed_conn.secured_conn.close()

    thread: TrioThread[Attacker] = TrioThread(main, "attacker")
    attacker = await thread.start()
    try:
        yield Remote(thread, attacker)
    finally:
        await thread.stop(5)


@dataclass
class Arena:
    """A victim and an honest node, connected, both reading the topic `t`."""

    network: LibP2PNetwork
    victim: LibP2PGossip
    honest: LibP2PGossip
    heard_by_victim: Reader
    heard_by_honest: Reader
    rounds: int = 0

    async def let_in(self, name: str) -> PeerKey:
        """Attackers are members: strangers do not come so far."""
        key = PeerKey(create_new_key_pair(secret_of(name)).public_key.to_bytes())
        self.network.book[key] = "/ip4/127.0.0.1/tcp/1"
        await until(lambda: self.victim._members.is_member(key), "the victim knows the new member")
        return key

    def count(self, name: str) -> int:
        """A moment old."""
        return self.victim.health().counters.get(name, 0)

    def forgive(self) -> None:
        """Cases share an attacker: its strikes must not add up to a ban, nor its messages to a flood."""
        self.victim._members.conduct = Conduct()
        self.victim._node._pubsub._origins = Meter(ORIGIN)

    async def expect_alive(self) -> None:
        """Honest messages pass in both directions."""
        self.rounds += 1
        there, back = b"there %d" % self.rounds, b"back %d" % self.rounds
        await self.honest.publish("t", there)
        await self.victim.publish("t", back)
        await self.heard_by_victim.gets(there)
        await self.heard_by_honest.gets(back)
        assert not self.victim.failed.done()


def reject_bad(origin: PeerKey, data: bytes) -> None:
    if data.startswith(b"bad"):
        raise Reject("bad")


@contextlib.asynccontextmanager
async def open_arena() -> AsyncIterator[Arena]:
    network = LibP2PNetwork()
    victim, honest = await network.start("victim"), await network.start("honest")
    assert isinstance(victim, LibP2PGossip)
    assert isinstance(honest, LibP2PGossip)
    heard = await network.read(victim, "t", reject_bad), await network.read(honest, "t")
    await network.connected(victim, honest, topic="t")
    yield Arena(network, victim, honest, *heard)
    await network.close()
