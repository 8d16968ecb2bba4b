"""What a content store keeps its blocks in: the embedded one, or a Kubo node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import BinaryIO, Protocol, Self

from shared.content.cid import Block
from shared.content.unixfs import Profile
from shared.interfaces import Pin, Swept
from shared.types import Cid, Ref


class LocalBlocks(Protocol):
    """Blocks of this node, for a reader. Raises `SourceFailed` when the disk does not play along."""

    async def read(self, cid: Cid) -> Block | None: ...

    async def write(self, block: Block) -> None:
        """Whole or not at all. Not durable: others served it and can again, and reading checks its hash."""
        ...

    def hold(self, root: Cid) -> AbstractContextManager[None]:
        """A file is being read, fetched or looked over: while this lasts, no collection takes a block of it away."""
        ...

    async def begin(self, root: Cid) -> None:
        """A file is being fetched: what comes of it stays for a later try, should this one end early, while there is
        room."""
        ...

    async def keep(self, root: Cid, size: int, keep_until: float) -> None:
        """The file is all here. Never shortens what was promised before."""
        ...


class LocalStore(LocalBlocks, Protocol):
    """All that `NodeContentStore` needs. What is not of `LocalBlocks` raises `ContentError`."""

    async def __aenter__(self) -> Self:
        """Raises `StoreBusy` when another process has it, `StoreError` when it cannot be used."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def build(self, open_stream: Callable[[], BinaryIO], profile: Profile, keep_until: float) -> Ref:
        """The stream's bytes as a file, one chunk at a time; durable and kept before it returns. Abandoned when
        cancelled."""
        ...

    async def is_complete(self, root: Cid) -> bool: ...

    async def pins(self) -> Sequence[Pin]: ...

    async def unpin(self, root: Cid) -> None: ...

    async def collect(self, max_bytes: int) -> Swept:
        """See `ContentKeeper.collect`."""
        ...
