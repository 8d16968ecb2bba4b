"""The tree is OpenZeppelin's, every leaf has a proof, and nothing else has one."""

from __future__ import annotations

from typing import Any

import pytest
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from shared.digests import leaf
from shared.indices import voters_hash
from shared.merkle import MerkleTree, verify
from shared.types import Digest, OperatorTable
from tests.builders import sha
from tests.vector_files import unhex, vectors

hashes = st.binary(min_size=32, max_size=32)
leaf_sets = st.lists(hashes, min_size=1, max_size=40, unique=True)


@pytest.mark.parametrize("tree", vectors("merkle.json"), ids=lambda tree: f"{len(tree['leaves'])} leaves")
def test_roots_and_proofs_are_the_contracts(tree: Any) -> None:
    leaves = [leaf_of(entry) for entry in tree["leaves"]]
    ours = MerkleTree(leaves)
    assert leaves == [unhex(entry["leaf"]) for entry in tree["leaves"]]
    assert ours.root == unhex(tree["root"])
    for node, entry in zip(leaves, tree["leaves"], strict=True):
        assert ours.proof(node) == [unhex(sibling) for sibling in entry["proof"]]
        assert verify(ours.root, node, ours.proof(node))


def leaf_of(entry: Any) -> bytes:
    table = OperatorTable(int(entry["epoch"]), (), int(entry["attesterSet"]))
    voters = voters_hash(table, unhex(entry["indices"]))
    assert voters == unhex(entry["votersHash"])
    return leaf(Digest(unhex(entry["taskId"])), Digest(unhex(entry["taskInfoHash"])), entry["isApproved"], voters)


def test_one_leaf_is_its_own_root() -> None:
    tree = MerkleTree([sha("leaf")])
    assert tree.root == sha("leaf")
    assert tree.proof(sha("leaf")) == []
    assert verify(tree.root, sha("leaf"), [])


def test_two_leaves_are_a_sorted_pair() -> None:
    low, high = sorted((sha("a"), sha("b")))
    assert MerkleTree([high, low]).root == MerkleTree([low, high]).root == keccak(low + high)


@given(leaf_sets, st.randoms(use_true_random=False))
def test_the_order_of_the_leaves_does_not_matter(leaves: list[bytes], random: Any) -> None:
    shuffled = list(leaves)
    random.shuffle(shuffled)
    assert MerkleTree(shuffled).root == MerkleTree(leaves).root


@given(leaf_sets)
def test_every_leaf_has_a_proof(leaves: list[bytes]) -> None:
    tree = MerkleTree(leaves)
    for node in leaves:
        proof = tree.proof(node)
        assert verify(tree.root, node, proof)
        assert len(proof) <= len(leaves).bit_length()


@given(leaf_sets, st.data())
def test_a_flipped_bit_anywhere_fails(leaves: list[bytes], data: st.DataObject) -> None:
    tree = MerkleTree(leaves)
    node = data.draw(st.sampled_from(leaves))
    parts = [tree.root, node, *tree.proof(node)]
    place, bit = data.draw(st.integers(0, len(parts) - 1)), data.draw(st.integers(0, 255))
    parts[place] = (int.from_bytes(parts[place], "big") ^ 1 << bit).to_bytes(32, "big")
    assert not verify(parts[0], parts[1], parts[2:])


@given(st.lists(hashes, min_size=2, max_size=40, unique=True), st.data())
def test_a_shorter_or_longer_proof_fails(leaves: list[bytes], data: st.DataObject) -> None:
    tree = MerkleTree(leaves)
    node = data.draw(st.sampled_from(leaves))
    proof = tree.proof(node)
    assert not verify(tree.root, node, proof[:-1])
    assert not verify(tree.root, node, proof[1:])
    assert not verify(tree.root, node, [*proof, data.draw(hashes)])
    assert not verify(tree.root, node, [*proof, tree.root])


@given(st.lists(hashes, min_size=2, max_size=40, unique=True))
def test_another_leaf_has_no_proof(leaves: list[bytes]) -> None:
    *rest, other = leaves
    tree = MerkleTree(rest)
    with pytest.raises(KeyError):
        tree.proof(other)
    assert not any(verify(tree.root, other, tree.proof(node)) for node in rest)


def test_inner_nodes_are_no_leaves() -> None:
    """A leaf is hashed twice, so no task's leaf can be an inner node of 64 bytes; nor has the tree a proof for one."""
    leaves = [sha(str(i)) for i in range(4)]
    tree = MerkleTree(leaves)
    inner = keccak(b"".join(sorted((leaves[0], tree.proof(leaves[0])[0]))))
    with pytest.raises(KeyError):
        tree.proof(inner)
    with pytest.raises(KeyError):
        tree.proof(tree.root)


def test_no_leaves_make_no_tree() -> None:
    with pytest.raises(ValueError, match="needs a leaf"):
        MerkleTree([])


def test_a_leaf_counts_once() -> None:
    with pytest.raises(ValueError, match="repeated"):
        MerkleTree([sha("a"), sha("b"), sha("a")])
