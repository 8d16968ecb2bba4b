"""The certificates of certificate.json, each with the exact revert it must meet."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from vector_batches import batch_cases
from vector_curve import G1_INFINITY, POSSESSION_TAG, malformed_g1, sign
from vector_deployment import (
    ATTESTERS,
    CENTER,
    EPOCH,
    EVERYBODY,
    NO_ERROR,
    PERFORMER,
    PERFORMER_ONLY,
    REGISTRY,
    Member,
    deployment_vector,
    ecdsa_sign,
    missing,
    quorum_missed,
    revert,
    signed_by,
)
from vector_json import Json, hexed
from vector_merkle import voters_hash
from vector_typed_data import CHAIN_ID, CID, MAX_DATA_BYTES, Values, digest, in_json

SECP256K1_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
VALID, INVALID = 1, 2
SET_VOTERS = (0, 1, 3, 4)  # of definition 1


@dataclass(frozen=True)
class Case:
    """A certificate, honest unless a field says otherwise.

    `signers` signed `verdict` (the certificate's, unless given) in the domain of `contract` and `chain_id`; `claimed`
    (the signers, unless given) is what the indices say; `forger` signs in the performer's place.
    """

    name: str
    is_approved: bool
    signers: tuple[int, ...]
    error: bytes = NO_ERROR
    claimed: tuple[int, ...] | None = None
    indices: bytes | None = None
    verdict: int | None = None
    performer: Member = PERFORMER_ONLY
    forger: Member | None = None
    epoch: int = EPOCH
    definition: int = 0
    data: bytes = (3).to_bytes(32, "big")
    proof_of_task: str = CID
    performer_signature: bytes | None = None
    vote_signature: bytes | None = None
    contract: bytes = CENTER
    chain_id: int = CHAIN_ID

    @property
    def attester_set(self) -> int:
        """Definitions are of the set of their number."""
        return self.definition

    @property
    def info(self) -> Values:
        return {
            "taskId": hashlib.sha256(f"task of {self.name}".encode()).digest(),
            "proofOfTask": self.proof_of_task,
            "data": self.data,
            "taskPerformer": self.performer.address,
            "taskDefinitionId": self.definition,
            "epoch": self.epoch,
        }

    @property
    def info_hash(self) -> bytes:
        return digest("TaskInfo", self.info, CENTER)

    @property
    def vote_digest(self) -> bytes:
        """What the votes have to be over."""
        verdict = VALID if self.is_approved else INVALID
        return digest("Vote", {"taskInfoHash": self.info_hash, "verdict": verdict}, CENTER)

    def vector(self) -> Json:
        return {
            "name": self.name,
            "info": in_json(self.info),
            "infoHash": hexed(self.info_hash),
            "details": {
                "isApproved": self.is_approved,
                "tpSignature": hexed(self._performer_signature()),
                "taSignature": hexed(self._vote_signature()),
                "indices": hexed(self._indices()),
            },
            "votersHash": hexed(voters_hash(self.epoch, self.attester_set, self._indices())),
            "signers": hexed(bytes(self.signers)),
            "error": hexed(self.error),
        }

    def _performer_signature(self) -> bytes:
        if self.performer_signature is not None:
            return self.performer_signature
        return ecdsa_sign((self.forger or self.performer).key, self.info_hash)

    def _vote_signature(self) -> bytes:
        if self.vote_signature is not None:
            return self.vote_signature
        verdict = self.verdict or (VALID if self.is_approved else INVALID)
        values = {"taskInfoHash": self.info_hash, "verdict": verdict}
        return signed_by(self.signers, digest("Vote", values, self.contract, self.chain_id))

    def _indices(self) -> bytes:
        if self.indices is not None:
            return self.indices
        claimed = self.signers if self.claimed is None else self.claimed
        return missing(claimed, self.attester_set) if self.is_approved else bytes(claimed)


def _mismatch(case: Case) -> Case:
    """The case with the error of a signature that is not the claimed signers' over what it should be."""
    return replace(case, error=revert("SignatureMismatch(bytes32)", case.vote_digest))


def _valid() -> list[Case]:
    return [
        Case("approved by all", True, EVERYBODY),
        Case("approved by two thirds and one", True, (1, 3, 4)),
        Case("approved, empty data", True, EVERYBODY, data=b""),
        Case("approved, longest data", True, EVERYBODY, data=bytes(i % 251 for i in range(MAX_DATA_BYTES))),
        Case("approved, performer attests too", True, (1, 2, 3, 4), performer=ATTESTERS[0]),
        Case("rejected by one third and one", False, (0, 1)),
        Case("rejected by all", False, EVERYBODY),
        Case("rejected by three", False, (0, 2, 4)),
    ]


def _quorum_edges() -> list[Case]:
    return [
        Case("approved by two thirds exactly", True, (0, 3, 4), quorum_missed(4000, True)),
        Case("approved by two thirds less one", True, (2, 3, 4), quorum_missed(3999, True)),
        Case("approved by nobody", True, (), quorum_missed(0, True)),
        Case("rejected by one third exactly", False, (1, 2), quorum_missed(2000, False)),
        Case("rejected by one third less one", False, (0, 2), quorum_missed(1999, False)),
        Case("rejected by nobody", False, (), quorum_missed(0, False)),
    ]


def _bad_indices() -> list[Case]:
    out_of_range = "IndexOutOfRange(uint256,uint16,uint256)"
    duplicate, unsorted = "IndexDuplicate(uint256,uint16)", "IndicesUnsorted(uint256,uint16)"
    return [
        Case("missing twice", True, (0, 1, 3, 4), revert(duplicate, 1, 2), indices=b"\x02\x02"),
        Case("signer twice", False, (0, 1), revert(duplicate, 2, 1), indices=b"\x00\x01\x01"),
        Case("signers unsorted", False, (1, 2), revert(unsorted, 1, 1), indices=b"\x02\x01"),
        Case("missing unsorted", True, (1, 3, 4), revert(unsorted, 1, 0), indices=b"\x02\x00"),
        Case("signer out of range", False, (0, 1), revert(out_of_range, 2, 5, 5), indices=b"\x00\x01\x05"),
        Case("missing far out of range", True, EVERYBODY, revert(out_of_range, 0, 255, 5), indices=b"\xff"),
        Case("more indices than attesters", False, (0,), revert(duplicate, 5, 4), indices=b"\x00\x01\x02\x03\x04\x04"),
    ]


def _of_a_set() -> list[Case]:
    """Definition 1: two thirds of 4801 are 3200⅔ and one third is 1600⅓."""
    powerless = "IndexWithoutPower(uint256,uint16)"
    claimed = _mismatch(
        Case("set: claims a signer who did not sign", True, (0, 3, 4), claimed=SET_VOTERS, definition=1)
    )
    return [
        Case("set: approved by all with power", True, SET_VOTERS, definition=1),
        Case("set: approved by a quorum", True, (1, 3, 4), definition=1),
        Case("set: rejected by a quorum", False, (0, 1), definition=1),
        Case("set: approved by too few", True, (0, 1), quorum_missed(2001, True, 1), definition=1),
        Case("set: rejected by too few", False, (4,), quorum_missed(1400, False, 1), definition=1),
        Case("set: a signer without power", False, (0, 1, 2), revert(powerless, 2, 2), definition=1),
        Case("set: missing without power", True, SET_VOTERS, revert(powerless, 0, 2), indices=b"\x02", definition=1),
        claimed,
    ]


def _bad_votes() -> list[Case]:
    replayed = Case("vote for another task", True, EVERYBODY)
    other_task = signed_by(EVERYBODY, Case("another task", True, EVERYBODY).vote_digest)
    possession = Case("vote under the possession tag", True, EVERYBODY)
    cases = [
        Case("approval turned into a rejection", False, (0, 1), verdict=VALID),
        Case("rejection turned into an approval", True, EVERYBODY, verdict=INVALID),
        replace(replayed, vote_signature=other_task),
        Case("vote for another chain", True, EVERYBODY, chain_id=CHAIN_ID + 1),
        Case("vote for another contract", True, EVERYBODY, contract=REGISTRY),
        Case("claims a signer who did not sign", True, (1, 3, 4), claimed=EVERYBODY),
        Case("hides a signer", True, EVERYBODY, claimed=(1, 2, 3, 4)),
        Case("claims a rejecter who did not sign", False, (0, 1), claimed=(0, 1, 2)),
        replace(possession, vote_signature=signed_by(EVERYBODY, possession.vote_digest, POSSESSION_TAG)),
    ]
    return [_mismatch(case) for case in cases]


def _bad_signature_points() -> list[Case]:
    generator_like = sign(1, bytes(32))
    cases = [
        Case("signature at infinity", True, EVERYBODY, revert("InfinitySignature()"), vote_signature=G1_INFINITY),
        Case("signers' keys at infinity", False, (3, 4), revert("InfinityAggregate()"), vote_signature=generator_like),
    ]
    for length in (0, 95, 97, 192):
        error = revert("SignatureLength(uint256)", length)
        cases.append(Case(f"signature of {length} bytes", True, EVERYBODY, error, vote_signature=bytes(length)))
    for name, point in malformed_g1().items():
        if name != "infinity":
            error = revert("MalformedSignature(bytes)", point)
            cases.append(Case(f"signature {name}", True, EVERYBODY, error, vote_signature=point))
    return cases


def _bad_epochs() -> list[Case]:
    unknown = "UnknownEpoch(uint32,uint32)"
    return [
        Case(f"epoch {epoch}", True, EVERYBODY, revert(unknown, epoch, EPOCH), epoch=epoch)
        for epoch in (0, EPOCH + 1, 2**32 - 1)
    ]


def _bad_performers() -> list[Case]:
    stranger, attester = Member("stranger", PERFORMER, 0), ATTESTERS[1]
    not_performer = "NotPerformer(address)"
    cases = [
        Case("performer a stranger", True, EVERYBODY, revert(not_performer, stranger.address), performer=stranger),
        Case("performer an attester", True, EVERYBODY, revert(not_performer, attester.address), performer=attester),
        Case("unknown definition", True, EVERYBODY, revert("UnknownTaskDefinition(uint16)", 2), definition=2),
    ]
    signature = ecdsa_sign(PERFORMER_ONLY.key, Case("performer's signature with high s", True, EVERYBODY).info_hash)
    forged = {
        "by another": None,
        "with high s": _high_s(signature),
        "with v of 0 or 1": ecdsa_sign(PERFORMER_ONLY.key, _info_hash("with v of 0 or 1"))[:64] + b"\x00",
        "of 64 bytes": ecdsa_sign(PERFORMER_ONLY.key, _info_hash("of 64 bytes"))[:64],
        "empty": b"",
        "all zeros": bytes(65),
        "of another task": ecdsa_sign(PERFORMER_ONLY.key, bytes(32)),
    }
    for name, forgery in forged.items():
        case = Case(f"performer's signature {name}", True, EVERYBODY, performer_signature=forgery, forger=attester)
        error = revert("PerformerSignatureMismatch(address,bytes32)", case.performer.address, case.info_hash)
        cases.append(replace(case, error=error))
    return cases


def _info_hash(name: str) -> bytes:
    return Case(f"performer's signature {name}", True, EVERYBODY).info_hash


def _high_s(signature: bytes) -> bytes:
    """The same signature's other form, which plain ecrecover takes."""
    s = SECP256K1_ORDER - int.from_bytes(signature[32:64], "big")
    return signature[:32] + s.to_bytes(32, "big") + bytes([55 - signature[64]])


def certificate_vectors() -> Json:
    """The deployment, then every case."""
    cases = [
        *_valid(),
        *_quorum_edges(),
        *_bad_indices(),
        *_of_a_set(),
        *_bad_votes(),
        *_bad_signature_points(),
        *_bad_epochs(),
        *_bad_performers(),
    ]
    return {
        **deployment_vector(),
        "certificates": [case.vector() for case in cases],
        "batches": [case.vector() for case in batch_cases()],
    }
