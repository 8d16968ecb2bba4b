"""A libp2p node's life: starting, dying, stopping, dialling, logging, and what it does not leave behind."""

import asyncio
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace

import psutil
import pytest
import structlog
import trio
from libp2p.peer.id import ID

from shared.adapters.gossip_libp2p import LibP2PGossip, bridge, limits, logs
from shared.adapters.gossip_libp2p.bridge import TrioThread
from shared.adapters.gossip_libp2p.keeper import Redial, resolve
from shared.adapters.gossip_libp2p.members import id_of
from shared.errors import ConfigError, Ignore, TransportError
from shared.types import PeerKey
from tests.gossip_support import ANY_PORT, LibP2PNetwork, accept, secret_of, until


@pytest.fixture
async def network() -> AsyncIterator[LibP2PNetwork]:
    net = LibP2PNetwork()
    yield net
    await net.close()


def build(name: str = "ann", listen: str = ANY_PORT) -> LibP2PGossip:
    return LibP2PGossip(secret=secret_of(name), listen=listen, members=dict)


def gossip_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("gossip", "Thread"))]


# -- starting -------------------------------------------------------------------------------------------
async def test_it_says_where_it_listens():
    async with build() as node:
        _, family, host, protocol, port = node.address.split("/")
        assert (family, host, protocol) == ("ip4", "127.0.0.1", "tcp")
        with socket.create_connection((host, int(port)), timeout=5):
            pass


async def test_the_secret_is_the_identity():
    one, two, other = build(), build(), build("bob")
    assert one.peer_key == two.peer_key != other.peer_key
    assert one.peer_id.startswith("12D3KooW")


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_secret_of_another_size_is_refused(size):
    with pytest.raises(ConfigError, match="32 bytes"):
        LibP2PGossip(secret=bytes(size), listen=ANY_PORT, members=dict)


async def test_a_port_in_use_is_an_error():
    """Stock starts, and the kernel gives it half of the other process's connections."""
    async with build() as node:
        with pytest.raises(TransportError, match="in use"):
            async with build("bob", node.address):
                pytest.fail("two nodes on one port")
    async with build("bob", node.address) as after:
        assert after.address == node.address


async def test_a_port_that_a_careless_program_shares_is_an_error_too():
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(TransportError, match="in use"):
            async with build(listen=f"/ip4/127.0.0.1/tcp/{other.getsockname()[1]}"):
                pytest.fail("two listeners on one port")


@pytest.mark.parametrize("listen", ["/ip4/127.0.0.1/udp/0", "nonsense", "/ip4/999.0.0.1/tcp/0", ""])
async def test_a_bad_listen_address_is_an_error(listen):
    with pytest.raises(TransportError):
        async with build(listen=listen):
            pytest.fail("listens nowhere")


async def test_a_node_that_did_not_start_is_not_running():
    node = build()
    with pytest.raises(TransportError, match="not running"):
        await node.publish("t", b"x")
    with pytest.raises(TransportError, match="not started"):
        _ = node.failed
    assert node.peers() == ()


async def test_a_start_can_be_cancelled():
    before = gossip_threads()
    task = asyncio.create_task(build().__aenter__())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: set(gossip_threads()) <= set(before), "the thread has gone")


async def test_over_ip6(network):
    try:
        ann, bob = [await network.start(name, listen="/ip6/::1/tcp/0") for name in ("ann", "bob")]
    except TransportError as error:
        pytest.skip(f"no IPv6 here: {error}")
    reader = await network.read(bob, "t")
    await ann.wait_for_peers(1, 20, "t")
    await ann.publish("t", b"hello")
    await reader.gets(b"hello")
    assert ann.address.startswith("/ip6/::1/tcp/")


# -- dying and stopping -----------------------------------------------------------------------------------
async def test_when_libp2p_dies_everybody_hears_of_it(network):
    ann, bob = await network.start("ann"), await network.start("bob")
    reader = await network.read(ann, "t")
    await network.connected(ann, bob)

    async def die() -> None:
        raise ExceptionGroup("outer", [ExceptionGroup("inner", [KeyError("a bug in libp2p")])])

    ann._thread._token.run_sync_soon(ann._thread._nursery.start_soon, die)
    async with asyncio.timeout(10):
        error = await ann.failed
    assert str(error) == "gossip died: KeyError: 'a bug in libp2p'"
    with pytest.raises(TransportError, match="not running"):
        await ann.publish("t", b"x")
    with pytest.raises(TransportError, match="not running"):
        await ann.wait_for_peers(5, 5)
    await until(lambda: reader.is_over, "the reader hears of it")
    assert "a bug in libp2p" in str(reader.error)


async def test_calls_under_way_end_when_libp2p_dies(network):
    ann = await network.start("ann")

    async def die() -> None:
        raise KeyError

    waiting = asyncio.create_task(ann._thread.call(trio.sleep_forever))
    await asyncio.sleep(0.05)
    ann._thread._token.run_sync_soon(ann._thread._nursery.start_soon, die)
    with pytest.raises(TransportError, match="stopped"):
        await waiting
    with pytest.raises(TransportError, match="stopped"):
        await ann._thread.call(trio.sleep, 0)


async def test_a_stop_is_quick_and_leaves_nothing(network):
    threads, before = gossip_threads(), psutil.Process().num_fds()
    nodes = [await network.start(f"node {number}") for number in range(6)]
    for node in nodes:
        await network.read(node, "t")
    await network.connected(*nodes)
    begun = time.monotonic()
    for node in nodes:
        await network.stop(node)
    assert (time.monotonic() - begun) / len(nodes) < 2
    assert set(gossip_threads()) <= set(threads)
    await until(lambda: psutil.Process().num_fds() <= before, "sockets are closed")


async def test_a_thread_that_hangs_is_told_and_then_left(monkeypatch):
    monkeypatch.setattr(bridge, "POLITE_SECONDS", 0.1)
    thread: TrioThread[int] = TrioThread(_deaf, "deaf")
    assert await thread.start() == 7
    await thread.stop(5)
    assert thread.ended.done(), "cancelled once politeness was over"


async def _deaf(thread: TrioThread[int]) -> None:
    thread.announce(7)
    await trio.sleep_forever()


async def test_an_error_before_the_announcement_is_raised_by_start():
    async def fails(thread: TrioThread[int]) -> None:
        raise ValueError("no good")

    with pytest.raises(TransportError, match="ValueError: no good"):
        await TrioThread(fails, "fails").start()


async def test_what_a_call_raises_comes_over():
    async def main(thread: TrioThread[int]) -> None:
        thread.announce(1)
        await thread.stopping.wait()

    async def fails(number: int) -> None:
        raise LookupError(number)

    thread: TrioThread[int] = TrioThread(main, "main")
    await thread.start()
    with pytest.raises(LookupError, match="5"):
        await thread.call(fails, 5)
    await thread.stop(5)


PROGRAM = """
import asyncio, signal, sys
from shared.adapters.gossip_libp2p import LibP2PGossip
async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with LibP2PGossip(secret=bytes(32), listen="/ip4/127.0.0.1/tcp/0", members=dict) as node:
        print(node.address, flush=True)
        await stop.wait()
asyncio.run(main())
"""


def test_a_process_ends_well_on_sigterm_and_is_small():
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline().startswith(b"/ip4/127.0.0.1/tcp/")
        memory = psutil.Process(process.pid).memory_info().rss
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (0, b"")
        assert time.monotonic() - begun < 4, "2 s, and the interpreter's own end on a busy machine"
        assert memory < 125_000_000, "libp2p's imports are 80 MB of it"


# -- members --------------------------------------------------------------------------------------------
async def test_changes_of_membership_take_effect_within_a_second():
    network = LibP2PNetwork(is_quick=False)
    ann, bob = await network.start("ann"), await network.start("bob", is_member=False)
    await asyncio.sleep(0.5)
    network.enlist(bob)
    begun = time.monotonic()
    await network.connected(ann, bob)
    assert time.monotonic() - begun < 1.5, "a second, and a busy machine"
    del network.book[bob.peer_key]
    begun = time.monotonic()
    await until(lambda: not ann.peers() and not bob.peers(), "apart")
    assert time.monotonic() - begun < 1.5
    await network.close()


async def test_a_members_function_that_fails_leaves_the_last_view(network):
    is_broken = False

    def members():
        if is_broken:
            raise OSError("the registry is away")
        return network.book

    ann, bob = await network.start("ann", members=members), await network.start("bob")
    await network.connected(ann, bob)
    is_broken = True
    await asyncio.sleep(0.2)
    assert ann.peers() == (bob.peer_key,)


async def test_nonsense_in_the_registry_does_no_harm(network):
    network.book.update(
        {
            PeerKey(bytes([number]) * 32): address
            for number, address in enumerate(
                [
                    "",
                    "x",
                    "/ip4/1.2.3.4",
                    "/ip4/127.0.0.1/udp/1",
                    "/ip4/127.0.0.1/tcp/99999",
                    "/dns4/no.such.invalid/tcp/1",
                    "/ip4/127.0.0.1/tcp/1/ws",
                    "/unix/x",
                    "/ip4/::1/tcp/1",
                    "/ip4/127.0.0.1/tcp/1",
                    "//////",
                    "/ip6/x/tcp/1",
                ]
            )
        }
    )
    network.book[PeerKey(b"short")] = network.book[PeerKey(b"")] = "/ip4/127.0.0.1/tcp/1"
    ann, bob = await network.start("ann"), await network.start("bob")
    await until(lambda: ann.peers() == (bob.peer_key,), "the real member is found")
    await until(lambda: ann.health().counters["dials_failed"] > 0, "the others are tried, and given up")


async def test_an_address_that_changes_is_dialled_anew(network):
    bob = await network.start("bob", members=dict)  # never dials
    network.book[bob.peer_key] = "/ip4/127.0.0.1/tcp/1"
    bob._members_now = lambda: {ann.peer_key: "/ip4/127.0.0.1/tcp/1"}
    ann = await network.start("ann")
    await until(lambda: ann.health().counters.get("dials_failed", 0) > 0, "the wrong address fails")
    network.enlist(bob)
    await ann.wait_for_peers(1, 5)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("/ip4/127.0.0.1/tcp/4001", "/ip4/127.0.0.1/tcp/4001"),
        ("/ip6/::1/tcp/4001", "/ip6/::1/tcp/4001"),
        ("/dns4/localhost/tcp/4001", "/ip4/127.0.0.1/tcp/4001"),
    ],
)
def test_addresses_resolve(address, expected):
    assert str(trio.run(resolve, address)) == expected


@pytest.mark.parametrize(
    "address",
    ["", "/ip4/127.0.0.1", "/ip4/127.0.0.1/udp/1", "/ip4/127.0.0.1/tcp/1/p2p/x", "/onion/x/tcp/1", "a/b/c/tcp/1"],
)
def test_other_addresses_are_refused(address):
    with pytest.raises(ValueError, match="is no"):
        trio.run(resolve, address)


def test_pauses_between_dials_double_up_to_a_limit():
    redial, pauses = Redial("x", 0.0), []
    for _ in range(12):
        redial.attempted(100.0)
        pauses.append(redial.due - 100.0)
    for number, pause in enumerate(pauses):
        nominal = min(limits.REDIAL_MAX_SECONDS, limits.REDIAL_MIN_SECONDS * 2**number)
        assert 0.7 * nominal <= pause <= 1.3 * nominal


def test_a_peer_that_always_hangs_up_is_not_dialled_in_a_loop():
    redial, now = Redial("x", 0.0), 0.0
    for _ in range(10):
        redial.attempted(now)
        redial.on_connected(now)
        redial.on_absent(now + 0.1, head_start=0.0)
        now = redial.due
    assert now > 30


def test_a_connection_that_lasted_is_redialled_at_once():
    redial = Redial("x", 0.0)
    for _ in range(10):
        redial.attempted(0.0)
    assert redial.on_connected(0.0)
    assert not redial.on_connected(limits.STABLE_SECONDS + 1)
    assert redial.on_absent(100.0, head_start=0.5)
    assert redial.due == 100.5
    assert not redial.on_absent(101.0, head_start=0.5)


# -- what peers share ---------------------------------------------------------------------------------------
async def test_a_node_that_restarts_never_repeats_an_id(network):
    """Stock numbers messages from the second of its start: others drop what they take for old."""
    bob = await network.start("bob")
    reader = await network.read(bob, "t")
    for life in range(3):
        ann = await network.start("ann")
        await ann.wait_for_peers(1, 20, "t")
        for number in range(20):
            await ann.publish("t", b"%d %d" % (life, number))
        await until(lambda life=life: len(reader.messages) == 20 * (life + 1), "all of this life arrived")
        await network.stop(ann)


async def test_we_keep_below_the_rate_that_others_enforce(network, monkeypatch):
    nodes, readers = await network.trio()
    amount = 190  # the burst is 160, then 40 a second
    begun = time.monotonic()
    await asyncio.gather(*(nodes[0].publish("t", b"%d" % number) for number in range(amount)))
    assert time.monotonic() - begun > 0.7 * 30 / 40
    for reader in readers:
        await until(lambda reader=reader: len(set(reader.data)) == amount, "every message arrived")
    assert all(node.health().counters["over_rate"] == 0 for node in nodes)


async def test_a_late_subscriber_gets_the_last_seconds(network):
    ann, bob = await network.start("ann"), await network.start("bob")
    await network.read(ann, "t")
    await network.connected(ann, bob)
    await ann.publish("t", b"a moment ago")
    reader = await network.read(bob, "t")
    await reader.gets(b"a moment ago")


async def test_an_ignored_message_is_not_forwarded(network):
    """Ann and cat do not know each other; bob is between them and does not care."""
    books: dict[str, dict[PeerKey, str]] = {name: {} for name in ("ann", "bob", "cat")}
    nodes = {name: await network.start(name, members=lambda name=name: books[name]) for name in books}
    for name, friends in {"ann": ["bob"], "bob": ["ann", "cat"], "cat": ["bob"]}.items():
        books[name].update({nodes[friend].peer_key: nodes[friend].address for friend in friends})
    books["cat"][nodes["ann"].peer_key] = "/ip4/127.0.0.1/tcp/1"  # a member, but unreachable

    def picky(origin: PeerKey, data: bytes) -> None:
        if data.startswith(b"boring"):
            raise Ignore("boring")

    await network.read(nodes["bob"], "t", picky)
    reader = await network.read(nodes["cat"], "t", accept)
    await nodes["ann"].wait_for_peers(1, 20, "t")
    await nodes["bob"].wait_for_peers(1, 20, "t")
    await until(lambda: nodes["bob"].health().mesh.get("t", 0) >= 1, "bob has a mesh")
    await nodes["ann"].publish("t", b"boring")
    await nodes["ann"].publish("t", b"interesting")
    await reader.gets(b"interesting")
    assert reader.data == [b"interesting"], "forwarded by bob, who ignored the other"
    await until(lambda: nodes["bob"].health().counters["ignored"] == 1, "counted")
    assert nodes["ann"].peer_key not in nodes["cat"].peers()


async def test_health_shows_mesh_subscribers_and_lag(network):
    nodes, _ = await network.trio()
    await until(lambda: nodes[0].health().mesh == {"t": 2}, "a mesh of two")
    health = nodes[0].health()
    assert health.subscribers == {"t": 2}
    assert health.banned == 0
    assert 0 <= health.lag_seconds < 5


# -- streams that break under a connection that lives ----------------------------------------------------------
async def test_a_stream_that_breaks_is_replaced_and_subscriptions_are_kept(network):
    ann, bob = await network.start("ann"), await network.start("bob")
    reader = await network.read(bob, "t")
    await ann.wait_for_peers(1, 20, "t")
    pubsub, peer = ann._node._pubsub, id_of(bob.peer_key)

    async def break_it() -> object:
        stream = pubsub.peers[peer]
        await stream.reset()
        pubsub._handle_dead_peer(peer)
        assert peer in pubsub.peer_topics["t"], "bob has no reason to announce it again"
        return stream

    broken = await ann._thread.call(break_it)
    await until(lambda: pubsub.peers.get(peer) not in (None, broken), "another stream")
    await ann.publish("t", b"on the new stream")
    await reader.gets(b"on the new stream")


async def test_the_stream_of_a_connection_that_is_gone_is_replaced(network):
    """A peer that comes back before its old connection is cleaned up."""
    ann, bob = await network.start("ann"), await network.start("bob")
    reader = await network.read(bob, "t")
    await ann.wait_for_peers(1, 20, "t")
    pubsub, peer = ann._node._pubsub, id_of(bob.peer_key)
    closed = SimpleNamespace(muxed_conn=SimpleNamespace(is_closed=True))

    async def leave_a_dead_one() -> None:
        pubsub.peers[peer] = closed

    await ann._thread.call(leave_a_dead_one)
    await until(lambda: pubsub.peers.get(peer) not in (None, closed), "a living stream")
    await ann.publish("t", b"alive")
    await reader.gets(b"alive")


async def test_a_connection_without_a_stream_gets_another_attempt(network, monkeypatch):
    """Stock gives up for good when the first negotiation fails."""
    monkeypatch.setattr(limits, "UNREGISTERED_SECONDS", 0.1)
    ann, bob = await network.start("ann"), await network.start("bob")
    reader = await network.read(bob, "t")
    await ann.wait_for_peers(1, 20, "t")
    pubsub, peer = ann._node._pubsub, id_of(bob.peer_key)

    async def forget() -> None:
        del pubsub.peers[peer]
        pubsub.peer_queues.pop(peer).close()

    await ann._thread.call(forget)
    await until(lambda: peer in pubsub.peers, "registered again")
    await ann.publish("t", b"again")
    await reader.gets(b"again")


async def test_a_closed_connection_does_not_count(network):
    ann, bob = await network.start("ann"), await network.start("bob")
    await network.connected(ann, bob)
    swarm, peer = ann._node._swarm, id_of(bob.peer_key)
    closed = SimpleNamespace(muxed_conn=SimpleNamespace(is_closed=True, peer_id=peer))

    async def only_a_closed_one() -> set[ID]:
        kept, swarm.connections[peer] = swarm.connections[peer], [closed]
        found = swarm.living()
        swarm.connections[peer] = kept
        return found

    assert await ann._thread.call(only_a_closed_one) == set()


async def test_a_peer_that_does_not_answer_pings_is_dropped(network, monkeypatch):
    """And dialled again: it may be another process by now."""
    monkeypatch.setattr(limits, "PING_SECONDS", 0.05)
    monkeypatch.setattr(limits, "PONG_SECONDS", 1.0)
    ann, bob = await network.start("ann"), await network.start("bob")
    await network.connected(ann, bob)
    connection = ann._node._swarm.get_connections(id_of(bob.peer_key))[0].muxed_conn

    async def nowhere(data: bytes) -> None:
        """The frame is lost."""

    connection._write_frame = nowhere
    await until(lambda: connection.is_closed, "the silent connection is closed")
    await network.connected(ann, bob)


# -- logs -----------------------------------------------------------------------------------------------
def test_libp2p_lines_come_through_few_and_clean():
    logs.install()
    logs.install()
    libp2p = logging.getLogger("libp2p")
    assert sum(isinstance(handler, logs.Forwarder) for handler in libp2p.handlers) == 1
    forwarder = logs.Forwarder()
    libp2p.handlers[:] = [forwarder]
    try:
        with structlog.testing.capture_logs() as lines:
            libp2p.info("not this one")
            for number in range(500):
                logging.getLogger("libp2p.pubsub").error("line %d\n\x1b[31mred", number)
    finally:
        libp2p.handlers[:] = []
        logs.install()
    assert limits.LOG_BURST <= len(lines) <= limits.LOG_BURST + 5
    assert lines[0] == {
        "event": "line 0??[31mred",
        "source": "libp2p.pubsub",
        "suppressed": 0,
        "log_level": "warning",
    }
    assert forwarder._suppressed >= 475


def test_long_and_broken_lines_are_cut():
    forwarder = logs.Forwarder()
    with structlog.testing.capture_logs() as lines:
        forwarder.emit(logging.LogRecord("libp2p.x", logging.WARNING, "", 1, "x" * 10_000, None, None))
        forwarder.emit(logging.LogRecord("libp2p.x", logging.WARNING, "", 1, "%d of", ("three",), None))
    assert [line["event"] for line in lines] == ["x" * limits.MAX_LOG_CHARACTERS, "%d of"]
