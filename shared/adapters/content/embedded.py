"""Blocks as files in the layout of Kubo's flatfs, pins in SQLite: the content that this node itself holds.

Power may fail and `kill -9` may come between any two lines: a block is there whole or not at all. `BlockFiles` blocks
and is called from worker threads.
"""

from __future__ import annotations

import base64
import errno
import itertools
import os
import threading
from pathlib import Path

from shared.adapters.sqlite import Database, Schema
from shared.content import unixfs
from shared.content.cid import Block, parse_cid, verify_block
from shared.errors import CodecError, ContentCorrupt
from shared.types import Cid

_MULTIHASH_SHA256 = b"\x12\x20"
_TURNS = 64  # many more than threads, so that writers of different blocks seldom meet


class BlockFiles:
    """`blocks/<the two characters before the last>/<base32 of the multihash>.data`, as `ipfs` names them.

    `max_bytes` bounds what strangers' content may fill the disk with; a write beyond it fails as a full disk does.
    One process at a time: opening takes every temporary file for a leftover.
    """

    def __init__(self, root: Path, max_bytes: int | None = None) -> None:
        """Raises `OSError`."""
        self._blocks, self._temporary, self._max_bytes = root / "blocks", root / "tmp", max_bytes
        for folder in (self._blocks, self._temporary):
            folder.mkdir(parents=True, exist_ok=True)
        _sync_folder(root)
        for leftover in self._temporary.iterdir():  # of writes that a crash cut short
            leftover.unlink()
        self._durable_shards: set[str] = set()
        self._counter = itertools.count()
        self._lock = threading.Lock()
        self._turns = [threading.Lock() for _ in range(_TURNS)]
        self._held_bytes = sum(path.stat().st_size for path in self._blocks.glob("*/*.data"))

    def read(self, cid: Cid) -> Block | None:
        """None when it is not here. Raises `CodecError` when the disk gives other bytes, `OSError` for none."""
        try:
            data = self._path(cid).read_bytes()
        except FileNotFoundError:
            return None
        return verify_block(cid, data)

    def size_of(self, cid: Cid) -> int | None:
        """Bytes of the file; None when it is not here."""
        try:
            return self._path(cid).stat().st_size
        except FileNotFoundError:
            return None

    def is_complete(self, root: Cid) -> bool:
        """Nodes are read and checked, leaves are looked for by name and size."""
        try:
            return unixfs.is_complete(root, self.read, self.size_of)
        except (CodecError, ContentCorrupt):  # damaged on disk, or no file at all
            return False

    def write(self, block: Block, *, is_durable: bool) -> None:
        """All of it or nothing, also when the process dies. Durable: power may fail, too. Raises `OSError`.

        It is made even where the file exists: nobody knows whether that one is durable, or what became of it.
        """
        with self._turns[hash(block.cid) % len(self._turns)]:  # or two writers of one block would count it twice
            path = self._path(block.cid)
            added_bytes = len(block.data) - (self.size_of(block.cid) or 0)
            self._reserve(added_bytes)
            try:
                self._replace(path, block.data, is_durable=is_durable)
            except OSError:
                self._reserve(-added_bytes)
                raise
        if is_durable:
            _sync_folder(path.parent)

    def _replace(self, path: Path, data: bytes, *, is_durable: bool) -> None:
        self._make_shard(path.parent, is_durable=is_durable)
        temporary = self._temporary / f"{next(self._counter)}"
        try:
            _write_file(temporary, data, is_durable=is_durable)
            os.replace(temporary, path)  # noqa: PTH105 - beside os.open and os.fsync
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def _path(self, cid: Cid) -> Path:
        multihash = _MULTIHASH_SHA256 + parse_cid(cid)[1]
        key = base64.b32encode(multihash).decode().rstrip("=")
        return self._blocks / key[-3:-1] / f"{key}.data"

    def _make_shard(self, folder: Path, *, is_durable: bool) -> None:
        if not is_durable:
            folder.mkdir(exist_ok=True)
            return
        with self._lock:  # or a second thread would rely on a folder whose name is not on disk yet
            if folder.name not in self._durable_shards:
                folder.mkdir(exist_ok=True)
                _sync_folder(self._blocks)
                self._durable_shards.add(folder.name)

    def _reserve(self, added_bytes: int) -> None:
        with self._lock:
            if self._max_bytes is not None and added_bytes > 0 and self._held_bytes + added_bytes > self._max_bytes:
                raise OSError(errno.EDQUOT, f"content would take over {self._max_bytes} bytes")
            self._held_bytes += added_bytes


def _write_file(path: Path, data: bytes, *, is_durable: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        rest = memoryview(data)
        while rest:  # a write may be short when the disk fills; the next one then says why
            rest = rest[os.write(descriptor, rest) :]
        if is_durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


PINS = Schema(
    what="pins of the content store",
    application_id=0x504F4950,  # "POIP"
    version=1,
    statements=(
        """
        CREATE TABLE pins (
            cid TEXT PRIMARY KEY,
            size_bytes INTEGER NOT NULL,
            pinned_at INTEGER NOT NULL DEFAULT (unixepoch())
        ) STRICT, WITHOUT ROWID
        """,
    ),
)


class Pins:
    """Roots of whole files that must stay. Each change is durable before its call returns. Raises `StoreError`."""

    def __init__(self, path: Path) -> None:
        self._db = Database(path, PINS)

    async def open(self) -> None:
        """Raises `StoreBusy` when another process has the folder, and what else `Database.open` says."""
        await self._db.open()

    async def close(self) -> None:
        await self._db.close()

    async def add(self, root: Cid, size_bytes: int) -> None:
        insert = "INSERT OR IGNORE INTO pins (cid, size_bytes) VALUES (?, ?)"
        await self._db.run(lambda connection: connection.execute(insert, (root, size_bytes)).close())

    async def remove(self, root: Cid) -> None:
        await self._db.run(lambda connection: connection.execute("DELETE FROM pins WHERE cid = ?", (root,)).close())

    async def all(self) -> dict[Cid, int]:
        """Root to file size in bytes."""
        return await self._db.run(lambda connection: dict(connection.execute("SELECT cid, size_bytes FROM pins")))
