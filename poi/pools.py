"""Which pools of fees an attester has a share of: from the chain's events and the documents of its batches, so that no
node has to have been there (protocol §8.2)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from shared.adapters.chain_evm import EvmRewards, History, Pool
from shared.adapters.chain_evm.history import SingleSettlement
from shared.digests import Domain
from shared.errors import CodecError, ContentError
from shared.interfaces import ContentStore, OperatorReader
from shared.settled_batch import read_settled_batch
from shared.types import Address, BatchInfo, OperatorTable, Verdict

PARALLEL = 8  # documents fetched at once


@dataclass(frozen=True, slots=True)
class Share:
    """Of one pool, for one attester."""

    pool: Pool
    seat: int
    amount: int  # wei to be claimed now


@dataclass(frozen=True, slots=True)
class FoundPools:
    """Pools of the tasks that settled; some of them may have got no fee."""

    pools: tuple[Pool, ...]  # different ones
    unread: int  # batches whose document nobody serves now: their pools are not known


class PoolFinder:
    """Raises `ChainUnavailable`."""

    def __init__(
        self, *, domain: Domain, reader: OperatorReader, history: History, rewards: EvmRewards, content: ContentStore
    ) -> None:
        self._domain, self._reader, self._content = domain, reader, content
        self._history, self._rewards = history, rewards
        self._sets: dict[int, int] = {}  # attester set by task definition: it never changes

    async def find(self, first: int, last: int) -> FoundPools:
        """Of everything that settled from block `first` to `last`."""
        pools: dict[Pool, None] = {}
        newest = near = await self._reader.current_epoch()
        for single in reversed(await self._history.singles(first, last)):
            if (epoch := epoch_of(self._domain, single, newest, near)) is not None:
                near = epoch
                attester_set = await self._set_of(single.info.task_definition_id)
                pools[Pool(epoch, attester_set, single.is_approved, single.indices)] = None
        slots = asyncio.Semaphore(PARALLEL)
        batches = await self._history.batches(first, last)
        found = await asyncio.gather(*(self._of_batch(batch, slots) for batch in batches))
        for of_batch in found:
            pools |= dict.fromkeys(of_batch or ())
        return FoundPools(tuple(pools), sum(of_batch is None for of_batch in found))

    async def shares_of(self, operator: Address, pools: Sequence[Pool]) -> list[Share]:
        """What the operator can claim of each as an attester, where that is something."""
        shares = []
        for pool in pools:
            table = await self._reader.operator_table(pool.epoch, pool.attester_set)
            seat = None if table is None else table.index_of(operator)
            if seat is not None and (amount := await self._rewards.claimable_of(pool, seat)):
                shares.append(Share(pool, seat, amount))
        return shares

    async def _of_batch(self, settled: BatchInfo, slots: asyncio.Semaphore) -> list[Pool] | None:
        """None where the document is not to be had."""
        async with slots:
            try:
                batch = await read_settled_batch(self._domain, settled, self._content, self._reader)
            except (ContentError, CodecError):
                return None
        return [
            Pool(
                certificate.task_info.epoch,
                await self._set_of(certificate.task_info.task_definition_id),
                certificate.verdict is Verdict.VALID,
                batch.indices_of(certificate),
            )
            for certificate in batch.certificates
        ]

    async def _set_of(self, definition_id: int) -> int:
        if definition_id not in self._sets:
            definition = await self._reader.task_definition(definition_id)
            # Nothing settles under a definition that is not there.
            self._sets[definition_id] = definition.terms.attester_set if definition is not None else 0
        return self._sets[definition_id]


def epoch_of(domain: Domain, single: SingleSettlement, newest: int, near: int) -> int | None:
    """Whose table voted on the task: the event holds all of the task info but this, and its hash with it. `near` is
    tried first, then what is close to it: neighbours settle in neighbouring epochs."""
    for epoch in sorted(range(1, newest + 1), key=lambda epoch: abs(epoch - near)):
        info = msgspec.structs.replace(single.info, epoch=epoch)
        if domain.task_info_hash(info) == single.task_info_hash:
            return epoch
    return None


def total(shares: Sequence[Share]) -> int:
    """Wei."""
    return sum(share.amount for share in shares)


def voters_of(pool: Pool, table: OperatorTable) -> list[int]:
    """The seats that share a pool."""
    width = 1 if len(table.entries) <= 256 else 2
    named = {int.from_bytes(pool.indices[i : i + width], "big") for i in range(0, len(pool.indices), width)}
    powered = [seat for seat, entry in enumerate(table.entries) if entry.power]
    return [seat for seat in powered if (seat in named) is not pool.is_approval]
