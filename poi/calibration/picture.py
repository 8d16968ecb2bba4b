"""The picture of a calibration: a strip of scores for each honest configuration and each cheat, on a log scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from poi.calibration.calibrate import Calibrated
from shared.verification.zones import INVALID_ABOVE, VALID_UP_TO

LEAST, MOST = 1e-4, 1e9  # of the axis: what lies beyond, 0 and infinity among it, is drawn on its edges
DOTS: Final = 400  # of a strip; more are a bar
HONEST, CHEATING, LINE = "#2b6cb0", "#c53030", "#4a5568"
ROW_INCHES, WIDTH_INCHES = 0.26, 9.0


def draw(path: Path, calibrated: Calibrated) -> Path | None:
    """Writes a PNG. None where matplotlib, which only who makes cards needs, is not installed."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return None
    honest, cheats = calibrated.honest_scores(), {name: each.scores for name, each in calibrated.caught.items()}
    ordered = dict(sorted(cheats.items(), key=lambda item: min(item[1])))
    figure = Figure(figsize=(WIDTH_INCHES, 1.4 + ROW_INCHES * (len(honest) + len(ordered))), layout="constrained")
    axes = figure.subplots()
    _strips(axes, honest, 0, HONEST)
    _strips(axes, ordered, len(honest), CHEATING)
    _frame(axes, calibrated.card.name, [*honest, *ordered])
    figure.savefig(path, dpi=110)
    return path


def _strips(axes: Any, strips: Mapping[str, Sequence[float]], first: int, colour: str) -> None:
    jitter = np.random.default_rng(0)
    for row, scores in enumerate(strips.values(), first):
        shown = np.clip(np.sort(scores)[:: max(1, len(scores) // DOTS)], LEAST, MOST)
        rows = row + jitter.uniform(-0.25, 0.25, len(shown))
        axes.scatter(shown, rows, s=5, alpha=0.45, color=colour, linewidths=0)


def _frame(axes: Any, name: str, rows: Sequence[str]) -> None:
    axes.set_xscale("log")
    axes.set_xlim(LEAST / 2, MOST * 2)
    axes.set_ylim(len(rows) - 0.4, -0.6)  # the first on top
    axes.set_yticks(range(len(rows)), rows, fontsize=7)
    for at, meaning in ((VALID_UP_TO, "valid up to here"), (INVALID_ABOVE, "invalid from here")):
        axes.axvline(at, color=LINE, linewidth=0.9, linestyle="--" if at == VALID_UP_TO else ":", label=meaning)
    axes.set_xlabel("score, in tolerances")
    axes.set_title(f"{name}: honest runs (blue) against float64, cheats (red) against an honest attester", fontsize=9)
    axes.legend(loc="upper right", fontsize=7)
    axes.grid(visible=True, axis="x", alpha=0.25)
