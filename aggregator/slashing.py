"""Executing queued slashes: anyone may, once their window is over; the aggregator sees to it that somebody does."""

from __future__ import annotations

import asyncio

import structlog

from aggregator.finality import CONFIRM_SECONDS, LOOKS_SECONDS, RETRY_SECONDS, patiently
from shared.errors import PoiError, Reverted
from shared.interfaces import Clock, Settlement
from shared.types import Digest, SlashExecuted, SlashQueued

log = structlog.get_logger(__name__)

FINAL_SECONDS = sum(LOOKS_SECONDS)


class SlashExecutor:
    """Follows the chain's events from the beginning, so that no slash is forgotten with a process."""

    def __init__(self, *, settlement: Settlement, clock: Clock) -> None:
        self._settlement, self._clock = settlement, clock
        self._queued: dict[Digest, tuple[SlashQueued, asyncio.Task[None]]] = {}

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            async for event in self._settlement.events(0):
                if isinstance(event, SlashQueued):
                    self._on_queued(event, group)
                elif isinstance(event, SlashExecuted):
                    self._on_executed(event)

    def _on_queued(self, slash: SlashQueued, group: asyncio.TaskGroup) -> None:
        """Again after a reorg, maybe for another time."""
        former = self._queued.get(slash.task_id)
        if former is not None:
            former[1].cancel()
        self._queued[slash.task_id] = slash, group.create_task(self._see_through(slash))

    def _on_executed(self, event: SlashExecuted) -> None:
        """Old ones are done with; a young one may still be taken back."""
        slash, task = self._queued.get(event.task_id, (None, None))
        if slash is not None and task is not None and self._clock.now() > slash.executable_at + FINAL_SECONDS:
            task.cancel()

    async def _see_through(self, slash: SlashQueued) -> None:
        """Until it is executed for good, whoever did it."""
        await asyncio.sleep(max(0.0, slash.executable_at - self._clock.now()))
        looks = iter(LOOKS_SECONDS)
        while True:
            refusal = await self._execute(slash.task_id)
            if refusal == "SlashAlreadyExecuted":
                seconds = next(looks, None)
                if seconds is None:
                    return
                await asyncio.sleep(seconds)
            elif refusal in (None, "SlashNotDue"):
                # The chain's clock is its last block's, which may lag ours: "not due" only means to ask again.
                await asyncio.sleep(RETRY_SECONDS)
            else:
                log.info("slash not executed", task=slash.task_id.hex()[:8], reason=refusal)
                return

    async def _execute(self, task_id: Digest) -> str | None:
        """Why the contract refuses, None when it did not."""
        try:
            tx_hash = await patiently(lambda: self._settlement.execute_slash(task_id))
            await self._settlement.confirm(tx_hash, CONFIRM_SECONDS)
        except Reverted as error:
            return error.name
        except PoiError as error:
            log.warning("slash not executed yet", task=task_id.hex()[:8], reason=str(error))
        return None
