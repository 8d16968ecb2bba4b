"""One key's transactions under way, looked after until no reorg can take them back.

- taken out of the pool (a restarted node): offered again;
- not mined for `replace_after_seconds`, though it is next: replaced at a higher fee, within the operator's cap;
- blocked by a nonce that nothing uses, or that a former process used at too low a fee: the nonce is filled;
- dropped by a reorg: offered again, until it is REORG_BLOCKS deep.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog

from shared.adapters.chain_evm.client import EvmClient, Refused
from shared.adapters.chain_evm.transactions import Attempt, Slot, sign
from shared.adapters.chain_evm.wire import Block, Call, Fees, Receipt
from shared.constants import CONFIRMATIONS, GWEI
from shared.errors import ChainUnavailable
from shared.interfaces import IdentitySigner
from shared.types import Digest

log = structlog.get_logger(__name__)

REORG_BLOCKS = 64  # two epochs of Ethereum: what is deeper is final
PLAIN_TRANSFER_GAS = 21_000
WATCH_POLLS = 8  # between looks when all is mined: a reorg need not be noticed at once
PATIENCE_LOOKS = 3  # before "unknown" is believed: nodes behind one address need not agree at once
MAX_ATTEMPTS = 16  # of one slot: 9/8 to the 15th is a sixfold fee
REPETITIONS = 4  # of an offer whose answer was lost

_KNOWN = ("already known", "already imported", "known transaction")
USED = ("nonce too low", "nonce is too low")
CHEAP = ("underpriced",)


class Outbox:
    """Slots by nonce. `run` looks after them; `looked` is notified after each look."""

    def __init__(
        self,
        client: EvmClient,
        signer: IdentitySigner,
        chain_id: int,
        *,
        max_fee_wei: int,
        poll_seconds: float,
        replace_after_seconds: float,
    ) -> None:
        self._client, self._signer, self._chain_id = client, signer, chain_id
        self._max_fee_wei = max_fee_wei
        self._poll_seconds = poll_seconds
        self._replace_after_seconds = replace_after_seconds
        self._slots: dict[int, Slot] = {}
        self._has_work = asyncio.Event()
        self._mined_nonces = 0
        self._progress_at = 0.0  # loop time at which the last nonce was mined, or the first one sent
        self.looked = asyncio.Condition()
        self.head: Block | None = None  # at the last look

    # --- what is under way ---------------------------------------------------------------------------
    def keep(self, slot: Slot) -> None:
        """From now on it is looked after."""
        if not self.unmined():
            self._progress_at = asyncio.get_running_loop().time()
        self._slots[slot.nonce] = slot
        self._has_work.set()

    def unmined(self) -> list[Slot]:
        """By nonce."""
        return sorted((slot for slot in self._slots.values() if slot.receipt is None), key=lambda slot: slot.nonce)

    def slot_at(self, nonce: int) -> Slot | None:
        return self._slots.get(nonce)

    def slot_of(self, tx_hash: Digest) -> Slot | None:
        """The slot that has the transaction among its attempts."""
        return next((s for s in self._slots.values() if any(a.tx_hash == tx_hash for a in s.attempts)), None)

    def confirmed(self, slot: Slot) -> Receipt | None:
        """Its receipt, once it lies under CONFIRMATIONS blocks."""
        receipt, head = slot.receipt, self.head
        if receipt is None or head is None or receipt.block + CONFIRMATIONS - 1 > head.number:
            return None
        return receipt

    def first_free_nonce(self) -> int:
        """Above all that is under way: those nonces will be used, even if a node that lost its pool counts less."""
        return max(self._slots, default=-1) + 1

    # --- paying, signing, offering -------------------------------------------------------------------
    async def usual_fees(self) -> Fees:
        """Raises `ChainUnavailable` when not even the base fee is within the operator's cap."""
        head, tip = await asyncio.gather(self._client.head(), self._client.tip())
        if head.base_fee_wei > self._max_fee_wei:
            base, cap = head.base_fee_wei / GWEI, self._max_fee_wei / GWEI
            raise ChainUnavailable(f"the base fee is {base:g} gwei, over the cap of {cap:g} gwei")
        return Fees.suggest(head.base_fee_wei, tip, self._max_fee_wei)

    async def sign(self, slot: Slot) -> Attempt:
        """With the slot's fees as they are now; becomes its newest attempt."""
        slot.attempts.append(await sign(slot, self._chain_id, self._signer))
        return slot.newest

    async def offer(self, attempt: Attempt) -> None:
        """Puts it into the node's pool; says it again when the answer was lost, because another signature in its place
        might become another transaction. Raises `Refused`, `ChainUnavailable`."""
        for repetition in range(REPETITIONS):
            try:
                return await self._client.send_raw(attempt.raw)
            except Refused as error:
                if error.says(*_KNOWN):
                    return None
                raise
            except ChainUnavailable:
                if repetition == REPETITIONS - 1:
                    raise
                await asyncio.sleep(self._poll_seconds)
        return None

    # --- looking after -------------------------------------------------------------------------------
    async def run(self) -> None:
        """Until cancelled. An unreachable chain is waited for."""
        is_lost = False
        try:
            while True:
                await self._rest()
                try:
                    await self._look()
                    is_lost = False
                except ChainUnavailable as error:
                    if not is_lost:
                        log.warning("the chain is unavailable; transactions wait", reason=str(error))
                    is_lost = True
                await self._tell()
        finally:
            await self._tell()  # whoever waits shall see that nobody looks any more

    async def _rest(self) -> None:
        """Until the next look: short while something has to be mined, longer when only a reorg could happen."""
        if any(self.confirmed(slot) is None for slot in self._slots.values()):
            return await asyncio.sleep(self._poll_seconds)
        self._has_work.clear()
        with suppress(TimeoutError):
            # Not `wait_for`: in Python 3.11 it swallows a cancellation that comes with the result, and this never ends.
            async with asyncio.timeout(WATCH_POLLS * self._poll_seconds if self._slots else None):
                await self._has_work.wait()
        return None

    async def _tell(self) -> None:
        async with self.looked:
            self.looked.notify_all()

    async def _look(self) -> None:
        head = await self._client.head()
        is_reorganised = self.head is not None and not await self._is_canonical(self.head)
        mined_nonces = await self._client.nonce(self._signer.address, "latest")
        if mined_nonces > self._mined_nonces:
            self._progress_at = asyncio.get_running_loop().time()
        if is_reorganised or mined_nonces < self._mined_nonces:
            await self._recheck()
        self.head, self._mined_nonces = head, mined_nonces
        for slot in self.unmined():
            if slot.nonce < mined_nonces:
                await self._find_receipt(slot)
        self._forget(head.number)
        await self._push_on(mined_nonces)

    async def _is_canonical(self, block: Block) -> bool:
        now = await self._client.block(block.number)
        return now is not None and now.hash == block.hash

    async def _recheck(self) -> None:
        """After a reorg: what is mined elsewhere, or no longer."""
        for slot in list(self._slots.values()):
            if slot.receipt is None:
                continue
            slot.receipt = await self._client.receipt(slot.receipt.tx_hash)
            if slot.receipt is None:
                slot.misses = 0
                log.info("a reorg dropped a transaction; it is sent again", tx=slot.newest.tx_hash.hex())

    async def _find_receipt(self, slot: Slot) -> None:
        for attempt in reversed(slot.attempts):
            slot.receipt = await self._client.receipt(attempt.tx_hash)
            if slot.receipt is not None:
                return
        slot.misses += 1
        if slot.misses >= PATIENCE_LOOKS:
            slot.lost = f"nonce {slot.nonce} was used by another transaction"

    def _forget(self, head: int) -> None:
        """What is lost, or too deep for a reorg."""
        for slot in list(self._slots.values()):
            if slot.lost or (slot.receipt is not None and slot.receipt.block + REORG_BLOCKS <= head):
                del self._slots[slot.nonce]

    async def _push_on(self, mined_nonces: int) -> None:
        """Gets the unmined ones into the pool, and the next one out of it."""
        waiting = [slot for slot in self.unmined() if slot.nonce >= mined_nonces]
        if not waiting:
            return
        pooled = await self._client.nonce(self._signer.address, "pending")
        for slot in waiting:
            if slot.nonce >= pooled:
                await self._offer_again(slot)
        now = asyncio.get_running_loop().time()
        if now - self._progress_at < self._replace_after_seconds:
            return
        self._progress_at = now
        if waiting[0].nonce == mined_nonces:
            await self._replace(waiting[0])
        else:
            await self._fill(mined_nonces)

    async def _offer_again(self, slot: Slot) -> None:
        try:
            await self.offer(slot.newest)
        except Refused as error:
            # Used: a receipt comes with a later look. Cheap: an older attempt, or a stranger, pays more; see _replace.
            if not error.says(*USED, *CHEAP):
                log.warning("the node refuses a transaction", tx=slot.newest.tx_hash.hex(), reason=error.message)

    async def _replace(self, slot: Slot) -> None:
        """The same call at a higher fee. An older attempt that is mined in its place is as good."""
        fees = slot.fees.raised().at_least(await self.usual_fees())
        if not fees.within(self._max_fee_wei) or len(slot.attempts) >= MAX_ATTEMPTS:
            if not slot.is_fee_capped:
                log.warning("a transaction is stuck at the fee cap", tx=slot.newest.tx_hash.hex(), nonce=slot.nonce)
            slot.is_fee_capped = True
            return
        slot.fees = fees
        await self.sign(slot)
        log.info("a transaction is replaced", nonce=slot.nonce, max_fee_gwei=fees.max_wei / GWEI)
        await self._offer_again(slot)

    async def _fill(self, nonce: int) -> None:
        """An empty transfer to oneself under a nonce that blocks the others. A stranger's transaction that holds the
        nonce is outbid by the replacements of later looks."""
        slot = Slot(nonce, Call(self._signer.address, b""), PLAIN_TRANSFER_GAS, await self.usual_fees())
        await self.sign(slot)
        log.warning("a nonce blocks later transactions; it is filled", nonce=nonce)
        self._slots[nonce] = slot
        await self._offer_again(slot)
