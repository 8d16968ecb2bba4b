"""Who is who: one view at a time, by peer key and by role, and the last good one while the chain is away."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from structlog.testing import capture_logs

from shared.crypto.keystore import NodeKeys
from shared.errors import ChainUnavailable, Ignore, Reverted
from shared.roster import DEFINITIONS_A_TURN, EMPTY, Roster, RosterWatch
from shared.types import Digest, Operator, OperatorTable, Role, TaskDefinition, TaskTerms, Verdict
from tests.builders import (
    AGGREGATOR,
    ATTESTERS,
    DEFINITION,
    EPOCH,
    OPERATORS,
    PERFORMER,
    STRANGER,
    TABLE,
    certificate,
    operator_of,
    replace,
    roster_of,
    ruling,
    table_of,
    task_info,
)
from tests.cast import beacon_of

EVERY_ROLE = Role.PERFORMER | Role.ATTESTER | Role.AGGREGATOR
LIMIT_SECONDS = 20.0  # the machine may be busy with other things


# --- a view --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("keys", "role"), [(PERFORMER, Role.PERFORMER), (ATTESTERS[0], Role.ATTESTER), (AGGREGATOR, Role.AGGREGATOR)]
)
def test_an_author_has_the_role(keys: NodeKeys, role: Role) -> None:
    roster = roster_of()
    assert roster.author(keys.peer_key, role) is roster.by_address[keys.address]
    for other in set(Role) - {role}:
        assert other.name is not None
        expected = (Ignore, f"origin is not a registered {other.name.lower()}")
        assert ruling(roster.author, keys.peer_key, other) == expected


def test_strangers_are_nobodys_authors() -> None:
    for role in Role:
        with pytest.raises(Ignore, match="origin is not a registered"):
            roster_of().author(STRANGER.peer_key, role)
        with pytest.raises(Ignore):
            EMPTY.author(PERFORMER.peer_key, role)


def test_one_operator_may_have_several_roles() -> None:
    roster = roster_of([operator_of(PERFORMER, EVERY_ROLE)])
    assert {roster.author(PERFORMER.peer_key, role).address for role in Role} == {PERFORMER.address}


def test_who_leaves_counts_while_a_valid_table_holds_it() -> None:
    """Its votes are awaited there; with its stake on the way out it performs and aggregates no more."""
    leaving = [replace(operator, is_active=False) for operator in OPERATORS]
    roster = roster_of(leaving)
    for attester in ATTESTERS:
        assert roster.author(attester.peer_key, Role.ATTESTER).address == attester.address
    for keys, role in ((PERFORMER, Role.PERFORMER), (AGGREGATOR, Role.AGGREGATOR)):
        assert ruling(roster.author, keys.peer_key, role) is not None
    # Still in the previous epoch's table only, and then in none.
    rolled = roster_of(leaving, [TABLE, table_of(EPOCH + 1, ATTESTERS[1:], (1, 1, 1))])
    assert ruling(rolled.author, ATTESTERS[0].peer_key, Role.ATTESTER) is None
    gone = roster_of(leaving, [table_of(EPOCH + n, ATTESTERS[1:], (1, 1, 1)) for n in (1, 2)])
    assert ruling(gone.author, ATTESTERS[0].peer_key, Role.ATTESTER) is not None


def test_a_newcomer_is_an_author_before_it_is_in_a_table() -> None:
    newcomer = operator_of(STRANGER, Role.ATTESTER)
    assert roster_of([*OPERATORS, newcomer]).author(STRANGER.peer_key, Role.ATTESTER) is newcomer


def test_only_valid_epochs_have_tables() -> None:
    roster = roster_of()
    assert roster.table(EPOCH) is TABLE
    assert roster.table(EPOCH - 1).epoch == EPOCH - 1
    for epoch in (-1, 0, EPOCH - 2, EPOCH + 1, 2**32):
        assert ruling(roster.table, epoch) == (Ignore, "unknown epoch")
        assert ruling(EMPTY.table, epoch) == (Ignore, "unknown epoch")


@pytest.mark.parametrize(
    ("signers", "epoch", "is_lacking"),
    [
        ((0, 1, 2, 3), EPOCH, False),
        ((0, 1, 2), EPOCH, True),
        ((1, 2, 3), EPOCH, True),
        ((0, 1, 2), EPOCH + 1, False),  # nobody else has power there
        ((0, 1, 2, 3), EPOCH + 2, True),  # nobody here knows who has
    ],
)
def test_a_certificate_lacks_votes_where_its_definition_waits_for_them(
    signers: Sequence[int], epoch: int, is_lacking: bool
) -> None:
    tables = [TABLE, table_of(EPOCH + 1, powers=(2, 2, 1, 0))]
    plain = roster_of(OPERATORS, tables)
    terms = TaskTerms(waits_for_all=True)
    waiting = dataclasses.replace(plain, definitions={DEFINITION.id: replace(DEFINITION, terms=terms)})
    for verdict in (Verdict.VALID, Verdict.INVALID):
        of = certificate(task_info(epoch=epoch), verdict, signers)
        assert [roster.lacks_votes(of) for roster in (plain, EMPTY, waiting)] == [False, False, is_lacking]
    assert [roster.waits_for_all(task_info()) for roster in (plain, EMPTY, waiting)] == [False, False, True]


# --- following the chain ---------------------------------------------------------------------------
@dataclass
class Chain:
    """What a chain says, and whether it answers. Counts the definitions that are read."""

    epoch: int = EPOCH
    tables: dict[int, OperatorTable] = field(default_factory=lambda: {EPOCH - 1: table_of(EPOCH - 1), EPOCH: TABLE})
    members: Sequence[Operator] = OPERATORS
    definitions: list[TaskDefinition] = field(default_factory=lambda: [replace(DEFINITION, id=0)])
    oldest_valid: int = EPOCH - 1
    failing: str = ""
    error: Exception = field(default_factory=lambda: ChainUnavailable("no answer"))
    read_ids: list[int] = field(default_factory=list)
    read_beacons: list[int] = field(default_factory=list)
    lost_beacon: int = 0  # of this epoch
    refreshes: int = 0
    settle_reads: int = 0

    def _answer(self, question: str) -> None:
        if question == self.failing:
            raise self.error

    async def current_epoch(self) -> int:
        self.refreshes += 1
        self._answer("epoch")
        return self.epoch

    async def operator_table(self, epoch: int, attester_set: int = 0) -> OperatorTable | None:
        self._answer("table")
        table = self.tables.get(epoch)
        return replace(table, attester_set=attester_set) if table else None

    async def is_expired(self, epoch: int) -> bool:
        self._answer("grace")
        return epoch < self.oldest_valid

    async def settle_seconds(self) -> int:
        self._answer("settling")
        self.settle_reads += 1
        return 7200

    async def beacon(self, epoch: int) -> Digest | None:
        self._answer("beacon")
        self.read_beacons.append(epoch)
        return beacon_of(epoch) if epoch <= self.epoch and epoch != self.lost_beacon else None

    async def operators(self) -> Sequence[Operator]:
        self._answer("operators")
        return self.members

    async def task_definition(self, definition_id: int) -> TaskDefinition | None:
        self._answer("definition")
        self.read_ids.append(definition_id)
        return self.definitions[definition_id]

    async def task_definition_count(self) -> int:
        return len(self.definitions)


async def until(condition: Callable[[], object]) -> None:
    deadline = asyncio.get_running_loop().time() + LIMIT_SECONDS
    while not condition():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.001)


async def test_a_refresh_reads_everything() -> None:
    chain, watch = Chain(), RosterWatch(Chain())
    assert watch.current is EMPTY
    roster = await watch.refresh()
    assert roster is watch.current
    beacons = {epoch: beacon_of(epoch) for epoch in (EPOCH - 2, EPOCH - 1, EPOCH)}
    assert roster == Roster(
        EPOCH, tuple(OPERATORS), chain.tables, {0: chain.definitions[0]}, beacons=beacons, settle_seconds=7200
    )


async def test_what_never_changes_is_asked_once() -> None:
    chain = Chain(failing="settling")
    watch = RosterWatch(chain)
    with pytest.raises(ChainUnavailable):
        await watch.refresh()
    chain.failing = ""
    for _ in range(3):
        await watch.refresh()
    assert chain.settle_reads == 1


async def test_before_the_first_epoch_there_is_no_table() -> None:
    roster = await RosterWatch(Chain(epoch=0, tables={})).refresh()
    assert (roster.epoch, roster.tables, roster.beacons) == (0, {}, {})
    first = await RosterWatch(Chain(epoch=1, tables={1: table_of(1)})).refresh()
    assert list(first.tables) == [1]
    assert first.beacons == {1: beacon_of(1)}


async def test_a_roll_replaces_the_tables() -> None:
    chain = Chain()
    watch = RosterWatch(chain)
    before = await watch.refresh()
    chain.epoch, chain.tables[EPOCH + 1] = EPOCH + 1, table_of(EPOCH + 1)
    assert set((await watch.refresh()).tables) == {EPOCH - 1, EPOCH, EPOCH + 1}
    chain.oldest_valid = EPOCH
    assert set((await watch.refresh()).tables) == {EPOCH, EPOCH + 1}
    # Who holds the former view goes on with all of it.
    assert (before.epoch, set(before.tables)) == (EPOCH, {EPOCH - 1, EPOCH})


async def test_a_seed_may_be_the_beacon_of_an_epoch_or_of_the_one_before() -> None:
    chain = Chain()
    watch = RosterWatch(chain)
    roster = await watch.refresh()
    # The newest first: an older roll is found faster when a newer one is known.
    assert chain.read_beacons == [EPOCH, EPOCH - 1, EPOCH - 2]
    for epoch in (EPOCH - 1, EPOCH):
        assert roster.beacons_for(epoch) == (beacon_of(epoch), beacon_of(epoch - 1))
    # No vote of these can settle.
    assert [roster.beacons_for(epoch) for epoch in (0, EPOCH - 2, EPOCH + 1)] == [(), (), ()]
    chain.lost_beacon = EPOCH - 1
    assert (await watch.refresh()).beacons_for(EPOCH) == (beacon_of(EPOCH),)


async def test_no_more_than_a_few_epochs_are_kept_however_quickly_they_follow() -> None:
    chain = Chain(epoch=EPOCH + 9, oldest_valid=0)
    chain.tables = {epoch: table_of(epoch) for epoch in range(EPOCH + 10)}
    assert sorted((await RosterWatch(chain).refresh()).tables) == [EPOCH + 6, EPOCH + 7, EPOCH + 8, EPOCH + 9]


async def test_definitions_are_looked_at_in_turn() -> None:
    """A pause has to be seen, and 65,536 definitions cannot all be read every two seconds."""
    chain = Chain(definitions=[replace(DEFINITION, id=i) for i in range(20)])
    watch = RosterWatch(chain)
    assert set((await watch.refresh()).definitions) == set(range(20))
    chain.definitions[17] = replace(chain.definitions[17], is_paused=True)
    chain.read_ids.clear()
    seen = [(await watch.refresh()).definitions[17].is_paused for _ in range(3)]
    assert seen == [False, True, True]
    assert len(chain.read_ids) == 3 * DEFINITIONS_A_TURN


async def test_a_definition_of_some_attesters_has_their_table() -> None:
    some = replace(DEFINITION, id=1, terms=TaskTerms(attester_set=7))
    chain = Chain(definitions=[replace(DEFINITION, id=0), some])
    roster = await RosterWatch(chain).refresh()
    for definition_id, attester_set in ((0, 0), (1, 7)):
        table = roster.table_of(replace(task_info(), task_definition_id=definition_id))
        assert (table.epoch, table.attester_set) == (EPOCH, attester_set)
    assert ruling(roster.table_of, replace(task_info(), task_definition_id=2)) == (Ignore, "unknown task definition")
    for definition_id in (0, 1):
        later = replace(task_info(), task_definition_id=definition_id, epoch=EPOCH + 1)
        assert ruling(roster.table_of, later) == (Ignore, "unknown epoch")


async def test_a_reorg_changes_the_tables_of_attester_sets_too() -> None:
    """Whoever kept the old one would make certificates that the contract refuses until the epoch is over."""
    some = replace(DEFINITION, id=0, terms=TaskTerms(attester_set=7))
    chain = Chain(definitions=[some])
    watch = RosterWatch(chain)
    before = (await watch.refresh()).table_of(replace(task_info(), task_definition_id=0))
    chain.tables[EPOCH] = replace(TABLE, entries=TABLE.entries[:-1])
    after = (await watch.refresh()).table_of(replace(task_info(), task_definition_id=0))
    assert (before.entries, after.entries) == (TABLE.entries, TABLE.entries[:-1])


@pytest.mark.parametrize("question", ["epoch", "grace", "table", "beacon", "operators", "definition"])
async def test_half_a_view_is_no_view(question: str) -> None:
    """The chain goes away in the middle: the former view stays whole."""
    chain = Chain()
    watch = RosterWatch(chain)
    before = await watch.refresh()
    chain.failing, chain.epoch, chain.members = question, EPOCH + 1, ()
    chain.definitions.append(replace(DEFINITION, id=1))
    with pytest.raises(ChainUnavailable):
        await watch.refresh()
    assert watch.current is before
    chain.failing = ""
    assert (await watch.refresh()).operators == ()


@asynccontextmanager
async def running(watch: RosterWatch) -> AsyncIterator[None]:
    task = asyncio.create_task(watch.run())
    try:
        yield
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_an_outage_is_told_once_and_survived() -> None:
    chain = Chain()
    watch = RosterWatch(chain, poll_seconds=0.001)
    with capture_logs() as logs:
        async with running(watch):
            await until(lambda: watch.current.epoch == EPOCH)
            chain.failing = "epoch"
            seen = chain.refreshes
            await until(lambda: chain.refreshes > seen + 3)
            assert watch.current.epoch == EPOCH
            chain.failing, chain.members = "", OPERATORS[:1]
            await until(lambda: len(watch.current.operators) == 1)
            seen = chain.refreshes
            await until(lambda: chain.refreshes > seen + 3)
    said = [(line["log_level"], line["event"]) for line in logs]
    assert said == [
        ("warning", "the chain is unavailable; the last roster stays"),
        ("info", "the chain is back"),
    ]


async def test_another_fault_is_not_hidden() -> None:
    """A contract that refuses to be read is not one that will be back soon."""
    with pytest.raises(Reverted):
        await RosterWatch(Chain(failing="table", error=Reverted("UnknownEpoch"))).run()
