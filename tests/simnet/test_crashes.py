"""kill -9 at every step of every role, and a restart on the same disk a second later: nothing lost, nothing double.

A first run without a kill says which steps there are; each is then the last of a life in a run of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial

import pytest

from shared.evidence import decode_evidence
from shared.messages import CertificateMessage, TaskMessage
from shared.types import Digest, SlashExecuted, SlashQueued, Verdict
from shared.workflow import Phase
from tests.chain_support import ETHER
from tests.simnet.liars import TwoVotes, liar, naysayer
from tests.simnet.network import Network, OnChain
from tests.simnet.plan import PERFORMER_STAKE, Plan
from tests.simnet.simulation import simulate, simulated

Scenario = Callable[[Network], Coroutine[None, None, None]]


async def one_task(net: Network) -> None:
    """All four attesters are needed, so that a vote that a crash swallowed would show."""
    net.node("attester3").kill()
    task_id = await net.ask()
    assert await net.final(task_id) is Phase.APPROVED
    assert net.verdict(task_id) is Verdict.VALID
    assert len(net.events()) == 1
    assert {message.task_info.task_id for message in net.journal.of(TaskMessage)} == {task_id}


async def a_batch(net: Network) -> None:
    """They settle in one batch, unless the crash takes its aggregator from it."""
    tasks = [await net.ask() for _ in range(2)]
    for task_id in tasks:
        assert await net.final(task_id) is Phase.APPROVED
        assert net.verdict(task_id) is Verdict.VALID


async def a_lie(net: Network) -> None:
    task_id = await net.ask("liar")
    assert await net.final(task_id, "liar") is Phase.REJECTED
    assert net.verdict(task_id) is Verdict.INVALID
    assert len(net.slashes(SlashQueued)) == 1
    slash = await net.slashed(task_id)
    await net.pause(5)
    assert net.slashes(SlashExecuted) == [slash]
    assert await net.stake("liar") == PERFORMER_STAKE - slash.amount_wei


async def an_equivocation(net: Network) -> None:
    """Its power is needed, so that votes are repeated for as long as both of its own are known. A restart that hears
    the true one first certifies; the other one still convicts."""
    task_id = await net.ask(deadline_seconds=20)
    assert await net.final(task_id) in (Phase.EXPIRED, Phase.APPROVED)
    slash = await net.slashed(task_id)
    assert (slash.operator, slash.amount_wei) == (net.address("attester1"), ETHER)
    await net.pause(30)
    assert len(net.slashes(SlashQueued)) == 1
    assert net.slashes(SlashExecuted) == [slash]


TWO_VOTES = Plan(attesters=(ETHER,) * 3, roles={"attester1": TwoVotes.from_node}, dispute_seconds=2)
LIES = Plan(roles={"liar": liar}, dispute_seconds=2)
CASES = {
    "performer, one task": ("performer", one_task, Plan()),
    "performer, a batch": ("performer", a_batch, Plan()),
    "attester, one task": ("attester0", one_task, Plan()),
    "attester, a batch": ("attester0", a_batch, Plan()),
    "aggregator, one task": ("aggregator0", one_task, Plan()),
    "aggregator, a batch": ("aggregator0", a_batch, Plan()),
    # It is back before the block that has what it sent.
    "aggregator, one task, slow blocks": ("aggregator0", one_task, Plan(block_seconds=5.0)),
    "aggregator, a batch, slow blocks": ("aggregator0", a_batch, Plan(block_seconds=5.0)),
    "aggregator, a lie": ("aggregator0", a_lie, LIES),
    "aggregator, an equivocation": ("aggregator0", an_equivocation, TWO_VOTES),
    # One of them is the first in the order.
    "one aggregator of two, a batch": ("aggregator0", a_batch, Plan(aggregators=2)),
    "the other aggregator of two, a batch": ("aggregator1", a_batch, Plan(aggregators=2)),
    "liar": ("liar", a_lie, LIES),
}
MUST_BE_AMONG = {
    "performer": {"after put task", "after add content", "before sign task info", "before publish task"},
    "attester0": {"before put evidence", "after put evidence", "before guard", "after guard", "before sign vote"}
    | {"before publish vote", "after publish vote"},
    "aggregator0": {"after put unsettled", "before publish certificate", "after submit task", "after delete unsettled"},
    "liar": {"before publish task"},
}


@pytest.mark.parametrize("case", CASES)
def test_killed_at_every_step_and_restarted(case: str) -> None:
    name, scenario, plan = CASES[case]
    began: list[int] = []

    async def rehearsed(net: Network) -> None:
        began.append(len(net.node(name).steps.reached))
        await scenario(net)

    steps = simulate(rehearsed, plan).node(name).steps.reached
    if scenario is one_task:
        assert set(steps) >= MUST_BE_AMONG[name]
    for number in range(began[0], len(steps)):
        if steps[number].startswith("before") and steps[number - 1].startswith("after"):
            continue  # nothing lies between the two
        simulate(partial(_killed_at, name, number, steps[number], scenario), plan)


async def _killed_at(name: str, number: int, step: str, scenario: Scenario, net: Network) -> None:
    net.node(name).steps.fatal = number
    try:
        await scenario(net)
    except AssertionError as error:
        raise AssertionError(f"{name} killed at step {number}, {step}: {error}") from error
    assert net.node(name).steps.fatal is None, "the step was never reached"


# --- one step, looked at closely -----------------------------------------------------------------------
@simulated(attesters=(ETHER, ETHER, ETHER))
async def test_an_attester_that_died_between_guard_and_signature_votes_as_it_decided(net: Network) -> None:
    """Even if it would judge otherwise by now: its guard remembers, and its key signs nothing else."""
    attester = net.node("attester1")
    attester.steps.fatal = "after guard"
    task_id = await net.ask()
    await net.until(lambda: not attester.is_up, "the attester dies")
    assert net.votes("attester1", task_id) == []
    [(task, (info_hash, verdict))] = attester.guard.votes.items()
    assert (task, verdict) == (task_id, Verdict.VALID)
    attester._make = naysayer
    assert await net.final(task_id) is Phase.APPROVED
    assert {(vote.task_info_hash, vote.verdict) for vote in net.votes("attester1", task_id)} == {(info_hash, verdict)}
    [message] = net.journal.of(CertificateMessage)
    assert message.certificate.signers == (0, 1, 2)


@simulated(attesters=(ETHER, ETHER, ETHER))
async def test_an_attester_that_died_between_evidence_and_guard_may_still_think_otherwise(net: Network) -> None:
    """Nothing was signed, and nobody has seen a commitment: what it judges in its next life takes the place."""
    attester = net.node("attester1")
    attester.steps.fatal = "after put evidence"
    task_id = await net.ask(deadline_seconds=20)
    await net.until(lambda: not attester.is_up, "the attester dies")
    assert (attester.guard.votes, net.votes("attester1", task_id)) == ({}, [])
    [(_, info_hash)] = attester.store.entries
    assert decode_evidence(net.evidence("attester1", Digest(info_hash))).verdict == "valid"
    attester._make = naysayer
    await net.until(lambda: net.votes("attester1", task_id), "it votes")
    assert decode_evidence(net.evidence("attester1", Digest(info_hash))).verdict == "invalid"
    assert len({vote.evidence for vote in net.votes("attester1", task_id)}) == 1


@simulated(attesters=(ETHER, ETHER, ETHER))
async def test_a_vote_that_never_left_is_said_again_when_the_task_is_repeated(net: Network) -> None:
    net.node("attester1").steps.fatal = "before publish vote"
    task_id = await net.ask()
    assert await net.final(task_id) is Phase.APPROVED
    assert len(net.journal.of(TaskMessage)) > 1
    assert net.verdict(task_id) is Verdict.VALID


@simulated()
async def test_everybody_dies_at_once_and_comes_back(net: Network) -> None:
    tasks = [await net.ask() for _ in range(3)]
    for seconds in (0.05, 0.3, 1.2):
        await net.pause(seconds)
        for node in net.nodes.values():
            node.kill()
            node.start()
    for task_id in tasks:
        assert await net.final(task_id) is Phase.APPROVED
        assert net.verdict(task_id) is Verdict.VALID


@simulated(block_seconds=5.0)
async def test_what_was_sent_alone_before_a_crash_joins_no_batch_after_it(net: Network) -> None:
    first = await net.ask()
    await net.until(lambda: net.phase(first) is Phase.SUBMITTED, "submitted")
    net.node("aggregator0").kill()
    second = await net.ask()
    net.node("aggregator0").start()
    for task_id in (first, second):
        assert await net.final(task_id) is Phase.APPROVED
        assert net.on_chain(task_id) == [OnChain(Verdict.VALID, batch_size=0)]
