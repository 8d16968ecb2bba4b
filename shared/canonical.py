"""Canonical JSON (protocol §5): UTF-8, keys sorted, no spaces, base64 for bytes; and how a stranger's JSON is read."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from shared.errors import CodecError

# Commas and opening brackets bound the values that a document makes: objects of small documents are a hundred times
# their text. A 4 MiB document of real tensors has a few dozen.
MAX_VALUES = 16_384

T = TypeVar("T")


def encode_canonical(value: Any) -> bytes:
    """Equal values give equal bytes."""
    return msgspec.json.encode(value, order="sorted")


def decode_json(data: bytes, kind: type[T], what: str, *, max_bytes: int) -> T:
    """`data` as `kind`; of a repeated key the last value counts. Raises `CodecError`, its text starting with `what`."""
    if len(data) > max_bytes:
        raise CodecError(f"{what}: {len(data)} bytes, at most {max_bytes} are allowed")
    if sum(map(data.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise CodecError(f"{what}: more than {MAX_VALUES} values")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CodecError(f"{what}: {error}") from None


def decode_canonical(data: bytes, kind: type[T], what: str, *, max_bytes: int) -> T:
    """As `decode_json`, and refuses another spelling: then a document has one CID only."""
    value = decode_json(data, kind, what, max_bytes=max_bytes)
    if encode_canonical(value) != data:
        raise CodecError(f"{what}: not canonical JSON")
    return value
