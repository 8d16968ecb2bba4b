"""The model of the tables beyond what a network of a few can show: many seats, and indices that nobody here sends."""

from __future__ import annotations

import dataclasses

import pytest

from shared.adapters.memory.chain_hub import HubModel, deployment_on
from shared.adapters.memory.chain_tables import TablesModel
from shared.constants import MAX_SEATS
from shared.errors import Reverted
from shared.types import Address, Digest, OperatorTable, Role, TableEntry
from tests.chain_support import OWNER, TERMS, Person

DEPLOYMENT = deployment_on(31337)
NEWCOMER = Person("newcomer")


def operator(number: int) -> Address:
    return Address(number.to_bytes(20, "big"))


def tables_of(powers: list[int]) -> TablesModel:
    """With one epoch; nobody's key signs anything."""
    entries = tuple(TableEntry(operator(number), bytes(192), power) for number, power in enumerate(powers))
    made = TablesModel(DEPLOYMENT.possession_domain, TERMS.epoch_seconds, TERMS.grace_seconds)
    return dataclasses.replace(made, seats=list(entries), tables={1: OperatorTable(1, entries)})


def indices(*numbers: int, width: int = 1) -> bytes:
    return b"".join(number.to_bytes(width, "big") for number in numbers)


@pytest.mark.parametrize(
    ("seats", "width", "named"), [(256, 1, (0, 7, 255)), (257, 2, (0, 7, 255, 256)), (MAX_SEATS, 2, (1, 256, 1039))]
)
def test_an_index_has_two_bytes_beyond_256_seats(seats: int, width: int, named: tuple[int, ...]) -> None:
    tables = tables_of([number + 1 for number in range(seats)])
    total, signed = seats * (seats + 1) // 2, sum(number + 1 for number in named)
    given = indices(*named, width=width)
    for number in (*named, 8):
        has = number in named
        rejection = tables.share_of(1, 0, is_approval=False, indices=given, seat=number)
        assert rejection == (operator(number), number + 1 if has else 0, signed)
        approval = tables.share_of(1, 0, is_approval=True, indices=given, seat=number)
        assert approval == (operator(number), 0 if has else number + 1, total - signed)


@pytest.mark.parametrize(
    ("seats", "given", "name", "arguments"),
    [
        (3, indices(0, 3), "IndexOutOfRange", (1, 3, 3)),
        (3, indices(0, 2, 2), "IndexDuplicate", (2, 2)),
        (3, indices(2, 0), "IndicesUnsorted", (1, 0)),
        (3, indices(0, 1, 2), "IndexWithoutPower", (1, 1)),
        (300, b"\0\2\3", "IndicesLength", (3,)),
        (300, indices(2, 300, width=2), "IndexOutOfRange", (1, 300, 300)),
        (300, indices(299, 2, width=2), "IndicesUnsorted", (1, 2)),
        # The first of several mistakes is named.
        (3, indices(2, 0, 9), "IndicesUnsorted", (1, 0)),
    ],
)
def test_indices_that_are_refused(seats: int, given: bytes, name: str, arguments: tuple[int, ...]) -> None:
    tables = tables_of([0 if number == 1 else 5 for number in range(seats)])
    for is_approval in (True, False):
        with pytest.raises(Reverted) as caught:
            tables.share_of(1, 0, is_approval=is_approval, indices=given, seat=0)
        assert (caught.value.name, caught.value.arguments) == (name, arguments)


def test_a_table_of_nobody_approves_and_rejects_nothing() -> None:
    tables, digest = tables_of([0, 0]), Digest(bytes(32))
    signature = NEWCOMER.vote.sign(digest)
    for is_approval in (True, False):
        with pytest.raises(Reverted) as caught:
            tables.verify_quorum(digest, 1, 0, is_approval=is_approval, signature=signature, indices=b"", now=0)
        assert (caught.value.name, caught.value.arguments) == ("QuorumNotReached", (0, 0, is_approval))


def test_the_last_seat_is_taken_once() -> None:
    registration = NEWCOMER.registration(DEPLOYMENT, Role.ATTESTER)
    key, possession = registration.vote_key, registration.possession
    full = tables_of([1] * MAX_SEATS)
    with pytest.raises(Reverted) as caught:
        full.seat(NEWCOMER.address, key, possession, 1)
    assert (caught.value.name, caught.value.arguments) == ("TooManySeats", (MAX_SEATS,))
    one_left = tables_of([1] * (MAX_SEATS - 1))
    assert one_left.seat(NEWCOMER.address, key, possession, 1) == MAX_SEATS - 1
    with pytest.raises(Reverted, match="AlreadySeated"):
        one_left.seat(NEWCOMER.address, key, possession, 1)
    one_left.unseat(NEWCOMER.address)
    with pytest.raises(Reverted, match="NotSeated"):
        one_left.set_power(NEWCOMER.address, 1, may_roll_now=False)
    # The seat is free again, the key is not.
    assert one_left.free == [MAX_SEATS - 1]
    with pytest.raises(Reverted, match="VoteKeyTaken"):
        one_left.seat(NEWCOMER.address, key, possession, 1)


def test_a_hub_has_an_owner() -> None:
    with pytest.raises(Reverted) as caught:
        HubModel.deployed(DEPLOYMENT, TERMS, Address(bytes(20)))
    assert (caught.value.name, caught.value.arguments) == ("OwnableInvalidOwner", ("0x" + "00" * 20,))
    assert HubModel.deployed(DEPLOYMENT, TERMS, OWNER.address).center.owner == OWNER.address
