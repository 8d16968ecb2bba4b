"""Gossip within one process: the network of simulations and of tests that do not need a wire.

Time is asyncio's alone and chance one seeded generator's, so a loop with virtual time replays a run exactly. There is
no wire, hence no rates, no bans and no forwarding: each message goes from its origin to every subscriber.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Collection, Container, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from shared.adapters.gossip_common import EMPTY, Count, Counters, Snapshot, run_validator
from shared.adapters.inbox import MAX_MESSAGES, Inbox
from shared.constants import MAX_MESSAGE_BYTES
from shared.errors import Ignore, Reject, TransportError
from shared.interfaces import Received, Validator
from shared.types import PeerKey

MembersNow = Callable[[], Container[PeerKey]]


@dataclass(frozen=True, slots=True)
class Link:
    """How messages fare between two nodes. Delays are uniform between the two bounds, so messages overtake each other;
    `loss` and `duplication` are probabilities."""

    min_delay_seconds: float = 0.0
    max_delay_seconds: float = 0.0
    loss: float = 0.0
    duplication: float = 0.0


class MemoryHub:
    """The network between `MemoryGossip` nodes."""

    def __init__(self, *, seed: int = 0, link: Link | None = None) -> None:
        self._random = random.Random(seed)
        self._default = link or Link()
        self._links: dict[tuple[PeerKey, PeerKey], Link] = {}
        self._side: dict[PeerKey, int] = {}
        self._nodes: dict[PeerKey, MemoryGossip] = {}

    # -- faults -----------------------------------------------------------------------------------------
    def set_link(self, link: Link, origin: PeerKey | None = None, receiver: PeerKey | None = None) -> None:
        """For everybody, or for one direction between two nodes."""
        if origin is None or receiver is None:
            self._default = link
        else:
            self._links[origin, receiver] = link

    def partition(self, *groups: Collection[PeerKey]) -> None:
        """Only members of one group reach each other; who is in none is in one group with the others of that kind.
        What is on its way across is lost."""
        self._side = {key: number for number, group in enumerate(groups, start=1) for key in group}
        self._tell_all()

    def heal(self) -> None:
        self.partition()

    # -- for nodes --------------------------------------------------------------------------------------
    def join(self, node: MemoryGossip) -> None:
        """Raises `TransportError` when a node with this key runs already."""
        if node.peer_key in self._nodes:
            raise TransportError("a node with this key is running")
        self._nodes[node.peer_key] = node
        self._tell_all()

    def leave(self, node: MemoryGossip) -> None:
        self._nodes.pop(node.peer_key, None)
        self._tell_all()

    def reachable(self, node: MemoryGossip) -> Sequence[MemoryGossip]:
        """The nodes that take this one for a member, and the other way round, in the order they joined."""
        return [other for other in self._nodes.values() if self._is_open(node, other)]

    def _is_open(self, one: MemoryGossip, other: MemoryGossip) -> bool:
        return (
            one is not other
            and self._side.get(one.peer_key, 0) == self._side.get(other.peer_key, 0)
            and one.accepts(other.peer_key)
            and other.accepts(one.peer_key)
        )

    def send(self, origin: MemoryGossip, topic: str, data: bytes) -> None:
        """To every subscriber that can be reached now, by its link."""
        for receiver in self.reachable(origin):
            link = self._links.get((origin.peer_key, receiver.peer_key), self._default)
            for _ in range(self._copies(link)):
                delay = self._random.uniform(link.min_delay_seconds, link.max_delay_seconds)
                asyncio.get_running_loop().call_later(delay, self._arrive, origin, receiver, topic, data)

    def _copies(self, link: Link) -> int:
        """Draws the same number of times whatever the outcome, so that runs with one seed stay comparable."""
        is_lost, is_doubled = self._random.random() < link.loss, self._random.random() < link.duplication
        return 0 if is_lost else 1 + is_doubled

    def _arrive(self, origin: MemoryGossip, receiver: MemoryGossip, topic: str, data: bytes) -> None:
        is_running = self._nodes.get(receiver.peer_key) is receiver
        if is_running and self._side.get(origin.peer_key, 0) == self._side.get(receiver.peer_key, 0):
            receiver.receive(topic, Received(origin.peer_key, data))

    def _tell_all(self) -> None:
        for node in self._nodes.values():
            node.tell()


class MemoryGossip:
    """One node; an async context manager. `members` says whom it accepts; by default everybody."""

    def __init__(
        self,
        *,
        hub: MemoryHub,
        key: PeerKey,
        members: MembersNow | None = None,
        max_bytes: Mapping[str, int] | None = None,
        inbox_messages: int = MAX_MESSAGES,
    ) -> None:
        self._hub, self._key, self._members_now = hub, key, members
        self._max_bytes, self._inbox_messages = dict(max_bytes or {}), inbox_messages
        self._validators: dict[str, Validator] = {}
        self._inboxes: dict[str, Inbox] = {}
        self._counters = Counters()
        self._changed = asyncio.Event()
        self._is_open = False
        self._failed: asyncio.Future[TransportError] | None = None

    async def __aenter__(self) -> Self:
        """Raises `TransportError` when a node with this key runs already."""
        self._hub.join(self)
        self._failed = asyncio.get_running_loop().create_future()
        self._is_open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_open = False
        self._hub.leave(self)
        for inbox in self._inboxes.values():
            inbox.close()
        if not self.failed.done():
            self.failed.cancel()
        self.tell()

    @property
    def failed(self) -> asyncio.Future[TransportError]:
        """Cancelled at the end; memory does not fail by itself, `fail` makes it."""
        if self._failed is None:
            raise TransportError("gossip is not started")
        return self._failed

    def fail(self, reason: str) -> None:
        """As if the transport died."""
        self._is_open = False
        self._hub.leave(self)
        for inbox in self._inboxes.values():
            inbox.close(reason)
        self.failed.set_result(TransportError(reason))
        self.tell()

    # -- Gossip -----------------------------------------------------------------------------------------
    @property
    def peer_key(self) -> PeerKey:
        return self._key

    async def publish(self, topic: str, data: bytes) -> None:
        """As the Protocol says; also `TransportError` when our own validator rejects the message."""
        self._require_open()
        limit = self._limit(topic)
        if len(data) > limit:
            raise TransportError(f"a message of {len(data)} bytes; the limit is {limit}")
        try:
            self._check(topic, Received(self._key, data))
        except Ignore:
            self._counters.add(Count.IGNORED)
        except Reject as ruling:
            raise TransportError(f"our own check rejects the message: {ruling.rule}") from ruling
        else:
            self._hand_over(topic, Received(self._key, data))
        self._counters.add(Count.PUBLISHED)
        self._hub.send(self, topic, data)

    @asynccontextmanager
    async def subscribe(self, topic: str, validate: Validator) -> AsyncIterator[AsyncIterator[Received]]:
        """As the Protocol says. `TransportError` for a second subscription."""
        self._require_open()
        if topic in self._inboxes:
            raise TransportError(f"already subscribed to {topic}")
        inbox = Inbox(asyncio.get_running_loop().call_soon, self._inbox_messages)
        self._inboxes[topic], self._validators[topic] = inbox, validate
        self._hub_tells()
        try:
            yield inbox
        finally:
            del self._inboxes[topic], self._validators[topic]
            inbox.close()
            self._hub_tells()

    def peers(self) -> tuple[PeerKey, ...]:
        return tuple(sorted(node.peer_key for node in self._reachable()))

    # -- health -----------------------------------------------------------------------------------------
    def health(self) -> Snapshot:
        if not self._is_open:
            return EMPTY
        subscribers = {t: self._count(t) for node in self._reachable() for t in node._inboxes}
        mesh = {topic: self._count(topic) for topic in self._inboxes}
        return Snapshot(self.peers(), mesh, subscribers, self._counters.snapshot(), banned=0, lag_seconds=0.0)

    async def wait_for_peers(self, count: int, timeout_seconds: float, topic: str | None = None) -> None:
        """Until `count` members are connected, and subscribe to `topic` if one is given. Raises `TransportError`."""
        try:
            async with asyncio.timeout(timeout_seconds):
                while self._count(topic) < count:
                    self._require_open()
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError as error:
            raise TransportError(f"{self._count(topic)} of {count} peers after {timeout_seconds} s") from error

    def _count(self, topic: str | None) -> int:
        return sum(topic is None or topic in node._inboxes for node in self._reachable())

    # -- for the hub ------------------------------------------------------------------------------------
    def accepts(self, key: PeerKey) -> bool:
        return self._members_now is None or key in self._members_now()

    def receive(self, topic: str, message: Received) -> None:
        """A message arrives. Membership is asked again: it may have changed on the way."""
        if topic not in self._inboxes:
            return
        try:
            self._check_stranger(topic, message)
        except Ignore:
            self._counters.add(Count.IGNORED)
        except Reject:
            self._counters.add(Count.REJECTED)
        else:
            self._counters.add(Count.RECEIVED)
            self._hand_over(topic, message)

    def tell(self) -> None:
        """Something about peers changed."""
        self._changed.set()

    def _hub_tells(self) -> None:
        for node in self._reachable():
            node.tell()

    def _reachable(self) -> Sequence[MemoryGossip]:
        return self._hub.reachable(self) if self._is_open else ()

    def _check_stranger(self, topic: str, message: Received) -> None:
        if not self.accepts(message.origin):
            raise Ignore("the origin is no member")
        if len(message.data) > self._limit(topic):
            raise Reject("too large")
        self._check(topic, message)

    def _check(self, topic: str, message: Received) -> None:
        validate = self._validators.get(topic)
        if validate is not None:
            run_validator(validate, topic, message.origin, message.data, self._counters)

    def _hand_over(self, topic: str, message: Received) -> None:
        inbox = self._inboxes.get(topic)
        if inbox is not None:
            self._counters.add(Count.DELIVERED if inbox.put(message) else Count.INBOX_FULL)

    def _limit(self, topic: str) -> int:
        return min(MAX_MESSAGE_BYTES, self._max_bytes.get(topic, MAX_MESSAGE_BYTES))

    def _require_open(self) -> None:
        if not self._is_open:
            raise TransportError("gossip is not running")
