"""A settlement that fails as it is told, and notes what was asked of it; between failures it is the chain in memory."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from shared.adapters.memory.chain import MemoryChain
from shared.interfaces import BatchSubmission
from shared.types import ChainEvent, Digest, TaskCertificate, Verdict

T = TypeVar("T")


@dataclass
class FaultyChain:
    """`failures` are raised one call at a time, by the method's name; None lets that call through."""

    chain: MemoryChain
    failures: dict[str, deque[Exception | None]] = field(default_factory=lambda: defaultdict(deque))
    calls: list[tuple[str, float]] = field(default_factory=list)  # what and when, in the loop's time
    batches: list[BatchSubmission] = field(default_factory=list)

    def fail(self, method: str, *failures: Exception | None) -> None:
        self.failures[method].extend(failures)

    def count(self, method: str) -> int:
        return len(self.times(method))

    def times(self, method: str) -> list[float]:
        return [when for name, when in self.calls if name == method]

    async def submit_task(self, certificate: TaskCertificate) -> Digest:
        return await self._call("submit_task", lambda: self.chain.submit_task(certificate))

    async def submit_batch(self, batch: BatchSubmission) -> Digest:
        self.batches.append(batch)
        return await self._call("submit_batch", lambda: self.chain.submit_batch(batch))

    async def execute_slash(self, task_id: Digest) -> Digest:
        return await self._call("execute_slash", lambda: self.chain.execute_slash(task_id))

    async def verdict_of(self, task_id: Digest) -> Verdict | None:
        return await self._call("verdict_of", lambda: self.chain.verdict_of(task_id))

    async def is_batch_settled(self, root: Digest) -> bool:
        return await self._call("is_batch_settled", lambda: self.chain.is_batch_settled(root))

    async def confirm(self, tx_hash: Digest, timeout_seconds: float) -> int:
        return await self._call("confirm", lambda: self.chain.confirm(tx_hash, timeout_seconds))

    def events(self, from_block: int) -> AsyncIterator[ChainEvent]:
        return self.chain.events(from_block)

    async def _call(self, name: str, ask: Callable[[], Awaitable[T]]) -> T:
        self.calls.append((name, asyncio.get_running_loop().time()))
        if self.failures[name] and (failure := self.failures[name].popleft()) is not None:
            raise failure
        return await ask()
