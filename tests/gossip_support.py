"""Gossip networks for tests: the same calls over libp2p on loopback and over memory."""

from __future__ import annotations

import asyncio
import hashlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from shared.adapters.gossip_libp2p import LibP2PGossip, limits
from shared.adapters.memory.gossip import MemoryGossip, MemoryHub
from shared.interfaces import Received, Validator
from shared.types import PeerKey

LIMIT_SECONDS = 20.0  # the machine may be busy with other things
ANY_PORT = "/ip4/127.0.0.1/tcp/0"
Node = LibP2PGossip | MemoryGossip


def secret_of(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def accept(origin: PeerKey, data: bytes) -> None:
    """A validator."""


async def until(condition: Callable[[], object], what: str, limit_seconds: float = LIMIT_SECONDS) -> None:
    """Waits for a condition; fails with its name."""
    try:
        async with asyncio.timeout(limit_seconds):
            while not condition():  # noqa: ASYNC110  most of what tests wait for tells nobody
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"not within {limit_seconds} s: {what}") from None


@dataclass
class Reader:
    """What one subscription gave so far."""

    messages: list[Received] = field(default_factory=list)
    error: BaseException | None = None
    is_over: bool = False

    @property
    def data(self) -> list[bytes]:
        return [message.data for message in self.messages]

    async def read(self, messages: AsyncIterator[Received]) -> None:
        try:
            async for message in messages:
                self.messages.append(message)
        except Exception as error:  # noqa: BLE001  the test looks at it
            self.error = error
        self.is_over = True

    async def gets(self, *data: bytes) -> None:
        await until(lambda: set(data) <= set(self.data), f"{data!r} among {self.data!r}")


@asynccontextmanager
async def reading(node: Node, topic: str, validate: Validator = accept) -> AsyncIterator[Reader]:
    """Subscribes and reads on in the background."""
    reader = Reader()
    async with node.subscribe(topic, validate) as messages:
        task = asyncio.create_task(reader.read(messages))
        try:
            yield reader
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class Network(ABC):
    """Nodes by name; `book` is the registry that all of them read."""

    kind = ""
    patience_seconds = 0.05  # to see that nothing happens

    def __init__(self) -> None:
        self.book: dict[PeerKey, str] = {}
        self._stack: dict[Node, AsyncExitStack] = {}

    @abstractmethod
    def build(self, name: str, members: Callable[[], Mapping[PeerKey, str]], **options: Any) -> Node: ...

    @abstractmethod
    def address_of(self, node: Node) -> str: ...

    async def start(self, name: str, *, is_member: bool = True, **options: Any) -> Node:
        """A running node; the same name is the same identity."""
        node = self.build(name, options.pop("members", lambda: self.book), **options)
        stack = self._stack[node] = AsyncExitStack()
        await stack.enter_async_context(node)
        if is_member:
            self.enlist(node)
        return node

    def enlist(self, node: Node) -> None:
        self.book[node.peer_key] = self.address_of(node)

    async def read(self, node: Node, topic: str, validate: Validator = accept) -> Reader:
        """Subscribes until the node stops."""
        return await self._stack[node].enter_async_context(reading(node, topic, validate))

    async def trio(self, topic: str = "t") -> tuple[list[Node], list[Reader]]:
        """Three connected members that read one topic."""
        nodes = [await self.start(name) for name in ("ann", "bob", "cat")]
        readers = [await self.read(node, topic) for node in nodes]
        await self.connected(*nodes, topic=topic)
        return nodes, readers

    async def connected(self, *nodes: Node, topic: str | None = None) -> None:
        """Each of them sees all the others."""
        await asyncio.gather(*(node.wait_for_peers(len(nodes) - 1, LIMIT_SECONDS, topic) for node in nodes))

    async def stop(self, node: Node) -> None:
        await self._stack.pop(node).aclose()

    async def close(self) -> None:
        for node in list(self._stack):
            await self.stop(node)


class LibP2PNetwork(Network):
    """Looks for changes more often than a real node, for tests spend their time waiting for them."""

    kind = "libp2p"
    patience_seconds = 1.0

    def __init__(self, *, is_quick: bool = True) -> None:
        super().__init__()
        self._quick = pytest.MonkeyPatch()
        if is_quick:
            self._quick.setattr(limits, "KEEPER_SECONDS", 0.02)
            self._quick.setattr(limits, "MEMBERS_SECONDS", 0.02)
            self._quick.setattr(limits, "SECOND_DIALLER_SECONDS", 0.1)

    async def close(self) -> None:
        await super().close()
        self._quick.undo()

    def build(self, name: str, members: Callable[[], Mapping[PeerKey, str]], **options: Any) -> Node:
        options.setdefault("listen", ANY_PORT)
        return LibP2PGossip(secret=secret_of(name), members=members, **options)

    def address_of(self, node: Node) -> str:
        assert isinstance(node, LibP2PGossip)
        return node.address


class MemoryNetwork(Network):
    kind = "memory"

    def __init__(self, hub: MemoryHub | None = None) -> None:
        super().__init__()
        self.hub = hub or MemoryHub()

    def build(self, name: str, members: Callable[[], Mapping[PeerKey, str]], **options: Any) -> Node:
        return MemoryGossip(hub=self.hub, key=PeerKey(secret_of(name)), members=members, **options)

    def address_of(self, node: Node) -> str:
        return "memory"
