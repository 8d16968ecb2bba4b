"""Whose turn it is, and when a table is stale: pure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.turns import MAX_PASSED_OVER, MAX_POWER, TAKEOVER_SECONDS, has_rivals, is_stale, patience, place_of
from shared.types import Address, Operator, OperatorTable, Role, TableEntry
from tests import builders as b
from tests.builders import replace

UNIT = 10**15
EPOCHS = st.integers(0, 2**32 - 1)
NAMES = st.lists(st.integers(0, 10_000), min_size=1, max_size=12, unique=True)


def aggregator(number: int, *, is_active: bool = True) -> Operator:
    address = Address(number.to_bytes(20, "big"))
    roles = Role.AGGREGATOR | (Role.ATTESTER if number % 2 else Role(0))
    return replace(b.operator_of(b.AGGREGATOR, roles, is_active=is_active), address=address)


def places(operators: list[Operator], epoch: int) -> dict[Address, int]:
    return {each.address: place_of(each.address, epoch, operators) for each in operators}


# --- turns -------------------------------------------------------------------------------------------
@given(NAMES, EPOCHS)
def test_each_active_aggregator_has_a_place_of_its_own_and_one_is_first(numbers: list[int], epoch: int) -> None:
    operators = [*map(aggregator, numbers), *b.OPERATORS[:-1]]
    found = places(operators[: len(numbers)], epoch)
    assert sorted(found.values()) == list(range(len(numbers)))
    assert found == {address: place_of(address, epoch, reversed(operators)) for address in found}


@given(NAMES, st.data(), EPOCHS)
def test_who_is_not_active_is_passed_over(numbers: list[int], data: st.DataObject, epoch: int) -> None:
    active = {number for number in numbers if data.draw(st.booleans())}
    operators = [aggregator(number, is_active=number in active) for number in numbers]
    staying = [operator for operator in operators if operator.is_active]
    assert {o.address: place_of(o.address, epoch, operators) for o in staying} == places(staying, epoch)


def test_performers_and_attesters_have_no_turn() -> None:
    assert place_of(b.AGGREGATOR.address, 1, b.OPERATORS) == 0
    assert not has_rivals(b.AGGREGATOR.address, b.OPERATORS)


def test_an_inactive_aggregator_is_nobodys_rival() -> None:
    first, second = aggregator(1), aggregator(2)
    assert has_rivals(first.address, [first, second])
    assert not has_rivals(first.address, [first, replace(second, is_active=False)])


def test_the_order_differs_over_epochs() -> None:
    operators = [aggregator(number) for number in range(4)]
    first = [next(a for a, place in places(operators, epoch).items() if place == 0) for epoch in range(100)]
    assert all(10 <= first.count(operator.address) <= 45 for operator in operators)


@pytest.mark.parametrize(("place", "turns"), [(0, 0), (1, 1), (4, 4), (5, 4), (1000, 4)])
def test_nobody_waits_for_more_than_a_few(place: int, turns: int) -> None:
    assert MAX_PASSED_OVER == 4
    assert patience(place) == turns * TAKEOVER_SECONDS


# --- stale tables ------------------------------------------------------------------------------------
def attester(index: int, stake_wei: int, **changes: object) -> Operator:
    return replace(b.operator_of(b.ATTESTERS[index], Role.ATTESTER, stake_wei=stake_wei), **changes)


TABLE = OperatorTable(
    5,
    (
        TableEntry(b.ATTESTERS[0].address, b.ATTESTERS[0].vote.public_key, 1000),
        TableEntry(b.STRANGER.address, b.STRANGER.vote.public_key, 0),  # an empty seat
        TableEntry(b.ATTESTERS[1].address, b.ATTESTERS[1].vote.public_key, 2000),
    ),
)
SEATED = [attester(0, 1000 * UNIT), attester(1, 2000 * UNIT)]
OTHERS = [b.operator_of(b.PERFORMER, Role.PERFORMER), b.operator_of(b.AGGREGATOR, Role.AGGREGATOR)]


@pytest.mark.parametrize(
    "now",
    [
        SEATED,
        SEATED[::-1],
        [*SEATED, *OTHERS],
        [attester(0, 1001 * UNIT - 1), SEATED[1]],  # less than a unit more
        [*SEATED, attester(2, 10**18, is_active=False)],
    ],
)
def test_a_table_that_a_roll_would_not_change_is_fresh(now: list[Operator]) -> None:
    assert not is_stale(TABLE, now, UNIT)


@pytest.mark.parametrize(
    "now",
    [
        SEATED[:1],
        [],
        [SEATED[0], replace(SEATED[1], is_active=False)],
        [*SEATED, attester(2, UNIT)],
        [attester(0, 1001 * UNIT), SEATED[1]],
        [attester(0, 1000 * UNIT - 1), SEATED[1]],
        [attester(0, 1000 * UNIT, vote_key=b.ATTESTERS[3].vote.public_key), SEATED[1]],
    ],
    ids=["withdrawn", "all withdrawn", "left", "joined", "a unit more", "a wei less", "rotated its key"],
)
def test_a_table_that_a_roll_would_change_is_stale(now: list[Operator]) -> None:
    assert is_stale(TABLE, now, UNIT)


def test_power_ends_where_the_contracts_does() -> None:
    entry = TableEntry(b.ATTESTERS[0].address, b.ATTESTERS[0].vote.public_key, MAX_POWER)
    table = OperatorTable(5, (entry,))
    assert not is_stale(table, [attester(0, (2**32 + 7) * UNIT)], UNIT)
    assert is_stale(table, [attester(0, (2**32 - 2) * UNIT)], UNIT)
