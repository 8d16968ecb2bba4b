"""merkle.json: OpenZeppelin's standard Merkle tree, built recursively; `shared.merkle` fills an array instead."""

from __future__ import annotations

import hashlib

from eth_abi.abi import encode
from eth_utils.crypto import keccak
from vector_json import Json, hexed

SIZES = (1, 2, 3, 5, 8)


def leaf(task_id: bytes, info_hash: bytes, is_approved: bool) -> bytes:
    return keccak(keccak(encode(["bytes32", "bytes32", "bool"], [task_id, info_hash, is_approved])))


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
    entries = [(_hash(f"task {i} of {size}"), _hash(f"info {i}"), i % 3 != 2) for i in range(size)]
    leaves = [leaf(*entry) for entry in entries]
    root, proofs = root_and_proofs(leaves)
    return {
        "root": hexed(root),
        "leaves": [
            {
                "taskId": hexed(task_id),
                "taskInfoHash": hexed(info_hash),
                "isApproved": is_approved,
                "leaf": hexed(node),
                "proof": [hexed(sibling) for sibling in proofs[node]],
            }
            for (task_id, info_hash, is_approved), node in zip(entries, leaves, strict=True)
        ],
    }


def _hash(label: str) -> bytes:
    return hashlib.sha256(label.encode()).digest()
