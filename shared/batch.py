"""A batch of certificates (protocol §5, §8): its document, its Merkle root, and what is signed over both."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from shared.canonical import check_nesting
from shared.constants import MAX_BATCH_SIZE
from shared.content.cid import Codec, decode_cid
from shared.digests import Domain, leaf
from shared.errors import CodecError
from shared.indices import indices_of, voters_hash
from shared.json_forms import certificate_from_json, certificate_to_json
from shared.merkle import MerkleTree
from shared.types import Address, BatchInfo, Cid, Digest, OperatorTable, TaskCertificate, TaskInfo, Verdict

VERSION = 1
MAX_DOCUMENT_BYTES = 1 << 20  # one raw block, so that the content hash is the CID's own digest


@dataclass(frozen=True)
class Batch:
    """Certificates in ascending order of task id, with everything that follows from them."""

    certificates: tuple[TaskCertificate, ...]
    document: bytes
    indices: tuple[bytes, ...]  # who voted, as each certificate's settlement names them, in their order
    voters: tuple[Digest, ...]  # the hashes of that, likewise
    leaves: tuple[bytes, ...]  # likewise
    tree: MerkleTree
    info: BatchInfo

    def proof(self, certificate: TaskCertificate) -> list[bytes]:
        """Of the certificate's leaf. Raises ValueError for a certificate that is not in the batch."""
        return self.tree.proof(self.leaves[self.certificates.index(certificate)])

    def indices_of(self, certificate: TaskCertificate) -> bytes:
        """Raises ValueError for a certificate that is not in the batch."""
        return self.indices[self.certificates.index(certificate)]

    def voters_of(self, certificate: TaskCertificate) -> Digest:
        """Raises ValueError for a certificate that is not in the batch."""
        return self.voters[self.certificates.index(certificate)]


def certificate_leaf(domain: Domain, certificate: TaskCertificate, voters: Digest) -> bytes:
    """What the contract hashes for a certificate in a batch; `voters` is its `voters_hash`."""
    info = certificate.task_info
    return leaf(info.task_id, domain.task_info_hash(info), certificate.verdict is Verdict.VALID, voters)


def make_batch(
    domain: Domain,
    certificates: Sequence[TaskCertificate],
    epoch: int,
    aggregator: Address,
    table_of: Callable[[TaskInfo], OperatorTable],
) -> Batch:
    """`table_of` gives the table that votes on a task info. Raises ValueError for no certificates, too many, or two of
    one task; `Reverted` for signers whom the table does not have."""
    if not 0 < len(certificates) <= MAX_BATCH_SIZE:
        raise ValueError(f"a batch holds 1 to {MAX_BATCH_SIZE} certificates, got {len(certificates)}")
    ordered = tuple(sorted(certificates, key=lambda certificate: certificate.task_info.task_id))
    if len({certificate.task_info.task_id for certificate in ordered}) != len(ordered):
        raise ValueError("two certificates of one task")
    document = encode_document(ordered)
    tables = [table_of(each.task_info) for each in ordered]
    indices = tuple(indices_of(each, table) for each, table in zip(ordered, tables, strict=True))
    voters = tuple(voters_hash(table, named) for table, named in zip(tables, indices, strict=True))
    leaves = tuple(certificate_leaf(domain, each, hashed) for each, hashed in zip(ordered, voters, strict=True))
    tree = MerkleTree(leaves)
    info = BatchInfo(tree.root, Digest(hashlib.sha256(document).digest()), len(ordered), epoch, aggregator)
    return Batch(ordered, document, indices, voters, leaves, tree, info)


def encode_document(certificates: Sequence[TaskCertificate]) -> bytes:
    """Canonical JSON. Raises ValueError when it would not fit into one block."""
    forms = [certificate_to_json(certificate) for certificate in certificates]
    document = msgspec.json.encode({"version": VERSION, "certificates": forms}, order="sorted")
    if len(document) > MAX_DOCUMENT_BYTES:
        raise ValueError(f"batch document of {len(document)} bytes is over {MAX_DOCUMENT_BYTES}")
    return document


def document_cid(content_hash: Digest) -> Cid:
    """Where a settled batch's document is: the CID of one raw block with that SHA-256."""
    return decode_cid(bytes((1, Codec.RAW, 0x12, 0x20)) + content_hash)


def decode_document(document: bytes) -> tuple[TaskCertificate, ...]:
    """Raises `CodecError`."""
    if len(document) > MAX_DOCUMENT_BYTES:
        raise CodecError(f"batch document: {len(document)} bytes, at most {MAX_DOCUMENT_BYTES} are allowed")
    try:
        check_nesting(document)
        parsed = msgspec.json.decode(document, type=_Document)
    except (CodecError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CodecError(f"batch document: {error}") from None
    if parsed.version != VERSION:
        raise CodecError(f"batch document: expected version {VERSION}, got {parsed.version}")
    return tuple(certificate_from_json(form, f"certificates[{i}]") for i, form in enumerate(parsed.certificates))


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    version: int
    certificates: list[dict[str, object]]
