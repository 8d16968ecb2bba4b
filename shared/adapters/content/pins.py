"""What is kept, and until when: roots of files in SQLite."""

from __future__ import annotations

from pathlib import Path
from sqlite3 import Connection

from shared.adapters.sqlite import Database, Schema
from shared.interfaces import Pin
from shared.types import Cid

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


class Pins:
    """Roots of files, whole ones and those under way. Each change is durable before its call returns. Raises
    `StoreError`."""

    def __init__(self, path: Path) -> None:
        self._db = Database(path, PINS)
        self._known: dict[Cid, Pin] = {}  # what the file says

    async def open(self) -> None:
        """Raises `StoreBusy` when another process has the folder, and what else `Database.open` says."""
        await self._db.open()
        self._known = {pin.cid: pin for pin in await self._db.run(_read)}

    async def close(self) -> None:
        await self._db.close()

    async def add(self, pin: Pin) -> None:
        """Nothing that was promised before is shortened, and a file that was all here stays so."""
        pin = _merged(self._known.get(pin.cid), pin)
        if _is_news(self._known.get(pin.cid), pin):
            await self._db.run(lambda connection: _write(connection, pin))
        self._known[pin.cid] = _merged(self._known.get(pin.cid), pin)

    async def remove(self, root: Cid) -> None:
        await self._db.run(lambda connection: connection.execute("DELETE FROM pins WHERE cid = ?", (root,)).close())
        self._known.pop(root, None)

    def all(self) -> list[Pin]:
        return list(self._known.values())


def _merged(known: Pin | None, pin: Pin) -> Pin:
    if known is None:
        return pin
    size = known.size if pin.size is None else pin.size
    return Pin(pin.cid, size, max(known.keep_until, pin.keep_until), max(known.used_at, pin.used_at))


def _is_news(known: Pin | None, pin: Pin) -> bool:
    """Worth a commit: when it was used last is not, it only decides what goes first."""
    return known is None or (known.size, known.keep_until) != (pin.size, pin.keep_until)


def _read(connection: Connection) -> list[Pin]:
    rows = connection.execute("SELECT cid, size_bytes, keep_until, used_at FROM pins")
    return [Pin(cid, size, keep_until, used_at) for cid, size, keep_until, used_at in rows]


def _write(connection: Connection, pin: Pin) -> None:
    insert = "INSERT OR REPLACE INTO pins (cid, size_bytes, keep_until, used_at) VALUES (?, ?, ?, ?)"
    connection.execute(insert, (pin.cid, pin.size, pin.keep_until, pin.used_at)).close()
