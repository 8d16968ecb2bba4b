"""Who is who: one consistent view of the registered operators, the valid tables and the task definitions."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import structlog

from shared.constants import ROSTER_POLL_SECONDS, SETTLE_SECONDS
from shared.errors import ChainUnavailable, Ignore
from shared.interfaces import OperatorReader
from shared.types import (
    Address,
    Digest,
    Operator,
    OperatorTable,
    PeerKey,
    Role,
    TaskCertificate,
    TaskDefinition,
    TaskInfo,
)

log = structlog.get_logger(__name__)

# Slashes and exits make epochs follow each other quickly; a certificate is seconds old, older tables matter to nobody.
MAX_VALID_EPOCHS = 4
DEFINITIONS_A_TURN = 8  # a poll: a pause is seen at once in a small network, within minutes in the largest


@dataclass(frozen=True)
class Roster:
    """A frozen view of the chain; replaced as a whole, so a check never sees two halves of two views."""

    epoch: int
    operators: tuple[Operator, ...]
    tables: Mapping[int, OperatorTable]  # everybody's, of the epochs whose votes can still settle
    definitions: Mapping[int, TaskDefinition]
    set_tables: Mapping[tuple[int, int], OperatorTable] = field(default_factory=dict)  # by epoch and attester set
    beacons: Mapping[int, Digest] = field(default_factory=dict)  # of the epochs with a table, and of the one before
    settle_seconds: int = SETTLE_SECONDS  # see `OperatorReader.settle_seconds`
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

    def table_of(self, info: TaskInfo) -> OperatorTable:
        """The table that votes on a task info: that of its definition's attester set. Raises `Ignore` for another epoch
        or definition."""
        definition = self.definitions.get(info.task_definition_id)
        if definition is None:
            raise Ignore("unknown task definition")
        if definition.terms.attester_set == 0:
            return self.table(info.epoch)
        table = self.set_tables.get((info.epoch, definition.terms.attester_set))
        if table is None:
            raise Ignore("unknown epoch")
        return table

    def beacons_for(self, epoch: int) -> tuple[Digest, ...]:
        """What the seed of a task of this epoch may be, where it must be a beacon: that of the epoch or of the one
        before; the newer one first. Empty for an epoch whose votes cannot settle."""
        if epoch not in self.tables:
            return ()
        return tuple(self.beacons[number] for number in (epoch, epoch - 1) if number in self.beacons)

    def settles_singly(self, info: TaskInfo) -> bool:
        """Whether the task must settle by itself, for its hook's sake. False for a definition that is not known."""
        definition = self.definitions.get(info.task_definition_id)
        return definition is not None and definition.terms.settles_singly

    def waits_for_all(self, info: TaskInfo) -> bool:
        """Whether the task's verdict needs every vote, or its deadline. False for a definition that is not known."""
        definition = self.definitions.get(info.task_definition_id)
        return definition is not None and definition.terms.waits_for_all

    def lacks_votes(self, certificate: TaskCertificate) -> bool:
        """Whether its definition waits for votes that it does not have: it settles only after its task's deadline. So
        does one whose epoch is not known here, as far as anybody here can tell."""
        if not self.waits_for_all(certificate.task_info):
            return False
        try:
            entries = self.table_of(certificate.task_info).entries
        except Ignore:
            return True
        return not {seat for seat, entry in enumerate(entries) if entry.power} <= set(certificate.signers)


EMPTY = Roster(epoch=0, operators=(), tables={}, definitions={})


class RosterWatch:
    """Keeps a roster fresh by polling the chain; the last good one stays while the chain is away."""

    def __init__(self, reader: OperatorReader, *, poll_seconds: float = ROSTER_POLL_SECONDS) -> None:
        self._reader = reader
        self._poll_seconds = poll_seconds
        self._current = EMPTY
        self._set_tables: Mapping[tuple[int, int], OperatorTable] = {}
        self._settle_seconds: int | None = None
        self._turn = 0  # the definition that is looked at again next

    @property
    def current(self) -> Roster:
        """Cheap; safe from any thread."""
        return self._current

    async def refresh(self) -> Roster:
        """Raises `ChainUnavailable`, and keeps the former view then."""
        epoch = await self._reader.current_epoch()
        if self._settle_seconds is None:
            self._settle_seconds = await self._reader.settle_seconds()
        tables = {n: table for n in await self._valid_epochs(epoch) if (table := await self._reader.operator_table(n))}
        beacons = await self._read_beacons(tables)
        definitions = await self._definitions()
        self._set_tables = await self._read_set_tables(tables, definitions, beacons)
        operators = tuple(await self._reader.operators())
        self._current = Roster(
            epoch=epoch,
            operators=operators,
            tables=tables,
            definitions=definitions,
            set_tables=self._set_tables,
            beacons=beacons,
            settle_seconds=self._settle_seconds,
        )
        return self._current

    async def _valid_epochs(self, current: int) -> list[int]:
        """The current one, and those before it that are in their grace."""
        valid = [current] if current else []
        for epoch in range(current - 1, max(0, current - MAX_VALID_EPOCHS), -1):
            if await self._reader.is_expired(epoch):
                break
            valid.append(epoch)
        return valid

    async def _read_beacons(self, epochs: Collection[int]) -> dict[int, Digest]:
        wanted = sorted({*epochs, *(epoch - 1 for epoch in epochs)} - {0}, reverse=True)
        return {epoch: beacon for epoch in wanted if (beacon := await self._reader.beacon(epoch))}

    async def _definitions(self) -> dict[int, TaskDefinition]:
        """New ones, and in turn the known: they may be paused, or change their fees."""
        count = await self._reader.task_definition_count()
        known = self._current.definitions
        turn = {(self._turn + i) % count for i in range(min(count, DEFINITIONS_A_TURN))}
        self._turn += DEFINITIONS_A_TURN
        found = dict(known)
        for definition_id in sorted(turn | (set(range(count)) - set(known))):
            definition = await self._reader.task_definition(definition_id)
            if definition is not None:
                found[definition_id] = definition
        return found

    async def _read_set_tables(
        self,
        tables: Mapping[int, OperatorTable],
        definitions: Mapping[int, TaskDefinition],
        beacons: Mapping[int, Digest],
    ) -> dict[tuple[int, int], OperatorTable]:
        """Each once, unless a reorg made the epoch another one: its beacon and its table then tell."""
        former = self._current
        same = {
            epoch
            for epoch, table in tables.items()
            if (table, beacons.get(epoch)) == (former.tables.get(epoch), former.beacons.get(epoch))
        }
        sets = {definition.terms.attester_set for definition in definitions.values()} - {0}
        found = {}
        for key in [(epoch, attester_set) for epoch in tables for attester_set in sets]:
            known = self._set_tables.get(key) if key[0] in same else None
            table = known or await self._reader.operator_table(*key)
            if table is not None:
                found[key] = table
        return found

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
