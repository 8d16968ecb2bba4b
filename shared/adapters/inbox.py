"""A bounded queue from a transport, possibly in another thread, to one reader on an event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from shared.errors import TransportError
from shared.interfaces import Received

MAX_MESSAGES = 1024
MAX_BYTES = 16 << 20
Wake = Callable[[Callable[[], None]], object]
"""Runs a function on the reader's loop soon: `loop.call_soon_threadsafe`, or `loop.call_soon` in the same thread."""


class Inbox:
    """Takes messages from any one thread. A slow reader loses the newest and the loss is counted.

    The loop's own callback queue has no bound, hence at most one callback is under way and messages wait here.
    """

    def __init__(self, wake: Wake, max_messages: int = MAX_MESSAGES, max_bytes: int = MAX_BYTES) -> None:
        self._wake, self._max_messages, self._max_bytes = wake, max_messages, max_bytes
        self._waiting: deque[Received] = deque()
        self._put_bytes = 0  # written by the producer only
        self._taken_bytes = 0  # written by the reader only
        self._is_waking = False
        self._arrived = asyncio.Event()
        self._closed: str | None = None  # "" after an orderly end
        self.dropped = 0

    def put(self, message: Received) -> bool:
        """False when the message was dropped. Called by the producer's thread."""
        held = self._put_bytes - self._taken_bytes
        if len(self._waiting) >= self._max_messages or held + len(message.data) > self._max_bytes:
            self.dropped += 1
            return False
        self._put_bytes += len(message.data)
        self._waiting.append(message)
        if not self._is_waking:
            self._is_waking = True
            self._wake(self._on_wake)
        return True

    def _on_wake(self) -> None:
        self._is_waking = False  # before the reader looks: a message put from here on wakes it again
        self._arrived.set()

    def close(self, reason: str = "") -> None:
        """On the reader's loop. With a reason, reading ends in `TransportError` instead of quietly."""
        if self._closed is None:
            self._closed = reason
            self._arrived.set()

    def __aiter__(self) -> Inbox:
        return self

    async def __anext__(self) -> Received:
        while not self._waiting:
            if self._closed is not None:
                if self._closed:
                    raise TransportError(self._closed)
                raise StopAsyncIteration
            self._arrived.clear()
            if not self._waiting:
                await self._arrived.wait()
        message = self._waiting.popleft()
        self._taken_bytes += len(message.data)
        return message
