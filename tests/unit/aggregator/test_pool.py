"""The vote pool: strict quorums from votes once each, equivocators named and never counted, and bounded memory."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.pool import Counted, Tally, VotePool
from shared import quorum
from shared.constants import MAX_POOLED_TASKS
from shared.messages import VoteMessage
from shared.reasons import AbstainReason
from shared.types import Digest, TaskInfo, Verdict
from tests.builders import (
    ATTESTERS,
    DOMAIN,
    EPOCH,
    POWERS,
    TABLE,
    abstention,
    replace,
    request,
    sha,
    table_of,
    task_info,
    task_message,
    vote,
)

VALID, INVALID = Verdict.VALID, Verdict.INVALID
INFO, OTHER_INFO = task_info(), task_info(data=b"another answer")


def opened(pool: VotePool, info: TaskInfo = INFO) -> Tally:
    return pool.open(DOMAIN.task_info_hash(info), task_message(info=info), TABLE)


def counted(pool: VotePool, *votes: VoteMessage) -> list[Counted]:
    """Each in the tally that it names."""
    tallies = [pool.tally(message.task_info_hash) for message in votes]
    return [pool.add_vote(message, tally) for message, tally in zip(votes, tallies, strict=True) if tally is not None]


# --- evidence ------------------------------------------------------------------------------------
def test_a_commitment_is_kept_with_its_vote_and_counts_for_nothing() -> None:
    """Nor does another one beside the same verdict make an equivocator: it is no part of what is signed."""
    pool = VotePool()
    tally = opened(pool)
    first, other = vote(0), replace(vote(0), evidence=sha("other evidence"))
    copied = replace(vote(1), evidence=first.evidence)
    assert counted(pool, first, other, copied) == [Counted.NEW, Counted.REPEATED, Counted.NEW]
    assert pool.has_counted(first)
    assert not pool.has_counted(other)
    assert not pool.equivocations
    assert tally.signatures[VALID] == {0: first.signature, 1: copied.signature}


# --- counting ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("voters", "verdict", "expected"),
    [
        ((), VALID, None),
        ((0, 1), VALID, None),  # two thirds exactly
        ((0, 1, 2), VALID, VALID),
        ((0, 1, 2, 3), VALID, VALID),
        ((0,), INVALID, None),  # one third exactly
        ((2, 3), INVALID, None),
        ((0, 2), INVALID, INVALID),
        ((0, 1, 2, 3), INVALID, INVALID),
    ],
)
def test_a_strict_quorum_decides(voters: Sequence[int], verdict: Verdict, expected: Verdict | None) -> None:
    pool = VotePool()
    tally = opened(pool)
    votes = [vote(index, INFO, verdict) for index in voters]
    assert counted(pool, *votes) == [Counted.NEW] * len(voters)
    assert tally.power(verdict) == sum(POWERS[index] for index in voters)
    assert tally.reached() is expected
    assert tally.signatures[verdict] == {index: message.signature for index, message in zip(voters, votes, strict=True)}


def test_a_split_vote_decides_by_its_shares() -> None:
    pool = VotePool()
    tally = opened(pool)
    counted(pool, vote(0, INFO, VALID), vote(2, INFO, VALID), vote(1, INFO, INVALID))
    assert (tally.power(VALID), tally.power(INVALID), tally.reached()) == (3, 2, None)
    counted(pool, vote(3, INFO, INVALID))
    assert tally.reached() is INVALID


def test_a_repeated_vote_counts_once() -> None:
    pool = VotePool()
    tally = opened(pool)
    assert not pool.has_counted(vote())
    assert counted(pool, vote(), vote(), vote()) == [Counted.NEW, Counted.REPEATED, Counted.REPEATED]
    assert tally.power(VALID) == POWERS[0]
    assert pool.has_counted(vote())
    assert not pool.has_counted(vote(1))
    assert not pool.has_counted(vote(verdict=INVALID))
    assert not pool.has_counted(replace(vote(), signature=bytes(96)))
    assert not pool.has_counted(replace(vote(), task_id=sha("another task")))


@pytest.mark.parametrize(
    ("powers", "valid", "invalid", "is_complete"),
    [
        ((2, 2, 1, 1), (0, 1, 2), (), False),
        ((2, 2, 1, 1), (0, 1, 2, 3), (), True),
        ((2, 2, 1, 1), (0, 3), (1, 2), True),
        ((2, 2, 1, 1), (), (0, 1, 2, 3), True),
        ((2, 2, 1, 0), (0, 1, 2), (), True),  # a seat without power has no vote
    ],
)
def test_votes_are_waited_for_until_all_are_there_or_the_deadline_is_over(
    powers: Sequence[int], valid: Sequence[int], invalid: Sequence[int], is_complete: bool
) -> None:
    pool = VotePool()
    message = task_message()
    tally = pool.open(DOMAIN.task_info_hash(INFO), message, table_of(powers=powers))
    counted(pool, *(vote(index) for index in valid), *(vote(index, verdict=INVALID) for index in invalid))
    pool.add_abstention(abstention(3), tally)
    assert tally.is_complete() is is_complete
    deadline = message.request.deadline
    assert [tally.waits(deadline + after) for after in (-1, 0, 0.5)] == [not is_complete, not is_complete, False]


def test_an_equivocator_is_waited_for() -> None:
    """It has no vote any more, and the contract wants one."""
    pool = VotePool()
    tally = opened(pool)
    counted(pool, *(vote(index) for index in range(4)))
    assert tally.is_complete()
    assert counted(pool, vote(3, verdict=INVALID)) == [Counted.EQUIVOCATION]
    assert not tally.is_complete()


def test_strangers_count_for_nothing() -> None:
    pool, small = VotePool(), table_of(members=ATTESTERS[:2], powers=(1, 1))
    tally = pool.open(DOMAIN.task_info_hash(INFO), task_message(), small)
    assert counted(pool, vote(2), vote(3)) == [Counted.STRANGER] * 2
    pool.add_abstention(abstention(2), tally)
    assert (tally.power(VALID), dict(tally.abstentions())) == (0, {})
    assert not pool.has_counted(vote(2))


def test_a_task_opened_again_keeps_its_votes() -> None:
    pool = VotePool()
    tally = opened(pool)
    counted(pool, vote())
    assert opened(pool) is tally
    assert tally.power(VALID) == POWERS[0]
    assert pool.tally(sha("unknown")) is None


def test_tasks_are_counted_apart() -> None:
    pool, infos = VotePool(), [task_info(request(nonce)) for nonce in (1, 2)]
    tallies = [opened(pool, info) for info in infos]
    verdicts = (VALID, INVALID)
    votes = [vote(0, info, verdict) for info, verdict in zip(infos, verdicts, strict=True)]
    assert counted(pool, *votes) == [Counted.NEW] * 2
    assert [tally.power(verdict) for tally, verdict in zip(tallies, verdicts, strict=True)] == [2, 2]
    assert not pool.equivocations


# --- equivocation --------------------------------------------------------------------------------
def test_both_verdicts_make_an_equivocator() -> None:
    pool = VotePool()
    tally = opened(pool)
    first, second = vote(0, INFO, VALID), vote(0, INFO, INVALID)
    assert counted(pool, first, second) == [Counted.NEW, Counted.EQUIVOCATION]
    assert (tally.power(VALID), tally.power(INVALID)) == (0, 0)
    named = pool.equivocations[INFO.task_id, ATTESTERS[0].address]
    assert (named.attester, named.first, named.second) == (ATTESTERS[0].address, first, second)


def test_two_task_infos_of_one_task_make_an_equivocator() -> None:
    """Even with the same verdict: only one answer is the performer's. Neither vote is counted anywhere."""
    pool = VotePool()
    tallies = opened(pool, INFO), opened(pool, OTHER_INFO)
    first, second = vote(0, INFO), vote(0, OTHER_INFO)
    assert first.task_id == second.task_id
    assert counted(pool, first, second) == [Counted.NEW, Counted.EQUIVOCATION]
    assert [tally.power(VALID) for tally in tallies] == [0, 0]
    assert pool.equivocations[INFO.task_id, ATTESTERS[0].address].second == second


def test_an_equivocator_is_out_for_the_whole_task() -> None:
    pool = VotePool()
    tallies = opened(pool, INFO), opened(pool, OTHER_INFO)
    votes = [vote(0, info, verdict) for info in (INFO, OTHER_INFO) for verdict in (VALID, INVALID)]
    counted(pool, *votes[:2])
    assert counted(pool, *votes, *votes) == [Counted.EQUIVOCATION] * 8
    assert [tally.power(verdict) for tally in tallies for verdict in (VALID, INVALID)] == [0] * 4
    assert len(pool.equivocations) == 1


def test_an_equivocator_is_an_honest_voter_elsewhere() -> None:
    """Its power there is the table's; what it did here is for the dispute."""
    pool, other = VotePool(), task_info(request(2))
    opened(pool)
    tally = opened(pool, other)
    counted(pool, vote(0, INFO, VALID), vote(0, INFO, INVALID))
    assert counted(pool, vote(0, other)) == [Counted.NEW]
    assert tally.power(VALID) == POWERS[0]


def test_an_equivocator_takes_back_a_quorum_that_was_not_certified_yet() -> None:
    pool = VotePool()
    tally = opened(pool)
    counted(pool, *(vote(index) for index in (0, 1, 2)))
    assert tally.reached() is VALID
    counted(pool, vote(2, INFO, INVALID))
    assert tally.reached() is None


def test_nobody_else_is_named() -> None:
    pool = VotePool()
    tally = opened(pool)
    counted(pool, vote(0), vote(1), vote(0, INFO, INVALID), vote(1), vote(2, INFO, INVALID))
    assert list(pool.equivocations) == [(INFO.task_id, ATTESTERS[0].address)]
    assert (tally.power(VALID), tally.power(INVALID)) == (POWERS[1], POWERS[2])


def test_a_vote_signed_anew_is_no_equivocation() -> None:
    """BLS signatures are deterministic, but what conflicts is what is signed, never how."""
    pool = VotePool()
    tally = opened(pool)
    assert counted(pool, vote(), replace(vote(), signature=bytes(96))) == [Counted.NEW, Counted.REPEATED]
    assert tally.signatures[VALID] == {0: vote().signature}


# --- abstentions ---------------------------------------------------------------------------------
def test_abstentions_count_for_nobody() -> None:
    pool = VotePool()
    tally = opened(pool)
    for index in range(4):
        pool.add_abstention(abstention(index), tally)
    assert (tally.power(VALID), tally.power(INVALID), tally.reached()) == (0, 0, None)
    assert dict(tally.abstentions()) == {keys.address: AbstainReason.PROOF_UNAVAILABLE for keys in ATTESTERS}


def test_the_last_reason_is_shown() -> None:
    pool = VotePool()
    tally = opened(pool)
    for reason in (AbstainReason.PROOF_UNAVAILABLE, AbstainReason.OVERLOADED):
        pool.add_abstention(abstention(0, reason=reason), tally)
    assert dict(tally.abstentions()) == {ATTESTERS[0].address: AbstainReason.OVERLOADED}


def test_a_vote_takes_the_place_of_an_abstention_and_not_the_other_way() -> None:
    pool = VotePool()
    tally = opened(pool)
    pool.add_abstention(abstention(0), tally)
    assert counted(pool, vote(0)) == [Counted.NEW]
    assert dict(tally.abstentions()) == {}
    pool.add_abstention(abstention(0), tally)
    assert (dict(tally.abstentions()), tally.power(VALID)) == ({}, POWERS[0])


# --- bounds --------------------------------------------------------------------------------------
def info_of(nonce: int) -> TaskInfo:
    return task_info(request(nonce))


def test_the_oldest_task_goes_first() -> None:
    pool = VotePool(capacity=2)
    tallies = [opened(pool, info_of(nonce)) for nonce in (1, 2, 3)]
    found = [pool.tally(DOMAIN.task_info_hash(info_of(nonce))) for nonce in (1, 2, 3)]
    assert found == [None, *tallies[1:]]


def test_a_task_that_went_and_came_back_is_counted_anew() -> None:
    """Were its votes still remembered as counted, their repetitions would be dropped, and it never certified."""
    pool = VotePool(capacity=1)
    former = opened(pool)
    counted(pool, vote())
    opened(pool, info_of(2))
    assert not pool.has_counted(vote())
    assert pool.add_vote(vote(), former) is Counted.FORGOTTEN
    again = opened(pool)
    assert again is not former
    assert pool.add_vote(vote(), former) is Counted.FORGOTTEN
    assert counted(pool, vote()) == [Counted.NEW]
    assert again.power(VALID) == POWERS[0]


def test_room_made_for_others_never_counts_an_attester_twice() -> None:
    """First votes and tallies go together: one without the other would take the second verdict for a first vote."""
    pool = VotePool(capacity=2)
    first, second = info_of(1), info_of(2)
    opened(pool, first)
    tally = opened(pool, second)
    counted(pool, vote(0, second, VALID), vote(0, first, VALID))
    opened(pool, info_of(3))
    counted(pool, vote(0, info_of(3), VALID))
    assert counted(pool, vote(0, second, INVALID)) == [Counted.EQUIVOCATION]
    assert (tally.power(VALID), tally.power(INVALID)) == (0, 0)


def test_one_of_two_task_infos_goes_with_its_votes() -> None:
    pool = VotePool(capacity=2)
    opened(pool, INFO)
    counted(pool, vote(0, INFO))
    opened(pool, OTHER_INFO)
    counted(pool, vote(1, OTHER_INFO))
    opened(pool, info_of(2))
    assert not pool.has_counted(vote(0, INFO))
    assert pool.has_counted(vote(1, OTHER_INFO))


def test_the_default_is_the_protocols() -> None:
    pool = VotePool()
    message = task_message()
    for i in range(MAX_POOLED_TASKS + 1):
        info = replace(message.task_info, task_id=sha(f"task {i}"))
        pool.open(sha(f"info {i}"), replace(message, task_info=info), TABLE)
    assert len(pool._tallies) == len(pool._ballots) == MAX_POOLED_TASKS
    assert pool.tally(sha("info 0")) is None


def test_equivocations_are_bounded() -> None:
    pool = VotePool(capacity=3)
    for nonce in range(1, 6):
        opened(pool, info_of(nonce))
        counted(pool, vote(0, info_of(nonce), VALID), vote(0, info_of(nonce), INVALID))
    assert [task_id for task_id, _ in pool.equivocations] == [info_of(nonce).task_id for nonce in (3, 4, 5)]


def test_an_equivocator_stays_out_when_the_evidence_made_room() -> None:
    pool = VotePool(capacity=2)
    tally, other = opened(pool, info_of(1)), opened(pool, info_of(2))
    for index in (0, 1):
        counted(pool, vote(index, info_of(1), VALID), vote(index, info_of(1), INVALID))
    counted(pool, vote(0, info_of(2), VALID), vote(0, info_of(2), INVALID))
    assert (info_of(1).task_id, ATTESTERS[0].address) not in pool.equivocations
    assert counted(pool, vote(0, info_of(1), VALID)) == [Counted.EQUIVOCATION]
    assert (tally.power(VALID), other.power(VALID)) == (0, 0)


# --- any order of events -------------------------------------------------------------------------
# Three tasks, one of them with two task infos; signatures do not matter here, and cost time.
INFOS = [INFO, OTHER_INFO, info_of(2), info_of(3)]
HASHES = [DOMAIN.task_info_hash(info) for info in INFOS]
MESSAGES = [task_message(info=info) for info in INFOS]
VOTES = {
    (which, index, verdict): vote(index, INFOS[which], verdict)
    for which in range(4)
    for index in range(4)
    for verdict in (VALID, INVALID)
}
ballots = st.tuples(st.integers(0, 3), st.sampled_from([VALID, INVALID]))
events = st.lists(st.tuples(st.integers(0, 3), st.none() | ballots))


def check(pool: VotePool, capacity: int) -> None:
    """What must hold at any time."""
    assert len(pool._tallies) <= capacity
    assert len(pool.equivocations) <= capacity
    assert {tally.message.task_info.task_id for tally in pool._tallies.values()} == set(pool._ballots)
    owners: dict[tuple[Digest, int], int] = {}
    for tally in pool._tallies.values():
        for signatures in tally.signatures.values():
            for index in signatures:
                key = tally.message.task_info.task_id, index
                owners[key] = owners.get(key, 0) + 1
        valid, invalid = tally.power(VALID), tally.power(INVALID)
        assert valid + invalid <= tally.table.total_power
        assert not (quorum.approves(valid, 6) and quorum.rejects(invalid, 6))
    # Once for each task, over all its task infos and both verdicts.
    assert set(owners.values()) <= {1}


@settings(max_examples=200)
@given(events, st.integers(1, 4))
def test_nobody_is_ever_counted_twice(history: list[tuple[int, tuple[int, Verdict] | None]], capacity: int) -> None:
    pool = VotePool(capacity=capacity)
    for which, ballot in history:
        if ballot is None:
            pool.open(HASHES[which], MESSAGES[which], TABLE)
        else:
            counted(pool, VOTES[which, *ballot])
        check(pool, capacity)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from([VALID, INVALID]))))
def test_with_room_for_all_the_honest_count_and_the_others_are_named(votes: list[tuple[int, int, Verdict]]) -> None:
    pool = VotePool()
    tallies = [pool.open(*each, TABLE) for each in zip(HASHES, MESSAGES, strict=True)]
    counted(pool, *(VOTES[ballot] for ballot in votes))
    said: dict[tuple[Digest, int], set[tuple[int, Verdict]]] = {}
    for which, index, verdict in votes:
        said.setdefault((INFOS[which].task_id, index), set()).add((which, verdict))
    liars = {(task_id, ATTESTERS[index].address) for (task_id, index), ballots in said.items() if len(ballots) > 1}
    assert set(pool.equivocations) == liars
    honest = {(*next(iter(ballots)), index) for (_, index), ballots in said.items() if len(ballots) == 1}
    found = {
        (which, verdict, index)
        for which, tally in enumerate(tallies)
        for verdict, signatures in tally.signatures.items()
        for index in signatures
    }
    assert found == honest


def test_the_table_is_that_of_the_task_infos_epoch() -> None:
    pool = VotePool()
    previous = table_of(EPOCH - 1, powers=(1, 1, 1, 3))
    old = task_info(epoch=EPOCH - 1)
    tally = pool.open(DOMAIN.task_info_hash(old), task_message(info=old), previous)
    counted(pool, vote(3, old))
    assert (tally.power(VALID), tally.table.total_power) == (3, 6)
