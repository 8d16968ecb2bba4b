"""Ids of messages that were handled, for a while. Stands in for libp2p's cache (defect D18)."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from shared.adapters.gossip_libp2p import limits
from shared.constants import SEEN_CACHE_SIZE


class SeenIds:
    """D18: libp2p's cache has no size limit, keeps an id for ever while a peer keeps asking for it, and starts a thread
    that nobody stops. This one counts from the first sight and drops the oldest."""

    def __init__(
        self,
        seconds: float = limits.SEEN_SECONDS,
        size: int = SEEN_CACHE_SIZE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds, self._size, self._clock = seconds, size, clock
        self._first_seen: OrderedDict[bytes, float] = OrderedDict()

    def add(self, key: bytes) -> bool:
        """True when the id is new."""
        self._expire()
        if key in self._first_seen:
            return False
        self._first_seen[key] = self._clock()
        if len(self._first_seen) > self._size:
            self._first_seen.popitem(last=False)
        return True

    def has(self, key: bytes) -> bool:
        self._expire()
        return key in self._first_seen

    def length(self) -> int:
        return len(self._first_seen)

    def stop(self) -> None:
        """libp2p's interface; there is no thread to stop."""

    def _expire(self) -> None:
        horizon = self._clock() - self._seconds
        while self._first_seen:
            key, stamp = next(iter(self._first_seen.items()))
            if stamp > horizon:
                return
            del self._first_seen[key]
