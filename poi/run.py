"""One role, one process: open the node, serve its door, and do the duty until a signal or a fault ends it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from aggregator.service import Aggregator
from attester.api import EvidenceDoor
from attester.service import Attester
from performer.api import Door
from performer.service import Performer
from poi.own_models import publish_models
from shared import log as logging
from shared.adapters.content.door.server import serve_door
from shared.adapters.http import Routes, serve
from shared.config import Config
from shared.errors import ConfigError
from shared.node import Node, open_node
from shared.verification.method import Method

log = structlog.get_logger(__name__)

FAULT = 1


async def run_role(
    role: str, config: Config, *, methods: Mapping[str, Method] | None = None, stop: asyncio.Event | None = None
) -> int:
    """The exit code: 0 after SIGTERM, SIGINT or `stop`. Raises what kept the node from starting.

    `methods` instead of the node's own: the local testnet's liar brings some.
    """
    logging.configure(config.log, role, "starting")
    stop = stop or asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with (
        open_node(config, role) as node,
        serve_door(node.content, config.node.data_dir, config.content.max_bytes),
    ):
        logging.configure(config.log, role, node.signer.address)
        if role == "performer":
            await publish_models(node.config.performer.models_dir, node.content)
        duty = _duty(role, node, methods)

        def metrics() -> tuple[bytes, str]:
            node.count()
            duty.count()
            return node.metrics.exposition()

        def health() -> tuple[bool, Mapping[str, Any]]:
            is_healthy, details = node.health()
            return is_healthy, {**details, **duty.health()}

        async with serve(
            host=config.http.host,
            port=config.http.port,
            routes=[*node.content.routes(), *duty.routes],
            health=health,
            metrics=metrics,
        ) as port:
            log.info("ready", port=port, peer=node.libp2p.peer_id)
            return await _until_stopped(node, duty.run, stop, runs_models=role != "aggregator")


@dataclass(frozen=True)
class Duty:
    """What a role does, what it serves, what it counts only when somebody looks, and what it says of its health."""

    run: Coroutine[Any, Any, None]
    routes: Routes = ()
    count: Callable[[], None] = lambda: None
    health: Callable[[], Mapping[str, Any]] = dict


def _duty(role: str, node: Node, methods: Mapping[str, Method] | None) -> Duty:
    match role:
        case "performer":
            performer = Performer.from_node(node, methods=methods)
            return Duty(performer.run(), Door.from_node(node, performer).routes(), performer.count_open)
        case "attester":
            attester = Attester.from_node(node)
            return Duty(attester.run(), EvidenceDoor(attester.evidence).routes(), health=attester.health)
        case "aggregator":
            return Duty(Aggregator.from_node(node).run())
        case _:
            raise ConfigError(f"no role {role!r}; expected performer, attester or aggregator")


async def _until_stopped(node: Node, duty: Coroutine[Any, Any, None], stop: asyncio.Event, *, runs_models: bool) -> int:
    """Whatever ends first ends all: a duty that dies silently would be worse than a process that does."""
    stopping = asyncio.create_task(stop.wait())
    works: set[asyncio.Future[Any]] = {
        asyncio.create_task(duty),
        asyncio.create_task(node.roster.run()),
        asyncio.ensure_future(node.libp2p.failed),
    }
    if runs_models:
        works.add(asyncio.create_task(node.library.keep_ready(lambda: node.roster.current)))
    try:
        await asyncio.wait({stopping, *works}, return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            return 0
        ended = next(work for work in works if work.done())
        if error := ended.exception():
            raise error
        log.error("a duty ended", result=str(ended.result()))
        return FAULT
    finally:
        stopping.cancel()
        for work in works:
            work.cancel()
        await asyncio.gather(stopping, *works, return_exceptions=True)
