"""What a durable entry may be, the same for every store. Callers obey; a store refuses rather than grows."""

from __future__ import annotations

from shared.errors import SigningError, StoreError
from shared.types import Digest, Verdict

MAX_KIND_CHARACTERS = 64
MAX_KEY_BYTES = 256
MAX_VALUE_BYTES = 8 << 20  # a batch of MAX_BATCH_SIZE certificates at their largest, twice
DIGEST_BYTES = 32


def check_key(kind: str, key: bytes) -> None:
    """Raises `StoreError`."""
    if not 0 < len(kind) <= MAX_KIND_CHARACTERS or not kind.isascii():
        raise StoreError(f"kind: expected 1 to {MAX_KIND_CHARACTERS} ASCII characters")
    if len(key) > MAX_KEY_BYTES:
        raise StoreError(f"key of {len(key)} bytes is over the limit of {MAX_KEY_BYTES}")


def check_entry(kind: str, key: bytes, value: bytes) -> None:
    """Raises `StoreError`."""
    check_key(kind, key)
    if len(value) > MAX_VALUE_BYTES:
        raise StoreError(f"value of {len(value)} bytes is over the limit of {MAX_VALUE_BYTES}")


def check_task_id(task_id: Digest) -> None:
    """Raises `StoreError`."""
    if len(task_id) != DIGEST_BYTES:
        raise StoreError(f"task id: expected {DIGEST_BYTES} bytes, got {len(task_id)}")


def check_vote(task_id: Digest, task_info_hash: Digest, verdict: Verdict) -> None:
    """Raises `StoreError`, and `SigningError` for what nobody ever signs."""
    check_task_id(task_id)
    if len(task_info_hash) != DIGEST_BYTES:
        raise StoreError(f"task info hash: expected {DIGEST_BYTES} bytes, got {len(task_info_hash)}")
    if verdict not in (Verdict.VALID, Verdict.INVALID):
        raise SigningError("an abstention is never signed, so there is nothing to guard")
