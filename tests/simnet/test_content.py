"""Content that is not there, or not yet: nobody's fault that anyone could prove, so nobody loses by it."""

from __future__ import annotations

from itertools import pairwise

from shared.constants import MAX_PROOF_BYTES
from shared.messages import AbstainMessage, CertificateMessage
from shared.reasons import AbstainReason
from shared.types import Address, Cid, Digest, SlashQueued, Verdict
from shared.workflow import Phase
from tests.simnet.liars import Swindler, is_proof
from tests.simnet.network import Network
from tests.simnet.plan import PERFORMER_STAKE
from tests.simnet.simulation import simulated


@simulated()
async def test_a_withheld_proof_is_abstained_from_until_the_deadline(net: Network) -> None:
    net.node("performer").shelf.hides = is_proof
    task_id = await net.ask(deadline_seconds=40)
    assert await net.final(task_id) is Phase.EXPIRED
    for name in net.attesters:
        assert set(net.reasons(name, task_id)) == {AbstainReason.PROOF_UNAVAILABLE}
        times = [
            sent.at for sent in net.journal.wire if sent.origin == name and isinstance(sent.message, AbstainMessage)
        ]
        assert [round(after - before) for before, after in pairwise(times[:6])] == [1, 2, 4, 8, 15]
        assert net.votes(name, task_id) == []
    assert net.journal.of(CertificateMessage) == []
    assert net.events() == []
    assert await net.stake("performer") == PERFORMER_STAKE


@simulated()
async def test_a_withheld_input_is_the_same_to_attesters(net: Network) -> None:
    net.node("performer").shelf.hides = lambda data: data.startswith(b'{"tensors"')
    task_id = await net.ask(deadline_seconds=10)
    assert await net.final(task_id) is Phase.EXPIRED
    assert {reason for name in net.attesters for reason in net.reasons(name, task_id)} == {
        AbstainReason.INPUT_UNAVAILABLE
    }
    assert net.events() == []


@simulated()
async def test_what_arrives_late_is_voted_on_then(net: Network) -> None:
    net.node("performer").shelf.hides = is_proof
    task_id = await net.ask(deadline_seconds=60)
    await net.pause(10)
    net.content.release(net.address("performer"), _proof_of(net, task_id))
    assert await net.final(task_id) is Phase.APPROVED
    assert net.verdict(task_id) is Verdict.VALID
    for name in net.attesters:
        assert set(net.reasons(name, task_id)) == {AbstainReason.PROOF_UNAVAILABLE}
        assert {vote.verdict for vote in net.votes(name, task_id)} == {Verdict.VALID}


@simulated()
async def test_a_proof_that_one_attester_has_reaches_the_others_without_its_performer(net: Network) -> None:
    net.node("attester1").kill()
    net.node("attester2").kill()
    task_id = await net.ask()
    await net.until(lambda: net.votes("attester0", task_id) and net.votes("attester3", task_id), "two votes")
    net.content.withhold(net.address("performer"), _proof_of(net, task_id))
    net.node("attester1").start()
    assert await net.final(task_id) is Phase.APPROVED
    assert net.votes("attester1", task_id)


@simulated(roles={"liar": Swindler.from_node}, dispute_seconds=300)
async def test_what_a_dispute_is_about_is_served_to_its_end_though_the_liar_withholds_it(net: Network) -> None:
    task_id = await net.ask("liar")
    assert await net.final(task_id, "liar") is Phase.REJECTED
    proof = _proof_of(net, task_id, "liar")
    net.node("liar").kill()
    [queued] = net.slashes(SlashQueued)
    for name in net.attesters:
        assert net.content.pins[net.address(name)][proof].keep_until > queued.executable_at
    late = net.content.join(Address(b"who judges late".ljust(20)))
    net.content.withhold(net.address("liar"), proof)
    assert is_proof(await late.get(proof, max_bytes=MAX_PROOF_BYTES, timeout_seconds=10.0))


@simulated()
async def test_forged_bytes_are_as_good_as_none(net: Network) -> None:
    """A gateway that answers with other bytes than the CID's cannot make anybody vote against the performer."""
    net.node("performer").shelf.hides = is_proof
    task_id = await net.ask(deadline_seconds=30)
    await net.until(lambda: net.phase(task_id) is Phase.PERFORMED, "performed")
    net.content.forge(net.address("attester0"), _proof_of(net, task_id), b"{}")
    assert await net.final(task_id) is Phase.EXPIRED
    assert {reason for name in net.attesters for reason in net.reasons(name, task_id)} == {
        AbstainReason.PROOF_UNAVAILABLE
    }
    assert net.events() == []


def _proof_of(net: Network, task_id: Digest, performer: str = "performer") -> Cid:
    task = net.task(task_id, performer)
    assert task is not None
    assert task.task_info is not None
    return task.task_info.proof_of_task
