"""Publishing to Kubo: PINNED is what the node lists as pinned, under the CID that is ours."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

import pytest
from aiohttp import web

from shared.adapters.content.archive import archive
from shared.adapters.content.kubo.publisher import KuboPublisher
from shared.adapters.content.kubo.rpc import KuboRpc
from shared.constants import CHUNK_BYTES
from shared.content.cid import Block
from shared.errors import ContentUnavailable, PublishFailed
from shared.interfaces import PublishState, Receipt
from shared.types import Cid, Ref
from tests.content_support import Blocks, content_of
from tests.kubo_support import FakeKubo

DATA = content_of(2 * CHUNK_BYTES + 1)


class Held:
    """A `LocalContent`."""

    def __init__(self) -> None:
        self.blocks = Blocks()
        self.ref = Ref(self.blocks.file(DATA), len(DATA), "unixfs-v1-2025")

    async def read(self, cid: Cid) -> AsyncGenerator[bytes, None]:
        yield self.blocks.read(cid, max_bytes=1 << 30)

    def archive(self, cid: Cid) -> AsyncGenerator[bytes, None]:
        return archive(cid, self._held)

    async def _held(self, cid: Cid) -> Block:
        if cid not in self.blocks:
            raise ContentUnavailable(cid, {"local store": "does not have it"})
        return self.blocks[cid]


@pytest.fixture
async def kubo() -> AsyncIterator[FakeKubo]:
    async with FakeKubo().serving() as kubo:
        yield kubo


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
async def publisher(kubo: FakeKubo, held: Held) -> AsyncIterator[KuboPublisher]:
    async with KuboRpc(kubo.url) as rpc:
        yield KuboPublisher(rpc, held)


def pinned(ref: Ref) -> Receipt:
    return Receipt("kubo", ref.cid, ref.cid, PublishState.PINNED)


async def test_the_blocks_are_imported_and_pinned(kubo, held, publisher):
    assert publisher.name == "kubo"
    assert await publisher.publish(held.ref) == pinned(held.ref)
    assert kubo.pins == {held.ref.cid}
    assert all(kubo.has(cid) for cid in held.blocks)


async def test_again_sends_nothing(kubo, held, publisher):
    await publisher.publish(held.ref)
    assert await publisher.publish(held.ref) == pinned(held.ref)
    assert len(kubo.called("dag/import")) == 1


async def test_the_status_is_what_the_node_lists(kubo, held, publisher):
    receipt = await publisher.publish(held.ref)
    assert await publisher.status(receipt) == receipt
    kubo.pins.clear()
    assert await publisher.status(receipt) == Receipt("kubo", held.ref.cid, held.ref.cid, PublishState.FAILED)


async def test_what_is_not_listed_afterwards_is_not_pinned(kubo, held, publisher):
    said = {"Root": {"Cid": {"/": held.ref.cid}, "PinErrorMsg": ""}}
    kubo.answers["dag/import"] = lambda: web.json_response(said)
    with pytest.raises(PublishFailed, match="does not list it as pinned") as failed:
        await publisher.publish(held.ref)
    assert failed.value.is_final is False


async def test_a_node_that_takes_no_archive_gets_the_bytes(kubo, held, publisher):
    kubo.answers["dag/import"] = lambda: web.Response(status=404, text="404 page not found")
    assert await publisher.publish(held.ref) == pinned(held.ref)
    assert len(kubo.called("add")) == 1
    assert all(kubo.has(cid) for cid in held.blocks)


async def test_bytes_that_got_another_cid_are_not_published(kubo, held, publisher):
    kubo.answers["dag/import"] = lambda: web.Response(status=404)
    other = Blocks().leaf(b"other")
    kubo.renamed[held.ref.cid] = other
    with pytest.raises(PublishFailed, match=f"add made '{other}' of {held.ref.cid}") as failed:
        await publisher.publish(held.ref)
    assert failed.value.is_final


async def test_a_file_of_an_unknown_profile_is_never_sent_as_bytes(kubo, held, publisher):
    kubo.answers["dag/import"] = lambda: web.Response(status=404)
    with pytest.raises(PublishFailed, match="dag/import"):
        await publisher.publish(Ref(held.ref.cid, held.ref.size, "somebody-elses"))
    assert kubo.called("add") == []


@pytest.mark.parametrize(("status", "is_final"), [(403, True), (404, True), (502, False), (503, False), (504, False)])
async def test_refusals_are_final_and_a_busy_node_is_not(kubo, held, publisher, status, is_final):
    kubo.answers["pin/ls"] = lambda: web.Response(status=status)
    with pytest.raises(PublishFailed) as failed:
        await publisher.publish(held.ref)
    assert failed.value.is_final is is_final


async def test_an_archive_that_a_proxy_lost_is_sent_again_later_and_not_as_bytes(kubo, held, publisher):
    kubo.answers["dag/import"] = lambda: web.Response(status=502, text="<html>bad gateway</html>")
    with pytest.raises(PublishFailed, match="HTTP status 502") as failed:
        await publisher.publish(held.ref)
    assert failed.value.is_final is False
    assert kubo.called("add") == []


async def test_a_block_that_is_missing_here_is_not_the_nodes_fault(held, publisher):
    held.blocks.popitem()
    with pytest.raises(ContentUnavailable):
        await publisher.publish(held.ref)
