"""Durable memory without a disk: what a `MemoryFile` holds outlives the stores that open it, as a file would."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from shared.adapters.store_limits import check_entry, check_key, check_task_id, check_vote
from shared.errors import ConflictingVote, StoreBusy, StoreError
from shared.types import Digest, Verdict


@dataclass(slots=True, eq=False)
class MemoryFile:
    """A disk's place in a simulation. One store, or one guard, has it open at a time."""

    entries: dict[tuple[str, bytes], bytes] = field(default_factory=dict)
    votes: dict[Digest, tuple[Digest, Verdict]] = field(default_factory=dict)
    user: object | None = None

    def kill(self) -> None:
        """As kill -9 of the process that has it open: its lock goes, what it wrote stays, and it writes no more."""
        self.user = None


class _Opened:
    """Opening, closing and the check that both happened."""

    def __init__(self, file: MemoryFile) -> None:
        self._file = file

    async def __aenter__(self) -> Self:
        if self._file.user is not None:
            raise StoreBusy("the file is in use; stop the other process first, two must never share it")
        self._file.user = self
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file.user is self:
            self._file.user = None

    def _check_open(self) -> MemoryFile:
        if self._file.user is not self:
            raise StoreError("the store is not open")
        return self._file


class MemoryStore(_Opened):
    """A `TaskStore`; an async context manager, open inside."""

    async def put(self, kind: str, key: bytes, value: bytes) -> None:
        """As the Protocol says."""
        check_entry(kind, key, value)
        self._check_open().entries[kind, bytes(key)] = bytes(value)
        await asyncio.sleep(0)  # others run here, as they do while a disk writes

    async def get(self, kind: str, key: bytes) -> bytes | None:
        """As the Protocol says."""
        check_key(kind, key)
        await asyncio.sleep(0)
        return self._check_open().entries.get((kind, key))

    async def delete(self, kind: str, key: bytes) -> None:
        """As the Protocol says; what is not there may be deleted."""
        check_key(kind, key)
        self._check_open().entries.pop((kind, key), None)
        await asyncio.sleep(0)

    async def scan(self, kind: str) -> AsyncIterator[tuple[bytes, bytes]]:
        """By key. What is there from begin to end comes once; what changes meanwhile may come as it was or is."""
        check_key(kind, b"")
        for key in sorted(key for owner, key in self._check_open().entries if owner == kind):
            await asyncio.sleep(0)
            value = self._check_open().entries.get((kind, key))
            if value is not None:
                yield key, value


class MemoryVoteGuard(_Opened):
    """A `VoteGuard`; an async context manager, open inside."""

    async def check_and_insert(self, task_id: Digest, task_info_hash: Digest, verdict: Verdict) -> None:
        """As the Protocol says."""
        check_vote(task_id, task_info_hash, verdict)
        guarded = self._check_open().votes.setdefault(task_id, (task_info_hash, verdict))
        await asyncio.sleep(0)
        if guarded != (task_info_hash, verdict):
            raise ConflictingVote(f"task {task_id[:4].hex()}: this key voted {guarded[1].name.lower()} before")

    async def vote_of(self, task_id: Digest) -> tuple[Digest, Verdict] | None:
        """As the Protocol says."""
        check_task_id(task_id)
        await asyncio.sleep(0)
        return self._check_open().votes.get(task_id)
