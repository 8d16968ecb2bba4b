"""The mesh: what is sent to whom, with a real router and queues in place of streams."""

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2

from shared.adapters.gossip_common import Count, Counters
from shared.adapters.gossip_libp2p import limits
from shared.adapters.gossip_libp2p.router import PROTOCOLS, PeerQueue, SteadyGossipSub
from shared.adapters.gossip_libp2p.seen import SeenIds
from tests.gossip_attacker import message
from tests.gossip_support import secret_of


def peer(name: str) -> ID:
    return ID.from_pubkey(create_new_key_pair(secret_of(name)).public_key)


class Mesh:
    """A router that has joined `t`, and peers that subscribe to it."""

    def __init__(self, *names: str) -> None:
        self.peers = {name: peer(name) for name in names}
        self.router = SteadyGossipSub(Counters())
        self.queues = {p: PeerQueue() for p in self.peers.values()}
        self.router.pubsub = SimpleNamespace(  # type: ignore[assignment]
            my_id=peer("me"),
            peers=self.queues,
            peer_queues=self.queues,
            peer_topics={"t": set(self.peers.values())},
            seen_messages=SeenIds(),
            get_message_id=lambda m: m.from_id + m.seqno,
        )
        for p in self.peers.values():
            self.router.add_peer(p, PROTOCOLS[0])
        self.router.mesh["t"] = set()

    def sent(self, name: str) -> list[rpc_pb2.RPC]:
        """What waits for one peer, and takes it away."""
        queue, found = self.queues[self.peers[name]]._queue, []
        while (rpc := queue.pop()) is not None:
            found.append(rpc)
        return found

    def do(self, function: Callable[..., Any], *args: Any) -> None:
        trio.run(lambda: function(*args))


def test_own_messages_go_to_every_subscriber():
    names = [f"peer {number}" for number in range(30)]
    mesh = Mesh(*names)
    mine = message("me", b"mine")
    mesh.do(mesh.router.publish, peer("me"), mine)
    assert all([rpc.publish[0].data for rpc in mesh.sent(name)] == [b"mine"] for name in names)


def test_others_messages_go_to_the_mesh_but_not_back():
    mesh = Mesh("ann", "bob", "cat", "dan")
    mesh.router.mesh["t"] = {mesh.peers[name] for name in ("ann", "bob", "cat")}
    mesh.do(mesh.router.publish, mesh.peers["ann"], message("bob", b"news"))
    assert [len(mesh.sent(name)) for name in ("ann", "bob", "cat", "dan")] == [0, 0, 1, 0]


def test_nothing_is_sent_beside_the_message():
    mesh = Mesh("ann")
    mesh.do(mesh.router.publish, peer("me"), message("me", b"mine"))
    (rpc,) = mesh.sent("ann")
    assert not rpc.HasField("senderRecord")
    assert not rpc.HasField("control")


def test_nothing_is_kept_of_a_message_but_for_the_cache():
    mesh = Mesh("ann")
    mesh.router.pubsub.peer_topics.clear()  # type: ignore[union-attr]
    for number in range(300):
        mesh.do(mesh.router.publish, peer("me"), message("me", b"%d" % number))
    router = mesh.router
    assert (len(router.equivocation_detection), len(router._pending_messages)) == (0, 0)
    assert sum(len(times) for times in router.recent_message_deliveries.values()) == 0
    assert len(router.mcache.msgs) == 300
    for _ in range(limits.GOSSIP_HISTORY):
        router.mcache.shift()
    assert len(router.mcache.msgs) == 0


def test_each_peer_gets_its_own_control_messages():
    """Stock carries one peer's grafts and prunes over into the next peer's message."""
    mesh = Mesh("ann", "bob", "cat")
    p = mesh.peers
    graft, prune = {p["ann"]: ["t"], p["bob"]: ["u"]}, {p["cat"]: ["t"], p["bob"]: ["v"]}
    mesh.do(mesh.router._emit_control_msgs, graft, prune, {p["cat"]: {"t": [b"id"]}})
    found = {name: mesh.sent(name)[0].control for name in p}
    assert {n: [g.topicID for g in c.graft] for n, c in found.items()} == {"ann": ["t"], "bob": ["u"], "cat": []}
    assert {n: [x.topicID for x in c.prune] for n, c in found.items()} == {"ann": [], "bob": ["v"], "cat": ["t"]}
    assert {n: [list(i.messageIDs) for i in c.ihave] for n, c in found.items()} == {
        "ann": [],
        "bob": [],
        "cat": [[b"id"]],
    }
    assert found["cat"].prune[0].backoff == limits.PRUNE_BACK_OFF_SECONDS


def test_ids_that_are_offered_are_bounded():
    mesh = Mesh("ann")
    ids = [b"%d" % number for number in range(limits.MAX_CONTROL_IDS + 10)]
    mesh.do(mesh.router._emit_control_msgs, {}, {}, {mesh.peers["ann"]: {"t": ids}})
    assert len(mesh.sent("ann")[0].control.ihave[0].messageIDs) == limits.MAX_CONTROL_IDS


def test_unknown_ids_are_asked_for_but_not_all_at_once():
    mesh = Mesh("ann")
    mesh.router.pubsub.seen_messages.add(b"known")  # type: ignore[union-attr]
    ids = [b"known", *(b"unknown %d" % number for number in range(limits.MAX_WANTED_IDS + 1))]
    mesh.do(mesh.router.handle_ihave, rpc_pb2.ControlIHave(topicID="t", messageIDs=ids), mesh.peers["ann"])
    wanted = mesh.sent("ann")[0].control.iwant[0].messageIDs
    assert len(wanted) == limits.MAX_WANTED_IDS
    assert b"known" not in wanted


def test_offers_are_rate_limited():
    mesh = Mesh("ann")
    for number in range(30):
        offer = rpc_pb2.ControlIHave(topicID="t", messageIDs=[b"offer %d" % number])
        mesh.do(mesh.router.handle_ihave, offer, mesh.peers["ann"])
    assert len(mesh.sent("ann")) == 10


def test_a_wanted_message_is_sent_once_a_request():
    mesh = Mesh("ann", "bob")
    wanted = message("me", b"x" * 1000)
    mesh.do(mesh.router.publish, peer("me"), wanted)
    mesh.sent("ann")
    ask = rpc_pb2.ControlIWant(messageIDs=[wanted.from_id + wanted.seqno] * 5000)
    mesh.do(mesh.router.handle_iwant, ask, mesh.peers["ann"])
    assert [len(rpc.publish) for rpc in mesh.sent("ann")] == [1]


def test_answers_are_bounded_by_bytes_until_the_next_heartbeat():
    mesh = Mesh("ann")
    wanted = message("me", b"x" * 900_000)
    mesh.do(mesh.router.publish, peer("me"), wanted)
    mesh.sent("ann")
    ask = rpc_pb2.ControlIWant(messageIDs=[wanted.from_id + wanted.seqno])
    for expected in (2, 2):
        for _ in range(10):
            mesh.do(mesh.router.handle_iwant, ask, mesh.peers["ann"])
        assert len(mesh.sent("ann")) == expected
        mesh.router.mesh_heartbeat()


def test_a_prune_cannot_last_for_ever_nor_name_peers():
    mesh = Mesh("ann")
    bait = rpc_pb2.PeerInfo(peerID=peer("bait").to_bytes())
    prune = rpc_pb2.ControlPrune(topicID="t", backoff=2**63, peers=[bait])
    dialled = []
    mesh.router._do_px = dialled.append  # type: ignore[assignment,method-assign]
    mesh.do(mesh.router.handle_prune, prune, mesh.peers["ann"])
    until = mesh.router.back_off["t"][mesh.peers["ann"]]
    assert until <= time.time() + limits.MAX_BACK_OFF_SECONDS
    assert dialled == []


def test_who_is_pruned_is_not_grafted_at_once():
    names = [f"peer {number}" for number in range(limits.DEGREE_HIGH + 1)]
    mesh = Mesh(*names)
    mesh.router.mesh["t"] = set(mesh.peers.values())
    _, prune = mesh.router.mesh_heartbeat()
    assert len(prune) == limits.DEGREE_HIGH + 1 - limits.DEGREE
    mesh.router.mesh["t"].clear()
    graft, _ = mesh.router.mesh_heartbeat()
    assert set(graft) & set(prune) == set()


def test_who_comes_back_is_not_held_to_its_back_off():
    mesh = Mesh("ann")
    ann = mesh.peers["ann"]
    mesh.do(mesh.router.handle_prune, rpc_pb2.ControlPrune(topicID="t", backoff=60), ann)
    assert mesh.router.mesh_heartbeat()[0] == {}
    mesh.router.remove_peer(ann)
    mesh.router.add_peer(ann, PROTOCOLS[0])
    assert mesh.router.mesh_heartbeat()[0] == {ann: ["t"]}


def test_a_mesh_that_is_large_enough_is_left_alone():
    names = [f"peer {number}" for number in range(10)]
    mesh = Mesh(*names)
    mesh.router.mesh["t"] = {mesh.peers[name] for name in names[: limits.DEGREE]}
    for _ in range(20):
        assert mesh.router.mesh_heartbeat() == ({}, {}), "stock adds two peers each time"


# -- queues ---------------------------------------------------------------------------------------------
def rpc_of(size: int) -> rpc_pb2.RPC:
    return rpc_pb2.RPC(publish=[rpc_pb2.Message(data=b"x" * size)])


def test_a_queue_is_bounded_by_messages():
    queue = PeerQueue()
    assert all(queue.push(rpc_of(1)) for _ in range(limits.PEER_QUEUE_MESSAGES))
    assert not queue.push(rpc_of(1))


def test_a_queue_is_bounded_by_bytes_and_frees_them():
    async def main() -> None:
        queue, pushed = PeerQueue(), 0
        while queue.push(rpc_of(1 << 20)):
            pushed += 1
        assert pushed == limits.PEER_QUEUE_BYTES // (1 << 20) - 1
        for _ in range(pushed):
            assert await queue.pop() is not None
        assert queue._size == 0
        assert queue.push(rpc_of(1 << 20))

    trio.run(main)


def test_a_closed_queue_takes_nothing():
    queue = PeerQueue()
    queue.close()
    assert not queue.push(rpc_of(1))
    assert queue._size == 0


def test_what_does_not_fit_is_counted():
    mesh = Mesh("ann")
    for number in range(limits.PEER_QUEUE_MESSAGES + 5):
        mesh.router.send_rpc(mesh.peers["ann"], rpc_pb2.RPC(publish=[message("me", b"%d" % number)]))
    assert mesh.router.counters[Count.QUEUE_FULL] == 5


def test_a_heartbeat_that_fails_is_followed_by_the_next(monkeypatch):
    mesh, beats, third = Mesh("ann"), [], trio.Event()

    def failing() -> Any:
        beats.append(1)
        if len(beats) == 3:
            third.set()
        raise KeyError("a peer found something")

    monkeypatch.setattr(limits, "HEARTBEAT_SECONDS", 0)
    monkeypatch.setattr(mesh.router, "heartbeat_initial_delay", 0)
    monkeypatch.setattr(mesh.router, "mesh_heartbeat", failing)

    async def main() -> None:
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(mesh.router.heartbeat)
                await third.wait()
                nursery.cancel_scope.cancel()

    trio.run(main)
