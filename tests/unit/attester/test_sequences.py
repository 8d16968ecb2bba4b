"""The attester's memory of evidence, over both stores: every text once, every task the same answer, nothing lost."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import pytest

from attester.sequences import SEQUENCE, SequenceLedger
from shared.adapters.memory.store import MemoryFile, MemoryStore
from shared.adapters.store_sqlite import SqliteStore
from shared.interfaces import TaskStore
from shared.types import Digest
from shared.verification.wealth import SHARES, Growth, Wealth

LIMIT = 9.22
ACCOUNT, OTHER = bytes(32), bytes([1]) * 32
MILD: Growth = (2.0,) * len(SHARES)
STRONG: Growth = (30.0,) * len(SHARES)


class OpenedStore(TaskStore, AbstractAsyncContextManager["OpenedStore"], Protocol):
    """A store that opens and closes."""


Make = Callable[[], OpenedStore]


@pytest.fixture(params=["sqlite", "memory"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Makes stores on one and the same place; each must be opened."""
    if request.param == "sqlite":
        return lambda: SqliteStore(tmp_path / "store.db")
    file = MemoryFile()
    return lambda: MemoryStore(file)


@pytest.fixture
async def store(make: Make) -> AsyncIterator[TaskStore]:
    async with make() as opened:
        yield opened


def named(what: str, number: int) -> Digest:
    return Digest(hashlib.sha256(f"{what} {number}".encode()).digest())


async def add(ledger: SequenceLedger, number: int, growth: Growth = MILD, account: bytes = ACCOUNT) -> float:
    return await ledger.add(account, named("task", number), named("text", number), growth, LIMIT)


def evidence_after(*growths: Growth) -> float:
    wealth = Wealth()
    for growth in growths:
        wealth = wealth.after(growth)
    return wealth.evidence


async def test_evidence_adds_up_over_texts(store: TaskStore) -> None:
    ledger = SequenceLedger(store)
    assert [await add(ledger, number) for number in range(3)] == [evidence_after(*[MILD] * n) for n in (1, 2, 3)]


async def test_a_task_counts_once_and_is_told_the_same(store: TaskStore) -> None:
    """An attester asks again when it could not vote."""
    ledger = SequenceLedger(store)
    first = await add(ledger, 0)
    second = await add(ledger, 1)
    assert await add(ledger, 0, STRONG) == first
    assert await add(ledger, 1) == second
    assert await add(ledger, 2) == evidence_after(MILD, MILD, MILD)


async def test_a_text_counts_once_whatever_its_task(store: TaskStore) -> None:
    ledger = SequenceLedger(store)
    first = await add(ledger, 0)
    for number in range(1, 5):
        assert await ledger.add(ACCOUNT, named("task", number), named("text", 0), STRONG, LIMIT) == first
    assert await add(ledger, 5) == evidence_after(MILD, MILD)


async def test_accounts_are_kept_apart(store: TaskStore) -> None:
    ledger = SequenceLedger(store)
    await add(ledger, 0)
    assert await add(ledger, 0, account=OTHER) == evidence_after(MILD)
    assert await add(ledger, 1) == evidence_after(MILD, MILD)


async def test_after_a_conviction_it_starts_anew(store: TaskStore) -> None:
    """One excess, and not one refusal after another; the task that brought it stays refused."""
    ledger = SequenceLedger(store)
    convicted = await add(ledger, 0, STRONG)
    assert convicted > LIMIT
    assert await add(ledger, 1) == evidence_after(MILD)
    assert await add(ledger, 0, STRONG) == convicted
    assert await ledger.add(ACCOUNT, named("task", 2), named("text", 0), STRONG, LIMIT) == evidence_after(MILD)


async def test_it_is_there_after_a_crash(make: Make) -> None:
    """Nothing is kept in the process alone."""
    async with make() as opened:
        first = await add(SequenceLedger(opened), 0)
        await add(SequenceLedger(opened), 1)
    async with make() as opened:
        ledger = SequenceLedger(opened)
        assert await add(ledger, 0, STRONG) == first
        assert await add(ledger, 2) == evidence_after(MILD, MILD, MILD)


async def test_texts_judged_at_the_same_time_all_count(store: TaskStore) -> None:
    ledger = SequenceLedger(store)
    told = await asyncio.gather(*[add(ledger, number) for number in range(4)])
    assert sorted(told) == [evidence_after(*[MILD] * n) for n in range(1, 5)]


async def test_the_account_longest_unused_is_forgotten(make: Make) -> None:
    async with make() as opened:
        ledger = SequenceLedger(opened, max_accounts=2)
        for number, account in enumerate((ACCOUNT, OTHER, ACCOUNT)):
            await add(ledger, number, account=account)
    async with make() as opened:
        ledger = SequenceLedger(opened, max_accounts=2)
        await add(ledger, 0, account=bytes([2]) * 32)
        assert [key async for key, _ in opened.scan(SEQUENCE)] == [ACCOUNT, bytes([2]) * 32]
        assert await add(ledger, 1, STRONG, account=OTHER) == evidence_after(STRONG)


async def test_tasks_are_remembered_up_to_a_number(store: TaskStore) -> None:
    ledger = SequenceLedger(store, max_remembered=2)
    for number in range(3):
        await add(ledger, number)
    assert await add(ledger, 0) == evidence_after(*[MILD] * 4)
    assert await add(ledger, 2) == evidence_after(*[MILD] * 3)
