"""What every `Gossip` promises, over libp2p on loopback and over memory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from shared.constants import MAX_MESSAGE_BYTES
from shared.errors import Ignore, Reject, TransportError
from shared.types import PeerKey
from tests.gossip_support import LibP2PNetwork, MemoryNetwork, Network, until

NETWORKS = {"libp2p": LibP2PNetwork, "memory": MemoryNetwork}


@pytest.fixture(params=NETWORKS)
async def network(request: pytest.FixtureRequest) -> AsyncIterator[Network]:
    net = NETWORKS[request.param]()
    yield net
    await net.close()


def count(node, name: str) -> int:
    """A moment old."""
    return node.health().counters.get(name, 0)


def refusing(word: bytes, ruling: Exception):
    def validate(origin: PeerKey, data: bytes) -> None:
        if word in data:
            raise ruling

    return validate


async def test_everybody_hears_everybody(network):
    nodes, readers = await network.trio()
    for number, node in enumerate(nodes):
        await node.publish("t", b"from %d" % number)
    for reader in readers:
        await reader.gets(b"from 0", b"from 1", b"from 2")
    for reader in readers:
        assert {(m.origin, m.data) for m in reader.messages} == {
            (node.peer_key, b"from %d" % number) for number, node in enumerate(nodes)
        }


async def test_peers_are_the_other_members(network):
    nodes, _ = await network.trio()
    for node in nodes:
        assert set(node.peers()) == {other.peer_key for other in nodes} - {node.peer_key}


async def test_a_publisher_need_not_subscribe(network):
    ann, bob = await network.start("ann"), await network.start("bob")
    reader = await network.read(bob, "t")
    await ann.wait_for_peers(1, 20, "t")
    await ann.publish("t", b"hello")
    await reader.gets(b"hello")


async def test_own_messages_come_back_even_alone(network):
    ann = await network.start("ann")
    reader = await network.read(ann, "t")
    await ann.publish("t", b"alone")
    await reader.gets(b"alone")
    assert reader.messages[0].origin == ann.peer_key


async def test_topics_are_apart(network):
    ann, bob = await network.start("ann"), await network.start("bob")
    one, two = await network.read(bob, "one"), await network.read(bob, "two")
    await ann.wait_for_peers(1, 20, "two")
    await ann.wait_for_peers(1, 20, "one")
    await ann.publish("one", b"1")
    await ann.publish("two", b"2")
    await one.gets(b"1")
    await two.gets(b"2")
    assert (one.data, two.data) == ([b"1"], [b"2"])


async def test_messages_of_all_sizes_arrive_whole(network):
    nodes, readers = await network.trio()
    sizes = [b"", b"x", b"y" * 70_000, b"z" * MAX_MESSAGE_BYTES]
    for data in sizes:
        await nodes[0].publish("t", data)
    for reader in readers:
        await until(lambda reader=reader: len(reader.messages) == len(sizes), "all sizes")
        assert sorted(reader.data) == sizes


async def test_over_the_limit_is_refused(network):
    ann = await network.start("ann", max_bytes={"small": 10})
    with pytest.raises(TransportError, match="900001 bytes"):
        await ann.publish("t", b"x" * (MAX_MESSAGE_BYTES + 1))
    with pytest.raises(TransportError, match="the limit is 10"):
        await ann.publish("small", b"x" * 11)
    await ann.publish("small", b"x" * 10)


async def test_what_is_over_the_receivers_limit_is_dropped(network):
    ann, bob = await network.start("ann"), await network.start("bob", max_bytes={"t": 10})
    reader = await network.read(bob, "t")
    await ann.wait_for_peers(1, 20, "t")
    await ann.publish("t", b"x" * 11)
    await ann.publish("t", b"x" * 10)
    await reader.gets(b"x" * 10)
    assert reader.data == [b"x" * 10]


@pytest.mark.parametrize("ruling", [Ignore("bad"), Reject("bad"), ZeroDivisionError("a bug")])
async def test_what_a_validator_refuses_is_not_delivered(network, ruling):
    ann, bob, cat = [await network.start(name) for name in ("ann", "bob", "cat")]
    strict = await network.read(bob, "t", refusing(b"bad", ruling))
    lax = await network.read(cat, "t")
    await ann.wait_for_peers(2, 20, "t")
    await ann.publish("t", b"bad")
    await ann.publish("t", b"good")
    await lax.gets(b"bad", b"good")
    await strict.gets(b"good")
    assert strict.data == [b"good"]
    is_rejected, is_bug = isinstance(ruling, Reject), isinstance(ruling, ZeroDivisionError)
    expected = {"received": 1, "rejected": +is_rejected, "ignored": +(not is_rejected), "validator_failed": +is_bug}
    await until(lambda: {name: count(bob, name) for name in expected} == expected, f"bob counts {expected}")
    assert ann.peer_key in bob.peers(), "one bad message costs nobody the connection"


async def test_a_validator_sees_origin_and_data(network):
    nodes, _ = await network.trio("warm")
    seen: list[tuple[PeerKey, bytes]] = []
    await network.read(nodes[1], "t", lambda origin, data: seen.append((origin, data)))
    await nodes[0].wait_for_peers(1, 20, "t")
    await nodes[0].publish("t", b"data")
    await until(lambda: seen, "the validator ran")
    assert seen == [(nodes[0].peer_key, b"data")]


async def test_what_we_reject_ourselves_is_not_sent(network):
    ann, bob = await network.start("ann"), await network.start("bob")
    mine, theirs = await network.read(ann, "t", refusing(b"bad", Reject("bad"))), await network.read(bob, "t")
    await network.connected(ann, bob, topic="t")
    with pytest.raises(TransportError, match="our own check"):
        await ann.publish("t", b"bad")
    await ann.publish("t", b"good")
    await theirs.gets(b"good")
    await mine.gets(b"good")
    assert theirs.data == mine.data == [b"good"]


async def test_what_we_ignore_ourselves_is_still_sent(network):
    ann, bob = await network.start("ann"), await network.start("bob")
    mine, theirs = await network.read(ann, "t", refusing(b"again", Ignore("seen"))), await network.read(bob, "t")
    await network.connected(ann, bob, topic="t")
    await ann.publish("t", b"again")
    await ann.publish("t", b"new")
    await theirs.gets(b"again", b"new")
    await mine.gets(b"new")
    assert mine.data == [b"new"]


async def test_a_stranger_is_neither_connected_nor_heard(network):
    nodes, readers = await network.trio()
    stranger = await network.start("eve", is_member=False)
    await network.read(stranger, "t")
    with pytest.raises(TransportError, match="0 of 1 peers"):
        await stranger.wait_for_peers(1, network.patience_seconds)
    await stranger.publish("t", b"let me in")
    await nodes[0].publish("t", b"members only")
    for reader in readers:
        await reader.gets(b"members only")
        assert reader.data == [b"members only"]
    assert all(stranger.peer_key not in node.peers() for node in nodes)


async def test_a_new_member_is_let_in_and_a_removed_one_let_go(network):
    ann, bob = await network.start("ann"), await network.start("bob")
    reader = await network.read(ann, "t")
    await network.connected(ann, bob)
    late = await network.start("late", is_member=False)
    network.enlist(late)
    await network.connected(ann, bob, late)
    await late.wait_for_peers(1, 20, "t")
    await late.publish("t", b"I am in")
    await reader.gets(b"I am in")
    del network.book[late.peer_key]
    await until(lambda: late.peer_key not in ann.peers() and not late.peers(), "the removed member is alone", 3)
    await late.publish("t", b"still here?")
    await bob.publish("t", b"no")
    await reader.gets(b"no")
    assert reader.data == [b"I am in", b"no"]


async def test_one_subscription_a_topic(network):
    ann = await network.start("ann")
    await network.read(ann, "t")
    with pytest.raises(TransportError, match="already subscribed"):
        async with ann.subscribe("t", lambda origin, data: None):
            pytest.fail("subscribed twice")


async def test_a_topic_can_be_left_and_joined_again(network):
    ann, bob = await network.start("ann"), await network.start("bob")
    for data in (b"first", b"second"):
        async with bob.subscribe("t", lambda origin, data: None) as messages:
            await ann.wait_for_peers(1, 20, "t")
            await ann.publish("t", data)
            async with asyncio.timeout(20):
                assert (await anext(messages)).data == data
        await until(lambda: ann.health().subscribers.get("t", 0) == 0, "ann knows that bob has left")


async def test_a_slow_reader_loses_the_newest_and_it_is_counted(network):
    ann, bob = await network.start("ann"), await network.start("bob", inbox_messages=5)
    async with bob.subscribe("t", lambda origin, data: None) as messages:
        await ann.wait_for_peers(1, 20, "t")
        for number in range(20):
            await ann.publish("t", b"%d" % number)
        await until(lambda: count(bob, "received") == 20, "all arrived")
        await until(lambda: count(bob, "inbox_full") == 15, "the loss is counted")
        assert [(await anext(messages)).data for _ in range(5)] == [b"%d" % number for number in range(5)]
        await ann.publish("t", b"later")
        async with asyncio.timeout(20):
            assert (await anext(messages)).data == b"later"


async def test_a_burst_arrives_whole(network):
    nodes, readers = await network.trio()
    for number in range(128):
        await nodes[0].publish("t", b"%d" % number)
    for reader in readers:
        await until(lambda reader=reader: len(reader.messages) == 128, "the whole burst")
        assert set(reader.data) == {b"%d" % number for number in range(128)}


async def test_after_the_stop(network):
    nodes, readers = await network.trio()
    gone = nodes[0]
    async with gone.subscribe("other", lambda origin, data: None) as messages:
        await network.stop(gone)
        with pytest.raises(StopAsyncIteration):
            await anext(messages)
    with pytest.raises(TransportError, match="not running"):
        await gone.publish("t", b"too late")
    with pytest.raises(TransportError, match="not running"):
        async with gone.subscribe("late", lambda origin, data: None):
            pytest.fail("subscribed after the stop")
    assert gone.peers() == ()
    assert gone.failed.cancelled()
    await until(lambda: all(gone.peer_key not in node.peers() for node in nodes[1:]), "the others notice")
    await nodes[1].publish("t", b"without her")
    await readers[2].gets(b"without her")


async def test_a_stopped_node_waits_for_nobody(network):
    ann = await network.start("ann")
    waiting = asyncio.create_task(ann.wait_for_peers(1, 20))
    await asyncio.sleep(0)
    await network.stop(ann)
    with pytest.raises(TransportError):
        await ann.wait_for_peers(1, 0.1)
    waiting.cancel()
    with suppress(asyncio.CancelledError, TransportError):
        await waiting


async def test_a_restart_with_the_same_identity(network):
    nodes, readers = await network.trio()
    await nodes[0].publish("t", b"before")
    await readers[1].gets(b"before")
    await network.stop(nodes[0])
    again = await network.start("ann")
    assert again.peer_key == nodes[0].peer_key
    reader = await network.read(again, "t")
    await network.connected(again, *nodes[1:], topic="t")
    await nodes[1].publish("t", b"welcome back")
    await reader.gets(b"welcome back")
    await again.publish("t", b"thanks")
    await readers[1].gets(b"thanks")
    await readers[2].gets(b"thanks")


async def test_cancelled_readers_and_publishers_leave_no_trace(network):
    nodes, readers = await network.trio()
    publishing = asyncio.create_task(nodes[0].publish("t", b"maybe"))
    await asyncio.sleep(0)
    publishing.cancel()
    with suppress(asyncio.CancelledError):
        await publishing
    await nodes[0].publish("t", b"surely")
    await readers[2].gets(b"surely")
