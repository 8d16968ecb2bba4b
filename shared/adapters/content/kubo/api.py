"""What the store, the source and the publisher need of a Kubo node, whichever client speaks to it."""

from __future__ import annotations

from collections.abc import AsyncIterable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from shared.content.cid import Block
from shared.interfaces import Meter
from shared.types import Cid

# What the node answers from its own disk. A disk that is slower serves nobody; a full queue of ours waits as well.
LOCAL_SECONDS = 30.0
# A node reads, hashes and writes far more than this even where its disk turns.
BYTES_PER_SECOND = 4 << 20


def seconds_for(size: int) -> float:
    """How long the node may be busy with a file of `size` bytes: importing it, or walking it to pin it."""
    return LOCAL_SECONDS + size / BYTES_PER_SECOND


@dataclass(frozen=True, slots=True)
class KuboNode:
    """Who answers, for people."""

    peer_id: str
    version: str


class KuboApi(Protocol):
    """Every call ends by itself in bounded time, and raises `SourceFailed` alone unless it says otherwise: NOT_FOUND
    where the node does not have what was asked for, UNREACHABLE where there is no node."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def node(self) -> KuboNode: ...

    async def get_block(self, cid: Cid, *, seconds: float, is_offline: bool, meter: Meter | None = None) -> Block:
        """Verified. Online the node looks in its network, for ever if nothing ended it."""
        ...

    async def block_size(self, cid: Cid) -> int:
        """Of a block that the node has itself; unchecked."""
        ...

    async def put_block(self, block: Block) -> None:
        """Unpinned: the node's garbage collection may take it."""
        ...

    async def import_archive(self, root: Cid, archive: AsyncIterable[bytes], *, seconds: float) -> None:
        """All blocks of a file as a CAR whose one root is `root`, which is pinned. The node collects no garbage
        meanwhile. Raises what `archive` raises."""
        ...

    async def pin(self, root: Cid, *, seconds: float) -> None:
        """Recursively. What is missing below is fetched from the network, within `seconds`."""
        ...

    async def unpin(self, root: Cid) -> None:
        """What is not pinned stays so."""
        ...

    async def is_pinned(self, root: Cid) -> bool:
        """Recursively."""
        ...

    async def connect(self, multiaddr: str, *, seconds: float) -> None:
        """To a node of the IPFS network, so that it is asked for blocks first."""
        ...
