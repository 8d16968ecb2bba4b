"""Rows of a bench: printed for people, written as JSON for the record."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One measured quantity. `goal` is an upper bound in the same unit; None for a baseline or a mere fact."""

    quantity: str
    value: float
    unit: str
    goal: float | None = None

    @property
    def met(self) -> bool | None:
        return None if self.goal is None else self.value <= self.goal


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with `--json FILE`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file")
    return parser


def report(title: str, rows: Sequence[Row], json_path: Path | None) -> None:
    """Print, and write where asked to."""
    table = Table(title=title, title_justify="left")
    for name in ("quantity", "value", "unit", "goal", "met"):
        table.add_column(name, justify="left" if name in ("quantity", "unit") else "right")
    for row in rows:
        goal = "" if row.goal is None else f"≤ {row.goal:g}"
        table.add_row(row.quantity, f"{row.value:,.1f}", row.unit, goal, {None: "", True: "yes", False: "no"}[row.met])
    Console(width=None if Console().is_terminal else 140).print(table)
    if json_path is not None:
        document = {"rows": [asdict(row) | {"met": row.met} for row in rows]}
        json_path.write_text(json.dumps(document, indent=2) + "\n")


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest rank: a value that was really measured."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
