"""What every test runs under."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator

import pytest
import structlog
from hypothesis import settings

# Two busy cores make per-example deadlines fail by luck; pytest-timeout bounds the whole test instead.
settings.register_profile("house", deadline=None)
settings.load_profile("house")


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """A command that runs inside a test configures the whole process's logging; later tests would listen in vain."""
    root, last_resort = logging.getLogger(), logging.lastResort
    handlers, level = list(root.handlers), root.level
    yield
    if structlog.is_configured():
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.lastResort = last_resort
        logging.captureWarnings(capture=False)
        structlog.reset_defaults()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """xdist sends reports as UTF-8, and a test of hostile text may log what has none."""
    del item, call
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report
