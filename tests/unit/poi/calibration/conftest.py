"""No emulator, even where one is installed: it takes seconds, and has a test of its own."""

from __future__ import annotations

import pytest

from poi.calibration import emulated


@pytest.fixture(autouse=True)
def _no_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulated, "is_available", lambda: False)
