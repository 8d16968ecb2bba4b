"""A vote is signed once for ever: durable before the key signs, the same after any crash."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from shared import messages
from shared.crypto import bls
from shared.errors import StoreFull
from shared.messages import AbstainMessage, TaskMessage, VoteMessage
from shared.reasons import AbstainReason, InvalidReason
from shared.types import Verdict
from shared.verification.method import invalid, valid
from tests.cast import peer_key_of
from tests.chain_support import PERFORMER
from tests.judging import LABEL_2, SpySigner, bare, repeat, saying
from tests.listening import until, virtual
from tests.roles import World


# --- voting ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("changes", "verdict"), [({}, Verdict.VALID), ({"info": {"data": LABEL_2}}, Verdict.INVALID)])
@virtual
async def test_a_vote_is_signed_over_what_was_judged(changes: dict[str, Any], verdict: Verdict) -> None:
    async with World() as world, world.attester(2):
        performer = await world.bystander(PERFORMER)
        message = await world.performed(**changes)
        await performer.say(message)
        vote: VoteMessage = (await performer.hears(VoteMessage))[0]
        info_hash = world.domain.task_info_hash(message.task_info)
        assert bare(vote) == world.vote(2, message.task_info, verdict)
        assert world.rules().check_vote(peer_key_of(world.people[2]), messages.encode(vote)) == vote
        assert not bls.verify(
            world.people[2].vote.public_key, world.domain.vote(info_hash, Verdict(3 - verdict)), vote.signature
        )
        assert world.files["guard 2"].votes == {message.task_info.task_id: (info_hash, verdict)}


@virtual
async def test_the_vote_is_durable_before_the_key_signs() -> None:
    async with World() as world:
        signer = SpySigner(world.people[0].vote, world.files["guard 0"])
        async with world.attester(signer=signer):
            performer = await world.bystander(PERFORMER)
            message = await world.performed()
            await performer.say(message)
            await performer.hears(VoteMessage)
        info_hash = world.domain.task_info_hash(message.task_info)
        assert signer.held == [{message.task_info.task_id: (info_hash, Verdict.VALID)}]


@virtual
async def test_a_guard_that_cannot_remember_lets_nothing_be_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with World() as world:
        signer = SpySigner(world.people[0].vote, world.files["guard 0"])

        async def fail(*_: object) -> None:
            raise StoreFull("no room on the disk")

        async with world.attester(signer=signer) as attester:
            monkeypatch.setattr(attester._guard, "check_and_insert", fail)
            performer = await world.bystander(PERFORMER)
            message = await world.performed()
            with capture_logs() as logs:
                await repeat(performer, message)
            assert [entry["event"] for entry in logs if entry["log_level"] != "info"] == ["attestation interrupted"]
            assert (signer.held, performer.votes) == ([], [])
            monkeypatch.undo()
            await performer.say(message)  # there is room again, and the performer asks again
            await performer.hears(VoteMessage)


# --- once for ever -----------------------------------------------------------------------------------
@virtual
async def test_a_vote_is_repeated_when_the_task_is_and_never_judged_again() -> None:
    judge = saying(valid(0.25), invalid(InvalidReason.SCORES_DIFFER))
    async with World() as world, world.attester(judge=judge.as_judge):
        performer = await world.bystander(PERFORMER)
        await repeat(performer, await world.performed(), times=4)
        assert len(performer.votes) == 4
        assert set(performer.votes) == {performer.votes[0]}
        assert performer.votes[0].verdict is Verdict.VALID
        assert len(judge.asked) == 1


@pytest.mark.parametrize("crash", ["signing", "publishing"])
@virtual
async def test_a_crash_after_the_guard_repeats_the_same_vote(crash: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the next run's engine would say: this key has voted."""
    async with World() as world:
        performer = await world.bystander(PERFORMER)
        message = await world.performed()
        signer = SpySigner(world.people[0].vote, world.files["guard 0"])
        signer.is_broken = crash == "signing"
        async with world.attester(judge=saying(valid(0.0)).as_judge, signer=signer) as attester:
            if crash == "publishing":
                monkeypatch.setattr(attester._gossip, "publish", never)
            await performer.say(message)
            await until(lambda: signer.held, "it came to the key")
        assert performer.votes == []
        judge = saying(invalid(InvalidReason.SCORES_DIFFER))
        async with world.attester(judge=judge.as_judge):
            await performer.say(message)
            assert [bare(vote) for vote in await performer.hears(VoteMessage)] == [world.vote(0, message.task_info)]
        assert judge.asked == []


async def never(*_: object) -> None:
    await asyncio.get_running_loop().create_future()


@virtual
async def test_a_signer_that_is_away_delays_the_vote_and_changes_nothing() -> None:
    async with World() as world:
        signer = SpySigner(world.people[0].vote, world.files["guard 0"])
        signer.is_broken = True
        async with world.attester(signer=signer):
            performer = await world.bystander(PERFORMER)
            message = await world.performed()
            await repeat(performer, message)
            assert performer.votes == []
            signer.is_broken = False
            await performer.say(message)
            assert [bare(vote) for vote in await performer.hears(VoteMessage)] == [world.vote(0, message.task_info)]


async def two_infos(world: World) -> tuple[TaskMessage, TaskMessage]:
    """The performer signed two answers to one request, one of them a lie."""
    honest, lie = await world.performed(), await world.performed(info={"data": LABEL_2})
    assert honest.request == lie.request
    return honest, lie


@pytest.mark.parametrize("is_honest_first", [True, False])
@virtual
async def test_a_second_task_info_of_a_task_gets_no_vote(is_honest_first: bool) -> None:
    async with World() as world:
        first, second = (await two_infos(world))[:: 1 if is_honest_first else -1]
        performer = await world.bystander(PERFORMER)
        async with world.attester():
            await performer.say(first)
            await performer.hears(VoteMessage)
            await performer.say(second)
            abstention = (await performer.hears(AbstainMessage))[0]
            assert abstention == world.abstention(0, second.task_info, AbstainReason.GUARDED)
        async with world.attester():  # nor from the next run
            await asyncio.sleep(2)
            await repeat(performer, second, first)
            assert performer.abstentions == [AbstainReason.GUARDED] * 2
            assert set(performer.votes) == {performer.votes[0]}
            assert len(performer.votes) == 2


@virtual
async def test_two_task_infos_at_the_same_time_get_one_vote() -> None:
    judge = saying(valid(0.0), seconds=1)
    async with World() as world, world.attester(judge=judge.as_judge):
        performer = await world.bystander(PERFORMER)
        for message in await two_infos(world):
            await performer.say(message)
        await performer.hears(VoteMessage)
        await performer.hears(AbstainMessage)
        assert len(judge.asked) == 2
        assert (len(performer.votes), performer.abstentions) == (1, [AbstainReason.GUARDED])


@virtual
async def test_the_same_input_in_two_tasks_gets_two_votes() -> None:
    async with World() as world, world.attester():
        performer = await world.bystander(PERFORMER)
        for nonce in (1, 2):
            await performer.say(await world.performed(request={"nonce": nonce}))
        votes = await performer.hears(VoteMessage, 2)
        assert len({vote.task_id for vote in votes}) == 2
