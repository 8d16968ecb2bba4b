"""Who signed, as the contract wants to be told: one byte an attester, strictly increasing (protocol §8)."""

from __future__ import annotations

from shared.errors import Reverted


def missing_of(signers: tuple[int, ...], size: int) -> bytes:
    """Who of a table of `size` did not sign: what an approval names. Raises `Reverted` as the contract would for
    `signers` themselves: taken as a set, a wrong list would only look like a wrong signature."""
    _check(signers, size)
    signed = set(signers)
    return bytes(index for index in range(size) if index not in signed)


def signers_of(signers: tuple[int, ...], size: int) -> bytes:
    """Who signed: what a rejection names. Raises `Reverted` as the contract would."""
    _check(signers, size)
    return bytes(signers)


def _check(signers: tuple[int, ...], size: int) -> None:
    for position, index in enumerate(signers):
        if not 0 <= index < size:
            raise Reverted("IndexOutOfRange", (position, index, size))
        if position == 0:
            continue
        if index == signers[position - 1]:
            raise Reverted("IndexDuplicate", (position, index))
        if index < signers[position - 1]:
            raise Reverted("IndicesUnsorted", (position, index))
