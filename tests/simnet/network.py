"""A whole network on virtual time: a performer, attesters, aggregators, a requester and a chain, and liars where a
scenario wants them. Everything that happens follows from the seed.
"""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any, Concatenate, ParamSpec

from aggregator.service import Aggregator
from attester.service import Attester
from performer.service import Performer
from shared.adapters.memory.chain import MemoryChain
from shared.adapters.memory.content import ContentHub
from shared.adapters.memory.gossip import Link, MemoryGossip, MemoryHub
from shared.adapters.terms import NetworkTerms
from shared.batch import decode_document, document_cid
from shared.constants import GWEI
from shared.errors import RequestRefused
from shared.json_forms import request_to_json, to_hex
from shared.messages import AbstainMessage, Topics, VoteMessage
from shared.node import Node
from shared.reasons import AbstainReason
from shared.types import (
    BatchSettled,
    ChainEvent,
    Digest,
    Role,
    Settled,
    SlashExecuted,
    SlashQueued,
    TaskRequest,
    Uint256,
    Verdict,
)
from shared.workflow import Phase, Task
from tests.cast import peer_key_of
from tests.chain_support import ETHER, OWNER, VAULT, Person, sha
from tests.simnet.journal import Journal
from tests.simnet.models import engine_of, shipped
from tests.simnet.node import Duty, SimNode, Unreachable, World
from tests.simnet.virtual_time import START, run_virtual
from tests.toy_model import cid_of

P = ParamSpec("P")
Make = Callable[[Node], Duty]

PERFORMER_STAKE = 10 * ETHER
LOOK_SECONDS = 0.05
ASK_AGAIN_SECONDS = 0.5
NEAR = Link(min_delay_seconds=0.005, max_delay_seconds=0.05)  # a quiet network within a continent
LOSSY = Link(min_delay_seconds=0.0, max_delay_seconds=1.0, loss=0.2, duplication=0.2)

person = cache(Person)
REQUESTER = person("requester")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a simulation begins with. Attesters are their stakes in wei. `roles` are those that differ from the honest
    ones, by node name; a node of the name "liar" is a second performer."""

    seed: int = 1
    attesters: tuple[int, ...] = (ETHER,) * 4
    aggregators: int = 1
    link: Link = NEAR
    models: tuple[str, ...] = ("digits",)
    batch_seconds: float = 1.0
    epoch_seconds: int = 3600
    dispute_seconds: int = 20
    roles: Mapping[str, Make] = field(default_factory=dict)

    def members(self) -> dict[str, tuple[Role, int]]:
        """Role and stake by name, in order of registration."""
        performers = ["performer", *(["liar"] if "liar" in self.roles else [])]
        return (
            {name: (Role.PERFORMER, PERFORMER_STAKE) for name in performers}
            | {f"attester{i}": (Role.ATTESTER, stake) for i, stake in enumerate(self.attesters)}
            | {f"aggregator{i}": (Role.AGGREGATOR, ETHER) for i in range(self.aggregators)}
        )


HONEST: dict[Role, Make] = {
    Role.PERFORMER: Performer.from_node,
    Role.ATTESTER: Attester.from_node,
    Role.AGGREGATOR: Aggregator.from_node,
}


@dataclass(frozen=True)
class OnChain:
    """One time that the chain recorded a verdict on a task."""

    verdict: Verdict
    batch_size: int  # 0: alone
    block: int


class WireTap(MemoryHub):
    """Notes all that is sent, before chance decides who receives it."""

    def __init__(self, journal: Journal, seed: int, link: Link) -> None:
        super().__init__(seed=seed, link=link)
        self._journal = journal
        self.names: dict[bytes, str] = {}

    def send(self, origin: MemoryGossip, topic: str, data: bytes) -> None:
        self._journal.sent(self.names.get(origin.peer_key, "stranger"), topic, data)
        super().send(origin, topic, data)


class Network:
    """What a scenario acts on."""

    def __init__(self, plan: Plan, journal: Journal) -> None:
        self.plan, self.journal = plan, journal
        terms = NetworkTerms(
            vault=VAULT,
            minimum_stake_wei=ETHER // 2,
            unbonding_seconds=max(1000, plan.dispute_seconds),
            epoch_seconds=plan.epoch_seconds,
            dispute_window_seconds=plan.dispute_seconds,
            owner=OWNER.address,
        )
        self.chain = MemoryChain(terms, time_zero=START)
        self.domain = self.chain.domain
        self.topics = Topics(self.domain)
        self.hub = WireTap(journal, plan.seed, plan.link)
        self.content = ContentHub()
        self.world = World(
            self.chain, self.hub, self.content, journal, partial(engine_of, plan.models), plan.batch_seconds
        )
        self.nodes = self.world.nodes
        self.asked: list[Digest] = []
        self._nonces = 0

    # --- people --------------------------------------------------------------------------------------
    def node(self, name: str) -> SimNode:
        return self.nodes[name]

    @property
    def attesters(self) -> list[str]:
        return [name for name in self.nodes if name.startswith("attester")]

    def is_honest(self, name: str) -> bool:
        return name not in self.plan.roles

    # --- requests ------------------------------------------------------------------------------------
    async def ask(
        self,
        performer: str = "performer",
        *,
        model: str = "digits",
        document: bytes | None = None,
        parameters: str = "{}",
        deadline_seconds: int = 60,
        wanted: Callable[[Digest], bool] = lambda task_id: True,
    ) -> Digest:
        """Asks until the performer took the task; `wanted` chooses among the task ids that nonces give."""
        document = shipped(model).documents[len(self.asked) % 8] if document is None else document
        request = self._request(performer, model, document, parameters, deadline_seconds)
        while not wanted(self.domain.task_id(request)):
            request = self._request(performer, model, document, parameters, deadline_seconds)
        task_id = self.domain.task_id(request)
        form = request_to_json(request), to_hex(REQUESTER.identity.sign(task_id)), document.decode()
        self.journal.note("asked", task=task_id.hex()[:8], performer=performer)
        self.asked.append(task_id)
        while True:
            try:
                await self.node(performer).call(lambda duty: duty.request(*form))
                return task_id
            except (Unreachable, RequestRefused) as error:
                self.journal.note("asks again", reason=str(error))
                await asyncio.sleep(ASK_AGAIN_SECONDS)

    def _request(self, performer: str, model: str, document: bytes, parameters: str, deadline: int) -> TaskRequest:
        self._nonces += 1
        return TaskRequest(
            requester=REQUESTER.address,
            nonce=Uint256(self._nonces),
            performer=person(performer).address,
            task_definition_id=self.plan.models.index(model),
            model_hash=shipped(model).hash,
            input_cid=cid_of(document),
            parameters=parameters,
            seed=Digest(sha("seed", self.plan.seed, self._nonces)),
            fee=Uint256(0),
            deadline=int(START + self.now()) + deadline,
        )

    # --- what is so ----------------------------------------------------------------------------------
    @staticmethod
    def now() -> float:
        """Seconds since the simulation began."""
        return asyncio.get_running_loop().time()

    def task(self, task_id: Digest, performer: str = "performer") -> Task | None:
        """As its performer knows it; None while the performer is down or never heard of it."""
        duty = self.node(performer).duty
        found: Task | None = duty.ledger.get(task_id) if duty is not None else None
        return found

    def phase(self, task_id: Digest, performer: str = "performer") -> Phase | None:
        task = self.task(task_id, performer)
        return task.phase if task is not None else None

    def events(self) -> list[ChainEvent]:
        """Of the chain as it is now."""
        self.chain._ledger.head()
        return list(self.chain._ledger.events)

    def on_chain(self, task_id: Digest) -> list[OnChain]:
        """Every time that the chain as it is now recorded a verdict on the task."""
        found: list[OnChain] = []
        for event in self.events():
            if isinstance(event, Settled) and event.task_id == task_id:
                found.append(OnChain(Verdict.VALID if event.is_approved else Verdict.INVALID, 0, event.block))
            elif isinstance(event, BatchSettled):
                found += [
                    OnChain(certificate.verdict, event.batch.size, event.block)
                    for certificate in decode_document(self._document(event))
                    if certificate.task_info.task_id == task_id
                ]
        return found

    def _document(self, event: BatchSettled) -> bytes:
        cid = document_cid(event.batch.content_hash)
        return next(blocks[cid].data for blocks in self.content.blocks.values() if cid in blocks)

    def verdict(self, task_id: Digest) -> Verdict | None:
        """What the chain says, which must be one thing, and once."""
        found = self.on_chain(task_id)
        assert len(found) <= 1, f"settled {len(found)} times: {found}"
        return found[0].verdict if found else None

    def slashes(self, kind: type[SlashQueued] | type[SlashExecuted]) -> list[Any]:
        return [event for event in self.events() if isinstance(event, kind)]

    async def stake(self, name: str) -> int:
        return await self.chain.stake_of(person(name).address)

    def votes(self, name: str, task_id: Digest) -> list[VoteMessage]:
        """As they were sent, each repetition too."""
        return [vote for vote in self.journal.of(VoteMessage, name) if vote.task_id == task_id]

    def reasons(self, name: str, task_id: Digest) -> list[AbstainReason]:
        """Why the attester abstained, each time that it said so."""
        said = self.journal.of(AbstainMessage, name)
        return [message.reason for message in said if message.task_id == task_id]

    # --- waiting -------------------------------------------------------------------------------------
    async def until(self, condition: Callable[[], object], what: str, limit_seconds: float = 60.0) -> None:
        """Fails with its name, and with the last that happened."""
        end = self.now() + limit_seconds
        while not condition():
            assert self.now() < end, f"not within {limit_seconds:g} s: {what}\n" + "\n".join(self.journal.replay()[-40:])
            await asyncio.sleep(LOOK_SECONDS)

    async def final(self, task_id: Digest, performer: str = "performer", limit_seconds: float = 60.0) -> Phase:
        """The phase in which the performer closes the task."""

        def is_final() -> bool:
            task = self.task(task_id, performer)
            return task is not None and task.is_final

        await self.until(is_final, f"task {task_id.hex()[:8]} is final", limit_seconds)
        phase = self.phase(task_id, performer)
        assert phase is not None
        return phase

    # --- faults --------------------------------------------------------------------------------------
    def chain_outage(self, is_out: bool) -> None:
        """Nobody reaches the chain; blocks are made all the same."""
        self.journal.note("chain", is_out=is_out)
        self.world.is_chain_out = is_out
        for node in self.nodes.values():
            if node.is_up:
                node.node.settlement.is_down = is_out

    def partition(self, *groups: list[str]) -> None:
        """Gossip and content reach nobody outside the group. Who is in no group is with the others of that kind."""
        self.journal.note("partition", groups=groups)
        self.world.sides = {name: side for side, group in enumerate(groups, start=1) for name in group}
        self.hub.partition(*([peer_key_of(person(name)) for name in group] for group in groups))

    def heal(self) -> None:
        self.partition()

    def set_link(self, link: Link) -> None:
        self.journal.note("link", loss=link.loss)
        self.hub.set_link(link)


# --- opening -------------------------------------------------------------------------------------
@asynccontextmanager
async def open_network(plan: Plan) -> AsyncIterator[Network]:
    """Registered, rolled and ready; killed at the end."""
    random.seed(plan.seed)  # the content reader shuffles its sources with the global generator
    journal = Journal()
    with journal.recording():
        network = Network(plan, journal)
        await _register(network)
        for node in network.nodes.values():
            node.start()
        try:
            await network.until(lambda: all(node.is_ready for node in network.nodes.values()), "all nodes are ready")
            yield network
        finally:
            for node in network.nodes.values():
                await node.killed()


async def _register(network: Network) -> None:
    plan, chain = network.plan, network.chain
    files = tuple(data for name in plan.models for data in (shipped(name).card_bytes, shipped(name).model_bytes))
    for name, (role, stake) in plan.members().items():
        member = person(name)
        await chain.register(member.address, member.registration(chain.deployment, role, stake))
        make = plan.roles.get(name, HONEST[role])
        models = files if role is Role.PERFORMER else ()
        network.nodes[name] = SimNode(network.world, member, (role.name or "").lower(), make, models)
        network.hub.names[peer_key_of(member)] = name
    for name in plan.models:
        model = shipped(name)
        await chain.create_task_definition(
            name=name, method=model.card.method, model_hash=model.hash, card_cid=cid_of(model.card_bytes)
        )
    await chain.roll_epoch()


def total_power(plan: Plan) -> int:
    return sum(stake // GWEI for stake in plan.attesters)


def simulated(
    **plan: Any,
) -> Callable[[Callable[Concatenate[Network, P], Coroutine[Any, Any, None]]], Callable[P, None]]:
    """A test on a network of this plan. The test's own parameters follow the network; `seed` among them is the plan's.
    The invariants are checked at the end of every one."""
    from tests.simnet import invariants

    def decorate(scenario: Callable[Concatenate[Network, P], Coroutine[Any, Any, None]]) -> Callable[P, None]:
        async def run(*arguments: P.args, **named: P.kwargs) -> None:
            seed = {"seed": named["seed"]} if "seed" in named else {}
            async with open_network(replace(Plan(**plan), **seed)) as network:
                await scenario(network, *arguments, **named)
                await invariants.check(network)

        def test(*arguments: P.args, **named: P.kwargs) -> None:
            run_virtual(run(*arguments, **named))

        signature = inspect.signature(scenario)
        test.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])  # type: ignore[attr-defined]
        test.__name__, test.__doc__, test.__module__ = scenario.__name__, scenario.__doc__, scenario.__module__
        return test

    return decorate
