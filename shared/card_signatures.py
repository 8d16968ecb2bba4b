"""Calibrators' signatures (protocol §5): who measured a card, and stands for it.

The signed digest is the one that wallets make of 32 bytes, so that a calibrator may sign with a wallet of any kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from eth_utils.crypto import keccak

from shared.canonical import encode_canonical
from shared.card_parts import CalibratorSignature
from shared.crypto import ecdsa
from shared.errors import CodecError
from shared.types import Address

if TYPE_CHECKING:  # the card's file reads this one
    from shared.model_card import ModelCard

MAX_SIGNATURES: Final = 16  # each costs a reader of the card half a millisecond
_PREFIX: Final = b"\x19Ethereum Signed Message:\n32"


def signed_digest(card: ModelCard) -> bytes:
    """32 bytes: of everything in the card but its signatures, so that calibrators can sign one after another."""
    unsigned = encode_canonical(msgspec.structs.replace(card, signatures=()))
    return keccak(_PREFIX + keccak(unsigned))


def sign_card(card: ModelCard, key: ecdsa.SecretKey) -> ModelCard:
    """The card with this calibrator's signature added, or renewed. Raises `CodecError` when there is no room."""
    calibrator = f"0x{key.address.hex()}"
    others = tuple(each for each in card.signatures if each.calibrator != calibrator)
    if len(others) >= MAX_SIGNATURES:
        raise CodecError(f"model card: {len(others)} calibrators have signed it, and at most {MAX_SIGNATURES} may")
    signature = CalibratorSignature(calibrator=calibrator, signature=f"0x{key.sign(signed_digest(card)).hex()}")
    return msgspec.structs.replace(card, signatures=(*others, signature))


def check_signatures(card: ModelCard) -> None:
    """Raises `CodecError` for a signature that is not its calibrator's, and for a calibrator who signed twice."""
    if len({each.calibrator for each in card.signatures}) != len(card.signatures):
        raise CodecError("model card: one calibrator, two signatures")
    digest = signed_digest(card) if card.signatures else b""
    for each in card.signatures:
        address, signature = Address(bytes.fromhex(each.calibrator[2:])), bytes.fromhex(each.signature[2:])
        if not ecdsa.is_signed_by(address, digest, signature):
            raise CodecError(f"model card: the signature of calibrator {each.calibrator} is not of this card")
