"""Coded reasons for a vote that is not "valid", with whose trouble each is. `docs/reasons.md` is checked by a test."""

from __future__ import annotations

from enum import StrEnum


class InvalidReason(StrEnum):
    """The performer's own signed content is provably wrong."""

    PROOF_MALFORMED = "proof_malformed"  # hashes to its CID, but is not a proof object
    PROOF_TOO_LARGE = "proof_too_large"
    PROOF_UNBOUND = "proof_unbound"  # names another task, card, model or input
    OUTPUT_MALFORMED = "output_malformed"  # names, dtypes, shapes or token ids that the card does not allow
    DATA_MISMATCH = "data_mismatch"  # the signed `data` does not follow from the output
    SCORES_DIFFER = "scores_differ"
    LABEL_DIFFERS = "label_differs"
    TENSOR_DIFFERS = "tensor_differs"
    PROMPT_DIFFERS = "prompt_differs"
    TOKENS_DIFFER = "tokens_differ"
    STOP_RULE = "stop_rule"  # ended early, or went on after the end


class AbstainReason(StrEnum):
    """The attester could not check. Never a vote against anybody."""

    PROOF_UNAVAILABLE = "proof_unavailable"
    INPUT_UNAVAILABLE = "input_unavailable"
    CARD_UNAVAILABLE = "card_unavailable"
    MODEL_UNAVAILABLE = "model_unavailable"
    MODEL_MISMATCH = "model_mismatch"  # what the card names does not hash to what the chain says
    INPUT_UNUSABLE = "input_unusable"  # the requester's document does not fit the model: nobody's output is right
    SEED_UNKNOWN = "seed_unknown"  # not the beacon that this attester reads: the requester signed it, or a reorg came
    METHOD_UNKNOWN = "method_unknown"
    ENGINE_FAILED = "engine_failed"
    OVERLOADED = "overloaded"
    OWN_TASK = "own_task"
    GUARDED = "guarded"  # the guard holds another vote for this task
    INTERNAL = "internal"  # a bug of ours, logged with its traceback


MEANING: dict[InvalidReason | AbstainReason, str] = {
    InvalidReason.PROOF_MALFORMED: "The bytes behind the proof's CID are not a proof object.",
    InvalidReason.PROOF_TOO_LARGE: "The proof is over the protocol's size limit.",
    InvalidReason.PROOF_UNBOUND: "The proof names another task, card, model or input than the signed task.",
    InvalidReason.OUTPUT_MALFORMED: "The output's names, dtypes, shapes or token ids are not what the card allows.",
    InvalidReason.DATA_MISMATCH: "The signed data does not follow from the output in the proof.",
    InvalidReason.SCORES_DIFFER: "The published scores differ from the recomputed ones by more than the tolerance.",
    InvalidReason.LABEL_DIFFERS: "The label is not the one that the scores give.",
    InvalidReason.TENSOR_DIFFERS: "A tensor differs from the recomputed one by more than the card's tolerance.",
    InvalidReason.PROMPT_DIFFERS: "The prompt tokens are not those of the input.",
    InvalidReason.TOKENS_DIFFER: "A token is not the one that the sampler picks.",
    InvalidReason.STOP_RULE: "The text ended early, or went on after its end.",
    AbstainReason.PROOF_UNAVAILABLE: "No source served the proof in time.",
    AbstainReason.INPUT_UNAVAILABLE: "No source served the input in time.",
    AbstainReason.CARD_UNAVAILABLE: "No source served the model card in time.",
    AbstainReason.MODEL_UNAVAILABLE: "No source served the model in time.",
    AbstainReason.MODEL_MISMATCH: "The card or the model behind it is not the one that the chain names.",
    AbstainReason.INPUT_UNUSABLE: "The requester's input does not fit the model, so no output can be right.",
    AbstainReason.SEED_UNKNOWN: "The request's seed is not a beacon of the task's epoch, where the card wants one.",
    AbstainReason.METHOD_UNKNOWN: "This attester does not know the task definition's verification method.",
    AbstainReason.ENGINE_FAILED: "The attester's inference engine failed.",
    AbstainReason.OVERLOADED: "The attester has too many tasks open.",
    AbstainReason.OWN_TASK: "An operator does not attest its own task.",
    AbstainReason.GUARDED: "The vote guard holds another vote, or another task info, for this task.",
    AbstainReason.INTERNAL: "A fault in the attester's own software; its log has the details.",
}
