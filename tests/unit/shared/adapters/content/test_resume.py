"""A fetch that `kill -9` cut short goes on where it was, in the next process: counted at the gateway that serves it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from shared.adapters.content.read import BLOCKS_AHEAD
from shared.adapters.content.store import EmbeddedContentStore
from shared.constants import CHUNK_BYTES
from tests.content_support import LIMIT_SECONDS, LOOPBACK, OPERATORS, Blocks, content_of, serving, until

A, B, _ = OPERATORS
CHUNKS, SERVED_FIRST = 12, 7
FETCH = """
import asyncio, sys
from pathlib import Path
from shared.adapters.content.sources import answers
from shared.adapters.content.store import EmbeddedContentStore

answers.ATTEMPT_SECONDS = 600.0  # a disk that others keep busy must not end it before it is killed

async def main(root, url, owner, cid):
    store = EmbeddedContentStore(
        root=Path(root), gateways=lambda: {bytes.fromhex(owner): url}, own=None, private_networks=["127.0.0.0/8"]
    )
    async with store:
        async for _ in store.open(cid, max_bytes=1 << 30, timeout_seconds=600.0):
            pass

asyncio.run(main(*sys.argv[1:]))
"""


async def test_only_what_is_missing_is_fetched_again_after_kill_9(tmp_path: Path) -> None:
    asked: Counter[str] = Counter()
    stalls_after: float = SERVED_FIRST + 1  # the root, and so many chunks

    @web.middleware
    async def count(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if asked.total() >= stalls_after:
            waiting.add(request.match_info["cid"])
            await asyncio.get_running_loop().create_future()
        asked[request.match_info["cid"]] += 1
        return await handler(request)

    waiting: set[str] = set()
    content = content_of(CHUNKS * CHUNK_BYTES)
    blocks = Blocks()
    root = blocks.file(content)
    async with EmbeddedContentStore(root=tmp_path / "a", gateways=dict, own=A) as store:
        await store.add(content)
        async with serving(store.routes(), [count]) as url:
            arguments = ("-c", FETCH, str(tmp_path / "b"), url, A.hex(), root)
            node = await asyncio.create_subprocess_exec(sys.executable, *arguments)
            try:
                await until(lambda: len(waiting) == BLOCKS_AHEAD, "the window is full of what does not come")
            finally:
                if node.returncode is None:
                    os.kill(node.pid, signal.SIGKILL)
                await node.wait()
            first, stalls_after = Counter(asked), float("inf")
            gateways = {A: url}
            async with EmbeddedContentStore(
                root=tmp_path / "b", gateways=lambda: gateways, own=B, private_networks=LOOPBACK
            ) as again:
                assert await again.get(root, max_bytes=1 << 30, timeout_seconds=LIMIT_SECONDS) == content
    assert first.total() == SERVED_FIRST + 1
    assert asked == Counter(dict.fromkeys(blocks, 1))
