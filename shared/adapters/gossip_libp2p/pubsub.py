"""The pubsub service: what happens to a message, in order, cheap checks first.

libp2p's own validators say yes or no; a no, a time-out and an exception all count against the forwarder, and the answer
is cached by message id for longer than ids are remembered, so that an origin can send other bytes under an old id
unchecked (D30). Ours raise `Ignore` or `Reject`, hence the whole path of a message is here and not in overrides of
its parts; every step is synchronous, so no message is ever validated twice at once (D9).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog
import trio
from libp2p.abc import IHost, INetStream
from libp2p.io.exceptions import IOException
from libp2p.network.connection.exceptions import RawConnError
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.rpc_queue import RpcQueue

from shared.adapters.gossip_common import Count, Counters, run_validator
from shared.adapters.gossip_libp2p import limits
from shared.adapters.gossip_libp2p.budgets import FORWARDER, ORIGIN, Meter
from shared.adapters.gossip_libp2p.frames import Frames, next_frame
from shared.adapters.gossip_libp2p.members import Members, key_of
from shared.adapters.gossip_libp2p.router import SteadyGossipSub
from shared.adapters.gossip_libp2p.seen import SeenIds
from shared.adapters.gossip_libp2p.wire import Signed, is_topic, parse
from shared.constants import MAX_MESSAGE_BYTES
from shared.errors import CodecError, Ignore, Reject
from shared.interfaces import Received, Validator
from shared.types import PeerKey

log = structlog.get_logger(__name__)
Deliver = Callable[[str, Received], bool]


class MemberPubsub(Pubsub):
    """Gossip among members."""

    router: SteadyGossipSub

    def __init__(
        self,
        host: IHost,
        router: SteadyGossipSub,
        *,
        members: Members,
        counters: Counters,
        deliver: Deliver,
        max_bytes: Mapping[str, int],
    ) -> None:
        super().__init__(host, router, max_subscriptions_per_peer=limits.MAX_SUBSCRIPTIONS)
        self.seen_messages.stop()  # D18: its thread
        self.seen_messages = SeenIds()  # type: ignore[assignment]
        # D31: stock starts at the second of the start; a node that sent more than one message a second and restarts
        # uses ids again that others remember, and they drop its messages without a word.
        self.counter = time.time_ns()
        self.validators: dict[str, Validator] = {}
        self._members, self.counters, self._deliver, self._max_bytes = members, counters, deliver, max_bytes
        self._origins: Meter[PeerKey] = Meter(ORIGIN)
        self._forwarders: Meter[PeerKey] = Meter(FORWARDER)
        self._reading: dict[ID, trio.CancelScope] = {}

    # -- streams ----------------------------------------------------------------------------------------
    async def stream_handler(self, stream: INetStream) -> None:
        """One stream in for each peer; a newer one takes the older one's place."""
        peer = stream.muxed_conn.peer_id
        scope = trio.CancelScope()
        older = self._reading.get(peer)
        if older is not None:
            older.cancel()  # D32: stock reads as many as a peer opens, each with a buffer of a whole frame
        self._reading[peer] = scope
        self._forget_all_subscriptions(peer)  # a stream begins with all of them
        try:
            with scope:
                await self.continuously_read_stream(stream)
        finally:
            if self._reading.get(peer) is scope:
                del self._reading[peer]
            await _reset(stream)

    async def continuously_read_stream(self, stream: INetStream) -> None:
        peer = stream.muxed_conn.peer_id
        frames = Frames(limits.MAX_RPC_BYTES)
        try:
            while self._members.is_welcome(peer):
                frame = await next_frame(stream, frames)
                if frame is None:
                    return
                await self._pace(peer, 1, len(frame))
                await self._handle_rpc(rpc_pb2.RPC.FromString(frame), peer)
        except (StreamError, IOException, RawConnError):
            return  # the stream or the connection ended
        except Exception as error:  # noqa: BLE001
            # D1: a frame that is no protobuf ends a stock host; so may anything else that a peer writes into one.
            self.counters.add(Count.MALFORMED)
            self._strike(peer, limits.MALFORMED_STRIKES, repr(error)[: limits.MAX_LOG_CHARACTERS])

    async def _pace(self, peer: ID, messages: int, size: int) -> None:
        """Back-pressure: a forwarder over its allowance is read later; its own queue fills, not ours."""
        key = key_of(peer)
        if key is None:
            return
        wait = self._forwarders.owe(key, messages, size, time.monotonic())
        if wait > 0:
            self.counters.add(Count.PACED)
            await trio.sleep(wait)

    async def _handle_rpc(self, rpc: rpc_pb2.RPC, peer: ID) -> None:
        for message in rpc.publish:
            if not self._members.is_welcome(peer):
                return
            await self._pace(peer, 1, 0)
            await self.push_msg(peer, message)
            await trio.lowlevel.checkpoint()
        if len(rpc.subscriptions) > limits.MAX_SUBSCRIPTIONS:
            raise CodecError(f"{len(rpc.subscriptions)} subscriptions at once")
        for subscription in rpc.subscriptions:
            if not is_topic(subscription.topicid):
                raise CodecError("no name for a topic")
            self.handle_subscription(peer, subscription)
        if rpc.HasField("control"):
            # D13: the sender's record is not read; D16, D33: topics that are not ours make tables and answers grow.
            await self.router.handle_rpc(rpc_pb2.RPC(control=self._own_topics(rpc.control)), peer)

    def _own_topics(self, control: rpc_pb2.ControlMessage) -> rpc_pb2.ControlMessage:
        """What concerns topics that we joined. Raises `CodecError` for more ids than anybody needs."""
        ids = sum(len(i.messageIDs) for i in control.ihave) + sum(len(i.messageIDs) for i in control.iwant)
        entries = len(control.ihave) + len(control.iwant) + len(control.graft) + len(control.prune)
        if ids > limits.MAX_CONTROL_IDS or entries > limits.MAX_SUBSCRIPTIONS * 4:
            raise CodecError(f"a control message with {ids} ids in {entries} entries")
        joined = self.router.mesh
        return rpc_pb2.ControlMessage(
            ihave=[i for i in control.ihave if i.topicID in joined],
            iwant=control.iwant,
            graft=[g for g in control.graft if g.topicID in joined],
            prune=[p for p in control.prune if p.topicID in joined],
        )

    async def handle_sending_messages(self, peer_id: ID, stream: INetStream, queue: RpcQueue) -> None:
        try:
            await super().handle_sending_messages(peer_id, stream, queue)
        finally:  # D34: stock leaves the stream open; after 256 of them a slow peer can never be reached again
            await _reset(stream)

    def _handle_dead_peer(self, peer_id: ID) -> None:
        # D36: when our stream to a connected peer breaks, stock forgets what the peer subscribes to, which the peer
        # has no reason to announce again.
        if peer_id not in self.peers or not self._peer_is_connected(peer_id):
            super()._handle_dead_peer(peer_id)
            return
        del self.peers[peer_id]
        self.peer_queues.pop(peer_id).close()
        self._replayed_recent_topics.pop(peer_id, None)
        self.router.remove_peer(peer_id)
        self._schedule_peer_stream_retry(peer_id)

    def drop_dead_streams(self) -> None:
        """D37: when a peer comes back before its old connection is cleaned up, stock keeps the old stream to it."""
        for peer in [peer for peer, stream in self.peers.items() if stream.muxed_conn.is_closed]:
            self._handle_dead_peer(peer)

    # -- messages ---------------------------------------------------------------------------------------
    async def push_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        """Raises `Ignore` or `Reject` for own messages only."""
        if msg_forwarder == self.my_id:
            await self._accept_own(parse(msg, MAX_MESSAGE_BYTES))
            return
        try:
            signed = self._admit(msg_forwarder, msg)
            if signed is not None:
                self._validate(signed)
                await self._accept(msg_forwarder, signed)
        except Ignore:
            self.counters.add(Count.IGNORED)
        except Reject as ruling:
            self.counters.add(Count.REJECTED)
            self._strike(msg_forwarder, 1.0, ruling.rule)

    async def _accept_own(self, signed: Signed) -> None:
        """What this node's own validator ignores (a repetition, say) is sent all the same: others may have missed it.
        What it rejects is not sent: others would hold it against us."""
        self.seen_messages.add(signed.message_id)
        try:
            self._validate(signed)
        except Ignore:
            self.counters.add(Count.IGNORED)
        else:
            self._hand_over(signed)
        self.counters.add(Count.PUBLISHED)
        await self.router.publish(self.my_id, signed.message)

    async def _accept(self, forwarder: ID, signed: Signed) -> None:
        self.counters.add(Count.RECEIVED)
        self._hand_over(signed)
        await self.router.publish(forwarder, signed.message)

    def _hand_over(self, signed: Signed) -> None:
        if signed.topic in self.validators:
            is_taken = self._deliver(signed.topic, Received(signed.origin, signed.data))
            self.counters.add(Count.DELIVERED if is_taken else Count.INBOX_FULL)

    def _admit(self, forwarder: ID, message: rpc_pb2.Message) -> Signed | None:
        """The checks that come before the topic's own; None drops the message without a word."""
        if self.seen_messages.has(message.from_id + message.seqno):  # most of what arrives, hence first
            self.counters.add(Count.DUPLICATE)
            return None
        topic = message.topicIDs[0] if message.topicIDs else ""
        try:
            signed = parse(message, self._max_bytes.get(topic, MAX_MESSAGE_BYTES))
        except CodecError as error:
            self.counters.add(Count.MALFORMED)
            self._strike(forwarder, 1.0, str(error))
            return None
        if topic not in self.validators:
            return None  # we have left the topic; the forwarder does not know yet
        if not self._members.is_member(signed.origin):
            raise Ignore("the origin is no member")  # nor our own message coming back after we forgot it
        if not signed.is_authentic():
            self.counters.add(Count.BAD_SIGNATURE)
            self._strike(forwarder, 1.0, "signature")
            return None
        return self._admit_authentic(signed)

    def _admit_authentic(self, signed: Signed) -> Signed | None:
        """From here on the id is taken: only the origin itself can have signed it."""
        self.seen_messages.add(signed.message_id)
        if not self._origins.take(signed.origin, len(signed.data), time.monotonic()):
            self.counters.add(Count.OVER_RATE)
            return None
        return signed

    def _validate(self, signed: Signed) -> None:
        """Raises `Ignore` or `Reject`."""
        validate = self.validators.get(signed.topic)
        if validate is not None:
            run_validator(validate, signed.topic, signed.origin, signed.data, self.counters)

    def _strike(self, peer: ID, points: float, reason: str) -> None:
        key = key_of(peer)
        if key is None:
            return
        log.debug("a strike", peer=peer.to_base58(), points=points, reason=reason)
        if self._members.conduct.strike(key, points, time.monotonic()):
            self.counters.add(Count.BANNED)
            log.warning("a peer is banned for a while", peer=peer.to_base58(), reason=reason)

    # -- announcements, without libp2p's signed address record: addresses come from the registry (D13, D21) -------
    def get_hello_packet(self) -> rpc_pb2.RPC:
        topics = [rpc_pb2.RPC.SubOpts(subscribe=True, topicid=topic) for topic in self.topic_ids]
        return rpc_pb2.RPC(subscriptions=topics)

    def _build_announce_rpc(self, topic_id: str, subscribe: bool) -> Any:
        option = rpc_pb2.RPC.SubOpts(subscribe=subscribe, topicid=topic_id)
        return rpc_pb2.RPC(subscriptions=[option]), option


async def _reset(stream: INetStream) -> None:
    """Also while the task is being cancelled, yet never for long: a peer that does not read blocks the frame."""
    with trio.CancelScope(shield=True, deadline=trio.current_time() + limits.RESET_SECONDS):
        await stream.reset()
