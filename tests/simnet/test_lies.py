"""Performers that cheat: rejected by the recomputation, slashed when the dispute window is over and not before."""

from __future__ import annotations

import msgspec
import pytest

from poi.cheats import CHEATS, Cheat
from poi.testnet.lies import LIES, lie_of
from shared.constants import MAX_PROOF_BYTES
from shared.documents import ClassifyOutput, ProofObject
from shared.messages import TaskMessage
from shared.reasons import AbstainReason, InvalidReason
from shared.types import Digest, SlashExecuted, SlashQueued, Verdict
from shared.workflow import Phase
from tests.chain_support import sha
from tests.simnet.liars import Swindler, TwoTaskInfos, bent_proof, liar
from tests.simnet.network import Network
from tests.simnet.plan import PERFORMER_STAKE
from tests.simnet.simulation import simulated
from tests.simnet.virtual_time import START

DISPUTE_SECONDS = 20
SLASHED = PERFORMER_STAKE // 10
SAMPLED = '{"max_tokens":8,"temperature":0.8,"top_k":0}'
# One of every group; `tests/unit/poi/cheats` has them all.
TEXT_LIES = [
    "fp16 weights",
    "KV int4",
    "truncated prompt",
    "wrong prompt, declared",
    "another seed",
    "stopped early by an end token",
    "longer than asked",
    "wrong stop reason",
    "copied output",
    "prefill spoof: random output",
]


async def _is_rejected_and_slashed(net: Network, task_id: Digest, *reasons: InvalidReason) -> None:
    """By everybody, for one of these reasons, and the stake is whole until the window is over."""
    assert await net.final(task_id, "liar") is Phase.REJECTED
    assert net.verdict(task_id) is Verdict.INVALID
    said = [line["reason"] for line in net.journal.said("voted", verdict="invalid")]
    assert said in [[str(reason)] * 4 for reason in reasons]
    [queued] = net.slashes(SlashQueued)
    assert queued.operator == net.address("liar")
    while START + net.now() < queued.executable_at - 1:
        assert await net.stake("liar") == PERFORMER_STAKE
        assert net.slashes(SlashExecuted) == []
        await net.pause(0.5)
    slash = await net.slashed(task_id)
    assert START + net.now() >= queued.executable_at
    assert (slash.operator, slash.amount_wei) == (net.address("liar"), SLASHED)
    assert await net.stake("liar") == PERFORMER_STAKE - SLASHED
    assert await net.chain.vault_balance() == SLASHED
    assert await net.stake("performer") == PERFORMER_STAKE


@pytest.mark.parametrize("lie", LIES["classify"], ids=lambda cheat: cheat.name)
@simulated(dispute_seconds=DISPUTE_SECONDS, roles={"liar": liar})
async def test_each_lie_of_the_testnet_is_caught(net: Network, lie: Cheat) -> None:
    """Also where the model has no trees to halve: then it is another lie."""
    task_id = await net.ask("liar", wanted=lambda task_id: lie_of(task_id, "classify") is lie)
    await _is_rejected_and_slashed(net, task_id, *lie.expected)


@pytest.mark.parametrize("name", TEXT_LIES)
@simulated(models=("digits", "text"), dispute_seconds=DISPUTE_SECONDS, roles={"liar": liar})
async def test_lies_about_text_are_caught(net: Network, name: str) -> None:
    task_id = await net.ask(
        "liar", model="text", parameters=SAMPLED, wanted=lambda task_id: lie_of(task_id, "text") is CHEATS[name]
    )
    await _is_rejected_and_slashed(net, task_id, *CHEATS[name].expected)


@simulated(dispute_seconds=DISPUTE_SECONDS, roles={"liar": Swindler.from_node})
async def test_a_true_proof_beside_a_false_answer_is_caught(net: Network) -> None:
    task_id = await net.ask("liar")
    await _is_rejected_and_slashed(net, task_id, InvalidReason.DATA_MISMATCH)


@simulated(dispute_seconds=DISPUTE_SECONDS, roles={"liar": liar})
async def test_a_liar_is_slashed_for_each_lie_and_its_neighbour_for_none(net: Network) -> None:
    lies = [await net.ask("liar") for _ in range(3)]
    honest = [await net.ask() for _ in range(3)]
    for task_id in lies:
        assert await net.final(task_id, "liar") is Phase.REJECTED
    for task_id in honest:
        assert await net.final(task_id) is Phase.APPROVED
    for task_id in lies:
        await net.slashed(task_id)
    assert await net.stake("liar") == PERFORMER_STAKE * 9**3 // 10**3
    assert await net.stake("performer") == PERFORMER_STAKE


# --- proofs that are not what they should be ---------------------------------------------------------
def _with_output(proof: ProofObject) -> ProofObject:
    assert isinstance(proof.output, ClassifyOutput)
    output = msgspec.structs.replace(proof.output, label=(proof.output.label + 1) % 10)
    return msgspec.structs.replace(proof, output=output)


BENT = {
    "garbage": (lambda proof: b"not a proof at all", InvalidReason.PROOF_MALFORMED),
    "an empty file": (lambda proof: b"", InvalidReason.PROOF_MALFORMED),
    "too large": (lambda proof: bytes(MAX_PROOF_BYTES + 1), InvalidReason.PROOF_TOO_LARGE),
    "another task's": (
        lambda proof: msgspec.structs.replace(proof, task_id=Digest(sha("other"))),
        InvalidReason.TASK_DIFFERS,
    ),
    "another model's": (
        lambda proof: msgspec.structs.replace(proof, model_hash=Digest(sha("other"))),
        InvalidReason.MODEL_DIFFERS,
    ),
    "another input's": (
        lambda proof: msgspec.structs.replace(proof, input_cid=proof.card_cid),
        InvalidReason.INPUT_DIFFERS,
    ),
    "a stale card's": (
        lambda proof: msgspec.structs.replace(proof, card_cid=proof.input_cid),
        InvalidReason.CARD_DIFFERS,
    ),
    "other parameters'": (
        lambda proof: msgspec.structs.replace(proof, parameters='{"top_k":1}'),
        InvalidReason.PARAMETERS_DIFFER,
    ),
    "another seed's": (
        lambda proof: msgspec.structs.replace(proof, seed=Digest(sha("other"))),
        InvalidReason.SEED_DIFFERS,
    ),
    "a label of its own": (_with_output, InvalidReason.LABEL_DIFFERS),
}


@pytest.mark.parametrize("what", BENT)
@simulated(dispute_seconds=DISPUTE_SECONDS, roles={"liar": liar})
async def test_a_bent_proof_is_invalid(net: Network, what: str) -> None:
    change, reason = BENT[what]
    net.node("liar").shelf.bend = bent_proof(change)
    # Of the liar's own lies, the one that a bent proof hides least.
    task_id = await net.ask("liar", wanted=lambda task_id: lie_of(task_id, "classify") is CHEATS["another model"])
    await _is_rejected_and_slashed(net, task_id, reason)


# --- two task infos --------------------------------------------------------------------------------
@simulated(roles={"liar": TwoTaskInfos.from_node})
async def test_of_two_task_infos_each_attester_votes_on_one_for_ever(net: Network) -> None:
    task_id = await net.ask("liar", deadline_seconds=20)
    await net.final(task_id, "liar")
    infos = {message.task_info for message in net.journal.of(TaskMessage, "liar")}
    assert len(infos) == 2
    for name in net.attesters:
        assert len({vote.task_info_hash for vote in net.votes(name, task_id)}) == 1
        assert set(net.reasons(name, task_id)) == {AbstainReason.GUARDED}
    # Nobody may hold both certificates, and an honest attester is never taken for an equivocator.
    assert len(net.on_chain(task_id)) <= 1
    assert not net.node("aggregator0").duty.pool.equivocations
