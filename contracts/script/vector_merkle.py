"""merkle.json: OpenZeppelin's standard Merkle tree, built recursively; `shared.merkle` fills an array instead."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from eth_abi.abi import encode
from eth_abi.packed import encode_packed
from eth_utils.crypto import keccak
from vector_json import Json, hexed

SIZES = (1, 2, 3, 5, 8)


@dataclass(frozen=True)
class Entry:
    """A certificate, as far as it goes into its leaf."""

    task_id: bytes
    info_hash: bytes
    is_approved: bool
    epoch: int
    attester_set: int
    indices: bytes

    @property
    def voters_hash(self) -> bytes:
        return voters_hash(self.epoch, self.attester_set, self.indices)

    @property
    def leaf(self) -> bytes:
        values = [self.task_id, self.info_hash, self.is_approved, self.voters_hash]
        return keccak(keccak(encode(["bytes32", "bytes32", "bool", "bytes32"], values)))


def voters_hash(epoch: int, attester_set: int, indices: bytes) -> bytes:
    """Four bytes, four bytes, and the indices as they are."""
    return keccak(encode_packed(["uint32", "uint32", "bytes"], [epoch, attester_set, indices]))


def root_and_proofs(leaves: list[bytes]) -> tuple[bytes, dict[bytes, list[bytes]]]:
    """The tree's root, and each leaf's siblings from the leaf up."""
    heap = sorted(leaves, reverse=True)
    proofs: dict[bytes, list[bytes]] = {entry: [] for entry in leaves}

    def build(position: int) -> tuple[bytes, list[bytes]]:
        """The node at `position` of a complete binary tree in heap order, and the leaves below it."""
        if position >= len(leaves) - 1:
            entry = heap[position - len(leaves) + 1]
            return entry, [entry]
        (left, left_leaves), (right, right_leaves) = build(2 * position + 1), build(2 * position + 2)
        for entry in left_leaves:
            proofs[entry].append(right)
        for entry in right_leaves:
            proofs[entry].append(left)
        return keccak(min(left, right) + max(left, right)), left_leaves + right_leaves

    return build(0)[0], proofs


def merkle_vectors() -> Json:
    return [_tree(size) for size in SIZES]


def _tree(size: int) -> Json:
    entries = [_entry(i, size) for i in range(size)]
    root, proofs = root_and_proofs([entry.leaf for entry in entries])
    return {
        "root": hexed(root),
        "leaves": [
            {
                "taskId": hexed(entry.task_id),
                "taskInfoHash": hexed(entry.info_hash),
                "isApproved": entry.is_approved,
                "epoch": str(entry.epoch),
                "attesterSet": str(entry.attester_set),
                "indices": hexed(entry.indices),
                "votersHash": hexed(entry.voters_hash),
                "leaf": hexed(entry.leaf),
                "proof": [hexed(sibling) for sibling in proofs[entry.leaf]],
            }
            for entry in entries
        ],
    }


def _entry(i: int, size: int) -> Entry:
    """Nobody missing, one byte an index, two bytes an index, and the largest epoch and set in turn."""
    voters = [(1, 0, b""), (1, 0, b"\x01\x04"), (7, 2, b"\x00\x03\x01\x2c"), (2**32 - 1, 2**32 - 1, b"\x04\x0f")]
    epoch, attester_set, indices = voters[i % len(voters)]
    return Entry(_hash(f"task {i} of {size}"), _hash(f"info {i}"), i % 3 != 2, epoch, attester_set, indices)


def _hash(label: str) -> bytes:
    return hashlib.sha256(label.encode()).digest()
