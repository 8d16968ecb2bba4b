"""One suite for every `IdentitySigner` and `VoteSigner`: keys from a seed, and the same keys from a keystore file."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.adapters.signers import LocalIdentitySigner, LocalVoteSigner
from shared.crypto import bls, ecdsa, keystore
from shared.crypto.keystore import NodeKeys
from shared.errors import SigningError
from shared.interfaces import IdentitySigner, VoteSigner
from shared.types import Digest

SEED = bytes(range(32))
DIGEST = Digest(bytes([7] * 32))


@pytest.fixture(params=["seed", "keystore"])
def keys(request: pytest.FixtureRequest, tmp_path: Path) -> NodeKeys:
    if request.param == "seed":
        return NodeKeys.from_seed(SEED)
    keystore.create(tmp_path / "keystore.json", "password", seed=SEED, kdf="pbkdf2", iterations=1)
    return keystore.load(tmp_path / "keystore.json", "password")


@pytest.fixture
def identity(keys: NodeKeys) -> IdentitySigner:
    return LocalIdentitySigner(keys.operator)


@pytest.fixture
def voter(keys: NodeKeys) -> VoteSigner:
    return LocalVoteSigner(keys.vote)


async def test_an_identity_signature_is_the_addresss(identity: IdentitySigner) -> None:
    signature = await identity.sign(DIGEST)
    assert len(identity.address) == 20
    assert ecdsa.recover(DIGEST, signature) == identity.address
    assert not ecdsa.is_signed_by(identity.address, bytes(32), signature)


async def test_an_identity_signature_has_the_contracts_form(identity: IdentitySigner) -> None:
    for number in range(32):
        signature = await identity.sign(Digest(bytes([number] * 32)))
        assert len(signature) == 65
        assert signature[64] in (27, 28)
        assert int.from_bytes(signature[32:64], "big") <= ecdsa.HALF_ORDER


async def test_a_vote_signature_is_the_public_keys(voter: VoteSigner) -> None:
    signature = await voter.sign(DIGEST)
    assert (len(voter.public_key), len(signature)) == (192, 96)
    assert bls.verify(voter.public_key, DIGEST, signature)
    assert not bls.verify(voter.public_key, bytes(32), signature)


async def test_a_vote_is_no_proof_of_possession(voter: VoteSigner, keys: NodeKeys) -> None:
    # Else an attester could be led to vote on a digest that registers its key for somebody else.
    assert not bls.verify_possession(voter.public_key, DIGEST, await voter.sign(DIGEST))
    assert bls.verify_possession(voter.public_key, DIGEST, keys.vote.prove_possession(DIGEST))


async def test_the_same_digest_has_one_signature(identity: IdentitySigner, voter: VoteSigner) -> None:
    for signer in (identity, voter):
        assert len(set(await asyncio.gather(*(signer.sign(DIGEST) for _ in range(5))))) == 1


@pytest.mark.parametrize("length", [0, 31, 33, 64])
async def test_only_digests_are_signed(identity: IdentitySigner, voter: VoteSigner, length: int) -> None:
    for signer in (identity, voter):
        with pytest.raises(SigningError, match=f"expected a digest of 32 bytes, got {length}"):
            await signer.sign(Digest(bytes(length)))


@settings(max_examples=20, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_any_seed_signs_any_digest(seed: bytes, digest: bytes) -> None:
    keys = NodeKeys.from_seed(seed)
    identity, voter = LocalIdentitySigner(keys.operator), LocalVoteSigner(keys.vote)
    assert ecdsa.is_signed_by(identity.address, digest, asyncio.run(identity.sign(Digest(digest))))
    assert bls.verify(voter.public_key, digest, asyncio.run(voter.sign(Digest(digest))))
