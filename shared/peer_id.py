"""libp2p peer ids of ed25519 keys: the key itself behind a fixed prefix, written in base58 (multiformats, libp2p/specs
peer-ids). Pure, so that operators, logs and dashboards can name a peer without a libp2p library."""

from __future__ import annotations

from shared import base58
from shared.errors import CodecError
from shared.types import PeerKey

KEY_BYTES = 32
# identity multihash (0x00) of 36 bytes: protobuf PublicKey{type: Ed25519 (08 01), data: 32 bytes (12 20 …)}
PREFIX = bytes.fromhex("002408011220")


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
    return base58.encode(to_bytes(key))


def from_text(text: str) -> PeerKey:
    """The inverse of `to_text`. Raises `CodecError`."""
    return from_bytes(base58.decode(text))
