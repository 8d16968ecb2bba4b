"""Model files: to the disk and then to memory, held to their hash on the way, told of while they come."""

from __future__ import annotations

import asyncio
import hashlib
import tracemalloc
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from shared.adapters.content.store import EmbeddedContentStore
from shared.adapters.memory.content import ContentHub, MemoryContentStore
from shared.constants import CHUNK_BYTES, PROGRESS_SECONDS
from shared.content.unixfs import cid_of
from shared.errors import ContentUnavailable, ModelMismatch
from shared.keeping import CACHE
from shared.model_card import ModelFile
from shared.model_files import Fetching, ModelFiles
from shared.types import FOREVER, Address, Cid, Digest
from tests.content_support import OPERATORS
from tests.listening import until, virtual

A, B, C = OPERATORS
CHUNKS = 24
MODEL = b"".join(bytes([number]) * CHUNK_BYTES for number in range(CHUNKS))
HASH = Digest(hashlib.sha256(MODEL).digest())
FILE = ModelFile(cid=cid_of(MODEL), sha256=HASH.hex(), size=len(MODEL))
OTHER_HASH = Digest(bytes(32))


class Hub(ContentHub):
    """Counts what is asked of whom."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[tuple[Address, Cid]] = Counter()

    async def serve(self, owner: Address, cid: Cid) -> bytes:
        self.asked[owner, cid] += 1
        return await super().serve(owner, cid)


async def served() -> tuple[Hub, MemoryContentStore, ModelFiles]:
    """The model with A, and B's store and files."""
    hub = Hub()
    await hub.join(A).add(MODEL)
    store = hub.join(B)
    return hub, store, ModelFiles(store)


# --- the ordinary way ------------------------------------------------------------------------------
@virtual
async def test_a_model_is_brought_once_and_then_read_from_here() -> None:
    hub, store, files = await served()
    await files.bring(FILE, HASH, None)
    assert await store.has(Cid(FILE.cid))
    assert await files.read(FILE, HASH, None) == MODEL
    await files.bring(FILE, HASH, None)
    assert set(hub.asked.values()) == {1}
    assert len(hub.asked) == CHUNKS + 1


@virtual
async def test_what_is_gone_from_here_meanwhile_is_fetched_by_the_reading() -> None:
    _, _, files = await served()
    assert await files.read(FILE, HASH, None) == MODEL


# --- lies --------------------------------------------------------------------------------------------
@virtual
async def test_another_hash_is_found_by_bringing_and_what_was_brought_is_mere_cache() -> None:
    hub, store, files = await served()
    with capture_logs() as logs:
        for _ in range(3):
            with pytest.raises(ModelMismatch, match=f"SHA-256 {HASH.hex()}, the chain says {OTHER_HASH.hex()}"):
                await files.bring(FILE, OTHER_HASH, None)
            with pytest.raises(ModelMismatch):
                await files.read(FILE, OTHER_HASH, None)
    assert [entry["log_level"] for entry in logs] == ["warning"]
    assert [pin.keep_until for pin in await store.pins()] == [CACHE]
    assert set(hub.asked.values()) == {1}  # only the first try asked for anything
    assert await files.read(FILE, HASH, None) == MODEL  # another definition tells the truth about the same file


@virtual
async def test_a_lie_about_what_was_here_before_drops_nothing() -> None:
    """A card that names an honest model's CID, or that of a proof in dispute."""
    _, store, files = await served()
    await store.add(MODEL)
    kept = await store.pins()
    for attempt in (files.bring, files.read):
        await attempt(FILE, HASH, None)
    with pytest.raises(ModelMismatch):
        await files.read(FILE, OTHER_HASH, None)
    assert [(pin.cid, pin.keep_until) for pin in await store.pins()] == [(pin.cid, pin.keep_until) for pin in kept]


@virtual
async def test_a_lie_takes_back_no_promise_that_was_made_while_it_was_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card that names a proof that is on its way for a task, too."""
    _, store, files = await served()
    really_open = store.open

    async def open_and_promise(cid: Cid, **options: Any) -> AsyncGenerator[bytes, None]:
        async for chunk in really_open(cid, **options):
            yield chunk
        await store.pin(cid, keep_until=FOREVER)

    monkeypatch.setattr(store, "open", open_and_promise)
    with pytest.raises(ModelMismatch):
        await files.bring(FILE, OTHER_HASH, None)
    assert [(pin.cid, pin.keep_until) for pin in await store.pins()] == [(FILE.cid, FOREVER)]


# --- resuming ----------------------------------------------------------------------------------------
@virtual
async def test_a_fetch_that_ended_early_goes_on_where_it_was() -> None:
    hub, _, files = await served()
    last = list(hub.blocks[A])[CHUNKS - 1]
    hub.withhold(A, last)
    with pytest.raises(ContentUnavailable):
        await files.bring(FILE, HASH, None)
    before = Counter(hub.asked)
    hub.release(A, last)
    await ModelFiles(hub.join(B)).bring(FILE, HASH, None)  # of another process
    assert hub.asked - before == Counter({(A, last): 1})


# --- progress ----------------------------------------------------------------------------------------
@virtual
async def test_what_takes_long_is_told_of_every_few_seconds() -> None:
    hub, store, _ = await served()
    files = ModelFiles(store, lambda cid: f"source of {cid}")
    hub.delay(A, 2.0)
    with capture_logs() as logs:
        fetch = asyncio.create_task(files.bring(FILE, HASH, None))
        await until(lambda: any(each.bytes for each in files.under_way()), "it is under way")
        (seen,) = files.under_way()
        assert (seen.cid, seen.size) == (FILE.cid, FILE.size)
        also = asyncio.create_task(files.bring(FILE, HASH, None))  # for somebody else, who says nothing of it
        await asyncio.gather(fetch, also)
    assert files.under_way() == []
    told = [entry for entry in logs if entry["event"] == "model on its way"]
    # Six groups of four blocks at two seconds each, after two for the root: a line after each third second one.
    assert 1 <= len(told) <= (2 * (CHUNKS // 4 + 1)) / PROGRESS_SECONDS
    assert {(entry["cid"], entry["size"], entry["source"]) for entry in told} == {
        (FILE.cid, FILE.size, f"source of {FILE.cid}")
    }
    assert all(0 < entry["bytes"] < FILE.size and entry["mib_per_second"] > 0 for entry in told)


@virtual
async def test_what_is_quick_is_not_told_of() -> None:
    _, _, files = await served()
    with capture_logs() as logs:
        await files.bring(FILE, HASH, None)
        await files.read(FILE, HASH, None)
    assert logs == []


@virtual
async def test_a_fetch_that_fails_is_under_way_no_more() -> None:
    hub, _, files = await served()
    del hub.blocks[A][Cid(FILE.cid)]
    with pytest.raises(ContentUnavailable):
        await files.bring(FILE, HASH, None)
    assert files.under_way() == list[Fetching]()


# --- memory ------------------------------------------------------------------------------------------
async def test_bringing_holds_a_few_blocks_and_reading_twice_the_model(tmp_path: Path) -> None:
    async with EmbeddedContentStore(root=tmp_path, gateways=dict, own=A) as store:
        await store.add(MODEL)
        files = ModelFiles(store)
        tracemalloc.start()
        try:
            async for _ in files._chunks(FILE, HASH, None, was_here=False):
                pass
            assert tracemalloc.get_traced_memory()[1] < len(MODEL) / 2
            tracemalloc.reset_peak()
            assert await files.read(FILE, HASH, None) == MODEL
            assert tracemalloc.get_traced_memory()[1] < 2.5 * len(MODEL)
        finally:
            tracemalloc.stop()
