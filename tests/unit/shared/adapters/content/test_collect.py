"""Garbage collection and the bound of the embedded store: what has to stay stays, whatever happens at the same time."""

from __future__ import annotations

import asyncio
import errno
import gc
import io
import os
import random
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.adapters.content import blocks as content_blocks
from shared.adapters.content import collector as content_collector
from shared.adapters.content.blocks import BlockFiles
from shared.adapters.content.embedded import EmbeddedBlocks
from shared.adapters.content.pins import Pins
from shared.adapters.content.store import NodeContentStore
from shared.content.cid import Block, parse_cid
from shared.errors import ContentError, ContentUnavailable, SourceFailed, StoreFull
from shared.interfaces import Meter, Pin, Source, Swept, Wanted
from shared.reasons import SourceFault
from shared.types import FOREVER, Cid, SourceKind
from tests.content_support import LIMIT_SECONDS, SMALL, Blocks, content_of, until

ROOT = Path(__file__).parents[5]
NOW = 1_000_000.0


class Peer:
    """A source with these blocks; `stall_at` is the first that it does not give until `go_on` is set."""

    name, kind = "peer", SourceKind.OPERATOR

    def __init__(self) -> None:
        self.blocks = Blocks()
        self.stall_at: Cid | None = None
        self.is_stalling, self.go_on = asyncio.Event(), asyncio.Event()

    async def fetch(self, wanted: Wanted, meter: Meter) -> Block:
        if wanted.cid == self.stall_at:
            self.is_stalling.set()
            await self.go_on.wait()
        if wanted.cid not in self.blocks:
            raise SourceFailed("does not have it", SourceFault.NOT_FOUND)
        meter.received_bytes += len(self.blocks[wanted.cid].data)
        return self.blocks[wanted.cid]


class Shop:
    """An embedded store with a clock of its own, and one peer to fetch from."""

    def __init__(self, root: Path, max_bytes: int | None) -> None:
        self.root, self.now, self.peer = root, NOW, Peer()
        self.local = EmbeddedBlocks(root, max_bytes, now=lambda: self.now)
        sources: list[Source] = [self.peer]
        self.store = NodeContentStore(self.local, lambda prefer, ref: sources)

    async def add(self, content: bytes, keep_until: float = FOREVER) -> Cid:
        return (await self.store.add(content, profile=SMALL, keep_until=keep_until)).cid

    async def get(self, cid: Cid, keep_until: float = 0.0) -> bytes:
        self.now += 1
        return await self.store.get(cid, max_bytes=1 << 30, timeout_seconds=LIMIT_SECONDS, keep_until=keep_until)

    async def fetch(self, content: bytes, keep_until: float = 0.0) -> Cid:
        cid = self.peer.blocks.file(content, SMALL)
        assert await self.get(cid, keep_until) == content
        return cid

    async def has(self, *cids: Cid) -> list[bool]:
        return [await self.store.has(cid) for cid in cids]

    async def roots(self) -> set[Cid]:
        return {pin.cid for pin in await self.store.pins()}

    def on_disk(self) -> dict[bytes, int]:
        return {digest: len(path.read_bytes()) for path, digest in self._files()}

    def _files(self) -> Iterator[tuple[Path, bytes]]:
        for path in (self.root / "blocks").rglob("*.data"):
            digest = content_blocks._digest_of(path.name)
            assert digest is not None
            yield path, digest


@asynccontextmanager
async def shop_at(root: Path, max_bytes: int | None = None) -> AsyncIterator[Shop]:
    shop = Shop(root, max_bytes)
    async with shop.store:
        yield shop


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    async with shop_at(tmp_path) as shop:
        yield shop


def blocks_of(content: bytes) -> dict[bytes, int]:
    blocks = Blocks()
    blocks.file(content, SMALL)
    return {parse_cid(cid)[1]: len(block.data) for cid, block in blocks.items()}


@pytest.fixture
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content_collector, "_REST", 0.0)


class Gate:
    """Stands in a worker thread: whoever passes waits until it opens."""

    def __init__(self) -> None:
        self.is_reached, self._is_open = threading.Event(), threading.Event()

    def pass_through(self) -> None:
        self.is_reached.set()
        assert self._is_open.wait(LIMIT_SECONDS)

    async def reached(self) -> None:
        await until(self.is_reached.is_set, "the thread is at the gate")

    def open(self) -> None:
        self._is_open.set()


@pytest.fixture
def before_sweep(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Between marking and deleting."""
    gate, real = Gate(), BlockFiles.digests

    def digests(files: BlockFiles) -> Iterator[bytes]:
        gate.pass_through()
        return real(files)

    monkeypatch.setattr(BlockFiles, "digests", digests)
    yield gate
    gate.open()


# --- what goes -----------------------------------------------------------------------------------
async def test_what_no_pin_names_goes_and_is_counted(shop):
    kept, gone = await shop.add(content_of(100)), await shop.add(content_of(300))
    await shop.store.unpin(gone)
    lost = blocks_of(content_of(300)).keys() - blocks_of(content_of(100)).keys()
    expected = Swept(len(lost), sum(blocks_of(content_of(300))[digest] for digest in lost))
    assert await shop.store.collect() == expected
    assert shop.on_disk() == blocks_of(content_of(100))
    assert shop.local.files.held_bytes == sum(blocks_of(content_of(100)).values())
    assert await shop.get(kept) == content_of(100)
    assert await shop.store.collect() == Swept(0, 0)


async def test_what_was_used_least_recently_goes_first_and_leaves_the_pins(shop):
    cids = [await shop.fetch(bytes([number]) * 16) for number in range(4)]
    await shop.get(cids[0])
    await shop.store.collect(48)
    assert await shop.has(*cids) == [True, False, True, True]
    assert await shop.roots() == {cids[0], cids[2], cids[3]}
    await shop.store.collect(0)
    assert await shop.roots() == set()
    assert shop.on_disk() == {}


async def test_what_has_to_be_kept_stays_until_its_time_and_is_cache_after_it(shop):
    cid = await shop.fetch(content_of(100), keep_until=NOW + 100)
    await shop.fetch(content_of(100), keep_until=0.0)  # never shortens
    shop.now = NOW + 99
    await shop.store.collect(0)
    assert await shop.has(cid) == [True]
    shop.now = NOW + 100
    await shop.store.collect(1000)
    assert await shop.has(cid) == [True]
    await shop.store.collect(0)
    assert await shop.roots() == set()
    assert shop.on_disk() == {}


async def test_what_is_left_of_a_fetch_is_cache(shop):
    cid = shop.peer.blocks.file(content_of(200), SMALL)
    last = list(shop.peer.blocks)[-2]
    del shop.peer.blocks[last]
    with pytest.raises(ContentUnavailable):
        await shop.get(cid)
    assert [(pin.cid, pin.size) for pin in await shop.store.pins()] == [(cid, None)]
    before = shop.on_disk()
    assert before
    assert await shop.store.collect(1000) == Swept(0, 0)
    assert await shop.store.collect(0) == Swept(len(before), sum(before.values()))
    assert await shop.roots() == set()


async def test_damage_stops_no_collection(shop):
    damaged, whole = await shop.add(content_of(100)), await shop.add(bytes(100))
    gone = await shop.fetch(b"gone")
    shop.local.files._path(damaged).write_bytes(b"damaged")
    await shop.store.collect()
    assert await shop.has(damaged, whole, gone) == [False, True, False]
    assert shop.local.files._path(damaged).exists()  # for whoever wants to look, until it is fetched again


async def test_without_file_descriptors_nothing_is_lost(shop, monkeypatch):
    """Strangers may hold them all for a moment; then no node says what is below it."""
    kept, cached = await shop.add(content_of(100)), await shop.fetch(bytes(100))

    def read_bytes(path: Path) -> bytes:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", read_bytes)
        with pytest.raises(ContentError, match="collect garbage: Too many open files"):
            await shop.store.collect()
    assert await shop.has(kept, cached) == [True, True]


async def test_files_that_are_none_of_ours_are_let_be(shop):
    await shop.fetch(b"gone")
    strangers = [
        shop.root / "blocks" / name for name in ("SHARDING", "_README", "XY/x.data", "XY/" + "A" * 55 + ".data")
    ]
    (shop.root / "blocks" / "XY").mkdir()
    for path in strangers:
        path.write_text("of Kubo, or of somebody")
    assert await shop.store.collect() == Swept(1, 4)
    assert all(path.exists() for path in strangers)


async def test_on_a_full_disk_what_no_pin_names_goes_nevertheless(shop, monkeypatch):
    cached, garbage = await shop.fetch(b"cached"), await shop.add(b"garbage")
    await shop.store.unpin(garbage)

    async def full(pins: Pins, gone: list[Pin]) -> None:
        assert [pin.cid for pin in gone] == [cached]
        raise StoreFull("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Pins, "drop", full)
        assert await shop.store.collect(0) == Swept(1, 7)
    assert await shop.roots() == {cached}
    assert await shop.has(cached, garbage) == [True, False]


# --- the bound -----------------------------------------------------------------------------------
async def test_a_write_that_needs_room_takes_it_from_the_cache(tmp_path):
    async with shop_at(tmp_path, 1000) as shop:
        kept = await shop.add(b"k" * 16)
        for number in range(70):
            await shop.fetch(bytes([number]) * 16)
            assert shop.local.files.held_bytes <= 1000
        large = (await shop.store.add(bytes(900))).cid  # for which nearly all has to go
        assert shop.local.files.held_bytes <= 1000
        assert await shop.has(kept, large) == [True, True]


async def test_what_is_pinned_makes_no_room_and_the_error_says_so(tmp_path):
    async with shop_at(tmp_path, 1000) as shop:
        kept = (await shop.store.add(bytes(600))).cid
        cached = await shop.fetch(b"cached")
        for _ in range(2):
            with pytest.raises(
                ContentError,
                match=r"^store content: content would take over 1000 bytes; raise content\.max_bytes or unpin",
            ):
                await shop.store.add(b"x" * 401)
            assert await shop.has(kept, cached) == [True, False]
        with pytest.raises(ContentUnavailable) as failed:
            await shop.get(shop.peer.blocks.leaf(b"y" * 401))
        assert failed.value.causes["local store"].startswith("content would take over 1000 bytes")
        await shop.store.unpin(kept)
        assert await shop.has((await shop.store.add(b"x" * 401)).cid) == [True]


async def test_a_pipe_that_needed_room_is_refused_and_never_cut_short(tmp_path):
    """Begun anew it would give the rest of its bytes alone, under a CID of their own."""

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    pipe = Pipe(content_of(700))
    async with shop_at(tmp_path, 4000) as shop:
        for number in range(200):
            await shop.fetch(number.to_bytes(2, "big") * 8)
        with pytest.raises(ContentError, match=r"^store content: content would take over 4000 bytes"):
            await shop.local.build(lambda: pipe, SMALL, FOREVER)
        assert not any(pin.keep_until for pin in await shop.store.pins())


async def test_an_add_that_fails_leaves_nothing_that_outlives_the_next_collection(tmp_path):
    async with shop_at(tmp_path, 4000) as shop:
        kept = await shop.add(content_of(400))
        before = shop.on_disk()
        with pytest.raises(ContentError, match="would take over 4000 bytes"):
            await shop.add(content_of(1900))
        assert shop.local.files.held_bytes <= 4000
        await shop.store.collect(4000)
        assert shop.on_disk() == before
        assert await shop.roots() == {kept}
        assert not list((tmp_path / "tmp").iterdir())


async def test_a_collection_begins_before_the_store_is_full(tmp_path):
    async with shop_at(tmp_path, 1000) as shop:
        first = await shop.fetch(b"\xff" * 16)
        for number in range(1, 57):
            await shop.fetch(bytes([number]) * 16)
        await until(lambda: shop.local.files.held_bytes <= 800, "it collects by itself")
        await shop.store.collect(1000)  # the one in the background is over
        assert await shop.has(first) == [False]
        assert shop.local.files.held_bytes == 800


@pytest.fixture
def collections(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What each collection was to come down to."""
    targets: list[int] = []
    real = content_collector.Collector._collect

    async def collect(collector: content_collector.Collector, max_bytes: int) -> Swept:
        targets.append(max_bytes)
        return await real(collector, max_bytes)

    monkeypatch.setattr(content_collector.Collector, "_collect", collect)
    return targets


async def test_a_store_full_of_pins_is_not_searched_for_every_write(tmp_path, collections, monkeypatch):
    monkeypatch.setattr(content_collector, "_REST", 1e6)
    async with shop_at(tmp_path, 10_000) as shop:
        await shop.store.add(bytes(9990))
        await until(lambda: shop.local._collector._under_way() is None, "the one in the background is over")
        for _ in range(20):
            with pytest.raises(ContentUnavailable):
                await shop.fetch(b"x" * 16)
        await shop.store.collect(10_000)
    assert collections == [8000, 8000, 0, 10_000]  # in the background; for the first write, twice; and as asked


async def test_a_store_nearly_full_of_pins_is_searched_again_only_when_it_has_grown(tmp_path, collections):
    async with shop_at(tmp_path, 10_000) as shop:
        await shop.store.add(bytes(9200))
        for number in range(24):
            await until(lambda: shop.local._collector._under_way() is None, "the one in the background is over")
            await shop.fetch(bytes([number]) * 16)
        assert collections == [8000, 8000]  # for the first byte over nine tenths, and 200 bytes later
        assert shop.local.files.held_bytes == 9200 + 12 * 16  # the one that was being fetched, and 11 since


async def test_the_blocks_of_an_add_that_failed_go_at_once(tmp_path, monkeypatch):
    """Also where the last collection found nothing: they were still claimed then."""
    monkeypatch.setattr(content_collector, "_REST", 1e6)
    async with shop_at(tmp_path, 10_000) as shop:
        await shop.store.add(bytes(9200))
        with pytest.raises(ContentError, match="would take over 10000 bytes"):
            await shop.add(content_of(800))
        await until(lambda: shop.local.files.held_bytes == 9200, "they are gone")
        await shop.add(content_of(100))


async def test_a_store_over_a_lowered_bound_drops_its_cache_when_it_is_opened(tmp_path):
    async with shop_at(tmp_path) as shop:
        for number in range(100):
            await shop.fetch(bytes([number]) * 16)
    async with shop_at(tmp_path, 1000) as shop:
        await until(lambda: shop.local.files.held_bytes <= 800, "it collects by itself")


async def test_a_store_over_a_lowered_bound_reads_and_collects(tmp_path, no_rest):
    async with shop_at(tmp_path) as shop:
        kept = await shop.add(content_of(600))
        cached = [await shop.fetch(bytes([number]) * 16) for number in range(10)]
    async with shop_at(tmp_path, 500) as shop:
        assert await shop.get(kept) == content_of(600)
        await shop.store.collect(500)
        assert await shop.has(kept, *cached) == [True] + [False] * 10
        assert await shop.get(kept) == content_of(600)
        assert await shop.add(content_of(600)) == kept  # again, which takes nothing
        with pytest.raises(ContentError, match="over 500 bytes"):
            await shop.add(b"more")
        await shop.store.unpin(kept)
        assert await shop.has(await shop.add(b"more")) == [True]


async def test_many_that_need_room_at_once_share_a_collection_and_none_waits_for_ever(tmp_path, no_rest):
    async with shop_at(tmp_path, 15_000) as shop:
        for number in range(30):
            await shop.fetch(bytes([number, 255]) * 250)
        contents = [bytes([number]) * 500 for number in range(12)]
        cids = await asyncio.gather(*(shop.add(content) for content in contents))
        assert shop.local.files.held_bytes <= 15_000
        assert await shop.has(*cids) == [True] * 12


@pytest.mark.parametrize("nth", [1, 20, 40])
async def test_a_full_disk_leaves_nothing_that_outlives_the_next_collection(shop, monkeypatch, nth):
    kept = await shop.add(content_of(200))
    before, real, written = shop.on_disk(), content_blocks._write_file, 0

    def write(path: Path, data: bytes, *, is_durable: bool) -> None:
        nonlocal written
        written += 1
        real(path, data[: len(data) // 2] if written >= nth else data, is_durable=False)
        if written >= nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(content_blocks, "_write_file", write)
        with pytest.raises(ContentError, match=r"^store content: No space left on device$"):
            await shop.add(content_of(600))
    assert not list((shop.root / "tmp").iterdir())
    assert shop.local.files.held_bytes == sum(shop.on_disk().values())
    await shop.store.collect()
    assert shop.on_disk() == before
    assert await shop.roots() == {kept}
    assert await shop.get(await shop.add(content_of(600))) == content_of(600)


# --- at the same time ----------------------------------------------------------------------------
async def test_an_add_under_way_loses_nothing_to_a_collection(shop, monkeypatch):
    """One that began before the collection, and ends after it."""
    gate, real, written = Gate(), content_blocks._write_file, 0

    def write(path: Path, data: bytes, *, is_durable: bool) -> None:
        nonlocal written
        written += 1
        if written == 8:
            gate.pass_through()
        real(path, data, is_durable=is_durable)

    monkeypatch.setattr(content_blocks, "_write_file", write)
    adding = asyncio.create_task(shop.add(content_of(500)))
    await gate.reached()
    await until(lambda: len(shop.on_disk()) >= 7, "the others are there")
    assert await shop.store.collect(0) == Swept(0, 0)
    gate.open()
    assert await shop.get(await adding) == content_of(500)


async def test_an_add_that_ends_during_a_collection_loses_nothing(shop, before_sweep, monkeypatch):
    """It was pinned after the collection had read the pins, and its blocks are claimed no more when it sweeps."""
    gate, real = Gate(), content_blocks._write_file

    def write(path: Path, data: bytes, *, is_durable: bool) -> None:
        real(path, data, is_durable=is_durable)
        if len(data) != 16:  # the nodes come last
            gate.pass_through()

    monkeypatch.setattr(content_blocks, "_write_file", write)
    adding = asyncio.create_task(shop.add(content_of(200)))
    await gate.reached()
    collecting = asyncio.create_task(shop.store.collect(0))
    await before_sweep.reached()
    gate.open()
    cid = await adding
    before_sweep.open()
    assert await collecting == Swept(0, 0)
    assert await shop.get(cid) == content_of(200)


async def test_a_read_that_saw_the_beginning_of_a_cached_file_sees_its_end(shop):
    cid = await shop.fetch(content_of(300))
    shop.peer.blocks.clear()
    async with aclosing(shop.store.open(cid, max_bytes=300, timeout_seconds=LIMIT_SECONDS)) as stream:
        first = await anext(stream)
        await shop.store.collect(0)
        assert first + b"".join([chunk async for chunk in stream]) == content_of(300)
    assert await shop.roots() == {cid}
    assert await shop.has(cid) == [True]
    await shop.store.collect(0)
    assert shop.on_disk() == {}


async def test_a_read_that_begins_while_its_file_is_about_to_go_saves_what_is_left(shop, before_sweep):
    cid, other = await shop.fetch(content_of(300)), await shop.fetch(b"other")
    shop.peer.blocks.clear()
    collecting = asyncio.create_task(shop.store.collect(0))
    await before_sweep.reached()
    assert await shop.roots() == set()
    async with aclosing(shop.store.open(cid, max_bytes=300, timeout_seconds=LIMIT_SECONDS)) as stream:
        first = await anext(stream)
        before_sweep.open()
        assert await collecting == Swept(1, 5)
        assert await shop.has(other) == [False]
        assert first + b"".join([chunk async for chunk in stream]) == content_of(300)
    assert await shop.roots() == {cid}


@pytest.mark.parametrize("is_used_again", [True, False])
async def test_a_pin_that_stays_keeps_its_blocks(shop, monkeypatch, is_used_again):
    """Touched between marking and forgetting, when nobody holds the file; or noted only then."""
    content = content_of(300)
    cid = await shop.fetch(content)
    real = Pins.drop

    async def used_meanwhile(self: Pins, pins: list[Pin]) -> Any:
        if is_used_again:
            await shop.local.keep(cid, len(content), 0.0)
        else:
            await real(self, pins)
            await shop.local.keep(cid, len(content), 0.0)
        return await real(self, pins)

    shop.now += 1
    monkeypatch.setattr(Pins, "drop", used_meanwhile)
    assert await shop.store.collect(0) == Swept(0, 0)
    await shop.local._pins.settle()
    assert await shop.roots() == {cid}
    assert await shop.has(cid) == [True]


async def test_a_fetch_that_just_ended_is_forgotten_with_its_blocks(shop):
    await shop.fetch(content_of(300))
    await shop.store.collect(0)
    await shop.local._pins.settle()
    assert shop.on_disk() == {}
    assert await shop.roots() == set()


async def test_on_a_disk_that_takes_no_pin_a_fetch_still_gives_its_bytes(shop, monkeypatch):
    async def full(*_: object) -> None:
        raise StoreFull("the disk is full")

    monkeypatch.setattr(shop.local._pins._db, "run", full)
    await shop.fetch(content_of(300))
    await shop.local._pins.settle()
    assert await shop.roots() == set()
    with pytest.raises(ContentUnavailable, match="the disk is full"):  # what is promised is another matter
        await shop.fetch(content_of(299), FOREVER)


async def test_a_fetch_under_way_loses_nothing_to_a_collection(shop):
    cid = shop.peer.blocks.file(content_of(300), SMALL)
    everything = dict(shop.peer.blocks)
    stalled = Blocks().leaf(content_of(300)[160:176])
    shop.peer.stall_at = stalled
    fetching = asyncio.create_task(shop.get(cid, NOW + 1000))
    await asyncio.wait_for(shop.peer.is_stalling.wait(), LIMIT_SECONDS)
    await shop.store.collect(0)
    shop.peer.go_on.set()
    assert await fetching == content_of(300)
    shop.peer.blocks.clear()
    await shop.store.collect(0)
    assert shop.on_disk().keys() == {parse_cid(block)[1] for block in everything}
    assert await shop.get(cid) == content_of(300)


async def test_a_block_written_during_a_collection_stays(shop, before_sweep):
    """The root of a fetch that is not yet recorded."""
    collecting = asyncio.create_task(shop.store.collect(0))
    await before_sweep.reached()
    await shop.local.write(Block(Blocks().leaf(b"new"), b"new"))
    before_sweep.open()
    assert await collecting == Swept(0, 0)
    assert len(shop.on_disk()) == 1


async def test_a_block_whose_write_began_before_a_collection_stays(shop, monkeypatch):
    gate, real = Gate(), os.replace

    def replace(source: Path, target: Path) -> None:
        real(source, target)
        gate.pass_through()

    monkeypatch.setattr(os, "replace", replace)
    writing = asyncio.create_task(shop.local.write(Block(Blocks().leaf(b"new"), b"new")))
    await gate.reached()
    assert await shop.store.collect(0) == Swept(0, 0)
    gate.open()
    await writing
    assert await shop.store.collect(0) == Swept(1, 3)


async def test_a_block_read_during_a_collection_stays(shop, before_sweep):
    """As the gateway reads them for others."""
    cid, other = await shop.fetch(b"read"), await shop.fetch(b"other")
    collecting = asyncio.create_task(shop.store.collect(0))
    await before_sweep.reached()
    assert await shop.local.read(cid) == Block(cid, b"read")
    assert await shop.local.read(Blocks().leaf(b"never here")) is None
    before_sweep.open()
    assert await collecting == Swept(1, 5)
    assert await shop.has(cid, other) == [True, False]
    assert shop.local._in_use._touched is None


async def test_a_file_found_complete_while_it_is_held_is_still_so_when_it_is_kept(shop, before_sweep):
    cid = await shop.fetch(content_of(300))
    collecting = asyncio.create_task(shop.store.collect(0))
    await before_sweep.reached()
    with shop.local.hold(cid):
        assert await shop.local.is_complete(cid)
        before_sweep.open()
        await collecting
        await shop.local.keep(cid, 300, FOREVER)
    await shop.store.collect(0)
    assert await shop.has(cid) == [True]


async def test_there_is_one_collection_at_a_time(shop, before_sweep):
    collecting = [asyncio.create_task(shop.store.collect(0)) for _ in range(3)]
    await before_sweep.reached()
    gone = await shop.add(b"gone", keep_until=0.0)
    before_sweep.open()
    assert (await collecting[0]).blocks == 0  # it was written meanwhile
    assert [swept.blocks for swept in await asyncio.gather(*collecting[1:])] in ([1, 0], [0, 1])
    assert await shop.has(gone) == [False]


async def test_whoever_needs_all_the_room_is_not_content_with_a_smaller_collection(tmp_path, before_sweep):
    async with shop_at(tmp_path, 1000) as shop:
        cid = await shop.fetch(b"cached")
        small = asyncio.create_task(shop.store.collect(1000))
        await before_sweep.reached()
        large = asyncio.create_task(shop.local._collector.make_room(at_any_rate=True))
        before_sweep.open()
        assert await small == Swept(0, 0)
        assert await large is True
        assert await shop.has(cid) == [False]


async def test_a_collection_goes_on_without_whoever_asked_for_it(shop, before_sweep):
    await shop.fetch(b"gone")
    collecting = asyncio.create_task(shop.store.collect(0))
    await before_sweep.reached()
    collecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await collecting
    before_sweep.open()
    assert await shop.store.collect(0) == Swept(0, 0)  # after the other one
    assert shop.on_disk() == {}


async def test_a_collection_that_fails_after_its_caller_left_is_no_fault_of_asyncios(shop, caplog, monkeypatch):
    gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def failing(*_: object) -> None:
        await gate
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(shop.local._collector, "_mark", failing)
    collecting = asyncio.create_task(shop.store.collect(0))
    await until(shop.local._collector._under_way, "it is under way")
    collecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await collecting
    gate.set_result(None)
    await until(lambda: shop.local._collector._under_way() is None, "it failed")
    shop.local._collector._running = None
    gc.collect()  # an error that nobody looked at is logged when its task goes
    assert not caplog.records


async def test_closing_stops_a_collection_and_loses_nothing(tmp_path, before_sweep):
    async with shop_at(tmp_path) as shop:
        kept = await shop.add(content_of(100))
        await shop.fetch(b"gone")
        collecting = asyncio.create_task(shop.store.collect(0))
        await before_sweep.reached()
        closing = asyncio.create_task(shop.local.__aexit__())
        await until(shop.local._collector._is_closing.is_set, "it is being closed")
        before_sweep.open()
        await closing
        assert await collecting == Swept(0, 0)
    async with shop_at(tmp_path) as shop:
        assert await shop.roots() == {kept}
        assert await shop.store.collect(0) == Swept(1, 4)
        assert await shop.get(kept) == content_of(100)


async def test_a_sweep_that_lost_its_watch_deletes_nothing(shop, before_sweep, monkeypatch):
    """The loop may end under a collection, and its thread go on for a while."""
    swept: list[Swept] = []
    real = content_collector.Collector._sweep

    def sweep(*arguments: Any) -> Swept:
        swept.append(real(*arguments))
        return swept[-1]

    monkeypatch.setattr(content_collector.Collector, "_sweep", sweep)
    await shop.fetch(b"gone")
    collecting = asyncio.create_task(shop.store.collect(0))
    await before_sweep.reached()
    running = shop.local._collector._under_way()
    assert running is not None
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await collecting
    before_sweep.open()
    await until(lambda: swept, "the thread is through")
    assert swept == [Swept(0, 0)]
    assert await shop.store.collect(0) == Swept(1, 4)


async def test_a_closed_store_takes_nothing_and_says_so(tmp_path):
    async with shop_at(tmp_path) as shop:
        pass
    with pytest.raises(ContentError, match=r"^store content: it is closed$"):
        await shop.add(b"content")
    with pytest.raises(SourceFailed, match=r"^it is closed$"):
        await shop.local.write(Block(Blocks().leaf(b"content"), b"content"))
    with pytest.raises(ContentError, match=r"^collect garbage: the content store is closed$"):
        await shop.store.collect()


# --- any sequence --------------------------------------------------------------------------------
CONTENTS = [content_of(60), content_of(120), content_of(250), b"c" * 40, b"c" * 100 + content_of(60), b""]
NUMBERS = st.integers(0, len(CONTENTS) - 1)
TIMES = st.sampled_from([0.0, NOW + 500, FOREVER])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), NUMBERS, TIMES),
        st.tuples(st.just("fetch"), NUMBERS, TIMES),
        st.tuples(st.just("read on"), NUMBERS),
        st.tuples(st.just("end read"), NUMBERS),
        st.tuples(st.just("unpin"), NUMBERS),
        st.tuples(st.just("expire")),
        st.tuples(st.just("collect"), st.integers(0, 900)),
    ),
    max_size=14,
)
QUOTA = 900


class Model:
    """What the store has to hold, by the number of the content; plays one step at a time."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.keep_until: dict[int, float] = {}
        self.streams: dict[int, Any] = {}
        self.seen: dict[int, bytes] = {}
        self.ended: dict[bytes, int] = {}  # blocks that may have been on their way when a read ended early
        self.cids = [shop.peer.blocks.file(content, SMALL) for content in CONTENTS]

    def must_stay(self) -> set[int]:
        return {number for number, keep_until in self.keep_until.items() if keep_until > self.shop.now}

    async def play(self, step: tuple[Any, ...]) -> None:
        match step:
            case "add", number, keep_until:
                await self._keep(number, keep_until, self.shop.add(CONTENTS[number], keep_until))
            case "fetch", number, keep_until:
                await self._keep(number, keep_until, self.shop.get(self.cids[number], keep_until))
            case "read on", number:
                await self._read_on(number)
            case "end read", number if number in self.streams:
                await self._end(number)
            case "unpin", number:
                await self.shop.store.unpin(self.cids[number])
                self.keep_until.pop(number, None)
            case ("expire",):
                self.shop.now = max(self.shop.now, NOW + 500)
            case "collect", max_bytes:
                await self.collect(max_bytes)
        assert self.shop.local.files.held_bytes <= QUOTA

    async def _keep(self, number: int, keep_until: float, doing: Any) -> None:
        try:
            await doing
        except (ContentError, ContentUnavailable) as error:
            assert "would take over 900 bytes" in str(error)  # noqa: PT017
            self.ended |= blocks_of(CONTENTS[number])
        else:
            self.keep_until[number] = max(self.keep_until.get(number, 0.0), keep_until)

    async def _read_on(self, number: int) -> None:
        if number not in self.streams:
            self.streams[number] = self.shop.store.open(
                self.cids[number], max_bytes=1 << 20, timeout_seconds=LIMIT_SECONDS
            )
            self.seen[number] = b""
        try:
            self.seen[number] += await anext(self.streams[number])
        except ContentUnavailable as error:
            assert "would take over 900 bytes" in str(error)  # noqa: PT017
            await self._end(number)
        except StopAsyncIteration:
            assert self.seen[number] == CONTENTS[number]
            del self.streams[number]
        else:
            assert CONTENTS[number].startswith(self.seen[number])

    async def _end(self, number: int) -> None:
        self.ended |= blocks_of(CONTENTS[number])
        await self.streams.pop(number).aclose()

    async def end(self) -> None:
        for number in list(self.streams):
            await self._end(number)

    async def collect(self, max_bytes: int) -> None:
        must_stay = self.must_stay()
        before = await self.shop.roots()
        await self.shop.store.collect(max_bytes)
        needed: dict[bytes, int] = {}
        for number in must_stay | set(self.streams):
            needed |= blocks_of(CONTENTS[number])
        left = self.shop.on_disk()
        over = {digest: size for digest, size in left.items() if digest not in needed and digest not in self.ended}
        assert sum(over.values()) <= max_bytes
        assert sum(left.values()) <= max(max_bytes, sum(needed.values())) + sum(self.ended.values())
        for number in must_stay:
            assert left.keys() >= blocks_of(CONTENTS[number]).keys()
        assert {self.cids[number] for number in must_stay} <= await self.shop.roots() <= before


@given(steps=STEPS)
@settings(max_examples=25)
def test_whatever_happens_what_has_to_stay_is_whole_and_what_is_over_goes(tmp_path_factory, steps):
    root = tmp_path_factory.mktemp("any")

    async def check() -> None:
        async with shop_at(root, QUOTA) as shop:
            model = Model(shop)
            for step in steps:
                await model.play(step)
            await model.end()
            must_stay, now = model.must_stay(), shop.now
        assert shop.local.files.held_bytes == sum(shop.on_disk().values())  # nothing is being written any more
        async with shop_at(root) as shop:
            assert all([pin.size is None or await shop.store.has(pin.cid) for pin in await shop.store.pins()])
            shop.now = now
            await shop.store.collect(0)
            expected: dict[bytes, int] = {}
            for number in must_stay:
                expected |= {digest: size for digest, size in blocks_of(CONTENTS[number]).items() if size}
                assert await shop.get(model.cids[number]) == CONTENTS[number]
            assert {digest: size for digest, size in shop.on_disk().items() if size} == expected

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(content_collector, "_REST", 0.0)
        asyncio.run(check())


# --- kill -9 -------------------------------------------------------------------------------------
COLLECTING = """
import asyncio, random, sys
from pathlib import Path
from shared.adapters.content.store import EmbeddedContentStore
from shared.content.unixfs import Profile
from shared.types import FOREVER

SMALL = Profile("small", 16, 3)

async def main(root, seed):
    numbers = random.Random(seed)
    async with EmbeddedContentStore(root=Path(root), gateways=dict, own=None, max_bytes=1 << 20) as store:
        async def add_for_ever():
            while True:
                content = numbers.randbytes(numbers.choice([10, 100, 400]))
                keep_until = numbers.choice([0.0, FOREVER])
                cid = (await store.add(content, profile=SMALL, keep_until=keep_until)).cid
                if keep_until:
                    print("added", cid, flush=True)
        async def collect_for_ever():
            while True:
                await store.collect(numbers.choice([0, 10_000]))
                print("collected", flush=True)
        await asyncio.gather(add_for_ever(), add_for_ever(), collect_for_ever())

asyncio.run(main(*sys.argv[1:]))
"""


async def killed_while_collecting(root: Path, lines: int, seed: int) -> list[str]:
    """What a child process said before SIGKILL."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", COLLECTING, str(root), str(seed), stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert child.stdout is not None
    said = [await asyncio.wait_for(child.stdout.readline(), LIMIT_SECONDS) for _ in range(lines)]
    child.send_signal(signal.SIGKILL)
    rest = await asyncio.wait_for(child.stdout.read(), LIMIT_SECONDS)
    assert await child.wait() == -signal.SIGKILL
    return (b"".join(said) + rest).decode().split("\n")[:-1]  # the last line may be cut


async def test_kill_9_during_a_collection_takes_no_file_that_is_pinned_and_no_pin_is_of_half_a_file(tmp_path):
    numbers = random.Random(9)
    acknowledged: set[str] = set()
    for round_number in range(2):
        said = await killed_while_collecting(tmp_path, numbers.randrange(10, 40), round_number)
        assert "collected" in said
        acknowledged |= {line.split()[1] for line in said if line.startswith("added ")}
        async with shop_at(tmp_path) as shop:
            roots = await shop.roots()
            assert roots >= acknowledged
            assert all(await shop.has(*roots))
            await shop.store.collect(0)
            assert all(await shop.has(*acknowledged))
            assert shop.local.files.held_bytes == sum(shop.on_disk().values())
