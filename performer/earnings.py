"""Fees: what a requester's deposit still covers, and fetching what is earned (protocol §8.2)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from weakref import WeakValueDictionary

import structlog

from performer.ledger import NONCE_USED, TaskLedger
from shared import wire
from shared.errors import ChainError, ChainUnavailable, RequestRefused, Reverted
from shared.interfaces import Collection, Escrow, Settlement, TaskStore
from shared.types import Address, Deposit, Digest, TaskDefinition, TaskRequest

log = structlog.get_logger(__name__)

UNCOLLECTED = "uncollected"  # task id → its settlements, newest first
COLLECTED = "collected"  # task id → nothing to say: no reorg takes it back any more
FEE = -32007
UNAVAILABLE = -32006
# A transaction of so many: under 100k gas each, well under the 16.7M that EIP-7825 allows.
MAX_COLLECTIONS = 64
MAX_TRANSACTION_BYTES = 96 * 1024  # nodes take 128 KiB; requesters' parameters alone may be 4 KiB each
PLAIN_BYTES = 1_100  # of a collection in calldata, but for what varies
MAX_SETTLEMENTS = 4  # of one task, by itself and under several roots
PARALLEL = 4  # transactions
GATHER_SECONDS = 2.0  # for others to join the first one
CONFIRM_SECONDS = 60.0
RETRY_SECONDS = 15.0
REFUSED_RETRY_SECONDS = 3600.0  # a deposit that came up short may be filled again
# After each other; together as long as the aggregator's looks at a settlement, and longer than the 64 blocks after
# which Ethereum never goes back. The sender brings back what a reorg dropped by itself; the looks are for what it
# cannot: a restart, a nonce that is gone.
LOOKS_SECONDS = (60.0, 855.0)
LOOK_SECONDS = 15.0  # between rounds

_decode = wire.decoder(tuple[Collection, ...]).decode


@dataclass(slots=True, eq=False)
class _Fee:
    """Of one settled task, until the chain has paid it for good."""

    task_id: Digest
    settlements: tuple[Collection, ...]  # a reorg may leave any of them
    is_sent: bool = False  # in a transaction that is not confirmed
    is_paid: bool = False
    next_at: float = 0.0  # in the loop's time: the next try, or the next look once it is paid
    refusals: int = 0
    looks: int = 0

    @property
    def request(self) -> TaskRequest:
        return self.settlements[0].request


class Earnings:
    """Every fee from the settled verdict to the escrow's word that it is paid; none is forgotten by a crash."""

    def __init__(
        self, *, address: Address, escrow: Escrow, settlement: Settlement, ledger: TaskLedger, store: TaskStore
    ) -> None:
        self._address, self._escrow, self._settlement = address, escrow, settlement
        self._ledger, self._store = ledger, store
        self._fees: dict[Digest, _Fee] = {}  # by task id
        self._is_loaded = False
        self._more = asyncio.Event()
        self._earning = asyncio.Lock()
        self._locks: WeakValueDictionary[Address, asyncio.Lock] = WeakValueDictionary()

    async def load(self) -> None:
        """What a former run left; after the ledger's own `load`."""
        async for task_id, stored in self._store.scan(UNCOLLECTED):
            self._fees[Digest(task_id)] = _Fee(Digest(task_id), _decode(stored))
        self._is_loaded = True
        self._more.set()

    # --- before the work -----------------------------------------------------------------------------
    def require_fee(self, request: TaskRequest, definition: TaskDefinition) -> None:
        """Raises `RequestRefused` when the fee is below the definition's."""
        least = definition.terms.fees.total
        if request.fee < least:
            raise RequestRefused(FEE, "the fee is below the task definition's", "request.fee", f"at least {least}")

    @asynccontextmanager
    async def covering(self, task_id: Digest, request: TaskRequest) -> AsyncIterator[None]:
        """Held until the ledger counts the task: requests that come together must not all lean on the last coin.

        Raises `RequestRefused` when the deposit does not cover the fee.
        """
        if request.fee == 0:
            yield
            return
        if not self._is_loaded:  # what a former run promised is not known yet
            raise RequestRefused(UNAVAILABLE, "the performer is starting", None, "try again in a moment")
        async with self._locks.setdefault(request.requester, asyncio.Lock()):
            # The same request again leans on its own promise.
            if await self._ledger.find(task_id) is None:
                await self._require_covered(request)
            yield

    async def _require_covered(self, request: TaskRequest) -> None:
        try:
            # Also of a nonce that this node has forgotten with its disk: the escrow would pay nothing for it.
            is_used = await self._escrow.is_paid(request.requester, self._address, request.nonce)
            deposit, promised = await self._deposit_of(request.requester)
            if _free(deposit, promised) < request.fee and await self._notice_paid(request.requester):
                deposit, promised = await self._deposit_of(request.requester)
        except ChainUnavailable as error:
            raise RequestRefused(UNAVAILABLE, str(error), None, "try again later, or another performer") from None
        if is_used:
            raise RequestRefused(NONCE_USED, "the nonce was paid for already", "request.nonce", "a fresh nonce")
        if (free := _free(deposit, promised)) < request.fee:
            raise RequestRefused(
                FEE,
                f"the deposit for this performer has {deposit.balance}: {promised} are promised to other tasks "
                f"and {deposit.refunding} are being refunded",
                "request.fee",
                f"TaskEscrow.deposit of {request.fee - free} more for 0x{self._address.hex()} first",
            )

    async def _deposit_of(self, requester: Address) -> tuple[Deposit, int]:
        """And what of it is promised. In this order: what is paid in between counts twice, never not at all."""
        promised = self.promised_by(requester)
        return await self._escrow.deposit_of(requester, self._address), promised

    async def _notice_paid(self, requester: Address) -> bool:
        """Whether some of what is being collected was taken from the deposit already, and is no promise any more."""
        sent = [fee for fee in self._fees.values() if fee.is_sent and fee.request.requester == requester]
        await self._look_for_paid(sent)
        return any(fee.is_paid for fee in sent)

    def promised_by(self, requester: Address) -> int:
        """Fees of tasks that are under way or not collected yet, in base units."""
        # A task that failed here never settles.
        under_way = {task.task_id: task.request for task in self._ledger.open_tasks() if task.failure is None}
        uncollected = {task_id: fee.request for task_id, fee in self._fees.items() if not fee.is_paid}
        paid = {task_id for task_id, fee in self._fees.items() if fee.is_paid}
        promises = under_way | uncollected
        owed = (request for task_id, request in promises.items() if task_id not in paid)
        return sum(request.fee for request in owed if request.requester == requester)

    # --- after the verdict ---------------------------------------------------------------------------
    async def earned(self, task_id: Digest, collection: Collection) -> None:
        """Durable before it returns. Told again after a reorg, it is tried again; the newest settlement first."""
        if collection.request.fee == 0:
            return
        async with self._earning:
            fee = self._fees.get(task_id)
            if fee is None and await self._store.get(COLLECTED, task_id) is not None:
                return  # the chain repeats itself
            others = () if fee is None else (each for each in fee.settlements if each.root != collection.root)
            settlements = (collection, *others)[:MAX_SETTLEMENTS]
            if fee is None or fee.settlements != settlements:
                await self._store.put(UNCOLLECTED, task_id, wire.encode(settlements))
            if fee is None:
                self._fees[task_id] = _Fee(task_id, settlements)
            else:
                fee.settlements = settlements
                if not fee.is_paid:
                    fee.next_at, fee.refusals = 0.0, 0
        self._more.set()

    async def is_collected(self, task_id: Digest) -> bool:
        """Whether the fee was paid, for all this node knows."""
        fee = self._fees.get(task_id)
        return fee.is_paid if fee is not None else await self._store.get(COLLECTED, task_id) is not None

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_collecting())
            group.create_task(self._keep_looking())

    async def _keep_collecting(self) -> None:
        while True:
            try:
                # Not `wait_for`: in Python 3.11 it swallows a cancellation that comes with the result.
                async with asyncio.timeout(RETRY_SECONDS):
                    await self._more.wait()
            except TimeoutError:
                pass  # some that were refused may be due
            else:
                await asyncio.sleep(GATHER_SECONDS)
            self._more.clear()
            while groups := self._due():
                if not all(await asyncio.gather(*map(self._try, groups))):
                    await asyncio.sleep(RETRY_SECONDS)

    def _due(self) -> list[list[_Fee]]:
        """One transaction each. Definitions come together: the contract reads each of them once."""
        now = asyncio.get_running_loop().time()
        due = [fee for fee in self._fees.values() if not fee.is_paid and fee.next_at <= now]
        groups: list[list[_Fee]] = []
        size = 0
        for fee in sorted(due, key=lambda fee: fee.request.task_definition_id):
            weight = _calldata_bytes(fee.settlements[0])
            if not groups or len(groups[-1]) == MAX_COLLECTIONS or size + weight > MAX_TRANSACTION_BYTES:
                if len(groups) == PARALLEL:
                    break
                groups.append([])
                size = 0
            groups[-1].append(fee)
            size += weight
        return groups

    async def _try(self, group: list[_Fee]) -> bool:
        """Whether the chain answered."""
        try:
            await self._collect(group)
        except ChainError as error:
            log.warning("fees not collected yet", tasks=len(group), reason=str(error))
            return False
        return True

    async def _collect(self, group: list[_Fee], *, was_looked_at: bool = False) -> None:
        """Raises `ChainUnavailable`, `Dropped`."""
        try:
            await self._send(group)
            return
        except Reverted as error:
            refusal = error
        if not was_looked_at:
            # Perhaps by a former run, or by anybody else: the escrow lets everyone collect.
            await self._look_for_paid(group)
            unpaid = [fee for fee in group if not fee.is_paid]
            if len(unpaid) < len(group):
                if unpaid:
                    await self._collect(unpaid)
                return
        if len(group) == 1:
            self._refuse(group[0], refusal)
            return
        # One bad apple: by halves, for each good half is one transaction.
        middle = len(group) // 2
        for half in (group[:middle], group[middle:]):
            await self._collect(half, was_looked_at=True)

    async def _send(self, group: list[_Fee]) -> None:
        for fee in group:
            fee.is_sent = True
        try:
            await self._confirm(await self._escrow.collect([fee.settlements[0] for fee in group]))
            for fee in group:
                _mark_paid(fee)
        finally:
            for fee in group:
                fee.is_sent = False

    async def _confirm(self, tx_hash: Digest) -> None:
        """However long it takes: sent a second time, the later one would revert, and cost gas."""
        while True:
            try:
                await self._settlement.confirm(tx_hash, CONFIRM_SECONDS)
                return
            except ChainUnavailable as error:
                log.warning("fees not collected yet", reason=str(error))
                await asyncio.sleep(RETRY_SECONDS)

    def _refuse(self, fee: _Fee, refusal: Reverted) -> None:
        """Try the task's other settlements at once, and all of them again in an hour."""
        log.warning("a fee is not paid", task=fee.task_id.hex()[:8], reason=str(refusal))
        fee.settlements = (*fee.settlements[1:], fee.settlements[0])
        fee.refusals += 1
        if fee.refusals % len(fee.settlements) == 0:
            fee.next_at = asyncio.get_running_loop().time() + REFUSED_RETRY_SECONDS

    async def _look_for_paid(self, fees: Iterable[_Fee]) -> None:
        """Raises `ChainUnavailable`."""
        for fee in fees:
            if not fee.is_paid and await self._is_paid(fee):
                _mark_paid(fee)

    async def _is_paid(self, fee: _Fee) -> bool:
        return await self._escrow.is_paid(fee.request.requester, self._address, fee.request.nonce)

    # --- until no reorg can take it back ---------------------------------------------------------------
    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = asyncio.get_running_loop().time()
            for fee in [fee for fee in self._fees.values() if fee.is_paid and fee.next_at <= now]:
                try:
                    await self._look_again(fee)
                except ChainUnavailable as error:
                    log.warning("the chain is unavailable", reason=str(error))
                    break

    async def _look_again(self, fee: _Fee) -> None:
        if not await self._is_paid(fee):
            log.warning("a fee was taken back by a reorg", task=fee.task_id.hex()[:8])
            fee.is_paid, fee.next_at = False, 0.0
            self._more.set()
            return
        fee.looks += 1
        if fee.looks < len(LOOKS_SECONDS):
            fee.next_at = asyncio.get_running_loop().time() + LOOKS_SECONDS[fee.looks]
            return
        async with self._earning:
            # In this order: a crash in between looks again, and forgets nothing.
            await self._store.put(COLLECTED, fee.task_id, b"\1")
            await self._store.delete(UNCOLLECTED, fee.task_id)
            del self._fees[fee.task_id]
        log.info("fee collected", task=fee.task_id.hex()[:8], fee=int(fee.request.fee))


def _mark_paid(fee: _Fee) -> None:
    if not fee.is_paid:
        fee.is_paid, fee.looks, fee.refusals = True, 0, 0
        fee.next_at = asyncio.get_running_loop().time() + LOOKS_SECONDS[0]


def _free(deposit: Deposit, promised: int) -> int:
    return deposit.balance - deposit.refunding - promised


def _calldata_bytes(task: Collection) -> int:
    """Hardly less than it takes."""
    varying = len(task.request.parameters.encode()) + len(task.request.input_cid) + len(task.indices)
    return PLAIN_BYTES + varying + 32 * len(task.path)
