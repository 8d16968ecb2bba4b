"""Time that a part of a bench may take: a slow machine runs less of it, and its table says how much it ran."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def while_allowed(work: Iterable[T], seconds: float) -> Iterator[T]:
    """The first in any case, and more as long as less than `seconds` have gone by since it was asked for."""
    started = time.monotonic()
    for index, each in enumerate(work):
        if index and time.monotonic() - started > seconds:
            return
        yield each
