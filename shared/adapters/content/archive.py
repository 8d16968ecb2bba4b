"""A file's blocks as a CAR: what gateways serve, and what other nodes import."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable

from shared.content.car import car_header, car_section
from shared.content.cid import Block
from shared.content.unixfs import read_node
from shared.types import Cid


async def archive(root: Cid, read: Callable[[Cid], Awaitable[Block]]) -> AsyncGenerator[bytes, None]:
    """Depth first, each block once (order=dfs, dups=n); the header comes with the first block, or not at all.

    Raises what `read` raises, and `ContentCorrupt` for a node that is no part of a file.
    """
    todo, seen, header = [root], {root}, car_header(root)
    while todo:
        block = await read(todo.pop())
        yield header + car_section(block)
        header = b""
        children = dict.fromkeys(cid for cid, _ in read_node(block).children if cid not in seen)
        todo.extend(reversed(children))
        seen.update(children)
