"""What is kept, and until when: roots of files in SQLite."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from sqlite3 import Connection
from typing import Any, TypeVar

from shared.adapters.sqlite import Database, Schema
from shared.errors import StoreError
from shared.interfaces import Pin
from shared.types import Cid

T = TypeVar("T")

PINS = Schema(
    what="pins of the content store",
    application_id=0x504F4950,  # "POIP"
    version=2,
    statements=(
        """
        CREATE TABLE pins (
            cid TEXT PRIMARY KEY,
            size_bytes INTEGER,
            keep_until REAL NOT NULL,
            used_at REAL NOT NULL
        ) STRICT, WITHOUT ROWID
        """,
    ),
)
# A stranger makes a root with every task. So many that are mere cache take some 25 MB of memory.
MAX_CACHED = 65_536
_USES_A_WRITE = 256  # last uses that another change takes along: it has its fsync to wait for anyway
_NOTE_SECONDS = 0.2  # that a note waits for others: a burst of fetches costs one commit


class Pins:
    """Roots of files, whole ones and those under way. Each change is durable before its call returns; a call that is
    cancelled may still change them. Raises `StoreError`.

    When a file was used last only decides what goes first: it is written along with other changes, and a crash may
    forget it.
    """

    def __init__(self, path: Path, *, max_cached: int = MAX_CACHED, now: Callable[[], float] = time.time) -> None:
        self._db, self._now = Database(path, PINS), now
        self._max_cached = self._trim_above = max_cached
        self._known: dict[Cid, Pin] = {}  # what is durable, but for the last uses
        self._coming: dict[object, Pin] = {}  # in adds under way, each under a token of its own
        self._unwritten_uses: set[Cid] = set()
        self._noted: dict[object, Pin] = {}  # of those that are coming: what waits for others
        self._is_hurried = asyncio.Event()
        self._changes: set[asyncio.Task[Any]] = set()

    async def open(self) -> None:
        """Raises `StoreBusy` when another process has the folder, and what else `Database.open` says."""
        await self._db.open()
        self._known = {pin.cid: pin for pin in await self._db.run(_read)}

    async def close(self) -> None:
        """Everything asked for before is done."""
        try:
            await self.settle()
            if self._unwritten_uses:
                uses = self._take_uses(len(self._unwritten_uses))
                await self._db.run(lambda connection: _write_uses(connection, uses))
        finally:
            await self._db.close()

    def all(self) -> list[Pin]:
        return list(self._known.values())

    def of(self, root: Cid) -> Pin | None:
        return self._known.get(root)

    def promised(self) -> list[Pin]:
        """All, with what is being promised right now."""
        pins = dict(self._known)
        for pin in self._coming.values():
            pins[pin.cid] = _merged(pins.get(pin.cid), pin)
        return list(pins.values())

    async def add(self, pin: Pin) -> None:
        """Nothing that was promised before is shortened, and a file that was all here stays so."""
        if (coming := self._announce(pin)) is not None:
            await self._change(self._add(coming))

    def note(self, pin: Pin) -> None:
        """As `add`, of mere cache: nothing is promised, so nobody waits for it, and the disk may refuse it."""
        if (coming := self._announce(pin)) is not None:
            if not self._noted:
                self._begin_change(self._add_noted())
            self._noted |= coming

    def _announce(self, pin: Pin) -> dict[object, Pin] | None:
        """What is to be written of it, by token; None when the file says so already."""
        known = self._known.get(pin.cid)
        if known is None or _is_news(known, pin):
            coming: dict[object, Pin] = {object(): pin}
            self._coming |= coming
            return coming
        if pin.used_at > known.used_at:
            self._known[pin.cid] = replace(known, used_at=pin.used_at)
            self._unwritten_uses.add(pin.cid)
        return None

    async def _add_noted(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_NOTE_SECONDS):
                await self._is_hurried.wait()
        noted, self._noted = self._noted, {}
        await self._add(noted)

    async def _add(self, coming: dict[object, Pin]) -> None:
        pins, uses = list(coming.values()), self._take_uses(_USES_A_WRITE)
        try:
            written = await self._db.run(lambda connection: _write(connection, pins, uses))
        finally:
            for token in coming:
                del self._coming[token]
        for pin in written:
            self._known[pin.cid] = _merged(self._known.get(pin.cid), pin)
        if len(self._known) > self._trim_above:
            with suppress(StoreError):  # the pin itself is durable; a later one tries again
                await self._trim()

    async def remove(self, root: Cid) -> None:
        await self._change(self._remove(root))

    async def _remove(self, root: Cid) -> None:
        await self._db.run(lambda connection: _delete(connection, [root]))
        self._known.pop(root, None)

    async def drop(self, pins: Collection[Pin]) -> Sequence[Pin]:
        """Those that are still as they were in `promised`: not used since, nor asked for now. The rest is returned."""
        return await self._change(self._drop(pins))

    async def _drop(self, pins: Collection[Pin]) -> Sequence[Pin]:
        coming = {pin.cid for pin in self._coming.values()}
        gone = [pin for pin in pins if self._known.get(pin.cid) is pin and pin.cid not in coming]
        for pin in gone:  # first: whoever adds one of them again must not take it for durable
            del self._known[pin.cid]
        try:
            await self._db.run(lambda connection: _delete(connection, [pin.cid for pin in gone]))
        except StoreError:
            for pin in gone:
                self._known[pin.cid] = _merged(self._known.get(pin.cid), pin)
            raise
        dropped = {pin.cid for pin in gone}
        return [pin for pin in pins if pin.cid not in dropped]

    async def _trim(self) -> None:
        """Drop what was used least recently when there is too much cache, and some more, so that it is seldom done."""
        now, room = self._now(), self._max_cached - self._max_cached // 16
        cached = sorted((pin for pin in self._known.values() if pin.keep_until <= now), key=lambda pin: pin.used_at)
        if len(cached) > self._max_cached:
            await self._drop(cached[: len(cached) - room])
        self._trim_above = len(self._known) + self._max_cached // 16

    async def settle(self) -> None:
        """Until all that was asked for before is durable, or failed."""
        self._is_hurried.set()
        try:
            if self._changes:
                await asyncio.wait(self._changes)  # not `gather`: cancelled, it would cancel them
        finally:
            self._is_hurried.clear()

    async def _change(self, work: Coroutine[None, None, T]) -> T:
        """It is carried on when its caller is cancelled, so that what the file says and what is known never differ."""
        return await asyncio.shield(self._begin_change(work))

    def _begin_change(self, work: Coroutine[None, None, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        # Looked at, or asyncio logs it: who asked may be gone by then.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    def _take_uses(self, count: int) -> list[tuple[float, Cid]]:
        taken = [self._unwritten_uses.pop() for _ in range(min(count, len(self._unwritten_uses)))]
        return [(self._known[cid].used_at, cid) for cid in taken if cid in self._known]


def _merged(known: Pin | None, pin: Pin) -> Pin:
    if known is None:
        return pin
    size = known.size if pin.size is None else pin.size
    return Pin(pin.cid, size, max(known.keep_until, pin.keep_until), max(known.used_at, pin.used_at))


def _is_news(known: Pin, pin: Pin) -> bool:
    """Worth a commit."""
    merged = _merged(known, pin)
    return (known.size, known.keep_until) != (merged.size, merged.keep_until)


# --- in the database's thread --------------------------------------------------------------------
def _read(connection: Connection) -> Sequence[Pin]:
    rows = connection.execute("SELECT cid, size_bytes, keep_until, used_at FROM pins")
    return [Pin(cid, size, keep_until, used_at) for cid, size, keep_until, used_at in rows]


def _write(connection: Connection, pins: Sequence[Pin], uses: Sequence[tuple[float, Cid]]) -> list[Pin]:
    """What the file says of them now: others may have written since the caller looked."""
    _write_uses(connection, uses)
    return [_upsert(connection, pin) for pin in pins]


def _upsert(connection: Connection, pin: Pin) -> Pin:
    upsert = """
        INSERT INTO pins (cid, size_bytes, keep_until, used_at) VALUES (?, ?, ?, ?)
        ON CONFLICT (cid) DO UPDATE SET
            size_bytes = coalesce(excluded.size_bytes, size_bytes),
            keep_until = max(excluded.keep_until, keep_until),
            used_at = max(excluded.used_at, used_at)
    """
    connection.execute(upsert, (pin.cid, pin.size, pin.keep_until, pin.used_at)).close()
    select = "SELECT size_bytes, keep_until, used_at FROM pins WHERE cid = ?"
    size, keep_until, used_at = connection.execute(select, (pin.cid,)).fetchone()
    return Pin(pin.cid, size, keep_until, used_at)


def _write_uses(connection: Connection, uses: Sequence[tuple[float, Cid]]) -> None:
    connection.executemany("UPDATE pins SET used_at = max(used_at, ?) WHERE cid = ?", uses).close()


def _delete(connection: Connection, roots: Sequence[Cid]) -> None:
    connection.executemany("DELETE FROM pins WHERE cid = ?", [(root,) for root in roots]).close()
