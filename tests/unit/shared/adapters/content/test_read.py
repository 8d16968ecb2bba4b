"""Reading files through the memory network on virtual time: sharing, memory, time limits, local blocks first."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable
from contextlib import AbstractContextManager, aclosing, nullcontext
from typing import Any, TypeVar

import pytest

from shared.adapters.content.race import SourceOrder
from shared.adapters.content.read import BLOCKS_AHEAD, LOCAL, ContentReader, _Window
from shared.adapters.memory.content import ContentHub
from shared.constants import CHUNK_BYTES, HEDGE_SECONDS
from shared.content.cid import Block
from shared.errors import ContentCorrupt, ContentTooLarge, ContentUnavailable, SourceFailed
from shared.interfaces import Wanted
from shared.types import Address, Cid
from tests.content_support import OPERATORS, Blocks, content_of
from tests.simnet.virtual_time import run_virtual

T = TypeVar("T")
A, B, C = OPERATORS
LIMITS: dict[str, Any] = {"max_bytes": 1 << 30, "timeout_seconds": 10.0}


class CountingHub(ContentHub):
    """Notes what is asked of whom, and how many requests are open at most."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[tuple[Address, Cid]] = Counter()
        self.open = self.most_open = 0

    async def serve(self, owner: Address, cid: Cid) -> bytes:
        self.asked[owner, cid] += 1
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            return await super().serve(owner, cid)
        finally:
            self.open -= 1


@pytest.fixture
def hub() -> CountingHub:
    hub = CountingHub()
    for operator in OPERATORS:
        hub.join(operator)
    return hub


def hold(hub: ContentHub, owner: Address, blocks: Blocks) -> None:
    hub.blocks[owner].update(blocks)


def large_file(chunks: int) -> tuple[Blocks, Cid, bytes]:
    """Of different chunks, so that none is fetched twice for being the same."""
    content = b"".join(bytes([number]) * CHUNK_BYTES for number in range(chunks))
    blocks = Blocks()
    return blocks, blocks.file(content), content


async def failing(awaitable: Awaitable[T]) -> ContentUnavailable:
    with pytest.raises(ContentUnavailable) as raised:
        await awaitable
    return raised.value


# --- sharing -------------------------------------------------------------------------------------
def test_concurrent_gets_share_one_fetch(hub):
    blocks, cid, content = large_file(3)
    hold(hub, A, blocks)
    hub.delay(A, 0.1)

    async def main() -> None:
        store = hub.join(B)
        assert await asyncio.gather(*(store.get(cid, prefer=A, **LIMITS) for _ in range(20))) == [content] * 20

    run_virtual(main())
    assert set(hub.asked.values()) == {1}
    assert {asked for _, asked in hub.asked} == set(blocks)


def test_one_reader_gone_does_not_end_the_others(hub):
    blocks = Blocks()
    cid = blocks.file(b"content")
    hold(hub, A, blocks)
    hub.delay(A, 0.2)

    async def main() -> None:
        store = hub.join(B)
        first = asyncio.create_task(store.get(cid, prefer=A, **LIMITS))
        second = asyncio.create_task(store.get(cid, prefer=A, **LIMITS))
        await asyncio.sleep(0.1)
        first.cancel()
        assert await second == b"content"
        assert first.cancelled()

    run_virtual(main())
    assert hub.asked[A, cid] == 1


def test_the_last_reader_gone_ends_the_fetch_and_a_newcomer_starts_anew(hub):
    blocks = Blocks()
    cid = blocks.file(b"content")
    hold(hub, A, blocks)
    hub.delay(A, 0.2)

    async def main() -> None:
        store = hub.join(B)
        reader = asyncio.create_task(store.get(cid, prefer=A, **LIMITS))
        await asyncio.sleep(0.1)
        assert hub.open == 1
        reader.cancel()
        newcomer = asyncio.create_task(store.get(cid, prefer=A, **LIMITS))
        await asyncio.sleep(0.15)
        assert hub.open == 1
        assert await newcomer == b"content"
        assert hub.open == 0

    run_virtual(main())
    assert hub.asked[A, cid] == 2


def test_a_failure_is_told_to_everybody_who_waits(hub):
    cid = Blocks().file(b"nobody has it")

    async def main() -> None:
        store = hub.join(B)
        gets = (failing(store.get(cid, **LIMITS)) for _ in range(3))
        for error in await asyncio.gather(*gets):
            assert error.causes == {f"0x{A.hex()}": "does not have it", f"0x{C.hex()}": "does not have it"}

    run_virtual(main())


# --- memory and order ----------------------------------------------------------------------------
def test_a_large_file_is_fetched_a_few_blocks_at_a_time_and_each_once(hub):
    blocks, cid, content = large_file(20)
    hold(hub, A, blocks)
    hub.delay(A, 0.1)

    async def main() -> None:
        started = asyncio.get_running_loop().time()
        assert await hub.join(B).get(cid, prefer=A, **LIMITS) == content
        assert asyncio.get_running_loop().time() - started == pytest.approx(0.1 + 20 / 4 * 0.1)

    run_virtual(main())
    assert hub.most_open == BLOCKS_AHEAD == 4
    assert set(hub.asked.values()) == {1}


def test_a_slow_consumer_holds_no_more_than_a_few_blocks(hub):
    blocks, cid, _ = large_file(20)
    hold(hub, A, blocks)

    async def main() -> None:
        stream = hub.join(B).open(cid, prefer=A, **LIMITS)
        async with aclosing(stream):
            await anext(stream)
            await asyncio.sleep(5)
            assert len(hub.asked) == 1 + BLOCKS_AHEAD

    run_virtual(main())


def test_nodes_read_ahead_make_room_for_the_leaves_that_come_first(hub):
    """Four inner nodes over four leaves each: what was fetched too early is let go, not held and not fetched again."""
    blocks = Blocks()
    inner = []
    for number in range(4):
        leaves = [(blocks.leaf(bytes([number, leaf]) * 4096), 8192) for leaf in range(4)]
        inner.append((blocks.node(leaves), 4 * 8192))
    cid = blocks.node(inner)
    hold(hub, A, blocks)
    hub.delay(A, 0.05)
    content = blocks.read(cid)
    assert run_virtual(hub.join(B).get(cid, prefer=A, **LIMITS)) == content
    assert max(hub.asked.values()) == 1
    assert hub.most_open <= BLOCKS_AHEAD


def test_a_window_holds_the_blocks_of_its_place_and_no_others(hub):
    blocks, cid, _ = large_file(8)
    hold(hub, B, blocks)
    leaves = [leaf for leaf in blocks if leaf != cid]

    async def main() -> None:
        reader = hub.join(B)._reader
        window = _Window(reader, Wanted(cid, cid), SourceOrder(hub.join(B)._sources(None, None)))
        deadline = asyncio.get_running_loop().time() + 1
        for ahead in (leaves[:4], leaves[2:6], leaves[7:]):
            block, _ = await window.next(ahead, deadline)
            assert block.cid == ahead[0]
            assert list(window._flights) == ahead
        window.close()
        assert not window._flights

    run_virtual(main())


def test_a_reader_that_stops_early_leaves_nothing_running(hub):
    blocks, cid, _ = large_file(8)
    hold(hub, A, blocks)
    hub.delay(A, 0.05)

    async def main() -> None:
        store = hub.join(B)
        async with aclosing(store.open(cid, prefer=A, **LIMITS)) as stream:
            await anext(stream)
        await asyncio.sleep(0.01)  # cancelling takes a few steps
        assert hub.open == 0
        assert not store._reader._flights
        assert len(asyncio.all_tasks()) == 1
        assert cid not in hub.pins[B]

    run_virtual(main())


def test_a_silent_first_source_delays_the_first_blocks_only(hub):
    blocks, cid, content = large_file(40)
    hold(hub, C, blocks)
    hub.delay(A, math.inf)

    async def main() -> float:
        started = asyncio.get_running_loop().time()
        assert await hub.join(B).get(cid, prefer=A, **LIMITS) == content
        return asyncio.get_running_loop().time() - started

    assert run_virtual(main()) == pytest.approx(HEDGE_SECONDS)


# --- local blocks --------------------------------------------------------------------------------
def test_what_is_here_is_asked_of_nobody(hub):
    blocks, cid, content = large_file(3)
    hold(hub, A, blocks)
    hold(hub, B, blocks)
    assert run_virtual(hub.join(B).get(cid, prefer=A, **LIMITS)) == content
    assert not hub.asked
    assert hub.pins[B][cid].keep_until == 0.0  # whoever put it here did not say that it stays


def test_only_the_missing_block_is_fetched_and_then_the_file_is_pinned(hub):
    blocks, cid, content = large_file(5)
    hold(hub, A, blocks)
    hold(hub, B, blocks)
    missing = list(blocks)[2]
    del hub.blocks[B][missing]
    assert run_virtual(hub.join(B).get(cid, prefer=A, **LIMITS)) == content
    assert hub.asked == {(A, missing): 1}
    assert hub.pins[B][cid].size == len(content)


def test_a_file_that_turns_out_corrupt_or_too_large_is_not_pinned(hub):
    blocks = Blocks()
    corrupt = blocks.node([(blocks.leaf(b"leaf"), 5)])
    large = blocks.file(content_of(1001))
    hold(hub, A, blocks)

    async def main() -> None:
        store = hub.join(B)
        with pytest.raises(ContentCorrupt):
            await store.get(corrupt, prefer=A, **LIMITS)
        with pytest.raises(ContentTooLarge):
            await store.get(large, max_bytes=1000, timeout_seconds=1, prefer=A)

    run_virtual(main())
    assert hub.pins[B] == {}


def test_a_corrupt_block_decides_before_an_unavailable_one_behind_it(hub):
    """Every honest reader must come to the same end, whatever it could fetch of the rest."""
    blocks = Blocks()
    cid = blocks.node([(blocks.leaf(b"leaf"), 5), (blocks.leaf(b"missing"), 7)])
    hold(hub, A, blocks)
    hub.withhold(A, blocks.leaf(b"missing"))

    async def main() -> None:
        with pytest.raises(ContentCorrupt):
            await hub.join(B).get(cid, prefer=A, **LIMITS)

    run_virtual(main())


class _NoDisk:
    """Local blocks of a node whose disk fails in one way."""

    def __init__(self, **failing: str) -> None:
        self._failing = failing

    async def read(self, cid: Cid) -> Block | None:
        return self._fail("read")

    async def write(self, block: Block) -> None:
        self._fail("write")

    def hold(self, root: Cid) -> AbstractContextManager[None]:
        return nullcontext()

    async def begin(self, root: Cid) -> None:
        self._fail("begin")

    async def keep(self, root: Cid, size: int, keep_until: float) -> None:
        self._fail("keep")

    def _fail(self, call: str) -> None:
        if call in self._failing:
            raise SourceFailed(self._failing[call])


@pytest.mark.parametrize("call", ["write", "keep"])
def test_what_cannot_be_kept_is_unavailable(hub, call):
    """Not a word against whoever made it: the trouble is ours."""
    blocks = Blocks()
    cid = blocks.file(b"content")
    hold(hub, A, blocks)
    reader = ContentReader(_NoDisk(**{call: "No space left on device"}), hub.join(B)._sources)

    async def main() -> None:
        error = await failing(reader.get(cid, prefer=A, **LIMITS))
        assert error.causes[LOCAL] == "No space left on device"

    run_virtual(main())


def test_a_block_that_the_disk_cannot_give_is_fetched(hub):
    blocks = Blocks()
    cid = blocks.file(b"content")
    hold(hub, A, blocks)

    async def main() -> None:
        reader = ContentReader(_NoDisk(read="damaged"), hub.join(B)._sources)
        assert await reader.get(cid, prefer=A, **LIMITS) == b"content"
        hub.withhold(A, cid)
        error = await failing(reader.get(cid, prefer=A, **LIMITS))
        assert error.causes[LOCAL] == "damaged"

    run_virtual(main())


# --- time ----------------------------------------------------------------------------------------
def test_time_runs_out_to_the_second_and_says_what_each_source_was_at(hub):
    cid = Blocks().file(b"content")
    hub.delay(A, math.inf)

    async def main() -> None:
        started = asyncio.get_running_loop().time()
        error = await failing(hub.join(B).get(cid, max_bytes=10, timeout_seconds=2.5, prefer=A))
        assert asyncio.get_running_loop().time() - started == pytest.approx(2.5)
        assert error.cid == cid
        assert error.causes == {f"0x{A.hex()}": "no whole block in time", f"0x{C.hex()}": "does not have it"}
        await asyncio.sleep(0.01)  # cancelling takes a few steps
        assert hub.open == 0

    run_virtual(main())


def test_the_limit_is_for_the_whole_file(hub):
    blocks, cid, _ = large_file(40)
    hold(hub, A, blocks)
    hub.delay(A, 0.2)

    async def main() -> None:
        started = asyncio.get_running_loop().time()
        error = await failing(hub.join(B).get(cid, max_bytes=1 << 30, timeout_seconds=1.0, prefer=A))
        assert error.cid == cid
        assert asyncio.get_running_loop().time() - started == pytest.approx(1.0)

    run_virtual(main())


def test_each_reader_has_its_own_limit(hub):
    blocks = Blocks()
    cid = blocks.file(b"content")
    hold(hub, A, blocks)
    hub.delay(A, 2.0)

    async def main() -> None:
        store = hub.join(B)
        hasty = asyncio.create_task(failing(store.get(cid, max_bytes=10, timeout_seconds=1.0, prefer=A)))
        assert await store.get(cid, max_bytes=10, timeout_seconds=3.0, prefer=A) == b"content"
        await hasty

    run_virtual(main())
    assert hub.asked[A, cid] == 1


def test_closing_ends_reads_as_unavailable(hub):
    cid = Blocks().file(b"content")
    hub.delay(A, math.inf)

    async def main() -> None:
        reader = hub.join(B)._reader
        reading = asyncio.create_task(failing(reader.get(cid, prefer=A, **LIMITS)))
        await asyncio.sleep(1)
        await reader.close()
        assert (await reading).causes[LOCAL] == "closed"
        assert (await failing(reader.get(cid, prefer=A, **LIMITS))).causes == {LOCAL: "closed"}
        assert hub.open == 0

    run_virtual(main())


def test_closing_cancels_nobody_whose_fetch_is_about_to_begin(hub):
    cid = Blocks().file(b"content")

    async def main() -> None:
        reader = hub.join(B)._reader
        reading = asyncio.create_task(failing(reader.get(cid, prefer=A, **LIMITS)))
        closing = asyncio.create_task(reader.close())  # its turn comes after the reader's, and before the fetch's
        await closing
        assert (await reading).causes[LOCAL] == "closed"

    run_virtual(main())
