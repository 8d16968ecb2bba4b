"""Reading `tests/vectors/*.json`: bytes are 0x-hex there, and integers decimal strings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "vectors"


def vectors(name: str) -> Any:
    """One file."""
    return json.loads((FOLDER / name).read_text())


def unhex(text: str) -> bytes:
    assert text.startswith("0x"), text
    return bytes.fromhex(text[2:])
