"""A file's blocks as a CAR: what gateways serve, and what other nodes import."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable

from shared.content.car import car_header, car_section
from shared.content.cid import Block
from shared.content.selection import Selection
from shared.types import Cid


async def archive(
    root: Cid, read: Callable[[Cid], Awaitable[Block]], selection: Selection | None = None
) -> AsyncGenerator[bytes, None]:
    """Depth first (order=dfs); without a `selection` the whole file, each block once (dups=n). The header comes with
    the first block, or not at all.

    Raises what `read` raises, and `ContentCorrupt` or `ContentTooLarge` for a DAG that is no file of ours, after its
    last block that was in order.
    """
    selection = selection or Selection(root)
    header = car_header(root)
    while (cid := selection.next()) is not None:
        block = await read(cid)
        if selection.is_new:
            yield header + car_section(block)
            header = b""
        selection.feed(block)
