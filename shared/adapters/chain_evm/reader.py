"""What the contracts say: an `OperatorReader`, and the few more answers that consumers and tests ask for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from shared.adapters.chain_evm.abi import center_abi, registry_abi
from shared.adapters.chain_evm.client import BlockTag, EvmClient
from shared.adapters.chain_evm.wire import Call, address
from shared.errors import Reverted
from shared.types import (
    Address,
    Cid,
    Digest,
    Operator,
    OperatorTable,
    PeerKey,
    Role,
    TableEntry,
    TaskDefinition,
    Verdict,
)

log = structlog.get_logger(__name__)

PAGE_OPERATORS = 64  # a call: about 100 kB of hex
# Registering costs stake, but everybody reads everybody: whoever pays for more than this is not listened to.
MAX_OPERATORS = 4096
# A table is immutable, unless a reorg rolls its epoch again. It is looked at again after twice its age, at most this.
MAX_TABLE_AGE_SECONDS = 60.0


@dataclass(slots=True)
class _Cached:
    """A decoded answer with the bytes it came from. Decoding takes ten times as long as asking."""

    raw: bytes
    value: Any
    first_read: float  # loop time
    last_read: float

    def is_fresh(self, now: float) -> bool:
        age = self.last_read - self.first_read
        return now - self.last_read < min(age, MAX_TABLE_AGE_SECONDS)


class EvmOperatorReader:
    """Reads the OperatorRegistry and the AttestationCenter."""

    def __init__(self, client: EvmClient, *, registry: Address, center: Address) -> None:
        self._client, self._registry, self._center = client, registry, center
        self._tables: dict[int, _Cached] = {}  # of the two valid epochs
        self._pages: dict[int, _Cached] = {}  # of operators, by position

    # --- OperatorReader ------------------------------------------------------------------------------
    async def current_epoch(self) -> int:
        return int((await self._ask_registry("currentEpoch"))[0])

    async def operator_table(self, epoch: int) -> OperatorTable | None:
        current = await self.current_epoch()
        if epoch < 1 or not current - 1 <= epoch <= current:
            return None
        self._tables = {known: table for known, table in self._tables.items() if known >= current - 1}
        cached, now = self._tables.get(epoch), asyncio.get_running_loop().time()
        if cached is None or not cached.is_fresh(now):
            try:
                raw = await self._client.call(Call(self._registry, registry_abi().call_data("tableOf", epoch)))
            except Reverted:
                return None  # rolled meanwhile
            self._tables[epoch] = cached = _renewed(cached, raw, now, lambda: _table(epoch, raw))
        table: OperatorTable = cached.value
        return table

    async def operators(self) -> Sequence[Operator]:
        """Everybody who has not withdrawn. A set that needs several pages is read at one block."""
        first = await self._page(0, "latest")
        if len(first) < PAGE_OPERATORS:
            return first
        block = (await self._client.head()).number
        found: list[Operator] = []
        for position in range(0, MAX_OPERATORS, PAGE_OPERATORS):
            page = await self._page(position, block)
            found += page
            if len(page) < PAGE_OPERATORS:
                return found
        log.warning("there are more operators than are read", limit=MAX_OPERATORS)
        return found

    async def task_definition(self, definition_id: int) -> TaskDefinition | None:
        if not 0 <= definition_id < await self.task_definition_count():
            return None
        ((name, method, model_hash, card_cid),) = await self._ask_center("taskDefinition", definition_id)
        return TaskDefinition(definition_id, name, method, Digest(model_hash), Cid(card_cid))

    async def task_definition_count(self) -> int:
        return int((await self._ask_center("taskDefinitionCount"))[0])

    # --- more ----------------------------------------------------------------------------------------
    async def verdict_of(self, task_id: Digest) -> Verdict | None:
        """What `submitTask` recorded; None for nothing."""
        verdict = int((await self._ask_center("verdictOf", task_id))[0])
        return Verdict(verdict) if verdict else None

    async def is_batch_settled(self, root: Digest) -> bool:
        ((size, *_),) = await self._ask_center("batchOf", root)
        return bool(size)

    async def included(
        self, root: Digest, task_id: Digest, task_info_hash: Digest, is_approved: bool, proof: Sequence[bytes]
    ) -> bool:
        """Whether a settled batch has this verdict."""
        answer = await self._ask_center("included", root, task_id, task_info_hash, is_approved, proof)
        return bool(answer[0])

    async def stake_of(self, operator: Address) -> int:
        """In wei. Raises `Reverted("NotRegistered")`."""
        (entry,) = await self._ask_registry("operatorOf", operator)
        return _operator(entry).stake_wei

    async def vault_balance(self) -> int:
        """What slashing collected and nobody took out yet, in wei."""
        return int((await self._ask_registry("vaultBalance"))[0])

    async def rollable_at(self) -> int:
        """When the next epoch may be rolled, in unix seconds; 0 before the first."""
        return int((await self._ask_registry("rollableAt"))[0])

    async def chain_time(self) -> int:
        """The newest block's, in unix seconds."""
        return (await self._client.head()).timestamp

    # --- asking --------------------------------------------------------------------------------------
    async def _page(self, position: int, block: BlockTag) -> tuple[Operator, ...]:
        data = registry_abi().call_data("operatorsFrom", position, PAGE_OPERATORS)
        raw = await self._client.call(Call(self._registry, data), block=block)
        now = asyncio.get_running_loop().time()
        cached = self._pages[position] = _renewed(self._pages.get(position), raw, now, lambda: _operators(raw))
        page: tuple[Operator, ...] = cached.value
        return page

    async def _ask_registry(self, function: str, *arguments: Any) -> tuple[Any, ...]:
        abi = registry_abi()
        return abi.returned(
            function, await self._client.call(Call(self._registry, abi.call_data(function, *arguments)))
        )

    async def _ask_center(self, function: str, *arguments: Any) -> tuple[Any, ...]:
        abi = center_abi()
        return abi.returned(function, await self._client.call(Call(self._center, abi.call_data(function, *arguments))))


def _renewed(cached: _Cached | None, raw: bytes, now: float, decode: Any) -> _Cached:
    if cached is None or cached.raw != raw:
        return _Cached(raw, decode(), now, now)
    cached.last_read = now
    return cached


def _table(epoch: int, raw: bytes) -> OperatorTable:
    members, keys, powers = registry_abi().returned("tableOf", raw)
    rows = zip(members, keys, powers, strict=True)
    return OperatorTable(epoch, tuple(TableEntry(address(member), key, power) for member, key, power in rows))


def _operators(raw: bytes) -> tuple[Operator, ...]:
    (entries,) = registry_abi().returned("operatorsFrom", raw)
    return tuple(_operator(entry) for entry in entries)


def _operator(entry: Any) -> Operator:
    operator, roles, is_active, _, stake, peer_key, vote_key, p2p_address, gateway_url = entry
    return Operator(
        address=address(operator),
        roles=Role(roles),
        stake_wei=stake,
        vote_key=vote_key,
        peer_key=PeerKey(peer_key),
        p2p_address=p2p_address,
        gateway_url=gateway_url,
        is_active=is_active,
    )
