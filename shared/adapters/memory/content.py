"""Content stores of many nodes in one process, with the real walk and the real race between sources.

The hub is the network: it can withhold, delay and forge what one node serves to the others. Time is asyncio's, so a
simulation may jump it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO, Self

from shared.adapters.content.store import NodeContentStore
from shared.content.cid import Block, parse_cid, verify_block
from shared.content.sweep import Marks, mark
from shared.content.unixfs import Profile, build_file, is_complete
from shared.errors import CodecError, ContentCorrupt, SourceFailed
from shared.interfaces import Meter, Pin, Source, Swept, Wanted
from shared.reasons import SourceFault
from shared.types import Address, Cid, Ref, SourceKind


class ContentHub:
    """What nodes hold, by owner; it survives a node's restart as a disk does."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        """`now` is unix time: what was to be kept until then may go."""
        self.now = now
        self.blocks: dict[Address, dict[Cid, Block]] = {}
        self.pins: dict[Address, dict[Cid, Pin]] = {}
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
            raise SourceFailed("does not have it", SourceFault.NOT_FOUND)
        return block.data


class _HubSource:
    """One owner's gateway, as another node sees it."""

    def __init__(self, hub: ContentHub, owner: Address, kind: SourceKind) -> None:
        self._hub, self._owner, self._kind = hub, owner, kind

    @property
    def name(self) -> str:
        return f"0x{self._owner.hex()}"

    @property
    def kind(self) -> SourceKind:
        return self._kind

    async def fetch(self, wanted: Wanted, meter: Meter) -> Block:
        data = await self._hub.serve(self._owner, wanted.cid)
        meter.received_bytes += len(data)
        try:
            return verify_block(wanted.cid, data)
        except CodecError as error:
            raise SourceFailed(f"wrong bytes: {error}", SourceFault.WRONG_BYTES) from error


class _HubBlocks:
    """One owner's own blocks, as a `LocalStore`. Nothing is remembered of what was fetched in part, and it is never
    full."""

    def __init__(self, hub: ContentHub, own: Address) -> None:
        self._blocks, self._pins, self._now = hub.blocks[own], hub.pins[own], hub.now
        self._held: Counter[Cid] = Counter()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def read(self, cid: Cid) -> Block | None:
        return self._blocks.get(cid)

    async def write(self, block: Block) -> None:
        self._blocks[block.cid] = block

    async def build(self, open_stream: Callable[[], BinaryIO], profile: Profile, keep_until: float) -> Ref:
        with open_stream() as stream:
            root, size = build_file(stream, lambda block: self._blocks.update({block.cid: block}), profile)
        await self.keep(root, size, keep_until)
        return Ref(root, size, profile.name)

    @contextmanager
    def hold(self, root: Cid) -> Iterator[None]:
        self._held[root] += 1
        try:
            yield
        finally:
            self._held[root] -= 1

    async def begin(self, root: Cid) -> None:
        pass

    async def keep(self, root: Cid, size: int, keep_until: float) -> None:
        known = self._pins.pop(root, None)  # the last is the one used last, even where a clock stands still
        kept = keep_until if known is None else max(known.keep_until, keep_until)
        self._pins[root] = Pin(root, size, kept, self._now())

    async def is_complete(self, root: Cid) -> bool:
        try:
            return is_complete(root, self._blocks.get, self._size_of)
        except (CodecError, ContentCorrupt):
            return False

    def _size_of(self, cid: Cid) -> int | None:
        block = self._blocks.get(cid)
        return None if block is None else len(block.data)

    async def pins(self) -> Sequence[Pin]:
        return list(self._pins.values())

    async def unpin(self, root: Cid) -> None:
        self._pins.pop(root, None)

    async def collect(self, max_bytes: int) -> Swept:
        marks = Marks(self._blocks.get, self._size_of)
        for root in +self._held:
            marks.keep(root)
        for pin in mark(marks, self._pins.values(), now=self._now(), max_bytes=max_bytes):
            del self._pins[pin.cid]
        gone = [block for block in self._blocks.values() if parse_cid(block.cid)[1] not in marks.digests]
        for block in gone:
            del self._blocks[block.cid]
        return Swept(len(gone), sum(len(block.data) for block in gone))


class MemoryContentStore(NodeContentStore):
    """A `ContentStore` on a hub. Needs no opening; a node that goes away just drops it."""

    def __init__(self, hub: ContentHub, own: Address) -> None:
        self._hub, self._own = hub, own
        super().__init__(_HubBlocks(hub, own), self._sources)

    def _sources(self, prefer: Address | None, ref: Ref | None) -> list[Source]:
        """As `OperatorSources`."""
        rest = [owner for owner in self._hub.blocks if owner not in (self._own, prefer)]
        random.shuffle(rest)
        first = [] if prefer is None or prefer == self._own or prefer not in self._hub.blocks else [prefer]
        return [
            _HubSource(self._hub, owner, SourceKind.PERFORMER if owner == prefer else SourceKind.OPERATOR)
            for owner in (*first, *rest)
        ]
