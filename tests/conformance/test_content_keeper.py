"""One suite for every `ContentKeeper`: pins that never shorten, and files read through block by block."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shared.constants import CHUNK_BYTES
from shared.content.unixfs import cid_of
from shared.errors import ContentCorrupt, ContentUnavailable
from shared.types import FOREVER, Cid
from tests.content_support import LIMIT_SECONDS, Blocks, EmbeddedNetwork, MemoryNetwork, Network, content_of

LIMITS: dict[str, Any] = {"max_bytes": 1 << 24, "timeout_seconds": LIMIT_SECONDS}
DATA = content_of(3 * CHUNK_BYTES)
LEAVES = [cid_of(DATA[start : start + CHUNK_BYTES]) for start in range(0, len(DATA), CHUNK_BYTES)]
LATER = 4e9  # unix seconds


@pytest.fixture(params=["embedded", "memory"])
async def network(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Network]:
    network: Network = EmbeddedNetwork(tmp_path) if request.param == "embedded" else MemoryNetwork()
    yield network
    await network.close()


async def kept(store) -> dict[Cid, tuple[int | None, float]]:
    return {pin.cid: (pin.size, pin.keep_until) for pin in await store.pins()}


async def test_a_pin_lasts_and_never_shortens(network):
    store = await network.start(0)
    cid = (await store.add(DATA, keep_until=0.0)).cid
    for keep_until, promised in ((LATER, LATER), (1.0, LATER), (FOREVER, FOREVER), (LATER, FOREVER)):
        await store.pin(cid, keep_until=keep_until)
        assert await kept(store) == {cid: (len(DATA), promised)}
    store = await network.restart(0)
    assert await kept(store) == {cid: (len(DATA), FOREVER)}


async def test_blocks_that_came_without_a_promise_are_pinned_as_a_file(network):
    store, blocks = await network.start(0), Blocks()
    cid = blocks.file(DATA)
    await network.plant(0, blocks)
    assert await kept(store) == {}
    assert await store.size_of(cid) == len(DATA)
    await store.pin(cid)
    assert await kept(store) == {cid: (len(DATA), FOREVER)}


async def test_what_is_not_all_here_is_not_pinned(network):
    store, blocks = await network.start(0), Blocks()
    cid = blocks.file(DATA)
    assert await store.size_of(cid) is None
    with pytest.raises(ContentUnavailable) as absent:
        await store.pin(cid)
    assert absent.value.causes == {"local store": "not all of it is here"}
    del blocks[LEAVES[1]]
    await network.plant(0, blocks)
    with pytest.raises(ContentUnavailable):
        await store.pin(cid)
    assert await kept(store) == {}


async def test_missing_blocks_are_named_in_the_file_s_order_until_they_are_back(network):
    store, other = await network.start(0), await network.start(1)
    cid = (await store.add(DATA)).cid
    await other.add(DATA)
    assert list(await store.verify(cid)) == []
    for leaf in (LEAVES[2], LEAVES[0]):
        await network.drop(0, leaf)
    assert list(await store.verify(cid)) == [LEAVES[0], LEAVES[2]]
    assert await store.get(cid, **LIMITS) == DATA
    assert list(await store.verify(cid)) == []
    await network.drop(0, cid)
    assert list(await store.verify(cid)) == [cid]  # what hangs on it is not known


async def test_a_dag_that_is_no_file_is_neither_pinned_nor_sound(network):
    store, blocks = await network.start(0), Blocks()
    wrong = blocks.node([(blocks.leaf(b"leaf"), 4)], size=5)
    await network.plant(0, blocks)
    for call in (store.verify, store.size_of):
        with pytest.raises(ContentCorrupt, match="do not add up"):
            await call(wrong)
    with pytest.raises(ContentCorrupt):
        await store.pin(wrong)
    assert await kept(store) == {}
