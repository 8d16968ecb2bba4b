"""A chain that is away, takes back what it said, or moves on to another epoch."""

from __future__ import annotations

from shared.messages import CertificateMessage, TaskMessage
from shared.types import Digest, Settled, Verdict
from shared.workflow import Phase
from tests.chain_support import ETHER
from tests.simnet.liars import is_proof, liar
from tests.simnet.network import Network
from tests.simnet.plan import PERFORMER_STAKE
from tests.simnet.simulation import simulated


# --- outages ---------------------------------------------------------------------------------------
@simulated()
async def test_certificates_are_made_without_a_chain_and_settle_when_it_is_back(net: Network) -> None:
    net.chain_outage(True)
    tasks = [await net.ask(deadline_seconds=30) for _ in range(3)]
    await net.until(lambda: all(net.phase(task_id) is Phase.CERTIFIED for task_id in tasks), "certified", 2)
    await net.pause(60)
    assert net.events() == []
    net.chain_outage(False)
    for task_id in tasks:
        assert await net.final(task_id) is Phase.APPROVED
        assert net.verdict(task_id) is Verdict.VALID


@simulated()
async def test_an_outage_while_a_transaction_is_under_way_costs_nothing(net: Network) -> None:
    task_id = await net.ask()
    await net.until(lambda: net.phase(task_id) is Phase.SUBMITTED, "submitted")
    net.chain_outage(True)
    await net.pause(60)
    net.chain_outage(False)
    assert await net.final(task_id) is Phase.APPROVED
    assert net.verdict(task_id) is Verdict.VALID


@simulated()
async def test_a_chain_that_comes_and_goes_is_no_reason_to_give_up(net: Network) -> None:
    """Each time it is there for long enough to take a transaction, and away before anybody could see it mined."""
    task_id = await net.ask()
    for _ in range(12):
        sent = len(net.chain._ledger._known)
        await net.until(lambda sent=sent: len(net.chain._ledger._known) > sent, "a transaction")  # type: ignore[misc]
        [lost] = [tx.hash for tx in net.chain._ledger._pool]
        net.chain_outage(True)
        await net.pause(0.5)
        net.chain.reorg(4, dropped=[lost])
        net.chain_outage(False)
    assert await net.final(task_id, limit_seconds=120) is Phase.APPROVED
    assert net.verdict(task_id) is Verdict.VALID


@simulated()
async def test_nodes_that_restart_during_an_outage_come_back_with_the_chain(net: Network) -> None:
    task_id = await net.ask()
    await net.until(lambda: net.phase(task_id) is Phase.CERTIFIED, "certified")
    net.chain_outage(True)
    for node in net.nodes.values():
        node.kill()
        node.start()
    await net.pause(30)
    assert not any(node.is_up for node in net.nodes.values())
    net.chain_outage(False)
    assert await net.final(task_id) is Phase.APPROVED
    assert net.verdict(task_id) is Verdict.VALID


@simulated(dispute_seconds=5, roles={"liar": liar})
async def test_a_slash_that_falls_due_during_an_outage_is_executed_after_it(net: Network) -> None:
    task_id = await net.ask("liar")
    assert await net.final(task_id, "liar") is Phase.REJECTED
    net.chain_outage(True)
    await net.pause(30)
    net.chain_outage(False)
    slash = await net.slashed(task_id)
    assert await net.stake("liar") == PERFORMER_STAKE - slash.amount_wei


# --- reorgs ----------------------------------------------------------------------------------------
def _settlement_of(net: Network, task_id: Digest) -> Settled:
    [event] = [event for event in net.events() if isinstance(event, Settled) and event.task_id == task_id]
    return event


@simulated(block_seconds=1.0)
async def test_a_transaction_that_leaves_the_pool_is_sent_again(net: Network) -> None:
    task_id = await net.ask()
    await net.until(lambda: net.phase(task_id) is Phase.SUBMITTED, "submitted")
    [transaction] = net.chain._ledger._pool
    net.chain.reorg(1, dropped=[transaction.hash])
    assert await net.final(task_id) is Phase.APPROVED
    assert net.verdict(task_id) is Verdict.VALID
    assert _settlement_of(net, task_id).tx_hash != transaction.hash


@simulated()
async def test_a_reorg_that_moves_the_settlement_changes_nothing(net: Network) -> None:
    task_id = await net.ask()
    assert await net.final(task_id) is Phase.APPROVED
    block = _settlement_of(net, task_id).block
    net.chain.reorg(8)
    assert net.verdict(task_id) is None
    await net.pause(5)
    assert net.verdict(task_id) is Verdict.VALID
    assert _settlement_of(net, task_id).block > block
    assert net.phase(task_id) is Phase.APPROVED


@simulated()
async def test_a_settlement_that_a_reorg_took_back_is_made_again(net: Network) -> None:
    """It was confirmed before, and its transaction will never be mined again: its nonce went to another one."""
    task_id = await net.ask()
    assert await net.final(task_id) is Phase.APPROVED
    net.chain.reorg(8, dropped=[_settlement_of(net, task_id).tx_hash])
    assert net.verdict(task_id) is None
    await net.until(lambda: net.verdict(task_id) is Verdict.VALID, "settled again")
    assert net.phase(task_id) is Phase.APPROVED


@simulated(dispute_seconds=10, roles={"liar": liar})
async def test_a_reorg_before_a_slash_delays_it_and_doubles_nothing(net: Network) -> None:
    task_id = await net.ask("liar")
    assert await net.final(task_id, "liar") is Phase.REJECTED
    net.chain.reorg(8)
    slash = await net.slashed(task_id)
    await net.pause(20)
    assert await net.stake("liar") == PERFORMER_STAKE - slash.amount_wei


# --- epochs ----------------------------------------------------------------------------------------
@simulated(attesters=(ETHER, ETHER, ETHER), epoch_seconds=10)
async def test_a_task_that_is_open_at_a_roll_is_settled_in_its_own_epoch(net: Network) -> None:
    net.node("attester2").kill()
    task_id = await net.ask()
    await net.pause(12)
    assert await net.chain.roll_epoch() == 2
    net.node("attester2").start()
    assert await net.final(task_id) is Phase.APPROVED
    [message] = {message.task_info.epoch for message in net.journal.of(TaskMessage)}
    assert message == 1
    assert net.verdict(task_id) is Verdict.VALID
    later = await net.ask()
    assert await net.final(later) is Phase.APPROVED
    assert {message.certificate.task_info.epoch for message in net.journal.of(CertificateMessage)} == {1, 2}


@simulated(epoch_seconds=5, batch_seconds=10.0)
async def test_a_batch_may_hold_tasks_of_two_epochs(net: Network) -> None:
    await net.pause(6)
    first = await net.ask()
    await net.until(lambda: net.phase(first) is Phase.CERTIFIED, "certified")
    await net.chain.roll_epoch()
    await net.until(lambda: net.node("performer").node.roster.current.epoch == 2, "the performer knows")
    second = await net.ask()
    for task_id in (first, second):
        assert await net.final(task_id) is Phase.APPROVED
        assert [found.batch_size for found in net.on_chain(task_id)] == [2]
    assert {message.task_info.epoch for message in net.journal.of(TaskMessage)} == {1, 2}


@simulated(attesters=(ETHER, ETHER, ETHER), epoch_seconds=5, grace_seconds=5)
async def test_a_task_that_outlives_its_table_expires(net: Network) -> None:
    """A roll and its grace later nobody may vote on it any more, however late the missing attester comes back."""
    net.node("attester2").kill()
    task_id = await net.ask(deadline_seconds=40)
    await net.pause(6)
    assert await net.chain.roll_epoch() == 2
    await net.pause(8)
    net.node("attester2").start()
    assert await net.final(task_id) is Phase.EXPIRED
    assert net.events() == []


@simulated(epoch_seconds=10)
async def test_an_attester_that_left_votes_as_long_as_a_table_has_it(net: Network) -> None:
    net.node("performer").shelf.hides = is_proof
    task_id = await net.ask(deadline_seconds=60)
    await net.until(lambda: net.phase(task_id) is Phase.PERFORMED, "performed")
    await net.chain.leave(net.address("attester3"))
    net.node("attester0").kill()
    await net.pause(12)
    assert await net.chain.current_epoch() == 2  # who leaves makes a roll due, and the aggregator makes it
    task = net.task(task_id)
    assert task is not None
    assert task.task_info is not None
    net.content.release(net.address("performer"), task.task_info.proof_of_task)
    assert await net.final(task_id) is Phase.APPROVED
    [message] = net.journal.of(CertificateMessage)
    assert message.certificate.signers == (1, 2, 3)
