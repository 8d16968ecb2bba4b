"""The own Kubo as a source: what the IPFS network has, and whom it may dial for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from shared.adapters.content.kubo import source as module
from shared.adapters.content.kubo.rpc import KuboRpc
from shared.adapters.content.kubo.source import KuboSource
from shared.constants import MAX_SOURCES
from shared.content.cid import Codec, make_block, parse_cid
from shared.errors import SourceFailed
from shared.interfaces import Meter, Wanted
from shared.reasons import SourceFault
from shared.types import Ref, SourceKind
from tests.content_support import until
from tests.kubo_support import FakeKubo

LEAF = make_block(Codec.RAW, b"leaf")
REF = Ref(LEAF.cid, 4, "unixfs-v1-2025", ("/dns/a.example/tcp/4001/p2p/A", "/dns/b.example/tcp/4001/p2p/B"))
WANTED = Wanted(LEAF.cid, LEAF.cid, REF)


@pytest.fixture
async def kubo() -> AsyncIterator[FakeKubo]:
    async with FakeKubo().serving() as kubo:
        yield kubo


@pytest.fixture
async def rpc(kubo: FakeKubo) -> AsyncIterator[KuboRpc]:
    async with KuboRpc(kubo.url) as rpc:
        yield rpc


def named(ref: Ref | None) -> Sequence[str]:
    return ref.sources if ref is not None else ()


async def connected(source: KuboSource, kubo: FakeKubo, wanted: Wanted = WANTED) -> list[str]:
    """Whom one fetch connects to: the network has the block as soon as it has."""
    before = len(kubo.connected)
    kubo.blocks.clear()
    kubo.network.clear()
    fetching = asyncio.create_task(source.fetch(wanted, Meter()))
    await until(lambda: len(kubo.called("block/get")) == len(kubo.called("version")) + 1, "the block is not asked for")
    await until(lambda: not kubo.at_once["swarm/connect"], "connecting does not end")
    kubo.network[parse_cid(LEAF.cid)[1]] = LEAF.data
    assert await fetching == LEAF
    kubo.calls.clear()
    return kubo.connected[before:]


async def test_a_block_of_the_network_is_fetched(kubo, rpc):
    source, meter = KuboSource(rpc), Meter()
    assert (source.name, source.kind) == ("own Kubo", SourceKind.KUBO)
    kubo.network[parse_cid(LEAF.cid)[1]] = LEAF.data
    assert await source.fetch(WANTED, meter) == LEAF
    assert meter.received_bytes == 4
    assert kubo.called("block/get")[0]["offline"] == "false"
    assert kubo.connected == []  # nobody said who may be dialled


async def test_what_nobody_has_is_given_up_in_time(kubo, rpc, monkeypatch):
    monkeypatch.setattr(module, "ATTEMPT_SECONDS", 0.2)
    with pytest.raises(SourceFailed) as failed:
        await KuboSource(rpc).fetch(WANTED, Meter())
    assert failed.value.fault is SourceFault.SLOW


async def test_wrong_bytes_are_refused(kubo, rpc):
    kubo.network[parse_cid(LEAF.cid)[1]] = LEAF.data
    kubo.forged[LEAF.cid] = b"fael"
    with pytest.raises(SourceFailed) as failed:
        await KuboSource(rpc).fetch(WANTED, Meter())
    assert failed.value.fault is SourceFault.WRONG_BYTES


async def test_named_peers_are_dialled_once_a_minute(kubo, rpc, monkeypatch):
    source = KuboSource(rpc, named)
    assert sorted(await connected(source, kubo)) == sorted(REF.sources)
    assert await connected(source, kubo) == []
    monkeypatch.setattr(module, "CONNECT_AGAIN_SECONDS", 0.0)
    assert sorted(await connected(source, kubo)) == sorted(REF.sources)
    assert await connected(source, kubo, Wanted(LEAF.cid, LEAF.cid)) == []


async def test_only_those_that_may_be_dialled_are(kubo, rpc):
    source = KuboSource(rpc, lambda ref: [address for address in named(ref) if "/a.example/" in address])
    assert await connected(source, kubo) == [REF.sources[0]]


async def test_whom_one_file_makes_it_dial_is_bounded(kubo, rpc, monkeypatch):
    monkeypatch.setattr(module, "MAX_REMEMBERED", 4)
    source = KuboSource(rpc, lambda _: [f"/dns/a.example/tcp/{port}/p2p/A" for port in range(100)] * 2)
    assert len(await connected(source, kubo)) == MAX_SOURCES
    assert len(source._dialled) == 4


async def test_a_peer_that_is_not_there_harms_nothing(kubo, rpc):
    kubo.network[parse_cid(LEAF.cid)[1]] = LEAF.data
    for address in ("/ip4/127.0.0.1/tcp/1/p2p/refuses", "no multiaddr"):
        assert await KuboSource(rpc, lambda _, address=address: [address]).fetch(WANTED, Meter()) == LEAF


async def test_a_peer_that_is_silent_is_not_waited_for(kubo, rpc):
    kubo.stalled.add("swarm/connect")
    kubo.network[parse_cid(LEAF.cid)[1]] = LEAF.data
    assert await KuboSource(rpc, named).fetch(WANTED, Meter()) == LEAF


async def test_cancelled_it_ends_at_once(kubo, rpc):
    kubo.stalled.add("swarm/connect")
    fetching = asyncio.create_task(KuboSource(rpc, named).fetch(WANTED, Meter()))
    await until(lambda: kubo.at_once.total() == 3, "it does not ask")
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    assert [task for task in asyncio.all_tasks() if "_connect" in repr(task)] == []
