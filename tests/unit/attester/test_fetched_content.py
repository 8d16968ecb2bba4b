"""What an attester fetched for a task: how long it serves it on, for whom, and what it says when it could not fetch."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from attester.said import MAX_SAID_CHARACTERS, said_of
from shared.constants import MAX_KEPT_BYTES_A_PERFORMER, MAX_PROOF_BYTES
from shared.content.unixfs import cid_of
from shared.errors import CodecError, ContentUnavailable
from shared.interfaces import Pin
from shared.keeping import CACHE, LEAST_KEPT_BYTES, Shares, kept_until
from shared.messages import AbstainMessage, VoteMessage
from shared.reasons import AbstainReason, ContentOutcome, InvalidReason
from shared.types import Address, Cid, Digest
from tests.builders import NOW
from tests.chain_support import PERFORMER
from tests.listening import virtual
from tests.roles import World
from tests.toy_model import CARD_CID, DEFINITION, DOCUMENT, MODEL

NEWCOMER = Address(b"n" * 20)


# --- keeping -----------------------------------------------------------------------------------------
def pins_of(world: World, index: int = 0) -> dict[Cid, Pin]:
    return world.content.pins[world.people[index].address]


@virtual
async def test_proof_and_input_are_kept_until_the_dispute_is_over_and_the_model_is_cache() -> None:
    async with World() as world:
        message = await world.performed()
        await world.judge().judge(message)
        until = kept_until(message.request.deadline, DEFINITION.terms.dispute_window, world.roster.settle_seconds)
        pins = pins_of(world)
        assert [pins[cid].keep_until for cid in (message.task_info.proof_of_task, cid_of(DOCUMENT))] == [until] * 2
        assert [pins[cid].keep_until for cid in (CARD_CID, cid_of(MODEL))] == [CACHE] * 2


@virtual
async def test_it_serves_them_on_when_the_performer_is_gone() -> None:
    async with World() as world:
        message = await world.performed()
        await world.judge().judge(message)
        del world.content.blocks[PERFORMER.address]
        newcomer = world.content.join(NEWCOMER)
        assert await newcomer.get(cid_of(DOCUMENT), max_bytes=1 << 20, timeout_seconds=1.0) == DOCUMENT
        assert await newcomer.get(message.task_info.proof_of_task, max_bytes=1 << 20, timeout_seconds=1.0)


@virtual
async def test_a_performer_cannot_fill_the_disk_with_what_must_stay() -> None:
    """Beyond its share, what it proves is checked all the same, and may go when there is no room."""
    async with World() as world:
        judge = world.judge()
        judge._shares = Shares(max_bytes=1)
        first, second = await world.performed(), await world.performed(request={"nonce": 2})
        judgements = [await judge.judge(message) for message in (first, second)]
        assert [judgement.reason for judgement in judgements] == [None, None]
        pins = pins_of(world)
        assert pins[first.task_info.proof_of_task].keep_until > CACHE
        assert pins[second.task_info.proof_of_task].keep_until == CACHE


@virtual
async def test_what_was_here_as_cache_is_taken_off_the_share_when_it_has_to_stay() -> None:
    """Else a performer has its tasks cached while its share is used up, and promised for nothing when it is not."""
    async with World() as world:
        judge = world.judge()
        first, second = await world.performed(), await world.performed(request={"nonce": 2})
        mine = world.content.join(world.people[0].address)
        for cid in (first.task_info.proof_of_task, first.request.input_cid):
            await mine.get(cid, max_bytes=1 << 20, timeout_seconds=1.0, keep_until=CACHE)
        judge._shares = Shares(max_bytes=1)
        for message in (first, second):
            await judge.judge(message)
        pins = pins_of(world)
        assert pins[first.task_info.proof_of_task].keep_until > CACHE
        assert pins[second.task_info.proof_of_task].keep_until == CACHE


@virtual
async def test_trying_again_takes_nothing_more_off_the_share() -> None:
    async with World() as world:
        judge = world.judge()
        message = await world.performed()
        judge._shares = Shares(max_bytes=2 * LEAST_KEPT_BYTES + 1)  # both files are small
        for _ in range(3):
            await judge.judge(message)
        assert judge._shares.granted(PERFORMER.address, NOW + 1, NOW) == NOW + 1
    assert MAX_KEPT_BYTES_A_PERFORMER > 100 * MAX_PROOF_BYTES


# --- saying why --------------------------------------------------------------------------------------
def logged(logs: list[Any], event: str) -> Any:
    return next(entry for entry in logs if entry["event"] == event)


@virtual
async def test_an_abstention_says_what_each_source_did_and_gossip_does_not() -> None:
    async with World() as world, world.attester():
        performer = await world.bystander(PERFORMER)
        message = await world.performed()
        world.content.withhold(PERFORMER.address, message.task_info.proof_of_task)
        with capture_logs() as logs:
            await performer.say(message)
            abstention = (await performer.hears(AbstainMessage))[0]
        entry = logged(logs, "abstained")
        assert entry["content"] == "unavailable"
        assert entry["said"].startswith(f"{message.task_info.proof_of_task}: ")
        assert f"0x{PERFORMER.address.hex()}: does not have it" in entry["said"]
        assert abstention == world.abstention(0, message.task_info, AbstainReason.PROOF_UNAVAILABLE)


@pytest.mark.parametrize(
    ("changes", "reason", "content", "said"),
    [
        ({}, None, "verified", False),
        ({"bound": {"task_id": Digest(bytes(32))}}, InvalidReason.TASK_DIFFERS, "verified", False),
        ({"proof": b"{}"}, InvalidReason.PROOF_MALFORMED, "verified", True),
        ({"proof": b" " * (MAX_PROOF_BYTES + 1)}, InvalidReason.PROOF_TOO_LARGE, "wrong", True),
    ],
    ids=["honest", "another task's", "no proof", "too large"],
)
@virtual
async def test_a_vote_says_how_the_read_ended(
    changes: dict[str, Any], reason: InvalidReason | None, content: str, said: bool
) -> None:
    async with World() as world, world.attester():
        performer = await world.bystander(PERFORMER)
        with capture_logs() as logs:
            await performer.say(await world.performed(**changes))
            await performer.hears(VoteMessage)
        entry = logged(logs, "voted")
        assert (entry["reason"], entry["content"]) == (reason, content)
        assert ("said" in entry) is said


@virtual
async def test_a_model_that_cannot_be_fetched_is_said_too() -> None:
    async with World() as world:
        message = await world.performed()
        world.content.withhold(PERFORMER.address, cid_of(MODEL))
        judgement = await world.judge().judge(message)
        assert (judgement.reason, judgement.content) == (AbstainReason.MODEL_UNAVAILABLE, ContentOutcome.UNAVAILABLE)
        assert judgement.said.startswith(f"{cid_of(MODEL)}: ")


def test_what_is_said_is_bounded() -> None:
    causes = {f"source {number}": "x" * 80 for number in range(1000)}
    assert (
        said_of(ContentUnavailable("cid", causes))
        == ("cid: " + "; ".join(f"{name}: {cause}" for name, cause in causes.items()))[:MAX_SAID_CHARACTERS]
    )
    assert said_of(CodecError("y" * 1000)) == "y" * MAX_SAID_CHARACTERS
    assert said_of(ContentUnavailable("cid")) == "cid: no source is known"
