"""Bad wires and bad neighbours: loss, delay, duplication, partitions, strangers and floods."""

from __future__ import annotations

import asyncio
import math

import pytest

from attester.service import Attester
from performer.service import Performer
from shared import messages
from shared.adapters.memory.gossip import MemoryGossip
from shared.constants import ORIGIN_BURST, ORIGIN_RATE_PER_SECOND
from shared.evidence import NO_EVIDENCE
from shared.messages import AbstainMessage, CertificateMessage, VoteMessage
from shared.reasons import AbstainReason
from shared.types import Digest, PeerKey, Verdict
from shared.workflow import Phase
from tests.chain_support import ETHER, sha
from tests.simnet.network import Network
from tests.simnet.plan import LOSSY, person
from tests.simnet.simulation import simulated


@pytest.mark.parametrize("attempt", range(3))
@simulated(link=LOSSY)
async def test_all_settles_exactly_once_over_a_lossy_network(net: Network, attempt: int) -> None:
    """A fifth of all messages lost, a fifth doubled, and delays of up to a second, so that they overtake each other."""
    net.hub._random.seed(attempt)
    tasks = []
    for _ in range(6):
        tasks.append(await net.ask(deadline_seconds=300))
        await net.pause(0.7)
    for task_id in tasks:
        assert await net.final(task_id, limit_seconds=300) is Phase.APPROVED
        assert net.verdict(task_id) is Verdict.VALID
    # Where the chain was faster than gossip, the certificate still comes.
    await net.until(lambda: all(_has_certificate(net, task_id) for task_id in tasks), "all certificates are here")


def _has_certificate(net: Network, task_id: Digest) -> bool:
    task = net.task(task_id)
    return task is not None and task.certificate is not None


@simulated()
async def test_a_minority_side_cannot_certify_and_all_settles_once_it_heals(net: Network) -> None:
    net.partition(["performer", "attester0", "attester1", "aggregator0"], ["attester2", "attester3"])
    task_id = await net.ask()
    await net.pause(20)
    assert net.phase(task_id) is Phase.PERFORMED
    assert net.journal.of(CertificateMessage) == []
    net.heal()
    assert await net.final(task_id) is Phase.APPROVED
    assert net.verdict(task_id) is Verdict.VALID


@simulated(aggregators=2)
async def test_an_aggregator_on_each_side_of_a_partition_settles_each_task_once(net: Network) -> None:
    """Three of four attesters are with the second aggregator, which alone can certify."""
    net.partition(["aggregator0", "attester0"])
    task_id = await net.ask()
    assert await net.final(task_id) is Phase.APPROVED
    net.heal()
    await net.pause(20)
    assert {sent.origin for sent in net.journal.wire if isinstance(sent.message, CertificateMessage)} == {"aggregator1"}
    assert net.verdict(task_id) is Verdict.VALID


@simulated()
async def test_a_performer_cut_off_from_all_waits_for_the_network(net: Network) -> None:
    net.partition(["performer"])
    task_id = await net.ask()
    await net.pause(20)
    assert net.phase(task_id) is Phase.PERFORMED
    assert all(net.votes(name, task_id) == [] for name in net.attesters)
    net.heal()
    assert await net.final(task_id) is Phase.APPROVED


# --- neighbours ------------------------------------------------------------------------------------
@simulated(attesters=(ETHER, ETHER, ETHER))
async def test_a_stranger_is_ignored_even_where_the_transport_lets_it_in(net: Network) -> None:
    """It says the missing third's vote with a real attester's name, and its own vote, and a certificate."""
    net.node("attester2").kill()
    for node in net.nodes.values():
        if node.is_up:
            node.node.gossip._members_now = None
    task_id = await net.ask(deadline_seconds=20)
    await net.until(lambda: net.votes("attester0", task_id), "a vote")
    honest = net.votes("attester0", task_id)[0]
    async with MemoryGossip(hub=net.hub, key=PeerKey(sha("stranger"))) as stranger:
        for name in ("attester2", "stranger"):
            vote = VoteMessage(
                task_id=task_id,
                task_info_hash=honest.task_info_hash,
                epoch=honest.epoch,
                attester=person(name).address,
                verdict=Verdict.VALID,
                signature=person(name).vote.sign(net.domain.vote(honest.task_info_hash, Verdict.VALID)),
                evidence=honest.evidence,
            )
            await stranger.publish(net.topics.vote, messages.encode(vote))
        await net.pause(1)
        assert _count(net, "aggregator0", "ignored") >= 2
    assert await net.final(task_id) is Phase.EXPIRED
    assert net.events() == []


@simulated(attesters=(ETHER, ETHER, ETHER), roles={"attester1": Attester.from_node})
async def test_an_operator_cannot_speak_in_another_role_or_name(net: Network) -> None:
    """The aggregator votes, and one attester votes in the name of one that is down."""
    net.node("attester2").kill()
    task_id = await net.ask(deadline_seconds=20)
    await net.until(lambda: net.votes("attester0", task_id), "a vote")
    vote = net.votes("attester0", task_id)[0]
    stolen = person("attester2").vote.sign(net.domain.vote(vote.task_info_hash, Verdict.VALID))
    forged = messages.encode(_replaced(vote, attester=person("attester2").address, signature=stolen))
    gossip = net.node("aggregator0").node.gossip
    await gossip.publish(net.topics.vote, messages.encode(_replaced(vote, attester=net.address("aggregator0"))))
    net.hub.send(net.node("attester1").node.gossip, net.topics.vote, forged)
    assert await net.final(task_id) is Phase.EXPIRED
    assert _count(net, "aggregator0", "rejected") == 1


@simulated(roles={"attester3": Attester.from_node})
async def test_a_flood_from_one_member_does_not_stop_the_others(net: Network) -> None:
    """As much as the transport lets one origin say: votes with false signatures on the tasks that are under way, and
    abstentions on tasks that nobody ever heard of."""
    async with asyncio.TaskGroup() as group:
        flood = group.create_task(_flood(net, "attester3"))
        await net.pause(5)
        for _ in range(4):
            task_id = await net.ask()
            assert await net.final(task_id, limit_seconds=10) is Phase.APPROVED
            assert net.verdict(task_id) is Verdict.VALID
        flood.cancel()
    assert len(net.journal.of(VoteMessage, "attester3")) + len(net.journal.of(AbstainMessage, "attester3")) > 500


async def _flood(net: Network, name: str) -> None:
    gossip, said = net.node(name).node.gossip, 0
    while True:
        due = ORIGIN_BURST + ORIGIN_RATE_PER_SECOND * net.now()
        while said < due:
            said += 1
            honest = net.votes("attester0", net.asked[-1]) if net.asked else []
            info_hash = honest[0].task_info_hash if honest and said % 2 else Digest(sha("nothing", said))
            task_id = net.asked[-1] if net.asked else Digest(sha("no task", said))
            about = (task_id, info_hash, 1, net.address(name))
            signature = person(name).vote.sign(sha("nonsense", said))
            vote = VoteMessage(*about, Verdict(1 + said % 4 // 2), signature, NO_EVIDENCE)
            await gossip.publish(
                net.topics.vote, messages.encode(vote if said % 2 else AbstainMessage(*about, AbstainReason.OVERLOADED))
            )
        await net.pause(0.1)


@simulated(roles={"liar": Performer.from_node})
async def test_a_performer_whose_content_never_comes_does_not_hold_up_another(net: Network) -> None:
    """Its gateway takes every request and answers none, so that each of its tasks costs an attester ten seconds."""
    net.content.delay(net.address("liar"), math.inf)
    for _ in range(60):
        await net.ask("liar", deadline_seconds=120)
    await net.pause(3)
    task_id = await net.ask()
    assert await net.final(task_id, limit_seconds=30) is Phase.APPROVED


def _replaced(vote: VoteMessage, **changes: object) -> VoteMessage:
    fields = {name: getattr(vote, name) for name in vote.__struct_fields__}
    return VoteMessage(**(fields | changes))


def _count(net: Network, name: str, counter: str) -> int:
    counted: int = net.node(name).node.gossip._counters.snapshot()[counter]
    return counted
