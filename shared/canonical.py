"""Canonical JSON (protocol §5): UTF-8, keys sorted, no spaces, base64 for bytes; and how a stranger's JSON is read."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from shared.errors import CodecError

# Commas and opening brackets bound the values that a document makes: objects of small documents are a hundred times
# their text. A 4 MiB document of real tensors has a few dozen.
MAX_VALUES = 16_384

MAX_BRACKETS = 4096  # half a kilobyte of stack each at worst: 2 of a thread's 8 MiB
# The same for everybody: how deep a decoder goes depends on the stack that it starts on, and attesters must not
# disagree on what can be read. Answers of services are a few levels deep.
MAX_DEPTH = 128
MAX_QUOTES = 4 * MAX_VALUES  # of strings, not within them; members of objects have two

_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))

T = TypeVar("T")


def check_nesting(data: bytes) -> None:
    """Raises `CodecError` when nesting could get deep. For JSON that is read without a type, before it is read.

    Python's recursion limit guards msgspec's decoder, but py_ecc raises that limit to 100,000 wherever it is imported,
    and then deep brackets end the process. Those inside strings do not nest, so strings are left out.
    """
    _outside_strings(data)


def check_depth(data: bytes) -> None:
    """As `check_nesting`, and refuses what is more than `MAX_DEPTH` deep: for JSON that attesters are to agree on."""
    depth = 0
    for bracket in _outside_strings(data).translate(None, _NO_BRACKETS)[: 2 * MAX_BRACKETS]:  # more do not match
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            raise CodecError(f"objects and arrays more than {MAX_DEPTH} deep")


def _outside_strings(data: bytes) -> bytes:
    """Raises `CodecError`, as `check_nesting`."""
    # Plain replacements and one split, all linear: a pattern for strings takes days for an open one full of escapes.
    unescaped = data.replace(rb"\\", b"").replace(rb"\"", b"")
    is_bounded = unescaped.count(b'"') <= MAX_QUOTES
    outside = b"".join(unescaped.split(b'"')[::2]) if is_bounded else b""
    if not is_bounded or outside.count(b"[") + outside.count(b"{") > MAX_BRACKETS:
        raise CodecError(f"more than {MAX_BRACKETS} objects and arrays, or {MAX_QUOTES // 2} strings")
    return outside


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
