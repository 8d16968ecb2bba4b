"""Coded reasons for a vote that is not "valid", with whose trouble each is. `docs/reasons.md` is checked by a test."""

from __future__ import annotations

from enum import StrEnum


class InvalidReason(StrEnum):
    """The performer's own signed content is provably wrong."""

    PROOF_MALFORMED = "proof_malformed"  # hashes to its CID, but is not a proof object
    PROOF_TOO_LARGE = "proof_too_large"
    TASK_DIFFERS = "task_differs"  # a copied or replayed proof
    CARD_DIFFERS = "card_differs"  # an older calibration
    MODEL_DIFFERS = "model_differs"  # a swapped model, by the performer's own word
    INPUT_DIFFERS = "input_differs"
    PARAMETERS_DIFFER = "parameters_differ"
    SEED_DIFFERS = "seed_differs"
    OUTPUT_MALFORMED = "output_malformed"  # names, dtypes, shapes or token ids that the card does not allow
    DATA_MISMATCH = "data_mismatch"  # the signed `data` does not follow from the output
    SCORES_DIFFER = "scores_differ"
    LABEL_DIFFERS = "label_differs"
    TENSOR_DIFFERS = "tensor_differs"
    HASH_DIFFERS = "hash_differs"
    PROMPT_DIFFERS = "prompt_differs"
    LOGITS_DIFFER = "logits_differ"  # another model, other weights, other arithmetic
    TOKENS_DIFFER = "tokens_differ"  # another sampler, another seed, an edited text
    STOPPED_EARLY = "stopped_early"
    PADDED = "padded"  # went on after the end
    STOP_RULE = "stop_rule"
    LAYER_DIFFERS = "layer_differs"
    SEQUENCE_DIFFERS = "sequence_differs"
    SIMILARITY_LOW = "similarity_low"
    SERVICE_REFUSED = "service_refused"
    VALUE_DIFFERS = "value_differs"


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
    REFERENCE_FAILED = "reference_failed"  # between the zones, and the float64 reference could not decide
    SELF_TEST_FAILED = "self_test_failed"
    SERVICE_FAILED = "service_failed"
    SOURCE_UNAVAILABLE = "source_unavailable"
    UNDECIDED = "undecided"  # between the zones, where there is no reference, or too late to tell
    OVERLOADED = "overloaded"
    OWN_TASK = "own_task"
    GUARDED = "guarded"  # the guard holds another vote for this task
    INTERNAL = "internal"  # a bug of ours, logged with its traceback


class ContentOutcome(StrEnum):
    """How reading content ended. Only the first two say anything of whoever signed its CID."""

    VERIFIED = "verified"
    WRONG = "wrong"  # provably: every honest reader comes to the same end
    UNAVAILABLE = "unavailable"


class SourceFault(StrEnum):
    """What a source did instead of delivering a block. All but REFUTED say nothing of the content."""

    NOT_FOUND = "not_found"
    SLOW = "slow"
    UNREACHABLE = "unreachable"
    BUSY = "busy"  # 429, 503: it may serve later
    BAD_ANSWER = "bad_answer"  # a status, type or form that the protocol of the source does not have
    TOO_LARGE = "too_large"
    WRONG_BYTES = "wrong_bytes"  # they do not hash to the CID
    ADDRESS_REFUSED = "address_refused"  # its host is in a network that this node does not fetch from
    REFUTED = "refuted"  # EigenDA: the blob of the certificate is provably none
    LOCAL = "local"  # this node's own disk or daemon


MEANING: dict[InvalidReason | AbstainReason | SourceFault, str] = {
    InvalidReason.PROOF_MALFORMED: "The bytes behind the proof's CID are not a proof object.",
    InvalidReason.PROOF_TOO_LARGE: "The proof is over the protocol's size limit.",
    InvalidReason.TASK_DIFFERS: "The proof is that of another task: copied, or replayed.",
    InvalidReason.CARD_DIFFERS: "The proof quotes another model card than the task's definition: a stale calibration.",
    InvalidReason.MODEL_DIFFERS: "The proof names another model than the signed task.",
    InvalidReason.INPUT_DIFFERS: "The proof names another input than the signed task.",
    InvalidReason.PARAMETERS_DIFFER: "The proof names other parameters than the signed task.",
    InvalidReason.SEED_DIFFERS: "The proof names another seed than the signed task.",
    InvalidReason.OUTPUT_MALFORMED: "The output's names, dtypes, shapes or token ids are not what the card allows.",
    InvalidReason.DATA_MISMATCH: "The signed data does not follow from the output in the proof.",
    InvalidReason.SCORES_DIFFER: "The published scores differ from the recomputed ones by more than the tolerance.",
    InvalidReason.LABEL_DIFFERS: "The label is not the one that the scores give.",
    InvalidReason.TENSOR_DIFFERS: "A tensor differs from the recomputed one by more than the card's tolerance.",
    InvalidReason.HASH_DIFFERS: "The output's hash differs from the recomputed one in a profile that is exact.",
    InvalidReason.PROMPT_DIFFERS: "The prompt tokens are not those of the input: cut, edited, or another's.",
    InvalidReason.LOGITS_DIFFER: "The published logits are not the model's: other weights, arithmetic, or context.",
    InvalidReason.TOKENS_DIFFER: "A token is not the one that the sampler picks, though the logits are the model's.",
    InvalidReason.STOPPED_EARLY: "The text ends before its end token was sampled or its length was reached.",
    InvalidReason.PADDED: "The text goes on after its end, or beyond the length that was asked for.",
    InvalidReason.STOP_RULE: "The stop reason is not the one that the tokens show.",
    InvalidReason.LAYER_DIFFERS: "A layer of the batch is not its weights times its input.",
    InvalidReason.SEQUENCE_DIFFERS: "The performer's outputs, taken together, are not those of the card's arithmetic.",
    InvalidReason.SIMILARITY_LOW: "The output is less similar to the recomputed one than the card demands.",
    InvalidReason.SERVICE_REFUSED: "The attester's validation service says that the output is wrong.",
    InvalidReason.VALUE_DIFFERS: "The value differs from the one fetched again by more than the card's tolerance.",
    AbstainReason.PROOF_UNAVAILABLE: "No source served the proof in time.",
    AbstainReason.INPUT_UNAVAILABLE: "No source served the input in time.",
    AbstainReason.CARD_UNAVAILABLE: "No source served the model card, or its golden vectors, in time.",
    AbstainReason.MODEL_UNAVAILABLE: "No source served the model in time.",
    AbstainReason.MODEL_MISMATCH: "The card, its golden vectors or its model are not what the chain names.",
    AbstainReason.INPUT_UNUSABLE: "The requester's input does not fit the model, so no output can be right.",
    AbstainReason.SEED_UNKNOWN: "The request's seed is not a beacon of the task's epoch, where the card wants one.",
    AbstainReason.METHOD_UNKNOWN: "This attester does not know the task definition's verification method.",
    AbstainReason.ENGINE_FAILED: "The attester's inference engine failed.",
    AbstainReason.REFERENCE_FAILED: "The score lies between the zones, and the float64 reference failed.",
    AbstainReason.SELF_TEST_FAILED: "The attester's own engine strays from the card's golden vectors.",
    AbstainReason.SERVICE_FAILED: "The attester's validation service did not answer, or not with an opinion.",
    AbstainReason.SOURCE_UNAVAILABLE: "The attester could not fetch the value again.",
    AbstainReason.UNDECIDED: "The value lies between the zones, or was fetched too long ago, and nothing could decide.",
    AbstainReason.OVERLOADED: "The attester has too many tasks open.",
    AbstainReason.OWN_TASK: "An operator does not attest its own task.",
    AbstainReason.GUARDED: "The vote guard holds another vote, or another task info, for this task.",
    AbstainReason.INTERNAL: "A fault in the attester's own software; its log has the details.",
    SourceFault.NOT_FOUND: "It does not have the block.",
    SourceFault.SLOW: "It brought no whole block in time.",
    SourceFault.UNREACHABLE: "No connection, or one that broke.",
    SourceFault.BUSY: "It has too much to do, and may serve later.",
    SourceFault.BAD_ANSWER: "It answered with a status, a type or a form that is none of its protocol's.",
    SourceFault.TOO_LARGE: "It sent, or announced, more than a block may have.",
    SourceFault.WRONG_BYTES: "What it sent does not hash to the CID.",
    SourceFault.ADDRESS_REFUSED: "Its host lies in a network that this node does not fetch from.",
    SourceFault.REFUTED: "EigenDA proved that the signed certificate is of no blob.",
    SourceFault.LOCAL: "This node's own disk or daemon failed.",
}
