"""A role's durable memory and an attester's vote guard, each in an SQLite file of its own."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from shared.adapters.sqlite import Database, Schema
from shared.adapters.store_limits import check_entry, check_key, check_task_id, check_vote
from shared.errors import ConflictingVote
from shared.types import Digest, Verdict

# A page of a scan: few enough bytes that a long scan neither fills the memory nor holds up writers for long.
PAGE_ENTRIES = 256
PAGE_BYTES = 4 << 20

STORE = Schema(
    what="task store",
    application_id=0x504F4953,  # "POIS"
    version=1,
    statements=("CREATE TABLE entries (kind TEXT, key BLOB, value BLOB NOT NULL, PRIMARY KEY (kind, key))",),
)

# Rows are for ever, as a vote is: a task that could be voted on twice would be worth more to an attacker than the
# hundred bytes. The triggers hold against faults of our own.
GUARD = Schema(
    what="vote guard",
    application_id=0x504F4956,  # "POIV"
    version=1,
    statements=(
        """
        CREATE TABLE votes (
            task_id BLOB PRIMARY KEY CHECK (length(task_id) = 32),
            task_info_hash BLOB NOT NULL CHECK (length(task_info_hash) = 32),
            verdict INTEGER NOT NULL CHECK (verdict IN (1, 2))
        ) WITHOUT ROWID
        """,
        "CREATE TRIGGER no_change BEFORE UPDATE ON votes BEGIN SELECT RAISE(ABORT, 'a vote is final'); END",
        "CREATE TRIGGER no_removal BEFORE DELETE ON votes BEGIN SELECT RAISE(ABORT, 'a vote is final'); END",
    ),
)


class SqliteStore:
    """A `TaskStore` in one file; an async context manager, open inside. Raises `StoreError` and its kinds."""

    def __init__(self, path: Path) -> None:
        self._database = Database(path, STORE)

    async def __aenter__(self) -> Self:
        await self._database.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._database.close()

    async def put(self, kind: str, key: bytes, value: bytes) -> None:
        """As the Protocol says."""
        check_entry(kind, key, value)
        statement = "INSERT INTO entries VALUES (?, ?, ?) ON CONFLICT (kind, key) DO UPDATE SET value = excluded.value"
        await self._database.run(lambda connection: connection.execute(statement, (kind, key, value)))

    async def get(self, kind: str, key: bytes) -> bytes | None:
        """As the Protocol says; sees every put that returned."""
        check_key(kind, key)
        return await self._database.run(lambda connection: _get(connection, kind, key))

    async def delete(self, kind: str, key: bytes) -> None:
        """Durable before it returns; what is not there may be deleted."""
        check_key(kind, key)
        statement = "DELETE FROM entries WHERE kind = ? AND key = ?"
        await self._database.run(lambda connection: connection.execute(statement, (kind, key)))

    async def scan(self, kind: str) -> AsyncIterator[tuple[bytes, bytes]]:
        """By key. What is there from begin to end comes once; what changes meanwhile may come as it was or is."""
        check_key(kind, b"")
        page = await self._database.run(partial(_page, kind=kind, after=None))
        while page:
            for entry in page:
                yield entry
            page = await self._database.run(partial(_page, kind=kind, after=page[-1][0]))


class SqliteVoteGuard:
    """A `VoteGuard` in one file; an async context manager, open inside.

    Opening it a second time raises `StoreBusy`: an attester run twice on one key is how honest people get slashed.
    """

    def __init__(self, path: Path) -> None:
        self._database = Database(path, GUARD)

    async def __aenter__(self) -> Self:
        await self._database.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._database.close()

    async def check_and_insert(self, task_id: Digest, task_info_hash: Digest, verdict: Verdict) -> None:
        """As the Protocol says."""
        check_vote(task_id, task_info_hash, verdict)
        await self._database.run(lambda connection: _check_and_insert(connection, task_id, task_info_hash, verdict))

    async def vote_of(self, task_id: Digest) -> tuple[Digest, Verdict] | None:
        """As the Protocol says."""
        check_task_id(task_id)
        return await self._database.run(lambda connection: _vote_of(connection, task_id))


def _get(connection: sqlite3.Connection, kind: str, key: bytes) -> bytes | None:
    row = connection.execute("SELECT value FROM entries WHERE kind = ? AND key = ?", (kind, key)).fetchone()
    return None if row is None else bytes(row[0])


def _page(connection: sqlite3.Connection, kind: str, after: bytes | None) -> list[tuple[bytes, bytes]]:
    page: list[tuple[bytes, bytes]] = []
    size = 0
    # To SQLite every blob, the empty one too, is more than every text.
    statement = "SELECT key, value FROM entries WHERE kind = ? AND key > ? ORDER BY key LIMIT ?"
    for key, value in connection.execute(statement, (kind, "" if after is None else after, PAGE_ENTRIES)):
        page.append((key, value))
        size += len(value)
        if size > PAGE_BYTES:
            break
    return page


def _vote_of(connection: sqlite3.Connection, task_id: Digest) -> tuple[Digest, Verdict] | None:
    row = connection.execute("SELECT task_info_hash, verdict FROM votes WHERE task_id = ?", (task_id,)).fetchone()
    return None if row is None else (Digest(row[0]), Verdict(row[1]))


def _check_and_insert(
    connection: sqlite3.Connection, task_id: Digest, task_info_hash: Digest, verdict: Verdict
) -> None:
    guarded = _vote_of(connection, task_id)
    if guarded is None:
        connection.execute("INSERT INTO votes VALUES (?, ?, ?)", (task_id, task_info_hash, int(verdict)))
    elif guarded != (task_info_hash, verdict):
        raise ConflictingVote(f"task {task_id[:4].hex()}: this key voted {guarded[1].name.lower()} before")
