"""One SQLite file, one connection, one thread: durable work off the event loop, many callers to a commit.

What is asked for while a commit is under way goes into the next one, so that a burst of a hundred costs two fsyncs. A
caller hears of its work after the commit and never before. The file stays locked while it is open, by its inode: a
second process (or a second node in this one) is refused, whatever name it uses for the file.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from shared.errors import StoreBusy, StoreCorrupt, StoreError, StoreFull

GROUP = 256  # callers to a commit: later ones wait for the next, so that nobody waits for everybody
MAX_PENDING = 1024  # callers beyond it wait outside, where they cost no memory here

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]


@dataclass(frozen=True, slots=True)
class Schema:
    """`application_id` tells our files from others'; `version` counts up with every change of `statements`."""

    what: str  # for errors: "vote guard"
    application_id: int
    version: int
    statements: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    work: Work[Any]
    future: Future[Any] = field(default_factory=Future)


class Database:
    """An open file. Every method belongs to one event loop; work runs in this file's own thread."""

    def __init__(self, path: Path, schema: Schema) -> None:
        self._path, self._schema = path, schema
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._slots = asyncio.Semaphore(MAX_PENDING)
        self._thread: threading.Thread | None = None
        self._ended: Future[None] = Future()
        self._is_open = False

    async def open(self) -> None:
        """Raises `StoreBusy`, `StoreCorrupt`, and `StoreError` for a newer version's file or no file at all."""
        if self._thread is not None:
            raise StoreError(f"{self._schema.what} {self._path} was opened before")
        opened: Future[None] = Future()
        opened.set_running_or_notify_cancel()  # so that the thread can always set it, whether or not anybody waits
        # A daemon: a process that ends without closing must not hang, and the file survives worse.
        self._thread = threading.Thread(target=self._serve, args=(opened,), name=f"sqlite {self._path}", daemon=True)
        self._thread.start()
        try:
            await asyncio.wrap_future(opened)
        except asyncio.CancelledError:
            self._jobs.put(None)
            raise
        self._is_open = True

    async def run(self, work: Work[T]) -> T:
        """What `work` returned or raised, after its commit.

        `work` may run twice (when others in its commit fail), so it touches the connection alone; when it raises, it
        has written nothing. Cancelled, it may still happen.
        """
        async with self._slots:
            if not self._is_open:
                raise StoreError(f"{self._schema.what} {self._path} is not open")
            job = _Job(work)
            self._jobs.put(job)
            result: T = await asyncio.wrap_future(job.future)
            return result

    async def close(self) -> None:
        """Everything asked for before is done and on the disk. Closing again does nothing."""
        if self._is_open:
            self._is_open = False
            self._jobs.put(None)
        if self._thread is not None:
            await asyncio.shield(asyncio.wrap_future(self._ended))

    # --- in the thread ---------------------------------------------------------------------------
    def _serve(self, opened: Future[None]) -> None:
        try:
            connection = _connect(self._path, self._schema)
        except Exception as error:  # noqa: BLE001 - whoever opens hears of it
            self._ended.set_result(None)
            opened.set_exception(error)
            return
        opened.set_result(None)
        with closing(connection):
            while (jobs := self._next_group()) is not None:
                self._commit(connection, jobs)
        self._ended.set_result(None)

    def _next_group(self) -> list[_Job] | None:
        """At least one job, and what else is waiting; None at the end."""
        job = self._jobs.get()
        if job is None:
            return None
        jobs = [job]
        while len(jobs) < GROUP:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                self._jobs.put(None)  # after these
                break
            jobs.append(job)
        return [job for job in jobs if job.future.set_running_or_notify_cancel()]

    def _commit(self, connection: sqlite3.Connection, jobs: list[_Job]) -> None:
        try:
            connection.execute("BEGIN IMMEDIATE")
            outcomes = [_attempt(job.work, connection) for job in jobs]
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            _roll_back(connection)
            self._failed(connection, jobs, error)
            return
        for job, (value, raised) in zip(jobs, outcomes, strict=True):
            if raised is None:
                job.future.set_result(value)
            else:
                job.future.set_exception(raised)

    def _failed(self, connection: sqlite3.Connection, jobs: list[_Job], error: sqlite3.Error) -> None:
        if len(jobs) == 1:
            jobs[0].future.set_exception(translated(error, self._schema.what, self._path))
            return
        # One caller's trouble (a value that does not fit on the disk any more) is not its neighbours'.
        for job in jobs:
            self._commit(connection, [job])


def translated(error: sqlite3.Error, what: str, path: Path) -> StoreError:
    """Ours for SQLite's, with what to do about it."""
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:  # the low byte is the primary code
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return StoreBusy(f"{what} {path} is in use; stop the other process first, two must never share it")
        case sqlite3.SQLITE_FULL:
            return StoreFull(f"write {what} {path}: the disk is full; free some space")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return StoreCorrupt(
                f"{what} {path} is damaged or is another kind of file ({error}); keep it for inspection"
            )
        case _:
            return StoreError(f"{what} {path}: {error} ({getattr(error, 'sqlite_errorname', 'unknown')})")


def _attempt(work: Work[T], connection: sqlite3.Connection) -> tuple[T | None, Exception | None]:
    try:
        return work(connection), None
    except sqlite3.Error:
        raise  # the transaction is in doubt
    except Exception as error:  # noqa: BLE001 - handed to the caller that asked for it
        return None, error


def _roll_back(connection: sqlite3.Connection) -> None:
    # A full disk may have rolled it back already. Should this fail too, the callers still get the first error, and the
    # next BEGIN fails with one of its own.
    with suppress(sqlite3.Error):
        if connection.in_transaction:
            connection.execute("ROLLBACK")


# --- opening -------------------------------------------------------------------------------------
def _connect(path: Path, schema: Schema) -> sqlite3.Connection:
    try:
        _create_private(path)
    except OSError as error:
        raise StoreError(f"create {schema.what} {path}: {error.strerror}") from None
    try:
        connection = sqlite3.connect(path, isolation_level=None, timeout=0)
    except sqlite3.Error as error:
        raise translated(error, schema.what, path) from None
    try:
        _prepare(connection, schema, path)
    except sqlite3.Error as error:
        connection.close()
        raise translated(error, schema.what, path) from None
    except StoreError:
        connection.close()
        raise
    return connection


def _create_private(path: Path) -> None:
    """Make the file for its owner alone, and its name durable; one that exists is let be.

    O_EXCL also keeps it unopened: closing it again would drop the POSIX locks of another connection to it in this
    process (https://www.sqlite.org/howtocorrupt.html, section 2.2).
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _prepare(connection: sqlite3.Connection, schema: Schema, path: Path) -> None:
    # Before the first read: the lock is then taken once, and held until the connection closes or its process dies.
    connection.execute("PRAGMA locking_mode=EXCLUSIVE")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")  # an fsync a commit; NORMAL may lose what was acknowledged
    connection.execute("PRAGMA fullfsync=ON")  # macOS: past the drive's own cache
    connection.execute("PRAGMA trusted_schema=OFF")
    connection.execute("BEGIN EXCLUSIVE")
    _check_or_create(connection, schema, path)
    connection.execute("COMMIT")
    if (found := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
        raise StoreCorrupt(f"{schema.what} {path} is damaged ({found}); keep it for inspection")


def _check_or_create(connection: sqlite3.Connection, schema: Schema, path: Path) -> None:
    application_id = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    is_empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if is_empty and application_id == 0:
        for statement in schema.statements:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id={schema.application_id}")
        connection.execute(f"PRAGMA user_version={schema.version}")
    elif application_id != schema.application_id:
        raise StoreCorrupt(f"{path} is not a {schema.what} but another file; nothing was changed in it")
    elif version != schema.version:
        raise StoreError(
            f"{schema.what} {path} has schema version {version} and this program knows {schema.version}; "
            "run the version of the program that wrote it, or a newer one"
        )
