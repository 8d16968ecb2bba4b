"""Gossip messages with faults, the exact ruling on each fault, and a node that rules on them (protocol §4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from shared import messages
from shared.crypto.keystore import NodeKeys
from shared.errors import GossipRuling, Ignore, Reject
from shared.roster import Roster
from shared.types import Role, Verdict
from shared.validation import GossipRules
from tests.builders import (
    AGGREGATOR,
    ATTESTERS,
    DOMAIN,
    EPOCH,
    NOW,
    OPERATORS,
    PERFORMER,
    STRANGER,
    TWO_THIRDS,
    FixedClock,
    abstention,
    batch_proposal,
    batch_vote,
    certificate,
    certificate_message,
    keys_of,
    operator_of,
    replace,
    request,
    roster_of,
    ruling,
    sha,
    submitted,
    task_info,
    task_message,
    vote,
)

NEWCOMER, RIVAL = keys_of("newcomer"), keys_of("rival")
# A newcomer registered as attester, and is in no table yet; a rival performs and aggregates.
ROSTER = roster_of(
    [*OPERATORS, operator_of(NEWCOMER, Role.ATTESTER), operator_of(RIVAL, Role.PERFORMER | Role.AGGREGATOR)]
)
Ruling = tuple[type[GossipRuling], str]
Changes = dict[str, Any]


@dataclass
class Node:
    """A node's rules, with its clock and roster at hand."""

    clock: FixedClock = field(default_factory=FixedClock)
    roster: Roster = ROSTER

    def __post_init__(self) -> None:
        self.rules = GossipRules(domain=DOMAIN, roster=lambda: self.roster, clock=self.clock)

    def bytes_of(self, topic: str, origin: NodeKeys, data: bytes) -> Ruling | None:
        """The ruling; None for accepted."""
        checks: dict[str, Callable[..., object]] = {
            "task": self.rules.check_task,
            "vote": self.rules.check_vote,
            "certificate": self.rules.check_certificate,
            "batch": self.rules.check_batch,
        }
        return ruling(checks[topic], origin.peer_key, data)

    def hears(self, origin: NodeKeys, message: Any) -> Ruling | None:
        return self.bytes_of(TOPIC_OF[type(message)], origin, messages.encode(message))


TOPIC_OF: dict[type, str] = {
    messages.TaskMessage: "task",
    messages.VoteMessage: "vote",
    messages.AbstainMessage: "vote",
    messages.CertificateMessage: "certificate",
    messages.SubmittedMessage: "certificate",
    messages.BatchProposal: "batch",
    messages.BatchVote: "batch",
}


# --- messages with faults --------------------------------------------------------------------------
# Each maker turns changes into a signed message and its origin. Changes of `request`, `info`, `batch` happen before
# signing, those of `message` and its `content` after it.
def make_task(changes: Changes) -> tuple[NodeKeys, Any]:
    asked = request(**changes.get("request", {}))
    info = task_info(asked, **changes.get("info", {}))
    signers = {role: changes[role] for role in ("requester", "performer") if role in changes}
    honest = task_message(asked, info, **signers)
    said = replace(honest, content=replace(honest.content, **changes.get("content", {})))
    return changes.get("origin", PERFORMER), replace(said, **changes.get("message", {}))


def make_vote(changes: Changes) -> tuple[NodeKeys, Any]:
    return changes.get("origin", ATTESTERS[0]), replace(vote(), **changes.get("message", {}))


def make_abstention(changes: Changes) -> tuple[NodeKeys, Any]:
    return changes.get("origin", ATTESTERS[0]), replace(abstention(), **changes.get("message", {}))


def make_certificate(changes: Changes) -> tuple[NodeKeys, Any]:
    made = certificate(task_info(**changes.get("info", {})), **changes.get("certificate", {}))
    return changes.get("origin", AGGREGATOR), certificate_message(replace(made, **changes.get("message", {})))


def make_submitted(changes: Changes) -> tuple[NodeKeys, Any]:
    return changes.get("origin", AGGREGATOR), replace(submitted(sha("task")), **changes.get("message", {}))


def make_proposal(changes: Changes) -> tuple[NodeKeys, Any]:
    return changes.get("origin", AGGREGATOR), replace(batch_proposal(), **changes.get("message", {}))


def make_batch_vote(changes: Changes) -> tuple[NodeKeys, Any]:
    honest = batch_vote().batch
    made = batch_vote(batch=replace(honest, **changes.get("batch", {})))
    return changes.get("origin", ATTESTERS[0]), replace(made, **changes.get("message", {}))


MAKERS: dict[str, Callable[[Changes], tuple[NodeKeys, Any]]] = {
    "task": make_task,
    "vote": make_vote,
    "abstain": make_abstention,
    "certificate": make_certificate,
    "submitted": make_submitted,
    "batch_proposal": make_proposal,
    "batch_vote": make_batch_vote,
}

REPEATED: tuple[str, Ruling, Changes] = ("repeated", (Ignore, "repeated"), {"repeated": True})
NOT_IN_TABLE: Changes = {"origin": NEWCOMER, "message": {"attester": NEWCOMER.address}}
OTHERS = certificate(task_info(request(99)))


def stranger(role: str) -> tuple[str, Ruling, Changes]:
    return "stranger", (Ignore, f"origin is not a registered {role}"), {"origin": STRANGER}


# In the order of the specification.
FAULTS: dict[str, list[tuple[str, Ruling, Changes]]] = {
    "task": [
        stranger("performer"),
        ("another performer's", (Reject, "performer"), {"info": {"task_performer": RIVAL.address}}),
        ("another task id", (Reject, "task id"), {"info": {"task_id": sha("another task")}}),
        ("no CID", (Reject, "CID"), {"info": {"proof_of_task": "bafk"}}),
        (
            "another's content",
            (Reject, "content of another CID or profile"),
            {"content": {"profile": "unixfs-v0-2015"}},
        ),
        ("certificate", (Reject, "content size"), {"content": {"eigenda": bytes(8193)}}),
        ("sources", (Reject, "content sources"), {"content": {"sources": ("http://a",) * 9}}),
        ("parameters", (Reject, "parameters size"), {"request": {"parameters": "p" * 4097}}),
        ("data", (Reject, "data size"), {"info": {"data": bytes(4097)}}),
        ("deadline", (Ignore, "deadline"), {"request": {"deadline": int(NOW)}}),
        ("epoch", (Ignore, "unknown epoch"), {"info": {"epoch": EPOCH + 1}}),
        REPEATED,
        ("requester", (Reject, "requester's signature"), {"requester": STRANGER}),
        ("performer", (Reject, "performer's signature"), {"performer": STRANGER}),
    ],
    "vote": [
        stranger("attester"),
        ("abstains", (Reject, "verdict or signature length"), {"message": {"verdict": Verdict.ABSTAIN}}),
        ("95 bytes", (Reject, "verdict or signature length"), {"message": {"signature": bytes(95)}}),
        ("epoch", (Ignore, "unknown epoch"), {"message": {"epoch": EPOCH + 1}}),
        ("another attester's", (Reject, "attester"), {"message": {"attester": ATTESTERS[1].address}}),
        ("not in the table", (Ignore, "attester is not in the table"), NOT_IN_TABLE),
        REPEATED,
    ],
    "abstain": [
        stranger("attester"),
        ("epoch", (Ignore, "unknown epoch"), {"message": {"epoch": EPOCH - 2}}),
        ("another attester's", (Reject, "attester"), {"message": {"attester": ATTESTERS[1].address}}),
        ("not in the table", (Ignore, "attester is not in the table"), NOT_IN_TABLE),
        REPEATED,
    ],
    "certificate": [
        stranger("aggregator"),
        ("abstains", (Reject, "verdict"), {"message": {"verdict": Verdict.ABSTAIN}}),
        ("97 bytes", (Reject, "signature length"), {"message": {"signature": bytes(97)}}),
        ("unsorted", (Reject, "signers"), {"message": {"signers": (0, 2, 1)}}),
        ("epoch", (Ignore, "unknown epoch"), {"info": {"epoch": EPOCH + 1}}),
        ("out of the table", (Reject, "signers"), {"message": {"signers": (0, 1, 2, 4)}}),
        ("two thirds exactly", (Reject, "quorum"), {"certificate": {"signers": TWO_THIRDS}}),
        ("performer", (Reject, "performer's signature"), {"certificate": {"performer": RIVAL}}),
        ("another's votes", (Reject, "aggregate signature"), {"message": {"signature": OTHERS.signature}}),
        # In the specification it stands after the epoch; but what repeats a whole certificate has no other fault.
        REPEATED,
    ],
    "submitted": [
        stranger("aggregator"),
        ("another's", (Reject, "aggregator or size"), {"message": {"aggregator": RIVAL.address}}),
        ("129 ids", (Reject, "aggregator or size"), {"message": {"task_ids": (sha("task"),) * 129}}),
    ],
    "batch_proposal": [
        stranger("aggregator"),
        ("empty", (Reject, "batch size"), {"message": {"certificates": ()}}),
        ("another's", (Reject, "aggregator"), {"message": {"aggregator": RIVAL.address}}),
        ("epoch", (Ignore, "unknown epoch"), {"message": {"epoch": EPOCH + 1}}),
    ],
    "batch_vote": [
        stranger("attester"),
        ("95 bytes", (Reject, "signature length"), {"message": {"signature": bytes(95)}}),
        ("epoch", (Ignore, "unknown epoch"), {"batch": {"epoch": EPOCH + 1}}),
        ("another attester's", (Reject, "attester"), {"message": {"attester": ATTESTERS[1].address}}),
        ("not in the table", (Ignore, "attester is not in the table"), NOT_IN_TABLE),
        REPEATED,
    ],
}


def merged(*faults: Changes) -> Changes:
    """Where two change the same thing, the earlier one has it."""
    result: Changes = {}
    for changes in reversed(faults):
        for part, value in changes.items():
            result[part] = {**result.get(part, {}), **value} if isinstance(value, dict) else value
    return result


def verdict_on(tag: str, changes: Changes) -> Ruling | None:
    """Of a node that has heard the honest message already, when the changes say so."""
    node = Node()
    if changes.get("repeated"):
        assert node.hears(*MAKERS[tag]({})) is None
    return node.hears(*MAKERS[tag](changes))
