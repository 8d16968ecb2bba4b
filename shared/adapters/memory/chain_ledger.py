"""Blocks, a pool and reorgs around the contract models, without a task of its own: time alone makes blocks.

Whoever looks first mines what is due, so the outcome depends on the order of submissions and on the event loop's clock,
and a loop with jumping time works as well.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from shared.adapters.memory.chain_hub import HubModel
from shared.errors import Dropped, Reverted
from shared.types import ChainEvent, Digest

REORG_BLOCKS = 64  # as deep as the reader on the real chain remembers

Emit = Callable[[int, Digest, int], ChainEvent]  # block, transaction, gas: an event that is not mined yet
Action = Callable[[HubModel, int], list[Emit]]  # on a state, at a block's time


@dataclass(slots=True, eq=False)
class Transaction:
    """What was sent, and what became of it. `block` and what follows hold while it is mined."""

    hash: Digest
    action: Action
    gas: int
    due: int  # the block that will have it
    block: int | None = None
    failure: Reverted | None = None
    is_dropped: bool = False


@dataclass(slots=True)
class _Mined:
    """A block that is not empty. Empty ones are only counted."""

    number: int
    state_before: HubModel
    transactions: list[Transaction]
    first_event: int


@dataclass(slots=True)
class Ledger:
    """One chain, shared by all who are connected to it."""

    state: HubModel
    block_seconds: float
    time_zero: float  # unix seconds at the event loop's time 0
    events: list[ChainEvent] = field(default_factory=list)  # of the branch that is the chain now
    cuts: list[int] = field(default_factory=list)  # for each reorg, how many events it left
    _pool: list[Transaction] = field(default_factory=list)
    _known: dict[Digest, Transaction] = field(default_factory=dict)
    _recent: deque[_Mined] = field(default_factory=lambda: deque(maxlen=REORG_BLOCKS))
    _started: float = field(default_factory=lambda: asyncio.get_running_loop().time())
    _warped_seconds: float = 0.0
    _head: int = 0

    # --- time ----------------------------------------------------------------------------------------
    def head(self) -> int:
        """The newest block's number; mines what is due."""
        due = int((asyncio.get_running_loop().time() - self._started) / self.block_seconds)
        while self._pool and self._pool[0].due <= due:
            self._mine(self._pool[0].due)
        self._head = due
        return due

    def timestamp(self) -> int:
        """The newest block's, in unix seconds."""
        return self._timestamp(self.head())

    def warp(self, seconds: float) -> None:
        """Moves the time of later blocks on."""
        self.head()
        self._warped_seconds += seconds

    def _timestamp(self, block: int) -> int:
        return int(self.time_zero + self._started + block * self.block_seconds + self._warped_seconds)

    def _prev_randao(self, block: int) -> Digest:
        """Another one for each block of each branch, the same in each run."""
        return Digest(hashlib.sha256(b"memory chain: branch %d, block %d" % (len(self.cuts), block)).digest())

    # --- transactions --------------------------------------------------------------------------------
    def send(self, action: Action, gas: int) -> Digest:
        """Raises `Reverted` when it would fail now. Mined with the next block."""
        head = self.head()
        action(self.state.copy(), self._timestamp(head))
        tx_hash = Digest(hashlib.sha256(b"memory chain %d" % len(self._known)).digest())
        transaction = Transaction(tx_hash, action, gas, due=head + 1)
        self._known[tx_hash] = transaction
        self._pool.append(transaction)
        return tx_hash

    def outcome(self, tx_hash: Digest) -> Transaction | None:
        """The transaction once it is mined, None before. Raises `Reverted` with why it failed, `Dropped`."""
        self.head()
        transaction = self._known.get(tx_hash)
        if transaction is None:
            raise Dropped(f"0x{tx_hash.hex()}: the node does not know it")
        if transaction.is_dropped:
            raise Dropped(f"0x{tx_hash.hex()}: its nonce was used by another transaction")
        if transaction.block is None:
            return None
        if transaction.failure is not None:
            raise transaction.failure
        return transaction

    def _mine(self, number: int) -> None:
        transactions = [transaction for transaction in self._pool if transaction.due == number]
        self._pool = [transaction for transaction in self._pool if transaction.due != number]
        self._recent.append(_Mined(number, self.state, transactions, len(self.events)))
        for transaction in transactions:
            self._execute(transaction, number)

    def _execute(self, transaction: Transaction, block: int) -> None:
        transaction.block, transaction.failure = block, None
        state = self.state.copy()
        state.tables.prev_randao = self._prev_randao(block)
        try:
            emitted = transaction.action(state, self._timestamp(block))
        except Reverted as error:
            transaction.failure = error
            return
        self.state = state
        self.events += [emit(block, transaction.hash, transaction.gas) for emit in emitted]

    # --- faults --------------------------------------------------------------------------------------
    def reorg(self, depth: int, dropped: Collection[Digest] = ()) -> None:
        """Replaces the newest `depth` blocks by empty ones. Their transactions are mined with the next block, but for
        the `dropped`, which never will be."""
        if not 0 < depth <= REORG_BLOCKS:
            raise ValueError(f"a reorg of 1 to {REORG_BLOCKS} blocks, not {depth}")
        first = self.head() - depth + 1
        undone: list[Transaction] = []
        while self._recent and self._recent[-1].number >= first:
            block = self._recent.pop()
            self.state = block.state_before
            del self.events[block.first_event :]
            undone = block.transactions + undone
        self.cuts.append(len(self.events))
        for transaction in [*undone, *self._pool]:
            transaction.block, transaction.failure = None, None
            transaction.due = self._head + 1
            transaction.is_dropped = transaction.hash in dropped
        self._pool = [transaction for transaction in [*undone, *self._pool] if not transaction.is_dropped]
