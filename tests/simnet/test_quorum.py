"""How much voting power decides, and what attesters that lie can do with theirs."""

from __future__ import annotations

import pytest

from shared.adapters.memory.gossip import Link
from shared.messages import CertificateMessage
from shared.types import Digest, Offence, SlashExecuted, SlashQueued, Verdict
from shared.workflow import Phase
from tests.cast import peer_key_of
from tests.chain_support import ETHER, POWER_UNIT
from tests.simnet.liars import TwoVotes, forger, naysayer
from tests.simnet.network import Network, OnChain
from tests.simnet.plan import PERFORMER_STAKE
from tests.simnet.simulation import simulated

UNIT = POWER_UNIT  # wei


@simulated()
async def test_one_attester_of_four_may_be_down(net: Network) -> None:
    net.node("attester3").kill()
    task_id = await net.ask()
    assert await net.final(task_id) is Phase.APPROVED
    [message] = net.journal.of(CertificateMessage)
    assert message.certificate.signers == (0, 1, 2)
    assert net.verdict(task_id) is Verdict.VALID


# Two of three are up. Their power is two thirds of all: by one unit more, exactly, and by one unit less.
@simulated(attesters=(ETHER + UNIT, ETHER, ETHER))
async def test_a_hair_over_two_thirds_approves(net: Network) -> None:
    net.node("attester2").kill()
    task_id = await net.ask()
    assert await net.final(task_id) is Phase.APPROVED
    assert net.verdict(task_id) is Verdict.VALID


@simulated(attesters=(ETHER, ETHER, ETHER))
async def test_exactly_two_thirds_approve_nothing(net: Network) -> None:
    await _expires_without_certificate(net, "attester2")


@simulated(attesters=(ETHER, ETHER, ETHER + UNIT))
async def test_a_hair_under_two_thirds_approves_nothing(net: Network) -> None:
    await _expires_without_certificate(net, "attester2")


async def _expires_without_certificate(net: Network, down: str) -> None:
    net.node(down).kill()
    task_id = await net.ask(deadline_seconds=20)
    assert await net.final(task_id) is Phase.EXPIRED
    assert net.journal.of(CertificateMessage) == []
    assert net.events() == []
    assert await net.stake("performer") == PERFORMER_STAKE


@simulated(attesters=(ETHER, ETHER, ETHER))
async def test_an_attester_that_comes_back_before_the_deadline_completes_the_quorum(net: Network) -> None:
    net.node("attester2").kill()
    task_id = await net.ask(deadline_seconds=20)
    await net.pause(10)
    assert net.phase(task_id) is Phase.PERFORMED
    net.node("attester2").start()
    assert await net.final(task_id) is Phase.APPROVED
    assert net.verdict(task_id) is Verdict.VALID


@simulated(attesters=(ETHER, ETHER, ETHER), roles={"attester2": naysayer})
async def test_a_third_that_says_invalid_stops_a_task_and_harms_nobody(net: Network) -> None:
    task_id = await net.ask(deadline_seconds=20)
    assert await net.final(task_id) is Phase.EXPIRED
    assert net.events() == []


@simulated(attesters=(ETHER,) * 7, roles={"attester5": naysayer, "attester6": naysayer})
async def test_two_liars_under_a_third_change_nothing(net: Network) -> None:
    task_id = await net.ask()
    assert await net.final(task_id) is Phase.APPROVED
    [message] = net.journal.of(CertificateMessage)
    assert message.certificate.signers == (0, 1, 2, 3, 4)
    assert net.verdict(task_id) is Verdict.VALID
    assert net.slashes(SlashQueued) == []


@simulated(attesters=(ETHER,) * 5, roles={"attester3": naysayer, "attester4": naysayer})
async def test_liars_over_a_third_win_which_is_what_the_network_trusts_in(net: Network) -> None:
    """THE TRUST ASSUMPTION. Whoever has more than a third of the voting power can have any honest work rejected and
    its performer slashed. Nothing on chain recomputes a model, so nothing on chain can tell. What the dispute window
    gives is time in which people see it; stopping it takes more than this protocol has."""
    task_id = await net.ask()
    assert await net.final(task_id) is Phase.REJECTED
    assert net.verdict(task_id) is Verdict.INVALID
    assert [net.votes(f"attester{i}", task_id)[0].verdict for i in range(3)] == [Verdict.VALID] * 3
    slash = await net.slashed(task_id)
    assert slash.amount_wei == PERFORMER_STAKE // 10
    assert await net.stake("performer") == PERFORMER_STAKE - slash.amount_wei
    assert await net.chain.vault_balance() == slash.amount_wei


@simulated(roles={"attester1": forger})
async def test_a_vote_under_a_false_signature_is_dropped_and_spoils_nothing(net: Network) -> None:
    _slow_down(net, "attester3")
    task_id = await net.ask()
    assert await net.final(task_id) is Phase.APPROVED
    [message] = net.journal.of(CertificateMessage)
    assert message.certificate.signers == (0, 2, 3)
    assert net.journal.said("vote dropped: wrong signature", attester=net.address("attester1").hex())


# --- equivocation ----------------------------------------------------------------------------------
@simulated(roles={"attester1": TwoVotes.from_node})
async def test_who_votes_both_ways_is_named_and_not_counted(net: Network) -> None:
    _slow_down(net, "attester3")  # its vote completes the quorum when both of the equivocator's are there
    task_id = await net.ask()
    assert await net.final(task_id) is Phase.APPROVED
    [message] = net.journal.of(CertificateMessage)
    assert message.certificate.signers == (0, 2, 3)
    assert (message.valid_power, message.invalid_power) == (3000, 0)
    _names(net, task_id, "attester1")
    assert net.verdict(task_id) is Verdict.VALID
    await _loses_everything(net, task_id, "attester1")


@simulated(attesters=(ETHER, ETHER, ETHER), roles={"attester1": TwoVotes.from_node})
async def test_an_equivocator_whose_power_is_needed_stops_a_task_and_no_more(net: Network) -> None:
    task_id = await net.ask(deadline_seconds=20)
    assert await net.final(task_id) is Phase.EXPIRED
    _names(net, task_id, "attester1")
    assert net.on_chain(task_id) == []
    await _loses_everything(net, task_id, "attester1")


@simulated(roles={"attester1": TwoVotes.from_node})
async def test_a_second_vote_after_the_certificate_is_named_and_changes_nothing(net: Network) -> None:
    _slow_down(net, "attester1")
    task_id = await net.ask()
    assert await net.final(task_id) is Phase.APPROVED
    [message] = net.journal.of(CertificateMessage)
    assert message.certificate.signers == (0, 2, 3)
    _names(net, task_id, "attester1")
    assert net.verdict(task_id) is Verdict.VALID
    await _loses_everything(net, task_id, "attester1")


@simulated(attesters=(ETHER,) * 5, aggregators=2, roles={"attester1": TwoVotes.from_node})
async def test_who_lost_its_stake_has_no_vote_any_more_and_the_others_carry_on(net: Network) -> None:
    task_id = await net.ask()
    assert await net.final(task_id) is Phase.APPROVED
    await _loses_everything(net, task_id, "attester1")
    await net.until(lambda: net.node("performer").node.roster.current.epoch == 2, "rolled")
    table = await net.chain.operator_table(2)
    assert table is not None
    assert (table.index_of(net.address("attester1")), table.total_power) == (None, 4000)
    later = await net.ask()
    assert await net.final(later) is Phase.APPROVED
    assert net.verdict(later) is Verdict.VALID


async def _loses_everything(net: Network, task_id: Digest, name: str) -> None:
    """For one equivocation, however many report it and however often it was repeated."""
    slash = await net.slashed(task_id)
    [queued] = net.slashes(SlashQueued)
    assert (queued.task_id, queued.offence) == (task_id, Offence.EQUIVOCATION)
    assert (slash.slash_id, slash.operator) == (queued.slash_id, net.address(name))
    assert (slash.amount_wei, slash.compensation_wei) == (ETHER, 0)
    assert await net.stake(name) == 0
    assert await net.chain.vault_balance() == ETHER
    await net.pause(30)
    assert len(net.slashes(SlashExecuted)) == 1


def _slow_down(net: Network, name: str) -> None:
    origin, receiver = peer_key_of(net.node(name).person), peer_key_of(net.node("aggregator0").person)
    net.hub.set_link(Link(min_delay_seconds=0.5, max_delay_seconds=0.5), origin, receiver)


def _names(net: Network, task_id: bytes, name: str) -> None:
    equivocations = net.node("aggregator0").duty.pool.equivocations
    assert list(equivocations) == [(task_id, net.address(name))]
    [named] = equivocations.values()
    assert {named.first.verdict, named.second.verdict} == {Verdict.VALID, Verdict.INVALID}
    assert net.journal.said("equivocation", attester=net.address(name).hex())


# --- definitions that wait for all votes -----------------------------------------------------------------
@simulated(waits_for_all=True)
async def test_a_silent_attester_is_waited_for_until_the_deadline(net: Network) -> None:
    net.node("attester3").kill()
    task_id = await net.ask(deadline_seconds=40)
    await net.pause(35)
    assert net.phase(task_id) is Phase.PERFORMED
    assert (net.journal.of(CertificateMessage), net.events()) == ([], [])
    await net.until(lambda: net.verdict(task_id) is Verdict.VALID, "it is settled", 20)
    [message] = net.journal.of(CertificateMessage)
    assert message.certificate.signers == (0, 1, 2)
    await net.until(lambda: net.phase(task_id) is Phase.APPROVED, "its performer knows")
    assert net.on_chain(task_id) == [OnChain(Verdict.VALID, batch_size=0)]


@simulated(waits_for_all=True)
async def test_an_attester_that_comes_back_makes_the_votes_complete(net: Network) -> None:
    net.node("attester3").kill()
    tasks = [await net.ask(deadline_seconds=300) for _ in range(2)]
    await net.pause(20)
    assert net.journal.of(CertificateMessage) == []
    net.node("attester3").start()
    for task_id in tasks:
        assert await net.final(task_id) is Phase.APPROVED
        assert net.verdict(task_id) is Verdict.VALID
    assert [message.certificate.signers for message in net.journal.of(CertificateMessage)] == [(0, 1, 2, 3)] * 2


@pytest.mark.parametrize(
    "step",
    [
        "after put unsettled",
        "before publish certificate",
        "after publish certificate",
        "before submit late task",
        "after submit late task",
        "after confirm",
        "after delete unsettled",
    ],
)
@simulated(waits_for_all=True, roles={"attester3": naysayer})
async def test_a_late_certificate_outlives_its_aggregator(net: Network, step: str) -> None:
    """All votes are there, and one is against."""
    net.node("aggregator0").steps.fatal = step
    task_id = await net.ask(deadline_seconds=40)
    await net.pause(20)
    assert net.events() == []
    await net.until(lambda: net.verdict(task_id) is Verdict.VALID, "it is settled", 90)
    await net.pause(5)
    assert net.node("aggregator0").steps.fatal is None
    assert net.on_chain(task_id) == [OnChain(Verdict.VALID, batch_size=0)]
