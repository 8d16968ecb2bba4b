"""Settlements that a reorg could still take back (protocol §7, step 8): kept, and looked at again, until none can."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import structlog

from shared.batch import decode_document, encode_document
from shared.errors import ChainUnavailable
from shared.interfaces import Settlement, TaskStore
from shared.types import Digest, TaskCertificate

log = structlog.get_logger(__name__)
T = TypeVar("T")

SETTLED = "settled"  # task id, or root of a batch → document
# After each other; together a quarter of an hour, longer than the 64 blocks after which Ethereum never goes back. The
# sender brings back what a reorg dropped by itself; the looks are for what it cannot: a restart, a nonce that is gone.
LOOKS_SECONDS = (15.0, 60.0, 240.0, 600.0)
CONFIRM_SECONDS = 60.0  # five blocks of Ethereum; then the transaction is looked at again
RETRY_SECONDS = 1.0  # doubles up to the next, while the chain is away
RETRY_MAX_SECONDS = 30.0


class Finality:
    """One certificate is known to the chain by its task id, several by the root of their batch: `key`."""

    def __init__(self, *, settlement: Settlement, store: TaskStore) -> None:
        self._settlement, self._store = settlement, store

    async def keep(self, key: Digest, certificates: tuple[TaskCertificate, ...]) -> None:
        """Durable before it returns."""
        await self._store.put(SETTLED, key, encode_document(certificates))

    async def kept(self) -> dict[Digest, tuple[TaskCertificate, ...]]:
        """What a former process kept."""
        return {Digest(key): decode_document(document) async for key, document in self._store.scan(SETTLED)}

    async def drop(self, key: Digest) -> None:
        await self._store.delete(SETTLED, key)

    async def stands(self, key: Digest, certificates: tuple[TaskCertificate, ...]) -> bool:
        """True once it is final, False as soon as the chain does not have it any more."""
        for seconds in LOOKS_SECONDS:
            await asyncio.sleep(seconds)
            if not await patiently(partial(self._is_on_chain, key, certificates)):
                return False
        return True

    async def _is_on_chain(self, key: Digest, certificates: tuple[TaskCertificate, ...]) -> bool:
        if len(certificates) == 1:
            return await self._settlement.verdict_of(key) is not None
        return await self._settlement.is_batch_settled(key)


async def patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask until the chain answers."""
    delay = RETRY_SECONDS
    while True:
        try:
            return await ask()
        except ChainUnavailable as error:
            log.warning("the chain is unavailable", reason=str(error))
            await asyncio.sleep(delay)
            delay = min(2 * delay, RETRY_MAX_SECONDS)
