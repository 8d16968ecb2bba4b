"""What reading content is told of, and what a node's metrics make of it."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from shared.adapters.content.counts import MAX_ROOTS, ContentCounts
from shared.adapters.content.gateway import Outcome
from shared.adapters.content.read import ContentReader
from shared.adapters.content.store import EmbeddedContentStore
from shared.adapters.content.watch import ReadEnd
from shared.adapters.memory.content import ContentHub
from shared.config import PUBLISHERS
from shared.constants import CHUNK_BYTES, HEDGE_SECONDS
from shared.content.cid import Codec, make_block
from shared.content.unixfs import cid_of
from shared.errors import ContentError
from shared.interfaces import PublishState, Swept, Wanted
from shared.keeping import CACHE
from shared.metrics import LABELS, Metrics
from shared.types import Address, Cid
from tests.content_support import OPERATORS, Blocks, content_of, serving
from tests.simnet.virtual_time import run_virtual

A, B, C = OPERATORS
SIZE = 3 * CHUNK_BYTES
CONTENT = content_of(SIZE)


class Watched:
    """B's reader on a hub where A has the file, and what its metrics say."""

    def __init__(self) -> None:
        self.hub, self.metrics = ContentHub(), Metrics("attester")
        for operator in OPERATORS:
            self.hub.join(operator)
        blocks = Blocks()
        self.root = blocks.file(CONTENT)
        self.hub.blocks[A].update(blocks)
        self.bytes = sum(len(block.data) for block in blocks.values())
        self.counts = ContentCounts(self.metrics)
        store = self.hub.join(B)
        self.reader = ContentReader(store.local, store._sources, self.counts)

    async def read(self, cid: Cid | None = None, prefer: Address | None = A, max_bytes: int = SIZE) -> None:
        with contextlib.suppress(ContentError):
            await self.reader.get(cid or self.root, max_bytes=max_bytes, timeout_seconds=5.0, prefer=prefer)

    def counted(self, name: str) -> dict[tuple[str, ...], float]:
        """A metric's values by its labels' values, sorted by their names; those that are not zero."""
        body, _ = self.metrics.exposition()
        return {
            tuple(value for _, value in sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(body.decode())
            for sample in family.samples
            if sample.name == name and sample.value
        }


def watch(scenario: Callable[[Watched], Any]) -> Watched:
    watched = Watched()

    async def main() -> None:
        await scenario(watched)

    run_virtual(main())
    return watched


# --- reads -------------------------------------------------------------------------------------------
async def twice(watched: Watched) -> None:
    await watched.read()
    await watched.read()


def test_what_was_fetched_is_a_hit_the_next_time() -> None:
    watched = watch(twice)
    assert watched.counted("poi_content_reads_total") == {("fetched",): 1, ("hit",): 1}
    assert watched.counted("poi_content_fetched_bytes_total") == {("performer",): watched.bytes}
    assert watched.counted("poi_content_fetch_seconds_count") == {("performer",): 4}
    assert watched.counted("poi_content_refusals_total") == {}
    assert watched.counts.source_of(watched.root) == f"0x{A.hex()}"
    assert watched.counts.source_of(Cid("another")) is None


async def wrong(watched: Watched) -> None:
    broken = make_block(Codec.DAG_PB, b"not dag-pb")
    watched.hub.blocks[A][broken.cid] = broken
    await watched.read(broken.cid)
    await watched.read(max_bytes=SIZE - 1)


def test_what_is_provably_wrong_is_counted_as_that() -> None:
    assert watch(wrong).counted("poi_content_reads_total") == {("wrong",): 2}


async def absent(watched: Watched) -> None:
    watched.hub.withhold(A, watched.root)
    watched.hub.forge(C, watched.root, b"other bytes")
    await watched.read()


def test_refusals_are_counted_by_source_and_fault() -> None:
    watched = watch(absent)
    assert watched.counted("poi_content_reads_total") == {("unavailable",): 1}
    assert watched.counted("poi_content_refusals_total") == {
        ("not_found", "performer"): 1,
        ("wrong_bytes", "operator"): 1,
    }
    assert watched.counted("poi_content_fetched_bytes_total") == {}


async def raced(watched: Watched) -> None:
    watched.hub.blocks[C].update(watched.hub.blocks[A])
    watched.hub.delay(A, math.inf)
    await watched.read(watched.root)


def test_a_source_that_lost_the_race_neither_delivered_nor_refused() -> None:
    watched = watch(raced)
    assert watched.counted("poi_content_fetched_bytes_total") == {("operator",): watched.bytes}
    assert watched.counted("poi_content_refusals_total") == {}
    assert HEDGE_SECONDS < 5.0


async def abandoned(watched: Watched) -> None:
    watched.hub.delay(A, 1.0)
    read = asyncio.create_task(watched.read())
    await asyncio.sleep(0.1)
    read.cancel()
    await asyncio.gather(read, return_exceptions=True)


def test_a_read_that_nobody_waits_for_has_no_end() -> None:
    assert watch(abandoned).counted("poi_content_reads_total") == {}


# --- the rest ----------------------------------------------------------------------------------------
def test_what_others_tell_is_counted() -> None:
    watched = Watched()
    watched.counts.served("car", 1000, "served")
    watched.counts.served("none", 0, "refused")
    watched.counts.swept(Swept(blocks=2, bytes=500))
    watched.metrics.publications.add(publisher="pinata", state=PublishState.PINNED)
    watched.counts.hold(700, 1000)
    assert watched.counted("poi_gateway_served_bytes_total") == {("car",): 1000}
    assert watched.counted("poi_gateway_requests_total") == {("served", "car"): 1, ("refused", "none"): 1}
    assert watched.counted("poi_content_swept_bytes_total") == {(): 500}
    assert watched.counted("poi_performer_publications_total") == {("pinata", "pinned"): 1}
    assert (watched.counted("poi_content_held_bytes"), watched.counted("poi_content_quota_bytes")) == (
        {(): 700},
        {(): 1000},
    )
    watched.counts.hold(700, None)
    assert watched.counted("poi_content_quota_bytes") == {(): math.inf}


def test_the_label_sets_follow_the_code() -> None:
    assert LABELS["read"] == set(ReadEnd)
    assert LABELS["answer"] == set(Outcome)
    assert LABELS["state"] == set(PublishState)
    assert LABELS["publisher"] == set(PUBLISHERS)


def test_the_last_sources_of_a_few_files_are_remembered() -> None:
    watched = Watched()
    source = watched.hub.join(B)._sources(A, None)[0]
    for number in range(MAX_ROOTS + 1):
        cid = Cid(str(number))
        watched.counts.delivered(source, Wanted(cid, cid), 1, 0.1)
    assert watched.counts.source_of(Cid("0")) is None
    assert watched.counts.source_of(Cid(str(MAX_ROOTS))) == f"0x{A.hex()}"


async def test_what_the_gateway_serves_is_counted(tmp_path: Path) -> None:
    metrics = Metrics("performer")
    counts = ContentCounts(metrics)
    async with EmbeddedContentStore(root=tmp_path, gateways=dict, own=A, watch=counts) as store:
        cid = (await store.add(b"content")).cid
        async with serving(store.routes()) as url, aiohttp.ClientSession() as session:
            for name in (cid, cid_of(b"absent")):
                async with session.get(f"{url}/ipfs/{name}", params={"format": "raw"}) as response:
                    await response.read()
        counts.hold(store.embedded.files.held_bytes, 100)
        await store.unpin(cid)
        await store.collect()
    body = metrics.exposition()[0].decode()
    assert 'poi_gateway_served_bytes_total{form="raw"} 7.0' in body
    assert "poi_content_held_bytes 7.0" in body
    assert "poi_content_swept_bytes_total 7.0" in body
    assert 'poi_gateway_requests_total{answer="served",form="raw"} 1.0' in body
    assert 'poi_gateway_requests_total{answer="absent",form="raw"} 1.0' in body


# --- use stamps --------------------------------------------------------------------------------------
@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[EmbeddedContentStore]:
    async with EmbeddedContentStore(root=tmp_path, gateways=dict, own=A) as opened:
        yield opened


async def test_a_touch_stamps_what_is_here_and_promises_nothing(store: EmbeddedContentStore) -> None:
    touched = (await store.add(b"touched", keep_until=CACHE)).cid
    other = (await store.add(b"other", keep_until=CACHE)).cid
    before = {pin.cid: pin for pin in await store.pins()}
    await store.touch({touched, Cid("bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku")})
    after = {pin.cid: pin for pin in await store.pins()}
    assert after[other] == before[other]
    assert after[touched].used_at > before[touched].used_at
    assert after[touched].keep_until == CACHE
    assert after.keys() == before.keys()
