"""Rows of a bench, and sheets of what lies behind them: printed for people, written as JSON or Markdown."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

Cell = str | float | int | bool | None
WIDTH = 200  # characters, where the output is no terminal


@dataclass(frozen=True)
class Row:
    """One measured quantity. `goal` is an upper bound in the same unit, a lower one where `at_least`; None for a
    baseline or a mere fact. `hindrance` says what stands in the way when the goal is missed."""

    quantity: str
    value: float
    unit: str
    goal: float | None = None
    at_least: bool = False
    hindrance: str = ""

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        return self.value >= self.goal if self.at_least else self.value <= self.goal

    @property
    def bound(self) -> str:
        return "" if self.goal is None else f"{'≥' if self.at_least else '≤'} {self.goal:g}"


@dataclass(frozen=True)
class Sheet:
    """What rows were counted from: a table of its own."""

    title: str
    header: Sequence[str]
    lines: Sequence[Sequence[Cell]]


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with `--json FILE`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file")
    return parser


def report(title: str, rows: Sequence[Row], json_path: Path | None, sheets: Sequence[Sheet] = ()) -> None:
    """Print, and write where asked to."""
    console = Console(width=None if Console().is_terminal else WIDTH)
    for sheet in (*sheets, _sheet_of(title, rows)):
        table = Table(title=sheet.title, title_justify="left")
        for index, name in enumerate(sheet.header):
            table.add_column(name, justify="left" if index == 0 or name == "unit" else "right")
        for line in sheet.lines:
            table.add_row(*map(shown, line))
        console.print(table)
    for line in _shortfalls(rows):
        console.print(line, highlight=False)
    if json_path is not None:
        json_path.write_text(json.dumps(_document(rows, sheets), indent=2, ensure_ascii=False) + "\n")


def markdown(title: str, rows: Sequence[Row], sheets: Sequence[Sheet] = ()) -> str:
    """The same tables for a page."""
    parts = []
    for sheet in (_sheet_of(title, rows), *sheets):
        lines = [
            sheet.header,
            ["---", *["---:"] * (len(sheet.header) - 1)],
            *[map(shown, line) for line in sheet.lines],
        ]
        cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
        parts.append("\n".join([f"## {sheet.title}\n", *(f"| {' | '.join(line)} |" for line in cells)]))
    parts[1:1] = [f"- {line}" for line in _shortfalls(rows)]
    return "\n\n".join(parts) + "\n"


def shown(cell: Cell) -> str:
    """Three digits of what is small, one behind the point of what is large."""
    match cell:
        case None:
            return ""
        case bool():
            return "yes" if cell else "no"
        case str():
            return cell
        case int():
            return f"{cell:,}"
        case float() if abs(cell) >= 100 and abs(cell) < 1e15:
            return f"{cell:,.1f}".removesuffix(".0")
        case _:
            return f"{cell:.3g}"


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest rank: a value that was really measured."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _sheet_of(title: str, rows: Sequence[Row]) -> Sheet:
    lines = [(row.quantity, float(row.value), row.unit, row.bound, row.met) for row in rows]
    return Sheet(title, ("quantity", "value", "unit", "goal", "met"), lines)


def _shortfalls(rows: Sequence[Row]) -> list[str]:
    return [
        f"Falls short: {row.quantity}: {shown(float(row.value))} {row.unit} ({row.bound}). {row.hindrance}".rstrip()
        for row in rows
        if row.met is False
    ]


def _document(rows: Sequence[Row], sheets: Sequence[Sheet]) -> dict[str, object]:
    document: dict[str, object] = {
        "rows": [
            {"quantity": row.quantity, "value": row.value, "unit": row.unit, "goal": row.goal, "met": row.met}
            for row in rows
        ],
    }
    if any(row.met is False for row in rows):
        document["shortfalls"] = _shortfalls(rows)
    if sheets:
        document["details"] = {
            sheet.title: [dict(zip(sheet.header, map(_recorded, line), strict=True)) for line in sheet.lines]
            for sheet in sheets
        }
    return document


def _recorded(cell: Cell) -> Cell:
    """JSON has no infinities."""
    return str(cell) if isinstance(cell, float) and not math.isfinite(cell) else cell
