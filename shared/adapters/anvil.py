"""A local chain: anvil as a child process that cannot outlive, outgrow or collide with anybody.

Blocks come by the clock. With a block for each transaction a backlog of some 2,000 stops anvil for ever while it eats
memory (measured: 22.9 GB). Timestamps stay honest below a second a block: neighbours then share one.
"""

from __future__ import annotations

import asyncio
import os
import platform
import re
import shutil
import sys
import tempfile
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import structlog

from shared.errors import ChainUnavailable, ConfigError

log = structlog.get_logger(__name__)

HARDFORK = "osaka"  # has the BLS12-381 precompiles (EIP-2537), which anvil's older forks only pretend to call
# Left alone, anvil writes the whole state once a block to the home directory, 2 MB each when the chain is 8,191 blocks
# old (EIP-2935), up to 3,600 of them: 7 GB. States in memory cost about 3 MB each; these are enough for any reorg that
# a test makes and for asking why a recent transaction failed.
KEPT_STATES = 32
MEMORY_BYTES = 4 << 30  # of address space, ten times what a busy chain uses; anvil fails cleanly at the limit
START_SECONDS = 30.0  # 50 ms on a quiet machine
STOP_SECONDS = 10.0  # for writing the state file
TAIL_BYTES = 4096  # of anvil's output, for errors

Listener = tuple[str, int]  # host and port

_LISTENING = re.compile(rb"Listening on ([\d.]+):(\d+)")

# Runs between fork and exec, as a program of its own: code after a fork in a process with threads may deadlock.
# PR_SET_PDEATHSIG is 1. The parent may have died before the request for its death signal was made, hence the check.
_GUARD = """
import os, resource, signal, sys
parent, memory, *command = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    if os.getppid() != int(parent):
        sys.exit("the parent is gone")
os.execv(command[0], command)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnvilSettings:
    """What a local chain is like. `accounts` are anvil's well-known ones, whose keys everybody has."""

    block_seconds: float = 0.25
    chain_id: int = 31337
    accounts: int = 0
    state_file: Path | None = None  # read at the start if it is there, written at the stop
    port: int = 0  # 0: any free one
    memory_bytes: int = MEMORY_BYTES

    def arguments(self) -> list[str]:
        """The command line behind the program's name."""
        given = {
            "--host": "127.0.0.1",
            "--port": self.port,
            "--hardfork": HARDFORK,
            "--chain-id": self.chain_id,
            "--block-time": self.block_seconds,
            "--accounts": self.accounts,
            "--prune-history": KEPT_STATES,
            "--color": "never",
        }
        if self.state_file is not None:
            given["--state"] = self.state_file
        return [str(part) for pair in given.items() for part in pair]


def find_anvil() -> Path:
    """`$ANVIL`, then what `tools/package.json` installed, then PATH. Raises `ConfigError`."""
    chosen = os.environ.get("ANVIL")
    if chosen:
        if not os.access(chosen, os.X_OK):
            raise ConfigError(f"ANVIL={chosen} is not a program")
        return Path(chosen)
    # The program itself: npm's wrapper script costs 0.35 s and a node process that outlives signals.
    arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    tools = Path(__file__).resolve().parents[2] / "tools"
    installed = tools / f"node_modules/@foundry-rs/anvil-{sys.platform}-{arch}/bin/anvil"
    if installed.exists():
        return installed
    if found := shutil.which("anvil"):
        return Path(found)
    raise ConfigError("anvil is not installed; run: python3 dev.py setup (or set ANVIL to the program)")


class Anvil:
    """One anvil, running between `async with` and its end. On Linux it also ends with the thread that started it."""

    def __init__(self, settings: AnvilSettings | None = None, *, program: Path | None = None) -> None:
        self.settings = settings or AnvilSettings()
        self._program = program
        self._tail: deque[bytes] = deque(maxlen=64)
        self._process: asyncio.subprocess.Process | None = None
        self._drain: asyncio.Task[None] | None = None
        self._listening: asyncio.Future[Listener] | None = None
        self._url = ""
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        """Of its JSON-RPC, once started."""
        return self._url

    @property
    def pid(self) -> int:
        """Raises `ChainUnavailable` when it does not run."""
        if self._process is None or self._process.returncode is not None:
            raise ChainUnavailable(f"anvil does not run: {self.tail()}")
        return self._process.pid

    def tail(self) -> str:
        """The end of what anvil said."""
        return b"".join(self._tail)[-TAIL_BYTES:].decode(errors="replace").strip()

    async def wait(self) -> int:
        """Until it ends by itself, or is stopped; the exit code. For whoever supervises it."""
        if self._process is None:
            raise ChainUnavailable(f"anvil does not run: {self.tail()}")
        return await self._process.wait()

    async def start(self) -> None:
        """Returns when anvil listens. Raises `ConfigError` without the program, `ChainUnavailable` with its output."""
        program = self._program or find_anvil()
        guard = [sys.executable, "-I", "-S", "-c", _GUARD, str(os.getpid()), str(self.settings.memory_bytes)]
        loop = asyncio.get_running_loop()
        self._scratch = tempfile.TemporaryDirectory(prefix="anvil-")  # it would make one in the home directory
        process = await asyncio.create_subprocess_exec(
            *guard,
            str(program),
            *self.settings.arguments(),
            "--cache-path",
            self._scratch.name,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the parent, which stops its nodes before their chain
        )
        listening: asyncio.Future[Listener] = loop.create_future()
        self._process, self._listening = process, listening
        self._drain = loop.create_task(self._read_output(process, listening), name="anvil output")
        try:
            async with asyncio.timeout(START_SECONDS):
                host, port = await listening
        except TimeoutError:
            await self.stop()
            raise ChainUnavailable(f"anvil did not listen within {START_SECONDS:.0f} s: {self.tail()}") from None
        except BaseException:
            await self.stop()
            raise
        self._url = f"http://{host}:{port}"

    async def stop(self) -> None:
        """SIGTERM, which writes the state file, then SIGKILL. Again: does nothing."""
        process, drain = self._process, self._drain
        if process is None or drain is None:
            return
        if self._listening is not None:
            self._listening.cancel()  # nobody waits for it any more
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await asyncio.shield(process.wait())
        except TimeoutError:
            log.warning("anvil does not stop; it is killed", pid=process.pid)
            process.kill()
            await process.wait()
        await drain
        self._process = self._drain = None
        if self._scratch is not None:
            self._scratch.cleanup()

    async def _read_output(self, process: asyncio.subprocess.Process, listening: asyncio.Future[Listener]) -> None:
        """Until the end: an unread pipe would block anvil. In pieces, because a line may have any length."""
        output = cast(asyncio.StreamReader, process.stdout)  # a pipe was asked for
        while piece := await output.read(1 << 16):
            self._tail.append(piece[-TAIL_BYTES:])
            if not listening.done() and (match := _LISTENING.search(b"".join(self._tail))):
                listening.set_result((match[1].decode(), int(match[2])))
        code = await process.wait()
        if not listening.done():
            listening.set_exception(ChainUnavailable(f"anvil ended with {code}: {self.tail()}"))
