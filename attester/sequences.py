"""What this attester remembers of the performers whose texts it judges by `sequential`: the evidence so far, and which
texts it was made of."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from shared.interfaces import TaskStore
from shared.types import Digest
from shared.verification.wealth import Growth, Wealth

SEQUENCE: Final = "sequence"  # the store's kind; its keys are accounts
# Pairs of performer and card. Both are registered on chain, for stake or for a fee; 25 MB if all are full.
MAX_ACCOUNTS: Final = 1024
# Tasks of one account: an attester retries within a task's deadline, and a performer who hands in more than this
# meanwhile only has the first of them counted twice, against itself.
MAX_REMEMBERED: Final = 512
_ID_BYTES: Final = 16  # of a hash: nobody finds two that agree in these


class _Counted(msgspec.Struct, frozen=True, array_like=True):
    task: bytes
    text: bytes
    evidence: float  # that this task was told


class _Account(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """As it is stored."""

    turn: int = 0  # grows with each use of any account: the smallest is the one longest unused
    texts: int = 0
    staked: Growth = Wealth().staked
    counted: tuple[_Counted, ...] = ()  # the oldest first

    @property
    def wealth(self) -> Wealth:
        return Wealth(self.texts, self.staked)

    def told(self, task_id: Digest) -> float | None:
        return next((each.evidence for each in self.counted if each.task == task_id[:_ID_BYTES]), None)

    def has_text(self, text: bytes) -> bool:
        return any(each.text == text[:_ID_BYTES] for each in self.counted)


class SequenceLedger:
    """A `Ledger` in a role's durable memory. When there are too many accounts, the one longest unused is forgotten."""

    def __init__(
        self, store: TaskStore, *, max_accounts: int = MAX_ACCOUNTS, max_remembered: int = MAX_REMEMBERED
    ) -> None:
        self._store, self._max_accounts, self._max_remembered = store, max_accounts, max_remembered
        self._turns: dict[bytes, int] | None = None  # by account, the longest unused first; None until they were read
        self._lock = asyncio.Lock()  # reads, decides and writes as one

    async def add(self, account: bytes, task_id: Digest, text: bytes, growth: Growth, limit: float) -> float:
        """As the Protocol says. Raises `StoreError` and its kinds."""
        async with self._lock:
            turns = await self._read_turns()
            known = await self._get(account)
            told = known.told(task_id)
            if told is not None:
                return told
            wealth = known.wealth if known.has_text(text) else known.wealth.after(growth)
            evidence = wealth.evidence
            # Whoever is convicted has paid for it, and is judged by what comes. Were the sum kept, one excess that
            # honest luck does have, rarely, would have every later text refused.
            kept = Wealth() if evidence > limit else wealth
            counted = (*known.counted, _Counted(task_id[:_ID_BYTES], text[:_ID_BYTES], evidence))
            turn = (next(reversed(turns.values())) if turns else 0) + 1
            await self._put(account, _Account(turn, kept.texts, kept.staked, counted[-self._max_remembered :]))
            return evidence

    async def _read_turns(self) -> dict[bytes, int]:
        if self._turns is None:
            found = [(key, _decoder.decode(value).turn) async for key, value in self._store.scan(SEQUENCE)]
            self._turns = dict(sorted(found, key=lambda entry: entry[1]))
        return self._turns

    async def _get(self, account: bytes) -> _Account:
        stored = await self._store.get(SEQUENCE, account)
        return _Account() if stored is None else _decoder.decode(stored)

    async def _put(self, account: bytes, record: _Account) -> None:
        turns = await self._read_turns()
        await self._store.put(SEQUENCE, account, msgspec.msgpack.encode(record))
        turns.pop(account, None)
        turns[account] = record.turn
        while len(turns) > self._max_accounts:
            unused = next(iter(turns))
            await self._store.delete(SEQUENCE, unused)
            del turns[unused]


_decoder = msgspec.msgpack.Decoder(_Account)
