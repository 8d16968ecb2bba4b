"""base58 (Bitcoin's alphabet), as peer ids and CIDs of version 0 are written."""

from __future__ import annotations

from shared.errors import CodecError

ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
MAX_CHARACTERS = 64  # nothing here is longer, and decoding takes time by the square


def encode(raw: bytes) -> str:
    number, digits = int.from_bytes(raw, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        digits = ALPHABET[digit] + digits
    zeros = len(raw) - len(raw.lstrip(b"\0"))
    return ALPHABET[0] * zeros + digits


def decode(text: str) -> bytes:
    """Raises `CodecError`."""
    if len(text) > MAX_CHARACTERS:
        raise CodecError("base58 text is too long")
    number = 0
    for character in text:
        digit = ALPHABET.find(character)
        if digit < 0:
            raise CodecError(f"{character!r} is not base58")
        number = number * 58 + digit
    zeros = len(text) - len(text.lstrip(ALPHABET[0]))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")
