"""How the beacon of an epoch is found, how often it is asked for, and what reorgs and stingy nodes do to it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import pytest
from structlog.testing import capture_logs

from shared.adapters.chain_evm.abi import tables_abi
from shared.adapters.chain_evm.beacons import MAX_EPOCHS, SEARCH_AGAIN_SECONDS, Beacons
from shared.adapters.chain_evm.client import EvmClient, Refused
from shared.adapters.chain_evm.events import WINDOW_BLOCKS
from shared.adapters.chain_evm.wire import NO_RANDOMNESS, Block, Log
from shared.adapters.terms import Deployment
from shared.errors import ChainUnavailable
from shared.types import Address, Digest
from tests.chain_support import EQUAL, AnvilChain, open_chain
from tests.listening import virtual

TABLES = Address(b"\x11" * 20)
NOBODY = Address(bytes(20))
TOPIC = tables_abi().topic("EpochRolled")


def digest(*parts: object) -> Digest:
    return Digest(hashlib.sha256(repr(parts).encode()).digest())


@dataclass
class ScriptedNode:
    """As much of `EvmClient` as the search uses, over a chain as long as the test says, with rolls where it says."""

    head_number: int
    rolls: dict[int, int] = field(default_factory=dict)  # epoch: block
    branch: int = 0
    epoch: int | None = None  # of now, where it is not the newest roll's
    most_blocks: int = 10**9  # in a range of logs
    refusal: ChainUnavailable = field(default_factory=lambda: Refused(-32005, "the range is too large"))
    is_pruned: bool = False  # it has no events any more
    is_fixed: bool = False  # the chain has no randomness
    forks_after_logs: bool = False  # a reorg comes right then
    asked: list[tuple[int, int]] = field(default_factory=list)  # ranges of logs
    questions: int = 0

    async def current_epoch(self) -> int:
        self.questions += 1
        return max(self.rolls, default=0) if self.epoch is None else self.epoch

    async def head(self) -> Block:
        self.questions += 1
        return self._block(self.head_number)

    async def block(self, tag: int) -> Block | None:
        self.questions += 1
        return self._block(tag) if tag <= self.head_number else None

    async def logs(
        self, contracts: Sequence[Address], topics: Sequence[bytes], first: int, last: int, *, argument: bytes
    ) -> list[Log]:
        assert (contracts, topics) == ([TABLES], [TOPIC])
        assert 0 <= first <= last <= self.head_number
        self.questions += 1
        self.asked.append((first, last))
        if last - first + 1 > self.most_blocks:
            raise self.refusal
        number = self.rolls.get(int.from_bytes(argument, "big"), -1)
        if self.is_pruned or not first <= number <= last:
            return []
        found = Log((TOPIC, argument), b"", number, self._block(number).hash, digest("tx", number), 0)
        self.branch += self.forks_after_logs
        return [found]

    def beacon(self, epoch: int) -> Digest:
        return self._block(self.rolls[epoch]).prev_randao

    def _block(self, number: int) -> Block:
        place = (self.branch, number)
        randao = NO_RANDOMNESS if self.is_fixed else digest("randao", place)
        return Block(number, digest("block", place), digest("parent", place), number, 0, randao)


def of(node: ScriptedNode, *, block: int = 0) -> Beacons:
    deployment = Deployment(31337, TABLES, NOBODY, NOBODY, NOBODY, NOBODY, block)
    return Beacons(cast(EvmClient, node), deployment, current_epoch=node.current_epoch)


# --- searching -----------------------------------------------------------------------------------
async def test_a_roll_of_the_last_hours_is_found_by_one_range() -> None:
    node = ScriptedNode(5000, {1: 4100, 2: 4900})
    beacons = of(node)
    assert await beacons.of(2) == node.beacon(2)
    assert await beacons.of(1) == node.beacon(1)
    # The second search begins where the following epoch began.
    assert node.asked == [(4001, 5000), (3901, 4900)]


@pytest.mark.parametrize("number", [0, 1, 2_999, 63_000, 200_000, 999_999, 1_000_000])
async def test_an_old_roll_is_found_in_ever_longer_ranges(number: int) -> None:
    node = ScriptedNode(1_000_000, {1: number})
    assert await of(node).of(1) == node.beacon(1)
    assert len(node.asked) <= 16
    ends = [last for _, last in node.asked[1:]]
    assert ends == [first - 1 for first, _ in node.asked[:-1]]  # no block is left out, and none is asked for twice
    sizes = [last - first + 1 for first, last in node.asked]
    assert max(sizes) <= 100_000


async def test_a_search_goes_on_where_the_last_one_stopped() -> None:
    node = ScriptedNode(3_000_000, {1: 5})
    beacons, found = of(node), []
    for _ in range(4):
        node.head_number += 10
        found.append(await beacons.of(1))
    assert found == [None, None, node.beacon(1), node.beacon(1)]
    assert sum(last - first + 1 for first, last in node.asked) == 3_000_011


async def test_an_outage_in_a_search_loses_nothing_of_it() -> None:
    node = ScriptedNode(3_000_000, {1: 5})
    beacons = of(node)
    assert await beacons.of(1) is None
    searched = len(node.asked)
    node.most_blocks, node.refusal = 0, ChainUnavailable("down")
    with pytest.raises(ChainUnavailable, match="down"):
        await beacons.of(1)
    node.most_blocks, node.asked[searched:] = 10**9, []
    assert await beacons.of(1) is None
    assert await beacons.of(1) == node.beacon(1)
    assert sum(last - first + 1 for first, last in node.asked) == 3_000_001


async def test_nothing_older_than_the_contracts_is_read() -> None:
    node = ScriptedNode(5000, {1: 4500})
    assert await of(node, block=4400).of(1) == node.beacon(1)
    assert node.asked == [(4400, 5000)]


async def test_an_epoch_to_come_is_not_searched_for() -> None:
    node = ScriptedNode(5000, {1: 4500})
    beacons = of(node)
    assert [await beacons.of(epoch) for epoch in (2, 2**32 - 1)] == [None, None]
    assert node.asked == []
    node.rolls[2] = 4999
    assert await beacons.of(2) == node.beacon(2)


# --- nodes with limits -----------------------------------------------------------------------------
@pytest.mark.parametrize("most_blocks", [1, 10, 100, 999, 1000, 5000])
async def test_a_node_that_refuses_long_ranges_is_asked_for_shorter_ones(most_blocks: int) -> None:
    node = ScriptedNode(9_999, {1: 9_990 if most_blocks < 10 else 9_000}, most_blocks=most_blocks)
    beacons = of(node)
    for _ in range(20):
        found = await beacons.of(1)
        if found is not None:
            break
    assert found == node.beacon(1)


async def test_a_node_that_takes_too_long_for_a_long_range_is_asked_for_a_shorter_one() -> None:
    node = ScriptedNode(50_000, {1: 100}, most_blocks=4000, refusal=ChainUnavailable("eth_getLogs: no answer in time"))
    beacons = of(node)
    assert await beacons.of(1) in (None, node.beacon(1))
    assert await beacons.of(1) == node.beacon(1)


async def test_a_node_that_does_not_answer_is_not_one_without_events() -> None:
    node = ScriptedNode(5000, {1: 100}, most_blocks=0, refusal=ChainUnavailable("down"))
    with pytest.raises(ChainUnavailable, match="down"):
        await of(node).of(1)
    assert len(node.asked) == 1


async def test_a_node_that_refuses_every_range_blinds_nobody() -> None:
    node = ScriptedNode(5000, {1: 100}, most_blocks=0)
    with capture_logs() as logs:
        assert await of(node).of(1) is None
    assert [last - first + 1 for first, last in node.asked] == [1000, 500, 250, 125, 62, 31, 15, 7, 3, 1]
    assert [entry["epoch"] for entry in logs] == [1]


@virtual
async def test_a_node_that_lost_its_old_events_is_told_and_not_searched_again_and_again() -> None:
    node = ScriptedNode(5000, {1: 100}, is_pruned=True)
    beacons = of(node)
    with capture_logs() as logs:
        for _ in range(10):
            assert await beacons.of(1) is None
            await asyncio.sleep(2.0)
    assert [entry["epoch"] for entry in logs] == [1]
    assert node.questions == 5  # what the epoch is, the head, and three ranges
    node.is_pruned = False
    await asyncio.sleep(SEARCH_AGAIN_SECONDS)
    assert await beacons.of(1) == node.beacon(1)


async def test_a_chain_without_randomness_has_no_beacon_and_says_so_once() -> None:
    beacons = of(ScriptedNode(5000, {1: 4900, 2: 4950}, is_fixed=True))
    with capture_logs() as logs:
        assert [await beacons.of(epoch) for epoch in (2, 1, 2)] == [None] * 3
    assert [entry["log_level"] for entry in logs] == ["warning"]


# --- reorgs ----------------------------------------------------------------------------------------
async def test_a_roll_is_looked_at_until_no_reorg_can_reach_it() -> None:
    node = ScriptedNode(5000, {1: 5000})
    beacons = of(node)
    first = await beacons.of(1)
    for head in range(5000, 5000 + WINDOW_BLOCKS + 1):
        node.head_number, before = head, node.questions
        assert await beacons.of(1) == first
        assert node.questions == before + 2
    before = node.questions
    assert await beacons.of(1) == first
    assert node.questions == before
    assert len(node.asked) == 1


async def test_after_a_reorg_the_beacon_is_the_new_branchs_at_once() -> None:
    node = ScriptedNode(5000, {1: 4990})
    beacons = of(node)
    before = await beacons.of(1)
    node.branch, node.rolls[1] = 1, 4995
    assert await beacons.of(1) == node.beacon(1) != before
    # The same block number on yet another branch.
    node.branch = 2
    assert await beacons.of(1) == node.beacon(1)


async def test_a_roll_that_a_reorg_took_back_has_no_beacon() -> None:
    node = ScriptedNode(5000, {1: 100, 2: 4990})
    beacons = of(node)
    assert await beacons.of(2) is not None
    del node.rolls[2]
    node.branch, node.head_number = 1, 4980
    assert await beacons.of(2) is None


async def test_a_chain_that_changes_between_two_questions_is_asked_again() -> None:
    node = ScriptedNode(5000, {1: 4990}, forks_after_logs=True)
    beacons = of(node)
    with pytest.raises(ChainUnavailable, match="the chain changed while the roll of epoch 1 was read"):
        await beacons.of(1)
    node.forks_after_logs = False
    assert await beacons.of(1) == node.beacon(1)


async def test_a_bounded_number_of_epochs_is_remembered() -> None:
    node = ScriptedNode(5000, {epoch: 100 * epoch for epoch in range(1, 41)})
    beacons = of(node)
    for epoch in range(1, 41):
        assert await beacons.of(40) == node.beacon(40)
        assert await beacons.of(epoch) == node.beacon(epoch)
    # The one in use outlives those that were looked at once.
    assert len(beacons._rolls) == MAX_EPOCHS
    assert 40 in beacons._rolls


# --- anvil -----------------------------------------------------------------------------------------
async def test_the_beacon_is_in_the_header_of_the_block_that_rolled() -> None:
    async with open_chain("anvil") as chain:
        assert isinstance(chain, AnvilChain)
        await chain.populate(EQUAL)
        (rolled,) = await chain.client.logs([chain.deployment.tables], [TOPIC], 0, await chain.head())
        header = await chain.client.request("eth_getBlockByNumber", hex(rolled.block), False)
        assert await chain.reader.beacon(1) == bytes.fromhex(header["mixHash"][2:])
        # Each block has its own, or a beacon would be no secret before its epoch.
        head = await chain.head()
        blocks = [await chain.client.block(number) for number in range(1, head + 1)]
        assert len({block.prev_randao for block in blocks if block is not None}) == head
