"""What a person sees of content: bars while it moves, on standard error, and lines about what is kept."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from poi.amounts import moment
from shared.interfaces import Pin

LARGE_BYTES = 16 << 20  # what takes less than the blink of an eye needs no bar


@contextmanager
def progress() -> Iterator[Progress]:
    """Gone when it is done; nothing at all where standard error is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bars:
        yield bars


def opened(path: Path, bars: Progress) -> BinaryIO:
    """The file, with a bar for what is read of it when it is large. Raises `OSError`."""
    size = path.stat().st_size  # 0 for a pipe
    if size < LARGE_BYTES:
        return path.open("rb")
    return bars.open(path, "rb", description=path.name)


def state_of(pin: Pin) -> str:
    if pin.size is None:
        return "under way"
    if pin.keep_until == math.inf:
        return "pinned"
    return "kept" if pin.keep_until > time.time() else "cache"


def line_of(pin: Pin) -> str:
    """CID, size, kept until, last used, state."""
    size = "?" if pin.size is None else decimal(pin.size)
    is_kept = pin.keep_until > time.time()
    kept = "for good" if pin.keep_until == math.inf else moment(int(pin.keep_until)) if is_kept else "-"
    return f"{pin.cid:<59}  {size:>9}  {kept:<23}  {moment(int(pin.used_at)):<23}  {state_of(pin)}"


HEADING = f"{'CID':<59}  {'size':>9}  {'kept until':<23}  {'last used':<23}  state"


__all__ = ["HEADING", "LARGE_BYTES", "decimal", "line_of", "opened", "progress", "state_of"]
