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
# Of the card's tolerance, which is four times what any two honest runs lay apart. A fit engine is within this of the
# reference, and so is every honest performer's, so that both together stay far below the limit.
MOST_DEVIATION: Final = 0.25


async def decide(method: Measuring, work: Work, output: Output, compute: Compute) -> Judgement:
    """By this node's engine, and where that cannot say, by the reference."""
    measured = await method.measure(work, output, compute.run)
    if VALID_UP_TO < measured.score <= INVALID_ABOVE:
        judgement = await referee(method, work, output, compute, measured.score)
    else:
        judgement = judgement_of(measured)
    if judgement.verdict is not Verdict.INVALID:
        return judgement
    return await _unclear(method, work, measured, compute) or judgement


async def _unclear(method: Measuring, work: Work, measured: Measurement, compute: Compute) -> Judgement | None:
    """An abstention where this node's own result is as far from the reference as no honest one was in calibration:
    numbers far from those that the model was calibrated with are rounded by more than the card knows, and a requester
    who chose such an input must not cost an honest performer its stake. Of a text the input is tokens, none of which is
    far from others."""
    if work.card.kind == "text" or measured.recomputed is None:
        return None
    try:
        own = await method.measure(work, measured.recomputed, compute.reference)
    except (InferenceFailed, InputMismatch):
        return abstain(AbstainReason.REFERENCE_FAILED, measured.score)
    return abstain(AbstainReason.INPUT_UNUSABLE, measured.score) if not own.score <= MOST_DEVIATION else None


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
