"""A task's life: the whole table of transitions, and what holds after any sequence of events."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import IllegalTransition
from shared.types import Verdict
from shared.workflow import (
    FINAL,
    Certified,
    DeadlinePassed,
    DroppedFromPool,
    Event,
    Failed,
    Inclusion,
    Performed,
    Phase,
    SettledOnChain,
    Submitted,
    Task,
    advance,
)
from tests.builders import NOW, certificate, request, sha, signed, task_info, task_message

INFO, CERTIFICATE = task_info(), certificate()
REJECTION = certificate(None, Verdict.INVALID, (0, 2))
INCLUSION = Inclusion(sha("root"), sha("info"), True, sha("voters"), (sha("sibling"),))
EVENTS: dict[str, Event] = {
    "performed": Performed(INFO, task_message().performer_signature, 0.25, NOW + 1),
    "certified": Certified(CERTIFICATE, 5, 0, 6, NOW + 2),
    "submitted": Submitted(sha("transaction")),
    "dropped": DroppedFromPool(),
    "approved": SettledOnChain(True, sha("settling"), 300_000, 16, NOW + 3, INCLUSION),
    "rejected": SettledOnChain(False, sha("settling"), 300_000, 0, NOW + 3),
    "deadline": DeadlinePassed(),
    "failed": Failed("the model does not fit"),
}
NEW = Task(task_id=INFO.task_id, request=request(), requester_signature=signed(request()), requested_at=NOW)
ILLEGAL, SAME = "illegal", "same"
# One row a phase, in the order of EVENTS. `same`: the event came before or too late, and changes nothing.
TABLE: dict[str, tuple[str, ...]] = {
    "requested": ("performed", "certified", ILLEGAL, ILLEGAL, "approved", "rejected", "expired", "requested"),
    "performed": (ILLEGAL, "certified", ILLEGAL, ILLEGAL, "approved", "rejected", "expired", ILLEGAL),
    "certified": (ILLEGAL, SAME, "submitted", ILLEGAL, "approved", "rejected", SAME, ILLEGAL),
    "submitted": (ILLEGAL, SAME, "submitted", "certified", "approved", "rejected", SAME, ILLEGAL),
    "approved": (ILLEGAL, SAME, ILLEGAL, ILLEGAL, "approved", "rejected", SAME, ILLEGAL),
    "rejected": (ILLEGAL, SAME, ILLEGAL, ILLEGAL, "approved", "rejected", SAME, ILLEGAL),
    "expired": (ILLEGAL, "certified", ILLEGAL, ILLEGAL, "approved", "rejected", SAME, ILLEGAL),
}
LIVES: dict[str, tuple[str, ...]] = {
    "requested": (),
    "performed": ("performed",),
    "certified": ("performed", "certified"),
    "submitted": ("performed", "certified", "submitted"),
    "approved": ("performed", "certified", "submitted", "approved"),
    "rejected": ("performed", "certified", "submitted", "rejected"),
    "expired": ("performed", "deadline"),
}
MOVES = [(phase, event, after) for phase, row in TABLE.items() for event, after in zip(EVENTS, row, strict=True)]


def after(*events: str) -> Task:
    task = NEW
    for event in events:
        task = advance(task, EVENTS[event])
    return task


# --- the table -----------------------------------------------------------------------------------
def test_the_table_is_of_all_phases() -> None:
    assert list(TABLE) == list(LIVES) == [phase.value for phase in Phase]
    for phase, events in LIVES.items():
        assert after(*events).phase == phase


@pytest.mark.parametrize(("phase", "event", "expected"), MOVES)
def test_each_event_in_each_phase(phase: str, event: str, expected: str) -> None:
    task = after(*LIVES[phase])
    if expected == ILLEGAL:
        with pytest.raises(IllegalTransition, match=f"^{type(EVENTS[event]).__name__} in phase {phase}$"):
            advance(task, EVENTS[event])
    elif expected == SAME:
        assert advance(task, EVENTS[event]) is task
    else:
        assert advance(task, EVENTS[event]).phase == expected


def test_final_phases() -> None:
    assert {"approved", "rejected", "expired"} == FINAL
    for phase, events in LIVES.items():
        assert after(*events).is_final is (phase in FINAL)


# --- what each event leaves ----------------------------------------------------------------------
def changed(before: Task, now: Task) -> dict[str, Any]:
    """The fields that differ, with their new values."""
    names = before.__struct_fields__
    return {name: getattr(now, name) for name in names if getattr(now, name) != getattr(before, name)}


STAMPED: dict[str, Any] = {"tx_hash": sha("settling"), "gas_used": 300_000, "settled_at": NOW + 3}


@pytest.mark.parametrize(
    ("phase", "event", "fields"),
    [
        (
            "requested",
            "performed",
            {
                "phase": Phase.PERFORMED,
                "task_info": INFO,
                "performer_signature": task_message().performer_signature,
                "inference_seconds": 0.25,
                "performed_at": NOW + 1,
            },
        ),
        (
            "performed",
            "certified",
            {
                "phase": Phase.CERTIFIED,
                "certificate": CERTIFICATE,
                "valid_power": 5,
                "total_power": 6,
                "certified_at": NOW + 2,
            },
        ),
        ("certified", "submitted", {"phase": Phase.SUBMITTED, "tx_hash": sha("transaction")}),
        ("submitted", "dropped", {"phase": Phase.CERTIFIED, "tx_hash": None}),
        (
            "submitted",
            "approved",
            {"phase": Phase.APPROVED, "settled_in_batch_of": 16, "inclusion": INCLUSION, **STAMPED},
        ),
        ("submitted", "rejected", {"phase": Phase.REJECTED, **STAMPED}),
        ("performed", "deadline", {"phase": Phase.EXPIRED}),
        ("requested", "failed", {"failure": "the model does not fit"}),
    ],
)
def test_an_event_changes_its_own_fields(phase: str, event: str, fields: dict[str, Any]) -> None:
    before = after(*LIVES[phase])
    assert changed(before, advance(before, EVENTS[event])) == fields


def test_a_certificate_may_come_before_the_performance_is_known() -> None:
    task = after("certified")
    assert (task.phase, task.task_info, task.certificate) == (Phase.CERTIFIED, INFO, CERTIFICATE)


def test_a_certificate_brings_back_what_a_clock_gave_up() -> None:
    for events in (("deadline", "certified"), ("performed", "deadline", "certified")):
        assert after(*events).phase is Phase.CERTIFIED
        assert after(*events).certificate == CERTIFICATE


def test_the_first_certificate_stays() -> None:
    """A second one, even of the other verdict, is for the chain to judge."""
    task = after("performed", "certified")
    assert advance(task, Certified(REJECTION, 0, 3, 6, NOW + 9)) is task


@pytest.mark.parametrize("settled", ["approved", "rejected"])
def test_a_certificate_that_the_chain_was_faster_than_is_kept(settled: str) -> None:
    before = after("performed", settled)
    certified = advance(before, EVENTS["certified"])
    assert (certified.phase, certified.certificate) == (before.phase, CERTIFICATE)
    assert advance(certified, Certified(REJECTION, 0, 3, 6, NOW + 9)) is certified


def test_what_a_quorum_signed_stays_settleable() -> None:
    for events in (("performed", "certified"), ("performed", "certified", "submitted")):
        assert advance(after(*events), DeadlinePassed()).phase == after(*events).phase


def test_a_replaced_transaction_takes_the_place_of_the_former() -> None:
    task = advance(after("performed", "certified", "submitted"), Submitted(sha("another")))
    assert (task.phase, task.tx_hash) == (Phase.SUBMITTED, sha("another"))


def test_a_transaction_may_be_dropped_and_sent_again() -> None:
    task = after("performed", "certified", "submitted", "dropped", "submitted", "approved")
    assert task == after("performed", "certified", "submitted", "approved")


def test_the_chain_is_always_right() -> None:
    """From any phase, and again after a reorg."""
    for events in LIVES.values():
        for verdict, phase in (("approved", Phase.APPROVED), ("rejected", Phase.REJECTED)):
            assert advance(after(*events), EVENTS[verdict]).phase is phase
    again = SettledOnChain(True, sha("the new branch"), 1, 0, NOW + 9)
    task = advance(after("performed", "certified", "rejected"), again)
    assert (task.phase, task.tx_hash, task.settled_in_batch_of) == (Phase.APPROVED, sha("the new branch"), 0)
    assert task.inclusion is None  # the old branch's root


def test_a_failed_task_runs_out() -> None:
    task = after("failed", "deadline")
    assert (task.phase, task.failure) == (Phase.EXPIRED, "the model does not fit")
    with pytest.raises(IllegalTransition):
        advance(after("performed"), EVENTS["failed"])


# --- any sequence --------------------------------------------------------------------------------
def step(task: Task, event: Event) -> Task:
    """What a role keeps: an illegal event changes nothing."""
    try:
        return advance(task, event)
    except IllegalTransition:
        return task


histories = st.lists(st.sampled_from(sorted(EVENTS)), max_size=12)


@given(histories)
def test_phases_change_by_the_table_alone(history: list[str]) -> None:
    task = NEW
    for event in history:
        before, task = task, step(task, EVENTS[event])
        expected = dict(zip(EVENTS, TABLE[before.phase], strict=True))[event]
        assert task.phase == (before.phase if expected in (ILLEGAL, SAME) else expected)
        is_kept = event == "certified" and before.certificate is None  # the chain was faster than gossip
        if expected in (ILLEGAL, SAME) and not is_kept:
            assert task is before
        if before.phase in (Phase.APPROVED, Phase.REJECTED) and event not in ("approved", "rejected") and not is_kept:
            assert task is before
        if before.phase is Phase.EXPIRED and task is not before:
            assert event in ("certified", "approved", "rejected")


@given(histories)
def test_what_is_known_is_kept(history: list[str]) -> None:
    task = NEW
    for event in history:
        before, task = task, step(task, EVENTS[event])
        # Who asked for what never changes; a certificate and a performance, once there, are never lost.
        kept = ("task_id", "request", "requester_signature", "requested_at")
        assert [getattr(task, name) for name in kept] == [getattr(NEW, name) for name in kept]
        for name in ("certificate", "certified_at", "performed_at", "failure"):
            assert getattr(before, name) in (None, getattr(task, name))
        assert (task.phase in (Phase.CERTIFIED, Phase.SUBMITTED)) <= (task.certificate is not None)
        assert (task.phase is Phase.SUBMITTED) <= (task.tx_hash is not None)
        assert (task.phase in (Phase.APPROVED, Phase.REJECTED)) == (task.settled_at is not None)


@given(histories)
def test_events_may_come_twice(history: list[str]) -> None:
    """A replay after a crash ends where the first run ended."""
    once = twice = NEW
    for event in history:
        once = step(once, EVENTS[event])
        for _ in range(2):
            twice = step(twice, EVENTS[event])
        assert twice == once
