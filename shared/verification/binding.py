"""Whether a proof is of the task that its performer signed it for: each part by name.

The proof's CID is signed with the task, so a proof that names anything else is the performer's own contradiction.
"""

from __future__ import annotations

from shared.documents import ProofObject
from shared.reasons import InvalidReason
from shared.types import Cid, Digest, TaskRequest


def unbound(proof: ProofObject, task_id: Digest, card_cid: Cid, request: TaskRequest) -> InvalidReason | None:
    """The first part that differs; None for a proof that is bound to this task in all of them."""
    parts = (
        (proof.task_id == task_id, InvalidReason.TASK_DIFFERS),
        (proof.card_cid == card_cid, InvalidReason.CARD_DIFFERS),
        (proof.model_hash == request.model_hash, InvalidReason.MODEL_DIFFERS),
        (proof.input_cid == request.input_cid, InvalidReason.INPUT_DIFFERS),
        (proof.parameters == request.parameters, InvalidReason.PARAMETERS_DIFFER),
        (proof.seed == request.seed, InvalidReason.SEED_DIFFERS),
    )
    return next((reason for is_same, reason in parts if not is_same), None)
