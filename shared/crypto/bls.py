"""BLS12-381 min-sig: signatures in G1 (96 bytes packed), public keys in G2 (192 bytes packed).

Suite `BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_POP_` (draft-irtf-cfrg-bls-signature, RFC 9380). Messages are 32-byte
digests. Points are affine, uncompressed, big-endian, 48 bytes a field element: `x ‖ y`, and `x.c0 ‖ x.c1 ‖ y.c0 ‖ y.c1`
in G2, which is EIP-2537 without its padding.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from py_arkworks_bls12381 import GT, G1Point, G2Point, Scalar

from shared.errors import CodecError

G1_BYTES = 96
G2_BYTES = 192
SUITE = b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_POP_"
POP_SUITE = b"BLS_POP_BLS12381G1_XMD:SHA-256_SSWU_RO_POP_"
ORDER = 0x73EDA753299D7D483339D80809A1D80553BDA402FFFE5BFEFFFFFFFF00000001

_NEGATED_GENERATOR = -G2Point()


class SecretKey:
    """A scalar in [1, r). `repr` never shows it."""

    def __init__(self, scalar: int) -> None:
        if not 0 < scalar < ORDER:
            raise CodecError("BLS secret key: expected a scalar in [1, r)")
        self._scalar = Scalar(scalar)
        self.public_key = _pack(G2Point() * self._scalar)

    def __repr__(self) -> str:
        return f"SecretKey(public_key={self.public_key[:8].hex()}…)"

    def sign(self, digest: bytes) -> bytes:
        """G1 packed, over a 32-byte digest."""
        return _pack(_hash(digest, SUITE) * self._scalar)

    def prove_possession(self, digest: bytes) -> bytes:
        """G1 packed, under the suite that no vote uses."""
        return _pack(_hash(digest, POP_SUITE) * self._scalar)


def verify(public_key: bytes, digest: bytes, signature: bytes) -> bool:
    """False for a wrong signature and for any encoding that is not a point of the right subgroup."""
    return _verify(public_key, digest, signature, SUITE)


def verify_possession(public_key: bytes, digest: bytes, signature: bytes) -> bool:
    """As `verify`, for a proof of possession."""
    return _verify(public_key, digest, signature, POP_SUITE)


def verify_aggregate(public_keys: Iterable[bytes], digest: bytes, signature: bytes) -> bool:
    """One signature by all keys over one digest. Sound only for keys whose possession was proved (rogue keys)."""
    try:
        total = sum((_g2(key) for key in public_keys), G2Point.identity())
        return _pairing_holds(total, digest, _g1(signature), SUITE)
    except CodecError:
        return False


def aggregate(signatures: Iterable[bytes]) -> bytes:
    """The sum of packed signatures. Raises `CodecError` when one is no point, or the sum is infinity."""
    total = sum((_g1(signature) for signature in signatures), G1Point.identity())
    if total == G1Point.identity():
        raise CodecError("aggregate signature: the sum is the point at infinity")
    return _pack(total)


def check_public_key(packed: bytes) -> None:
    """Raises `CodecError` unless it is a G2 point of the subgroup other than infinity."""
    _g2(packed)


def _verify(public_key: bytes, digest: bytes, signature: bytes, suite: bytes) -> bool:
    try:
        return _pairing_holds(_g2(public_key), digest, _g1(signature), suite)
    except CodecError:
        return False


def _pairing_holds(key: G2Point, digest: bytes, signature: G1Point, suite: bytes) -> bool:
    if key == G2Point.identity():
        # Keys that sum to infinity would verify the signature at infinity over anything.
        return False
    return bool(GT.pairing_check([signature, _hash(digest, suite)], [_NEGATED_GENERATOR, key]))


def _hash(digest: bytes, suite: bytes) -> G1Point:
    if len(digest) != 32:
        raise CodecError(f"BLS message: expected a 32-byte digest, got {len(digest)} bytes")
    return G1Point.hash_to_curve(digest, suite)


def _g1(packed: bytes) -> G1Point:
    if len(packed) != G1_BYTES:
        raise CodecError(f"G1 point: expected {G1_BYTES} bytes, got {len(packed)}")
    try:
        point = G1Point.from_xy_bytes_be(packed)
    except ValueError as error:
        raise CodecError(f"G1 point: {error}") from None
    if point == G1Point.identity():
        raise CodecError("G1 point: infinity")
    return point


# An operator's key is parsed once: the subgroup check in G2 costs as much as half a pairing.
@lru_cache(maxsize=1024)
def _g2(packed: bytes) -> G2Point:
    if len(packed) != G2_BYTES:
        raise CodecError(f"G2 point: expected {G2_BYTES} bytes, got {len(packed)}")
    try:
        point = G2Point.from_xy_bytes_be(packed)
    except ValueError as error:
        raise CodecError(f"G2 point: {error}") from None
    if point == G2Point.identity():
        raise CodecError("G2 point: infinity")
    return point


def _pack(point: G1Point | G2Point) -> bytes:
    return bytes(point.to_xy_bytes_be())
