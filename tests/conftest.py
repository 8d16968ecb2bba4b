"""What every test runs under."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from hypothesis import settings

# Two busy cores make per-example deadlines fail by luck; pytest-timeout bounds the whole test instead.
settings.register_profile("house", deadline=None)
settings.load_profile("house")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """xdist sends reports as UTF-8, and a test of hostile text may log what has none."""
    del item, call
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report
