"""The machine's clock reads unix seconds."""

from __future__ import annotations

from datetime import UTC, datetime

from shared.adapters.clock import SystemClock
from shared.interfaces import Clock


def test_now_is_unix_seconds() -> None:
    clock: Clock = SystemClock()
    before = datetime.now(UTC).timestamp()
    now = clock.now()
    assert before - 1 <= now <= datetime.now(UTC).timestamp() + 1
