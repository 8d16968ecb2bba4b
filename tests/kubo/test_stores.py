"""The suite of all content stores over real Kubo nodes: what one operator's node has, the others' fetch by bitswap."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from poi.testnet.kubo.daemon import Ready
from poi.testnet.kubo.process import KuboProcess
from shared.adapters.content.kubo.blocks import KuboBlocks
from shared.adapters.content.kubo.rpc import KuboRpc
from shared.adapters.content.kubo.source import KuboSource, Peers
from shared.adapters.content.store import NodeContentStore
from shared.content.unixfs import UNIXFS_V1_CLASSIC
from shared.errors import ContentUnavailable
from shared.interfaces import Source
from shared.types import Address, Cid, Ref
from tests.conformance import test_content as suite
from tests.content_support import LIMIT_SECONDS, OPERATORS, Blocks, EmbeddedNetwork, content_of
from tests.real_kubo import ask, read_repo

MIB = 1 << 20
LIMITS = {"max_bytes": 1 << 30, "timeout_seconds": LIMIT_SECONDS}


async def open_store(stack: AsyncExitStack, node: Ready, folder: Path, peers: Peers = lambda _: ()) -> NodeContentStore:
    """Nothing but Kubo: its blocks, and its network as the one source."""
    api = KuboRpc(node.url)
    source = KuboSource(api, peers)

    def sources(prefer: Address | None, ref: Ref | None) -> Sequence[Source]:
        del prefer, ref
        return [source]

    return await stack.enter_async_context(NodeContentStore(KuboBlocks(api, folder), sources))


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


# --- the suite of all content stores -------------------------------------------------------------
class BitswapNetwork(EmbeddedNetwork):
    """Three operators without gateways. The nodes outlive a test; what the stores know of them does not."""

    def __init__(self, root: Path, nodes: list[Ready]) -> None:
        super().__init__(root)
        self._nodes = nodes

    async def start(self, index: int) -> NodeContentStore:
        stack = self._stacks[index] = AsyncExitStack()
        others = tuple(node.address for node in self._nodes if node is not self._nodes[index])
        folder = self._root / str(index)
        store = self._stores[index] = await open_store(stack, self._nodes[index], folder, lambda _: others)
        return store

    async def plant(self, index: int, blocks: Blocks) -> None:
        for block in blocks.values():
            codec = "raw" if block.cid.startswith("bafkrei") else "dag-pb"
            await asyncio.to_thread(ask, self._nodes[index], "block/put", upload=block.data, cid_codec=codec)

    async def drop(self, index: int, cid: Cid) -> None:
        raise NotImplementedError("Kubo would not notice")


@pytest.fixture(scope="module")
def three(launch, tmp_path_factory: pytest.TempPathFactory) -> list[Ready]:
    processes: list[KuboProcess] = [launch(tmp_path_factory.mktemp("kubo", numbered=True)) for _ in OPERATORS]
    return [process.wait() for process in processes]


@pytest.fixture
async def network(tmp_path: Path, three: list[Ready]) -> AsyncIterator[BitswapNetwork]:
    network = BitswapNetwork(tmp_path, three)
    yield network
    await network.close()


@pytest.fixture
async def stores(network: BitswapNetwork) -> list[NodeContentStore]:
    return [await network.start(index) for index in range(3)]


async def test_what_one_adds_all_get_and_have_from_then_on(network, stores):
    for size in suite.SIZES:
        await suite.test_what_one_adds_all_get_and_have_from_then_on(network, stores, size)


async def test_limits_are_exact(stores):
    for size in suite.SIZES[1:]:
        await suite.test_the_limit_is_exact_for_own_content_and_others(stores, size)


@pytest.mark.parametrize(
    "promise",
    [
        suite.test_adding_again_changes_nothing,
        suite.test_content_outlives_its_process,
        suite.test_unpinned_content_may_go_and_nothing_else,
        suite.test_files_of_other_builders_are_read,
        suite.test_a_node_that_is_no_file_is_corrupt,
        suite.test_a_child_of_another_size_than_its_parent_says_is_corrupt,
        suite.test_a_get_that_is_cancelled_harms_nobody,
    ],
    ids=lambda promise: promise.__name__.removeprefix("test_"),
)
async def test_it_keeps_the_promises_of_every_store(network, stores, promise):
    await promise(network, stores)


@pytest.mark.parametrize(
    "promise",
    [suite.test_chunks_come_in_order, suite.test_many_get_the_same_and_different_content_at_once],
    ids=lambda promise: promise.__name__.removeprefix("test_"),
)
async def test_it_keeps_the_promises_of_stores_that_need_no_network(stores, promise):
    await promise(stores)


# --- of Kubo alone -------------------------------------------------------------------------------
async def test_a_reference_says_where_to_fetch_from(launch, stack, tmp_path):
    """Two nodes that have never heard of each other."""
    nodes = [process.wait() for process in [launch(tmp_path / name) for name in "ab"]]
    performer = await open_store(stack, nodes[0], tmp_path / "performer")
    attester = await open_store(stack, nodes[1], tmp_path / "attester", lambda ref: ref.sources if ref else ())
    data = content_of(10 * MIB)
    ref = await performer.add(data, profile=UNIXFS_V1_CLASSIC)
    signed = Ref(ref.cid, ref.size, ref.profile, (nodes[0].address,))
    assert await attester.get(ref.cid, **LIMITS, ref=signed, keep_until=float("inf")) == data
    assert read_repo(nodes[1], ref.cid)[0] == data
    assert ask(nodes[1], "pin/ls", arg=ref.cid, type="recursive")["Keys"] == {ref.cid: {"Type": "recursive"}}


async def test_what_nobody_has_is_unavailable_in_time_and_kubo_is_named(stack, pair, tmp_path):
    store = await open_store(stack, pair.a, tmp_path)
    started = asyncio.get_running_loop().time()
    with pytest.raises(ContentUnavailable) as failed:
        await store.get(Blocks().leaf(b"nobody has it, by Kubo"), max_bytes=100, timeout_seconds=0.5)
    assert 0.4 < asyncio.get_running_loop().time() - started < 5
    assert set(failed.value.causes) == {"own Kubo"}
    ref = await store.add(b"it is none the worse for it")
    assert await store.get(ref.cid, **LIMITS) == b"it is none the worse for it"


async def test_a_node_that_is_gone_is_named_as_gone(launch, stack, tmp_path):
    process = launch(tmp_path / "repo")
    store = await open_store(stack, process.wait(), tmp_path / "store")
    ref = await store.add(b"content")
    process.kill()
    with pytest.raises(ContentUnavailable) as failed:
        await store.get(ref.cid, **LIMITS)
    assert all("does not answer" in cause for cause in failed.value.causes.values())
