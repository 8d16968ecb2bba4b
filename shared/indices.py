"""Who signed, as the contract wants to be told: seats in order (protocol §3, §8)."""

from __future__ import annotations

from collections.abc import Iterable

from eth_utils.crypto import keccak

from shared.errors import Reverted
from shared.types import Digest, OperatorTable, TaskCertificate, Verdict

ONE_BYTE_SEATS = 256  # larger tables take two bytes an index


def missing_of(signers: tuple[int, ...], table: OperatorTable) -> bytes:
    """Who of those with power did not sign: what an approval names. Raises `Reverted` as the contract would for
    `signers` themselves: taken as a set, a wrong list would only look like a wrong signature."""
    _check(signers, table)
    signed = set(signers)
    missing = (index for index, entry in enumerate(table.entries) if entry.power and index not in signed)
    return _encode(missing, len(table.entries))


def signers_of(signers: tuple[int, ...], table: OperatorTable) -> bytes:
    """Who signed: what a rejection names. Raises `Reverted` as the contract would."""
    _check(signers, table)
    return _encode(signers, len(table.entries))


def indices_of(certificate: TaskCertificate, table: OperatorTable) -> bytes:
    """What the certificate's settlement names; `table` is the one of its epoch and attester set."""
    encode = missing_of if certificate.verdict is Verdict.VALID else signers_of
    return encode(certificate.signers, table)


def voters_hash(table: OperatorTable, indices: bytes) -> Digest:
    """Who voted so, in which table: what the attesters' fee is shared by (protocol §8.1)."""
    prefix = table.epoch.to_bytes(4, "big") + table.attester_set.to_bytes(4, "big")
    return Digest(keccak(prefix + indices))


def _encode(indices: Iterable[int], seats: int) -> bytes:
    width = 1 if seats <= ONE_BYTE_SEATS else 2
    return b"".join(index.to_bytes(width, "big") for index in indices)


def _check(signers: tuple[int, ...], table: OperatorTable) -> None:
    for position, index in enumerate(signers):
        if not 0 <= index < len(table.entries):
            raise Reverted("IndexOutOfRange", (position, index, len(table.entries)))
        if position and index == signers[position - 1]:
            raise Reverted("IndexDuplicate", (position, index))
        if position and index < signers[position - 1]:
            raise Reverted("IndicesUnsorted", (position, index))
        if not table.entries[index].power:
            raise Reverted("IndexWithoutPower", (position, index))
