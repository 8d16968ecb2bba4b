"""Evidence behind a vote (protocol §6): what an attester computed, and the commitment that its vote quotes.

The commitment binds the numbers before anybody sees them, and names its operator: whoever copies a vote copies a
commitment that it can never open, neither before the numbers are revealed nor after.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from shared.canonical import decode_canonical, decode_json, encode_canonical
from shared.card_parts import CidText
from shared.errors import CodecError
from shared.outputs import Output, encode_output
from shared.tensors import Name
from shared.types import Address, Digest, Fingerprint

# An output over it is kept as its hash: the answer that reveals it stays a third of a megabyte, and a full store holds
# two thousand of the largest.
MAX_RECOMPUTED_BYTES: Final = 256 << 10
MAX_EVIDENCE_BYTES: Final = MAX_RECOMPUTED_BYTES + (64 << 10)  # 16 outputs with long names have 20 KiB of statistics
MAX_STATISTICS: Final = 64  # two for each of 16 outputs, with room for what a method says of itself
MAX_OPENING_BYTES: Final = 2 * MAX_EVIDENCE_BYTES  # as a JSON string, each quote takes two bytes
NO_EVIDENCE: Final = Digest(bytes(32))  # the commitment of a vote whose evidence is kept no longer

Hex32 = Annotated[str, Meta(pattern="^0x[0-9a-f]{64}$", max_length=66)]
Hex20 = Annotated[str, Meta(pattern="^0x[0-9a-f]{40}$", max_length=42)]
Statistic = Annotated[str, Meta(max_length=1280)]  # words around a tensor's name, or a feed's pointer (1024)
Number = float | None  # None: beyond every number, as the distance of outputs of different shape is


class OutputHash(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="sha256"):
    """In place of an output that is too large to be kept: of its canonical bytes."""

    sha256: Hex32


class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """What one attester's vote on one task info rests on."""

    version: Literal[1] = 1
    task_info_hash: Hex32
    task_id: Hex32
    attester: Hex20
    card_cid: CidText
    method: Name
    verdict: Literal["valid", "invalid"]
    reason: Annotated[str, Meta(max_length=64)] | None
    score: Number
    statistics: Annotated[dict[Statistic, Number], Meta(max_length=MAX_STATISTICS)]
    is_refereed: bool
    engine: Fingerprint | None  # None where nothing had to be computed
    recomputed: Output | OutputHash | None


class Opening(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an attester reveals. `evidence` is the canonical JSON as text: its bytes are what was committed to."""

    commitment: Hex32
    evidence: Annotated[str, Meta(max_length=MAX_EVIDENCE_BYTES)]
    salt: Hex32


def output_in_evidence(output: Output) -> Output | OutputHash:
    """The output itself, or its hash where it is over the limit."""
    data = encode_output(output)
    return output if len(data) <= MAX_RECOMPUTED_BYTES else OutputHash(f"0x{hashlib.sha256(data).hexdigest()}")


def encode_evidence(evidence: Evidence) -> bytes:
    """Canonical. Raises `CodecError` over the limit."""
    data = encode_canonical(evidence)
    if len(data) > MAX_EVIDENCE_BYTES:
        raise CodecError(f"evidence: {len(data)} bytes, at most {MAX_EVIDENCE_BYTES} are allowed")
    return data


def decode_evidence(data: bytes) -> Evidence:
    """Raises `CodecError`. Tensors in it are not looked into."""
    return decode_canonical(data, Evidence, "evidence", max_bytes=MAX_EVIDENCE_BYTES)


# --- the commitment ----------------------------------------------------------------------------------
def salt_of(secret: bytes, task_info_hash: Digest) -> bytes:
    """32 bytes that nobody but the secret's owner can know before they are revealed, and that need no memory."""
    return hmac.digest(secret, task_info_hash, "sha256")


def commit(salt: bytes, operator: Address, task_info_hash: Digest, evidence: bytes) -> Digest:
    """`SHA-256(salt ‖ operator ‖ task info hash ‖ SHA-256(evidence))`."""
    return Digest(hashlib.sha256(salt + operator + task_info_hash + hashlib.sha256(evidence).digest()).digest())


def check_commitment(
    commitment: Digest, salt: bytes, evidence: bytes, *, operator: Address, task_info_hash: Digest
) -> Evidence:
    """What an operator's vote on a task info was committed to. Raises `CodecError` unless it is just this evidence, and
    says itself that it is that operator's and of that task info."""
    if commit(salt, operator, task_info_hash, evidence) != commitment:
        raise CodecError("evidence: it is not what the commitment was made of")
    decoded = decode_evidence(evidence)
    if (decoded.attester, decoded.task_info_hash) != (f"0x{operator.hex()}", f"0x{task_info_hash.hex()}"):
        raise CodecError("evidence: it is another operator's, or of another task info")
    return decoded


def encode_opening(salt: bytes, operator: Address, task_info_hash: Digest, evidence: bytes) -> bytes:
    """Canonical."""
    commitment = commit(salt, operator, task_info_hash, evidence)
    return encode_canonical(
        Opening(commitment=f"0x{commitment.hex()}", evidence=evidence.decode(), salt=f"0x{salt.hex()}")
    )


def decode_opening(data: bytes) -> Opening:
    """Raises `CodecError`; whether it opens anything, `check_commitment` says."""
    return decode_json(data, Opening, "evidence", max_bytes=MAX_OPENING_BYTES)
