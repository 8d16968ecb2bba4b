"""Which blocks of a file an archive has: all, the root alone, or those that some of its bytes need (IPIP-402)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from shared.constants import MAX_DAG_DEPTH, MAX_MODEL_BYTES
from shared.content.cid import Block
from shared.content.unixfs import FREE_NODES, MIN_BYTES_PER_NODE, FileNode, read_node
from shared.errors import CodecError, ContentCorrupt, ContentTooLarge
from shared.types import Cid

_ENTITY_BYTES = re.compile(r"(-?[0-9]{1,18}):(-?[0-9]{1,18}|\*)")  # 18 digits are an exabyte, and cheap to read


class DagScope(StrEnum):
    """`dag-scope`: for a file, which is the only thing there is here, its entity is all of it."""

    BLOCK = "block"
    ENTITY = "entity"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class EntityBytes:
    """`entity-bytes`: the first and the last byte. Negative ones count from the end; a last of None is the end."""

    first: int
    last: int | None

    def within(self, size: int) -> range:
        """The offsets meant in a file of `size` bytes; none when all of them lie beyond it."""
        first = self.first if self.first >= 0 else max(0, size + self.first)
        end = size if self.last is None else self.last + 1 + (size if self.last < 0 else 0)
        return range(first, max(first, min(end, size)))

    def __str__(self) -> str:
        return f"{self.first}:{'*' if self.last is None else self.last}"


EVERY_BYTE = EntityBytes(0, None)


def parse_entity_bytes(text: str) -> EntityBytes:
    """Raises `CodecError` for what is no `FROM:TO`, or ends before it begins whatever the size."""
    match = _ENTITY_BYTES.fullmatch(text)
    if match is None:
        raise CodecError("entity-bytes: expected FROM:TO, whole numbers of at most 18 digits; TO may be *")
    first, last = int(match[1]), None if match[2] == "*" else int(match[2])
    if last is not None and (first < 0) == (last < 0) and last < first:
        raise CodecError("entity-bytes: TO lies before FROM")
    return EntityBytes(first, last)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a block stands in the file; `size` is what its parent says, None for the root."""

    cid: Cid
    size: int | None
    offset: int
    depth: int


class Selection:
    """The blocks of an archive, depth first: those that cover the bytes, and the nodes on the way to them.

    The caller reads the block of `next`, sends it if `is_new`, and gives it to `feed`. The same checks as a `Walk`'s
    are made on the way, so that no DAG is an endless archive.
    """

    def __init__(
        self,
        root: Cid,
        *,
        scope: DagScope = DagScope.ALL,
        span: EntityBytes = EVERY_BYTE,
        is_repeating: bool = False,
        min_bytes_per_node: int = MIN_BYTES_PER_NODE,
    ) -> None:
        """`is_repeating`: a block that the file has twice is sent twice (dups=y)."""
        self._scope, self._span, self._is_repeating = scope, span, is_repeating
        self._min_bytes_per_node = min_bytes_per_node
        self._todo = [_Place(root, None, 0, 0)]  # next one last
        self._wanted = range(0)
        self._nodes_left = FREE_NODES
        # A node on the edge of the range is sent once, but entered again where more of it is needed.
        self._entered: set[Cid] = set()
        self._whole: set[Cid] = set()  # sent with all below

    @property
    def held(self) -> int:
        """How many CIDs it remembers."""
        return len(self._todo) + len(self._entered) + len(self._whole)

    def next(self) -> Cid | None:
        """None at the end."""
        while self._todo and self._todo[-1].cid in self._whole:
            self._todo.pop()
        return self._todo[-1].cid if self._todo else None

    @property
    def is_new(self) -> bool:
        """Whether the block of `next` is yet to be sent."""
        return self._todo[-1].cid not in self._entered

    def feed(self, block: Block) -> None:
        """Raises `ContentCorrupt` and `ContentTooLarge` for what no `Walk` would read."""
        place = self._todo.pop()
        if block.cid != place.cid:
            raise ValueError(f"fed {block.cid}, but the archive is at {place.cid}")
        if self._scope is DagScope.BLOCK:
            return
        node = read_node(block)
        self._check(node, place)
        is_edge = place.offset < self._wanted.start or place.offset + node.size > self._wanted.stop
        if not self._is_repeating:
            (self._entered if is_edge and node.children else self._whole).add(place.cid)
        self._todo.extend(reversed(self._covering(node, place)))

    def _check(self, node: FileNode, place: _Place) -> None:
        if place.size is None:
            if node.size > MAX_MODEL_BYTES:
                raise ContentTooLarge(f"content {place.cid} has {node.size} bytes, over {MAX_MODEL_BYTES}")
            self._wanted = self._span.within(node.size)
            self._nodes_left += node.size // self._min_bytes_per_node
        elif node.size != place.size:
            raise ContentCorrupt(f"block {place.cid} has {node.size} bytes, its parent says {place.size}")
        self._nodes_left -= 1
        if self._nodes_left < 0:
            raise ContentCorrupt(f"block {place.cid}: too many nodes for the file's size")
        if node.children and place.depth == MAX_DAG_DEPTH:
            raise ContentCorrupt(f"block {place.cid}: deeper than {MAX_DAG_DEPTH}")

    def _covering(self, node: FileNode, place: _Place) -> list[_Place]:
        """The node's children that have wanted bytes, in order."""
        found = []
        offset = place.offset + len(node.content)
        for cid, size in node.children:
            if offset < self._wanted.stop and offset + size > self._wanted.start and self._wanted:
                found.append(_Place(cid, size, offset, place.depth + 1))
            offset += size
        return found
