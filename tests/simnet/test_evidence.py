"""What stands behind votes: engines that test themselves, evidence that is committed to before it is shown."""

from __future__ import annotations

from functools import partial

import msgspec
import pytest

from attester.evidence import Sealed
from attester.self_test import LOOK_FOR
from shared.constants import SELF_TEST_RETRY_SECONDS
from shared.errors import CodecError
from shared.evidence import Evidence, check_commitment, decode_opening, encode_evidence, salt_of
from shared.messages import CertificateMessage, VoteMessage
from shared.reasons import AbstainReason
from shared.types import Digest, Verdict
from shared.workflow import Phase
from tests.chain_support import ETHER
from tests.simnet.liars import Copier
from tests.simnet.models import Bend
from tests.simnet.network import Network
from tests.simnet.simulation import simulated


async def _bent(net: Network, name: str, tolerances: float) -> Bend:
    """The node runs again, on an engine that is off by so much."""
    bend, node = Bend(tolerances), net.node(name)
    await node.killed()
    node.engine = partial(bend.engine_of, net.plan.models)
    node.start()
    await net.until(lambda: node.is_ready, f"{name} is back")
    return bend


async def _approved(net: Network) -> Digest:
    task_id = await net.ask()
    assert await net.final(task_id) is Phase.APPROVED
    return task_id


# --- the self-test ---------------------------------------------------------------------------------
@simulated()
async def test_an_engine_that_strays_never_votes_says_why_and_votes_again_when_it_is_mended(net: Network) -> None:
    """It would still vote as the others do, for it is within the tolerance: half of it is more than honest engines
    need, and beside a performer that is as far off the other way it would call an honest one a liar."""
    bend = await _bent(net, "attester3", 0.6)
    task_id = await _approved(net)
    assert net.votes("attester3", task_id) == []
    assert set(net.reasons("attester3", task_id)) == {AbstainReason.SELF_TEST_FAILED}
    [line] = [line for line in net.journal.lines if line["log_level"] == "error"]
    assert line["event"].startswith("self-test failed")
    assert (line["node"], line["look_for"], line["limit"]) == ("attester3", LOOK_FOR, 0.25)
    assert line["engine"] == "memory 1, FunctionProvider on python, native"
    [view] = net.node("attester3").duty.health()["selfTests"]
    assert (view["isFit"], view["reason"], view["engine"]) == (False, "self_test_failed", line["engine"])
    assert 0.25 < line["score"] == view["score"] < 1
    bend.tolerances = 0.0
    await net.pause(SELF_TEST_RETRY_SECONDS + 2)
    assert [view["isFit"] for view in net.node("attester3").duty.health()["selfTests"]] == [True]
    assert len(net.votes("attester3", await _approved(net))) == 1
    assert len(net.journal.said("self-test failed: abstaining from this card's tasks until it passes")) == 1


# --- evidence --------------------------------------------------------------------------------------
@simulated(roles={"attester3": Copier.from_node})
async def test_whoever_copies_a_vote_cannot_open_its_commitment(net: Network) -> None:
    task_id = await net.ask()
    await net.final(task_id)
    [copied], copier = net.votes("attester3", task_id), net.address("attester3")
    [owner] = [name for name in ("attester0", "attester1", "attester2") if _vote(net, name).evidence == copied.evidence]
    info_hash = copied.task_info_hash
    opening = decode_opening(await net.node(owner).duty.evidence.reveal(info_hash))
    salt, evidence = bytes.fromhex(opening.salt[2:]), opening.evidence.encode()
    honest = check_commitment(copied.evidence, salt, evidence, operator=net.address(owner), task_info_hash=info_hash)
    own_salt = salt_of(net.node("attester3").person.evidence_secret, info_hash)
    renamed = encode_evidence(msgspec.structs.replace(honest, attester=f"0x{copier.hex()}"))
    for tried_salt in (salt, own_salt):
        for tried in (evidence, renamed):
            with pytest.raises(CodecError):
                check_commitment(copied.evidence, tried_salt, tried, operator=copier, task_info_hash=info_hash)
    assert await net.node("attester3").duty.evidence.reveal(info_hash) is None


def _vote(net: Network, name: str) -> VoteMessage:
    vote: VoteMessage = net.journal.of(VoteMessage, name)[0]
    return vote


@simulated()
async def test_the_same_numbers_are_committed_to_by_each_in_its_own_way(net: Network) -> None:
    task_id = await _approved(net)
    votes = [net.votes(name, task_id)[0] for name in net.attesters]
    evidence = [await _revealed(net, name, votes[0].task_info_hash) for name in net.attesters]
    assert len({(each.score, str(each.recomputed)) for each in evidence}) == 1
    assert len({vote.evidence for vote in votes}) == 4


async def _revealed(net: Network, name: str, info_hash: Digest) -> Evidence:
    opening = decode_opening(await net.node(name).duty.evidence.reveal(info_hash))
    return check_commitment(
        Digest(bytes.fromhex(opening.commitment[2:])),
        bytes.fromhex(opening.salt[2:]),
        opening.evidence.encode(),
        operator=net.address(name),
        task_info_hash=info_hash,
    )


@simulated()
async def test_evidence_is_sealed_until_a_quorum_decided(net: Network) -> None:
    for name in ("attester2", "attester3"):
        net.node(name).kill()
    task_id = await net.ask()
    await net.until(lambda: net.votes("attester0", task_id), "a vote")
    info_hash = net.votes("attester0", task_id)[0].task_info_hash
    sealed = await net.node("attester0").duty.evidence.reveal(info_hash)
    assert isinstance(sealed, Sealed)
    net.node("attester2").start()
    await net.until(lambda: net.journal.of(CertificateMessage), "a certificate")
    await net.pause(1)
    assert (await _revealed(net, "attester0", info_hash)).verdict == "valid"
    assert sealed.until > net.node("attester0").node.clock.now()


@simulated(attesters=(ETHER,) * 4)
async def test_without_a_quorum_it_is_revealed_after_the_deadline(net: Network) -> None:
    for name in ("attester2", "attester3"):
        net.node(name).kill()
    task_id = await net.ask(deadline_seconds=20)
    assert await net.final(task_id) is Phase.EXPIRED
    info_hash = net.votes("attester0", task_id)[0].task_info_hash
    await net.pause(1)
    revealed = await _revealed(net, "attester0", info_hash)
    assert (revealed.verdict, revealed.method) == (Verdict.VALID.name.lower(), "tensor")


@simulated(attesters=(ETHER,) * 4)
async def test_what_was_sealed_when_the_node_died_opens_after_the_deadline(net: Network) -> None:
    """That it was certified is remembered in one life alone."""
    task_id = await net.ask(deadline_seconds=60)
    await net.final(task_id)
    info_hash = net.votes("attester0", task_id)[0].task_info_hash
    await net.node("attester0").killed()
    net.node("attester0").start()
    await net.until(lambda: net.node("attester0").is_ready, "it is back")
    assert isinstance(await net.node("attester0").duty.evidence.reveal(info_hash), Sealed)
    await net.pause(60)
    assert (await _revealed(net, "attester0", info_hash)).verdict == "valid"
