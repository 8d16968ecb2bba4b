"""The other ways to write a CID: read to say which one is meant, and for nothing else.

CIDs are compared as text, so one spelling only is taken anywhere (see cid); whoever brings another is told it.
"""

from __future__ import annotations

import base64

from shared.content.cid import decode_cid
from shared.errors import CodecError
from shared.types import Cid

MAX_CHARACTERS = 160  # 36 bytes as bits would be 289 characters, but nobody writes those
_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_V0_CHARACTERS = 46
_V1_DAG_PB = b"\x01\x70"


def canonical_form(text: str) -> Cid:
    """The CID that `text` means, in the one spelling that is taken; of a CIDv0, its CIDv1.

    Raises `CodecError` for other codecs and hashes, and for what is no CID at all.
    """
    if len(text) > MAX_CHARACTERS:
        raise CodecError(f"CID has {len(text)} characters")
    if len(text) == _V0_CHARACTERS and text.startswith("Qm"):
        return decode_cid(_V1_DAG_PB + _from_digits(text, _BASE58))  # version 0 is the multihash alone
    try:
        return decode_cid(_decode(text[:1], text[1:]))
    except ValueError:  # binascii.Error among them
        raise CodecError("CID is not in any base that is known here") from None


def _decode(base: str, text: str) -> bytes:
    """The bytes behind a multibase prefix. Raises `ValueError` and `CodecError`."""
    match base:
        case "b" | "B":
            return base64.b32decode(text.upper() + "=" * (-len(text) % 8))
        case "f" | "F":
            return bytes.fromhex(text)
        case "k" | "K":
            return _from_digits(text.lower(), _BASE36)
        case "z":
            return _from_digits(text, _BASE58)
        case "m" | "u":
            return base64.b64decode(
                text + "=" * (-len(text) % 4), altchars="+/" if base == "m" else "-_", validate=True
            )
        case _:
            raise CodecError("CID is not in any base that is known here")


def _from_digits(text: str, alphabet: str) -> bytes:
    """A number in the digits of `alphabet`; those of value 0 in front are bytes of 0. Raises `CodecError`."""
    value = 0
    for character in text:
        digit = alphabet.find(character)
        if digit < 0:
            raise CodecError("CID has a character that its base has not")
        value = value * len(alphabet) + digit
    zeros = len(text) - len(text.lstrip(alphabet[0]))
    return bytes(zeros) + value.to_bytes((value.bit_length() + 7) // 8, "big")
