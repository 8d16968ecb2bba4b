"""One operator's node in a simulation: the role classes wired as `shared.node` wires them, over adapters in memory.

It may be killed at any step and started again on the same disk, as a container is that restarts unless stopped.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Any, Protocol, TypeVar

import structlog

from shared.adapters.memory.chain import MemoryChain
from shared.adapters.memory.content import ContentHub
from shared.adapters.memory.engine import FunctionEngine
from shared.adapters.memory.gossip import MemoryHub
from shared.adapters.memory.store import MemoryFile
from shared.config import AggregatorConfig, Config, NetworkConfig
from shared.errors import ChainUnavailable
from shared.messages import Topics
from shared.metrics import Metrics
from shared.model_library import ModelLibrary
from shared.node import Node
from shared.profiles import Profile
from shared.roster import RosterWatch
from shared.types import Address
from shared.validation import GossipRules
from shared.verification import METHODS
from tests.cast import peer_key_of
from tests.chain_support import Person
from tests.simnet.journal import NODE, Journal
from tests.simnet.steps import (
    Life,
    Shelf,
    SteppedChain,
    SteppedContent,
    SteppedGossip,
    SteppedGuard,
    SteppedIdentity,
    SteppedStore,
    SteppedVoteKey,
    Steps,
)
from tests.simnet.virtual_time import VirtualClock

T = TypeVar("T")
RESTART_SECONDS = 1.0


# Nobody reads them here, and each looks up every installed package.
_metrics = cache(Metrics)


class Unreachable(Exception):
    """The node is down, or went down while it was asked."""


class Duty(Protocol):
    """A role."""

    async def run(self) -> None: ...


@dataclass
class World:
    """What all nodes share: the wires between them, the chain, and what happened so far."""

    chain: MemoryChain
    hub: MemoryHub
    content: ContentHub
    journal: Journal
    engine: Callable[[], FunctionEngine]
    batch_seconds: float
    nodes: dict[str, SimNode] = field(default_factory=dict)
    sides: dict[str, int] = field(default_factory=dict)  # by name; who is not in it is on side 0
    is_chain_out: bool = False

    def reaches(self, name: str, owner: Address) -> bool:
        """Whether `name` gets an answer from `owner`'s gateway."""
        other = next((node for node in self.nodes.values() if node.person.address == owner), None)
        return other is not None and other.is_up and self.sides.get(name, 0) == self.sides.get(other.name, 0)


class SimNode:
    """A node that runs one role. `make` builds the role from its parts, as the command line does; `models` are the
    files that a performer brings with it."""

    def __init__(
        self, world: World, person: Person, role: str, make: Callable[[Node], Duty], models: tuple[bytes, ...] = ()
    ) -> None:
        self.name, self.person, self.role = person.name, person, role
        self._world, self._make, self._models = world, make, models
        self.shelf = Shelf()
        self.engine = world.engine
        self.store, self.guard = MemoryFile(), MemoryFile()  # the disk, which outlives every process
        self.steps = Steps(self._die_and_come_back)
        self.crashes: list[Exception] = []
        self.node: Any = None  # the parts of this life
        self.duty: Any = None  # the role of this life
        self._life: Life | None = None
        self._process: asyncio.Task[None] | None = None
        self._former: asyncio.Task[None] | None = None
        self._calls: set[asyncio.Task[Any]] = set()
        self._context = contextvars.copy_context()
        self._context.run(structlog.contextvars.bind_contextvars, **{NODE: self.name})

    # --- life and death ------------------------------------------------------------------------------
    @property
    def is_up(self) -> bool:
        return self.duty is not None

    @property
    def is_ready(self) -> bool:
        """It knows the chain and has the models, where its role needs them."""
        if not self.is_up or self.node.roster.current.epoch == 0:
            return False
        ready_ids = self.duty.health()["readyDefinitions"] if self.role == "attester" else self.node.library.ready_ids
        return self.role == "aggregator" or set(ready_ids) >= set(self.node.roster.current.definitions)

    def start(self) -> None:
        """On what is on its disk. Nothing happens to a node that runs."""
        if self._process is None:
            self._world.journal.note("started", node=self.name)
            self._process = asyncio.get_running_loop().create_task(self._run(), context=self._context)

    def kill(self) -> None:
        """kill -9: what it did not do by now, it never does."""
        if self._process is None:
            return
        self._world.journal.note("killed", node=self.name)
        self._end_life()
        self._process.cancel()
        self._former, self._process = self._process, None

    async def killed(self) -> None:
        """Until the last process is gone."""
        self.kill()
        if self._former is not None:
            await asyncio.wait([self._former])

    def _die_and_come_back(self) -> None:
        self.kill()
        asyncio.get_running_loop().call_later(RESTART_SECONDS, self.start)

    async def call(self, ask: Callable[[Any], Awaitable[T]]) -> T:
        """As a client asks the node's door, in the node's own process. Raises `Unreachable`."""
        if not self.is_up:
            raise Unreachable(self.name)
        duty = self.duty

        async def handle() -> T:
            return await ask(duty)

        task = asyncio.get_running_loop().create_task(handle(), context=self._context)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        await asyncio.wait([task])
        if task.cancelled():
            raise Unreachable(self.name)
        return task.result()

    # --- inside ----------------------------------------------------------------------------------
    async def _run(self) -> None:
        if self._former is not None:
            await asyncio.wait([self._former])  # else its closing would unplug the new one
        while True:
            try:
                await self._live()
            except ChainUnavailable:
                self._world.journal.note("no chain to start with", node=self.name)
            except Exception as error:  # noqa: BLE001 - as a supervisor, which restarts whatever ended
                if self._life is not None and self._life.is_over:
                    return  # killed meanwhile: what a store says that was cut off is no fault of the node
                self._world.journal.note("crashed", node=self.name, error=repr(error))
                self.crashes.append(error)
            self._end_life()
            await asyncio.sleep(RESTART_SECONDS)

    def _end_life(self) -> None:
        if self._life is not None:
            self._life.is_over = True
        if self.node is not None:
            self.node.gossip.cut()
            self.node.settlement.is_down = True
        self.store.kill()
        self.guard.kill()
        for call in self._calls:
            call.cancel()
        self.node = self.duty = None

    async def _live(self) -> None:
        """In the order of `shared.node` and `poi.run`."""
        life = self._life = Life(self.steps)
        async with AsyncExitStack() as stack:
            node = self.node = await self._open(stack, life)
            for file in self._models:
                await node.content.add(file)
            duty = self.duty = self._make(node)
            async with asyncio.TaskGroup() as group:
                group.create_task(duty.run())
                group.create_task(node.roster.run())
                if self.role != "aggregator":
                    group.create_task(node.library.keep_ready(lambda: node.roster.current))

    async def _open(self, stack: AsyncExitStack, life: Life) -> Any:
        """What a `shared.node.Node` has, as far as the roles' `from_node` know it."""
        world, person, clock = self._world, self.person, VirtualClock()
        store = await stack.enter_async_context(SteppedStore(self.store, life))
        guard = await stack.enter_async_context(SteppedGuard(self.guard, life))
        connection = SteppedChain.of(world.chain, life)
        connection.is_down = world.is_chain_out
        roster = RosterWatch(connection)
        await roster.refresh()
        gossip = await stack.enter_async_context(
            SteppedGossip(world.hub, peer_key_of(person), lambda: roster.current.by_peer, life)
        )
        content = SteppedContent(
            world.content, person.address, life, lambda owner: world.reaches(self.name, owner), self.shelf
        )
        engine = self.engine()
        return SimpleNamespace(
            config=self._config(),
            domain=world.chain.domain,
            topics=Topics(world.chain.domain),
            clock=clock,
            signer=SteppedIdentity(person.identity, life),
            vote_signer=SteppedVoteKey(person.vote, life),
            settlement=connection,
            court=connection,
            escrow=connection,
            epochs=connection,
            reader=connection,
            roster=roster,
            rules=GossipRules(domain=world.chain.domain, roster=lambda: roster.current, clock=clock),
            gossip=gossip,
            content=content,
            publishers=(),
            engine=engine,
            library=ModelLibrary(content=content, engines={Profile.FP32: engine}, reference=engine),
            store=store,
            guard=guard,
            methods=METHODS,
            metrics=_metrics(self.role),
            evidence_secret=person.evidence_secret,
        )

    def _config(self) -> Config:
        deployment = self._world.chain.deployment
        network = NetworkConfig(
            chain_rpc="http://chain",
            chain_id=deployment.chain_id,
            attestation_center=deployment.center,
            task_escrow=deployment.escrow,
        )
        return Config(network=network, aggregator=AggregatorConfig(batch_seconds=self._world.batch_seconds))
