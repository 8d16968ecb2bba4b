"""The simulated network: delay, loss, duplication, partition and failure, on virtual time; one seed, one run."""

import asyncio
from collections import Counter

import pytest

from shared.adapters.memory.gossip import Link, MemoryGossip, MemoryHub
from shared.errors import Ignore, Reject, TransportError
from shared.types import PeerKey
from tests.gossip_support import MemoryNetwork, Reader, accept
from tests.simnet.virtual_time import run_virtual

NAMES = ("ann", "bob", "cat")


async def start(network: MemoryNetwork) -> tuple[list[MemoryGossip], list[Reader]]:
    nodes, readers = await network.trio()
    return nodes, readers  # type: ignore[return-value]


def simulate(link: Link, amount: int = 200, seed: int = 7) -> tuple[list[tuple[float, str, bytes]], int]:
    """Ann publishes, everybody listens; what arrived where and when, and how much was lost by slow readers."""
    arrivals: list[tuple[float, str, bytes]] = []

    async def main() -> int:
        network, loop = MemoryNetwork(MemoryHub(seed=seed, link=link)), asyncio.get_running_loop()
        begun = loop.time()
        nodes = [await network.start(name) for name in NAMES]

        def note(name: str):
            return lambda origin, data: arrivals.append((round(loop.time() - begun, 6), name, data))

        for name, node in zip(NAMES, nodes, strict=True):
            await network.read(node, "t", note(name))
        for number in range(amount):
            await nodes[0].publish("t", b"%d" % number)
            await asyncio.sleep(1)
        await asyncio.sleep(100)
        lost = sum(node.health().counters["inbox_full"] for node in nodes)
        await network.close()
        return lost

    return arrivals, run_virtual(main())


def arrived(arrivals: list[tuple[float, str, bytes]], name: str) -> Counter[bytes]:
    return Counter(data for _, who, data in arrivals if who == name)


def test_a_perfect_network():
    arrivals, lost = simulate(Link(), amount=20)
    assert lost == 0
    assert arrivals == [(float(n), name, b"%d" % n) for n in range(20) for name in NAMES]


def test_delay_is_within_its_bounds_and_messages_overtake_each_other():
    arrivals, _ = simulate(Link(min_delay_seconds=1.0, max_delay_seconds=5.0))
    delays = [when - int(data) for when, name, data in arrivals if name != "ann"]
    assert 1.0 <= min(delays) < 1.2
    assert 4.8 < max(delays) <= 5.0
    assert [data for _, name, data in arrivals if name == "bob"] != [b"%d" % n for n in range(200)]
    assert arrived(arrivals, "bob") == Counter({b"%d" % n: 1 for n in range(200)})


def test_loss_hits_others_and_not_the_own_subscription():
    arrivals, _ = simulate(Link(loss=0.5))
    assert len(arrived(arrivals, "ann")) == 200
    assert 60 < len(arrived(arrivals, "bob")) < 140
    assert arrived(arrivals, "bob") != arrived(arrivals, "cat")


def test_total_loss():
    arrivals, _ = simulate(Link(loss=1.0))
    assert {name for _, name, _ in arrivals} == {"ann"}


def test_duplication():
    arrivals, _ = simulate(Link(duplication=0.5))
    counts = Counter(arrived(arrivals, "bob").values())
    assert set(counts) == {1, 2}
    assert 60 < counts[2] < 140


def test_a_seed_replays_a_run_and_another_does_not():
    rough = Link(min_delay_seconds=0.1, max_delay_seconds=3.0, loss=0.2, duplication=0.2)
    assert simulate(rough, seed=1) == simulate(rough, seed=1)
    assert simulate(rough, seed=1) != simulate(rough, seed=2)


def test_one_direction_can_be_worse():
    async def main() -> None:
        network = MemoryNetwork()
        nodes, readers = await start(network)
        ann, bob, _ = nodes
        network.hub.set_link(Link(loss=1.0), ann.peer_key, bob.peer_key)
        await ann.publish("t", b"from ann")
        await bob.publish("t", b"from bob")
        await asyncio.sleep(1)
        assert [set(reader.data) for reader in readers] == [
            {b"from ann", b"from bob"},
            {b"from bob"},
            {b"from ann", b"from bob"},
        ]
        await network.close()

    run_virtual(main())


def test_a_partition_and_its_end():
    async def main() -> None:
        network = MemoryNetwork(MemoryHub(link=Link(min_delay_seconds=1, max_delay_seconds=1)))
        nodes, readers = await start(network)
        ann, bob, cat = nodes
        await ann.publish("t", b"on its way")
        network.hub.partition([ann.peer_key, bob.peer_key], [cat.peer_key])
        assert set(ann.peers()) == {bob.peer_key}
        assert cat.peers() == ()
        await ann.publish("t", b"one side")
        await cat.publish("t", b"the other")
        await asyncio.sleep(2)
        network.hub.heal()
        assert set(cat.peers()) == {ann.peer_key, bob.peer_key}
        await cat.publish("t", b"again")
        await asyncio.sleep(2)
        assert readers[0].data == [b"on its way", b"one side", b"again"]
        assert readers[1].data == [b"on its way", b"one side", b"again"]
        assert readers[2].data == [b"the other", b"again"], "what was on its way across is lost"
        await network.close()

    run_virtual(main())


def test_who_waits_for_peers_wakes_when_the_partition_ends():
    async def main() -> None:
        network = MemoryNetwork()
        nodes, _ = await start(network)
        network.hub.partition([nodes[0].peer_key])
        asyncio.get_running_loop().call_later(30, network.hub.heal)
        with pytest.raises(TransportError, match="0 of 2"):
            await nodes[0].wait_for_peers(2, 29)
        await nodes[0].wait_for_peers(2, 2)
        await network.close()

    run_virtual(main())


def test_a_node_that_stops_misses_what_is_on_its_way():
    async def main() -> None:
        network = MemoryNetwork(MemoryHub(link=Link(min_delay_seconds=5, max_delay_seconds=5)))
        nodes, readers = await start(network)
        await nodes[0].publish("t", b"late")
        await network.stop(nodes[1])
        again = await network.start("bob")
        reader = await network.read(again, "t")
        await asyncio.sleep(10)
        assert readers[1].data == reader.data == []
        assert readers[2].data == [b"late"]
        await network.close()

    run_virtual(main())


def test_membership_is_asked_again_at_arrival():
    async def main() -> None:
        network = MemoryNetwork(MemoryHub(link=Link(min_delay_seconds=5, max_delay_seconds=5)))
        nodes, readers = await start(network)
        await nodes[0].publish("t", b"from a former member")
        del network.book[nodes[0].peer_key]
        await asyncio.sleep(10)
        assert readers[1].data == readers[2].data == []
        assert nodes[1].health().counters["ignored"] == 1
        await network.close()

    run_virtual(main())


def test_one_running_node_a_key():
    async def main() -> None:
        hub = MemoryHub()
        key = PeerKey(bytes(32))
        async with MemoryGossip(hub=hub, key=key):
            with pytest.raises(TransportError, match="is running"):
                async with MemoryGossip(hub=hub, key=key):
                    pytest.fail("two nodes with one key")
        async with MemoryGossip(hub=hub, key=key):
            pass

    run_virtual(main())


def test_without_a_registry_everybody_is_a_member():
    async def main() -> None:
        hub = MemoryHub()
        async with MemoryGossip(hub=hub, key=PeerKey(b"a" * 32)) as one, MemoryGossip(hub=hub, key=PeerKey(b"b" * 32)):
            assert one.peers() == (b"b" * 32,)

    run_virtual(main())


def test_a_transport_that_dies():
    async def main() -> None:
        network = MemoryNetwork()
        nodes, readers = await start(network)
        nodes[0].fail("pulled the plug")
        with pytest.raises(TransportError, match="not running"):
            await nodes[0].publish("t", b"x")
        assert str(await nodes[0].failed) == "pulled the plug"
        await asyncio.sleep(1)
        assert isinstance(readers[0].error, TransportError)
        assert nodes[1].peers() == (nodes[2].peer_key,)
        await network.close()

    run_virtual(main())


@pytest.mark.parametrize(("ruling", "name"), [(Ignore("x"), "ignored"), (Reject("x"), "rejected")])
def test_rulings_are_counted(ruling, name):
    def refuse(origin: PeerKey, data: bytes) -> None:
        raise ruling

    async def main() -> None:
        network = MemoryNetwork()
        ann, bob = await network.start("ann"), await network.start("bob")
        reader = await network.read(bob, "t", refuse)
        await network.read(ann, "t", accept)
        await ann.publish("t", b"x")
        await asyncio.sleep(1)
        assert reader.data == []
        assert {k: v for k, v in bob.health().counters.items() if v} == {name: 1}
        await network.close()

    run_virtual(main())
