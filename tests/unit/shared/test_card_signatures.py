"""Calibrators' signatures: what they cover, who may have made them, and what a wrong one does to a card."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest
from eth_account import Account
from eth_account.messages import encode_defunct
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from shared.canonical import encode_canonical
from shared.card_parts import CalibratorSignature
from shared.card_signatures import MAX_SIGNATURES, check_signatures, sign_card, signed_digest
from shared.crypto import ecdsa
from shared.errors import CodecError
from shared.model_card import ModelCard, decode_card
from tests.cards import make_card

KEYS = [ecdsa.SecretKey(hashlib.sha256(bytes([i])).digest()) for i in range(MAX_SIGNATURES + 1)]
CARD = make_card()
SIGNED = sign_card(CARD, KEYS[0])


def with_signature(card: ModelCard, **changes: Any) -> ModelCard:
    """Its only signature changed."""
    (signature,) = card.signatures
    return msgspec.structs.replace(card, signatures=(msgspec.structs.replace(signature, **changes),))


def test_a_signed_card_survives() -> None:
    assert decode_card(encode_canonical(SIGNED)) == SIGNED
    assert [each.calibrator for each in SIGNED.signatures] == [f"0x{KEYS[0].address.hex()}"]


def test_what_is_signed_is_what_a_wallet_signs() -> None:
    """An independent library makes the same signature of the hash of the card without signatures."""
    key = hashlib.sha256(bytes([0])).digest()
    message = encode_defunct(primitive=keccak(encode_canonical(CARD)))
    theirs = Account.sign_message(message, key).signature
    assert SIGNED.signatures[0].signature == f"0x{bytes(theirs).hex()}"


def test_signatures_do_not_cover_each_other() -> None:
    both = sign_card(SIGNED, KEYS[1])
    assert decode_card(encode_canonical(both)) == both
    assert both.signatures[:1] == SIGNED.signatures
    assert signed_digest(both) == signed_digest(CARD)


def test_who_signs_again_has_one_signature() -> None:
    stale = msgspec.structs.replace(SIGNED, name="renamed")
    renewed = sign_card(stale, KEYS[0])
    assert len(renewed.signatures) == 1
    assert decode_card(encode_canonical(renewed)) == renewed
    assert sign_card(SIGNED, KEYS[0]) == SIGNED


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "another"},
        {"tolerances": {"y": msgspec.structs.replace(CARD.tolerances["y"], relative=4e-5)}},
        {"calibration": msgspec.structs.replace(CARD.calibration, separation=100.0)},
        {"quality": {"accuracy": 1.0}},
    ],
    ids=["name", "tolerance", "separation", "quality"],
)
def test_a_signature_is_of_everything_in_the_card(changes: dict[str, Any]) -> None:
    forged = msgspec.structs.replace(SIGNED, **changes)
    with pytest.raises(CodecError, match=f"calibrator 0x{KEYS[0].address.hex()} is not of this card"):
        decode_card(encode_canonical(forged))


def test_a_signature_is_its_calibrators_own() -> None:
    with pytest.raises(CodecError, match="is not of this card"):
        check_signatures(with_signature(SIGNED, calibrator=f"0x{KEYS[1].address.hex()}"))


def test_one_calibrator_signs_once() -> None:
    twice = msgspec.structs.replace(SIGNED, signatures=SIGNED.signatures * 2)
    with pytest.raises(CodecError, match="one calibrator, two signatures"):
        decode_card(encode_canonical(twice))


def test_sixteen_may_sign_and_no_more() -> None:
    card = CARD
    for key in KEYS[:MAX_SIGNATURES]:
        card = sign_card(card, key)
    assert decode_card(encode_canonical(card)) == card
    with pytest.raises(CodecError, match="16 calibrators have signed"):
        sign_card(card, KEYS[-1])
    more = CalibratorSignature(calibrator=f"0x{KEYS[-1].address.hex()}", signature=SIGNED.signatures[0].signature)
    with pytest.raises(CodecError, match="length <= 16"):
        decode_card(encode_canonical(msgspec.structs.replace(card, signatures=(*card.signatures, more))))


@pytest.mark.parametrize(
    "signature",
    ["0x", "0x" + "00" * 65, "0x" + "ff" * 65, SIGNED.signatures[0].signature[2:], SIGNED.signatures[0].signature[:-2]],
    ids=["empty", "zeros", "ones", "no 0x", "cut"],
)
def test_what_is_no_signature(signature: str) -> None:
    with pytest.raises(CodecError, match=r"^model card: "):
        decode_card(encode_canonical(with_signature(SIGNED, signature=signature)))


@pytest.mark.parametrize("calibrator", ["", "0x" + "AB" * 20, "0x" + "ab" * 21, KEYS[0].address.hex()])
def test_what_is_no_address(calibrator: str) -> None:
    with pytest.raises(CodecError, match=r"^model card: "):
        decode_card(encode_canonical(with_signature(SIGNED, calibrator=calibrator)))


@given(st.integers(0, 64), st.integers(1, 255))
def test_a_flipped_byte_of_a_signature_is_noticed(at: int, flip: int) -> None:
    signature = bytearray.fromhex(SIGNED.signatures[0].signature[2:])
    signature[at] ^= flip
    with pytest.raises(CodecError, match="is not of this card"):
        check_signatures(with_signature(SIGNED, signature=f"0x{signature.hex()}"))
