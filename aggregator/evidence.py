"""Votes that convict: what an equivocator signed goes to the court, and is kept until the court has it for good."""

from __future__ import annotations

import asyncio

import structlog

from aggregator.finality import CONFIRM_SECONDS, LOOKS_SECONDS, RETRY_MAX_SECONDS, RETRY_SECONDS, patiently
from shared import wire
from shared.errors import CodecError, PoiError, Reverted
from shared.interfaces import Court, Settlement, SignedVote, TaskStore

log = structlog.get_logger(__name__)

EVIDENCE = "evidence"  # task id ‖ attester → both votes
_decoder = wire.decoder(tuple[SignedVote, SignedVote])


class Accuser:
    """Reports each equivocation, and looks again after a reorg could have taken the report back."""

    def __init__(self, *, court: Court, settlement: Settlement, store: TaskStore) -> None:
        self._court, self._settlement, self._store = court, settlement, store
        self._waiting: asyncio.Queue[tuple[bytes, SignedVote, SignedVote]] = asyncio.Queue()

    async def accuse(self, attester: bytes, first: SignedVote, second: SignedVote) -> None:
        """Durable before it returns; told twice, it is reported once."""
        key = first.info.task_id + attester
        if await self._store.get(EVIDENCE, key) is None:
            await self._store.put(EVIDENCE, key, wire.encode((first, second)))
            self._waiting.put_nowait((key, first, second))

    async def run(self) -> None:
        """Until cancelled; takes up what a former process left."""
        async for key, stored in self._store.scan(EVIDENCE):
            first, second = _decoder.decode(stored)
            self._waiting.put_nowait((key, first, second))
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(self._see_through(*await self._waiting.get()))

    async def _see_through(self, key: bytes, first: SignedVote, second: SignedVote) -> None:
        looks, delay = iter(LOOKS_SECONDS), RETRY_SECONDS
        while True:
            try:
                tx_hash = await patiently(lambda: self._court.report_equivocation(first, second))
                await self._settlement.confirm(tx_hash, CONFIRM_SECONDS)
                log.warning("equivocation reported", task=first.info.task_id.hex()[:8], seat=first.seat)
            except (Reverted, CodecError) as error:
                is_queued = isinstance(error, Reverted) and error.name == "AlreadyQueued"
                if not is_queued:
                    log.error("the court refuses the evidence", task=first.info.task_id.hex()[:8], reason=str(error))
                seconds = next(looks, None) if is_queued else None
                if seconds is None:
                    await self._store.delete(EVIDENCE, key)
                    return
                await asyncio.sleep(seconds)
                continue
            except PoiError as error:
                log.warning("evidence not with the court yet", reason=str(error))
            await asyncio.sleep(delay)
            delay = min(2 * delay, RETRY_MAX_SECONDS)
