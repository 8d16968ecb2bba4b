"""Executing queued slashes: anyone may, once their window is over; the aggregator sees to it that somebody does."""

from __future__ import annotations

import asyncio

import structlog

from aggregator.finality import CONFIRM_SECONDS, LOOKS_SECONDS, RETRY_SECONDS, patiently
from shared import messages
from shared.errors import PoiError, Reverted
from shared.interfaces import Clock, Court, Settlement, TaskStore
from shared.types import ChainEvent, Digest, SlashCancelled, SlashExecuted, SlashQueued, TaskRequest

log = structlog.get_logger(__name__)

HARMED = "harmed"  # task id → request: whom a slash over this task compensates
FINAL_SECONDS = sum(LOOKS_SECONDS)
VETO_RETRY_SECONDS = 60.0  # a veto waits for hours, and may be overruled at any moment


class SlashExecutor:
    """Lives on the chain's events alone, so that no slash is forgotten with a process."""

    def __init__(self, *, court: Court, settlement: Settlement, store: TaskStore, clock: Clock) -> None:
        self._court, self._settlement, self._store, self._clock = court, settlement, store, clock
        self._queued: dict[Digest, tuple[SlashQueued, asyncio.Task[None]]] = {}

    async def remember(self, task_id: Digest, request: TaskRequest) -> None:
        """Who asked for a task that may be slashed over. Durable before it returns; nothing is kept of a free one."""
        if request.fee:
            await self._store.put(HARMED, task_id, messages.encode_request(request))

    def on_event(self, event: ChainEvent, group: asyncio.TaskGroup) -> None:
        """To be told of every event from the beginning; what follows from it runs in `group`."""
        if isinstance(event, SlashQueued):
            self._on_queued(event, group)
        elif isinstance(event, SlashExecuted | SlashCancelled):
            self._on_done(event, group)

    def _on_queued(self, slash: SlashQueued, group: asyncio.TaskGroup) -> None:
        """Again after a reorg, maybe for another time."""
        former = self._queued.get(slash.slash_id)
        if former is not None:
            former[1].cancel()
        self._queued[slash.slash_id] = slash, group.create_task(self._see_through(slash))

    def _on_done(self, event: SlashExecuted | SlashCancelled, group: asyncio.TaskGroup) -> None:
        """Old ones are done with; a young one may still be taken back."""
        slash, task = self._queued.get(event.slash_id, (None, None))
        if slash is not None and task is not None and self._clock.now() > slash.executable_at + FINAL_SECONDS:
            task.cancel()
            del self._queued[event.slash_id]
            group.create_task(self._store.delete(HARMED, slash.task_id))

    async def _see_through(self, slash: SlashQueued) -> None:
        """Until it is executed or cancelled for good, whoever did it."""
        stored = await self._store.get(HARMED, slash.task_id)
        if stored is not None:
            await self._name_harmed(slash, messages.decode_request(stored))
        await asyncio.sleep(max(0.0, slash.executable_at - self._clock.now()))
        looks = iter(LOOKS_SECONDS)
        while True:
            refusal = await self._execute(slash.slash_id)
            if refusal == "NotWaiting":
                seconds = next(looks, None)
                if seconds is None:
                    await self._store.delete(HARMED, slash.task_id)
                    return
                await asyncio.sleep(seconds)
            elif refusal in (None, "SlashNotDue"):
                # The chain's clock is its last block's, which may lag ours: "not due" only means to ask again.
                await asyncio.sleep(RETRY_SECONDS)
            elif refusal == "VetoPending":
                await asyncio.sleep(VETO_RETRY_SECONDS)
            else:
                log.info("slash not executed", task=slash.task_id.hex()[:8], reason=refusal)
                return

    async def _name_harmed(self, slash: SlashQueued, request: TaskRequest) -> None:
        """Before it is executed: what moves then goes to whom is named, or to the vault. A reorg may take the name back
        while the slash waits."""
        await self._see_named(slash, request)
        for seconds in LOOKS_SECONDS:
            if self._clock.now() + seconds >= slash.executable_at:
                return
            await asyncio.sleep(seconds)
            await self._see_named(slash, request)

    async def _see_named(self, slash: SlashQueued, request: TaskRequest) -> None:
        while True:
            try:
                tx_hash = await patiently(lambda: self._court.name_harmed(slash.slash_id, request))
                await self._settlement.confirm(tx_hash, CONFIRM_SECONDS)
            except Reverted as error:  # named already, or the slash is over; all else is for the operator to read
                if error.name != "HarmedAlreadyNamed":
                    log.info("requester not named", task=slash.task_id.hex()[:8], reason=str(error))
                return
            except PoiError as error:
                log.warning("requester not named yet", task=slash.task_id.hex()[:8], reason=str(error))
            else:
                return
            await asyncio.sleep(RETRY_SECONDS)

    async def _execute(self, slash_id: Digest) -> str | None:
        """Why the contract refuses, None when it did not."""
        try:
            tx_hash = await patiently(lambda: self._court.execute_slash(slash_id))
            await self._settlement.confirm(tx_hash, CONFIRM_SECONDS)
        except Reverted as error:
            return error.name
        except PoiError as error:
            log.warning("slash not executed yet", slash=slash_id.hex()[:8], reason=str(error))
        return None
