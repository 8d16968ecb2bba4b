"""One picture: how far honest outputs and those of each cheat lie from a recomputation, model by model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from shared.verification.zones import INVALID_ABOVE, VALID_UP_TO

LEAST, MOST = 1e-3, 1e7  # scores beyond are drawn at the edge
HONEST_COLOUR, CHEAT_COLOUR, LINE_COLOUR = "#2a7f62", "#b3424a", "#444444"
MOST_DOTS: Final = 120  # of one line; more of them would only be darker
ROW_INCHES: Final = 0.2


@dataclass(frozen=True)
class Strip:
    """One line of the picture."""

    model: str
    label: str
    scores: Sequence[float]
    is_honest: bool


def draw(strips: Sequence[Strip], path: Path) -> None:
    """A PNG: texts in the left column, all other models in the right one."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    models = list(dict.fromkeys(strip.model for strip in strips))
    panels = {model: _sorted([strip for strip in strips if strip.model == model]) for model in models}
    longest = max(models, key=lambda model: len(panels[model]))
    others = [model for model in models if model != longest]
    rows = max(len(panels[longest]), sum(len(panels[model]) + 3 for model in others))
    figure = plt.figure(figsize=(15, 1.6 + ROW_INCHES * rows), layout="constrained")
    grid = figure.add_gridspec(1, 2 if others else 1)
    _panel(figure.add_subplot(grid[0]), longest, panels[longest])
    if others:
        heights = [len(panels[model]) + 1 for model in others]
        column = grid[1].subgridspec(len(others), 1, height_ratios=heights)
        for index, model in enumerate(others):
            _panel(figure.add_subplot(column[index]), model, panels[model])
    figure.suptitle(
        "Distance of published outputs from a recomputation, in tolerances: "
        f"valid up to {VALID_UP_TO:g}, invalid above {INVALID_ABOVE:g}, between them the float64 reference decides\n"
        "(outputs of altered sampling that lie where honest ones do are texts that came out the same)"
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _panel(axes: Any, model: str, strips: Sequence[Strip]) -> None:
    noise = np.random.default_rng(0)
    for row, strip in enumerate(strips):
        scores = np.clip(_some(strip.scores), LEAST, MOST)
        colour = HONEST_COLOUR if strip.is_honest else CHEAT_COLOUR
        heights = row + noise.uniform(-0.25, 0.25, len(scores))
        axes.scatter(scores, heights, s=5, color=colour, alpha=0.45, linewidths=0)
    axes.axvspan(VALID_UP_TO, INVALID_ABOVE, color="#dddddd", alpha=0.6, linewidth=0)
    for score in (VALID_UP_TO, INVALID_ABOVE):
        axes.axvline(score, color=LINE_COLOUR, linewidth=0.9)
    axes.set_xscale("log")
    axes.set_xlim(LEAST / 1.5, MOST * 1.5)
    axes.set_ylim(len(strips) - 0.4, -0.6)
    axes.set_yticks(range(len(strips)), [strip.label for strip in strips], fontsize=7)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_title(model, fontsize=9, loc="left", fontweight="bold")


def _sorted(strips: Sequence[Strip]) -> list[Strip]:
    """The honest ones first, then the cheats by how near they come."""
    return sorted(strips, key=lambda strip: (not strip.is_honest, min(strip.scores)))


def _some(scores: Sequence[float]) -> npt.NDArray[np.float64]:
    """The extremes, and as many of the others as are drawn."""
    ordered = np.sort(np.asarray(scores, np.float64))
    if len(ordered) <= MOST_DOTS:
        return ordered
    some: npt.NDArray[np.float64] = ordered[np.linspace(0, len(ordered) - 1, MOST_DOTS).astype(int)]
    return some
