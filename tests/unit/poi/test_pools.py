"""Pools: who shares one, and which epoch a settlement's event is of."""

from __future__ import annotations

import msgspec
import pytest

from poi.pools import epoch_of, voters_of
from shared.adapters.chain_evm import Pool
from shared.adapters.chain_evm.history import SingleSettlement
from shared.indices import missing_of, signers_of
from shared.types import Address, Cid, Digest, OperatorTable, TableEntry, TaskInfo
from tests.builders import DOMAIN

INFO = TaskInfo(Digest(b"\1" * 32), Cid("bafkreiexample"), b"\7" * 32, Address(b"\2" * 20), 3, 0)


def table(seats: int, without_power: tuple[int, ...] = ()) -> OperatorTable:
    powers = [0 if seat in without_power else 5 for seat in range(seats)]
    entries = [TableEntry(Address(i.to_bytes(20, "big")), bytes(192), power) for i, power in enumerate(powers)]
    return OperatorTable(4, tuple(entries))


@pytest.mark.parametrize("seats", [4, 256, 257, 600])
def test_a_pool_is_shared_by_those_who_signed(seats: int) -> None:
    """Whether its indices name the signers or the missing, by one byte or by two."""
    of = table(seats, without_power=(2,))
    signers = (0, 1, seats - 1)
    for is_approval, indices in ((True, missing_of(signers, of)), (False, signers_of(signers, of))):
        assert voters_of(Pool(4, 0, is_approval, indices), of) == list(signers)


@pytest.mark.parametrize("near", [1, 7, 9])
@pytest.mark.parametrize("epoch", [1, 7, 9])
def test_the_epoch_of_a_single_settlement_is_found_by_its_hash(epoch: int, near: int) -> None:
    hashed = DOMAIN.task_info_hash(msgspec.structs.replace(INFO, epoch=epoch))
    assert epoch_of(DOMAIN, SingleSettlement(INFO, hashed, True, b""), 9, near) == epoch


def test_a_hash_of_something_else_has_no_epoch() -> None:
    hashed = DOMAIN.task_info_hash(msgspec.structs.replace(INFO, epoch=10))
    assert epoch_of(DOMAIN, SingleSettlement(INFO, hashed, True, b""), 9, 9) is None
