"""libp2p peer ids of ed25519 keys: the key itself behind a fixed prefix, written in base58 (multiformats, libp2p/specs
peer-ids). Pure, so that operators, logs and dashboards can name a peer without a libp2p library."""

from __future__ import annotations

from shared.errors import CodecError
from shared.types import PeerKey

KEY_BYTES = 32
# identity multihash (0x00) of 36 bytes: protobuf PublicKey{type: Ed25519 (08 01), data: 32 bytes (12 20 …)}
PREFIX = bytes.fromhex("002408011220")
ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
MAX_TEXT_CHARACTERS = 64  # 38 bytes are 52 characters; longer text is not worth the quadratic decoding


def to_bytes(key: PeerKey) -> bytes:
    """The 38 bytes that libp2p puts in a message's `from`. Raises `CodecError` unless the key has 32 bytes."""
    if len(key) != KEY_BYTES:
        raise CodecError(f"a peer key has {KEY_BYTES} bytes, not {len(key)}")
    return PREFIX + key


def from_bytes(raw: bytes) -> PeerKey:
    """Raises `CodecError` for every id that is not an inlined ed25519 key (RSA, secp256k1, hashes)."""
    if len(raw) != len(PREFIX) + KEY_BYTES or not raw.startswith(PREFIX):
        raise CodecError("not the peer id of an ed25519 key")
    return PeerKey(raw[len(PREFIX) :])


def to_text(key: PeerKey) -> str:
    """`12D3Koo…`. Raises `CodecError` unless the key has 32 bytes."""
    return _base58_encode(to_bytes(key))


def from_text(text: str) -> PeerKey:
    """The inverse of `to_text`. Raises `CodecError`."""
    if len(text) > MAX_TEXT_CHARACTERS:
        raise CodecError("a peer id is shorter")
    return from_bytes(_base58_decode(text))


def _base58_encode(raw: bytes) -> str:
    number, digits = int.from_bytes(raw, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        digits = ALPHABET[digit] + digits
    zeros = len(raw) - len(raw.lstrip(b"\0"))
    return ALPHABET[0] * zeros + digits


def _base58_decode(text: str) -> bytes:
    number = 0
    for character in text:
        digit = ALPHABET.find(character)
        if digit < 0:
            raise CodecError(f"{character!r} is not base58")
        number = number * 58 + digit
    zeros = len(text) - len(text.lstrip(ALPHABET[0]))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")
