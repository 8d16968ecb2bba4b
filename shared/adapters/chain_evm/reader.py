"""What the contracts say: an `OperatorReader`, and the few more answers that consumers and tests ask for."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from shared.adapters.chain_evm.abi import Abi, center_abi, court_abi, registry_abi, tables_abi
from shared.adapters.chain_evm.beacons import Beacons
from shared.adapters.chain_evm.client import BlockTag, EvmClient
from shared.adapters.chain_evm.forms import definition_of, operator_of
from shared.adapters.chain_evm.wire import Call, address
from shared.adapters.terms import Deployment
from shared.errors import ChainUnavailable, Reverted
from shared.types import Address, Digest, Operator, OperatorTable, TableEntry, TaskDefinition, Verdict

log = structlog.get_logger(__name__)

PAGE_OPERATORS = 64  # a call: about 100 kB of hex
# Registering costs stake, but everybody reads everybody: whoever pays for more than this is not listened to.
MAX_OPERATORS = 4096
MAX_EPOCH = 2**32 - 1
MAX_DEFINITION = 2**16 - 1
# Those of the valid epochs, and some that old batches are read by. The largest take a megabyte each.
MAX_TABLES = 32
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
    """Reads the EpochTables, the OperatorRegistry, the AttestationCenter, and what the SlashingCourt owes."""

    def __init__(self, client: EvmClient, deployment: Deployment) -> None:
        self._client, self._deployment = client, deployment
        self._beacons = Beacons(client, deployment, current_epoch=self.current_epoch)
        self._tables: OrderedDict[tuple[int, int], _Cached] = OrderedDict()  # by epoch and set, last used last
        self._pages: dict[int, _Cached] = {}  # of operators, by position

    # --- OperatorReader ------------------------------------------------------------------------------
    async def current_epoch(self) -> int:
        return int((await self._ask_tables("currentEpoch"))[0])

    async def operator_table(self, epoch: int, attester_set: int = 0) -> OperatorTable | None:
        """None for an attester set that nobody made, too."""
        if not 1 <= epoch <= MAX_EPOCH:
            return None
        key, now = (epoch, attester_set), asyncio.get_running_loop().time()
        cached = self._tables.get(key)
        if cached is None or not cached.is_fresh(now):
            try:
                raw = await self._call(self._deployment.tables, tables_abi(), "tableOf", epoch, attester_set)
            except Reverted as error:
                if error.name not in ("UnknownEpoch", "UnknownAttesterSet"):
                    raise ChainUnavailable(f"tableOf: {error}") from None
                self._tables.pop(key, None)  # a reorg took it back
                return None
            self._tables[key] = cached = _renewed(cached, raw, now, lambda: _table(epoch, attester_set, raw))
            while len(self._tables) > MAX_TABLES:
                self._tables.popitem(last=False)
        if key in self._tables:  # not pushed out by others meanwhile
            self._tables.move_to_end(key)
        table: OperatorTable = cached.value
        return table

    async def is_expired(self, epoch: int) -> bool:
        if not 0 <= epoch <= MAX_EPOCH:
            return True  # there is no such epoch, and never will be
        return bool((await self._ask_tables("isExpired", epoch))[0])

    async def settle_seconds(self) -> int:
        return int((await self._ask_tables("epochSeconds"))[0]) + int((await self._ask_tables("graceSeconds"))[0])

    async def beacon(self, epoch: int) -> Digest | None:
        """None, too, while an old roll is not found, and where the chain's blocks have no randomness."""
        return await self._beacons.of(epoch) if 1 <= epoch <= MAX_EPOCH else None

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
        if not 0 <= definition_id <= MAX_DEFINITION:
            return None
        try:
            (form,) = await self._ask_center("taskDefinition", definition_id)
        except Reverted as error:
            if error.name != "UnknownTaskDefinition":
                raise ChainUnavailable(f"taskDefinition: {error}") from None
            return None
        return definition_of(definition_id, form)

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
        self,
        root: Digest,
        task_id: Digest,
        task_info_hash: Digest,
        is_approved: bool,
        voters_hash: Digest,
        proof: Sequence[bytes],
    ) -> bool:
        """Whether a settled batch has this verdict, by these voters."""
        answer = await self._ask_center("included", root, task_id, task_info_hash, is_approved, voters_hash, proof)
        return bool(answer[0])

    async def stake_of(self, operator: Address) -> int:
        """In wei. Raises `Reverted("NotRegistered")`."""
        (form,) = await self._ask(self._deployment.registry, registry_abi(), "operatorOf", operator)
        return operator_of(form).stake_wei

    async def minimum_stake(self) -> int:
        """In wei; with less, an attester has no power."""
        return int((await self._ask(self._deployment.registry, registry_abi(), "minimumStake"))[0])

    async def owed_to(self, account: Address) -> int:
        """What slashes left to a harmed requester or to the vault, and nobody fetched yet, in wei."""
        return int((await self._ask(self._deployment.court, court_abi(), "owedTo", account))[0])

    async def vault_balance(self) -> int:
        """`owed_to` the vault: what slashing collected and compensated nobody."""
        (vault,) = await self._ask(self._deployment.court, court_abi(), "vault")
        return await self.owed_to(address(vault))

    async def rollable_at(self) -> int:
        """When the next epoch may be rolled, in unix seconds; in the past when it is due at once."""
        return int((await self._ask_tables("rollableAt"))[0])

    async def chain_time(self) -> int:
        """The newest block's, in unix seconds."""
        return (await self._client.head()).timestamp

    # --- asking --------------------------------------------------------------------------------------
    async def _page(self, position: int, block: BlockTag) -> tuple[Operator, ...]:
        data = registry_abi().call_data("operatorsFrom", position, PAGE_OPERATORS)
        raw = await self._client.call(Call(self._deployment.registry, data), block=block)
        now = asyncio.get_running_loop().time()
        cached = self._pages[position] = _renewed(self._pages.get(position), raw, now, lambda: _operators(raw))
        page: tuple[Operator, ...] = cached.value
        return page

    async def _ask_tables(self, function: str, *arguments: Any) -> tuple[Any, ...]:
        return await self._ask(self._deployment.tables, tables_abi(), function, *arguments)

    async def _ask_center(self, function: str, *arguments: Any) -> tuple[Any, ...]:
        return await self._ask(self._deployment.center, center_abi(), function, *arguments)

    async def _ask(self, contract: Address, abi: Abi, function: str, *arguments: Any) -> tuple[Any, ...]:
        return abi.returned(function, await self._call(contract, abi, function, *arguments))

    async def _call(self, contract: Address, abi: Abi, function: str, *arguments: Any) -> bytes:
        return await self._client.call(Call(contract, abi.call_data(function, *arguments)))


def _renewed(cached: _Cached | None, raw: bytes, now: float, decode: Any) -> _Cached:
    if cached is None or cached.raw != raw:
        return _Cached(raw, decode(), now, now)
    cached.last_read = now
    return cached


def _table(epoch: int, attester_set: int, raw: bytes) -> OperatorTable:
    members, keys, powers = tables_abi().returned("tableOf", raw)
    rows = zip(members, keys, powers, strict=True)
    entries = tuple(TableEntry(address(member), key, power) for member, key, power in rows)
    return OperatorTable(epoch, entries, attester_set)


def _operators(raw: bytes) -> tuple[Operator, ...]:
    (forms,) = registry_abi().returned("operatorsFrom", raw)
    return tuple(operator_of(form) for form in forms)
