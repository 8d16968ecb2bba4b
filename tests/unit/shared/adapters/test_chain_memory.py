"""The chain in memory: what tests inject into it. What the contracts say is in tests/conformance/test_chain.py."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.adapters.memory.chain import MemoryChain
from shared.adapters.memory.chain_ledger import REORG_BLOCKS
from shared.errors import ChainUnavailable, Dropped, Reverted
from shared.types import BatchSettled, ChainEvent, Digest, Role, Settled, Verdict
from tests.chain_support import (
    ETHER,
    LIMIT_SECONDS,
    PERFORMER,
    TERMS,
    VAULT,
    ModelChain,
    Person,
    following,
)
from tests.simnet.virtual_time import START, VirtualClock, run_virtual


def run(scenario: Coroutine[Any, Any, None]) -> None:
    run_virtual(scenario)


async def opened() -> ModelChain:
    """Three attesters on a chain with a block a second."""
    chain = MemoryChain(TERMS, block_seconds=1.0, poll_seconds=0.25)
    network = ModelChain("memory", chain.deployment, chain, chain, chain=chain)
    network.people = [Person(f"attester{i}") for i in range(3)]
    await network.register(PERFORMER, PERFORMER.registration(chain.deployment, Role.PERFORMER))
    for person in network.people:
        await network.register(person, person.registration(chain.deployment, Role.ATTESTER))
    await chain.create_task_definition(name="digits", method="exact", model_hash=Digest(bytes(32)), card_cid="baf")  # type: ignore[arg-type]
    await network.roll()
    return network


def test_blocks_and_their_time_follow_the_event_loop() -> None:
    async def scenario() -> None:
        await asyncio.sleep(12.5)
        chain = MemoryChain(TERMS, block_seconds=1.0)
        before = await chain.chain_time()
        assert before == int(VirtualClock().now())
        await asyncio.sleep(100.0)
        assert await chain.chain_time() == before + 100
        chain.warp(1000)
        assert await chain.chain_time() == before + 1100
        assert before > START

    run(scenario())


def test_a_transaction_is_mined_with_the_next_block_and_not_before() -> None:
    async def scenario() -> None:
        network = await opened()
        task = network.info("a")
        await network.settlement.submit_task(network.certificate(task))
        assert await network.settlement.verdict_of(task.task_id) is None
        await asyncio.sleep(1.0)
        assert await network.settlement.verdict_of(task.task_id) is Verdict.VALID

    run(scenario())


def test_confirming_takes_no_longer_than_allowed() -> None:
    async def scenario() -> None:
        network = await opened()
        tx_hash = await network.settlement.submit_task(network.certificate(network.info("a")))
        with pytest.raises(ChainUnavailable, match=r"not mined after 0\.1 s"):
            await network.settlement.confirm(tx_hash, 0.1)
        assert await network.settlement.confirm(tx_hash, LIMIT_SECONDS) > 0

    run(scenario())


def test_connections_fail_one_by_one() -> None:
    async def scenario() -> None:
        network = await opened()
        other = network.chain.connect()
        other.is_down = True
        certificate = network.certificate(network.info("a"))
        for asked in (
            other.current_epoch(),
            other.operator_table(1),
            other.operators(),
            other.task_definition(0),
            other.task_definition_count(),
            other.submit_task(certificate),
            other.submit_batch(network.batch(["a"])[1]),
            other.execute_slash(certificate.task_info.task_id),
            other.verdict_of(certificate.task_info.task_id),
            other.is_batch_settled(Digest(bytes(32))),
            other.confirm(Digest(bytes(32)), 1.0),
            other.chain_time(),
        ):
            with pytest.raises(ChainUnavailable):
                await asked
        async with following(other.events(0)) as cut, following(network.chain.events(0)) as live:
            await network.settle(certificate)
            await live.has(1)
            await asyncio.sleep(10.0)
            assert cut.events == []
            other.is_down = False
            await cut.has(1)
            assert cut.events == live.events
        assert await other.verdict_of(certificate.task_info.task_id) is Verdict.VALID

    run(scenario())


def test_a_reorg_tells_the_new_branch() -> None:
    async def scenario() -> None:
        network = await opened()
        async with following(network.chain.events(0)) as live:
            old, _ = await network.settle(network.certificate(network.info("old")))
            hashes = [(await network.settle(network.certificate(network.info(name))))[0] for name in ("a", "b")]
            await live.has(3)
            assert [event.tx_hash for event in live.events] == [old, *hashes]
            network.chain.reorg(2)
            assert await network.settlement.verdict_of(network.info("a").task_id) is None
            assert await network.settlement.verdict_of(network.info("old").task_id) is Verdict.VALID
            await live.has(5)
            assert [event.tx_hash for event in live.events[3:]] == hashes
            assert {event.block for event in live.events[3:]}.isdisjoint({event.block for event in live.events[:3]})
            for tx_hash in hashes:
                assert await network.settlement.confirm(tx_hash, LIMIT_SECONDS) > 0

    run(scenario())


def test_a_reorg_may_drop_a_transaction_for_good() -> None:
    async def scenario() -> None:
        network = await opened()
        lost, _ = await network.settle(network.certificate(network.info("a")))
        kept, _ = await network.settle(network.certificate(network.info("b")))
        network.chain.reorg(2, dropped=[lost])
        with pytest.raises(Dropped):
            await network.settlement.confirm(lost, LIMIT_SECONDS)
        await network.settlement.confirm(kept, LIMIT_SECONDS)
        assert await network.settlement.verdict_of(network.info("a").task_id) is None
        again, _ = await network.settle(network.certificate(network.info("a")))
        assert again != lost
        # Whoever comes later hears nothing of the branch that is gone.
        assert [event.tx_hash for event in await network.first_events(2)] == [kept, again]

    run(scenario())


def test_a_reorg_may_turn_an_outcome_round() -> None:
    """Two certificates of one task: the one that came first is dropped, so the other one settles."""

    async def scenario() -> None:
        network = await opened()
        info = network.info("a")
        first = await network.settlement.submit_task(network.certificate(info))
        second = await network.settlement.submit_task(network.certificate(info, Verdict.INVALID))
        await network.settlement.confirm(first, LIMIT_SECONDS)
        with pytest.raises(Reverted, match="TaskAlreadySettled"):
            await network.settlement.confirm(second, LIMIT_SECONDS)
        network.chain.reorg(1, dropped=[first])
        assert await network.settlement.confirm(second, LIMIT_SECONDS) > 0
        assert await network.settlement.verdict_of(info.task_id) is Verdict.INVALID

    run(scenario())


@pytest.mark.parametrize("depth", [0, -1, REORG_BLOCKS + 1])
def test_a_reorg_has_bounds(depth: int) -> None:
    async def scenario() -> None:
        chain = MemoryChain(TERMS)
        with pytest.raises(ValueError, match="a reorg of 1 to 64 blocks"):
            chain.reorg(depth)

    run(scenario())


def test_a_refused_transaction_changes_nothing() -> None:
    async def scenario() -> None:
        network = await opened()
        before = network.chain._ledger.state
        with pytest.raises(Reverted):
            await network.register(PERFORMER, PERFORMER.registration(network.deployment, Role.PERFORMER))
        stranger = Person("stranger")
        bad = stranger.registration(network.deployment, Role.ATTESTER, ETHER // 2)
        with pytest.raises(Reverted):
            await network.register(stranger, bad)
        assert network.chain._ledger.state == before

    run(scenario())


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("reject"), st.integers(0, 5)),
        st.tuples(st.just("approve"), st.integers(0, 5)),
        st.tuples(st.just("batch"), st.integers(0, 5)),
        st.tuples(st.just("slash"), st.integers(0, 5)),
        st.tuples(st.just("reorg"), st.integers(1, 5)),
        st.tuples(st.just("wait"), st.integers(1, 600)),
    ),
    max_size=12,
)


@settings(max_examples=20)  # real signatures
@given(steps=STEPS)
def test_stake_is_conserved_and_events_tell_the_state(steps: list[tuple[str, int]]) -> None:
    """To the wei, through reorgs: staked = still staked + in the vault; and whoever follows knows every verdict."""

    async def scenario() -> None:
        network = await opened()
        chain = network.chain
        async with following(chain.events(0)) as live:
            for what, number in steps:
                await step(network, what, number)
            await asyncio.sleep(5.0)
            registry = chain._ledger.state.registry
            assert registry.total_stake_wei + registry.vault_wei == 4 * ETHER
            assert sum([await chain.stake_of(p.address) for p in (PERFORMER, *network.people)]) == (
                registry.total_stake_wei
            )
            verdicts = {event.task_id: event.is_approved for event in live.events if isinstance(event, Settled)}
            state = chain._ledger.state
            assert {task: verdict is Verdict.VALID for task, verdict in state.verdicts.items()} == verdicts
            assert set(state.batches) == {e.batch.root for e in live.events if isinstance(e, BatchSettled)}

    run(scenario())


async def step(network: ModelChain, what: str, number: int) -> None:
    """One thing that happens; what the contract refuses is no failure."""
    info = network.info(str(number))
    match what:
        case "wait":
            return await asyncio.sleep(number)
        case "reorg":
            return network.chain.reorg(number)
        case "batch":
            sending = network.settlement.submit_batch(network.batch([str(number)])[1])
        case "slash":
            sending = network.settlement.execute_slash(info.task_id)
        case _:
            verdict = Verdict.VALID if what == "approve" else Verdict.INVALID
            sending = network.settlement.submit_task(network.certificate(info, verdict))
    try:
        await network.settlement.confirm(await sending, LIMIT_SECONDS)
    except Reverted:
        return None
    return None


def test_two_iterators_are_independent() -> None:
    async def scenario() -> None:
        network = await opened()
        await network.settle(network.certificate(network.info("a")))
        found: list[ChainEvent] = await network.first_events(1)
        assert await network.first_events(1) == found
        assert TERMS.vault == VAULT

    run(scenario())
