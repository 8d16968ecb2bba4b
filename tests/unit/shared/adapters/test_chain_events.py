"""Events over reorgs, gaps and outages: against a scripted node with any history, then against anvil."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from shared.adapters.anvil import Anvil, AnvilSettings
from shared.adapters.chain_evm import EventReader, EvmClient
from shared.adapters.chain_evm.abi import center_abi, court_abi
from shared.adapters.chain_evm.events import SPAN_BLOCKS, WINDOW_BLOCKS, _Place
from shared.adapters.chain_evm.wire import Block, Log, Receipt
from shared.adapters.terms import Deployment
from shared.errors import ChainUnavailable
from shared.types import (
    Address,
    ChainEvent,
    Digest,
    Offence,
    Settled,
    SlashCancelled,
    SlashExecuted,
    SlashQueued,
    Verdict,
)
from tests.chain_support import EQUAL, ETHER, LIMIT_SECONDS, OWNER, PERFORMER, AnvilChain, following, open_chain
from tests.simnet.virtual_time import run_virtual

TABLES, REGISTRY, CENTER, ESCROW, COURT = (Address(bytes([number]) * 20) for number in range(0x11, 0x16))
DEPLOYMENT = Deployment(31337, TABLES, REGISTRY, CENTER, ESCROW, COURT, 0)
TOPIC = court_abi().topic("SlashExecuted")


def digest(*parts: object) -> Digest:
    return Digest(hashlib.sha256(repr(parts).encode()).digest())


@dataclass
class ScriptedNode:
    """As much of `EvmClient` as the event reader uses, over blocks that the test writes."""

    blocks: list[Block] = field(default_factory=list)
    logs_of: dict[Digest, list[Log]] = field(default_factory=dict)  # by block
    is_down: bool = False
    most_blocks: int = 10**9  # in a range of logs
    asked: list[tuple[int, int]] = field(default_factory=list)
    serial: Any = field(default_factory=count)

    def __post_init__(self) -> None:
        self.extend([0])

    def extend(self, events: Sequence[int]) -> None:
        """A block for each number, with so many events in it."""
        for many in events:
            parent = self.blocks[-1].hash if self.blocks else Digest(bytes(32))
            number, block_hash = len(self.blocks), digest("block", next(self.serial))
            self.blocks.append(Block(number, block_hash, parent, number, 0))
            tx = digest("tx", block_hash)
            topics = (TOPIC, bytes(32), bytes(32), bytes(32))
            self.logs_of[block_hash] = [
                Log(topics, index.to_bytes(32, "big") + bytes(64), number, block_hash, tx, index)
                for index in range(many)
            ]

    def reorg(self, depth: int, events: Sequence[int]) -> None:
        del self.blocks[max(1, len(self.blocks) - depth) :]
        self.extend(events)

    def canonical(self, from_block: int = 0) -> list[tuple[Digest, int]]:
        """What a reader that never blinked would have: transaction and index."""
        logs = [log for block in self.blocks[from_block:] for log in self.logs_of[block.hash]]
        return [(log.tx_hash, log.index) for log in logs]

    # --- EvmClient -------------------------------------------------------------------------------
    async def head(self) -> Block:
        self._answer()
        return self.blocks[-1]

    async def block(self, tag: int) -> Block | None:
        self._answer()
        return self.blocks[tag] if tag < len(self.blocks) else None

    async def logs(self, contracts: Sequence[Address], topics: Sequence[bytes], first: int, last: int) -> list[Log]:
        self._answer()
        assert set(contracts) == {CENTER, COURT}
        assert {TOPIC, center_abi().topic("BatchSettled")} < set(topics)
        self.asked.append((first, last))
        if last - first + 1 > self.most_blocks:
            raise ChainUnavailable("the range is too large")
        return [log for block in self.blocks[first : last + 1] for log in self.logs_of[block.hash]]

    async def receipt(self, tx_hash: Digest) -> Receipt | None:
        self._answer()
        for block in self.blocks:
            if any(log.tx_hash == tx_hash for log in self.logs_of[block.hash]):
                return Receipt(tx_hash, block.number, block.hash, True, 21_000, None)
        return None

    def _answer(self) -> None:
        if self.is_down:
            raise ChainUnavailable("down")


def reader_of(node: object, **settings: Any) -> EventReader:
    return EventReader(cast(EvmClient, node), DEPLOYMENT, poll_seconds=0.25, **settings)


def told(events: Sequence[ChainEvent]) -> list[tuple[Digest, int]]:
    """Transaction and index, which the scripted logs carry as the amount."""
    return [(event.tx_hash, event.amount_wei) for event in events]  # type: ignore[union-attr]


def on_branch(events: Sequence[ChainEvent], node: ScriptedNode) -> list[tuple[Digest, int]]:
    """Without those of abandoned branches."""
    wanted = set(node.canonical())
    return [entry for entry in told(events) if entry in wanted]


async def read_for(reader: EventReader, seconds: float, from_block: int = 0) -> list[ChainEvent]:
    found: list[ChainEvent] = []

    async def read() -> None:
        async with aclosing(cast(Any, reader.events(from_block))) as events:
            async for event in events:
                found.append(event)  # noqa: PERF401  # cancelled in between, it keeps what came

    task = asyncio.create_task(read())
    await asyncio.sleep(seconds)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return found


# --- a scripted node -----------------------------------------------------------------------------
EVENTS = st.lists(st.integers(0, 2), max_size=6)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("extend"), EVENTS),
        st.tuples(st.just("reorg"), st.integers(1, 8), EVENTS),
        st.tuples(st.just("outage")),
        st.tuples(st.just("pause")),
    ),
    max_size=14,
)


@given(steps=STEPS, span=st.integers(1, 5))
def test_whatever_happens_each_event_of_the_chain_is_told_once_and_in_order(steps: list[Any], span: int) -> None:
    async def scenario() -> None:
        node = ScriptedNode()
        place = _Place(cast(EvmClient, node), DEPLOYMENT, 0, span)
        found: list[ChainEvent] = []
        for step in steps:
            match step:
                case ("extend", events):
                    node.extend(events)
                case ("reorg", depth, events):
                    node.reorg(depth, events)
                case ("outage",):
                    node.is_down = True
                    try:
                        found += await place.advance()
                    except ChainUnavailable:
                        node.is_down = False
                case _:
                    found += await place.advance()
        for _ in range(2 * len(node.blocks) + 20):
            found += await place.advance()
        assert place.is_at_head
        assert len(told(found)) == len(set(told(found)))
        assert on_branch(found, node) == node.canonical()

    asyncio.run(scenario())


@given(
    flips=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 6), EVENTS), max_size=4),
    first=st.lists(st.integers(0, 2), min_size=1, max_size=12),
)
def test_a_chain_that_changes_between_two_questions_is_read_right(flips: list[Any], first: list[int]) -> None:
    """A reorg may come between any question and the next one."""

    class Restless(ScriptedNode):
        def _answer(self) -> None:
            super()._answer()
            self.questions = getattr(self, "questions", 0) + 1
            for at, depth, events in flips:
                if at == self.questions:
                    self.reorg(depth, events)

    async def scenario() -> None:
        node = Restless()
        node.extend(first)
        place = _Place(cast(EvmClient, node), DEPLOYMENT, 0, 3)
        found: list[ChainEvent] = []
        for _ in range(3 * len(node.blocks) + 60):
            found += await place.advance()
        assert len(told(found)) == len(set(told(found)))
        assert on_branch(found, node) == node.canonical()

    asyncio.run(scenario())


def test_a_long_history_is_read_in_bounded_ranges() -> None:
    async def scenario() -> None:
        node = ScriptedNode()
        node.extend([0, 1] * 1500)
        found = await read_for(reader_of(node), 2.0, from_block=100)
        assert told(found) == node.canonical(100)
        assert max(last - first + 1 for first, last in node.asked) == SPAN_BLOCKS
        # The newest blocks are apart, so that a reorg rereads no more than them.
        assert node.asked[-1][0] == len(node.blocks) - WINDOW_BLOCKS
        assert node.asked[0][0] == 100

    run_virtual(scenario())


def test_a_node_that_refuses_large_ranges_gets_smaller_ones() -> None:
    async def scenario() -> None:
        node = ScriptedNode(most_blocks=70)
        node.extend([1] * 1200)
        found = await read_for(reader_of(node), 600.0)
        assert told(found) == node.canonical()

    run_virtual(scenario())


def test_an_outage_ends_nothing_and_is_said_once() -> None:
    async def scenario() -> None:
        node = ScriptedNode(is_down=True)
        node.extend([1, 1])
        with capture_logs() as logs:
            reading = asyncio.create_task(read_for(reader_of(node), 200.0))
            await asyncio.sleep(100.0)
            node.is_down = False
            await asyncio.sleep(50.0)
            node.extend([1])
            assert told(await reading) == node.canonical()
        assert [entry["log_level"] for entry in logs] == ["warning", "info"]

    run_virtual(scenario())


def test_a_restarted_chain_that_is_shorter_is_read_from_the_start() -> None:
    async def scenario() -> None:
        node = ScriptedNode()
        node.extend([1] * 200)
        reading = asyncio.create_task(read_for(reader_of(node), 60.0))
        await asyncio.sleep(20.0)
        node.blocks.clear()
        node.extend([1] * 5)
        found = await reading
        assert told(found)[-5:] == node.canonical()

    run_virtual(scenario())


def test_nothing_is_told_before_its_block() -> None:
    async def scenario() -> None:
        node = ScriptedNode()
        node.extend([1, 1, 1])
        assert told(await read_for(reader_of(node), 5.0, from_block=3)) == node.canonical(3)
        assert await read_for(reader_of(node), 5.0, from_block=50) == []

    run_virtual(scenario())


def test_a_reader_remembers_a_bounded_number_of_events() -> None:
    async def scenario() -> None:
        node = ScriptedNode()
        place = _Place(cast(EvmClient, node), DEPLOYMENT, 0, SPAN_BLOCKS)
        for _ in range(5 * WINDOW_BLOCKS):
            node.extend([1])
            await place.advance()
        assert len(place._seen) <= WINDOW_BLOCKS
        assert len(place._trail) == WINDOW_BLOCKS

    asyncio.run(scenario())


# --- anvil ---------------------------------------------------------------------------------------
async def blocks_of(client: EvmClient, events: Sequence[ChainEvent]) -> bool:
    """Whether each event is where the chain has it now."""
    for event in events:
        receipt = await client.receipt(event.tx_hash)
        if receipt is None or receipt.block != event.block:
            return False
    return True


async def test_after_a_reorg_the_settlements_are_sent_and_told_again() -> None:
    async with open_chain("anvil") as chain:
        assert isinstance(chain, AnvilChain)
        await chain.populate((ETHER, ETHER, ETHER))
        async with following(chain.settlement.events(0)) as live:
            await chain.settle(chain.certificate(chain.info("old")))
            first = await chain.client.head()
            for name in ("a", "b"):
                await chain.settle(chain.certificate(chain.info(name), Verdict.INVALID))
            await live.has(5)
            depth = (await chain.client.head()).number - first.number
            await chain.client.request("anvil_reorg", depth, [])
            await live.has(9)
            again = live.events[5:9]
            assert [type(event) for event in again] == [type(event) for event in live.events[1:5]]
            assert [event.tx_hash for event in again] == [event.tx_hash for event in live.events[1:5]]
            assert await blocks_of(chain.client, [live.events[0], *again])
            assert await chain.settlement.verdict_of(chain.info("b").task_id) is Verdict.INVALID
            await chain.settle(chain.certificate(chain.info("c")))
            await live.has(10)
        assert isinstance(live.events[9], Settled)
        assert len(live.events) == 10


async def test_a_settlement_tells_whose_it_is() -> None:
    async with open_chain("anvil") as chain:
        await chain.populate(EQUAL)
        tx_hash, gas = await chain.settle(chain.certificate(chain.info("a"), Verdict.INVALID, (0, 2)))
        settled, queued = await chain.first_events(2)

        assert isinstance(settled, Settled)
        info_hash = chain.deployment.domain.task_info_hash(chain.info("a"))
        block = settled.block
        expected = Settled(
            task_id=chain.info("a").task_id,
            is_approved=False,
            block=block,
            tx_hash=tx_hash,
            gas_used=gas,
            task_info_hash=info_hash,
            aggregator=OWNER.address,
            indices=b"\x00\x02",
        )
        assert settled == expected
        assert isinstance(queued, SlashQueued)
        assert (queued.block, queued.tx_hash, queued.offence) == (block, tx_hash, Offence.REJECTED_TASK)


async def test_after_a_reorg_what_the_court_did_is_told_again() -> None:
    """Evidence, cancellation and execution, each in a block of its own that goes away."""
    async with open_chain("anvil") as chain:
        assert isinstance(chain, AnvilChain)
        await chain.populate(EQUAL)
        async with following(chain.settlement.events(0)) as live:
            await chain.settle(chain.certificate(chain.info("a"), Verdict.INVALID))
            await live.has(2)
            queued = live.events[1]
            assert isinstance(queued, SlashQueued)
            await chain.warp(501)  # before what the reorg takes away, which takes its time along
            kept = await chain.client.head()

            votes = [chain.vote(0, chain.info("b"), verdict) for verdict in (Verdict.VALID, Verdict.INVALID)]
            await chain.confirmed(chain.court.report_equivocation(*votes))
            await live.has(3)
            evidence = live.events[2]
            assert isinstance(evidence, SlashQueued)
            await cancel(chain, evidence.slash_id)
            await chain.confirmed(chain.court.execute_slash(queued.slash_id))
            await live.has(5)
            told_first = live.events[2:5]

            depth = (await chain.client.head()).number - kept.number
            await chain.client.request("anvil_reorg", depth, [])
            await live.has(8)
            assert await blocks_of(chain.client, live.events[5:8])

    equivocator = chain.people[0].address
    assert (evidence.operator, evidence.offence) == (equivocator, Offence.EQUIVOCATION)
    for events in (told_first, live.events[5:8]):
        cancelled = next(event for event in events if isinstance(event, SlashCancelled))
        executed = next(event for event in events if isinstance(event, SlashExecuted))
        again = next(event for event in events if isinstance(event, SlashQueued))
        assert (again.slash_id, again.operator) == (evidence.slash_id, equivocator)
        assert (cancelled.slash_id, cancelled.operator) == (evidence.slash_id, equivocator)
        assert (executed.slash_id, executed.task_id) == (queued.slash_id, queued.task_id)
        assert (executed.operator, executed.amount_wei) == (PERFORMER.address, ETHER // 10)
        assert (executed.requester, executed.compensation_wei) == (Address(bytes(20)), 0)
    assert len(live.events) == 8


async def cancel(chain: AnvilChain, slash_id: Digest) -> None:
    """By a certificate of everybody."""
    signature = chain.signed(chain.deployment.court_domain.cancel_slash(slash_id))
    data = court_abi().call_data("cancelSlash", slash_id, 1, signature, b"")
    await chain.sender.confirm(await chain.sender.send(chain.deployment.court, data), LIMIT_SECONDS)


async def test_a_node_that_is_killed_and_restarted_is_followed_on(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    async with open_chain("anvil", state_file=state) as chain:
        assert isinstance(chain, AnvilChain)
        await chain.populate((ETHER, ETHER, ETHER))
        async with following(chain.settlement.events(0)) as live:
            await chain.settle(chain.certificate(chain.info("a")))
            await live.has(1)
            waiting = chain.certificate(chain.info("b"))
            await chain.anvil.stop()
            port = int(chain.anvil.url.rpartition(":")[2])
            settings = AnvilSettings(block_seconds=0.05, state_file=state, port=port)
            async with Anvil(settings):
                await chain.settle(waiting)
                await live.has(2)
            assert [event.task_id for event in live.events] == [  # type: ignore[union-attr]
                chain.info("a").task_id,
                chain.info("b").task_id,
            ]
