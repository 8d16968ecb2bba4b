"""What a garbage collection leaves: every file that has to stay, and of the others what there is room for.

A mark is a SHA-256: blocks on disk are told apart by their hash alone, whatever codec a CID gives them.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

from shared.content.cid import Block, Codec, parse_cid
from shared.content.unixfs import read_node
from shared.errors import CodecError, ContentCorrupt
from shared.types import Cid


class Root(Protocol):
    """A file, whole or in part, and until when (unix seconds) it has to stay."""

    @property
    def cid(self) -> Cid: ...

    @property
    def keep_until(self) -> float: ...

    @property
    def used_at(self) -> float: ...


R = TypeVar("R", bound=Root)


class Marks:
    """The blocks that stay, `bytes` in all. Files are marked as far as they are here, and damage hides what is below.

    Every block is looked at once in a collection, and what is not here costs its link alone, so that no DAG of a
    stranger makes it longer than the disk is full.
    """

    def __init__(self, read: Callable[[Cid], Block | None], size_of: Callable[[Cid], int | None]) -> None:
        """`read` raises `CodecError` for what is damaged, and `OSError`: EIO is damage too, another ends all."""
        self._read, self._size_of = read, size_of
        self._nodes: set[Cid] = set()  # apart: the same bytes may have been marked as a leaf before
        self.digests: set[bytes] = set()
        self.bytes = 0

    def keep(self, root: Cid) -> None:
        self._take(*self._new(root, None))

    def keep_if_it_fits(self, root: Cid, max_bytes: int) -> bool:
        """Whether `max_bytes` hold it beside all that is marked; what they share counts once."""
        sizes, nodes = self._new(root, max_bytes - self.bytes)
        if sum(sizes.values()) > max_bytes - self.bytes:
            return False
        self._take(sizes, nodes)
        return True

    def _take(self, sizes: dict[bytes, int], nodes: set[Cid]) -> None:
        self.digests.update(sizes)
        self._nodes |= nodes
        self.bytes += sum(sizes.values())

    def _new(self, root: Cid, room: int | None) -> tuple[dict[bytes, int], set[Cid]]:
        """(size of each block of the file that is here and not yet marked, the nodes among them); cut beyond `room`."""
        sizes: dict[bytes, int] = {}
        nodes: set[Cid] = set()
        todo, total = [root], 0
        while todo and (room is None or total <= room):
            cid = todo.pop()
            try:
                codec, digest = parse_cid(cid)
            except CodecError:  # no file of ours
                continue
            if digest not in self.digests and digest not in sizes and (size := self._size_of(cid)) is not None:
                sizes[digest] = size
                total += size
            is_here = digest in sizes or digest in self.digests
            if codec is Codec.DAG_PB and is_here and cid not in self._nodes and cid not in nodes:
                nodes.add(cid)
                todo += self._children(cid)
        return sizes, nodes

    def _children(self, cid: Cid) -> list[Cid]:
        try:
            block = self._read(cid)
            return [] if block is None else [child for child, _ in read_node(block).children]
        except (CodecError, ContentCorrupt):  # no read gets further either
            return []
        except OSError as error:
            # Not for good, as when strangers hold every file descriptor: what is below is there, and must not go.
            if error.errno != errno.EIO:
                raise
            return []


def mark(marks: Marks, roots: Iterable[R], *, now: float, max_bytes: int) -> Sequence[R]:
    """Marks what has to stay, then the rest, most recently used first, while `max_bytes` hold it all.

    What does not fit is returned: the first that does not, and all that were used before it.
    """
    cached: list[R] = []
    for root in roots:
        if root.keep_until > now:
            marks.keep(root.cid)
        else:
            cached.append(root)
    cached.reverse()  # of two used at the same time, the one that comes later
    cached.sort(key=lambda root: root.used_at, reverse=True)
    for index, root in enumerate(cached):
        if not marks.keep_if_it_fits(root.cid, max_bytes):
            return cached[index:]
    return []
