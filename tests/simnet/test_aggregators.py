"""Several aggregators, and the second round of signatures: one settles at a time, and another in its place."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from aggregator.finality import LOOKS_SECONDS
from aggregator.turns import TAKEOVER_SECONDS
from shared.adapters.memory.gossip import Link
from shared.messages import BatchProposal, BatchVote, CertificateMessage
from shared.types import BatchSettled, SlashQueued, Verdict
from shared.workflow import Phase
from tests.cast import peer_key_of
from tests.simnet.liars import liar
from tests.simnet.network import Network, OnChain
from tests.simnet.simulation import simulated


@simulated(aggregators=2)
async def test_two_aggregators_that_race_settle_a_task_once(net: Network) -> None:
    for _ in range(3):
        task_id = await net.ask()
        assert await net.final(task_id) is Phase.APPROVED
        await net.pause(5)
        assert net.verdict(task_id) is Verdict.VALID
    certified = {sent.origin for sent in net.journal.wire if isinstance(sent.message, CertificateMessage)}
    assert certified == {"aggregator0", "aggregator1"}
    await _owe_nothing(net)


@simulated(aggregators=2, roles={"liar": liar})
async def test_two_aggregators_queue_one_slash(net: Network) -> None:
    task_id = await net.ask("liar")
    assert await net.final(task_id, "liar") is Phase.REJECTED
    await net.slashed(task_id)
    await net.pause(5)
    assert net.verdict(task_id) is Verdict.INVALID
    assert len(net.slashes(SlashQueued)) == 1
    await _owe_nothing(net)


@simulated(aggregators=2)
async def test_two_aggregators_with_the_same_batch_settle_its_root_once(net: Network) -> None:
    tasks = [await net.ask() for _ in range(3)]
    for task_id in tasks:
        assert await net.final(task_id) is Phase.APPROVED
    await net.pause(10)
    assert [type(event) for event in net.events()] == [BatchSettled]
    assert [net.on_chain(task_id) for task_id in tasks] == [[OnChain(Verdict.VALID, batch_size=3)]] * 3
    await _owe_nothing(net)


@simulated(aggregators=2)
async def test_the_second_aggregator_carries_on_when_the_first_is_gone(net: Network) -> None:
    tasks = [await net.ask() for _ in range(2)]
    await net.until(lambda: net.journal.of(CertificateMessage, "aggregator0"), "a certificate")
    net.node("aggregator0").kill()
    for task_id in [*tasks, await net.ask()]:
        assert await net.final(task_id) is Phase.APPROVED
        assert net.verdict(task_id) is Verdict.VALID


@simulated(aggregators=2)
async def test_two_aggregators_with_overlapping_batches_settle_each_task_once(net: Network) -> None:
    tasks = []
    for _ in range(12):
        tasks.append(await net.ask())
        await net.pause(0.3)
    for task_id in tasks:
        assert await net.final(task_id) is Phase.APPROVED
    await net.pause(10)
    assert [len(net.on_chain(task_id)) for task_id in tasks] == [1] * len(tasks)


async def _owe_nothing(net: Network) -> None:
    """Once all is final, no aggregator still has a certificate to settle: whose turn it was not forgets it too."""
    await net.pause(TAKEOVER_SECONDS + sum(LOOKS_SECONDS) + 10)
    for name in ("aggregator0", "aggregator1"):
        assert [kind for kind, _ in net.node(name).store.entries if kind in ("unsettled", "batch")] == []


# --- the second round --------------------------------------------------------------------------------
def _no_answers(net: Network) -> None:
    """The attesters' signatures on batches never arrive."""
    for name in net.attesters:
        net.node(name).duty._sign_batch = _ignore


async def _ignore(proposal: BatchProposal) -> None:
    del proposal


def _two_of_four_answer(net: Network) -> None:
    for name in net.attesters[:2]:
        net.node(name).duty._sign_batch = _ignore


@pytest.mark.parametrize("lose", [_no_answers, _two_of_four_answer])
@simulated()
async def test_a_batch_without_its_quorum_settles_one_by_one(net: Network, lose: Callable[[Network], None]) -> None:
    lose(net)
    tasks = [await net.ask() for _ in range(3)]
    for task_id in tasks:
        assert await net.final(task_id) is Phase.APPROVED
        assert net.on_chain(task_id) == [OnChain(Verdict.VALID, batch_size=0)]
    assert net.journal.said("batch found no quorum; its tasks settle one by one", size=3)
    assert len(net.journal.of(BatchProposal)) == 2


@simulated()
async def test_three_of_four_signatures_make_a_batch(net: Network) -> None:
    net.node("attester3").duty._sign_batch = _ignore
    tasks = [await net.ask() for _ in range(3)]
    for task_id in tasks:
        assert await net.final(task_id) is Phase.APPROVED
        assert net.on_chain(task_id) == [OnChain(Verdict.VALID, batch_size=3)]
    assert {vote.attester for vote in net.journal.of(BatchVote)} == {net.address(f"attester{i}") for i in range(3)}


@simulated()
async def test_a_lost_proposal_is_made_again(net: Network) -> None:
    """Everything from the aggregator is lost for as long as the first proposal is under way."""
    tasks = [await net.ask() for _ in range(3)]
    await net.until(lambda: all(net.phase(task_id) is Phase.CERTIFIED for task_id in tasks), "certified")
    aggregator = peer_key_of(net.node("aggregator0").person)
    for name in net.attesters:
        net.hub.set_link(Link(loss=1.0), aggregator, peer_key_of(net.node(name).person))
    await net.until(lambda: net.journal.of(BatchProposal), "proposed")
    for name in net.attesters:
        net.hub.set_link(Link(), aggregator, peer_key_of(net.node(name).person))
    for task_id in tasks:
        assert await net.final(task_id) is Phase.APPROVED
        assert net.on_chain(task_id) == [OnChain(Verdict.VALID, batch_size=3)]
