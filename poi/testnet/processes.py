"""Every role as a process of its own, forked from a server that has imported what they all need.

Eight nodes that each import libp2p, web3 and onnxruntime take half a minute of CPU; forked ones start in a second. What
runs in them is `poi.run.run_role`, as under `poi performer --config FILE`.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

PRELOAD = ["poi.run", "poi.testnet.lies", "poi.testnet.processes", "poi.testnet.kubo.process"]
STOP_SECONDS = 3.0  # of the five that Ctrl-C may take
CHILD_SECONDS = 1.5  # a node that is up stops in half of it; one that is still starting has nothing to bring to rest
HUNG = 3


@dataclass
class NodeProcess:
    """One running role."""

    name: str
    process: BaseProcess
    lifeline: Connection = field(repr=False)  # the child ends when our end is closed, however we end
    log_file: Path

    def tail(self, lines: int = 12) -> str:
        """The end of what it logged."""
        try:
            return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""


class Supervisor:
    """Starts nodes, and leaves none behind."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOAD)
        self.nodes: list[NodeProcess] = []

    @staticmethod
    def warm_up() -> None:
        """Start the server now: it imports while the chain is being deployed. On the main thread only."""
        # Ctrl-C reaches it too, and while it imports it would answer with a traceback; ignored signals are inherited.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            forkserver.ensure_running()
        finally:
            signal.signal(signal.SIGINT, before)

    def start(self, name: str, role: str, config: Path, *, lying_about: Path | None = None) -> NodeProcess:
        """`lying_about`, the folder of models, makes it the liar."""
        ours, theirs = self._context.Pipe()
        log_file = config.with_suffix(".log")
        process = self._context.Process(
            target=run_child, args=(role, config, log_file, theirs, lying_about), name=name, daemon=True
        )
        process.start()
        theirs.close()
        node = NodeProcess(name, process, ours, log_file)
        self.nodes.append(node)
        return node

    async def stop(self) -> None:
        """Ask all at once, wait, and kill what does not listen."""
        for node in self.nodes:
            node.lifeline.close()
        await asyncio.to_thread(self._join, time.monotonic() + STOP_SECONDS)

    def _join(self, end: float) -> None:
        for node in self.nodes:
            node.process.join(max(0.0, end - time.monotonic()))
        for node in self.nodes:
            if node.process.is_alive():
                node.process.kill()
            node.process.join()


def run_child(role: str, config: Path, log_file: Path, lifeline: Connection, lying_about: Path | None) -> None:
    """The child's whole life."""
    # Ctrl-C reaches the whole foreground group; who ends first is the supervisor's to order.
    os.setsid()
    redirect(log_file)
    sys.exit(asyncio.run(_run(role, config, lifeline, lying_about)))


async def _run(role: str, config: Path, lifeline: Connection, lying_about: Path | None) -> int:
    from poi.run import run_role
    from shared.config import load

    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def end() -> None:
        loop.remove_reader(lifeline.fileno())
        stop.set()
        # A node that hangs while it stops must not outlive its network.
        loop.call_later(CHILD_SECONDS, os._exit, HUNG)

    loop.add_reader(lifeline.fileno(), end)  # readable means closed: nobody writes
    arguments: dict[str, Any] = {"stop": stop}
    if lying_about is not None:
        from poi.testnet.lies import lying_methods

        arguments["methods"] = lying_methods(lying_about)
    return await run_role(role, load(config, environ={}), **arguments)


def redirect(log_file: Path) -> None:
    """What this process prints goes into the file from now on, and what its libraries print."""
    descriptor = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, sys.stdout.fileno())
    os.dup2(descriptor, sys.stderr.fileno())
    os.close(descriptor)
