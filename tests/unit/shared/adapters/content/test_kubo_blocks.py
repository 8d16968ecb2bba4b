"""The store in Kubo: what it pins there, what it takes back, and what it leaves alone."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from shared.adapters.content.kubo import blocks as module
from shared.adapters.content.kubo.blocks import KuboBlocks
from shared.adapters.content.kubo.rpc import KuboRpc
from shared.constants import CHUNK_BYTES
from shared.content.cid import Codec, make_block, parse_cid
from shared.content.unixfs import PROFILES, UNIXFS_V1_2025, Profile, file_blocks
from shared.errors import ContentError, SourceFailed, StoreBusy, StoreError
from shared.interfaces import Swept
from shared.reasons import SourceFault
from shared.types import FOREVER, Cid, Ref
from tests.content_support import SMALL, Blocks, content_of, until
from tests.kubo_support import FakeKubo

LEAF = make_block(Codec.RAW, b"leaf")


@pytest.fixture
async def kubo() -> AsyncIterator[FakeKubo]:
    async with FakeKubo().serving() as kubo:
        yield kubo


@pytest.fixture
async def blocks(kubo: FakeKubo, tmp_path: Path) -> AsyncIterator[KuboBlocks]:
    async with KuboBlocks(KuboRpc(kubo.url), tmp_path) as blocks:
        yield blocks


async def build(
    blocks: KuboBlocks, data: bytes, *, profile: Profile = UNIXFS_V1_2025, keep_until: float = FOREVER
) -> Ref:
    return await blocks.build(lambda: io.BytesIO(data), profile, keep_until)


async def held(blocks: KuboBlocks) -> dict[Cid, tuple[int | None, float]]:
    return {pin.cid: (pin.size, pin.keep_until) for pin in await blocks.pins()}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The wall clock of the store, in a list, for a test to turn."""
    now = [time.time()]
    monkeypatch.setattr(module.time, "time", lambda: now[0])
    return now


@given(st.binary(max_size=1000))
def test_blocks_one_by_one_are_those_of_the_builder(data):
    blocks = Blocks()
    root = blocks.file(data, SMALL)
    made = list(file_blocks(io.BytesIO(data), SMALL))
    assert {block.cid: block for block in made} == blocks
    assert made[-1].cid == root


# --- writing -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("profile", "size"),
    [(SMALL, 1000), *((profile, size) for profile in PROFILES.values() for size in (0, 1, CHUNK_BYTES + 1))],
    ids=lambda value: value.name if isinstance(value, Profile) else str(value),
)
async def test_a_file_is_built_here_and_pinned_there(kubo, blocks, profile, size):
    ref = await build(blocks, content_of(size), profile=profile)
    assert ref == Ref(Blocks().file(content_of(size), profile), size, profile.name)
    assert kubo.pins == {ref.cid}
    assert await held(blocks) == {ref.cid: (size, FOREVER)}
    assert await blocks.is_complete(ref.cid)
    kubo.collect_garbage()
    assert await blocks.is_complete(ref.cid)


async def test_a_file_that_changes_while_it_is_read_is_not_stored(kubo, blocks):
    class Shrinking(io.BytesIO):
        def seek(self, offset: int, whence: int = 0) -> int:
            self.truncate(999)
            return super().seek(offset, whence)

    with pytest.raises(ContentError, match="store content: the file changed while it was read"):
        await blocks.build(lambda: Shrinking(content_of(1000)), SMALL, FOREVER)
    assert kubo.pins == set()


async def test_a_pipe_is_read_but_once(kubo, blocks, tmp_path):
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(size or 0, 1000))

    stream = Pipe(content_of(CHUNK_BYTES + 1))
    ref = await blocks.build(lambda: stream, UNIXFS_V1_2025, FOREVER)
    assert ref.cid == Blocks().file(content_of(CHUNK_BYTES + 1))
    assert kubo.pins == {ref.cid}
    assert stream.closed
    assert {path.name.removesuffix("-wal").removesuffix("-shm") for path in tmp_path.iterdir()} == {"kubo.sqlite"}


async def test_a_file_that_cannot_be_read_is_told(blocks, tmp_path):
    with pytest.raises(ContentError, match="store content: No such file or directory"):
        await blocks.build(lambda: (tmp_path / "none").open("rb"), SMALL, FOREVER)


@pytest.mark.parametrize("command", ["dag/import", "pin/ls"])
async def test_what_kubo_refuses_is_not_acknowledged(kubo, blocks, command):
    said = {"Message": "no space left on device", "Code": 0, "Type": "error"}
    kubo.answers[command] = lambda: web.json_response(said, status=500)
    with pytest.raises(ContentError, match=f"store content: {command}: no space left on device"):
        await build(blocks, b"content")
    assert all(size is None for size, _ in (await held(blocks)).values())


class Zeros(io.RawIOBase):
    """`size` of them."""

    def __init__(self, size: int) -> None:
        self._size, self.position = size, 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = 0) -> int:
        self.position = offset
        return offset

    def read(self, size: int = -1) -> bytes:
        count = min(size, self._size - self.position)
        self.position += count
        return bytes(count)


class Sated(KuboRpc):
    """Takes so many parts of an archive, and then no more."""

    def __init__(self, url: str, parts: int) -> None:
        super().__init__(url)
        self._parts, self.is_full = parts, asyncio.Event()

    async def import_archive(self, root: Cid, archive: AsyncIterable[bytes], *, seconds: float) -> None:
        taking = aiter(archive)
        for _ in range(self._parts):
            await anext(taking)
        self.is_full.set()
        await asyncio.get_running_loop().create_future()


async def test_a_model_is_read_no_faster_than_kubo_takes_it(kubo, tmp_path):
    stream, rpc = Zeros(64 * CHUNK_BYTES), Sated(kubo.url, parts=4)  # the header and three leaves
    async with KuboBlocks(rpc, tmp_path) as blocks:
        building = asyncio.create_task(blocks.build(lambda: stream, UNIXFS_V1_2025, FOREVER))
        await rpc.is_full.wait()
        assert stream.position == 3 * CHUNK_BYTES
        building.cancel()
        with pytest.raises(asyncio.CancelledError):
            await building
        assert stream.position == 3 * CHUNK_BYTES
        assert stream.closed


async def test_a_build_that_is_cancelled_leaves_no_pin(kubo, blocks):
    kubo.stalled.add("dag/import")
    building = asyncio.create_task(build(blocks, content_of(5 * CHUNK_BYTES)))
    await until(lambda: kubo.at_once["dag/import"], "nothing is imported")
    building.cancel()
    with pytest.raises(asyncio.CancelledError):
        await building
    assert kubo.pins == set()
    assert await held(blocks) == {Blocks().file(content_of(5 * CHUNK_BYTES)): (None, module.OURS)}


# --- reading -------------------------------------------------------------------------------------
async def test_blocks_are_written_unpinned_and_read_offline(kubo, blocks):
    assert await blocks.read(LEAF.cid) is None
    await blocks.write(LEAF)
    assert await blocks.read(LEAF.cid) == LEAF
    assert kubo.pins == set()
    assert all(options["offline"] == "true" for options in kubo.called("block/get"))


async def test_damaged_blocks_and_faults_are_the_stores_own(kubo, blocks):
    kubo.hold(Blocks({LEAF.cid: LEAF}))
    kubo.forged[LEAF.cid] = b"fael"
    for cid in (LEAF.cid, Cid("../etc/passwd")):
        with pytest.raises(SourceFailed) as failed:
            await blocks.read(cid)
        assert failed.value.fault is SourceFault.LOCAL
    kubo.answers["block/put"] = lambda: web.Response(status=503)
    with pytest.raises(SourceFailed) as failed:
        await blocks.write(LEAF)
    assert failed.value.fault is SourceFault.LOCAL


async def test_complete_is_what_has_every_block(kubo, blocks):
    file = Blocks()
    root = file.file(content_of(100), SMALL)
    kubo.hold(file)
    assert await blocks.is_complete(root)
    for cid, block in file.items():
        del kubo.blocks[parse_cid(cid)[1]]
        assert await blocks.is_complete(root) is False
        kubo.hold(Blocks({cid: block}))
    kubo.forged[root] = b"other bytes"
    assert await blocks.is_complete(root) is False


async def test_whether_a_file_is_complete_is_not_guessed_when_kubo_is_away(kubo, blocks):
    kubo.answers["block/get"] = lambda: web.Response(status=503)
    with pytest.raises(ContentError, match="look for content: block/get: HTTP status 503"):
        await blocks.is_complete(LEAF.cid)


# --- keeping -------------------------------------------------------------------------------------
async def test_what_must_be_kept_is_pinned_and_a_cache_is_not(kubo, blocks, clock):
    for name in (b"cache", b"kept"):
        await blocks.write(make_block(Codec.RAW, name))
    cache, kept = (make_block(Codec.RAW, name).cid for name in (b"cache", b"kept"))
    await blocks.begin(kept)
    assert await held(blocks) == {kept: (None, 0.0)}
    await blocks.keep(cache, 5, 0.0)
    await blocks.keep(kept, 4, clock[0] + 100)
    assert kubo.pins == {kept}
    assert await held(blocks) == {cache: (5, 0.0), kept: (4, clock[0] + 100)}
    await blocks.keep(kept, 4, clock[0] + 50)
    assert (await held(blocks))[kept] == (4, clock[0] + 100)
    assert len(kubo.called("pin/add")) == 1


async def test_what_cannot_be_pinned_is_not_promised(kubo, blocks, clock):
    kubo.answers["pin/add"] = lambda: web.Response(status=503)
    with pytest.raises(SourceFailed, match="pin/add"):
        await blocks.keep(LEAF.cid, 4, clock[0] + 100)
    assert await held(blocks) == {LEAF.cid: (None, module.OURS)}
    await blocks.collect(0)
    assert await held(blocks) == {}


async def test_pins_that_have_had_their_time_are_taken_back(kubo, blocks, clock):
    short = await build(blocks, b"short", keep_until=clock[0] + 100)
    lasting = await build(blocks, b"lasting", keep_until=clock[0] + 200)
    ever = await build(blocks, b"ever")
    clock[0] += 100
    assert await blocks.collect(0) == Swept(0, 0)
    assert kubo.pins == {lasting.cid, ever.cid}
    assert set(await held(blocks)) == {lasting.cid, ever.cid}
    kubo.collect_garbage()
    assert await blocks.is_complete(short.cid) is False
    assert await blocks.is_complete(lasting.cid)


async def test_what_is_wanted_again_is_pinned_again(kubo, blocks, clock):
    ref = await build(blocks, b"content", keep_until=clock[0] + 100)
    clock[0] += 100
    await blocks.collect(0)
    await blocks.keep(ref.cid, 7, clock[0] + 100)
    assert kubo.pins == {ref.cid}
    await blocks.unpin(ref.cid)
    assert kubo.pins == set()
    await blocks.keep(ref.cid, 7, clock[0] + 100)
    assert kubo.pins == {ref.cid}


async def test_a_pin_of_the_operators_own_is_never_taken_back(kubo, blocks, clock):
    kubo.hold(Blocks({LEAF.cid: LEAF}))
    kubo.pins.add(LEAF.cid)
    await blocks.keep(LEAF.cid, 4, clock[0] + 100)
    assert await build(blocks, b"leaf", keep_until=clock[0] + 100) == Ref(LEAF.cid, 4, UNIXFS_V1_2025.name)
    clock[0] += 1000
    await blocks.collect(0)
    await blocks.unpin(LEAF.cid)
    assert kubo.pins == {LEAF.cid}


async def test_a_pin_that_a_crash_left_without_a_promise_is_taken_back(kubo, blocks, tmp_path, clock):
    kubo.stalled.add("dag/import")
    building = asyncio.create_task(build(blocks, b"content", keep_until=clock[0] + 100))
    await until(lambda: kubo.at_once["dag/import"], "nothing is imported")
    building.cancel()
    await asyncio.gather(building, return_exceptions=True)
    kubo.stalled.clear()
    root = Blocks().file(b"content")
    kubo.pins.add(root)  # Kubo had all of it before the connection broke
    await blocks.__aexit__(None, None, None)
    async with KuboBlocks(KuboRpc(kubo.url), tmp_path) as again:
        assert await held(again) == {root: (None, module.OURS)}
        await again.collect(0)
        assert kubo.pins == set()


async def test_after_a_restart_a_promise_is_pinned_anew(kubo, blocks, tmp_path, clock):
    ref = await build(blocks, b"content", keep_until=clock[0] + 100)
    await blocks.__aexit__(None, None, None)
    kubo.pins.clear()
    async with KuboBlocks(KuboRpc(kubo.url), tmp_path) as again:
        await again.keep(ref.cid, 7, clock[0] + 200)
        assert kubo.pins == {ref.cid}
        assert await held(again) == {ref.cid: (7, clock[0] + 200)}


async def test_expired_pins_go_by_themselves_and_the_caches_are_bounded(kubo, tmp_path, monkeypatch, clock):
    monkeypatch.setattr(module, "SWEEP_SECONDS", 0.01)
    monkeypatch.setattr(module, "MAX_CACHED", 2)
    async with KuboBlocks(KuboRpc(kubo.url), tmp_path) as blocks:
        ref = await build(blocks, b"content", keep_until=clock[0] + 100)
        cached = [make_block(Codec.RAW, bytes([number])).cid for number in range(4)]
        for cid in cached:
            clock[0] += 1
            await blocks.keep(cid, 1, 0.0)
        clock[0] += 100
        kubo.answers["pin/rm"] = lambda: web.Response(status=503)
        await until(lambda: len(kubo.called("pin/rm")) > 1, "it is not tried again")
        kubo.answers.clear()
        await until(lambda: not kubo.pins, "the pin stays")
        await until(lambda: len(blocks._ledger.all()) == 2, "the caches stay")
        assert set(await held(blocks)) == set(cached[2:])
        assert ref.cid not in kubo.pins


async def test_too_many_caches_make_nobody_forget_a_pin_that_is_still_to_be_taken_back(kubo, blocks, clock):
    clock[0] -= 1000  # the ledger may have a clock of its own
    ref = await build(blocks, b"content", keep_until=clock[0] + 100)
    clock[0] += 100
    blocks._ledger._max_cached = blocks._ledger._trim_above = 2
    for number in range(8):
        clock[0] += 1
        await blocks.keep(make_block(Codec.RAW, bytes([number])).cid, 1, 0.0)
    assert len(await held(blocks)) <= 4
    await blocks.collect(0)
    assert ref.cid not in kubo.pins


async def test_a_sweep_spares_what_was_asked_for_since_it_began(kubo, blocks, clock):
    refs = [await build(blocks, data, keep_until=clock[0] + 100) for data in (b"one", b"two")]
    clock[0] += 100
    kubo.stalled.add("pin/rm")
    collecting = asyncio.create_task(blocks.collect(0))
    await until(lambda: kubo.at_once["pin/rm"], "nothing is taken back")
    going = kubo.called("pin/rm")[0]["arg"]
    spared = next(ref for ref in refs if ref.cid != going)
    await blocks.keep(spared.cid, spared.size, clock[0] + 100)
    kubo.stalled.clear()
    await collecting
    assert kubo.pins == {spared.cid}
    assert await held(blocks) == {spared.cid: (3, clock[0] + 100)}


async def test_a_sweep_does_not_wait_for_a_file_that_is_being_stored(kubo, blocks):
    kubo.stalled.add("dag/import")
    building = asyncio.create_task(build(blocks, b"content"))
    await until(lambda: kubo.at_once["dag/import"], "nothing is imported")
    root = Blocks().file(b"content")
    assert await held(blocks) == {root: (None, module.OURS)}
    await blocks.collect(0)
    assert await held(blocks) == {root: (None, module.OURS)}
    building.cancel()
    await asyncio.gather(building, return_exceptions=True)


async def test_what_is_in_use_is_not_taken_back(kubo, blocks, clock):
    ref = await build(blocks, b"content", keep_until=clock[0] + 100)
    clock[0] += 100
    with blocks.hold(ref.cid), blocks.hold(ref.cid):
        await blocks.collect(0)
    assert kubo.pins == {ref.cid}
    await blocks.collect(0)
    assert kubo.pins == set()


# --- opening -------------------------------------------------------------------------------------
async def test_without_kubo_it_does_not_open_and_says_what_to_do(tmp_path):
    async with FakeKubo().serving() as kubo:
        url = kubo.url
    with pytest.raises(StoreError, match=r"content\.store: id: Kubo at .* start it with: ipfs daemon"):
        await KuboBlocks(KuboRpc(url), tmp_path).__aenter__()
    async with FakeKubo().serving() as kubo, KuboBlocks(KuboRpc(kubo.url), tmp_path):
        pass  # the ledger was closed again


async def test_one_process_a_ledger(kubo, blocks, tmp_path):
    with pytest.raises(StoreBusy):
        await KuboBlocks(KuboRpc(kubo.url), tmp_path).__aenter__()


async def test_a_closed_store_reads_nothing(kubo, tmp_path):
    async with KuboBlocks(KuboRpc(kubo.url), tmp_path) as blocks:
        pass
    with pytest.raises(SourceFailed, match="closed"):
        await blocks.read(LEAF.cid)
    with pytest.raises(ContentError, match="closed"):
        await blocks.is_complete(LEAF.cid)
