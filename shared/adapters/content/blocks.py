"""Blocks as files in the layout of Kubo's flatfs.

Power may fail and `kill -9` may come between any two lines: a block is there whole or not at all. `BlockFiles` blocks
and is called from worker threads.
"""

from __future__ import annotations

import base64
import errno
import itertools
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from shared.adapters.content.in_use import InUse, Watch
from shared.content import unixfs
from shared.content.cid import Block, parse_cid, verify_block
from shared.errors import CodecError, ContentCorrupt
from shared.types import Cid

_MULTIHASH_SHA256 = b"\x12\x20"
_KEY_CHARACTERS = 55  # 34 bytes in base32
_TURNS = 64  # many more than threads, so that writers of different blocks seldom meet


class BlockFiles:
    """A `BlockStore`: `blocks/<the two characters before the last>/<base32 of the multihash>.data`, as `ipfs` has it.

    `max_bytes` bounds what strangers' content may fill the disk with; a write beyond it fails with EDQUOT.
    One process at a time: opening takes every temporary file for a leftover.
    """

    def __init__(self, root: Path, max_bytes: int | None = None, in_use: InUse | None = None) -> None:
        """Raises `OSError`."""
        self._blocks, self._temporary, self._max_bytes = root / "blocks", root / "tmp", max_bytes
        self._in_use = in_use or InUse()
        for folder in (self._blocks, self._temporary):
            folder.mkdir(parents=True, exist_ok=True)
        _sync_folder(root)
        for leftover in self._temporary.iterdir():  # of writes that a crash cut short
            leftover.unlink()
        self._made_shards: set[str] = set()
        self._durable_shards: set[str] = set()
        self._shard_lock = threading.Lock()
        self._counter = itertools.count()
        self._lock = threading.Lock()
        self._turns = [threading.Lock() for _ in range(_TURNS)]
        self._held_bytes = sum(entry.stat().st_size for entry, _ in self._entries())

    @property
    def held_bytes(self) -> int:
        """Of all blocks, those included that are being written."""
        return self._held_bytes

    def get(self, cid: Cid) -> Block | None:
        digest = parse_cid(cid)[1]
        path = self._path_of(digest)
        self._in_use.touch(digest, path.exists)
        return _read(cid, path)

    def peek(self, cid: Cid) -> Block | None:
        """As `get`, for a collection: what it looks at is not in use."""
        return _read(cid, self._path(cid))

    def size_of(self, cid: Cid) -> int | None:
        return _size_of(self._path(cid))

    def is_complete(self, root: Cid) -> bool:
        """Nodes are read and checked, leaves are looked for by name and size."""
        try:
            return unixfs.is_complete(root, self.get, self._size_of_used)
        except (CodecError, ContentCorrupt):  # damaged on disk, or no file at all
            return False

    def _size_of_used(self, cid: Cid) -> int | None:
        digest = parse_cid(cid)[1]
        self._in_use.touch(digest, self._path_of(digest).exists)
        return self.size_of(cid)

    def put(self, block: Block, *, is_durable: bool) -> None:
        """It is made even where the file exists: nobody knows whether that one is durable, or what became of it."""
        digest = parse_cid(block.cid)[1]
        path = self._path_of(digest)
        with self._in_use.write(digest), self._turn(digest):  # or two writers of one block would count it twice
            present_bytes = _size_of(path)
            # What came in between a fetch's look and its write may have been acknowledged: no power cut must take it.
            is_durable = is_durable or present_bytes == len(block.data)
            added_bytes = len(block.data) - (present_bytes or 0)
            self._reserve(added_bytes)
            try:
                self._replace(path, block.data, is_durable=is_durable)
            except OSError:
                self._reserve(-added_bytes)
                raise
        if is_durable:
            _sync_folder(path.parent)

    def delete(self, digest: bytes) -> int:
        with self._turn(digest):
            return self._delete(digest)

    def delete_unless_used(self, digest: bytes, watch: Watch) -> int | None:
        """As `delete`; None when it is in use, as `InUse.delete_unless_used` says."""
        return self._in_use.delete_unless_used(digest, watch, lambda: self._delete(digest))

    def _delete(self, digest: bytes) -> int:
        path = self._path_of(digest)
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return 0
        self._reserve(-size)
        return size

    def digests(self) -> Iterator[bytes]:
        for _, digest in self._entries():
            yield digest

    def _entries(self) -> Iterator[tuple[os.DirEntry[str], bytes]]:
        """Every block's file, with its digest; files that are none of ours are passed over, and never touched."""
        for shard in self._blocks.iterdir():
            with suppress(NotADirectoryError), os.scandir(shard) as entries:
                for entry in entries:
                    if (digest := _digest_of(entry.name)) is not None:
                        yield entry, digest

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
        return self._path_of(parse_cid(cid)[1])

    def _path_of(self, digest: bytes) -> Path:
        key = base64.b32encode(_MULTIHASH_SHA256 + digest).decode().rstrip("=")
        return self._blocks / key[-3:-1] / f"{key}.data"

    def _make_shard(self, folder: Path, *, is_durable: bool) -> None:
        if folder.name in self._durable_shards:
            return
        if not is_durable:
            if folder.name not in self._made_shards:
                folder.mkdir(exist_ok=True)
                self._made_shards.add(folder.name)
            return
        folder.mkdir(exist_ok=True)
        self._made_shards.add(folder.name)
        with self._shard_lock:  # or a second thread would rely on a folder whose name is not on disk yet
            if folder.name not in self._durable_shards:
                made = self._made_shards.copy()  # one fsync for all that wait here
                _sync_folder(self._blocks)
                self._durable_shards |= made

    def _turn(self, digest: bytes) -> threading.Lock:
        return self._turns[hash(digest) % len(self._turns)]

    def _reserve(self, added_bytes: int) -> None:
        with self._lock:
            if self._max_bytes is not None and added_bytes > 0 and self._held_bytes + added_bytes > self._max_bytes:
                raise OSError(
                    errno.EDQUOT,
                    f"content would take over {self._max_bytes} bytes; raise content.max_bytes or unpin something",
                )
            self._held_bytes += added_bytes


def _read(cid: Cid, path: Path) -> Block | None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    return verify_block(cid, data)


def _size_of(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _digest_of(name: str) -> bytes | None:
    """None for a name that no block of ours has."""
    key, _, ending = name.partition(".")
    if len(key) != _KEY_CHARACTERS or ending != "data":
        return None
    try:
        multihash = base64.b32decode(key + "=" * (-len(key) % 8))
    except ValueError:  # binascii.Error, or characters beyond ASCII
        return None
    return multihash.removeprefix(_MULTIHASH_SHA256) if multihash.startswith(_MULTIHASH_SHA256) else None


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
