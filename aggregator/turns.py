"""Whose turn it is to settle, among aggregators that see the same certificates: pure.

One at a time has the largest batches. An epoch's order follows from a hash, so all agree on it without a word; who is
not there is passed over after TAKEOVER_SECONDS. Only gas rests on the order: whoever submits, the chain is right.
"""

from __future__ import annotations

from collections.abc import Iterable

from eth_utils.crypto import keccak

from shared.types import Address, Operator, OperatorTable, Role

# A leader needs its batch_seconds, a second round (BATCH_VOTE_SECONDS) and a block or two of Ethereum.
TAKEOVER_SECONDS = 30.0
# However many register and never run, nobody waits for longer than this many of them.
MAX_PASSED_OVER = 4
MAX_POWER = 2**32 - 1


def place_of(address: Address, epoch: int, operators: Iterable[Operator]) -> int:
    """How many active aggregators come before this one in the epoch; 0: it is its turn."""
    mine = _order(address, epoch)
    return sum(_order(rival, epoch) < mine for rival in _rivals(address, operators))


def has_rivals(address: Address, operators: Iterable[Operator]) -> bool:
    """Whether any other aggregator is active."""
    return bool(_rivals(address, operators))


def patience(place: int) -> float:
    """Seconds that who has this place leaves to those before it."""
    return min(place, MAX_PASSED_OVER) * TAKEOVER_SECONDS


def is_stale(table: OperatorTable, operators: Iterable[Operator], power_unit: int) -> bool:
    """Whether a roll would change who votes, with which key or with what power."""
    now = {
        (o.address, o.vote_key, min(o.stake_wei // power_unit, MAX_POWER))
        for o in operators
        if Role.ATTESTER in o.roles and o.is_active
    }
    return now != {(entry.address, entry.vote_key, entry.power) for entry in table.entries if entry.power}


def _rivals(address: Address, operators: Iterable[Operator]) -> list[Address]:
    return [o.address for o in operators if Role.AGGREGATOR in o.roles and o.is_active and o.address != address]


def _order(address: Address, epoch: int) -> bytes:
    return keccak(epoch.to_bytes(4, "big") + address)
