"""Sends one key's transactions and waits for them. One key, one sender: two would use each other's nonces."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

import structlog

from shared.adapters.chain_evm.client import EvmClient, Refused
from shared.adapters.chain_evm.outbox import CHEAP, PATIENCE_LOOKS, USED, Outbox
from shared.adapters.chain_evm.transactions import Attempt, Slot
from shared.adapters.chain_evm.wire import Call, Fees, Known, Receipt
from shared.constants import CHAIN_POLL_SECONDS, GWEI
from shared.errors import ChainUnavailable, Dropped, Reverted
from shared.interfaces import IdentitySigner
from shared.types import Address, Digest

log = structlog.get_logger(__name__)

MAX_IN_FLIGHT = 64  # geth's queue for one account; a longer backlog is an outage
GAS_LIMIT = 1 << 24  # of one transaction (EIP-7825)
GAS_MARGIN_PERCENT = 120  # the state may move between simulation and block
SEND_ATTEMPTS = 4
ROOM_SECONDS = 30.0  # how long a send waits for room in flight


class Sender:
    """Between `async with` and its end it also looks after what it sent, whether or not anybody waits (`Outbox`).

    `max_fee_wei` is the most that a unit of gas may cost.
    """

    def __init__(
        self,
        client: EvmClient,
        signer: IdentitySigner,
        chain_id: int,
        *,
        max_fee_wei: int = 100 * GWEI,
        poll_seconds: float = CHAIN_POLL_SECONDS,
        replace_after_seconds: float = 30.0,
    ) -> None:
        self.client = client
        self.address: Address = signer.address
        self._max_fee_wei, self._poll_seconds = max_fee_wei, poll_seconds
        self._outbox = Outbox(
            client,
            signer,
            chain_id,
            max_fee_wei=max_fee_wei,
            poll_seconds=poll_seconds,
            replace_after_seconds=replace_after_seconds,
        )
        self._next: int | None = None  # None: ask the node
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._outbox.run(), name="transaction outbox")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    # --- sending -------------------------------------------------------------------------------------
    async def send(self, to: Address | None, data: bytes, value_wei: int = 0) -> Digest:
        """Simulates, signs and sends; the hash, once the node has it. `to` None creates a contract.

        Raises `Reverted` for what the contract would refuse now, `ChainUnavailable` for what keeps it from being sent
        (also: no funds, fees over the cap, MAX_IN_FLIGHT unmined).
        """
        self._require_open()
        call = Call(to, data, value_wei)
        gas = await self.client.estimate_gas(call, self.address)
        async with self._lock:
            await self._wait_for_room()
            slot = await self._send_next(call, min(gas * GAS_MARGIN_PERCENT // 100, GAS_LIMIT))
        log.debug("transaction sent", tx=slot.newest.tx_hash.hex(), nonce=slot.nonce)
        return slot.newest.tx_hash

    async def _send_next(self, call: Call, gas: int) -> Slot:
        """At the next nonce. After any refusal the node's own count is the truth again."""
        floor = Fees(0, 0)
        for attempt in range(1, SEND_ATTEMPTS + 1):
            fees = (await self._outbox.usual_fees()).at_least(floor)
            if not fees.within(self._max_fee_wei):
                raise ChainUnavailable(f"it would take fees over the cap of {self._max_fee_wei / GWEI:g} gwei")
            slot = Slot(await self._next_nonce(), call, gas, fees)
            try:
                await self._outbox.offer(await self._outbox.sign(slot))
                self._next = slot.nonce + 1
                self._outbox.keep(slot)
                return slot
            except Refused as error:
                self._next = None
                if attempt == SEND_ATTEMPTS or not error.says(*USED, *CHEAP):
                    raise
                if error.says(*CHEAP):
                    # Another transaction has this nonce, and the node does not count it: it has to be outbid.
                    floor = fees.raised()
            except ChainUnavailable:
                self._next = None
                raise
        raise AssertionError("the last attempt returns or raises")

    async def _next_nonce(self) -> int:
        if self._next is None:
            pending = await self.client.nonce(self.address, "pending")
            self._next = max(pending, self._outbox.first_free_nonce())
        return self._next

    async def _wait_for_room(self) -> None:
        try:
            async with asyncio.timeout(ROOM_SECONDS):
                while len(self._outbox.unmined()) >= MAX_IN_FLIGHT:
                    await self._next_look()
        except TimeoutError:
            raise ChainUnavailable(f"{MAX_IN_FLIGHT} transactions of this key wait to be mined") from None

    # --- waiting -------------------------------------------------------------------------------------
    async def confirm(self, tx_hash: Digest, timeout_seconds: float) -> Receipt:
        """The receipt of the transaction, or of what replaced it, under CONFIRMATIONS blocks.

        Raises `Reverted`, `Dropped` when its nonce was used by something else or nobody knows it, `ChainUnavailable`
        after the time. Takes hashes of a former process too: they are looked after from then on.
        """
        self._require_open()
        try:
            async with asyncio.timeout(timeout_seconds):
                slot = self._outbox.slot_of(tx_hash) or await self._adopt(tx_hash)
                receipt = await self._mined(slot)
        except TimeoutError:
            raise ChainUnavailable(f"0x{tx_hash.hex()} is not mined after {timeout_seconds:g} s") from None
        if not receipt.is_success:
            raise await self._reason(slot, receipt)
        return receipt

    async def _mined(self, slot: Slot) -> Receipt:
        while True:
            if slot.lost:
                raise Dropped(f"0x{slot.newest.tx_hash.hex()}: {slot.lost}")
            receipt = self._outbox.confirmed(slot)
            if receipt is not None:
                return receipt
            await self._next_look()

    async def _adopt(self, tx_hash: Digest) -> Slot:
        """A transaction of a former process. Signed again it is the same, to the byte, where signing is deterministic;
        elsewhere it becomes the newest attempt beside the old one."""
        for _ in range(PATIENCE_LOOKS):
            known = await self.client.transaction(tx_hash)
            if known is not None:
                break
            await asyncio.sleep(self._poll_seconds)
        else:
            raise Dropped(f"0x{tx_hash.hex()}: the node does not know it")
        if known.sender != self.address:
            raise Dropped(f"0x{tx_hash.hex()}: another key sent it")
        if self._outbox.slot_at(known.nonce) is not None:
            return await self._rival(tx_hash, known)
        slot = Slot(known.nonce, known.call, known.gas, known.fees)
        attempt = await self._outbox.sign(slot)
        if attempt.tx_hash != tx_hash:
            slot.attempts.insert(0, Attempt(tx_hash, b""))
        self._outbox.keep(slot)
        return slot

    async def _rival(self, tx_hash: Digest, known: Known) -> Slot:
        """A transaction whose nonce this process has given to another: one of the two will be mined."""
        while (ours := self._outbox.slot_at(known.nonce)) is not None and ours.receipt is None:
            await self._next_look()
        receipt = await self.client.receipt(tx_hash)
        if receipt is None:
            raise Dropped(f"0x{tx_hash.hex()}: nonce {known.nonce} was used by another transaction")
        return Slot(known.nonce, known.call, known.gas, known.fees, [Attempt(tx_hash, b"")], receipt)

    async def _reason(self, slot: Slot, receipt: Receipt) -> Reverted:
        """What a mined transaction's contract said: the call again, on the state before its block, then after it (when
        an earlier transaction of the same block was the cause)."""
        for block in (receipt.block - 1, receipt.block):
            try:
                await self.client.call(slot.call, sender=self.address, block=block)
            except Reverted as error:
                return error
            except Refused as error:
                return Reverted(f"no reason known: {error.message}")  # the node has dropped that state
        return Reverted("out of gas" if receipt.gas_used == slot.gas else "no reason given")

    async def _next_look(self) -> None:
        self._require_open()
        async with self._outbox.looked:
            await self._outbox.looked.wait()

    def _require_open(self) -> None:
        if self._task is None:
            raise ChainUnavailable("the sender is closed")
        if self._task.done():
            self._task.result()  # a fault of ours: whoever waits shall see it
