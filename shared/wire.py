"""Msgpack with the one thing it lacks: integers of 256 bits, which travel as 32 big-endian bytes."""

from __future__ import annotations

from typing import Any

import msgspec

from shared.types import Uint256

UINT256_BYTES = 32


def _encode_hook(value: Any) -> bytes:
    if isinstance(value, Uint256):
        return int(value).to_bytes(UINT256_BYTES, "big")
    raise NotImplementedError(f"no wire form of {type(value).__name__}")


def _decode_hook(kind: type[Any], value: Any) -> Uint256:
    if kind is not Uint256 or not isinstance(value, bytes) or len(value) != UINT256_BYTES:
        raise ValueError(f"expected an integer as {UINT256_BYTES} bytes")  # msgspec makes a ValidationError of it
    return Uint256(int.from_bytes(value, "big"))


encode = msgspec.msgpack.Encoder(enc_hook=_encode_hook).encode


def decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    """For a type or union of them; raises `msgspec.DecodeError`."""
    return msgspec.msgpack.Decoder(kind, dec_hook=_decode_hook)
