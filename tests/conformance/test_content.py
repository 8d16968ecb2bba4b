"""One suite for every `ContentStore`: three operators' stores, over real gateways on loopback and over memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from shared.constants import CHUNK_BYTES, MAX_BLOCK_BYTES
from shared.content.cid import Codec, make_block
from shared.errors import ContentCorrupt, ContentTooLarge, ContentUnavailable
from shared.interfaces import ContentStore, Swept
from shared.types import FOREVER, Cid
from tests.content_support import (
    LIMIT_SECONDS,
    OPERATORS,
    VECTORS,
    Blocks,
    EmbeddedNetwork,
    MemoryNetwork,
    Network,
    content_of,
)
from tests.kubo_support import CLIENTS, KuboNetwork

A, B, C = OPERATORS
NAMES = [f"0x{operator.hex()}" for operator in OPERATORS]
LIMITS: dict[str, Any] = {"max_bytes": 1 << 24, "timeout_seconds": LIMIT_SECONDS}
SIZES = [0, 1, 1000, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 5 * CHUNK_BYTES + 7]


@pytest.fixture(params=["embedded", "memory", *CLIENTS])
async def network(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Network]:
    network: Network
    match request.param:
        case "embedded":
            network = EmbeddedNetwork(tmp_path)
        case "memory":
            network = MemoryNetwork()
        case client:
            network = KuboNetwork(tmp_path, client)
    yield network
    await network.close()


@pytest.fixture
async def stores(network: Network) -> list[ContentStore]:
    return [await network.start(index) for index in range(3)]


async def failing(store: ContentStore, cid: Cid, **changed: Any) -> ContentUnavailable:
    with pytest.raises(ContentUnavailable) as failed:
        await store.get(cid, **LIMITS | changed)
    assert failed.value.cid == cid
    return failed.value


# --- the promise ---------------------------------------------------------------------------------
@pytest.mark.parametrize("size", SIZES)
async def test_what_is_added_is_there(stores, size):
    cid = (await stores[0].add(content_of(size))).cid
    assert await stores[0].has(cid)
    assert await stores[0].get(cid, **LIMITS) == content_of(size)


@pytest.mark.parametrize("size", SIZES)
async def test_what_one_adds_all_get_and_have_from_then_on(network, stores, size):
    cid = (await stores[0].add(content_of(size))).cid
    for store, prefer in ((stores[1], A), (stores[2], None)):
        assert await store.has(cid) is False
        assert await store.get(cid, prefer=prefer, **LIMITS) == content_of(size)
        assert await store.has(cid)
        assert cid in await pins(network, stores.index(store))
    for index in range(2):
        network.stall(index)
    assert await stores[2].get(cid, **LIMITS) == content_of(size)


async def pins(network: Network, index: int) -> dict[Cid, int]:
    """The sizes of the files that are all here."""
    return {pin.cid: pin.size for pin in await network.store(index).pins() if pin.size is not None}


@pytest.mark.parametrize(
    "vector", [v for v in VECTORS if v["chunk_bytes"] == CHUNK_BYTES], ids=lambda v: str(v["size"])
)
async def test_the_cid_is_that_of_other_implementations(stores, vector):
    assert (await stores[0].add(content_of(vector["size"]))).cid == vector["cid"]


async def test_files_of_other_builders_are_read(network, stores):
    blocks = Blocks()
    inline = blocks.node(content=b"inline", kind=0)
    cid = blocks.node([(inline, 6), (blocks.leaf(b"leaf"), 4)], content=b"own")
    await network.plant(0, blocks)
    assert await stores[1].get(cid, prefer=A, **LIMITS) == b"owninlineleaf"


async def test_adding_again_changes_nothing(network, stores):
    cid = (await stores[0].add(b"content")).cid
    assert (await stores[0].add(b"content")).cid == cid
    assert await pins(network, 0) == {cid: 7}


async def test_content_outlives_its_process(network, stores):
    cid = (await stores[0].add(content_of(3000))).cid
    fetched = (await stores[1].add(b"fetched")).cid
    await stores[0].get(fetched, prefer=B, **LIMITS)
    store = await network.restart(0)
    network.stall(1)
    assert await store.get(cid, **LIMITS) == content_of(3000)
    assert await store.get(fetched, **LIMITS) == b"fetched"
    assert set(await pins(network, 0)) == {cid, fetched}


async def test_unpinned_content_may_go_and_nothing_else(network, stores):
    kept, gone = (await stores[0].add(b"kept")).cid, (await stores[0].add(b"gone")).cid
    await stores[0].unpin(gone)
    await stores[0].unpin(gone)
    await stores[0].unpin(Blocks().leaf(b"never here"))
    assert set(await pins(network, 0)) == {kept}
    assert await stores[0].has(kept)


async def test_a_file_with_a_block_missing_is_not_had_but_got_from_others(network, stores):
    blocks = Blocks()
    cid = blocks.file(content_of(3 * CHUNK_BYTES))
    for index in (0, 1):
        await network.plant(index, blocks)
    for missing in blocks:
        await network.drop(0, missing)
        assert await stores[0].has(cid) is False
        assert await stores[0].get(cid, prefer=B, **LIMITS) == content_of(3 * CHUNK_BYTES)
        assert await stores[0].has(cid)


async def test_chunks_come_in_order(stores):
    content = content_of(5 * CHUNK_BYTES + 7)
    cid = (await stores[0].add(content)).cid
    async with aclosing(stores[1].open(cid, prefer=A, **LIMITS)) as stream:
        chunks = [chunk async for chunk in stream]
    assert [len(chunk) for chunk in chunks] == [CHUNK_BYTES] * 5 + [7]
    assert b"".join(chunks) == content


# --- what stays ----------------------------------------------------------------------------------
HOUR = 3600.0
# Kubo frees blocks when it likes to, so that nothing can be said of what a collection leaves there.
which_frees = pytest.mark.parametrize("network", ["embedded", "memory"], indirect=True)


@which_frees
async def test_what_was_added_stays_and_what_was_unpinned_goes(network, stores):
    kept, gone = content_of(3 * CHUNK_BYTES), content_of(2 * CHUNK_BYTES)
    kept_cid, gone_cid = (await stores[0].add(kept)).cid, (await stores[0].add(gone)).cid
    assert await stores[0].collect() == Swept(0, 0)
    await stores[0].unpin(gone_cid)
    own = Blocks()
    own.file(gone)
    assert await stores[0].collect() == Swept(1, len(own[gone_cid].data))  # its chunks are those of the other, too
    assert await stores[0].has(gone_cid) is False
    assert await stores[0].get(kept_cid, **LIMITS) == kept
    assert await pins(network, 0) == {kept_cid: len(kept)}


@which_frees
async def test_what_was_fetched_stays_until_its_time_and_then_while_there_is_room(network, stores):
    needed, cached = (await stores[0].add(b"needed")).cid, (await stores[0].add(b"cached")).cid
    for keep_until in (time.time() + HOUR, 0.0):  # the second never shortens the first
        await stores[1].get(needed, prefer=A, keep_until=keep_until, **LIMITS)
    await stores[1].get(cached, prefer=A, keep_until=time.time() - 1, **LIMITS)
    assert await stores[1].collect(12) == Swept(0, 0)
    assert await stores[1].collect(11) == Swept(1, 6)
    assert await pins(network, 1) == {needed: 6}
    assert await stores[1].collect(0) == Swept(0, 0)
    network.stall(0)
    assert await stores[1].get(needed, **LIMITS) == b"needed"
    await failing(stores[1], cached, timeout_seconds=0.3)


@which_frees
async def test_an_add_may_be_for_a_time_only_and_a_later_one_for_ever(stores):
    for keep_until, stays in ((time.time() - 1, False), (time.time() + HOUR, True)):
        cid = (await stores[0].add(b"content", keep_until=keep_until)).cid
        await stores[0].collect()
        assert await stores[0].has(cid) is stays
    await stores[0].add(b"content")
    assert [(pin.cid, pin.keep_until) for pin in await stores[0].pins()] == [(cid, FOREVER)]


@which_frees
async def test_what_was_used_least_recently_goes_first(stores):
    cids = [(await stores[0].add(bytes([number]) * 10)).cid for number in range(4)]
    for cid in (*cids, cids[0]):  # the first once more
        await stores[1].get(cid, prefer=A, **LIMITS)
    assert await stores[1].collect(20) == Swept(2, 20)
    assert [await stores[1].has(cid) for cid in cids] == [True, False, False, True]


@which_frees
async def test_a_reader_that_saw_the_beginning_sees_the_end_of_what_goes(network, stores):
    content = content_of(4 * CHUNK_BYTES)
    cid = (await stores[0].add(content)).cid
    await stores[1].get(cid, prefer=A, **LIMITS)
    network.stall(0)
    async with aclosing(stores[1].open(cid, **LIMITS)) as stream:
        first = await anext(stream)
        assert await stores[1].collect() == Swept(0, 0)
        assert first + b"".join([chunk async for chunk in stream]) == content
    assert (await stores[1].collect()).blocks == 5
    assert await stores[1].has(cid) is False


# --- unavailable ---------------------------------------------------------------------------------
async def test_what_nobody_has_is_unavailable_and_each_other_operator_is_named(stores):
    error = await failing(stores[0], Blocks().leaf(b"nobody has it"), prefer=B)
    assert set(error.causes) == {NAMES[1], NAMES[2]}
    assert all(cause.startswith("does not have it") for cause in error.causes.values())


async def test_a_file_without_its_last_block_is_unavailable_and_not_pinned(network, stores):
    blocks = Blocks()
    cid = blocks.file(content_of(3 * CHUNK_BYTES))
    del blocks[[cid for cid in blocks if cid.startswith("bafkrei")][-1]]
    await network.plant(0, blocks)
    error = await failing(stores[1], cid, prefer=A)
    assert set(error.causes) == {NAMES[0], NAMES[2]}
    assert await stores[1].has(cid) is False
    assert await pins(network, 1) == {}


async def test_time_runs_out_and_the_silent_are_named(network, stores):
    cid = (await stores[0].add(b"content")).cid
    network.stall(0)
    network.stall(2)
    started = asyncio.get_running_loop().time()
    error = await failing(stores[1], cid, prefer=A, timeout_seconds=0.5)
    assert 0.4 < asyncio.get_running_loop().time() - started < 5
    assert error.causes == {NAMES[0]: "no whole block in time", NAMES[2]: "no whole block in time"}


async def test_a_silent_preferred_operator_is_not_waited_for(network, stores):
    cid = (await stores[0].add(b"content")).cid
    await stores[2].add(b"content")
    network.stall(0)
    assert await stores[1].get(cid, prefer=A, **LIMITS) == b"content"


async def test_wrong_bytes_are_a_cause_and_never_the_content(network, stores):
    cid = (await stores[0].add(b"content")).cid
    network.forge(0, b"kontent")
    error = await failing(stores[1], cid, prefer=A)
    assert error.causes[NAMES[0]] == f"wrong bytes: 7 bytes do not hash to {cid}"
    assert await stores[1].has(cid) is False
    await stores[2].add(b"content")
    assert await stores[1].get(cid, prefer=A, **LIMITS) == b"content"


async def test_a_preferred_operator_that_nobody_knows_is_passed_over(stores):
    cid = (await stores[0].add(b"content")).cid
    for prefer in (B, b"\xee" * 20):  # oneself, a stranger
        assert await stores[1].get(cid, prefer=prefer, **LIMITS) == b"content"


# --- too large -----------------------------------------------------------------------------------
@pytest.mark.parametrize("size", SIZES[1:])
async def test_the_limit_is_exact_for_own_content_and_others(stores, size):
    cid = (await stores[0].add(content_of(size))).cid
    for store in stores[:2]:
        with pytest.raises(ContentTooLarge):
            await store.get(cid, max_bytes=size - 1, timeout_seconds=LIMIT_SECONDS, prefer=A)
        assert len(await store.get(cid, max_bytes=size, timeout_seconds=LIMIT_SECONDS, prefer=A)) == size


async def test_too_large_is_known_from_the_root_alone(network, stores):
    blocks = Blocks()
    cid = blocks.file(content_of(3 * CHUNK_BYTES))
    await network.plant(0, Blocks({cid: blocks[cid]}))
    with pytest.raises(ContentTooLarge):
        await stores[1].get(cid, max_bytes=1000, timeout_seconds=LIMIT_SECONDS, prefer=A)


# --- corrupt -------------------------------------------------------------------------------------
async def corrupt_for_everybody(network: Network, stores: list[ContentStore], blocks: Blocks, root: Cid) -> None:
    """For who has it and for who fetches it: a verdict must not depend on where the blocks came from."""
    await network.plant(0, blocks)
    for store in stores[:2]:
        with pytest.raises(ContentCorrupt):
            await store.get(root, prefer=A, **LIMITS)
    assert await pins(network, 1) == {}


async def test_a_node_that_is_no_file_is_corrupt(network, stores):
    blocks = Blocks()
    for root in (blocks.node(kind=1), blocks.put(make_block(Codec.DAG_PB, b"junk"))):
        await corrupt_for_everybody(network, stores, blocks, root)
        assert await stores[0].has(root) is False


async def test_a_child_of_another_size_than_its_parent_says_is_corrupt(network, stores):
    blocks = Blocks()
    leaf = blocks.leaf(b"leaf")
    for said in (3, 5, CHUNK_BYTES):
        await corrupt_for_everybody(network, stores, blocks, blocks.node([(leaf, said)]))


async def test_a_leaf_that_no_network_carries_is_corrupt(network, stores):
    blocks = Blocks()
    root = blocks.node([(Blocks().leaf(b"huge"), MAX_BLOCK_BYTES + 1)])
    await corrupt_for_everybody(network, stores, blocks, root)


async def test_a_bomb_is_corrupt(network, stores):
    blocks = Blocks()
    cid, size = blocks.leaf(b"x"), 1
    for _ in range(4):
        cid, size = blocks.node([(cid, size)] * 50), size * 50
    await corrupt_for_everybody(network, stores, blocks, cid)


@pytest.mark.parametrize(
    "text",
    ["", "bafkrei", "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH", "../../etc/passwd", "BAFKREI" + "A" * 52],
)
async def test_a_text_that_is_no_cid_of_ours_is_corrupt_content_and_had_by_nobody(stores, text):
    with pytest.raises(ContentCorrupt):
        await stores[0].get(Cid(text), **LIMITS)
    assert await stores[0].has(Cid(text)) is False
    await stores[0].unpin(Cid(text))


# --- many at once --------------------------------------------------------------------------------
async def test_many_get_the_same_and_different_content_at_once(stores):
    contents = [content_of(1000 + number) for number in range(20)] + [content_of(2 * CHUNK_BYTES)]
    cids = [ref.cid for ref in await asyncio.gather(*(stores[0].add(content) for content in contents))]
    wanted = list(zip(cids, contents, strict=True)) * 3
    for store in stores[1:]:
        got = await asyncio.gather(*(store.get(cid, prefer=A, **LIMITS) for cid, _ in wanted))
        assert got == [content for _, content in wanted]


async def test_a_get_that_is_cancelled_harms_nobody(network, stores):
    cid = (await stores[0].add(content_of(5 * CHUNK_BYTES))).cid
    lasting = asyncio.create_task(stores[1].get(cid, prefer=A, **LIMITS))
    hasty = [asyncio.create_task(stores[1].get(cid, prefer=A, **LIMITS)) for _ in range(5)]
    await asyncio.sleep(0)
    for task in hasty:
        task.cancel()
    assert await lasting == content_of(5 * CHUNK_BYTES)
    outcomes = await asyncio.gather(*hasty, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    assert await stores[1].has(cid)
