"""OpenZeppelin's standard Merkle tree (protocol §8): sorted leaves, sorted pairs, keccak256.

The layout is that of `@openzeppelin/merkle-tree`: an array of 2n − 1 nodes, the root first, the sorted leaves last and
reversed; so proofs are the same as the JavaScript library's and `MerkleProof.verify` reads them.
"""

from __future__ import annotations

from collections.abc import Sequence

from eth_utils.crypto import keccak

from shared.types import Digest


class MerkleTree:
    """Over 32-byte leaf hashes (`shared.digests.leaf`). Raises ValueError for no leaves and for a repeated leaf."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        if not leaves:
            raise ValueError("a Merkle tree needs a leaf")
        if len(set(leaves)) != len(leaves):
            # A repeated leaf would let one certificate be counted as two tasks of the batch.
            raise ValueError("a leaf is repeated")
        nodes = [b""] * (len(leaves) - 1) + sorted(leaves, reverse=True)
        for index in range(len(leaves) - 2, -1, -1):
            nodes[index] = _pair(nodes[2 * index + 1], nodes[2 * index + 2])
        self._nodes = nodes
        self._index = {node: index for index, node in enumerate(nodes) if index >= len(leaves) - 1}

    @property
    def root(self) -> Digest:
        return Digest(self._nodes[0])

    def proof(self, leaf: bytes) -> list[bytes]:
        """Siblings from the leaf up. Raises KeyError for a leaf that is not in the tree."""
        index = self._index[leaf]
        siblings = []
        while index > 0:
            siblings.append(self._nodes[index + 1 if index % 2 else index - 1])
            index = (index - 1) // 2
        return siblings


def verify(root: bytes, leaf: bytes, proof: Sequence[bytes]) -> bool:
    """What the contract's `MerkleProof.verify` answers."""
    node = leaf
    for sibling in proof:
        node = _pair(node, sibling)
    return node == root


def _pair(left: bytes, right: bytes) -> bytes:
    return keccak(left + right if left < right else right + left)
