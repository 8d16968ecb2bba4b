"""The batches of certificate.json."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

from vector_deployment import (
    CENTER,
    DEPLOYER,
    EPOCH,
    EVERYBODY,
    NO_ERROR,
    OPERATORS,
    missing,
    quorum_missed,
    revert,
    signed_by,
)
from vector_json import Json, hexed
from vector_typed_data import Values, digest, in_json


@dataclass(frozen=True)
class BatchCase:
    """A batch; `signed` overrides fields of what the attesters signed."""

    name: str
    signers: tuple[int, ...]
    error: bytes = NO_ERROR
    size: int = 16
    epoch: int = EPOCH
    signed: tuple[tuple[str, Any], ...] = ()
    indices: bytes | None = None

    @property
    def values(self) -> Values:
        return {
            "root": hashlib.sha256(f"root of {self.name}".encode()).digest(),
            "contentHash": hashlib.sha256(f"document of {self.name}".encode()).digest(),
            "size": self.size,
            "epoch": self.epoch,
            "aggregator": OPERATORS[-1].address,
        }

    @property
    def digest(self) -> bytes:
        return digest("Batch", self.values, CENTER)

    def vector(self) -> Json:
        signed = digest("Batch", self.values | dict(self.signed), CENTER)
        return {
            "name": self.name,
            **in_json(self.values),
            "digest": hexed(self.digest),
            "signature": hexed(signed_by(self.signers, signed)),
            "missing": hexed(missing(self.signers) if self.indices is None else self.indices),
            "error": hexed(self.error),
        }


def batch_cases() -> list[BatchCase]:
    swapped = [
        BatchCase("another root signed", EVERYBODY, signed=(("root", bytes(32)),)),
        BatchCase("another document signed", EVERYBODY, signed=(("contentHash", bytes(32)),)),
        BatchCase("another size signed", EVERYBODY, signed=(("size", 15),)),
        BatchCase("another epoch signed", EVERYBODY, signed=(("epoch", 2),)),
        BatchCase("another aggregator signed", EVERYBODY, signed=(("aggregator", DEPLOYER),)),
    ]
    empty = BatchCase("empty batch", EVERYBODY, size=0)
    unsorted = revert("IndicesUnsorted(uint256,uint16)", 1, 0)
    return [
        BatchCase("signed by all", EVERYBODY),
        BatchCase("signed by two thirds and one", (1, 3, 4)),
        BatchCase("largest size", EVERYBODY, size=2**32 - 1),
        BatchCase("signed by two thirds exactly", (0, 3, 4), quorum_missed(4000, True)),
        BatchCase("signed by one third and one", (0, 1), quorum_missed(2001, True)),
        BatchCase("missing unsorted", (1, 3, 4), unsorted, indices=b"\x02\x00"),
        BatchCase("unknown epoch", EVERYBODY, revert("UnknownEpoch(uint32,uint32)", 2, 1), epoch=2),
        replace(empty, error=revert("EmptyBatch(bytes32)", empty.values["root"])),
        *(replace(case, error=revert("SignatureMismatch(bytes32)", case.digest)) for case in swapped),
    ]
