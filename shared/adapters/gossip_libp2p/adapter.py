"""`Gossip` over libp2p."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Self

import structlog
from libp2p.crypto.ed25519 import create_new_key_pair

from shared import peer_id
from shared.adapters.gossip_common import EMPTY, Snapshot
from shared.adapters.gossip_libp2p import limits
from shared.adapters.gossip_libp2p.bridge import TrioThread, describe
from shared.adapters.gossip_libp2p.members import Members
from shared.adapters.gossip_libp2p.node import Node, open_node
from shared.adapters.inbox import MAX_MESSAGES, Inbox
from shared.constants import MAX_MESSAGE_BYTES
from shared.errors import ConfigError, Reject, TransportError
from shared.interfaces import Received, Validator
from shared.types import PeerKey

log = structlog.get_logger(__name__)
MembersNow = Callable[[], Mapping[PeerKey, str]]
SECRET_BYTES = 32
STOP_SECONDS = 5.0


class LibP2PGossip:
    """One libp2p node in a thread of its own; an async context manager.

    `secret` is the ed25519 seed of the peer key, hence the identity lasts across restarts. `listen` is
    `/ip4/HOST/tcp/PORT`, port 0 for any. `members` is read several times a second on the event loop: who is in it may
    connect, is dialled at its address and heard as an origin; who leaves it is disconnected. `max_bytes` limits
    messages by topic, before anything decodes them.

    A message that the own validator ignores is still sent: a repetition is for those who missed the first copy.
    """

    def __init__(
        self,
        *,
        secret: bytes,
        listen: str,
        members: MembersNow,
        max_bytes: Mapping[str, int] | None = None,
        inbox_messages: int = MAX_MESSAGES,
    ) -> None:
        if len(secret) != SECRET_BYTES:
            raise ConfigError(f"a peer secret has {SECRET_BYTES} bytes")
        self._secret, self._listen, self._members_now = secret, listen, members
        self._max_bytes, self._inbox_messages = dict(max_bytes or {}), inbox_messages
        self._key = PeerKey(create_new_key_pair(secret).public_key.to_bytes())
        self._members = Members(self._key)
        self._inboxes: dict[str, Inbox] = {}
        self._snapshot, self._changed = EMPTY, asyncio.Event()
        self._thread: TrioThread[Node] = TrioThread(self._main, f"gossip {self.peer_id[-8:]}")
        self._address = ""
        self._is_open = False
        self._failed: asyncio.Future[TransportError] | None = None

    # -- life -------------------------------------------------------------------------------------------
    async def __aenter__(self) -> Self:
        """Raises `TransportError`, for instance when the port is taken."""
        self._failed = asyncio.get_running_loop().create_future()
        self._read_members()
        self._node = await self._thread.start()
        self._address, self._is_open = self._node.address, True
        self._thread.ended.add_done_callback(self._on_ended)
        self._refreshing = asyncio.create_task(self._refresh_members())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_open = False
        self._refreshing.cancel()
        for inbox in self._inboxes.values():
            inbox.close()
        await self._thread.stop(STOP_SECONDS)
        self._snapshot = EMPTY
        if not self.failed.done():
            self.failed.cancel()

    @property
    def failed(self) -> asyncio.Future[TransportError]:
        """Gets a result (the error) when libp2p dies under a running node; cancelled at an orderly end."""
        if self._failed is None:
            raise TransportError("gossip is not started")
        return self._failed

    def _on_ended(self, ended: asyncio.Future[BaseException | None]) -> None:
        if not self._is_open:
            return
        self._is_open = False
        cause = ended.result()
        reason = describe(cause) if cause else "the transport returned"
        log.error("gossip died", reason=reason)
        for inbox in self._inboxes.values():
            inbox.close(f"gossip died: {reason}")
        self.failed.set_result(TransportError(f"gossip died: {reason}"))
        self._tell()

    async def _main(self, thread: TrioThread[Node]) -> None:
        """The trio side."""
        opened = open_node(self._secret, self._listen, self._members, self._deliver, self._max_bytes)
        async with opened as node:
            thread.announce(node)
            await node.run(self._on_snapshot, until=thread.stopping)

    # -- members ------------------------------------------------------------------------------------------
    async def _refresh_members(self) -> None:
        while True:
            await asyncio.sleep(limits.MEMBERS_SECONDS)
            self._read_members()

    def _read_members(self) -> None:
        try:
            self._members.replace(dict(self._members_now()))
        except Exception:  # the caller's function; the last view stays
            log.exception("cannot read the members")

    # -- Gossip ---------------------------------------------------------------------------------------------
    @property
    def peer_key(self) -> PeerKey:
        return self._key

    @property
    def peer_id(self) -> str:
        return peer_id.to_text(self._key)

    @property
    def address(self) -> str:
        """The multiaddr that it really listens on, without the peer id."""
        return self._address

    async def publish(self, topic: str, data: bytes) -> None:
        """As the Protocol says; also `TransportError` when our own validator rejects the message, for every other node
        would hold it against us. Waits when we are over the rate that others take from one origin."""
        limit = min(MAX_MESSAGE_BYTES, self._max_bytes.get(topic, MAX_MESSAGE_BYTES))
        if len(data) > limit:
            raise TransportError(f"a message of {len(data)} bytes; the limit is {limit}")
        self._require_open()
        try:
            await self._thread.call(self._node.publish, topic, bytes(data))
        except Reject as ruling:
            raise TransportError(f"our own check rejects the message: {ruling.rule}") from ruling

    @asynccontextmanager
    async def subscribe(self, topic: str, validate: Validator) -> AsyncIterator[AsyncIterator[Received]]:
        """As the Protocol says. `TransportError` for a second subscription; reading raises it if libp2p dies."""
        self._require_open()
        if topic in self._inboxes:
            raise TransportError(f"already subscribed to {topic}")
        inbox = Inbox(self._thread.post, self._inbox_messages)
        self._inboxes[topic] = inbox
        try:
            await self._thread.call(self._node.subscribe, topic, validate)
            yield inbox
        finally:
            del self._inboxes[topic]
            inbox.close()
            with suppress(TransportError):  # nothing is left to unsubscribe from
                await self._thread.call(self._node.unsubscribe, topic)

    def peers(self) -> Sequence[PeerKey]:
        return self._snapshot.peers

    def _require_open(self) -> None:
        if not self._is_open:
            raise TransportError("gossip is not running")

    def _deliver(self, topic: str, message: Received) -> bool:
        """On the trio side. False when the subscriber is too slow, or is leaving."""
        inbox = self._inboxes.get(topic)
        return inbox is not None and inbox.put(message)

    # -- health -----------------------------------------------------------------------------------------------
    def health(self) -> Snapshot:
        """A moment old."""
        return self._snapshot

    async def wait_for_peers(self, count: int, timeout_seconds: float, topic: str | None = None) -> None:
        """Until `count` members are connected, and subscribe to `topic` if one is given. What is published before is
        lost without a word. Raises `TransportError` when it takes too long or gossip ends."""
        try:
            async with asyncio.timeout(timeout_seconds):
                while self._count(topic) < count:
                    self._require_open()
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError as error:
            found = self._count(topic)
            raise TransportError(f"{found} of {count} peers after {timeout_seconds} s") from error

    def _count(self, topic: str | None) -> int:
        return len(self._snapshot.peers) if topic is None else self._snapshot.subscribers.get(topic, 0)

    def _on_snapshot(self, snapshot: Snapshot) -> None:
        """On the trio side."""
        is_news = not snapshot.is_like(self._snapshot)
        self._snapshot = snapshot
        if is_news:
            self._thread.post(self._tell)

    def _tell(self) -> None:
        self._changed.set()
