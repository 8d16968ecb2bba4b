"""Numeric profiles: the arithmetic that a card promises, and the widest tolerance each may declare (protocol §5).

The caps keep a careless or colluding model owner from publishing a tolerance under which anything passes. They are set
from what was measured: float32 engines lie within 4e-6 of each other, float16 within 5e-3, bfloat16 within 5e-2.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class Profile(StrEnum):
    """What the numbers of a model are computed in."""

    EXACT_INT = "exact-int"  # integers only, or graphs whose order of operations is fixed: equal to the bit
    EXACT_FP64 = "exact-fp64"  # computed in float64, rounded once to float32: equal to the bit on all hardware
    FP32 = "fp32"  # float32 throughout, TF32 off
    FP16 = "fp16"
    BF16 = "bf16"

    @property
    def is_exact(self) -> bool:
        return self in (Profile.EXACT_INT, Profile.EXACT_FP64)


# Of an output's scale; an exact profile has no tolerance at all.
MAX_RELATIVE_TOLERANCE: Final[Mapping[Profile, float]] = {
    Profile.EXACT_INT: 0.0,
    Profile.EXACT_FP64: 0.0,
    Profile.FP32: 5e-5,
    Profile.FP16: 1e-2,
    Profile.BF16: 6e-2,
}
# In logits. A forger chooses among the tokens within the margin: at 1e-3 one position in a thousand has a second one,
# at 0.3 one in five.
MAX_MARGIN: Final[Mapping[Profile, float]] = {
    Profile.EXACT_INT: 0.0,
    Profile.EXACT_FP64: 0.0,
    Profile.FP32: 1e-3,
    Profile.FP16: 5e-2,
    Profile.BF16: 0.3,
}
# Under the spacing of its numbers (2**-23 of the largest in float32, 2**-11 in float16, 2**-8 in bfloat16) no two
# honest engines agree: a card with less was made to have them voted down. Fp16 and bf16 refuse over ten tolerances.
MIN_RELATIVE_TOLERANCE: Final[Mapping[Profile, float]] = {
    Profile.EXACT_INT: 0.0,
    Profile.EXACT_FP64: 0.0,
    Profile.FP32: 1e-7,
    Profile.FP16: 1e-4,
    Profile.BF16: 1e-3,
}
MIN_SCALE: Final = 1e-30  # times a tolerance it is still a number to divide by
MIN_MARGIN: Final = 1e-7  # in logits, of order one and more
# A card of the profile fp32 whose nearest cheat lies closer than this many tolerances tells too little apart.
MIN_SEPARATION: Final = 4.0
