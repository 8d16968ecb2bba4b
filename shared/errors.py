"""The exception tree. Adapters turn their library's errors into these at the edge.

PoiError
├── ConfigError              a setting is missing, unknown or out of range
├── CodecError               bytes that are not the message, document or point they claim to be
├── GossipRuling             what to do with a gossip message
│   ├── Ignore               counts against nobody
│   └── Reject               counts against the peer that forwarded it
├── ContentError             about a CID
│   ├── ContentUnavailable   nobody served it in time (the only kind worth a retry)
│   ├── ContentTooLarge      over the caller's limit
│   ├── ContentCorrupt       the DAG that hashes to this CID is not a file of ours
│   │   └── ContentRefuted   nobody served it here and now, and who signed where to get it signed a place that is none
│   ├── SourceFailed         one source did not deliver a block; `fault` says how
│   └── PublishFailed        a service did not take content; `is_final` when trying again cannot help
├── InferenceError
│   ├── ModelMismatch        the model's bytes do not have the hash that was asked for
│   ├── InputMismatch        the input does not fit the model; `field` and `expected` say how
│   └── InferenceFailed      the engine could not run (the attester's own trouble)
├── ServiceFailed            a service or a source outside did not answer, or not with what was asked
├── SigningError
│   └── ConflictingVote      the guard holds another vote for this task
├── StoreError               a role's durable file cannot be opened, read or written
│   ├── StoreBusy            another process, or another part of this one, has it open
│   ├── StoreFull            no room on the disk
│   └── StoreCorrupt         damaged, or not a file of ours
├── ChainError
│   ├── ChainUnavailable     the node could not be reached (worth a retry)
│   ├── Reverted             the contract refused; `name` is its custom error, `arguments` its values
│   └── Dropped              a transaction left the pool without being mined
├── TransportError           gossip cannot publish
├── RequestRefused           the performer's door says no; `code`, `field`, `expected`
├── CalibrationFailed        what was measured allows no model card
└── IllegalTransition        an event that a task's phase does not allow
"""

from __future__ import annotations

from typing import Any

from shared.reasons import SourceFault


class PoiError(Exception):
    """Root of every error that this project raises on purpose."""


class ConfigError(PoiError):
    """A setting is missing, unknown or out of range."""


class CodecError(PoiError):
    """Bytes that are not what they claim to be."""


class GossipRuling(PoiError):
    """What a gossip check decided; `rule` is the sentence of protocol §4 in a word or two."""

    def __init__(self, rule: str) -> None:
        super().__init__(rule)
        self.rule = rule


class Ignore(GossipRuling):
    """Drop the message; it counts against nobody."""


class Reject(GossipRuling):
    """Drop the message; it counts against the peer that forwarded it."""


class ContentError(PoiError):
    """Something about a CID."""


class ContentUnavailable(ContentError):
    """No source served it in time; `causes` maps each source to what it said."""

    def __init__(self, cid: str, causes: dict[str, str] | None = None) -> None:
        self.cid = cid
        self.causes = causes or {}
        said = "; ".join(f"{source}: {cause}" for source, cause in self.causes.items()) or "no source is known"
        super().__init__(f"content {cid} is unavailable ({said})")


class ContentTooLarge(ContentError):
    """The content, or what its root declares, is over the caller's limit."""


class ContentCorrupt(ContentError):
    """The blocks hash to their CIDs, yet are no UnixFS file (wrong codec, sizes, depth, too many nodes)."""


class ContentRefuted(ContentCorrupt):
    """EigenDA proved the signed certificate to be of no blob, and nobody else served the content: not now, and not to
    this reader. Others may come to another end."""


class SourceFailed(ContentError):
    """What one source did instead of delivering a block; the others may still have it."""

    def __init__(self, said: str, fault: SourceFault = SourceFault.UNREACHABLE) -> None:
        super().__init__(said)
        self.fault = fault


class PublishFailed(ContentError):
    """A service did not take content. `is_final`: trying again cannot help (refused, unpaid, another CID)."""

    def __init__(self, said: str, *, is_final: bool = False) -> None:
        super().__init__(said)
        self.is_final = is_final


class InferenceError(PoiError):
    """Something about a model or its run."""


class ModelMismatch(InferenceError):
    """The model's bytes do not have the hash that was asked for."""


class InputMismatch(InferenceError):
    """The input does not fit the model."""

    def __init__(self, field: str, expected: str, got: str) -> None:
        super().__init__(f"{field}: expected {expected}, got {got}")
        self.field, self.expected, self.got = field, expected, got


class InferenceFailed(InferenceError):
    """The engine could not run the model: the attester's own trouble, never the performer's."""


class ServiceFailed(PoiError):
    """A service or a source outside did not answer, or not with what was asked: nobody's offence."""


class SigningError(PoiError):
    """A signature was not made."""


class ConflictingVote(SigningError):
    """The guard holds another vote, or another task info, for this task."""


class StoreError(PoiError):
    """Something about a role's durable memory: closed, unreadable, made by a newer version, over a size limit."""


class StoreBusy(StoreError):
    """The file is open elsewhere; a vote key that two processes use is how an honest operator gets slashed."""


class StoreFull(StoreError):
    """No room on the disk. What was asked for did not happen; what was acknowledged before is still there."""


class StoreCorrupt(StoreError):
    """The file is damaged, or is not a file of ours."""


class ChainError(PoiError):
    """Something about the chain."""


class ChainUnavailable(ChainError):
    """The node could not be reached, or did not answer in time."""


class Reverted(ChainError):
    """The contract refused. `name` is its custom error (or the revert text), `arguments` its decoded values."""

    def __init__(self, name: str, arguments: tuple[Any, ...] = ()) -> None:
        super().__init__(f"reverted: {name}{arguments or ''}")
        self.name, self.arguments = name, arguments


class Dropped(ChainError):
    """A transaction left the pool, or the chain, without being mined."""


class TransportError(PoiError):
    """Gossip cannot publish: the node is stopped, or the message is over the limit."""


class RequestRefused(PoiError):
    """The performer's door says no.

    `code` is the JSON-RPC error code, `field` the path of the offending value, `expected` what would be taken.
    """

    def __init__(self, code: int, message: str, field: str | None = None, expected: str | None = None) -> None:
        super().__init__(message)
        self.code, self.field, self.expected = code, field, expected


class CalibrationFailed(PoiError):
    """What was measured allows no model card: honest runs and cheats cannot be told apart."""


class IllegalTransition(PoiError):
    """An event that a task's phase does not allow."""
