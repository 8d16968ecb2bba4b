"""The deployment that certificate.json is about: its operators, their powers and keys, and what a revert looks like.

Powers are 1000, 1001, 999, 1500 and 1500 of 6000: two thirds are 4000 and one third is 2000, and both can be met
exactly and by one more. The last two keys are each other's negation, so that those two together are infinity.

Definition 0 is voted on by everybody, definition 1 by attester set 1: from 1000 on, and 1400 at most. There the powers
are 1000, 1001, 0, 1400 and 1400 of 4801, and the seat without power is nobody's vote.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from eth_abi.abi import encode
from eth_keys.datatypes import PrivateKey
from eth_utils.crypto import keccak
from rlp import encode as rlp_encode  # type: ignore[import-untyped]
from vector_curve import CURVE_ORDER, POSSESSION_TAG, VOTE_TAG, public_key, secret_of, sign, sign_together
from vector_json import Json, hexed
from vector_typed_data import CHAIN_ID, CID, Values, digest, in_json

GWEI = 10**9
PERFORMER, ATTESTER, AGGREGATOR = 1, 2, 4
EPOCH = 1
NO_ERROR = b""


def _identity(label: str) -> PrivateKey:
    return PrivateKey(hashlib.sha256(label.encode()).digest())


DEPLOYER = _identity("deployer").public_key.to_canonical_address()


def _created_by_deployer(nonce: int) -> bytes:
    return keccak(rlp_encode([DEPLOYER, nonce]))[12:]


TABLES = _created_by_deployer(0)
REGISTRY = _created_by_deployer(1)
CENTER = _created_by_deployer(2)
ESCROW = _created_by_deployer(3)
COURT = _created_by_deployer(4)
DOMAINS = {"tables": TABLES, "registry": REGISTRY, "center": CENTER, "court": COURT}


@dataclass(frozen=True)
class Member:
    """An operator of the deployment; `vote_secret` 0 is no vote key."""

    label: str
    roles: int
    stake: int
    vote_secret: int = 0

    @property
    def key(self) -> PrivateKey:
        return _identity(self.label)

    @property
    def address(self) -> bytes:
        return self.key.public_key.to_canonical_address()

    def vector(self) -> Json:
        vote_key = public_key(self.vote_secret) if self.vote_secret else b""
        values = {"operator": self.address, "keyHash": keccak(vote_key)}
        proof = sign(self.vote_secret, digest("KeyPossession", values, TABLES), POSSESSION_TAG) if vote_key else b""
        return {
            "operator": hexed(self.address),
            "secret": hexed(self.key.to_bytes()),
            "roles": str(self.roles),
            "stake": str(self.stake),
            "voteSecret": hexed(self.vote_secret),
            "voteKey": hexed(vote_key),
            "possession": hexed(proof),
            "peerKey": hexed(hashlib.sha256(f"peer {self.label}".encode()).digest()),
            "p2pAddress": "/ip4/127.0.0.1/tcp/4001",
            "gatewayUrl": f"http://{self.label.replace(' ', '-')}.example:8080",
        }


_LAST = secret_of("vote key 3")
PERFORMER_ONLY = Member("performer", PERFORMER, 5000 * GWEI)
ATTESTERS = (
    Member("attester 0", PERFORMER | ATTESTER, 1000 * GWEI, secret_of("vote key 0")),
    Member("attester 1", ATTESTER, 1001 * GWEI, secret_of("vote key 1")),
    Member("attester 2", ATTESTER, 999 * GWEI + 1, secret_of("vote key 2")),  # a single wei is no power
    Member("attester 3", ATTESTER, 1500 * GWEI, _LAST),
    Member("attester 4", ATTESTER | AGGREGATOR, 1500 * GWEI, CURVE_ORDER - _LAST),
)
OPERATORS = (PERFORMER_ONLY, *ATTESTERS, Member("aggregator", AGGREGATOR, 999 * GWEI))
EVERYBODY = (0, 1, 2, 3, 4)

SETTINGS = {
    "epochSeconds": 3600,
    "graceSeconds": 3600,
    "minimumStake": 999 * GWEI,
    "powerUnit": GWEI,
    "unbondingSeconds": 14 * 86_400,
    "refundDelay": 2 * 86_400,
    "vetoDelay": 43_200,
    "longestDispute": 7 * 86_400,
    "changeDelay": 2 * 86_400,
    "vault": _identity("vault").public_key.to_canonical_address(),
    "owner": _identity("owner").public_key.to_canonical_address(),
}
MINIMUM_POWER, MAXIMUM_POWER = 1000, 1400
ATTESTER_SET = {
    "members": [],
    "minimumPower": MINIMUM_POWER,
    "maximumPower": MAXIMUM_POWER,
    "minimumOwners": 0,
}


def _definition(attester_set: int) -> Values:
    return {
        "name": "digits",
        "method": "exact",
        "modelHash": hashlib.sha256(b"model").digest(),
        "cardCid": CID,
        "attesterSet": attester_set,
        "maximumDeadline": 86_400,
        "disputeWindow": 86_400,
    }


DEFINITIONS = [_definition(0), _definition(1)]  # by id; each is of the attester set of its number


def powers_of(attester_set: int) -> list[int]:
    """In the table of the first epoch, by seat."""
    powers = [member.stake // GWEI for member in ATTESTERS]
    if attester_set == 0:
        return powers
    return [min(power, MAXIMUM_POWER) if power >= MINIMUM_POWER else 0 for power in powers]


def revert(signature: str, *values: Any) -> bytes:
    """ABI-encoded custom error, as `eth_call` returns it."""
    types = signature[signature.index("(") + 1 : -1]
    return keccak(text=signature)[:4] + encode(types.split(",") if types else [], values)


def quorum_missed(power: int, is_approval: bool, attester_set: int = 0) -> bytes:
    return revert("QuorumNotReached(uint256,uint256,bool)", power, sum(powers_of(attester_set)), is_approval)


def signed_by(signers: tuple[int, ...], message: bytes, tag: bytes = VOTE_TAG) -> bytes:
    """The sum of the signatures of the attesters at these indices."""
    return sign_together([ATTESTERS[index].vote_secret for index in signers], message, tag)


def missing(signers: tuple[int, ...], attester_set: int = 0) -> bytes:
    """One byte for each attester with power who is not among them."""
    return bytes(seat for seat, power in enumerate(powers_of(attester_set)) if power and seat not in signers)


def ecdsa_sign(key: PrivateKey, message: bytes) -> bytes:
    """65 bytes r ‖ s ‖ v, v in {27, 28}, low s."""
    signature = key.sign_msg_hash(message)
    return bytes(signature.to_bytes()[:64]) + bytes([27 + signature.v])


def deployment_vector() -> dict[str, Json]:
    """Everything that has to be deployed and registered before the cases make sense."""
    return {
        "chainId": str(CHAIN_ID),
        "deployer": hexed(DEPLOYER),
        "tables": hexed(TABLES),
        "registry": hexed(REGISTRY),
        "center": hexed(CENTER),
        "escrow": hexed(ESCROW),
        "court": hexed(COURT),
        "settings": in_json(SETTINGS),
        "attesterSet": in_json(ATTESTER_SET),
        "definitions": [in_json(definition) for definition in DEFINITIONS],
        "operators": [member.vector() for member in OPERATORS],
        "table": _table(0),
        "setTable": _table(1),
        "epoch": str(EPOCH),
    }


def _table(attester_set: int) -> Json:
    return [
        {
            "operator": hexed(member.address),
            "voteKey": hexed(public_key(member.vote_secret)),
            "power": str(power),
        }
        for member, power in zip(ATTESTERS, powers_of(attester_set), strict=True)
    ]
