"""bls.json: keys, hash to curve, signatures, aggregates, possessions, and points that must be refused.

Computed with arkworks and checked against py_ecc. It shares no code with `shared.crypto.bls`, so that the two can
disagree.
"""

from __future__ import annotations

import hashlib
from itertools import count

from py_arkworks_bls12381 import GT, G1Point, G2Point, Scalar
from py_ecc.bls.hash_to_curve import hash_to_G1
from py_ecc.bls.point_compression import modular_squareroot_in_FQ2
from py_ecc.fields import optimized_bls12_381_FQ as FQ
from py_ecc.fields import optimized_bls12_381_FQ2 as FQ2
from py_ecc.optimized_bls12_381.optimized_curve import (
    G2,
    b,
    b2,
    curve_order,
    field_modulus,
    is_inf,
    multiply,
    normalize,
)
from vector_json import Json, VectorError, hexed, require

VOTE_TAG = b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_POP_"
POSSESSION_TAG = b"BLS_POP_BLS12381G1_XMD:SHA-256_SSWU_RO_POP_"
CURVE_ORDER: int = curve_order
G1_INFINITY = bytes(96)
G2_INFINITY = bytes(192)


def secret_of(label: str) -> int:
    """A scalar that anybody can derive again; worth nothing but vectors."""
    return int.from_bytes(hashlib.sha512(label.encode()).digest(), "big") % curve_order


def public_key(secret: int) -> bytes:
    """Packed G2 point, 192 bytes."""
    return bytes((G2Point() * Scalar(secret)).to_xy_bytes_be())


def sign(secret: int, digest: bytes, tag: bytes = VOTE_TAG) -> bytes:
    """Packed G1 point, 96 bytes."""
    return bytes((G1Point.hash_to_curve(digest, tag) * Scalar(secret)).to_xy_bytes_be())


def sign_together(secrets: list[int], digest: bytes, tag: bytes = VOTE_TAG) -> bytes:
    """The sum of the signatures; infinity for nobody."""
    total = G1Point.identity()
    for secret in secrets:
        total = total + G1Point.hash_to_curve(digest, tag) * Scalar(secret)
    return bytes(total.to_xy_bytes_be())


def bls_vectors(possession_digest: bytes, operator: bytes) -> Json:
    """`possession_digest` is that of key 0 for `operator`."""
    secrets = [secret_of(f"vote key {i}") for i in range(3)]
    messages = [bytes(32), hashlib.sha256(b"message").digest(), b"\xff" * 32]
    return {
        "keys": [_key(secret) for secret in secrets],
        "hashToCurve": [_hashed(message, tag) for message in messages for tag in (VOTE_TAG, POSSESSION_TAG)],
        "signatures": [
            {"secret": hexed(secret), "message": hexed(message), "signature": hexed(sign(secret, message))}
            for secret, message in zip(secrets, messages, strict=True)
        ],
        "aggregates": [_aggregate(secrets[:size], messages[1]) for size in (1, 2, 3)],
        "possessions": [
            {
                "secret": hexed(secrets[0]),
                "operator": hexed(operator),
                "digest": hexed(possession_digest),
                "possession": hexed(sign(secrets[0], possession_digest, POSSESSION_TAG)),
            }
        ],
        "malformedG1": [{"name": name, "point": hexed(point)} for name, point in malformed_g1().items()],
        "malformedG2": [{"name": name, "point": hexed(point)} for name, point in malformed_g2().items()],
    }


def _key(secret: int) -> Json:
    key = public_key(secret)
    x, y = normalize(multiply(G2, secret))
    require(key == _packed_fq2(x) + _packed_fq2(y), "arkworks and py_ecc disagree on a key")
    return {"secret": hexed(secret), "publicKey": hexed(key)}


def _hashed(message: bytes, tag: bytes) -> Json:
    point = bytes(G1Point.hash_to_curve(message, tag).to_xy_bytes_be())
    x, y = normalize(hash_to_G1(message, tag, hashlib.sha256))  # type: ignore[arg-type]
    require(point == _packed(int(x)) + _packed(int(y)), "arkworks and py_ecc disagree on hash_to_curve")
    return {"message": hexed(message), "tag": tag.decode(), "point": hexed(point)}


def _aggregate(secrets: list[int], message: bytes) -> Json:
    key = G2Point.identity()
    for secret in secrets:
        key = key + G2Point() * Scalar(secret)
    signature = sign_together(secrets, message)
    hashed = G1Point.hash_to_curve(message, VOTE_TAG)
    pairs = [G1Point.from_xy_bytes_be(signature), hashed], [-G2Point(), key]
    require(GT.pairing_check(*pairs), "an aggregate does not verify")
    return {
        "publicKeys": [hexed(public_key(secret)) for secret in secrets],
        "message": hexed(message),
        "aggregateKey": hexed(bytes(key.to_xy_bytes_be())),
        "signature": hexed(signature),
    }


# --- points that must be refused -----------------------------------------------------------------


def malformed_g1() -> dict[str, bytes]:
    """96 bytes each; none is a point of the subgroup other than infinity in its one encoding."""
    generator = bytes(G1Point().to_xy_bytes_be())
    x, y = int.from_bytes(generator[:48], "big"), int.from_bytes(generator[48:], "big")
    return {
        "infinity": G1_INFINITY,
        "x not reduced": _packed(x + field_modulus) + _packed(y),
        "y not reduced": _packed(x) + _packed(y + field_modulus),
        "off the curve": _packed(x) + _packed((y + 1) % field_modulus),
        "coordinates swapped": _packed(y) + _packed(x),
        "outside the subgroup": _outside_g1(),
        "infinity in compressed form": b"\xc0" + bytes(95),
        "all ones": b"\xff" * 96,
    }


def malformed_g2() -> dict[str, bytes]:
    """192 bytes each, as `malformed_g1`."""
    generator = bytes(G2Point().to_xy_bytes_be())
    x0, x1, y0, y1 = (generator[i : i + 48] for i in range(0, 192, 48))
    not_reduced = _packed(int.from_bytes(x0, "big") + field_modulus)
    off = _packed(int.from_bytes(y1, "big") + 1)
    return {
        "infinity": G2_INFINITY,
        "x.c0 not reduced": not_reduced + x1 + y0 + y1,
        "off the curve": x0 + x1 + y0 + off,
        "components swapped": x1 + x0 + y1 + y0,
        "outside the subgroup": _outside_g2(),
        "infinity in compressed form": b"\xc0" + bytes(191),
        "all ones": b"\xff" * 192,
    }


def _outside_g1() -> bytes:
    """The curve has about 2^126 times as many points as the subgroup: the smallest x on the curve is outside."""
    for x in count(1):
        square = (x**3 + int(b)) % field_modulus
        y = pow(square, (field_modulus + 1) // 4, field_modulus)
        if y * y % field_modulus == square:
            require(not is_inf(multiply((FQ(x), FQ(y), FQ(1)), curve_order)), "the point is in the subgroup")
            return _packed(x) + _packed(y)
    raise VectorError("a curve without points")


def _outside_g2() -> bytes:
    for x in count(1):
        point = FQ2([x, 0])
        y = modular_squareroot_in_FQ2(point * point * point + b2)
        if y is not None:
            require(not is_inf(multiply((point, y, FQ2.one()), curve_order)), "the point is in the subgroup")
            return _packed_fq2(point) + _packed_fq2(y)
    raise VectorError("a curve without points")


def _packed(coordinate: int) -> bytes:
    return coordinate.to_bytes(48, "big")


def _packed_fq2(element: FQ2) -> bytes:
    return b"".join(_packed(int(coefficient)) for coefficient in element.coeffs)
