"""Which votes an aggregator counts: forged, contradicting, early and foreign ones, in any order."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from aggregator import service
from shared import quorum
from shared.reasons import AbstainReason
from shared.types import Digest, Role, Verdict
from shared.validation import verify_certificate
from tests.chain_support import Person
from tests.hall import hall
from tests.listening import until, virtual
from tests.roles import World


# --- which votes count ---------------------------------------------------------------------------------
@virtual
async def test_a_share_that_is_not_the_attesters_is_dropped_and_named() -> None:
    async with hall() as h:
        message = await h.task()
        with capture_logs() as logs:
            await h.votes(message, 0, 1)
            await h.votes(message, 2, key=h.world.people[3].vote)
            await h.none()
        assert [(entry["event"], entry["attester"]) for entry in logs if entry["log_level"] == "warning"] == [
            ("vote dropped: wrong signature", h.world.people[2].address.hex())
        ]
        assert h.equivocators == set()
        await asyncio.sleep(1)
        await h.votes(message, 2)  # the right one still counts
        assert (await h.certificate()).signers == (0, 1, 2)


@pytest.mark.parametrize("signature", [bytes(96), b"\xff" * 96, b"\x40" + bytes(95)])
@virtual
async def test_a_share_that_is_no_point_counts_for_nothing(signature: bytes) -> None:
    async with hall() as h:
        message = await h.task()
        await h.votes(message, 0, 1)
        await h.say(2, h.world.vote(2, message.task_info, signature=signature))
        await h.none()


@virtual
async def test_a_vote_in_anothers_name_counts_for_nobody() -> None:
    async with hall() as h:
        message = await h.task()
        await h.votes(message, 0, 1)
        await h.attesters[3].say(h.world.vote(2, message.task_info))  # 3 replays what it heard of 2
        await h.none()


@virtual
async def test_who_is_not_in_the_table_counts_for_nothing() -> None:
    async with hall() as h:
        late = Person("late")
        h.world.enlist(late, Role.ATTESTER)
        h.world.people.append(late)
        message = await h.task()
        await h.votes(message, 0, 1)
        speaker = await h.world.bystander(late)
        await speaker.say(h.world.vote(4, message.task_info))
        await h.none()
        h.world.people.pop()


@pytest.mark.parametrize("change", [{"epoch": 1}, {"task_id": Digest(bytes(32))}])
@virtual
async def test_a_vote_that_names_another_task_or_epoch_counts_for_nothing(change: dict[str, Any]) -> None:
    async with hall() as h:
        h.world.roll()
        message = await h.task()
        assert message.task_info.epoch == 2
        for index in range(3):
            await h.say(index, h.world.vote(index, message.task_info, **change))
        await h.none()
        await h.votes(message, 0, 1, 2)
        assert (await h.certificate()).task_info == message.task_info


@virtual
async def test_abstentions_count_for_nobody_and_say_why_power_is_missing() -> None:
    async with hall() as h:
        message = await h.task()
        for index in range(4):
            await h.say(index, h.world.abstention(index, message.task_info, AbstainReason.PROOF_UNAVAILABLE))
        await h.none()
        tally = h.aggregator.pool.tally(h.world.domain.task_info_hash(message.task_info))
        assert tally is not None
        assert set(tally.abstentions().values()) == {AbstainReason.PROOF_UNAVAILABLE}
        await h.votes(message, 0, 1, 2)
        assert (await h.certificate()).signers == (0, 1, 2)
        assert list(tally.abstentions()) == [h.world.people[3].address]


@virtual
async def test_votes_of_the_previous_epoch_are_counted_by_its_table() -> None:
    async with hall() as h:
        message = await h.task()
        h.world.weights = (9, 1, 1, 1)
        h.world.roll()
        h.world.roster = type(h.world.roster)(
            2,
            h.world.roster.operators,
            {1: World((1, 1, 1, 1)).table_of(1), 2: h.world.table_of(2)},
            h.world.roster.definitions,
        )
        await h.votes(message, 0)
        await h.none()
        await h.votes(message, 1, 2)
        assert (await h.certificate()).signers == (0, 1, 2)


# --- equivocation --------------------------------------------------------------------------------------
@pytest.mark.parametrize("first", [Verdict.VALID, Verdict.INVALID])
@virtual
async def test_who_signs_both_verdicts_is_named_and_counts_for_neither(first: Verdict) -> None:
    async with hall() as h:
        message = await h.task()
        with capture_logs() as logs:
            await h.votes(message, 0, verdict=first)
            await h.votes(message, 0, verdict=Verdict(3 - first))
            await until(lambda: logs, "it is named")
        assert [(entry["event"], entry["attester"]) for entry in logs if entry["log_level"] == "warning"] == [
            ("equivocation", h.world.people[0].address.hex())
        ]
        assert h.equivocators == {h.world.people[0].address}
        await h.votes(message, 1, 2)
        await h.none()
        await asyncio.sleep(1)
        await h.votes(message, 0, verdict=first)  # nor any later one
        await h.none()
        await h.votes(message, 3)
        assert (await h.certificate()).signers == (1, 2, 3)


@virtual
async def test_who_votes_on_two_task_infos_of_a_task_is_named_and_counts_for_neither() -> None:
    async with hall() as h:
        honest, other = await h.task(), await h.task(info={"data": (2).to_bytes(32, "big")})
        await h.votes(honest, 0)
        await h.votes(other, 0)
        await until(lambda: h.equivocators, "it is named")
        await h.votes(honest, 1, 2)
        await h.none()
        await h.votes(honest, 3)
        assert (await h.certificate()).signers == (1, 2, 3)


@virtual
async def test_nobody_is_framed_by_a_vote_that_it_did_not_sign() -> None:
    async with hall() as h:
        message = await h.task()
        await h.votes(message, 0)
        await h.votes(message, 0, verdict=Verdict.INVALID, key=h.world.people[3].vote)
        await h.votes(message, 1, 2)
        assert (await h.certificate()).signers == (0, 1, 2)
        assert h.equivocators == set()


@virtual
async def test_an_equivocation_that_came_before_the_task_is_still_one() -> None:
    async with hall() as h:
        message = await h.world.performed()
        await h.votes(message, 0)
        await h.votes(message, 0, verdict=Verdict.INVALID)
        await h.votes(message, 1, 2)
        await h.performer.say(message)
        await h.none()
        assert h.equivocators == {h.world.people[0].address}


# --- early votes ---------------------------------------------------------------------------------------
@virtual
async def test_votes_that_came_before_their_task_wait_for_it() -> None:
    async with hall() as h:
        message = await h.world.performed()
        await h.votes(message, 0, 1, 2)
        await h.none()
        await h.performer.say(message)
        assert (await h.certificate()).signers == (0, 1, 2)
        assert h.aggregator._early == {}


@virtual
async def test_an_early_abstention_does_not_take_a_votes_place() -> None:
    async with hall() as h:
        message = await h.world.performed()
        await h.votes(message, 0, 1, 2)
        await h.say(0, h.world.abstention(0, message.task_info, AbstainReason.OVERLOADED))
        await h.performer.say(message)
        assert (await h.certificate()).signers == (0, 1, 2)


@virtual
async def test_early_votes_are_bounded_and_the_oldest_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MAX_EARLY_VOTES", 5)
    async with hall() as h:
        old, new = await h.world.performed(), await h.world.performed(request={"nonce": 2})
        await h.votes(old, 0, 1, 2)
        await h.votes(new, 0, 1, 2, 3)
        assert len(h.aggregator._early) == 5
        await h.performer.say(new)
        assert (await h.certificate()).task_info == new.task_info
        await h.performer.say(old)
        await asyncio.sleep(1)
        assert len(h.performer.certificates) == 1


@virtual
async def test_votes_that_overflow_while_others_are_counted_break_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow disk at the quorum, and strangers' votes pushing out those that are about to be counted."""
    monkeypatch.setattr(service, "MAX_EARLY_VOTES", 4)
    async with hall() as h:
        put = h.store.put

        async def slow_put(kind: str, key: bytes, value: bytes) -> None:
            await asyncio.sleep(5)
            await put(kind, key, value)

        monkeypatch.setattr(h.store, "put", slow_put)
        message = await h.world.performed()
        await h.votes(message, 0, 1, 2, 3)
        with capture_logs() as logs:
            await h.performer.say(message)
            await asyncio.sleep(1)
            for nonce in range(2, 4):
                other = await h.world.performed(request={"nonce": nonce})
                await h.votes(other, 0, 1, 2, 3)
            await h.certificate()
            await asyncio.sleep(5)
        assert [entry for entry in logs if entry["log_level"] in ("error", "warning")] == []
        assert len(h.performer.certificates) == 1


# --- any order -----------------------------------------------------------------------------------------
VOTE = st.tuples(st.integers(0, 3), st.sampled_from([Verdict.VALID, Verdict.INVALID]), st.booleans())


@settings(max_examples=30)
@given(st.lists(VOTE, max_size=10), st.integers(0, 10))
def test_whatever_comes_in_whatever_order_a_certificate_has_its_quorum(
    ballots: list[tuple[int, Verdict, bool]], task_at: int
) -> None:
    """Honest, contradicting and forged votes, with the task somewhere between them."""

    @virtual
    async def run() -> None:
        async with hall() as h:
            message = await h.world.performed()
            for number, (index, verdict, is_forged) in enumerate(ballots):
                if number == task_at:
                    await h.performer.say(message)
                key = h.world.people[(index + 1) % 4].vote if is_forged else None
                await h.votes(message, index, verdict=verdict, key=key)
            await asyncio.sleep(1.1)
            await h.performer.say(message)
            await asyncio.sleep(0.5)
            assert len({certificate.verdict for certificate in h.performer.certificates}) <= 1
            for certificate in h.performer.certificates:
                verify_certificate(h.world.domain, h.world.table_of(1), certificate)
                signed = {(index, verdict) for index, verdict, is_forged in ballots if not is_forged}
                assert {(index, certificate.verdict) for index in certificate.signers} <= signed
                power = len(certificate.signers)
                assert quorum.reached(certificate.verdict, power, 4)

    run()
