"""BLS12-381 min-sig: equal to py_ecc and to the vectors that forge reads, and closed to points that are none."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from py_arkworks_bls12381 import G1Point, G2Point, Scalar
from py_ecc.bls.hash_to_curve import hash_to_G1
from py_ecc.fields import optimized_bls12_381_FQ as FQ
from py_ecc.fields import optimized_bls12_381_FQ2 as FQ2
from py_ecc.fields import optimized_bls12_381_FQ12 as FQ12
from py_ecc.optimized_bls12_381.optimized_curve import G2, curve_order, multiply, neg, normalize
from py_ecc.optimized_bls12_381.optimized_pairing import final_exponentiate, pairing

from shared.crypto import bls
from shared.errors import CodecError
from tests.builders import ATTESTERS, sha
from tests.vector_files import unhex, vectors

VECTORS = vectors("bls.json")
DIGEST = sha("message")
KEYS = [keys.vote for keys in ATTESTERS[:3]]
MALFORMED_G1 = {entry["name"]: unhex(entry["point"]) for entry in VECTORS["malformedG1"]}
MALFORMED_G2 = {entry["name"]: unhex(entry["point"]) for entry in VECTORS["malformedG2"]}


def secret(text: str) -> bls.SecretKey:
    return bls.SecretKey(int(text, 16))


# --- the oracle: py_ecc, which is slow ---------------------------------------------------------------
def packed(*coordinates: int) -> bytes:
    return b"".join(int(coordinate).to_bytes(48, "big") for coordinate in coordinates)


def py_ecc_sign(scalar: int, digest: bytes, suite: bytes) -> bytes:
    x, y = normalize(multiply(hash_to_G1(digest, suite, hashlib.sha256), scalar))  # type: ignore[arg-type]
    return packed(int(x), int(y))


def py_ecc_key(scalar: int) -> bytes:
    x, y = normalize(multiply(G2, scalar))
    return packed(*map(int, (*x.coeffs, *y.coeffs)))


@pytest.mark.parametrize(
    ("scalar", "digest"),
    [(1, bytes(32)), (bls.ORDER - 1, b"\xff" * 32), (int.from_bytes(sha("scalar"), "big") % bls.ORDER, DIGEST)],
    ids=["one", "minus one", "a scalar"],
)
def test_keys_and_signatures_are_py_eccs(scalar: int, digest: bytes) -> None:
    ours = bls.SecretKey(scalar)
    assert ours.public_key == py_ecc_key(scalar)
    assert ours.sign(digest) == py_ecc_sign(scalar, digest, bls.SUITE)
    assert ours.prove_possession(digest) == py_ecc_sign(scalar, digest, bls.POP_SUITE)


def test_py_ecc_verifies_our_signature() -> None:
    key, signature = KEYS[0].public_key, KEYS[0].sign(DIGEST)
    x0, x1, y0, y1 = (int.from_bytes(key[i : i + 48], "big") for i in range(0, 192, 48))
    point = FQ2([x0, x1]), FQ2([y0, y1]), FQ2.one()
    x, y = (FQ(int.from_bytes(signature[i : i + 48], "big")) for i in (0, 48))
    hashed = hash_to_G1(DIGEST, bls.SUITE, hashlib.sha256)  # type: ignore[arg-type]
    # e(G2, -signature) · e(key, message) = 1, with one final exponentiation for both.
    product = pairing(G2, neg((x, y, FQ.one())), final_exponentiate=False)
    product *= pairing(point, hashed, final_exponentiate=False)
    assert final_exponentiate(product) == FQ12.one()


def test_the_order_is_the_curves() -> None:
    assert curve_order == bls.ORDER


# --- the vectors that forge reads --------------------------------------------------------------------
def test_keys_are_the_vectors() -> None:
    for entry in VECTORS["keys"]:
        assert secret(entry["secret"]).public_key == unhex(entry["publicKey"])


def test_messages_are_hashed_as_the_vectors_say() -> None:
    one = bls.SecretKey(1)  # its signature is the hashed message itself
    for entry in VECTORS["hashToCurve"]:
        by = {bls.SUITE: one.sign, bls.POP_SUITE: one.prove_possession}[entry["tag"].encode()]
        assert by(unhex(entry["message"])) == unhex(entry["point"])


def test_signatures_are_the_vectors() -> None:
    for entry in VECTORS["signatures"]:
        key, message, signature = secret(entry["secret"]), unhex(entry["message"]), unhex(entry["signature"])
        assert key.sign(message) == signature
        assert bls.verify(key.public_key, message, signature)


def test_aggregates_are_the_vectors() -> None:
    by_key = {entry["publicKey"]: secret(entry["secret"]) for entry in VECTORS["keys"]}
    for entry in VECTORS["aggregates"]:
        message, signature = unhex(entry["message"]), unhex(entry["signature"])
        assert bls.aggregate(by_key[key].sign(message) for key in entry["publicKeys"]) == signature
        assert bls.verify_aggregate(map(unhex, entry["publicKeys"]), message, signature)
        assert bls.verify(unhex(entry["aggregateKey"]), message, signature)


def test_possessions_are_the_vectors() -> None:
    for entry in VECTORS["possessions"]:
        key, digest, possession = secret(entry["secret"]), unhex(entry["digest"]), unhex(entry["possession"])
        assert key.prove_possession(digest) == possession
        assert bls.verify_possession(key.public_key, digest, possession)


# --- one signature -----------------------------------------------------------------------------------
def test_a_signature_is_of_one_key_and_one_message() -> None:
    signature = KEYS[0].sign(DIGEST)
    assert bls.verify(KEYS[0].public_key, DIGEST, signature)
    assert not bls.verify(KEYS[1].public_key, DIGEST, signature)
    assert not bls.verify(KEYS[0].public_key, sha("another"), signature)
    assert not bls.verify(KEYS[0].public_key, DIGEST, KEYS[1].sign(DIGEST))


def test_a_vote_proves_no_possession_and_a_possession_is_no_vote() -> None:
    """One suite for both would let a vote be shown as a proof of possession of the same digest."""
    key = KEYS[0]
    assert not bls.verify_possession(key.public_key, DIGEST, key.sign(DIGEST))
    assert not bls.verify(key.public_key, DIGEST, key.prove_possession(DIGEST))


@settings(max_examples=25)
@given(st.integers(0, 96 * 8 - 1))
def test_a_flipped_bit_is_another_signature(bit: int) -> None:
    flipped = int.from_bytes(KEYS[0].sign(DIGEST), "big") ^ 1 << bit
    assert not bls.verify(KEYS[0].public_key, DIGEST, flipped.to_bytes(96, "big"))


@given(st.binary(max_size=200), st.binary(max_size=40), st.binary(max_size=100))
def test_any_bytes_are_false(key: bytes, digest: bytes, signature: bytes) -> None:
    assert not bls.verify(key, digest, signature)
    assert not bls.verify_possession(key, digest, signature)
    assert not bls.verify_aggregate([key], digest, signature)


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_only_digests_are_signed(size: int) -> None:
    with pytest.raises(CodecError, match="32-byte digest"):
        KEYS[0].sign(bytes(size))
    assert not bls.verify(KEYS[0].public_key, bytes(size), KEYS[0].sign(DIGEST))


# --- points that are none ----------------------------------------------------------------------------
@pytest.mark.parametrize("name", MALFORMED_G1)
def test_a_malformed_signature_is_refused(name: str) -> None:
    point = MALFORMED_G1[name]
    assert not bls.verify(KEYS[0].public_key, DIGEST, point)
    assert not bls.verify_possession(KEYS[0].public_key, DIGEST, point)
    assert not bls.verify_aggregate([KEYS[0].public_key], DIGEST, point)
    with pytest.raises(CodecError, match="G1 point"):
        bls.aggregate([KEYS[0].sign(DIGEST), point])


@pytest.mark.parametrize("name", MALFORMED_G2)
def test_a_malformed_key_is_refused(name: str) -> None:
    point = MALFORMED_G2[name]
    with pytest.raises(CodecError, match="G2 point"):
        bls.check_public_key(point)
    assert not bls.verify(point, DIGEST, KEYS[0].sign(DIGEST))
    assert not bls.verify_aggregate([KEYS[0].public_key, point], DIGEST, KEYS[0].sign(DIGEST))


def test_the_malformed_points_are_what_they_are_called() -> None:
    # Without this, a vector that went bad would keep its test green for another reason than its name's.
    assert {"infinity", "off the curve", "outside the subgroup"} <= set(MALFORMED_G1) & set(MALFORMED_G2)
    g1 = G1Point.from_xy_bytes_unchecked_be(MALFORMED_G1["outside the subgroup"])
    assert g1 * Scalar(bls.ORDER - 1) + g1 != G1Point.identity()
    g2 = G2Point.from_xy_bytes_unchecked_be(MALFORMED_G2["outside the subgroup"])
    assert g2 * Scalar(bls.ORDER - 1) + g2 != G2Point.identity()


@pytest.mark.parametrize("size", [0, 48, 95, 97, 192])
def test_a_point_has_one_length(size: int) -> None:
    with pytest.raises(CodecError, match=f"expected 96 bytes, got {size}"):
        bls.aggregate([bytes(size)])
    with pytest.raises(CodecError, match=f"expected 192 bytes, got {size + 1}"):
        bls.check_public_key(bytes(size + 1))


def test_a_refused_key_is_refused_again() -> None:
    # Keys are parsed once and remembered; refusals must not turn into something else on the way.
    for _ in range(2):
        with pytest.raises(CodecError):
            bls.check_public_key(MALFORMED_G2["outside the subgroup"])


# --- aggregates --------------------------------------------------------------------------------------
def test_an_aggregate_is_of_all_its_keys() -> None:
    keys, signature = [key.public_key for key in KEYS], bls.aggregate(key.sign(DIGEST) for key in KEYS)
    assert bls.verify_aggregate(keys, DIGEST, signature)
    assert bls.verify_aggregate(reversed(keys), DIGEST, signature)
    assert not bls.verify_aggregate(keys[:2], DIGEST, signature)
    assert not bls.verify_aggregate([*keys, keys[0]], DIGEST, signature)
    assert not bls.verify_aggregate(keys, sha("another"), signature)


def test_one_wrong_share_spoils_the_aggregate() -> None:
    keys = [key.public_key for key in KEYS]
    shares = [KEYS[0].sign(DIGEST), KEYS[1].sign(DIGEST), KEYS[2].sign(sha("another"))]
    assert not bls.verify_aggregate(keys, DIGEST, bls.aggregate(shares))


def test_an_aggregate_of_one_is_its_signature() -> None:
    assert bls.aggregate([KEYS[0].sign(DIGEST)]) == KEYS[0].sign(DIGEST)


def test_nobody_signs_nothing() -> None:
    assert not bls.verify_aggregate([], DIGEST, KEYS[0].sign(DIGEST))
    assert not bls.verify_aggregate([], DIGEST, bytes(96))
    with pytest.raises(CodecError, match="infinity"):
        bls.aggregate([])


def test_keys_that_cancel_sign_nothing() -> None:
    """A key and its negation sum to infinity, under which the signature at infinity would fit any message."""
    mirrored = bls.SecretKey(bls.ORDER - 5)
    key, keys = bls.SecretKey(5), [bls.SecretKey(5).public_key, mirrored.public_key]
    with pytest.raises(CodecError, match="infinity"):
        bls.aggregate([key.sign(DIGEST), mirrored.sign(DIGEST)])
    assert not bls.verify_aggregate(keys, DIGEST, bytes(96))
    assert not bls.verify_aggregate(keys, DIGEST, key.sign(DIGEST))


def test_a_rogue_key_fools_the_aggregate_but_not_the_registry() -> None:
    """Why possession is proved: own key minus the victim's makes "both signed" of one signature by oneself."""
    victim, own = KEYS[0], KEYS[1]
    rogue = bytes(
        (G2Point.from_xy_bytes_be(own.public_key) - G2Point.from_xy_bytes_be(victim.public_key)).to_xy_bytes_be()
    )
    assert bls.verify_aggregate([victim.public_key, rogue], DIGEST, own.sign(DIGEST))
    # Nobody knows the rogue key's secret: what its maker can sign proves nothing under it.
    registration = sha("the rogue's registration")
    for proof in (own.prove_possession(registration), victim.prove_possession(registration)):
        assert not bls.verify_possession(rogue, registration, proof)


# --- secret keys -------------------------------------------------------------------------------------
@pytest.mark.parametrize("scalar", [0, -1, bls.ORDER, bls.ORDER + 1, 2**256])
def test_a_secret_is_a_scalar(scalar: int) -> None:
    with pytest.raises(CodecError, match=r"\[1, r\)"):
        bls.SecretKey(scalar)


def test_a_secret_is_never_shown() -> None:
    key = bls.SecretKey(0x1234567890ABCDEF1234567890ABCDEF)
    for text in (repr(key), str(key), f"{key}", repr([key])):
        assert "1234567890abcdef" not in text.lower()
        assert str(0x1234567890ABCDEF1234567890ABCDEF) not in text
        assert key.public_key[:8].hex() in text
