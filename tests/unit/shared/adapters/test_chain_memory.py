"""The chain in memory: what tests inject into it, and its money. What the contracts say is in
tests/conformance/test_chain.py; what only the model's own methods reach, in test_chain_memory_court.py."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.adapters.memory.chain import MemoryChain
from shared.adapters.memory.chain_court import State
from shared.adapters.memory.chain_ledger import REORG_BLOCKS
from shared.errors import ChainUnavailable, Dropped, Reverted
from shared.types import (
    BatchSettled,
    ChainEvent,
    Digest,
    Role,
    Settled,
    SlashExecuted,
    SlashQueued,
    Verdict,
)
from tests.chain_support import (
    AGGREGATOR,
    ETHER,
    FEES,
    LIMIT_SECONDS,
    OWNER,
    PAID,
    PERFORMER,
    REQUESTER,
    TERMS,
    VAULT,
    ModelChain,
    Person,
    following,
)
from tests.chain_walk import ACTS, EXITS, FEE, Walk
from tests.simnet.virtual_time import START, VirtualClock, run_virtual

STAKES = (3 * ETHER, 2 * ETHER, 2 * ETHER)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    run_virtual(scenario)


async def opened() -> ModelChain:
    """Three attesters on a chain with a block a second."""
    network = ModelChain.on(MemoryChain(replace(TERMS, owner=OWNER.address), block_seconds=1.0, poll_seconds=0.25))
    await network.populate(STAKES, PAID)
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
            other.is_expired(1),
            other.operators(),
            other.task_definition(0),
            other.task_definition_count(),
            other.submit_task(certificate),
            other.submit_batch(network.batch(["a"])[1]),
            other.power_unit(),
            other.rollable_at(),
            other.roll(),
            other.report_equivocation(
                network.vote(0, certificate.task_info), network.vote(0, certificate.task_info, Verdict.INVALID)
            ),
            other.name_harmed(Digest(bytes(32)), network.request()),
            other.execute_slash(Digest(bytes(32))),
            other.deposit_of(REQUESTER.address, PERFORMER.address),
            other.deposit(REQUESTER.address, PERFORMER.address, 1),
            other.collect([]),
            other.is_paid(REQUESTER.address, PERFORMER.address, 1),
            other.earned_by(PERFORMER.address),
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
        copied = before.copy()
        with pytest.raises(Reverted):
            await network.register(PERFORMER, PERFORMER.registration(network.deployment, Role.PERFORMER))
        stranger = Person("stranger")
        # Refused after the peer key was taken, the stake paid, and the account opened.
        bad = replace(stranger.registration(network.deployment, Role.ATTESTER), possession=bytes(96))
        with pytest.raises(Reverted, match="PossessionMismatch"):
            await network.register(stranger, bad)
        unpaid = network.request(fee=FEE)
        certificate = network.certificate(network.done(unpaid))
        await network.settle(certificate)
        settled = network.chain._ledger.state
        with pytest.raises(Reverted, match="DepositTooSmall"):
            await network.escrow.collect([network.collection(unpaid, certificate)])
        assert network.chain._ledger.state is settled
        assert not settled.escrow.paid_nonces
        assert before == copied  # nor did what came later

    run(scenario())


def test_a_copy_shares_nothing_that_changes() -> None:
    async def scenario() -> None:
        network = await opened()
        hub = network.chain._ledger.state
        copied = hub.copy()
        assert copied == hub
        parts = ("coins", "tables", "registry", "center", "escrow", "court")
        for part in parts:
            mine, theirs = getattr(hub, part), getattr(copied, part)
            assert mine is not theirs, part
            for name in type(mine).__slots__:
                value = getattr(mine, name)
                if isinstance(value, dict | list | set):
                    assert value is not getattr(theirs, name), (part, name)
        # One wiring: each model of the copy knows the others of the copy.
        assert copied.registry.tables is copied.tables
        assert copied.center.registry is copied.registry
        assert copied.escrow.center is copied.center
        assert copied.court.center is copied.center
        assert copied.registry.coins is copied.escrow.coins is copied.court.coins is copied.coins

    run(scenario())


# --- money ---------------------------------------------------------------------------------------
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(ACTS), st.integers(0, 3)),
        st.tuples(st.sampled_from(EXITS), st.integers(0, 2)),
        st.tuples(st.just("roll"), st.just(0)),
        st.tuples(st.just("reorg"), st.integers(1, 5)),
        st.tuples(st.just("wait"), st.integers(1, 1100)),
    ),
    max_size=25,
)


class ShakyWalk(Walk):
    """On a chain that forgets its newest blocks, and mines their transactions again."""

    async def reorg(self, depth: int) -> None:
        assert isinstance(self.network, ModelChain)
        self.network.chain.reorg(depth)


@settings(max_examples=40)  # real signatures
@given(steps=STEPS)
def test_every_wei_is_somewhere_and_events_tell_the_state(steps: list[tuple[str, int]]) -> None:
    """Through everything that people do, and reorgs: stakes + deposits + earned + pools + owed + paid = put in. And
    whoever follows knows every verdict and every slash."""

    async def scenario() -> None:
        network = await opened()
        walk = ShakyWalk(network)
        async with following(network.chain.events(0)) as live:
            for what, number in steps:
                await walk.step(what, number)
                check_money(network)
            await asyncio.sleep(5.0)
            check_money(network)
            check_events(network, live.events, is_reorged=any(what == "reorg" for what, _ in steps))

    run(scenario())


def test_a_walk_that_does_everything_moves_money_everywhere() -> None:
    """That the property above is about something."""

    async def scenario() -> None:
        network = await opened()
        walk = Walk(network)
        for what, number in (
            *(("deposit", n) for n in range(4)),
            *(("approve", 0), ("batch", 1), ("reject", 2), ("equivocate", 1)),
            *(("collect", n) for n in range(3)),
            *(("claim", n) for n in range(3)),
            *(("name", 2), ("wait", 600), ("slash", 2), ("slash", 1), ("pay", 0), ("pay", 1)),
            *(("refund", 0), ("wait", 400), ("refund", 0), ("leave", 2), ("wait", 600), ("roll", 0), ("wait", 600)),
            ("withdraw", 2),
        ):
            assert await walk.step(what, number) == "done", (what, number)
            check_money(network)
        hub = network.chain._ledger.state
        slashed = ETHER // 10 + STAKES[1]
        assert hub.coins.of(VAULT) == slashed - FEES.total  # half of the fee: the definition's own
        # Two approvals' pool, of 7 parts, and no share of the rejection's.
        share = 2 * FEES.attesters * 2 // 7
        assert hub.coins.of(network.people[2].address) == STAKES[2] + share
        assert hub.registry.total_stake_wei == sum(STAKES) + ETHER - slashed - STAKES[2]
        to_performer = FEE - FEES.attesters - FEES.aggregator
        assert hub.escrow.earned_by(PERFORMER.address) == 2 * to_performer
        paid_back = 4 * FEE - 2 * FEE - FEES.attesters - FEES.aggregator
        assert hub.coins.of(REQUESTER.address) == FEES.total + paid_back
        assert hub.escrow.earned_by(OWNER.address) == 2 * FEES.aggregator
        assert hub.escrow.earned_by(AGGREGATOR.address) == FEES.aggregator

    run(scenario())


def check_money(network: ModelChain) -> None:
    """Each contract has exactly what it owes, and nothing else is anywhere."""
    hub, at = network.chain._state(), network.deployment
    coins = hub.coins
    assert coins.of(at.registry) == hub.registry.total_stake_wei
    assert coins.of(at.escrow) == hub.escrow.held
    assert coins.of(at.court) == hub.court.total_owed
    contracts = {at.registry, at.escrow, at.court}
    paid = sum(amount for account, amount in coins.balances.items() if account not in contracts)
    deposits = sum(deposit.balance for deposit in hub.escrow.deposits.values())
    pools = sum(hub.escrow.pools.values()) - sum(hub.escrow.taken.values())
    earned, owed = sum(hub.escrow.earned.values()), sum(hub.court.owed.values())
    stakes = sum(account.stake_wei for account in hub.registry.accounts.values())
    assert stakes + deposits + earned + pools + owed + paid == coins.put_in
    amounts = [*coins.balances.values(), *hub.escrow.pools.values(), *hub.court.owed.values()]
    amounts += [account.stake_wei for account in hub.registry.accounts.values()]
    amounts += [deposit.balance - deposit.refunding for deposit in hub.escrow.deposits.values()]
    assert min(amounts) >= 0
    waiting = [slash.operator for slash in hub.court.slashes.values() if slash.state is State.WAITING]
    assert all(account.pending_slashes == waiting.count(name) for name, account in hub.registry.accounts.items())


def check_events(network: ModelChain, events: list[ChainEvent], *, is_reorged: bool = False) -> None:
    """The events tell all that is, and nothing else; but what a reorg took back, and the new branch refused (it has
    another time), was told too: whoever acts on an event looks again."""
    hub = network.chain._state()
    executed = {slash_id for slash_id, slash in hub.court.slashes.items() if slash.state is State.EXECUTED}
    there = (
        {(task, record.verdict is Verdict.VALID) for task, record in hub.center.records.items()},
        set(hub.center.batches),
        set(hub.court.slashes),
        executed,
    )
    told = (
        {(event.task_id, event.is_approved) for event in events if isinstance(event, Settled)},
        {event.batch.root for event in events if isinstance(event, BatchSettled)},
        {event.slash_id for event in events if isinstance(event, SlashQueued)},
        {event.slash_id for event in events if isinstance(event, SlashExecuted)},
    )
    for state, events_of_it in zip(there, told, strict=True):
        assert state <= events_of_it if is_reorged else state == events_of_it


def test_two_iterators_are_independent() -> None:
    async def scenario() -> None:
        network = await opened()
        await network.settle(network.certificate(network.info("a")))
        found: list[ChainEvent] = await network.first_events(1)
        assert await network.first_events(1) == found

    run(scenario())
