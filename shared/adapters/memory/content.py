"""Content stores of many nodes in one process, with the real walk and the real race between sources.

The hub is the network: it can withhold, delay and forge what one node serves to the others. Time is asyncio's, so a
simulation may jump it.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator

from shared.adapters.content.race import Meter, Source, SourceFailed
from shared.adapters.content.read import ContentReader
from shared.content.cid import Block, verify_block
from shared.content.unixfs import build_file, is_complete
from shared.errors import CodecError, ContentCorrupt
from shared.types import Address, Cid


class ContentHub:
    """What nodes hold, by owner; it survives a node's restart as a disk does."""

    def __init__(self) -> None:
        self.blocks: dict[Address, dict[Cid, Block]] = {}
        self.pins: dict[Address, dict[Cid, int]] = {}
        self._withheld: set[tuple[Address, Cid]] = set()
        self._forged: dict[tuple[Address, Cid], bytes] = {}
        self._delays: dict[Address, float] = {}

    def join(self, own: Address) -> MemoryContentStore:
        """The owner's store; the same blocks again after a restart."""
        self.blocks.setdefault(own, {})
        self.pins.setdefault(own, {})
        return MemoryContentStore(self, own)

    def withhold(self, owner: Address, cid: Cid) -> None:
        """`owner` serves this block, a file's root as a rule, to nobody; its own reads still find it."""
        self._withheld.add((owner, cid))

    def release(self, owner: Address, cid: Cid) -> None:
        self._withheld.discard((owner, cid))

    def forge(self, owner: Address, cid: Cid, data: bytes) -> None:
        """`owner` answers with these bytes instead."""
        self._forged[owner, cid] = data

    def delay(self, owner: Address, seconds: float) -> None:
        """Everything that `owner` serves takes this long; `math.inf` never comes."""
        self._delays[owner] = seconds

    async def serve(self, owner: Address, cid: Cid) -> bytes:
        """What `owner`'s gateway answers. Raises `SourceFailed`."""
        seconds = self._delays.get(owner, 0.0)
        if seconds == float("inf"):
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(seconds)
        if (forged := self._forged.get((owner, cid))) is not None:
            return forged
        block = self.blocks[owner].get(cid)
        if block is None or (owner, cid) in self._withheld:
            raise SourceFailed("does not have it")
        return block.data


class _HubSource:
    """One owner's gateway, as another node sees it."""

    def __init__(self, hub: ContentHub, owner: Address) -> None:
        self._hub, self._owner = hub, owner

    @property
    def name(self) -> str:
        return f"0x{self._owner.hex()}"

    async def fetch(self, cid: Cid, meter: Meter) -> Block:
        data = await self._hub.serve(self._owner, cid)
        meter.received_bytes += len(data)
        try:
            return verify_block(cid, data)
        except CodecError as error:
            raise SourceFailed(f"wrong bytes: {error}") from error


class _HubBlocks:
    """One owner's own blocks, as its reader's `LocalBlocks`."""

    def __init__(self, hub: ContentHub, own: Address) -> None:
        self._blocks, self._pins = hub.blocks[own], hub.pins[own]

    async def read(self, cid: Cid) -> Block | None:
        return self._blocks.get(cid)

    async def write(self, block: Block) -> None:
        self._blocks[block.cid] = block

    async def pin(self, root: Cid, size_bytes: int) -> None:
        self._pins.setdefault(root, size_bytes)


class MemoryContentStore:
    """A `ContentStore` on a hub. Needs no opening; a node that goes away just drops it."""

    def __init__(self, hub: ContentHub, own: Address) -> None:
        self._hub, self._own = hub, own
        self._reader = ContentReader(_HubBlocks(hub, own), self._sources)

    async def add(self, data: bytes) -> Cid:
        blocks = self._hub.blocks[self._own]
        root, size_bytes = build_file(io.BytesIO(data), lambda block: blocks.update({block.cid: block}))
        self._hub.pins[self._own].setdefault(root, size_bytes)
        return root

    async def get(self, cid: Cid, *, max_bytes: int, timeout_seconds: float, prefer: Address | None = None) -> bytes:
        return await self._reader.get(cid, max_bytes=max_bytes, timeout_seconds=timeout_seconds, prefer=prefer)

    def open(
        self, cid: Cid, *, max_bytes: int, timeout_seconds: float, prefer: Address | None = None
    ) -> AsyncGenerator[bytes, None]:
        """As `EmbeddedContentStore.open`."""
        return self._reader.stream(cid, max_bytes=max_bytes, timeout_seconds=timeout_seconds, prefer=prefer)

    async def has(self, cid: Cid) -> bool:
        blocks = self._hub.blocks[self._own]
        try:
            return is_complete(cid, blocks.get, lambda leaf: len(blocks[leaf].data) if leaf in blocks else None)
        except (CodecError, ContentCorrupt):
            return False

    async def unpin(self, cid: Cid) -> None:
        self._hub.pins[self._own].pop(cid, None)

    def _sources(self) -> dict[Address, Source]:
        return {owner: _HubSource(self._hub, owner) for owner in self._hub.blocks if owner != self._own}
