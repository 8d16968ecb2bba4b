"""What a garbage collection must leave alone although no pin names it yet: what is being read, fetched and added."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shared.types import Cid

Watch = set[bytes]
"""The digests that were used since a collection began."""


class InUse:
    """Every decision to delete is taken under the lock that uses are noted under. Any thread may call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: Counter[Cid] = Counter()
        self._writing: Counter[bytes] = Counter()
        self._claims: list[set[bytes]] = []
        self._touched: Watch | None = None  # None while nothing is collected
        self._newly_held: list[Cid] = []  # since the collection looked last

    # --- uses ------------------------------------------------------------------------------------
    @contextmanager
    def hold(self, root: Cid) -> Iterator[None]:
        """While it lasts, nothing of the file goes that is here when it begins or comes meanwhile."""
        with self._lock:
            self._held[root] += 1
            if self._touched is not None:
                self._newly_held.append(root)
        try:
            yield
        finally:
            with self._lock:
                self._held[root] -= 1
                if not self._held[root]:
                    del self._held[root]

    @contextmanager
    def claim(self) -> Iterator[set[bytes]]:
        """The blocks of a file whose root is still to come: digests go into the set before their blocks are put."""
        claimed: set[bytes] = set()
        with self._lock:
            self._claims.append(claimed)
        try:
            yield claimed
        finally:
            with self._lock:
                self._claims = [other for other in self._claims if other is not claimed]
                if self._touched is not None:  # its pin came after the collection had read them
                    self._touched |= claimed

    @contextmanager
    def write(self, digest: bytes) -> Iterator[None]:
        with self._lock:
            self._writing[digest] += 1
        try:
            yield
        finally:
            with self._lock:
                self._writing[digest] -= 1
                if not self._writing[digest]:
                    del self._writing[digest]
                if self._touched is not None:
                    self._touched.add(digest)

    def touch(self, digest: bytes, is_here: Callable[[], bool]) -> None:
        """Somebody is about to read it. What is not here is not noted, or strangers' questions would fill memory."""
        with self._lock:
            if self._touched is not None and is_here():
                self._touched.add(digest)

    # --- collecting ------------------------------------------------------------------------------
    @contextmanager
    def watch(self) -> Iterator[Watch]:
        """A collection: what is used from here on stays."""
        watch: Watch = set()
        with self._lock:
            self._touched = watch
            self._newly_held = list(self._held)
        try:
            yield watch
        finally:
            with self._lock:
                self._touched = None
                self._newly_held = []

    def take_newly_held(self) -> list[Cid]:
        """Roots that began to be held since the last call, in the first one all that are held; for marking."""
        with self._lock:
            roots, self._newly_held = self._newly_held, []
            return roots

    def delete_unless_used(self, digest: bytes, watch: Watch, delete: Callable[[], int]) -> int | None:
        """What `delete` says; None when the block is in use, or may be: a root is held that was not yet taken, or the
        collection's watch is over and its thread is not."""
        with self._lock:
            if self._newly_held or self._touched is not watch or self._is_used(digest, watch):
                return None
            return delete()

    def _is_used(self, digest: bytes, watch: Watch) -> bool:
        return digest in self._writing or digest in watch or any(digest in claim for claim in self._claims)
