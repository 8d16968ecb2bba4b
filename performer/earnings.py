"""Fees: what a requester's deposit still covers, and fetching what is earned (protocol §8.2)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

import structlog

from performer.ledger import TaskLedger
from shared import wire
from shared.errors import ChainUnavailable, PoiError, RequestRefused, Reverted
from shared.interfaces import Collection, Escrow, Settlement, TaskStore
from shared.types import Address, Digest, TaskDefinition, TaskRequest

log = structlog.get_logger(__name__)

UNCOLLECTED = "uncollected"  # task id → collection
FEE = -32007
UNAVAILABLE = -32006
# A transaction of so many: about 40k gas each, well under the 16.7M that EIP-7825 allows.
MAX_COLLECTIONS = 64
GATHER_SECONDS = 2.0  # for others to join the first one
CONFIRM_SECONDS = 60.0
RETRY_SECONDS = 15.0
REFUSED_RETRY_SECONDS = 3600.0  # a deposit that came up short may be filled again

_decode = wire.decoder(Collection).decode


class Earnings:
    """Every fee from the settled verdict to the escrow's word that it is paid; none is forgotten by a crash."""

    def __init__(
        self, *, address: Address, escrow: Escrow, settlement: Settlement, ledger: TaskLedger, store: TaskStore
    ) -> None:
        self._address, self._escrow, self._settlement = address, escrow, settlement
        self._ledger, self._store = ledger, store
        self._owed: dict[Digest, Collection] = {}  # by task id
        self._refused: set[Digest] = set()  # tried again by the hour, not by the second
        self._more = asyncio.Event()
        self._locks: WeakValueDictionary[Address, asyncio.Lock] = WeakValueDictionary()

    async def load(self) -> None:
        """What a former run left."""
        async for task_id, stored in self._store.scan(UNCOLLECTED):
            self._owed[Digest(task_id)] = _decode(stored)
        if self._owed:
            self._more.set()

    # --- before the work -----------------------------------------------------------------------------
    @asynccontextmanager
    async def covering(self, request: TaskRequest, definition: TaskDefinition) -> AsyncIterator[None]:
        """Held until the ledger counts the task: requests that come together must not all lean on the last coin.

        Raises `RequestRefused` when the fee is below the definition's, or the deposit does not cover it.
        """
        least = definition.terms.fees.total
        if request.fee < least:
            raise RequestRefused(FEE, "the fee is below the task definition's", "request.fee", f"at least {least}")
        if request.fee == 0:
            yield
            return
        async with self._locks.setdefault(request.requester, asyncio.Lock()):
            await self._require_deposit(request)
            yield

    async def _require_deposit(self, request: TaskRequest) -> None:
        try:
            deposit = await self._escrow.deposit_of(request.requester, self._address)
        except ChainUnavailable as error:
            raise RequestRefused(UNAVAILABLE, str(error), None, "try again later, or another performer") from None
        promised = self.promised_by(request.requester)
        free = deposit.balance - deposit.refunding - promised
        if free < request.fee:
            raise RequestRefused(
                FEE,
                f"the deposit for this performer has {deposit.balance}: {promised} are promised to other tasks "
                f"and {deposit.refunding} are being refunded",
                "request.fee",
                f"TaskEscrow.deposit of {request.fee - free} more for 0x{self._address.hex()} first",
            )

    def promised_by(self, requester: Address) -> int:
        """Fees of tasks that are under way or not collected yet, in base units."""
        under_way = {task.task_id: task.request for task in self._ledger.open_tasks()}
        requests = under_way | {task_id: owed.request for task_id, owed in self._owed.items()}
        return sum(request.fee for request in requests.values() if request.requester == requester)

    # --- after the verdict ---------------------------------------------------------------------------
    async def earned(self, task_id: Digest, collection: Collection) -> None:
        """Durable before it returns. Told again after a reorg, the newer one counts."""
        if collection.request.fee == 0 or self._owed.get(task_id) == collection:
            return
        await self._store.put(UNCOLLECTED, task_id, wire.encode(collection))
        self._owed[task_id] = collection
        self._refused.discard(task_id)
        self._more.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            waits = REFUSED_RETRY_SECONDS if self._refused else None
            try:
                await asyncio.wait_for(self._more.wait(), waits)
            except TimeoutError:
                self._refused.clear()
            await asyncio.sleep(GATHER_SECONDS)
            self._more.clear()
            await self._collect_all()

    async def _collect_all(self) -> None:
        while due := [task_id for task_id in self._owed if task_id not in self._refused][:MAX_COLLECTIONS]:
            if not await self._collect(due):
                await asyncio.sleep(RETRY_SECONDS)

    async def _collect(self, due: list[Digest]) -> bool:
        """Whether the chain answered."""
        due = [task_id for task_id in due if not await self._forget_if_paid(task_id)]
        if not due:
            return True
        try:
            tx_hash = await self._escrow.collect([self._owed[task_id] for task_id in due])
            await self._settlement.confirm(tx_hash, CONFIRM_SECONDS)
        except Reverted as error:
            if len(due) == 1:
                log.warning("a fee is not paid", task=due[0].hex()[:8], reason=str(error))
                self._refused.add(due[0])
                return True
            # One bad apple: each by itself shows which.
            for task_id in due:
                await self._collect([task_id])
        except PoiError as error:
            log.warning("fees not collected yet", tasks=len(due), reason=str(error))
            return False
        return True  # forgotten once the chain says that they are paid, at the next look

    async def _forget_if_paid(self, task_id: Digest) -> bool:
        request = self._owed[task_id].request
        try:
            is_paid = await self._escrow.is_paid(request.requester, self._address, request.nonce)
        except ChainUnavailable:
            return False
        if is_paid:
            del self._owed[task_id]
            await self._store.delete(UNCOLLECTED, task_id)
            log.info("fee collected", task=task_id.hex()[:8], fee=int(request.fee))
        return is_paid
