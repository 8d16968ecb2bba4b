"""Every task that the performer took, in memory and on disk, and who waits for its next phase."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import structlog

from shared import wire
from shared.constants import MAX_LONG_POLLS
from shared.errors import IllegalTransition, RequestRefused
from shared.interfaces import TaskStore
from shared.types import Digest
from shared.workflow import Event, Phase, Task, advance

log = structlog.get_logger(__name__)

TASK = "task"
NONCE = "nonce"
KEPT_FINAL_TASKS = 10_000  # in memory; older ones are read back from the store
BUSY = -32005
NONCE_USED = -32010

_decode = wire.decoder(Task).decode


class TaskLedger:
    """The only writer of the performer's tasks: stored before anybody sees the change."""

    def __init__(self, *, store: TaskStore) -> None:
        self._store = store
        self._tasks: dict[Digest, Task] = {}
        self._final: dict[Digest, None] = {}  # in order of becoming final
        self._changed: dict[Digest, list[asyncio.Future[None]]] = {}
        self._lock = asyncio.Lock()

    async def load(self) -> None:
        """Everything that a former run left."""
        async for _, stored in self._store.scan(TASK):
            task = _decode(stored)
            if task.task_id not in self._tasks:  # the door may be open already: what it took is newer
                self._keep(task)

    async def add(self, task: Task) -> Task:
        """Durable before it returns. A task that is here already is returned as it is.

        Raises `RequestRefused` when the requester used the nonce for another task.
        """
        async with self._lock:
            former = await self.find(task.task_id)
            if former is not None:
                return former
            await self.check_nonce(task)
            # Together: they share one commit. A nonce alone, left by a crash between, takes the same task again.
            await asyncio.gather(
                self._store.put(NONCE, _nonce_key(task), task.task_id),
                self._store.put(TASK, task.task_id, wire.encode(task)),
            )
            self._keep(task)
        return task

    async def check_nonce(self, task: Task) -> None:
        """Raises `RequestRefused` when the requester used the nonce for another task."""
        used = await self._store.get(NONCE, _nonce_key(task))
        if used is not None and used != task.task_id:
            raise RequestRefused(NONCE_USED, "the nonce was used for another task", "request.nonce", "a fresh nonce")

    def get(self, task_id: Digest) -> Task | None:
        """From memory."""
        return self._tasks.get(task_id)

    async def find(self, task_id: Digest) -> Task | None:
        """From memory, or else from the store."""
        task = self._tasks.get(task_id)
        if task is None and (stored := await self._store.get(TASK, task_id)) is not None:
            task = _decode(stored)
        return task

    def open_tasks(self) -> Iterator[Task]:
        """A snapshot of what is not final."""
        yield from [task for task in self._tasks.values() if not task.is_final]

    def uncertified(self) -> Iterator[Task]:
        """A snapshot of what is settled here without its certificate."""
        settled = [self._tasks[task_id] for task_id in self._final]
        yield from [task for task in settled if task.certificate is None and task.phase is not Phase.EXPIRED]

    def count_open(self) -> int:
        return len(self._tasks) - len(self._final)

    async def advance(self, task_id: Digest, event: Event) -> Task:
        """Durable before it returns and before anybody is woken. An illegal event is logged and changes nothing.

        Raises KeyError for a task that is not in memory.
        """
        async with self._lock:
            before = self._tasks[task_id]
            try:
                after = advance(before, event)
            except IllegalTransition as error:
                log.warning("event ignored", task=task_id.hex()[:8], reason=str(error))
                return before
            if after == before:
                return before
            await self._store.put(TASK, task_id, wire.encode(after))
            self._keep(after)
        for waiter in self._changed.pop(task_id, []):
            if not waiter.done():
                waiter.set_result(None)
        return after

    async def wait(self, task: Task, timeout_seconds: float) -> Task:
        """The task after its next change, or as it is when time is over. Raises `RequestRefused` when too many wait."""
        if task.is_final or self._tasks.get(task.task_id, task) != task:
            return self._tasks.get(task.task_id, task)
        if sum(map(len, self._changed.values())) >= MAX_LONG_POLLS:
            raise RequestRefused(BUSY, "too many requests are waiting", None, "poll again in a moment")
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters = self._changed.setdefault(task.task_id, [])
        waiters.append(waiter)
        try:
            await asyncio.wait([waiter], timeout=timeout_seconds)
        finally:
            if waiter in waiters:
                waiters.remove(waiter)
            if not waiters and self._changed.get(task.task_id) is waiters:
                del self._changed[task.task_id]
        return self._tasks.get(task.task_id, task)

    def _keep(self, task: Task) -> None:
        self._tasks[task.task_id] = task
        if task.is_final:
            self._final[task.task_id] = None
        else:
            self._final.pop(task.task_id, None)  # a certificate may bring back an expired task
        while len(self._final) > KEPT_FINAL_TASKS:
            oldest = next(iter(self._final))
            del self._final[oldest], self._tasks[oldest]


def _nonce_key(task: Task) -> bytes:
    return task.request.requester + task.request.nonce.to_bytes(32, "big")
