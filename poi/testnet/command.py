"""`poi testnet`: start it, drive it, show it, end it."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shlex
import signal
import tempfile
import time
from pathlib import Path

import msgspec
from rich.console import Console
from rich.live import Live

from poi import fees
from poi.client import PoiClient
from poi.testnet.drive import Run, drive
from poi.testnet.money import Books
from poi.testnet.network import PERFORMER, LocalNetwork, Store, open_network
from poi.testnet.plan import Errand, plan
from poi.testnet.report import fee_table, print_summary, stake_table, task_table, write_json
from poi.testnet.requester import open_requester
from shared import log as logging
from shared.config import LogConfig
from shared.crypto.ecdsa import SecretKey

FAILED = 1
INTERRUPTED = 130  # 128 + SIGINT, as shells say it
LOG_COLUMNS = 140
DEMO_DEADLINE_SECONDS = 12 * 3600
DEMO_TASKS = 100  # that its requester's deposit covers


def main(
    operators: int,
    tasks: int,
    cheats: int,
    json_path: Path | None,
    keep_running: bool,
    folder: Path | None = None,
    store: Store = "embedded",
) -> int:
    """The exit code: 0 only if the chain approved every honest task, and rejected and slashed every lie, and if
    every wei of fees and slashes is where it belongs.

    `folder` keeps the nodes' keys, data and logs; without it they go with the network.
    """
    console, errands = _console(), plan(tasks, cheats)
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="poi-testnet-")))
        try:
            return asyncio.run(_main(console, folder, operators, errands, json_path, keep_running, store))
        except asyncio.CancelledError:  # by `_end_on_signals`
            console.print("Stopped. Everything it started has ended.")
            return INTERRUPTED


async def _main(
    console: Console,
    folder: Path,
    operators: int,
    errands: list[Errand],
    json_path: Path | None,
    keep_running: bool,
    store: Store,
) -> int:
    started = time.monotonic()
    logging.configure(LogConfig(level="warning", format="console"), "testnet", "nobody")
    _end_on_signals()

    def say(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - started:5.1f} s[/dim]  {text}", highlight=False)

    async with open_network(folder, operators, say, store=store) as network:
        runs = [Run(errand) for errand in errands]
        books = await _drive_live(console, network, runs)
        wall_seconds = time.monotonic() - started
        if not console.is_terminal:
            console.print(task_table(runs, console))
        console.print(stake_table(network, books))
        console.print(fee_table(network, books))
        print_summary(console, runs, books, wall_seconds)
        if json_path is not None:
            write_json(json_path, network, runs, books, wall_seconds)
        if keep_running:
            await _stay(console, network, folder)
        return 0 if all(run.is_as_expected for run in runs) and not books.problems() else FAILED


def _console() -> Console:
    """Wide enough for the tables where nobody's screen sets the width: a log, a file, a CI."""
    console = Console()
    return console if console.is_terminal else Console(width=LOG_COLUMNS)


def _end_on_signals() -> None:
    """SIGINT and SIGTERM cancel this task, whose contexts end everything they started."""
    task = asyncio.current_task()
    if task is not None:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)


async def _drive_live(console: Console, network: LocalNetwork, runs: list[Run]) -> Books:
    """A table that fills itself on a terminal, a line for each step elsewhere."""
    if not console.is_terminal:
        return await drive(
            network, runs, lambda run: console.print(f"  {run.errand.title}, {run.errand.asked}: {run.stage}")
        )
    with Live(task_table(runs, console), console=console, refresh_per_second=8) as live:
        return await drive(network, runs, lambda _: live.update(task_table(runs, console)))


async def _stay(console: Console, network: LocalNetwork, folder: Path) -> None:
    console.print("\nIt stays up until Ctrl-C.")
    console.print(f"  chain      {network.chain_url}  (attestation center 0x{network.deployment.center.hex()})")
    for member in network.members:
        ipfs = network.kubos.get(member.name)
        console.print(f"  {member.name:<10} {member.url}{f'  its IPFS node: {ipfs.url}' if ipfs else ''}")
    secret = secrets.token_bytes(32)
    async with open_requester(network, secret) as requester:
        await requester.deposit({network.member(PERFORMER).address: DEMO_TASKS})
    key_file = folder / "requester.key"
    fees.write_key(key_file, secret)
    settings = network.member(PERFORMER).folder / "config.toml"
    console.print(f"\nA requester with a deposit for {DEMO_TASKS} tasks: {key_file}", soft_wrap=True, highlight=False)
    console.print(f"Settings for `poi fees` and `poi operator`: {settings}", soft_wrap=True, highlight=False)
    console.print("\nA signed request of your own to try (again is the same task):\n")
    console.print(await _curl(network, secret), soft_wrap=True, highlight=False, markup=False)
    await asyncio.Event().wait()


async def _curl(network: LocalNetwork, secret: bytes) -> str:
    """A line that works: a signed digit request, and its task's id to ask for."""
    url = network.member(PERFORMER).url
    errand = plan(1, 0)[0]
    async with PoiClient(url, SecretKey(secret)) as client:
        task_id, call = await client.prepare(
            network.definitions[errand.model],
            errand.document,
            errand.parameters,
            fee=network.fees.total,
            deadline_seconds=DEMO_DEADLINE_SECONDS,
        )
    request = {"jsonrpc": "2.0", "id": 1, "method": "poi_requestInference", "params": call}
    wait = {"taskId": f"0x{task_id.hex()}", "waitFor": "final"}
    ask = {"jsonrpc": "2.0", "id": 2, "method": "poi_getTask", "params": wait}
    return "\n\n".join(
        f"curl -s {url} -H 'Content-Type: application/json' -d {shlex.quote(msgspec.json.encode(body).decode())}"
        for body in (request, ask)
    )
