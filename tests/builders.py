"""A network in values: its keys, its operators, its tables, and everything that they sign, with real keys.

All is derived from names, so it is the same on every run. Each maker gives the honest thing; a test changes one part:
`replace(message, signature=...)`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import msgspec

from shared.content.cid import Codec, make_block
from shared.content.unixfs import UNIXFS_V1_2025
from shared.crypto import bls, ecdsa
from shared.crypto.keystore import NodeKeys
from shared.digests import Domain
from shared.errors import GossipRuling, Ignore, Reject
from shared.messages import (
    AbstainMessage,
    BatchProposal,
    BatchVote,
    CertificateMessage,
    SubmittedMessage,
    TaskMessage,
    VoteMessage,
)
from shared.reasons import AbstainReason
from shared.roster import Roster
from shared.types import (
    Address,
    BatchInfo,
    Cid,
    Digest,
    Operator,
    OperatorTable,
    Ref,
    Role,
    TableEntry,
    TaskCertificate,
    TaskDefinition,
    TaskInfo,
    TaskRequest,
    Uint256,
    Verdict,
)

S = TypeVar("S", bound=msgspec.Struct)
NOW = 1_800_000_000.0
EPOCH = 7
DOMAIN = Domain(31337, Address(bytes.fromhex("c0" * 20)))
GWEI = 10**9
ETHER = 10**18


def replace(struct: S, **changes: Any) -> S:
    """A copy with other values."""
    return msgspec.structs.replace(struct, **changes)


def sha(label: str) -> Digest:
    return Digest(hashlib.sha256(label.encode()).digest())


def cid_of(label: str) -> Cid:
    return make_block(Codec.RAW, label.encode()).cid


@dataclass
class FixedClock:
    """The time is what a test says."""

    time: float = NOW

    def now(self) -> float:
        return self.time


# --- who is who ----------------------------------------------------------------------------------
@lru_cache
def keys_of(name: str) -> NodeKeys:
    """All three keys of one person."""
    return NodeKeys.from_seed(sha(f"seed of {name}"))


REQUESTER, PERFORMER, AGGREGATOR, STRANGER = map(keys_of, ("requester", "performer", "aggregator", "stranger"))
ATTESTERS = tuple(keys_of(f"attester {i}") for i in range(4))
# Of 6: attesters 0 and 1 are two thirds exactly, attester 0 alone is one third exactly.
POWERS = (2, 2, 1, 1)
EVERYBODY = (0, 1, 2, 3)
APPROVING, TWO_THIRDS = (0, 1, 2), (0, 1)
REJECTING, ONE_THIRD = (0, 2), (0,)


def operator_of(keys: NodeKeys, roles: Role, *, stake_wei: int = ETHER, is_active: bool = True) -> Operator:
    """As the registry lists it. Only attesters have a vote key there."""
    return Operator(
        address=keys.address,
        owner=keys.address,
        rewards_receiver=keys.address,
        roles=roles,
        stake_wei=stake_wei,
        vote_key=keys.vote.public_key if Role.ATTESTER in roles else b"",
        peer_key=keys.peer_key,
        p2p_address="/ip4/127.0.0.1/tcp/9700",
        gateway_url="http://127.0.0.1:8700",
        is_active=is_active,
    )


def table_of(
    epoch: int = EPOCH, members: Sequence[NodeKeys] = ATTESTERS, powers: Sequence[int] = POWERS
) -> OperatorTable:
    """The members in index order."""
    entries = (
        TableEntry(keys.address, keys.vote.public_key, power) for keys, power in zip(members, powers, strict=True)
    )
    return OperatorTable(epoch, tuple(entries))


OPERATORS = (
    operator_of(PERFORMER, Role.PERFORMER),
    *(operator_of(keys, Role.ATTESTER, stake_wei=power * GWEI) for keys, power in zip(ATTESTERS, POWERS, strict=True)),
    operator_of(AGGREGATOR, Role.AGGREGATOR),
)
DEFINITION = TaskDefinition(3, "digits", "exact", sha("model"), cid_of("card"))
TABLE = table_of()


def roster_of(
    operators: Iterable[Operator] = OPERATORS, tables: Iterable[OperatorTable] = (table_of(EPOCH - 1), TABLE)
) -> Roster:
    """What a node knows from the chain, in the epoch of the newest table."""
    by_epoch = {table.epoch: table for table in tables}
    return Roster(
        epoch=max(by_epoch, default=0),
        operators=tuple(operators),
        tables=by_epoch,
        definitions={DEFINITION.id: DEFINITION},
    )


# --- requests and tasks --------------------------------------------------------------------------
def request(nonce: int = 1, **changes: Any) -> TaskRequest:
    """The requester's, for the performer; another nonce is another task."""
    values: dict[str, Any] = {
        "requester": REQUESTER.address,
        "nonce": Uint256(nonce),
        "performer": PERFORMER.address,
        "task_definition_id": DEFINITION.id,
        "model_hash": DEFINITION.model_hash,
        "input_cid": cid_of("input"),
        "parameters": "{}",
        "seed": sha("seed"),
        "fee": Uint256(0),
        "deadline": int(NOW) + 60,
    }
    return TaskRequest(**(values | changes))


def signed(request: TaskRequest, keys: NodeKeys = REQUESTER, *, domain: Domain = DOMAIN) -> bytes:
    """The requester's signature."""
    return keys.operator.sign(domain.task_id(request))


def task_info(of: TaskRequest | None = None, *, domain: Domain = DOMAIN, **changes: Any) -> TaskInfo:
    """What the performer made of the request."""
    asked = of or request()
    values: dict[str, Any] = {
        "task_id": domain.task_id(asked),
        "proof_of_task": cid_of("proof"),
        "data": (3).to_bytes(32, "big"),
        "task_performer": asked.performer,
        "task_definition_id": asked.task_definition_id,
        "epoch": EPOCH,
    }
    return TaskInfo(**(values | changes))


def task_message(
    of: TaskRequest | None = None,
    info: TaskInfo | None = None,
    *,
    requester: NodeKeys = REQUESTER,
    performer: NodeKeys = PERFORMER,
    domain: Domain = DOMAIN,
) -> TaskMessage:
    """Both signatures are made over what is given, whatever that is."""
    asked = of or request()
    done = info or task_info(asked, domain=domain)
    return TaskMessage(
        request=asked,
        requester_signature=signed(asked, requester, domain=domain),
        task_info=done,
        performer_signature=performer.operator.sign(domain.task_info_hash(done)),
        content=Ref(done.proof_of_task, 100, UNIXFS_V1_2025.name),
    )


# --- votes and certificates ----------------------------------------------------------------------
def vote(
    index: int = 0, info: TaskInfo | None = None, verdict: Verdict = Verdict.VALID, *, domain: Domain = DOMAIN
) -> VoteMessage:
    """Attester `index`'s."""
    about = info or task_info(domain=domain)
    info_hash = domain.task_info_hash(about)
    return VoteMessage(
        task_id=about.task_id,
        task_info_hash=info_hash,
        epoch=about.epoch,
        attester=ATTESTERS[index].address,
        verdict=verdict,
        signature=ATTESTERS[index].vote.sign(domain.vote(info_hash, verdict)),
        evidence=sha(f"evidence {index} {info_hash.hex()} {verdict}"),
    )


def abstention(
    index: int = 0, info: TaskInfo | None = None, reason: AbstainReason = AbstainReason.PROOF_UNAVAILABLE
) -> AbstainMessage:
    """Attester `index`'s."""
    about = info or task_info()
    return AbstainMessage(
        task_id=about.task_id,
        task_info_hash=DOMAIN.task_info_hash(about),
        epoch=about.epoch,
        attester=ATTESTERS[index].address,
        reason=reason,
    )


def certificate(
    info: TaskInfo | None = None,
    verdict: Verdict = Verdict.VALID,
    signers: Sequence[int] = APPROVING,
    *,
    domain: Domain = DOMAIN,
    performer: NodeKeys = PERFORMER,
    members: Sequence[NodeKeys] = ATTESTERS,
) -> TaskCertificate:
    """`signers` signed together; whether that is a quorum, the table says."""
    about = info or task_info(domain=domain)
    info_hash = domain.task_info_hash(about)
    digest = domain.vote(info_hash, verdict)
    return TaskCertificate(
        task_info=about,
        verdict=verdict,
        signers=tuple(signers),
        signature=bls.aggregate(members[index].vote.sign(digest) for index in signers),
        performer_signature=performer.operator.sign(info_hash),
    )


def certificate_message(of: TaskCertificate | None = None) -> CertificateMessage:
    return CertificateMessage(certificate=of or certificate(), valid_power=5, invalid_power=0)


def submitted(*task_ids: Digest) -> SubmittedMessage:
    return SubmittedMessage(aggregator=AGGREGATOR.address, tx_hash=sha("transaction"), task_ids=task_ids)


def batch_proposal(*certificates: TaskCertificate) -> BatchProposal:
    return BatchProposal(
        epoch=EPOCH, aggregator=AGGREGATOR.address, certificates=certificates or (certificate(), certificate_of(2))
    )


def certificate_of(nonce: int) -> TaskCertificate:
    """An approval of another task."""
    return certificate(task_info(request(nonce)))


def batch_vote(index: int = 0, batch: BatchInfo | None = None) -> BatchVote:
    """Attester `index`'s."""
    about = batch or BatchInfo(sha("root"), sha("document"), 2, EPOCH, AGGREGATOR.address)
    signature = ATTESTERS[index].vote.sign(DOMAIN.batch(about))
    return BatchVote(batch=about, attester=ATTESTERS[index].address, signature=signature)


# --- faults --------------------------------------------------------------------------------------
def high_s(signature: bytes) -> bytes:
    """The same signature's other form, which plain ecrecover takes."""
    s = ecdsa.HALF_ORDER * 2 + 1 - int.from_bytes(signature[32:64], "big")
    return signature[:32] + s.to_bytes(32, "big") + bytes([27 + 28 - signature[64]])


def ruling(check: Callable[..., object], *arguments: object) -> tuple[type[GossipRuling], str] | None:
    """What a check decided: the ruling and its rule; None when it accepts."""
    try:
        check(*arguments)
    except (Ignore, Reject) as decided:
        return type(decided), decided.rule
    return None
