"""What a node's content comes to, for whoever counts it."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Protocol

from shared.content.cid import Block
from shared.errors import SourceFailed
from shared.interfaces import Meter, Source, Swept, Wanted
from shared.reasons import SourceFault
from shared.types import SourceKind


class ReadEnd(StrEnum):
    """How a read ended that somebody waited for to its end."""

    HIT = "hit"  # verified, and all of it was here
    FETCHED = "fetched"  # verified, some of it by others
    WRONG = "wrong"
    UNAVAILABLE = "unavailable"


class ContentWatch(Protocol):
    """Told of each thing once; returns at once, and never raises."""

    def delivered(self, source: Source, wanted: Wanted, size: int, seconds: float) -> None:
        """A verified block of `size` bytes, also one that came second."""
        ...

    def failed(self, source: Source, fault: SourceFault) -> None: ...

    def ended(self, end: ReadEnd) -> None: ...

    def served(self, form: str, size: int, answer: str) -> None:
        """By the gateway: see `gateway.Served`."""
        ...

    def swept(self, swept: Swept) -> None:
        """By a garbage collection."""
        ...


class Unwatched:
    """A `ContentWatch` that looks away."""

    def delivered(self, source: Source, wanted: Wanted, size: int, seconds: float) -> None:
        pass

    def failed(self, source: Source, fault: SourceFault) -> None:
        pass

    def ended(self, end: ReadEnd) -> None:
        pass

    def served(self, form: str, size: int, answer: str) -> None:
        pass

    def swept(self, swept: Swept) -> None:
        pass


class WatchedSource:
    """A `Source` that is told of. What is cancelled, because another source was faster or nobody waits any more, is
    neither delivery nor failure."""

    def __init__(self, source: Source, watch: ContentWatch) -> None:
        self._source, self._watch = source, watch

    @property
    def name(self) -> str:
        return self._source.name

    @property
    def kind(self) -> SourceKind:
        return self._source.kind

    async def fetch(self, wanted: Wanted, meter: Meter) -> Block:
        began_at = time.perf_counter()
        try:
            block = await self._source.fetch(wanted, meter)
        except SourceFailed as failure:
            self._watch.failed(self._source, failure.fault)
            raise
        self._watch.delivered(self._source, wanted, len(block.data), time.perf_counter() - began_at)
        return block
