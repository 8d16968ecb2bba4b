"""GossipSub, steady: a mesh that does not churn, no address chosen by a peer, nothing that grows without a bound."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import structlog
import trio
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.rpc_queue import RpcQueue
from libp2p.pubsub.utils import safe_bytes_from_hex

from shared.adapters.gossip_common import Count, Counters
from shared.adapters.gossip_libp2p import limits

log = structlog.get_logger(__name__)
PROTOCOLS = [TProtocol("/meshsub/1.1.0"), TProtocol("/meshsub/1.0.0")]


class PeerQueue(RpcQueue):
    """What waits to be sent to one peer."""

    def __init__(self) -> None:
        # D4: stock holds 32 messages, and a burst of more is cut without a word.
        super().__init__(max_size=limits.PEER_QUEUE_MESSAGES, max_message_size=limits.MAX_RPC_BYTES)
        self._size = 0

    def push(self, rpc: rpc_pb2.RPC, priority: bool = False) -> bool:
        """False when the queue is full, of messages or of bytes."""
        size = rpc.ByteSize()
        if self._size + size > limits.PEER_QUEUE_BYTES or not super().push(rpc, priority):
            return False
        self._size += size
        return True

    async def pop(self) -> rpc_pb2.RPC | None:
        rpc = await super().pop()
        if rpc is not None:
            self._size -= rpc.ByteSize()
        return rpc


class SteadyGossipSub(GossipSub):
    """Every override names the defect of libp2p 0.8.1 that it answers."""

    def __init__(self, counters: Counters) -> None:
        super().__init__(
            protocols=PROTOCOLS,
            degree=limits.DEGREE,
            degree_low=limits.DEGREE_LOW,
            degree_high=limits.DEGREE_HIGH,
            heartbeat_interval=limits.HEARTBEAT_SECONDS,
            gossip_window=limits.GOSSIP_WINDOW,
            gossip_history=limits.GOSSIP_HISTORY,
            prune_back_off=limits.PRUNE_BACK_OFF_SECONDS,
            unsubscribe_back_off=limits.UNSUBSCRIBE_BACK_OFF_SECONDS,
            adaptive_gossip_enabled=False,  # D6: slows the heartbeat to a minute
            spam_protection_enabled=False,  # D5: drops our own messages over ten a second
            eclipse_protection_enabled=False,  # wants several addresses, which a testnet has not
        )
        self.counters = counters
        self.graft_flood_threshold = float(limits.UNSUBSCRIBE_BACK_OFF_SECONDS)
        self._iwant_bytes: defaultdict[ID, int] = defaultdict(int)

    # -- sending ------------------------------------------------------------------------------------
    async def publish(self, msg_forwarder: ID, pubsub_msg: rpc_pb2.Message) -> None:
        # D14, D24: stock also keeps a time stamp, a copy against equivocation (up to 1500 messages of any size) and a
        # hundred copies for each peer that does not subscribe.
        self.mcache.put(pubsub_msg)
        rpc = rpc_pb2.RPC(publish=[pubsub_msg])
        for peer in self._receivers(msg_forwarder, pubsub_msg):
            self.counters.add(Count.FORWARDED)
            self.send_rpc(peer, rpc)
        for topic in pubsub_msg.topicIDs:
            self.time_since_last_publish[topic] = int(time.time())

    def _receivers(self, forwarder: ID, message: rpc_pb2.Message) -> Iterable[ID]:
        """Own messages go to every subscriber we are connected to (gossipsub 1.1 "flood publishing", which libp2p
        lacks): a message that is published again reaches who missed it, though others will not forward it again."""
        assert self.pubsub is not None  # noqa: S101  attached by the constructor of Pubsub
        if forwarder != self.pubsub.my_id:
            return self._get_peers_to_send(message.topicIDs, forwarder, ID(message.from_id))
        return {peer for topic in message.topicIDs for peer in self.pubsub.peer_topics.get(topic, ())}

    async def send_recent_messages(self, peer_id: ID, topic: str) -> None:
        # D25: stock writes these to the stream beside the sending task, and frames over 64 KiB interleave.
        for mid in self.mcache.window(topic):
            message = self.mcache.get(mid)
            if message is not None:
                self.send_rpc(peer_id, rpc_pb2.RPC(publish=[message]))

    async def flush_pending_messages(self, peer_id: ID) -> None:
        return  # nothing is ever pending: `send_recent_messages` serves late subscribers

    async def emit_control_message(self, control_msg: rpc_pb2.ControlMessage, to_peer: ID) -> None:
        # D13: stock adds its signed addresses to each message, and each receiver verifies them again.
        self.send_rpc(to_peer, rpc_pb2.RPC(control=control_msg), priority=True)

    def _handle_dropped_rpc(self, peer_id: ID, rpc: rpc_pb2.RPC, reason: str) -> None:
        self.counters.add(Count.QUEUE_FULL)
        super()._handle_dropped_rpc(peer_id, rpc, reason)

    async def _emit_control_msgs(
        self,
        peers_to_graft: dict[ID, list[str]],
        peers_to_prune: dict[ID, list[str]],
        peers_to_gossip: dict[ID, dict[str, list[bytes]]],
    ) -> None:
        # D26: stock carries one peer's GRAFT and PRUNE over into the next peer's message.
        for peer in {*peers_to_graft, *peers_to_prune, *peers_to_gossip}:
            control = rpc_pb2.ControlMessage(
                graft=[rpc_pb2.ControlGraft(topicID=t) for t in peers_to_graft.get(peer, ())],
                prune=[
                    rpc_pb2.ControlPrune(topicID=t, backoff=limits.PRUNE_BACK_OFF_SECONDS)
                    for t in peers_to_prune.get(peer, ())
                ],
                ihave=[
                    rpc_pb2.ControlIHave(topicID=t, messageIDs=ids[: limits.MAX_CONTROL_IDS])
                    for t, ids in peers_to_gossip.get(peer, {}).items()
                ],
            )
            await self.emit_control_message(control, peer)

    # -- receiving ------------------------------------------------------------------------------------
    async def handle_ihave(self, ihave_msg: rpc_pb2.ControlIHave, sender_peer_id: ID) -> None:
        assert self.pubsub is not None  # noqa: S101  attached by the constructor of Pubsub
        if not self._check_ihave_rate_limit(sender_peer_id, ihave_msg.topicID):
            return
        known = (safe_bytes_from_hex(mid) for mid in ihave_msg.messageIDs)
        wanted = [mid for mid in known if mid is not None and not self.pubsub.seen_messages.has(mid)]
        if wanted:
            await self.emit_iwant(wanted[: limits.MAX_WANTED_IDS], sender_peer_id)

    async def handle_iwant(self, iwant_msg: rpc_pb2.ControlIWant, sender_peer_id: ID) -> None:
        # D27: stock answers each repetition of an id with a copy: 5000 ids of one message of 900 KB are 4.5 GB.
        for wire_id in dict.fromkeys(iwant_msg.messageIDs):
            mid = safe_bytes_from_hex(wire_id)
            message = self.mcache.get(mid) if mid is not None else None
            if message is None:
                continue
            self._iwant_bytes[sender_peer_id] += message.ByteSize()
            if self._iwant_bytes[sender_peer_id] > limits.IWANT_BYTES_PER_HEARTBEAT:
                return
            self.send_rpc(sender_peer_id, rpc_pb2.RPC(publish=[message]))

    async def handle_prune(self, prune_msg: rpc_pb2.ControlPrune, sender_peer_id: ID) -> None:
        # D10: stock dials the peers that a PRUNE names; D28: and takes any number of seconds as back-off.
        del prune_msg.peers[:]
        prune_msg.backoff = min(prune_msg.backoff, limits.MAX_BACK_OFF_SECONDS)
        await super().handle_prune(prune_msg, sender_peer_id)

    async def _do_px(self, px_peers: list[rpc_pb2.PeerInfo]) -> None:
        return  # D10

    # -- the mesh ---------------------------------------------------------------------------------------
    async def heartbeat(self) -> None:
        # D1: an exception in the heartbeat ends the host. Nothing is known to raise there; a peer may find something.
        while True:
            try:
                await super().heartbeat()
            except Exception:
                log.exception("the gossip heartbeat failed")
                await trio.sleep(limits.HEARTBEAT_SECONDS)

    def mesh_heartbeat(self) -> tuple[Any, Any]:
        graft, prune = super().mesh_heartbeat()
        for peer, topics in prune.items():
            for topic in topics:
                self._add_back_off(peer, topic, False)  # D8: stock grafts at once whom it has just pruned
        self._iwant_bytes.clear()
        return graft, prune

    def _perform_opportunistic_grafting(self, topic: str, peers_to_graft: Any) -> int:
        return 0  # D8: stock adds two peers each heartbeat while all scores are equal, then prunes at random

    async def _consider_peer_replacement(self, topic: str) -> None:
        return  # D8

    def remove_peer(self, peer_id: ID) -> None:
        super().remove_peer(peer_id)
        for peers in self.back_off.values():  # D29: else a member that restarts stays out of the mesh for the back-off
            peers.pop(peer_id, None)
