"""The attester's duty: what it takes for a task, says when it cannot judge, tries again, and how much at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from structlog.testing import capture_logs

from attester import service
from shared.adapters.memory.store import MemoryFile, MemoryVoteGuard
from shared.content.unixfs import cid_of
from shared.errors import TransportError
from shared.interfaces import VoteGuard
from shared.messages import AbstainMessage, TaskMessage, VoteMessage
from shared.reasons import AbstainReason
from shared.types import Digest
from shared.verification.method import Judgement, valid
from tests.chain_support import PERFORMER
from tests.judging import AWAY, ScriptedJudge, abstain, bare, now, repeat, saying
from tests.listening import virtual
from tests.roles import World
from tests.toy_model import DOCUMENT


# --- abstaining and trying again -----------------------------------------------------------------------
@virtual
async def test_content_that_arrives_turns_the_abstention_into_a_vote() -> None:
    async with World() as world, world.attester():
        performer = await world.bystander(PERFORMER)
        message = await world.performed()
        world.content.withhold(PERFORMER.address, cid_of(DOCUMENT))
        await performer.say(message)
        await performer.hears(AbstainMessage, 2)
        assert set(performer.abstentions) == {AbstainReason.INPUT_UNAVAILABLE}
        assert world.files["guard 0"].votes == {}
        world.content.release(PERFORMER.address, cid_of(DOCUMENT))
        assert [bare(vote) for vote in await performer.hears(VoteMessage)] == [world.vote(0, message.task_info)]


@virtual
async def test_it_tries_again_at_growing_distances_until_the_deadline() -> None:
    judge = saying(AWAY)
    async with World() as world, world.attester(judge=judge.as_judge):
        performer = await world.bystander(PERFORMER)
        message = await world.performed(request={"deadline": int(world.clock.now()) + 60})
        start = now()
        await performer.say(message)
        await asyncio.sleep(300)
        assert [when - start for when, _ in judge.asked] == pytest.approx([0, 1, 3, 7, 15, 30, 45], abs=0.1)
        assert performer.abstentions == [AbstainReason.PROOF_UNAVAILABLE] * 7
        assert performer.votes == []


@pytest.mark.parametrize("reason", AbstainReason)
@virtual
async def test_it_tries_again_only_where_that_may_help(reason: AbstainReason) -> None:
    is_final = reason in {
        AbstainReason.OWN_TASK,
        AbstainReason.METHOD_UNKNOWN,
        AbstainReason.INPUT_UNUSABLE,
        AbstainReason.MODEL_MISMATCH,
    }
    judge = saying(abstain(reason))
    async with World() as world, world.attester(judge=judge.as_judge):
        performer = await world.bystander(PERFORMER)
        await performer.say(await world.performed())
        await asyncio.sleep(20)
        assert len(judge.asked) == (1 if is_final else 5)
        assert set(performer.abstentions) == {reason}


@virtual
async def test_a_task_under_way_is_not_begun_again() -> None:
    judge = saying(valid(0.0), seconds=7)
    async with World() as world, world.attester(judge=judge.as_judge):
        performer = await world.bystander(PERFORMER)
        await repeat(performer, await world.performed(), times=3)
        await performer.hears(VoteMessage)
        assert len(judge.asked) == 1


@virtual
async def test_a_fault_of_its_own_is_told_logged_and_costs_that_task_alone() -> None:
    class Faulty(ScriptedJudge):
        async def judge(self, message: TaskMessage) -> Judgement:
            if message.request.nonce == 1:
                raise ZeroDivisionError("a bug")
            return valid(0.0)

    async with World() as world, world.attester(judge=Faulty().as_judge):
        performer = await world.bystander(PERFORMER)
        bad, good = await world.performed(), await world.performed(request={"nonce": 2})
        with capture_logs() as logs:
            await performer.say(bad)
            await performer.hears(AbstainMessage)
        assert performer.abstentions == [AbstainReason.INTERNAL]
        assert [entry["exc_info"] for entry in logs if entry["log_level"] == "error"] == [True]
        await performer.say(good)
        assert [bare(vote) for vote in await performer.hears(VoteMessage)] == [world.vote(0, good.task_info)]


@virtual
async def test_a_transport_that_fails_costs_no_vote(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise TransportError("no network")

    async with World() as world, world.attester() as attester:
        performer = await world.bystander(PERFORMER)
        message = await world.performed()
        monkeypatch.setattr(attester._gossip, "publish", fail)
        await repeat(performer, message)
        monkeypatch.undo()
        await performer.say(message)
        assert [bare(vote) for vote in await performer.hears(VoteMessage)] == [world.vote(0, message.task_info)]


# --- load --------------------------------------------------------------------------------------------
@virtual
async def test_too_many_open_tasks_are_answered_and_taken_up_when_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service, "MAX_OPEN_VERIFICATIONS", 2)
    judge = saying(valid(0.0), seconds=5)
    async with World() as world, world.attester(judge=judge.as_judge):
        performer = await world.bystander(PERFORMER)
        tasks = [await world.performed(request={"nonce": nonce}) for nonce in range(4)]
        for message in tasks:
            await performer.say(message)
        overloaded = await performer.hears(AbstainMessage, 2)
        assert {abstention.reason for abstention in overloaded} == {AbstainReason.OVERLOADED}
        refused = {abstention.task_id for abstention in overloaded}
        voted = {vote.task_id for vote in await performer.hears(VoteMessage, 2)}
        assert refused | voted == {message.task_info.task_id for message in tasks}
        await asyncio.sleep(5)
        await repeat(performer, *tasks)
        await performer.hears(VoteMessage, 6)
        assert {vote.task_id for vote in performer.votes} == refused | voted


@virtual
async def test_verifications_at_once_are_bounded() -> None:
    judge = saying(valid(0.0), seconds=1)
    async with World() as world, world.attester(judge=judge.as_judge, max_concurrent=3):
        performer = await world.bystander(PERFORMER)
        for nonce in range(8):
            await performer.say(await world.performed(request={"nonce": nonce}))
        await performer.hears(VoteMessage, 8)
        assert judge.most_at_once == 2  # of three places, one performer never gets the last


# --- what is no task for it --------------------------------------------------------------------------
Forge = Callable[[World], Awaitable[TaskMessage]]


async def forged_performer(world: World) -> TaskMessage:
    honest = await world.performed()
    return TaskMessage(honest.request, honest.requester_signature, honest.task_info, bytes(65), honest.content)


async def forged_requester(world: World) -> TaskMessage:
    honest = await world.performed()
    return TaskMessage(honest.request, bytes(65), honest.task_info, honest.performer_signature, honest.content)


FORGERIES: dict[str, Forge] = {
    "performer's signature": forged_performer,
    "requester's signature": forged_requester,
    "another operator's task": lambda world: world.performed(performer=world.people[3]),
    "another task id": lambda world: world.performed(info={"task_id": Digest(bytes(32))}),
    "unknown epoch": lambda world: world.performed(info={"epoch": 7}),
    "deadline passed": lambda world: world.performed(request={"deadline": int(world.clock.now())}),
}


@pytest.mark.parametrize("name", FORGERIES)
@virtual
async def test_a_task_message_that_is_not_what_it_says_is_not_even_judged(name: str) -> None:
    judge = saying(valid(0.0))
    async with World() as world, world.attester(judge=judge.as_judge):
        performer = await world.bystander(PERFORMER)
        await performer.say(await FORGERIES[name](world))
        await performer.gossip.publish(world.topics.task, b"garbage")
        await asyncio.sleep(1)
        assert (judge.asked, performer.heard[1:]) == ([], [])
        await performer.say(await world.performed(request={"nonce": 2}))
        await performer.hears(VoteMessage)


@virtual
async def test_two_processes_on_one_guard_never_both_start() -> None:
    """A second process on the same vote key is how an honest operator gets slashed."""
    file = MemoryFile()
    async with MemoryVoteGuard(file) as guard:
        as_protocol: VoteGuard = guard
        assert await as_protocol.vote_of(Digest(bytes(32))) is None
        with pytest.raises(Exception, match="the file is in use"):
            await MemoryVoteGuard(file).__aenter__()
