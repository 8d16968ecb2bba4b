"""A Kubo node as a child process, as the testnet's nodes are: forked from a server, and gone when its parent is."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

from poi.testnet.kubo import daemon
from poi.testnet.kubo.daemon import Ready
from poi.testnet.kubo.libkubo import KuboFailed, library_file
from poi.testnet.processes import PRELOAD, redirect
from shared.errors import PoiError

START_SECONDS = 60.0  # a second on a quiet machine: imports, and the node's RSA key
STOP_SECONDS = 3.0
CHILD_SECONDS = 1.5  # a node closes in milliseconds
HUNG = 3
SHOWN_CHARACTERS = 500  # of what one that did not start said last


class KuboProcess:
    """One node. Starting several before waiting for the first lets them start side by side.

    Started again on the same repo it has the same id, multiaddr and blocks, and another port for its RPC API.
    """

    def __init__(self, repo: Path) -> None:
        """Raises `ConfigError` when libkubo is not installed, or not for this machine."""
        library_file()
        self.repo = repo = repo.absolute()
        repo.mkdir(parents=True, exist_ok=True)
        self._log_file = repo / "node.log"
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)  # all of it: there is one server, and the testnet's nodes need it too
        self._lifeline, theirs = context.Pipe()  # the child ends when our end is closed, however we end
        self.process = context.Process(
            target=_run_child, args=(repo, self._log_file, theirs), name=f"kubo {repo.name}", daemon=True
        )
        self.process.start()
        theirs.close()
        self._ready: Ready | None = None

    def wait(self) -> Ready:
        """Blocks until it serves. Raises `KuboFailed` with what it said last."""
        if self._ready is None:
            try:
                said = self._lifeline.recv() if self._lifeline.poll(START_SECONDS) else None
            except (EOFError, OSError):
                said = None
            if not isinstance(said, Ready):
                self.stop()
                log = self._log_file.read_text(errors="replace") if self._log_file.exists() else ""
                raise KuboFailed(f"the Kubo node in {self.repo} did not start: {log.strip()[-SHOWN_CHARACTERS:]}")
            self._ready = said
        return self._ready

    def kill(self) -> None:
        """As a crash would."""
        self.process.kill()
        self.process.join()
        self._lifeline.close()

    def stop(self) -> None:
        """Asked first, then killed."""
        self._lifeline.close()
        self.process.join(STOP_SECONDS)
        if self.process.is_alive():
            self.kill()


def _run_child(repo: Path, log_file: Path, lifeline: Connection) -> NoReturn:
    """The child's whole life."""
    os.setsid()  # Ctrl-C reaches the whole foreground group; who ends first is the parent's to order
    redirect(log_file)
    code = 0
    try:
        asyncio.run(_serve(repo, lifeline))
    except PoiError as error:
        print(error, file=sys.stderr, flush=True)
        code = daemon.FAILED
    daemon.end(code)


async def _serve(repo: Path, lifeline: Connection) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def end() -> None:
        loop.remove_reader(lifeline.fileno())
        stop.set()
        loop.call_later(CHILD_SECONDS, os._exit, HUNG)  # what hangs in Kubo must not outlive its parent

    loop.add_reader(lifeline.fileno(), end)  # readable means closed: nobody writes
    await daemon.run(repo, 0, 0, lifeline.send, stop)
