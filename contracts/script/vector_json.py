"""How vectors are written: bytes and scalars as 0x-hex, counts and amounts as decimal strings, booleans as JSON's."""

from __future__ import annotations

import json
from typing import TypeAlias

Json: TypeAlias = "dict[str, Json] | list[Json] | str | bool"


class VectorError(Exception):
    """Two computations of one value disagree."""


def require(agrees: bool, complaint: str) -> None:
    """Raises `VectorError`."""
    if not agrees:
        raise VectorError(complaint)


def hexed(value: bytes | int) -> str:
    """An int is a 32-byte scalar."""
    return "0x" + (value.to_bytes(32, "big") if isinstance(value, int) else value).hex()


def render(vectors: Json) -> str:
    return json.dumps(vectors, indent=2, ensure_ascii=True) + "\n"
