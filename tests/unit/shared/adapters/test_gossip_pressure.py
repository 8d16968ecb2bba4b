"""What strangers and members may cost a node: sockets, streams, memory, dials, signatures, log lines."""

import asyncio
import contextlib
import os
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import psutil
import pytest
import pytest_asyncio
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.envelope import seal_record
from libp2p.peer.id import ID
from libp2p.peer.peer_record import PeerRecord
from libp2p.pubsub.pb import rpc_pb2
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
from libp2p.stream_muxer.yamux.yamux import FLAG_SYN, TYPE_DATA, YAMUX_HEADER_FORMAT
from multiaddr import Multiaddr

from shared.adapters.gossip_libp2p import limits
from shared.adapters.gossip_libp2p.budgets import Allowance, Meter
from tests.gossip_attacker import (
    MESHSUB,
    Arena,
    Attacker,
    Failed,
    Remote,
    attacking,
    control,
    message,
    open_arena,
    published,
)
from tests.gossip_support import secret_of, until

pytestmark = pytest.mark.asyncio(loop_scope="module")
NO_HANDSHAKE = b"\x13/multistream/1.0.0\n\x07/noise\n" + bytes(300)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def arena() -> AsyncIterator[Arena]:
    async with open_arena() as arena:
        yield arena


@pytest_asyncio.fixture(loop_scope="module")
async def mallory(arena: Arena) -> AsyncIterator[Remote]:
    """Connected, with an open stream."""
    async with attacking("mallory", arena.victim) as remote:
        await arena.let_in("mallory")
        await remote.do("connect")
        await remote.do("open_stream")
        yield remote
    arena.forgive()
    await arena.expect_alive()


def tcp_address(arena: Arena) -> tuple[str, int]:
    _, _, host, _, port = arena.victim.address.split("/")
    return host, int(port)


async def open_sockets(arena: Arena, amount: int) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    return [await asyncio.open_connection(*tcp_address(arena)) for _ in range(amount)]


# -- strangers ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "noise", [b"GET / HTTP/1.0\r\n\r\n", b"\xff" * 10, b"\x13/multistream/1.0.0\n\x07/noise\n" + bytes(300)]
)
async def test_garbage_instead_of_a_handshake(arena, noise):
    before = arena.count("handshakes_failed")
    for reader, writer in await open_sockets(arena, 5):
        with contextlib.suppress(OSError):  # the victim may be the first to hang up
            writer.write(noise)
            writer.write_eof()
            async with asyncio.timeout(10):
                while await reader.read(1000):
                    pass
        writer.close()
    await until(lambda: arena.count("handshakes_failed") == before + 5, "all five failed")
    await arena.expect_alive()


async def test_a_host_holds_no_more_than_its_share_of_open_handshakes(arena, monkeypatch):
    monkeypatch.setattr(limits, "MAX_PENDING_HANDSHAKES_PER_HOST", 10)
    before = arena.count("handshakes_refused")
    sockets = await open_sockets(arena, 25)
    await until(lambda: arena.count("handshakes_refused") == before + 15, "fifteen of 25 are refused")
    for _, writer in sockets:
        writer.close()
    await until(lambda: arena.victim._node._swarm.quota.pending == 0, "places are free again")
    await arena.expect_alive()


async def test_a_stranger_is_refused_after_the_handshake(arena):
    before = arena.count("handshakes_failed")
    async with attacking("a stranger", arena.victim) as remote:
        with pytest.raises(Failed):
            await remote.do("connect")
    await until(lambda: arena.count("handshakes_failed") > before, "it is counted")
    await arena.expect_alive()


async def test_a_member_cannot_fall_back_to_plaintext(arena):
    pair = create_new_key_pair(secret_of("mallory"))
    async with attacking("mallory", arena.victim, sec_opt={PLAINTEXT_PROTOCOL_ID: InsecureTransport(pair)}) as remote:
        await arena.let_in("mallory")
        with pytest.raises(Failed):
            await remote.do("connect")
    await arena.expect_alive()


async def test_a_connection_that_ends_leaves_nothing(arena):
    """Stock keeps a slot for each connection that ever came in."""
    await arena.let_in("mallory")
    swarm = arena.victim._node._swarm
    nursery = swarm.background_nursery
    tasks = len(nursery.child_tasks)
    for _ in range(5):
        async with attacking("mallory", arena.victim) as remote:
            await remote.do("connect")
            await until(lambda: len(nursery.child_tasks) > tasks, "connected")
        await until(lambda: len(nursery.child_tasks) == tasks, "nothing is left of it")
    await arena.expect_alive()


# -- members: streams and bytes -----------------------------------------------------------------------------
async def test_streams_over_the_limit_are_refused(arena, mallory):
    before = arena.count("streams_refused")

    async def open_many(attacker: Attacker) -> None:
        muxed = attacker.muxed
        for _ in range(60):
            await muxed.open_stream()  # never negotiated: each would hold a place for ten seconds

    await mallory.call(open_many)
    await until(lambda: arena.count("streams_refused") >= before + 60 - limits.MAX_STREAMS_PER_CONNECTION, "refused")


async def test_a_second_gossip_stream_takes_the_place_of_the_first(arena, mallory):
    async def open_another(attacker: Attacker) -> None:
        attacker.first = attacker.stream
        await attacker.open_stream()

    async def wait_for_the_first(attacker: Attacker) -> None:
        attacker.stream = attacker.first
        await attacker.wait_for_end()

    await mallory.call(open_another)
    await mallory.do("send", published(message("mallory", b"on the second")))
    await arena.heard_by_victim.gets(b"on the second")
    await mallory.call(wait_for_the_first)


async def test_more_than_the_window_ends_the_connection(arena, mallory, monkeypatch):
    """Stock logs that the window is exceeded, and keeps the bytes."""
    memory = psutil.Process().memory_info().rss
    monkeypatch.setattr(arena.victim._node._pubsub, "_forwarders", Meter(Allowance(0.001, 1, 1.0, 1)))  # reads no more

    async def overrun(attacker: Attacker) -> None:
        muxed, stream_id = attacker.muxed, attacker.stream.muxed_stream.stream_id
        frame = struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_DATA, 0, stream_id, 60_000) + bytes(60_000)
        with contextlib.suppress(Exception):  # the victim hangs up meanwhile
            for _ in range(1000):
                await muxed._write_frame(frame)

    await mallory.do("send", b"")
    await mallory.call(overrun)
    await mallory.do("wait_for_hang_up")
    assert psutil.Process().memory_info().rss - memory < 30_000_000


async def test_a_frame_over_the_window_is_not_even_read(arena, mallory):
    async def announce(attacker: Attacker) -> None:
        header = struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_DATA, FLAG_SYN, 99, limits.STREAM_WINDOW_BYTES + 1)
        await attacker.muxed.secured_conn.write(header)

    await mallory.call(announce)
    await mallory.do("wait_for_hang_up")


@pytest.mark.parametrize("protocol", ["/ipfs/ping/1.0.0", "/ipfs/id/1.0.0", "/ipfs/id/push/1.0.0", MESHSUB])
async def test_garbage_on_every_protocol(arena, mallory, protocol):
    async def spray(attacker: Attacker) -> None:
        for garbage in (b"\xff" * 300, b"\x05abcd", b"\x00", os.urandom(2000)):
            with trio.move_on_after(0.2), contextlib.suppress(Exception):
                stream = await attacker.host.new_stream(attacker.victim.peer_id, [protocol])
                await stream.write(garbage)
                await stream.read(100)

    await mallory.call(spray)


async def test_a_member_keeps_four_connections_at_most(arena):
    await arena.let_in("mallory")
    swarm, peer = arena.victim._node._swarm, ID.from_pubkey(create_new_key_pair(secret_of("mallory")).public_key)
    async with AsyncExitStack() as stack:
        remotes = []
        for _ in range(limits.MAX_CONNECTIONS_PER_PEER + 3):
            remote = await stack.enter_async_context(attacking("mallory", arena.victim))
            await remote.do("connect")
            remotes.append(remote)
        for oldest in remotes[:3]:
            await oldest.do("wait_for_hang_up")
        assert len(swarm.get_connections(peer)) == limits.MAX_CONNECTIONS_PER_PEER
        await remote.do("open_stream")
        await remote.do("send", published(message("mallory", b"the newest works")))
        await arena.heard_by_victim.gets(b"the newest works")
    await arena.expect_alive()


# -- members: gossip ----------------------------------------------------------------------------------------
async def test_wanting_one_message_five_thousand_times_gives_one(arena, mallory):
    """Stock puts a copy into the answer for each repetition: 4.5 GB for messages of 900 KB."""
    big = b"big" * 60_000
    await arena.victim.publish("t", big)
    await arena.heard_by_honest.gets(big)
    cached = arena.victim._node._pubsub.router.mcache.msgs
    mid = next(mid for mid, cached_message in cached.items() if cached_message.data == big)
    wanting = control(iwant=[rpc_pb2.ControlIWant(messageIDs=[mid] * 5000)])
    await mallory.do("send", wanting)
    await until(lambda: mallory.attacker.received_bytes > len(big), "one copy came")
    await mallory.do("send", published(message("mallory", b"after the answer")))
    await arena.heard_by_victim.gets(b"after the answer")
    assert mallory.attacker.received_bytes < 2 * len(big)


async def test_wanting_again_and_again_is_bounded_by_the_heartbeat(arena, mallory, monkeypatch):
    monkeypatch.setattr(limits, "IWANT_BYTES_PER_HEARTBEAT", 500_000)
    big = b"wanted" * 16_000
    await arena.victim.publish("t", big)
    await arena.heard_by_honest.gets(big)
    cached = arena.victim._node._pubsub.router.mcache.msgs
    mid = next(mid for mid, cached_message in cached.items() if cached_message.data == big)
    await mallory.do("send", *[control(iwant=[rpc_pb2.ControlIWant(messageIDs=[mid])])] * 100)
    await mallory.do("send", published(message("mallory", b"all asked")))
    await arena.heard_by_victim.gets(b"all asked")
    assert mallory.attacker.received_bytes < 3 * 500_000, "a hundred copies would be 9.6 MB"


async def test_a_prune_makes_us_dial_nobody(arena, mallory):
    """Stock dials the peers that a PRUNE names, even with peer exchange off."""
    hits: list[object] = []
    server = await asyncio.start_server(lambda reader, writer: hits.append(writer), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    pair = create_new_key_pair(secret_of("bait"))
    bait = ID.from_pubkey(pair.public_key)
    record = seal_record(PeerRecord(bait, [Multiaddr(f"/ip4/127.0.0.1/tcp/{port}")]), pair.private_key)
    info = rpc_pb2.PeerInfo(peerID=bait.to_bytes(), signedPeerRecord=record.marshal_envelope())
    await mallory.do("send", control(prune=[rpc_pb2.ControlPrune(topicID="t", peers=[info], backoff=1)]))
    await mallory.do("send", published(message("mallory", b"after the prune")))
    await arena.heard_by_victim.gets(b"after the prune")
    await arena.expect_alive()
    server.close()
    assert hits == []


async def test_a_flood_of_valid_messages_stays_with_its_origin(arena, mallory, monkeypatch):
    flood = [message("mallory", b"flood %d" % number) for number in range(600)]
    before = arena.count("over_rate")
    await mallory.do("send", *[published(*flood[start : start + 50]) for start in range(0, 600, 50)])
    await until(lambda: arena.count("over_rate") > before + 300, "most are over the rate")
    await arena.expect_alive()
    taken = sum(data.startswith(b"flood") for data in arena.heard_by_victim.data)
    assert 200 <= taken < 300, "the burst, and what the bucket refilled meanwhile"


async def test_who_sends_what_is_rejected_is_banned_for_a_while(arena, mallory, monkeypatch):
    key = await arena.let_in("mallory")
    before = arena.count("banned")
    await mallory.do("send", *[published(message("mallory", b"bad %d" % number)) for number in range(21)])
    await mallory.do("wait_for_hang_up")
    await until(lambda: arena.count("banned") == before + 1, "one ban")
    assert arena.victim.health().banned == 1
    assert key not in arena.victim.peers()
    async with attacking("mallory", arena.victim) as again:
        with pytest.raises(Failed):
            await again.do("connect")
    arena.forgive()
    async with attacking("mallory", arena.victim) as forgiven:
        await forgiven.do("connect")
