"""What a person sees of the local network, and the same figures as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from poi.amounts import ether
from poi.deployment import ETHER, POWER_UNIT_WEI
from poi.testnet.drive import Run
from poi.testnet.money import Books
from poi.testnet.network import LocalNetwork
from poi.testnet.plan import MODEL_NAMES, Errand
from poi.testnet.readback import OnChain
from poi.testnet.words import WORDS
from shared.reasons import InvalidReason
from shared.types import Verdict

POWER_UNITS_PER_ETHER = ETHER // POWER_UNIT_WEI
STYLES = {"approved": "green", "slashed": "red", "rejected": "red"}
REASON = ("refused for", max(map(len, InvalidReason)))  # a column where there are lies
FIGURES = (("for:against", 12), ("verdict", 8), ("certified", 9), ("settled", 7), ("gas", 14))
MODEL_WIDTH = max(map(len, MODEL_NAMES))
FIGURES_WIDTH = 8 + MODEL_WIDTH + sum(width for _, width in FIGURES) + 21  # fixed columns, and what is between all
MIN_TEXT_WIDTH = 10
VERDICTS = {Verdict.VALID: "approved", Verdict.INVALID: "rejected"}


def task_table(runs: list[Run], console: Console) -> Table:
    """One row a task and one line a row; powers in ether of stake. What was asked and answered takes the room left."""
    table = _table("Tasks")
    table.add_column("task", width=8)
    table.add_column("model", width=MODEL_WIDTH)
    has_lies = any(run.errand.cheat for run in runs)
    figures = (REASON, *FIGURES) if has_lies else FIGURES
    taken = FIGURES_WIDTH + (REASON[1] + 1 if has_lies else 0)
    text_width = max(MIN_TEXT_WIDTH, (console.width - taken) // 2)
    for name in ("asked", "answer"):
        table.add_column(name, no_wrap=True, overflow="ellipsis", width=text_width)
    for name, width in figures:
        table.add_column(name, justify="right", no_wrap=True, width=width)
    for run in runs:
        table.add_row(*_cells(run, has_lies), style=STYLES.get(run.stage) if run.errand.cheat else None)
    return table


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))


def stake_table(network: LocalNetwork, books: Books) -> Table:
    """One row an operator, in ether."""
    before, after = books.before.stakes, books.after.stakes
    table = _table("Stake (ether)")
    table.add_column("operator", no_wrap=True)
    table.add_column("address", no_wrap=True, overflow="ellipsis")
    for name in ("before", "after", "slashed"):
        table.add_column(name, justify="right")
    for member in network.members:
        lost = before[member.address] - after[member.address]
        cells = (f"{before[member.address] / ETHER:.4f}", f"{after[member.address] / ETHER:.4f}")
        slashed = f"-{lost / ETHER:.4f}" if lost else ""
        table.add_row(member.name, f"0x{member.address.hex()}", *cells, slashed, style="red" if lost else None)
    return table


def fee_table(network: LocalNetwork, books: Books) -> Table:
    """Where it was, where it is; to the wei, because that is how it has to add up."""
    table = _table("Fees and slashes (ether)")
    table.add_column("whose", no_wrap=True)
    for name in ("before", "after", "change"):
        table.add_column(name, justify="right", no_wrap=True)
    for whose, before, after in _accounts(network, books):
        change = f"{'+' if after > before else ''}{ether(after - before)}" if after != before else ""
        table.add_row(whose, ether(before), ether(after), change)
    return table


def _accounts(network: LocalNetwork, books: Books) -> list[tuple[str, int, int]]:
    """Name, before and after, in wei. What comes after `of them` is part of the line above."""
    before, after = books.before, books.after
    rows = [
        (f"deposit for the {member.name}", before.deposits[member.address], after.deposits[member.address])
        for member in network.members
        if member.address in before.deposits
    ]
    rows += [
        (f"earned by the {member.name}", before.earned[member.address], after.earned[member.address])
        for member in network.members
        if member.role != "attester"
    ]
    rows.append(("attesters' pools", sum(before.pools.values()), sum(after.pools.values())))
    attesters = [member for member in network.members if member.role == "attester"]
    rows += [(f"  of them {member.name} can claim", 0, books.claimable_by(member.address)) for member in attesters]
    rows.append(("  of them left by rounding", 0, books.dust))
    rows.append(("held by the escrow in all", before.held, after.held))
    rows.append(("stake of all operators", sum(before.stakes.values()), sum(after.stakes.values())))
    rows.append(("requester's compensation", before.compensation, after.compensation))
    rows.append(("insurance vault", before.vault, after.vault))
    return rows


def print_summary(console: Console, runs: list[Run], books: Books, wall_seconds: float) -> None:
    honest = [run for run in runs if run.errand.cheat is None]
    lies = [run for run in runs if run.errand.cheat is not None]
    approved = sum(run.is_as_expected for run in honest)
    caught = sum(run.is_as_expected for run in lies)
    console.print(
        f"{approved} of {len(honest)} honest tasks approved, {caught} of {len(lies)} lies rejected and slashed, "
        f"read back from the chain, in {wall_seconds:.1f} s"
    )
    problems = books.problems()
    if not problems:
        console.print(
            f"{ether(books.spent)} ether of fees and {ether(books.slashed)} ether of stake went where they belong, "
            "to the wei"
        )
    for problem in problems:
        console.print(f"  the sums do not agree: {problem}", style="red")
    for run in runs:
        if not run.is_as_expected:
            named = f", refused for {', '.join(sorted(run.reasons)) or 'no reason that was revealed'}"
            why = run.failure or run.view.get("failure") or f"ended as {run.stage}{named if run.errand.cheat else ''}"
            console.print(f"  {run.errand.title}, {run.errand.asked}: {why}", style="red")


def write_json(
    path: Path,
    network: LocalNetwork,
    runs: list[Run],
    books: Books,
    wall_seconds: float,
) -> None:
    """The figures of all tables."""
    before, after = books.before.stakes, books.after.stakes
    document = {
        "tasks": [_task_json(run) for run in runs],
        "operators": [
            {
                "address": f"0x{member.address.hex()}",
                "role": member.role,
                "stake_before_wei": before[member.address],
                "stake_after_wei": after[member.address],
            }
            for member in network.members
        ],
        "money": _money_json(network, books),
        "chain_id": network.deployment.chain_id,
        "wall_s": round(wall_seconds, 3),
    }
    path.write_text(json.dumps(document, indent=2) + "\n")


def _money_json(network: LocalNetwork, books: Books) -> dict[str, Any]:
    """In wei; JSON readers that keep 53 bits only would round, so as text."""
    before, after = books.before, books.after
    attesters = {member.name: books.claimable_by(member.address) for member in network.members}
    figures: dict[str, Any] = {
        "fee": books.fees.total,
        "deposits_before": sum(before.deposits.values()),
        "deposits_after": sum(after.deposits.values()),
        "earned": {member.name: books.earned_by(member.address) for member in network.members},
        "pools": books.to_pools,
        "claimable": attesters,
        "rounding": books.dust,
        "slashed": books.slashed,
        "compensation": books.compensated,
        "vault": books.to_vault,
    }
    as_text = {
        name: {who: str(part) for who, part in value.items() if part} if isinstance(value, dict) else str(value)
        for name, value in figures.items()
    }
    return as_text | {"problems": books.problems()}


def _task_json(run: Run) -> dict[str, Any]:
    votes, timings = run.view.get("votes") or {}, run.view.get("timings") or {}
    return {
        "task_id": f"0x{run.task_id.hex()}" if run.task_id else None,
        "kind": run.errand.title,
        "honest": run.errand.cheat is None,
        "refused_for": sorted(run.reasons),
        "verdict": VERDICTS[run.on_chain.verdict] if run.on_chain else None,
        "valid_power": votes.get("validPower"),
        "invalid_power": votes.get("invalidPower"),
        "total_power": votes.get("totalPower"),
        "certificate_ms": timings.get("certificateMs"),
        "settle_ms": timings.get("settledMs"),
        "gas": run.on_chain.gas if run.on_chain else None,
    }


def _cells(run: Run, has_lies: bool) -> tuple[str, ...]:
    timings = run.view.get("timings") or {}
    cheat = f"{run.errand.cheat.name}: " if run.errand.cheat else ""
    return (
        run.task_id.hex()[:8] if run.task_id else "",
        run.errand.model,
        f"{cheat}{run.errand.asked}",
        _answer(run.errand, run.view.get("result")),
        *((", ".join(sorted(run.reasons)),) if has_lies else ()),
        _votes(run.view.get("votes")),
        run.stage,
        _duration(timings.get("certificateMs")),
        _duration(timings.get("settledMs")),
        _gas(run.on_chain),
    )


def _answer(errand: Errand, result: dict[str, Any] | None) -> str:
    return "" if result is None else WORDS[errand.model].answered(result)


def _votes(votes: dict[str, Any] | None) -> str:
    if votes is None:
        return ""
    names = ("validPower", "invalidPower", "totalPower")
    valid, invalid, total = (votes[name] / POWER_UNITS_PER_ETHER for name in names)
    return f"{valid:g}:{invalid:g} of {total:g}"


def _duration(milliseconds: float | None) -> str:
    if milliseconds is None:
        return ""
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.1f} s"


def _gas(on_chain: OnChain | None) -> str:
    """The task's share; how many shared the transaction stands behind it."""
    if on_chain is None:
        return ""
    return f"{on_chain.gas:,}" + (f" (1/{on_chain.batch_size})" if on_chain.batch_size else "")
