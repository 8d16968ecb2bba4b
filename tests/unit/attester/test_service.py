"""The attester's duty: it votes once for ever, and says why when it cannot, and tries again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from attester import service
from attester.judge import Judge
from shared import messages
from shared.adapters.memory.store import MemoryFile, MemoryVoteGuard
from shared.adapters.signers import LocalVoteSigner
from shared.constants import REPUBLISH_SECONDS
from shared.crypto import bls
from shared.errors import SigningError, StoreFull, TransportError
from shared.interfaces import VoteGuard
from shared.messages import AbstainMessage, TaskMessage, VoteMessage
from shared.reasons import AbstainReason, InvalidReason
from shared.types import Digest, Verdict
from shared.verification.method import Judgement, invalid, valid
from tests.cast import peer_key_of
from tests.chain_support import PERFORMER
from tests.listening import Bystander, until, virtual
from tests.roles import World
from tests.toy_model import DOCUMENT, cid_of

LABEL_2 = (2).to_bytes(32, "big")


def now() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class ScriptedJudge:
    """Says what it is told, after `seconds`; remembers when it was asked."""

    opinions: list[Judgement] = field(default_factory=list)  # the last one stays
    seconds: float = 0.0
    asked: list[tuple[float, Digest]] = field(default_factory=list)
    running: int = 0
    most_at_once: int = 0

    async def judge(self, message: TaskMessage) -> Judgement:
        self.asked.append((now(), message.task_info.task_id))
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        await asyncio.sleep(self.seconds)
        self.running -= 1
        return self.opinions.pop(0) if len(self.opinions) > 1 else self.opinions[0]

    @property
    def as_judge(self) -> Judge:
        return cast("Judge", self)


def saying(*opinions: Judgement, seconds: float = 0.0) -> ScriptedJudge:
    return ScriptedJudge(list(opinions), seconds)


def abstain(reason: AbstainReason) -> Judgement:
    return Judgement(verdict=Verdict.ABSTAIN, reason=reason, score=0.0)


AWAY = abstain(AbstainReason.PROOF_UNAVAILABLE)


class SpySigner(LocalVoteSigner):
    """Notes what the guard's disk held when the key signed; fails while told to."""

    def __init__(self, key: bls.SecretKey, file: MemoryFile) -> None:
        super().__init__(key)
        self.file, self.held, self.is_broken = file, list[dict[Digest, Any]](), False

    async def sign(self, digest: Digest) -> bytes:
        self.held.append(dict(self.file.votes))
        if self.is_broken:
            raise SigningError("the signer is away")
        return await super().sign(digest)


async def repeat(speaker: Bystander, *tasks: TaskMessage, times: int = 1) -> None:
    """As a performer that nobody answers."""
    for _ in range(times):
        for message in tasks:
            await speaker.say(message)
        await asyncio.sleep(REPUBLISH_SECONDS)


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
        assert vote == world.vote(2, message.task_info, verdict)
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
            assert [(entry["log_level"], entry["event"]) for entry in logs] == [("warning", "attestation interrupted")]
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
            assert await performer.hears(VoteMessage) == [world.vote(0, message.task_info)]
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
            assert await performer.hears(VoteMessage) == [world.vote(0, message.task_info)]


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
        assert await performer.hears(VoteMessage) == [world.vote(0, message.task_info)]


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
        assert await performer.hears(VoteMessage) == [world.vote(0, good.task_info)]


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
        assert await performer.hears(VoteMessage) == [world.vote(0, message.task_info)]


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
    return TaskMessage(honest.request, honest.requester_signature, honest.task_info, bytes(65))


async def forged_requester(world: World) -> TaskMessage:
    honest = await world.performed()
    return TaskMessage(honest.request, bytes(65), honest.task_info, honest.performer_signature)


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
