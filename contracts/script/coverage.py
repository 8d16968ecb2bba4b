"""Measure which lines and branches of the contracts their tests run: `python3 dev.py coverage`.

`forge coverage` cannot follow the optimised IR that is deployed, so a copy of `contracts/` is made in which everything
is compiled alike, with as little optimisation as the stack allows, and every test runs there. Three things about the
instrument have to be known to read its figures, and are dealt with here and nowhere else:

- A file with a function whose name starts like a test's (`test`, `table`, `invariant`, `statefulFuzz`) counts as a test
  and is left out: in the copy such functions have another name.
- It sees nothing inside assembly. Those lines are left out of the count; instead, the function around each block has to
  have been entered.
- Single places that tests do run, and it does not see, are named in UNSEEN with the reason; an entry whose place is
  gone, or is seen after all, is an error.

Some tests measure gas or sizes and fail under the instrument; what they ran counts all the same, and their names are
printed. That they pass is `dev.py test`'s business.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

CONTRACTS = Path(__file__).resolve().parents[1]
REPOSITORY = CONTRACTS.parent
FORGE_TIMEOUT_SECONDS = 3600.0  # 3 minutes on two quiet cores
TEST_LIKE = re.compile(r"\bfunction ((?:test|table|invariant|statefulFuzz)\w*)\(")
PROFILES = re.compile(r"\[\[profile\.default\.(?:additional|compilation)\w*\]\]\n(?:.+\n)+")
ASSEMBLY = re.compile(r"^\s*assembly\b.*\{\s*$")
FAILED = re.compile(r"^\[FAIL\b.*?\] (\w+)\(", re.MULTILINE)


class Unseen(NamedTuple):
    """A place that counts as run though the instrument says no: its file, its code, and why."""

    file: str
    code: str
    reason: str


MERGED = "the compiler merges this call with its neighbours; what it calls is seen"
UNREACHABLE = "empty, and cannot be reached: the contract allows no change, and only an allowed one is made"
DEFAULT = "false is what is returned anyway, so the compiler makes nothing of it"
UNSEEN = (
    Unseen("src/OperatorRegistry.sol", "_requireNotPaused();", MERGED),
    Unseen("src/eigenlayer/EigenLayerSource.sol", "_requireNotPaused();", MERGED),
    Unseen("src/eigenlayer/EigenLayerSource.sol", "_requireAllocationManager();", MERGED),
    Unseen("src/eigenlayer/EigenLayerSource.sol", "_requireAnswerable();", MERGED),
    Unseen("src/Vetoes.sol", "_spendVeto();", MERGED),
    Unseen(
        "src/BLSQuorumVerifier.sol",
        "if (BLS12381.mayBeInfinity(OperatorTable.FRAME, KEY)) _revertForInfinity();",
        "the same: _revertForInfinity and both its branches are seen",
    ),
    Unseen(
        "src/BLSQuorumVerifier.sol",
        "if (indices.length != 0) {",
        "the condition is merged with the one before it; both its branches are seen",
    ),
    Unseen("src/TaskEscrow.sol", "function _change(bytes32, uint256, uint256) internal pure override {}", UNREACHABLE),
    Unseen(
        "src/eigenlayer/EigenLayerSource.sol",
        "function _change(bytes32, uint256, uint256) internal pure override {}",
        UNREACHABLE,
    ),
    Unseen("src/libraries/AttesterSets.sol", "return false;", DEFAULT),
    Unseen("src/eigenlayer/EigenLayerSource.sol", "return false;", DEFAULT),
)


class CoverageError(Exception):
    """The measurement could not be made; the text says why."""


class Figures(NamedTuple):
    """What of one file was run: how many of how many, and where not."""

    lines: tuple[int, int]
    branches: tuple[int, int]
    functions: tuple[int, int]
    missed: list[str]
    left_out: int


# ------------------------------------------------------------------------------------------------ the instrumented copy


def make_copy(folder: Path) -> Path:
    """Copy the contracts, with one compiler profile for all and no name that looks like a test's."""
    copy = folder / "contracts"
    for name in ("src", "test"):
        shutil.copytree(CONTRACTS / name, copy / name)
    settings, count = PROFILES.subn("", (CONTRACTS / "foundry.toml").read_text())
    if not count:
        raise CoverageError("foundry.toml has no compilation profiles to take out: has its form changed?")
    (copy / "foundry.toml").write_text(settings)
    (folder / "tools").symlink_to(REPOSITORY / "tools")
    (folder / "tests").symlink_to(REPOSITORY / "tests")
    (copy / "node_modules").symlink_to(REPOSITORY / "tools" / "node_modules")
    rename_test_like(copy)
    return copy


def rename_test_like(copy: Path) -> None:
    """Give the sources' functions that look like tests a name that does not, wherever they are called."""
    names = {name for path in (copy / "src").rglob("*.sol") for name in TEST_LIKE.findall(path.read_text())}
    if not names:
        return
    pattern = re.compile(rf"\b({'|'.join(sorted(names))})\b")
    for path in copy.rglob("*.sol"):
        path.write_text(pattern.sub(r"the_\1", path.read_text()))


def run_forge(copy: Path, forge: str) -> tuple[Path, str]:
    """Run all tests under the instrument; return its report, and what forge printed."""
    # How often a fuzzed test runs changes no line that it reaches; the seed makes two runs alike.
    quick = {"FOUNDRY_FUZZ_RUNS": "16", "FOUNDRY_FUZZ_SEED": "0x1", "FOUNDRY_INVARIANT_RUNS": "4"}
    done = subprocess.run(
        [forge, "coverage", "--ir-minimum", "--report", "lcov"],
        cwd=copy,
        env={**os.environ, **quick},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=FORGE_TIMEOUT_SECONDS,
        check=False,
    )
    report = copy / "lcov.info"
    if not report.is_file():
        raise CoverageError("forge coverage wrote no report:\n" + "\n".join(done.stdout.splitlines()[-40:]))
    return report, done.stdout


# --------------------------------------------------------------------------------------------------- reading the report


class Report:
    """The counts of one file, as lcov has them. What is listed more than once was run if any of it was."""

    def __init__(self) -> None:
        self.lines: dict[int, int] = {}
        self.branches: dict[tuple[int, str, str], int] = {}
        self.function_lines: dict[str, int] = {}
        self.functions: dict[str, int] = {}

    def read(self, kind: str, value: str) -> None:
        """Take in one record; those that only add up others are passed over."""
        if kind == "DA":
            number, times = (int(part) for part in value.split(",")[:2])
            self.lines[number] = max(times, self.lines.get(number, 0))
        elif kind == "BRDA":
            line, block, branch, hits = value.split(",")
            key = (int(line), block, branch)
            self.branches[key] = max(0 if hits == "-" else int(hits), self.branches.get(key, 0))
        elif kind == "FN":
            parts = value.split(",")
            self.function_lines[parts[-1]] = int(parts[0])
        elif kind == "FNDA":
            hits, name = value.split(",", 1)
            self.functions[name] = max(int(hits), self.functions.get(name, 0))


def parse(text: str) -> dict[str, Report]:
    """Every file's counts, by its path."""
    files: dict[str, Report] = {}
    current = Report()
    for record in text.splitlines():
        kind, _, value = record.partition(":")
        if kind == "SF":
            current = files.setdefault(value, Report())
        else:
            current.read(kind, value)
    return files


def assembly_lines(source: Sequence[str]) -> set[int]:
    """The numbers of all lines inside assembly blocks, by their braces."""
    inside: set[int] = set()
    depth = 0
    for number, line in enumerate(source, 1):
        code = line.split("//")[0]
        if depth:
            depth += code.count("{") - code.count("}")
            if depth > 0:
                inside.add(number)
        elif ASSEMBLY.match(code):
            depth = 1
    return inside


def judge(file: str, source: Sequence[str], report: Report) -> Figures:
    """What of a file was run, without what the instrument cannot see."""
    unseen = unseen_lines(file, source, report)
    left_out = assembly_lines(source) | unseen
    lines = {line: hits for line, hits in report.lines.items() if line not in left_out}
    branches = {key: hits for key, hits in report.branches.items() if key[0] not in left_out}
    functions = {
        name: hits for name, hits in report.functions.items() if report.function_lines.get(name) not in left_out
    }
    missed = [f"{file}:{line} not run: {source[line - 1].strip()}" for line, hits in sorted(lines.items()) if not hits]
    missed += [
        f"{file}:{line} branch {branch} not taken: {source[line - 1].strip()}"
        for (line, _, branch), hits in sorted(branches.items())
        if not hits
    ]
    missed += [f"{file}: {name} not entered" for name, hits in sorted(functions.items()) if not hits]
    return Figures(tally(lines), tally(branches), tally(functions), missed, len(left_out & set(report.lines)))


def tally(hits: dict[int, int] | dict[str, int] | dict[tuple[int, str, str], int]) -> tuple[int, int]:
    """How many were run, of how many."""
    return sum(count > 0 for count in hits.values()), len(hits)


def unseen_lines(file: str, source: Sequence[str], report: Report) -> set[int]:
    """The lines that UNSEEN names in this file; each entry has to be there, and really unseen."""
    found: set[int] = set()
    for entry in UNSEEN:
        if entry.file != file:
            continue
        at = {number for number, line in enumerate(source, 1) if line.strip() == entry.code}
        missed = {line for line, hits in report.lines.items() if not hits}
        missed |= {line for (line, _, _), hits in report.branches.items() if not hits}
        if not at & missed:
            raise CoverageError(f"UNSEEN names {entry.code!r} of {file}, which is gone, or seen after all")
        found |= at & missed
    return found


# ------------------------------------------------------------------------------------------------------------- printing


def share(part: tuple[int, int]) -> float:
    """Per cent; nothing to run is all of it."""
    return 100.0 * part[0] / part[1] if part[1] else 100.0


def total(parts: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The sum of several."""
    return sum(part[0] for part in parts), sum(part[1] for part in parts)


def row(name: str, figures: Sequence[tuple[int, int]]) -> str:
    """One line of the table."""
    cells = (f"{share(part):6.2f} % ({part[0]}/{part[1]})" for part in figures)
    return f"{name:<34}" + "".join(f"{cell:>22}" for cell in cells)


def show(files: dict[str, Figures]) -> list[tuple[int, int]]:
    """Print the table and what was missed; return the sums of lines, branches and functions."""
    print(f"{'file':<34}{'lines':>22}{'branches':>22}{'functions':>22}")
    for name, figures in sorted(files.items()):
        print(row(name.removeprefix("src/"), figures[:3]))
    parts = [(figures.lines, figures.branches, figures.functions) for figures in files.values()]
    sums = [total(column) for column in zip(*parts, strict=True)]
    print(row("all", sums))
    left_out = sum(figures.left_out for figures in files.values())
    print(f"\nNot counted: {left_out} lines, of assembly (the functions around it are), and these:")
    for entry in UNSEEN:
        print(f"  {entry.file.removeprefix('src/')}: {entry.code}\n      {entry.reason}")
    missed = [where for _, figures in sorted(files.items()) for where in figures.missed]
    if missed:
        print("\nMissed:\n  " + "\n  ".join(missed))
    return sums


def main() -> int:
    """Measure, print, and compare with what is asked for."""
    parser = argparse.ArgumentParser(prog="dev.py coverage", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minimum", type=float, default=100.0, metavar="PERCENT", help="of lines, branches, functions")
    parser.add_argument("--forge", default="forge", help="the program to run (default: the one on PATH)")
    parser.add_argument("--lcov", type=Path, metavar="FILE", help="keep the report of the instrument, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="poi-coverage-") as folder:
        try:
            copy = make_copy(Path(folder))
            report, output = run_forge(copy, options.forge)
            if options.lcov:
                shutil.copyfile(report, options.lcov)
            read = {file: found for file, found in parse(report.read_text()).items() if file.startswith("src/")}
            sources = {file: (copy / file).read_text().splitlines() for file in read}
            files = {file: judge(file, sources[file], found) for file, found in read.items()}
        except (CoverageError, subprocess.TimeoutExpired) as error:
            print(f"coverage: {error}", file=sys.stderr)
            return 2
    sums = show(files)
    if failed := sorted(set(FAILED.findall(output))):
        print(f"\n{len(failed)} tests fail under the instrument: {', '.join(failed)}")
    return 0 if files and all(share(part) >= options.minimum for part in sums) else 1


if __name__ == "__main__":
    raise SystemExit(main())
