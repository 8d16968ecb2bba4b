"""The machine's clock."""

from __future__ import annotations

import time


class SystemClock:
    """Wall time, which an operator's NTP may step: good for stamps and deadlines, never for measuring."""

    def now(self) -> float:
        """Unix seconds."""
        return time.time()
