"""A chain that fails as it is told, and notes what was asked of it; between failures it is the chain in memory."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from shared.adapters.memory.chain import MemoryChain
from shared.interfaces import BatchSubmission, Collection, SignedVote
from shared.types import (
    Address,
    ChainEvent,
    Deposit,
    Digest,
    Operator,
    OperatorTable,
    TaskCertificate,
    TaskDefinition,
    TaskRequest,
    Verdict,
)

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

    async def submit_task_after_deadline(self, certificate: TaskCertificate, request: TaskRequest) -> Digest:
        return await self._call(
            "submit_task_after_deadline", lambda: self.chain.submit_task_after_deadline(certificate, request)
        )

    async def submit_batch(self, batch: BatchSubmission) -> Digest:
        self.batches.append(batch)
        return await self._call("submit_batch", lambda: self.chain.submit_batch(batch))

    async def verdict_of(self, task_id: Digest) -> Verdict | None:
        return await self._call("verdict_of", lambda: self.chain.verdict_of(task_id))

    async def is_batch_settled(self, root: Digest) -> bool:
        return await self._call("is_batch_settled", lambda: self.chain.is_batch_settled(root))

    async def confirm(self, tx_hash: Digest, timeout_seconds: float) -> int:
        return await self._call("confirm", lambda: self.chain.confirm(tx_hash, timeout_seconds))

    # --- Court ---
    async def report_equivocation(self, first: SignedVote, second: SignedVote) -> Digest:
        return await self._call("report_equivocation", lambda: self.chain.report_equivocation(first, second))

    async def name_harmed(self, slash_id: Digest, request: TaskRequest) -> Digest:
        return await self._call("name_harmed", lambda: self.chain.name_harmed(slash_id, request))

    async def execute_slash(self, slash_id: Digest) -> Digest:
        return await self._call("execute_slash", lambda: self.chain.execute_slash(slash_id))

    # --- Escrow ---
    async def deposit_of(self, requester: Address, performer: Address) -> Deposit:
        return await self._call("deposit_of", lambda: self.chain.deposit_of(requester, performer))

    async def deposit(self, requester: Address, performer: Address, amount: int) -> Digest:
        return await self._call("deposit", lambda: self.chain.deposit(requester, performer, amount))

    async def collect(self, tasks: Sequence[Collection]) -> Digest:
        return await self._call("collect", lambda: self.chain.collect(tasks))

    async def is_paid(self, requester: Address, performer: Address, nonce: int) -> bool:
        return await self._call("is_paid", lambda: self.chain.is_paid(requester, performer, nonce))

    async def earned_by(self, operator: Address) -> int:
        return await self._call("earned_by", lambda: self.chain.earned_by(operator))

    # --- Epochs ---
    async def power_unit(self) -> int:
        return await self._call("power_unit", self.chain.power_unit)

    async def rollable_at(self) -> int:
        return await self._call("rollable_at", self.chain.rollable_at)

    async def roll(self) -> Digest:
        return await self._call("roll", self.chain.roll)

    # --- OperatorReader: nothing fails here, because nobody who is tested with this asks it anything that matters ---
    async def current_epoch(self) -> int:
        return await self.chain.current_epoch()

    async def operator_table(self, epoch: int, attester_set: int = 0) -> OperatorTable | None:
        return await self.chain.operator_table(epoch, attester_set)

    async def is_expired(self, epoch: int) -> bool:
        return await self.chain.is_expired(epoch)

    async def settle_seconds(self) -> int:
        return await self.chain.settle_seconds()

    async def beacon(self, epoch: int) -> Digest | None:
        return await self.chain.beacon(epoch)

    async def operators(self) -> Sequence[Operator]:
        return await self.chain.operators()

    async def task_definition(self, definition_id: int) -> TaskDefinition | None:
        return await self.chain.task_definition(definition_id)

    async def task_definition_count(self) -> int:
        return await self.chain.task_definition_count()

    def events(self, from_block: int) -> AsyncIterator[ChainEvent]:
        return self.chain.events(from_block)

    async def _call(self, name: str, ask: Callable[[], Awaitable[T]]) -> T:
        self.calls.append((name, asyncio.get_running_loop().time()))
        if self.failures[name] and (failure := self.failures[name].popleft()) is not None:
            raise failure
        return await ask()
