"""The performer's memory: durable before anybody sees it, and whole after kill -9."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from performer import ledger as ledger_module
from performer.ledger import NONCE, TASK, TaskLedger
from shared.adapters.memory.store import MemoryFile, MemoryStore
from shared.constants import MAX_LONG_POLLS
from shared.errors import RequestRefused, StoreFull
from shared.types import Digest, Verdict
from shared.workflow import (
    Certified,
    DeadlinePassed,
    Event,
    Failed,
    Performed,
    Phase,
    SettledOnChain,
    Submitted,
    Task,
)
from tests.cast import Cast
from tests.chain_support import sha
from tests.listening import until, virtual

CAST = Cast()
SIGNATURE = bytes(65)


def task_of(number: int, **changes: Any) -> Task:
    request = CAST.request(nonce=number, deadline=1_800_000_600)
    plain = Task(
        task_id=Digest(sha("ledger", number)), request=request, requester_signature=SIGNATURE, requested_at=1.0
    )
    return msgspec.structs.replace(plain, **changes)


def performed(number: int) -> Performed:
    return Performed(CAST.info(f"{number}", task_id=Digest(sha("ledger", number))), SIGNATURE, 0.1, 2.0)


def certified(number: int) -> Certified:
    certificate = CAST.certificate(performed(number).task_info, Verdict.VALID, (0, 1, 2))
    return Certified(certificate, 3, 0, 4, 3.0)


SUBMITTED = Submitted(Digest(b"t" * 32))
APPROVED = SettledOnChain(True, Digest(b"t" * 32), 1000, 0, 4.0)
REJECTED = SettledOnChain(False, Digest(b"t" * 32), 1000, 0, 4.0)


@asynccontextmanager
async def opened(file: MemoryFile | None = None) -> AsyncIterator[tuple[TaskLedger, MemoryStore, MemoryFile]]:
    """Ends as with kill -9."""
    file = file or MemoryFile()
    async with MemoryStore(file) as store:
        ledger = TaskLedger(store=store)
        await ledger.load()
        yield ledger, store, file
        file.kill()


async def fail(*_: object) -> None:
    raise StoreFull("no room on the disk")


# --- adding ------------------------------------------------------------------------------------------
@virtual
async def test_what_was_added_is_there_after_kill_9() -> None:
    async with opened() as (ledger, _, file):
        task = await ledger.add(task_of(1))
        assert task == task_of(1)
    async with opened(file) as (ledger, _, _):
        assert list(ledger.open_tasks()) == [task]
        assert ledger.count_open() == 1


@virtual
async def test_a_task_is_added_once() -> None:
    async with opened() as (ledger, _, _):
        await ledger.add(task_of(1))
        await ledger.advance(task_of(1).task_id, performed(1))
        again = await ledger.add(task_of(1))
        assert again.phase is Phase.PERFORMED
        assert ledger.count_open() == 1


@virtual
async def test_a_nonce_belongs_to_one_task_of_a_requester_for_ever() -> None:
    async with opened() as (ledger, _, file):
        await ledger.add(task_of(1))
    other = task_of(1, task_id=Digest(sha("other")))
    async with opened(file) as (ledger, _, _):
        with pytest.raises(RequestRefused) as refused:
            await ledger.add(other)
        assert (refused.value.code, refused.value.field) == (-32010, "request.nonce")
        assert ledger.get(other.task_id) is None
        assert {kind for kind, _ in file.entries} == {NONCE, TASK}
        assert len(file.entries) == 2


@virtual
async def test_a_nonce_without_its_task_is_what_a_crash_left_and_takes_the_task_again() -> None:
    async with opened() as (ledger, _, file):
        await ledger.add(task_of(1))
    del file.entries[TASK, task_of(1).task_id]
    async with opened(file) as (ledger, _, _):
        assert list(ledger.open_tasks()) == []
        assert await ledger.add(task_of(1)) == task_of(1)


@virtual
async def test_a_task_that_cannot_be_stored_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened() as (ledger, store, _):
        monkeypatch.setattr(store, "put", fail)
        with pytest.raises(StoreFull):
            await ledger.add(task_of(1))
        assert (ledger.get(task_of(1).task_id), ledger.count_open()) == (None, 0)


@virtual
async def test_loading_never_puts_back_what_happened_since() -> None:
    """The door may take requests while a former run's tasks are still being read."""
    async with opened() as (ledger, _, file):
        await ledger.add(task_of(1))
    async with MemoryStore(file) as store:
        ledger = TaskLedger(store=store)
        stale = dict(file.entries)
        await ledger.load()
        await ledger.advance(task_of(1).task_id, performed(1))
        file.entries.update(stale)  # as a scan would give that began before
        await ledger.load()
        task = ledger.get(task_of(1).task_id)
        assert task is not None
        assert task.phase is Phase.PERFORMED


# --- advancing ---------------------------------------------------------------------------------------
@virtual
async def test_a_change_is_durable_before_anybody_hears_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened() as (ledger, store, _):
        task = await ledger.add(task_of(1))
        order: list[str] = []
        put = store.put

        async def slow_put(kind: str, key: bytes, value: bytes) -> None:
            await asyncio.sleep(5)
            await put(kind, key, value)
            order.append("stored")

        monkeypatch.setattr(store, "put", slow_put)
        waiter = asyncio.create_task(ledger.wait(task, 60))
        waiter.add_done_callback(lambda _: order.append("told"))
        advancing = asyncio.create_task(ledger.advance(task.task_id, performed(1)))
        await asyncio.sleep(1)
        assert ledger.get(task.task_id) == task
        assert not waiter.done()
        assert (await advancing).phase is Phase.PERFORMED
        assert (await waiter).phase is Phase.PERFORMED
        assert order == ["stored", "told"]


@virtual
async def test_a_change_that_cannot_be_stored_did_not_happen(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened() as (ledger, store, _):
        task = await ledger.add(task_of(1))
        waiter = asyncio.create_task(ledger.wait(task, 1))
        await asyncio.sleep(0)
        monkeypatch.setattr(store, "put", fail)
        with pytest.raises(StoreFull):
            await ledger.advance(task.task_id, performed(1))
        assert ledger.get(task.task_id) == task
        assert await waiter == task


@virtual
async def test_an_illegal_event_is_logged_and_changes_nothing() -> None:
    async with opened() as (ledger, _, file):
        task = await ledger.add(task_of(1))
        before = dict(file.entries)
        with capture_logs() as logs:
            assert await ledger.advance(task.task_id, SUBMITTED) == task
        assert [(entry["event"], entry["reason"]) for entry in logs] == [
            ("event ignored", "Submitted in phase requested")
        ]
        assert file.entries == before


@virtual
async def test_an_event_that_came_before_wakes_nobody() -> None:
    async with opened() as (ledger, _, _):
        task = await ledger.add(task_of(1))
        await ledger.advance(task.task_id, performed(1))
        task = await ledger.advance(task.task_id, certified(1))
        waiter = asyncio.create_task(ledger.wait(task, 10))
        await asyncio.sleep(0)
        await ledger.advance(task.task_id, certified(1))
        await asyncio.sleep(1)
        assert not waiter.done()
        assert await waiter == task


@virtual
async def test_a_task_that_is_not_here_cannot_advance() -> None:
    async with opened() as (ledger, _, _):
        with pytest.raises(KeyError):
            await ledger.advance(task_of(1).task_id, DeadlinePassed())


@virtual
async def test_a_certificate_brings_back_an_expired_task() -> None:
    async with opened() as (ledger, _, _):
        task = await ledger.add(task_of(1))
        await ledger.advance(task.task_id, DeadlinePassed())
        assert ledger.count_open() == 0
        await ledger.advance(task.task_id, certified(1))
        assert ledger.count_open() == 1
        assert [task.phase for task in ledger.open_tasks()] == [Phase.CERTIFIED]


# --- memory ------------------------------------------------------------------------------------------
@virtual
async def test_old_final_tasks_leave_the_memory_and_are_found_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "KEPT_FINAL_TASKS", 2)
    async with opened() as (ledger, _, file):
        tasks = [await ledger.add(task_of(number)) for number in range(5)]
        for task in tasks[:4]:
            await ledger.advance(task.task_id, APPROVED)
        assert [ledger.get(task.task_id) is not None for task in tasks] == [False, False, True, True, True]
        assert ledger.count_open() == 1
        found = await ledger.find(tasks[0].task_id)
        assert found is not None
        assert found.phase is Phase.APPROVED
        assert await ledger.add(tasks[0]) == found  # the same request again, long after
    async with opened(file) as (ledger, _, _):
        assert ledger.count_open() == 1
        assert sum(ledger.get(task.task_id) is not None for task in tasks) == 3


# --- waiting -----------------------------------------------------------------------------------------
@virtual
async def test_waiting_ends_with_the_next_change() -> None:
    async with opened() as (ledger, _, _):
        task = await ledger.add(task_of(1))
        waiters = [asyncio.create_task(ledger.wait(task, 60)) for _ in range(3)]
        await asyncio.sleep(0)
        await ledger.advance(task.task_id, Failed("no engine"))
        assert [(await waiter).failure for waiter in waiters] == ["no engine"] * 3
        assert ledger._changed == {}


@virtual
async def test_waiting_for_what_changed_already_or_is_final_does_not_wait() -> None:
    async with opened() as (ledger, _, _):
        old = await ledger.add(task_of(1))
        await ledger.advance(old.task_id, performed(1))
        loop = asyncio.get_running_loop()
        start = loop.time()
        assert (await ledger.wait(old, 60)).phase is Phase.PERFORMED
        final = await ledger.advance(old.task_id, REJECTED)
        assert await ledger.wait(final, 60) == final
        assert loop.time() == start


@virtual
async def test_a_waiter_whose_time_is_over_or_who_left_leaves_nothing() -> None:
    async with opened() as (ledger, _, _):
        task = await ledger.add(task_of(1))
        patient = asyncio.create_task(ledger.wait(task, 5))
        leaving = asyncio.create_task(ledger.wait(task, 60))
        await asyncio.sleep(0)
        leaving.cancel()
        assert await patient == task
        await until(leaving.done, "the other left")
        assert ledger._changed == {}


@virtual
async def test_waiters_are_bounded_over_all_tasks() -> None:
    async with opened() as (ledger, _, _):
        tasks = [await ledger.add(task_of(number)) for number in range(2)]
        waiters = [asyncio.create_task(ledger.wait(tasks[index % 2], 60)) for index in range(MAX_LONG_POLLS)]
        await asyncio.sleep(0)
        with pytest.raises(RequestRefused, match="too many requests are waiting"):
            await ledger.wait(tasks[0], 60)
        await ledger.advance(tasks[0].task_id, DeadlinePassed())
        await asyncio.gather(*waiters[::2])
        assert await ledger.wait(tasks[1], 1) == tasks[1]
        assert set(await asyncio.gather(*waiters[1::2])) == {tasks[1]}


# --- any history -------------------------------------------------------------------------------------
EVENTS: dict[str, Any] = {
    "performed": performed,
    "certified": certified,
    "submitted": lambda _: SUBMITTED,
    "approved": lambda _: APPROVED,
    "rejected": lambda _: REJECTED,
    "deadline": lambda _: DeadlinePassed(),
    "failed": lambda _: Failed("no engine"),
}
MADE: dict[tuple[int, str], Event] = {
    (number, name): make(number) for number in range(3) for name, make in EVENTS.items()
}


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(sorted(EVENTS))), max_size=12))
def test_after_any_history_the_disk_says_what_the_memory_said(history: list[tuple[int, str]]) -> None:
    @virtual
    async def run() -> None:
        async with opened() as (ledger, _, file):
            tasks = [await ledger.add(task_of(number)) for number in range(3)]
            for number, name in history:
                await ledger.advance(tasks[number].task_id, MADE[number, name])
            said = [ledger.get(task.task_id) for task in tasks]
            assert ledger.count_open() == sum(task is not None and not task.is_final for task in said)
        async with opened(file) as (ledger, _, _):
            assert [ledger.get(task.task_id) for task in tasks] == said
            assert ledger.count_open() == len(list(ledger.open_tasks()))

    run()
