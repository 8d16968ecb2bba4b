"""Voting power arithmetic of protocol §3: exact integers, strict comparison."""

from __future__ import annotations

from collections.abc import Iterable

from shared.constants import APPROVE_NUMERATOR, QUORUM_DENOMINATOR, REJECT_NUMERATOR
from shared.types import OperatorTable, Verdict


def approves(valid_power: int, total_power: int) -> bool:
    """3·valid > 2·total. With a total of 0 nothing is approved."""
    return QUORUM_DENOMINATOR * valid_power > APPROVE_NUMERATOR * total_power


def rejects(invalid_power: int, total_power: int) -> bool:
    """3·invalid > total. With a total of 0 nothing is rejected."""
    return QUORUM_DENOMINATOR * invalid_power > REJECT_NUMERATOR * total_power


def reached(verdict: Verdict, power: int, total_power: int) -> bool:
    """Whether `power` behind a verdict makes its certificate. An abstention makes none."""
    match verdict:
        case Verdict.VALID:
            return approves(power, total_power)
        case Verdict.INVALID:
            return rejects(power, total_power)
        case Verdict.ABSTAIN:
            return False


def power_of(table: OperatorTable, signers: Iterable[int]) -> int:
    """The signers' power. Raises IndexError for an index out of the table and ValueError for a repeated one."""
    chosen = list(signers)
    if len(set(chosen)) != len(chosen):
        raise ValueError("an attester is counted twice")
    if any(index < 0 for index in chosen):
        raise IndexError("negative index")
    return sum(table.entries[index].power for index in chosen)
