"""Signers over keys held in this process. A remote signer would satisfy the same Protocols, hence `async`.

Both sign on the event loop: a signature takes well under a millisecond, less than a thread would add.
"""

from __future__ import annotations

from shared.crypto import bls, ecdsa
from shared.errors import SigningError
from shared.types import Address, Digest

DIGEST_BYTES = 32


class LocalIdentitySigner:
    """An `IdentitySigner` over the operator's secp256k1 key."""

    def __init__(self, key: ecdsa.SecretKey) -> None:
        self._key = key

    @property
    def address(self) -> Address:
        return self._key.address

    async def sign(self, digest: Digest) -> bytes:
        """As the Protocol says. Raises `SigningError` for anything but 32 bytes."""
        _require_digest(digest)
        return self._key.sign(digest)


class LocalVoteSigner:
    """A `VoteSigner` over the operator's BLS key."""

    def __init__(self, key: bls.SecretKey) -> None:
        self._key = key

    @property
    def public_key(self) -> bytes:
        return self._key.public_key

    async def sign(self, digest: Digest) -> bytes:
        """As the Protocol says. Raises `SigningError` for anything but 32 bytes."""
        _require_digest(digest)
        return self._key.sign(digest)


def _require_digest(digest: bytes) -> None:
    # A caller that passes a message instead of its digest would sign something nobody can verify.
    if len(digest) != DIGEST_BYTES:
        raise SigningError(f"sign: expected a digest of {DIGEST_BYTES} bytes, got {len(digest)}")
