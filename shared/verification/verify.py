"""The attester's half, the same for every method: what costs nothing is checked first, then the method recomputes."""

from __future__ import annotations

from shared.documents import Output, data_of, validate_input
from shared.reasons import InvalidReason
from shared.verification.method import Compute, Judgement, Method, Work, invalid


async def verify(method: Method, work: Work, output: Output, data: bytes, compute: Compute) -> Judgement:
    """Raises `InputMismatch` for a requester's document that does not fit the card, whoever answered it and how: a
    wrong input makes all outputs moot. Lets the errors of `compute` pass."""
    validate_input(work.card, work.document, work.parameters)
    fault = method.fault(work, output)
    if fault is not None:
        return invalid(fault)
    if data != data_of(output):
        return invalid(InvalidReason.DATA_MISMATCH)
    return await method.judge(work, output, compute)
