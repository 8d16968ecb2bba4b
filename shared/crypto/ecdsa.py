"""secp256k1 signatures over raw 32-byte digests: 65 bytes `r ‖ s ‖ v`, v in {27, 28}, low s (EIP-2)."""

from __future__ import annotations

from eth_keys.datatypes import PrivateKey, Signature
from eth_keys.exceptions import BadSignature
from eth_utils.exceptions import ValidationError

from shared.errors import CodecError
from shared.types import Address

SIGNATURE_BYTES = 65
HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0


class SecretKey:
    """An operator's or a requester's key. `repr` never shows it."""

    def __init__(self, secret: bytes) -> None:
        try:
            self._key = PrivateKey(secret)
            self.address = Address(self._key.public_key.to_canonical_address())
        except (ValidationError, ValueError) as error:
            raise CodecError(f"secp256k1 secret: {error}") from None

    def __repr__(self) -> str:
        return f"SecretKey(address=0x{self.address.hex()})"

    def sign(self, digest: bytes) -> bytes:
        """Deterministic (RFC 6979). The digest is signed as it is, without an EIP-191 prefix."""
        signature = self._key.sign_msg_hash(digest)
        r, s, v = (int(part) for part in (signature.r, signature.s, signature.v))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes([27 + v])


def recover(digest: bytes, signature: bytes) -> Address:
    """The signer's address. Raises `CodecError` for anything that the contract's ECDSA would refuse."""
    if len(signature) != SIGNATURE_BYTES:
        raise CodecError(f"signature: expected {SIGNATURE_BYTES} bytes, got {len(signature)}")
    r, s, v = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big"), signature[64]
    if v not in (27, 28):
        raise CodecError(f"signature: expected v of 27 or 28, got {v}")
    if s > HALF_ORDER:
        # The mirrored signature verifies too; refusing it keeps one signature a message (EIP-2).
        raise CodecError("signature: s is not in the lower half of the order")
    try:
        recovered = Signature(vrs=(v - 27, r, s)).recover_public_key_from_msg_hash(digest)
    except (BadSignature, ValidationError, ValueError) as error:
        raise CodecError(f"signature: {error}") from None
    return Address(recovered.to_canonical_address())


def is_signed_by(address: Address, digest: bytes, signature: bytes) -> bool:
    """False for a wrong signer and for any malformed signature."""
    try:
        return recover(digest, signature) == address
    except CodecError:
        return False
