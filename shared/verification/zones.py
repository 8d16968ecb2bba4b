"""The decision zones (protocol §6): at most 1 valid, more than 10 invalid, between them the float64 reference decides.

Between the zones the attester's own rounding may be what is seen. The reference has none to speak of: what is left of
the distance then is the performer's.
"""

from __future__ import annotations

from typing import Final

from shared.documents import Output
from shared.errors import InferenceFailed, InputMismatch
from shared.reasons import AbstainReason
from shared.types import Verdict
from shared.verification.method import Compute, Judgement, Measurement, Measuring, Work, abstain

VALID_UP_TO: Final = 1.0
INVALID_ABOVE: Final = 10.0


async def decide(method: Measuring, work: Work, output: Output, compute: Compute) -> Judgement:
    """By this node's engine, and where that cannot say, by the reference."""
    measured = await method.measure(work, output, compute.run)
    if measured.score <= VALID_UP_TO or measured.score > INVALID_ABOVE:
        return judgement_of(measured)
    return await referee(method, work, output, compute, measured.score)


async def referee(method: Measuring, work: Work, output: Output, compute: Compute, score: float) -> Judgement:
    """By the reference; where that fails, nobody can say more than `score`, which lies between the zones."""
    try:
        refereed = await method.measure(work, output, compute.reference)
    except (InferenceFailed, InputMismatch):
        return abstain(AbstainReason.REFERENCE_FAILED, score)
    return judgement_of(refereed, is_refereed=True)


def judgement_of(measured: Measurement, *, is_refereed: bool = False) -> Judgement:
    """A distance of NaN is no distance within the limit."""
    is_valid = measured.score <= VALID_UP_TO
    return Judgement(
        verdict=Verdict.VALID if is_valid else Verdict.INVALID,
        reason=None if is_valid else measured.reason,
        score=measured.score,
        statistics=measured.statistics,
        recomputed=measured.recomputed,
        is_refereed=is_refereed,
    )
