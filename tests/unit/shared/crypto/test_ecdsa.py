"""secp256k1 signatures: one form each, as OpenZeppelin takes them, and the address that eth-account recovers."""

from __future__ import annotations

import pytest
from eth_account import Account
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.crypto import ecdsa
from shared.errors import CodecError
from shared.types import Address
from tests.builders import PERFORMER, REQUESTER, high_s, sha

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
DIGEST = sha("message")
KEY = REQUESTER.operator
SIGNATURE = KEY.sign(DIGEST)

secrets = st.integers(1, ORDER - 1).map(lambda scalar: scalar.to_bytes(32, "big"))
digests = st.binary(min_size=32, max_size=32)


# --- the oracle ----------------------------------------------------------------------------------
@settings(max_examples=30)
@given(secrets, digests)
def test_eth_account_signs_and_recovers_the_same(secret: bytes, digest: bytes) -> None:
    key, theirs = ecdsa.SecretKey(secret), Account.from_key(secret)
    signature = key.sign(digest)
    assert key.address == bytes.fromhex(theirs.address[2:])
    assert signature == bytes(theirs.unsafe_sign_hash(digest).signature)
    assert bytes.fromhex(Account._recover_hash(digest, signature=signature)[2:]) == key.address
    assert ecdsa.recover(digest, signature) == key.address


@settings(max_examples=30)
@given(secrets, digests)
def test_signatures_have_one_form(secret: bytes, digest: bytes) -> None:
    signature = ecdsa.SecretKey(secret).sign(digest)
    assert len(signature) == ecdsa.SIGNATURE_BYTES
    assert signature[64] in (27, 28)
    assert 0 < int.from_bytes(signature[32:64], "big") <= ecdsa.HALF_ORDER == ORDER // 2
    assert signature == ecdsa.SecretKey(secret).sign(digest)


# --- who signed ----------------------------------------------------------------------------------
def test_a_signature_is_of_one_key_and_one_message() -> None:
    assert ecdsa.is_signed_by(KEY.address, DIGEST, SIGNATURE)
    assert not ecdsa.is_signed_by(PERFORMER.address, DIGEST, SIGNATURE)
    assert not ecdsa.is_signed_by(KEY.address, sha("another"), SIGNATURE)
    assert not ecdsa.is_signed_by(KEY.address, DIGEST, PERFORMER.operator.sign(DIGEST))


def test_the_other_v_is_another_address() -> None:
    other = SIGNATURE[:64] + bytes([55 - SIGNATURE[64]])
    assert ecdsa.recover(DIGEST, other) != KEY.address
    assert not ecdsa.is_signed_by(KEY.address, DIGEST, other)


def test_the_zero_address_signed_nothing() -> None:
    # ecrecover answers the zero address for what it cannot recover; nobody may be authenticated as that.
    for signature in (bytes(65), bytes(64) + b"\x1b", SIGNATURE[:64] + b"\x00"):
        assert not ecdsa.is_signed_by(Address(bytes(20)), DIGEST, signature)


REFUSED = {
    "nothing": b"",
    "64 bytes": SIGNATURE[:64],
    "66 bytes": SIGNATURE + b"\x00",
    "all zero": bytes(65),
    "zero with a good v": bytes(64) + b"\x1b",
    "r of zero": bytes(32) + SIGNATURE[32:],
    "s of zero": SIGNATURE[:32] + bytes(32) + SIGNATURE[64:],
    "r of the order": ORDER.to_bytes(32, "big") + SIGNATURE[32:],
    "r on no point": (5).to_bytes(32, "big") + SIGNATURE[32:],
    "all ones": b"\xff" * 64 + b"\x1b",
    "high s": high_s(SIGNATURE),
    "s one over half": SIGNATURE[:32] + (ecdsa.HALF_ORDER + 1).to_bytes(32, "big") + SIGNATURE[64:],
    "v of 0 or 1": SIGNATURE[:64] + bytes([SIGNATURE[64] - 27]),
    "v of 26": SIGNATURE[:64] + b"\x1a",
    "v of 29": SIGNATURE[:64] + b"\x1d",
    "v of another chain (EIP-155)": SIGNATURE[:64] + bytes([37]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_forms_are_refused(name: str) -> None:
    with pytest.raises(CodecError, match=r"^signature: "):
        ecdsa.recover(DIGEST, REFUSED[name])
    assert not ecdsa.is_signed_by(KEY.address, DIGEST, REFUSED[name])


def test_high_s_would_have_recovered() -> None:
    """It is the refusal that keeps the mirrored signature out, not its being wrong."""
    r, s, v = SIGNATURE[:32], high_s(SIGNATURE)[32:64], high_s(SIGNATURE)[64]
    assert int.from_bytes(s, "big") > ecdsa.HALF_ORDER
    recovered = Account._recover_hash(DIGEST, vrs=(v, int.from_bytes(r, "big"), int.from_bytes(s, "big")))
    assert bytes.fromhex(recovered[2:]) == KEY.address


@given(st.binary(max_size=70) | st.binary(min_size=65, max_size=65), st.binary(max_size=40) | digests)
def test_any_bytes_are_an_address_or_refused(signature: bytes, digest: bytes) -> None:
    try:
        assert len(ecdsa.recover(digest, signature)) == 20
    except CodecError:
        assert not ecdsa.is_signed_by(KEY.address, digest, signature)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_only_digests_are_recovered_from(size: int) -> None:
    with pytest.raises(CodecError):
        ecdsa.recover(bytes(size), SIGNATURE)


# --- secret keys ---------------------------------------------------------------------------------
@pytest.mark.parametrize("secret", [b"", bytes(31), bytes(32), b"\x01" * 33, b"\xff" * 32, ORDER.to_bytes(32, "big")])
def test_a_secret_is_a_scalar(secret: bytes) -> None:
    with pytest.raises(CodecError, match="secp256k1 secret"):
        ecdsa.SecretKey(secret)


def test_a_secret_is_never_shown() -> None:
    key = ecdsa.SecretKey(b"\xab" * 32)
    for text in (repr(key), str(key), f"{key}", repr([key])):
        assert "abababab" not in text.lower()
        assert key.address.hex() in text
