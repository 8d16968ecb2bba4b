"""What a person sees while a calibration runs: what is under way, and how long each part took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

Note = Callable[[str], None]


class Progress:
    """One line for each part that has ended, under it the one that runs."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def of(self, part: str) -> Iterator[Note]:
        """Prints the part when it ends, however it ends; what it notes stands behind its time."""
        notes: list[str] = []
        started = time.perf_counter()
        with self._console.status(escape(part), spinner="line"):
            try:
                yield notes.append
            finally:
                seconds = time.perf_counter() - started
                remark = f"  [dim]{escape('; '.join(notes))}[/dim]" if notes else ""
                self._console.print(f"{seconds:7.1f} s  {escape(part)}{remark}", highlight=False)
