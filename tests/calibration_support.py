"""Calibrations without an emulator: the shipped models in a fraction of a second, and what a console was told."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

from rich.console import Console

from poi.calibration.progress import Progress
from tests.inference_support import MODELS


def quiet() -> Progress:
    return Progress(Console(file=io.StringIO()))


def copied(name: str, folder: Path) -> Path:
    """A shipped model's folder with all that a calibration reads, and nothing that it writes."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in (MODELS / name).iterdir():
        if file.is_file() and file.name not in ("card.json", "golden.json") and file.suffix != ".py":
            shutil.copy(file, folder / file.name)
    return folder
