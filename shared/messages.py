"""What travels over gossip (protocol §4): msgpack maps with a `type` tag, unknown fields refused, size limits first.

Equal values may have different bytes (msgpack integers are not canonical), so nothing is ever identified by hashing a
message: `shared.digests` does that.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from shared import constants, wire
from shared.digests import Domain
from shared.errors import CodecError
from shared.reasons import AbstainReason
from shared.types import Address, BatchInfo, Digest, Ref, TaskCertificate, TaskInfo, TaskRequest, Verdict

T = TypeVar("T")


class TaskMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="task"):
    """A performed task, with the request that asked for it. `content` says where its proof may be fetched."""

    request: TaskRequest
    requester_signature: bytes
    task_info: TaskInfo
    performer_signature: bytes
    content: Ref


class VoteMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="vote"):
    """An attester's signed verdict on a task info."""

    task_id: Digest
    task_info_hash: Digest
    epoch: int
    attester: Address
    verdict: Verdict
    signature: bytes  # G1 packed
    evidence: Digest  # the commitment to what it rests on (protocol §6); zeros where that is kept no longer


class AbstainMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="abstain"):
    """An attester says why it could not check. Counts for nobody."""

    task_id: Digest
    task_info_hash: Digest
    epoch: int
    attester: Address
    reason: AbstainReason


class CertificateMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="certificate"):
    """A task certificate, with the tally that a person wants to see (not part of what is proved)."""

    certificate: TaskCertificate
    invalid_power: int
    valid_power: int


class SubmittedMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="submitted"):
    """An aggregator says which transaction settles these tasks: a hint for people, believed only from the chain."""

    aggregator: Address
    tx_hash: Digest
    task_ids: tuple[Digest, ...]


class BatchProposal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="batch_proposal"):
    """An aggregator asks for signatures over the Merkle root of these certificates."""

    epoch: int
    aggregator: Address
    certificates: tuple[TaskCertificate, ...]


class BatchVote(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="batch_vote"):
    """An attester signed a batch of certificates that it checked."""

    batch: BatchInfo
    attester: Address
    signature: bytes  # G1 packed


TaskTopic = TaskMessage
VoteTopic = VoteMessage | AbstainMessage
CertificateTopic = CertificateMessage | SubmittedMessage
BatchTopic = BatchProposal | BatchVote


class Topics:
    """Topic names of one network: another chain or contract is another mesh."""

    def __init__(self, domain: Domain) -> None:
        prefix = f"poi/3/{domain.chain_id}/{domain.contract.hex()}"
        self.task = f"{prefix}/task"
        self.vote = f"{prefix}/vote"
        self.certificate = f"{prefix}/certificate"
        self.batch = f"{prefix}/batch"


_task = wire.decoder(TaskTopic)
_vote: msgspec.msgpack.Decoder[VoteTopic] = wire.decoder(VoteTopic)
_certificate: msgspec.msgpack.Decoder[CertificateTopic] = wire.decoder(CertificateTopic)
_stored = wire.decoder(TaskCertificate)
_stored_request: msgspec.msgpack.Decoder[TaskRequest] = wire.decoder(TaskRequest)
_batch: msgspec.msgpack.Decoder[BatchTopic] = wire.decoder(BatchTopic)


def encode(message: TaskTopic | VoteTopic | CertificateTopic | BatchTopic) -> bytes:
    """Bytes for the wire."""
    return wire.encode(message)


def decode_task(data: bytes) -> TaskTopic:
    """Raises `CodecError`."""
    message: TaskTopic = _decode(_task, data, constants.MAX_TASK_MESSAGE_BYTES)
    _check_request(message.request)
    _check_info(message.task_info)
    return message


def decode_vote(data: bytes) -> VoteTopic:
    """Raises `CodecError`."""
    message = _decode(_vote, data, constants.MAX_VOTE_MESSAGE_BYTES)
    _check_lengths(("task_id", message.task_id, 32), ("task_info_hash", message.task_info_hash, 32))
    _check_lengths(("attester", message.attester, 20))
    _check_range("epoch", message.epoch, 32)
    if isinstance(message, VoteMessage):
        _check_lengths(("evidence", message.evidence, 32))
    return message


def decode_certificate(data: bytes) -> CertificateTopic:
    """Raises `CodecError`."""
    message = _decode(_certificate, data, constants.MAX_CERTIFICATE_MESSAGE_BYTES)
    if isinstance(message, SubmittedMessage):
        _check_lengths(("aggregator", message.aggregator, 20), ("tx_hash", message.tx_hash, 32))
        _check_lengths(*(("task_ids", task_id, 32) for task_id in message.task_ids))
        return message
    check_certificate_shape(message.certificate)
    _check_range("valid_power", message.valid_power, 128)
    _check_range("invalid_power", message.invalid_power, 128)
    return message


def decode_batch(data: bytes) -> BatchTopic:
    """Raises `CodecError`."""
    message = _decode(_batch, data, constants.MAX_BATCH_MESSAGE_BYTES)
    if isinstance(message, BatchVote):
        batch = message.batch
        _check_lengths(("root", batch.root, 32), ("content_hash", batch.content_hash, 32))
        _check_lengths(("aggregator", batch.aggregator, 20), ("attester", message.attester, 20))
        _check_range("size", batch.size, 32)
        _check_range("epoch", batch.epoch, 32)
    else:
        _check_lengths(("aggregator", message.aggregator, 20))
        _check_range("epoch", message.epoch, 32)
        for certificate in message.certificates:
            check_certificate_shape(certificate)
    return message


def encode_certificate(certificate: TaskCertificate) -> bytes:
    """For a role's own store."""
    return wire.encode(certificate)


def decode_stored_certificate(data: bytes) -> TaskCertificate:
    """Raises `CodecError`."""
    certificate: TaskCertificate = _decode(_stored, data, constants.MAX_CERTIFICATE_MESSAGE_BYTES)
    return certificate


def check_certificate_shape(certificate: TaskCertificate) -> None:
    """Lengths and ranges that the type system cannot hold; without them an ABI encoder would raise far from here."""
    _check_info(certificate.task_info)
    if len(certificate.signers) > constants.MAX_SEATS:
        raise CodecError(f"signers: at most {constants.MAX_SEATS}, got {len(certificate.signers)}")


def encode_request(request: TaskRequest) -> bytes:
    """For a role's own store."""
    return wire.encode(request)


def decode_request(data: bytes) -> TaskRequest:
    """Of `encode_request`. Raises `CodecError`."""
    return _decode(_stored_request, data, constants.MAX_TASK_MESSAGE_BYTES)


def _decode(decoder: msgspec.msgpack.Decoder[T], data: bytes, limit: int) -> T:
    if len(data) > limit:
        raise CodecError(f"message of {len(data)} bytes is over the limit of {limit}")
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise CodecError(str(error)) from None


def _check_request(request: TaskRequest) -> None:
    _check_lengths(
        ("request.requester", request.requester, 20),
        ("request.performer", request.performer, 20),
        ("request.model_hash", request.model_hash, 32),
        ("request.seed", request.seed, 32),
    )
    _check_range("request.nonce", request.nonce, 256)
    _check_range("request.fee", request.fee, 256)
    _check_range("request.deadline", request.deadline, 64)
    _check_range("request.task_definition_id", request.task_definition_id, 16)


def _check_info(info: TaskInfo) -> None:
    _check_lengths(("task_info.task_id", info.task_id, 32), ("task_info.task_performer", info.task_performer, 20))
    _check_range("task_info.task_definition_id", info.task_definition_id, 16)
    _check_range("task_info.epoch", info.epoch, 32)


def _check_lengths(*fields: tuple[str, bytes, int]) -> None:
    for name, value, length in fields:
        if len(value) != length:
            raise CodecError(f"{name}: expected {length} bytes, got {len(value)}")


def _check_range(name: str, value: int, bits: int) -> None:
    if not 0 <= value < 1 << bits:
        raise CodecError(f"{name}: expected an unsigned integer of {bits} bits")


__all__ = [
    "AbstainMessage",
    "BatchProposal",
    "BatchVote",
    "CertificateMessage",
    "SubmittedMessage",
    "TaskMessage",
    "Topics",
    "VoteMessage",
    "check_certificate_shape",
    "decode_batch",
    "decode_certificate",
    "decode_stored_certificate",
    "decode_task",
    "decode_vote",
    "encode",
    "encode_certificate",
]
