"""TOPLOC (Ong et al., ICML 2025, arXiv 2501.16007), re-stated: the baseline that `detection` is held against.

For every 32 tokens the performer keeps the 128 values of largest magnitude of the last hidden state, as bfloat16. The
attester recomputes the hidden state, takes its own 128 largest, and compares bit fields at their places: a place that
the performer did not keep counts as a differing exponent, and where exponents agree, mantissas are subtracted. The
paper packs places and values into a polynomial of 258 bytes; evaluated at other places that gives arbitrary bits, so
what is compared is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

CHUNK_TOKENS = 32
KEPT = 128
CHUNK_BYTES = 2 * KEPT + 2  # of the paper's encoding
MAX_EXPONENT_MISMATCHES = 38
MAX_MANTISSA_MEAN = 10.0
MAX_MANTISSA_MEDIAN = 8.0
_MANTISSA_BITS = 7
_MANTISSA = 0x7F
_EXPONENT = 0xFF

Hidden = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Kept:
    """Of one chunk: places in the flattened (tokens, width), and the bfloat16 bits there."""

    places: npt.NDArray[np.int64]
    bits: npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Difference:
    """Mantissa figures are over the places whose exponents agree; infinite where none do."""

    exponent_mismatches: int
    mantissa_mean: float
    mantissa_median: float

    @property
    def is_accepted(self) -> bool:
        return (
            self.exponent_mismatches <= MAX_EXPONENT_MISMATCHES
            and self.mantissa_mean <= MAX_MANTISSA_MEAN
            and self.mantissa_median <= MAX_MANTISSA_MEDIAN
        )


def keep(hidden: Hidden) -> list[Kept]:
    """From the last hidden state (tokens, width) of the generated tokens; the last chunk may be short."""
    return [_kept(chunk) for chunk in _chunks(hidden)]


def accepts(claim: Sequence[Kept], hidden: Hidden) -> bool:
    """Whether every chunk is within all three limits; `hidden` as the attester recomputed it."""
    own = keep(hidden)
    return len(own) == len(claim) and all(difference(c, o).is_accepted for c, o in zip(claim, own, strict=True))


def difference(claim: Kept, own: Kept) -> Difference:
    claimed = dict(zip(claim.places.tolist(), claim.bits.tolist(), strict=True))
    mantissas = [
        abs((claimed[place] & _MANTISSA) - (bits & _MANTISSA))
        for place, bits in zip(own.places.tolist(), own.bits.tolist(), strict=True)
        if place in claimed and _exponent(claimed[place]) == _exponent(bits)
    ]
    mismatches = len(own.places) - len(mantissas)
    if not mantissas:
        return Difference(mismatches, float("inf"), float("inf"))
    return Difference(mismatches, float(np.mean(mantissas)), float(np.median(mantissas)))


def bfloat16_bits(values: Hidden) -> npt.NDArray[np.uint16]:
    """Rounded to the nearest, ties to even, as hardware does."""
    raw = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    rounded = (raw + 0x7FFF + ((raw >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)
    return rounded.astype(np.uint16)


def _exponent(bits: int) -> int:
    return (bits >> _MANTISSA_BITS) & _EXPONENT


def _chunks(hidden: Hidden) -> list[Hidden]:
    return [hidden[start : start + CHUNK_TOKENS] for start in range(0, len(hidden), CHUNK_TOKENS)]


def _kept(chunk: Hidden) -> Kept:
    flat = np.ascontiguousarray(chunk, np.float32).ravel()
    places = np.sort(np.argsort(-np.abs(flat), kind="stable")[:KEPT])
    return Kept(places, bfloat16_bits(flat[places]))
