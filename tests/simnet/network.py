"""A whole network on virtual time, as a scenario sees it: it asks, looks, waits, and breaks things."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from attester.evidence import EVIDENCE, _decoder
from shared.adapters.memory.chain import MemoryChain
from shared.adapters.memory.content import ContentHub
from shared.adapters.memory.gossip import Link, MemoryGossip, MemoryHub
from shared.adapters.terms import NetworkTerms
from shared.batch import decode_document, document_cid
from shared.content.unixfs import cid_of
from shared.errors import RequestRefused
from shared.json_forms import request_to_json, to_hex
from shared.messages import AbstainMessage, Topics, VoteMessage
from shared.reasons import AbstainReason
from shared.seeds import needs_beacon
from shared.types import (
    Address,
    BatchSettled,
    ChainEvent,
    Digest,
    Settled,
    SlashExecuted,
    SlashQueued,
    TaskRequest,
    Uint256,
    Verdict,
)
from shared.workflow import Phase, Task
from tests.cast import peer_key_of
from tests.chain_support import ETHER, OWNER, VAULT, sha
from tests.simnet.journal import Journal
from tests.simnet.models import engine_of, shipped
from tests.simnet.node import SimNode, Unreachable, World
from tests.simnet.plan import Plan, person
from tests.simnet.virtual_time import START

LOOK_SECONDS = 0.05
ASK_AGAIN_SECONDS = 0.5
REQUESTER = person("requester")


@dataclass(frozen=True)
class Call:
    """A signed request, as a dApp sends it."""

    task_id: Digest
    performer: str
    form: tuple[dict[str, Any], str, str]


@dataclass(frozen=True)
class OnChain:
    """One time that the chain recorded a verdict on a task."""

    verdict: Verdict
    batch_size: int  # 0: alone


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
    """Made by `simulation.open_network`."""

    def __init__(self, plan: Plan, journal: Journal) -> None:
        self.plan, self.journal = plan, journal
        terms = NetworkTerms(
            vault=VAULT,
            minimum_stake_wei=ETHER // 2,
            unbonding_seconds=max(1000, plan.dispute_seconds),
            epoch_seconds=plan.epoch_seconds,
            grace_seconds=plan.grace_seconds,
            longest_dispute_seconds=plan.dispute_seconds,
            veto_delay_seconds=plan.dispute_seconds,
            owner=OWNER.address,
        )
        self.chain = MemoryChain(terms, block_seconds=plan.block_seconds, time_zero=START)
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

    def node(self, name: str) -> SimNode:
        return self.nodes[name]

    def address(self, name: str) -> Address:
        return self.nodes[name].person.address

    @property
    def attesters(self) -> list[str]:
        return [name for name in self.nodes if name.startswith("attester")]

    def is_honest(self, name: str) -> bool:
        return name not in self.plan.roles

    # --- asking --------------------------------------------------------------------------------------
    async def ask(self, performer: str = "performer", **request: Any) -> Digest:
        """`send` what `prepare` makes."""
        return await self.send(self.prepare(performer, **request))

    def prepare(
        self,
        performer: str = "performer",
        *,
        model: str = "digits",
        document: bytes | None = None,
        parameters: str = "{}",
        deadline_seconds: int = 60,
        wanted: Callable[[Digest], bool] = lambda task_id: True,
    ) -> Call:
        """`wanted` chooses among the task ids that nonces give."""
        while True:
            self._nonces += 1
            documents = shipped(model).documents
            asked = documents[self._nonces % len(documents)] if document is None else document
            request = TaskRequest(
                requester=REQUESTER.address,
                nonce=Uint256(self._nonces),
                performer=self.address(performer),
                task_definition_id=self.plan.models.index(model),
                model_hash=shipped(model).hash,
                input_cid=cid_of(asked),
                parameters=parameters,
                seed=self._seed_for(model),
                fee=Uint256(0),
                deadline=int(START + self.now()) + deadline_seconds,
            )
            task_id = self.domain.task_id(request)
            if wanted(task_id):
                signature = to_hex(REQUESTER.identity.sign(task_id))
                return Call(task_id, performer, (request_to_json(request), signature, asked.decode()))

    def _seed_for(self, model: str) -> Digest:
        """What a requester takes that reads the chain itself."""
        if needs_beacon(shipped(model).card):
            self.chain._ledger.head()
            tables = self.chain._ledger.state.tables
            return tables.beacons[tables.epoch]
        return Digest(sha("seed", self.plan.seed, self._nonces))

    async def send(self, call: Call) -> Digest:
        """Asks until the performer has the task."""
        self.journal.note("asked", task=call.task_id.hex()[:8], performer=call.performer)
        if call.task_id not in self.asked:
            self.asked.append(call.task_id)
        while True:
            try:
                task: Task = await self.node(call.performer).call(lambda duty: duty.request(*call.form))
                return task.task_id
            except (Unreachable, RequestRefused) as error:
                self.journal.note("asks again", reason=str(error))
                await asyncio.sleep(ASK_AGAIN_SECONDS)

    # --- looking -------------------------------------------------------------------------------------
    @staticmethod
    def now() -> float:
        """Seconds since the simulation began."""
        return asyncio.get_running_loop().time()

    def task(self, task_id: Digest, performer: str = "performer") -> Task | None:
        """As its performer knows it; None while the performer is down, or has not heard of it."""
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

    def slashes(self, kind: type[SlashQueued | SlashExecuted]) -> list[Any]:
        return [event for event in self.events() if isinstance(event, kind)]

    def on_chain(self, task_id: Digest) -> list[OnChain]:
        """Every time that the chain as it is now recorded a verdict on the task."""
        found: list[OnChain] = []
        for event in self.events():
            if isinstance(event, Settled) and event.task_id == task_id:
                found.append(OnChain(Verdict.VALID if event.is_approved else Verdict.INVALID, 0))
            elif isinstance(event, BatchSettled):
                found += [
                    OnChain(certificate.verdict, event.batch.size)
                    for certificate in decode_document(self._document(event))
                    if certificate.task_info.task_id == task_id
                ]
        return found

    def _document(self, event: BatchSettled) -> bytes:
        cid = document_cid(event.batch.content_hash)
        return next(blocks[cid].data for blocks in self.content.blocks.values() if cid in blocks)

    def verdict(self, task_id: Digest) -> Verdict | None:
        """What the chain says, which must be said once."""
        found = self.on_chain(task_id)
        assert len(found) <= 1, f"settled {len(found)} times: {found}"
        return found[0].verdict if found else None

    async def stake(self, name: str) -> int:
        return await self.chain.stake_of(self.address(name))

    def votes(self, name: str, task_id: Digest) -> list[VoteMessage]:
        """As they were sent, each repetition too."""
        return [vote for vote in self.journal.of(VoteMessage, name) if vote.task_id == task_id]

    def reasons(self, name: str, task_id: Digest) -> list[AbstainReason]:
        """Why the attester abstained, each time that it said so."""
        said = self.journal.of(AbstainMessage, name)
        return [message.reason for message in said if message.task_id == task_id]

    def evidence(self, name: str, info_hash: Digest) -> bytes:
        """As it lies on the attester's disk."""
        kept: bytes = _decoder.decode(self.node(name).store.entries[EVIDENCE, info_hash]).evidence
        return kept

    # --- waiting -------------------------------------------------------------------------------------
    async def until(self, condition: Callable[[], object], what: str, limit_seconds: float = 60.0) -> None:
        """Fails with its name, and with the last that happened."""
        end = self.now() + limit_seconds
        while not condition():
            if self.now() >= end:
                raise AssertionError(
                    "\n".join([f"not within {limit_seconds:g} s: {what}", *self.journal.replay()[-40:]])
                )
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

    async def slashed(self, task_id: Digest) -> SlashExecuted:
        """The stake that moved for the task."""
        found: list[SlashExecuted] = []

        def is_slashed() -> bool:
            found[:] = [slash for slash in self.slashes(SlashExecuted) if slash.task_id == task_id]
            return bool(found)

        await self.until(is_slashed, f"slashed for {task_id.hex()[:8]}")
        return found[0]

    @staticmethod
    async def pause(seconds: float) -> None:
        """Of virtual time."""
        await asyncio.sleep(seconds)

    # --- breaking ------------------------------------------------------------------------------------
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
