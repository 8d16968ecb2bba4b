"""Who is who: one consistent view of the registered operators, the valid tables and the task definitions."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

import structlog

from shared.constants import ROSTER_POLL_SECONDS
from shared.errors import ChainUnavailable, Ignore
from shared.interfaces import OperatorReader
from shared.types import Address, Operator, OperatorTable, PeerKey, Role, TaskDefinition

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Roster:
    """A frozen view of the chain; replaced as a whole, so a check never sees two halves of two views."""

    epoch: int
    operators: tuple[Operator, ...]
    tables: Mapping[int, OperatorTable]  # the current epoch's and the previous one's
    definitions: Mapping[int, TaskDefinition]
    by_peer: Mapping[PeerKey, Operator] = field(init=False, repr=False, compare=False)
    by_address: Mapping[Address, Operator] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_peer", {operator.peer_key: operator for operator in self.operators})
        object.__setattr__(self, "by_address", {operator.address: operator for operator in self.operators})

    def author(self, origin: PeerKey, role: Role) -> Operator:
        """The operator behind a gossip origin. Raises `Ignore` for strangers, for other roles, and for who left."""
        operator = self.by_peer.get(origin)
        if operator is None or role not in operator.roles or not self._counts(operator):
            raise Ignore(f"origin is not a registered {(role.name or '').lower()}")
        return operator

    def _counts(self, operator: Operator) -> bool:
        # Without stake enough, or with a foot out of the door, only a table that is still valid speaks for it.
        return operator.is_active or any(table.index_of(operator.address) is not None for table in self.tables.values())

    def table(self, epoch: int) -> OperatorTable:
        """A valid epoch's table. Raises `Ignore` for another epoch."""
        table = self.tables.get(epoch)
        if table is None:
            raise Ignore("unknown epoch")
        return table


EMPTY = Roster(epoch=0, operators=(), tables={}, definitions={})


class RosterWatch:
    """Keeps a roster fresh by polling the chain; the last good one stays while the chain is away."""

    def __init__(self, reader: OperatorReader, *, poll_seconds: float = ROSTER_POLL_SECONDS) -> None:
        self._reader = reader
        self._poll_seconds = poll_seconds
        self._current = EMPTY

    @property
    def current(self) -> Roster:
        """Cheap; safe from any thread."""
        return self._current

    async def refresh(self) -> Roster:
        """Raises `ChainUnavailable`, and keeps the former view then."""
        epoch = await self._reader.current_epoch()
        tables = {n: table for n in (epoch - 1, epoch) if (table := await self._reader.operator_table(n)) is not None}
        definitions = dict(self._current.definitions)
        for definition_id in range(len(definitions), await self._reader.task_definition_count()):
            definition = await self._reader.task_definition(definition_id)
            if definition is not None:
                definitions[definition_id] = definition
        operators = tuple(await self._reader.operators())
        self._current = Roster(epoch=epoch, operators=operators, tables=tables, definitions=definitions)
        return self._current

    async def run(self) -> None:
        """Refresh until cancelled."""
        is_lost = False
        while True:
            try:
                await self.refresh()
                if is_lost:
                    log.info("the chain is back")
                is_lost = False
            except ChainUnavailable as error:
                if not is_lost:
                    log.warning("the chain is unavailable; the last roster stays", reason=str(error))
                is_lost = True
            await asyncio.sleep(self._poll_seconds)
