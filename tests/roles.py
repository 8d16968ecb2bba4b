"""A small world for the tests of the roles: each of them on memory adapters, with a model that is a matrix."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

import msgspec

from aggregator.epochs import EpochKeeper
from aggregator.service import Aggregator
from aggregator.settler import Settler
from attester.evidence import EvidenceLocker
from attester.judge import Judge
from attester.self_test import SelfTest
from attester.service import Attester
from performer.admission import Admission
from performer.api import Door
from performer.earnings import Earnings
from performer.ledger import TaskLedger
from performer.publishing import Publications
from performer.service import Performer
from performer.settlements import SettlementWatch
from shared import messages
from shared.adapters.memory.chain import MemoryChain
from shared.adapters.memory.content import MemoryContentStore
from shared.adapters.memory.gossip import MemoryGossip, MemoryHub
from shared.adapters.memory.store import MemoryFile, MemoryStore, MemoryVoteGuard
from shared.adapters.signers import LocalIdentitySigner, LocalVoteSigner
from shared.canonical import encode_canonical
from shared.constants import MAX_CONCURRENT_VERIFICATIONS, MAX_OPEN_TASKS
from shared.interfaces import ContentStore, InferenceEngine, Publisher, VoteGuard, VoteSigner
from shared.model_library import ModelLibrary
from shared.profiles import Profile
from shared.types import (
    Digest,
    Role,
    TaskDefinition,
    TaskTerms,
)
from shared.verification import METHODS
from shared.verification.method import Method
from tests.cast import Cast, peer_key_of
from tests.chain_support import AGGREGATOR, ETHER, OWNER, PERFORMER, Person
from tests.chain_support import TERMS as CHAIN_TERMS
from tests.faulty_chain import FaultyChain
from tests.listening import Bystander, Message, listen, running
from tests.simnet.virtual_time import START
from tests.toy_model import CARD_BYTES, CARD_CID, DEFINITION, GOLDEN_BYTES, MODEL, MODEL_HASH, TEXT_CARD, engine_of

# The chain's terms; windows are short, since some of these tests wait for them on virtual time.
TERMS = replace(CHAIN_TERMS, owner=OWNER.address)


OnChain = MemoryChain | FaultyChain


@dataclass
class PerformerDesk:
    """A performer with what belongs to it."""

    performer: Performer
    ledger: TaskLedger
    door: Door
    content: MemoryContentStore
    store: MemoryStore
    file: MemoryFile
    library: ModelLibrary

    async def request(self, form: Mapping[str, Any]) -> Digest:
        return (await self.performer.request(form["request"], form["signature"], form.get("input"))).task_id


def library_on(content: ContentStore, engine: InferenceEngine) -> ModelLibrary:
    """One engine for everything: the toy model knows no rounding."""
    return ModelLibrary(content=content, engines={Profile.FP32: engine}, reference=engine)


class World(Cast):
    """An async context manager; what it started ends with it."""

    def __init__(self, weights: Sequence[int] = (1, 1, 1, 1)) -> None:
        super().__init__(weights)
        self.hub = MemoryHub()
        self.files: dict[str, MemoryFile] = defaultdict(MemoryFile)  # survive their stores, as disks do
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        shelf = self.content.join(PERFORMER.address)
        await shelf.add(MODEL)
        await shelf.add(CARD_BYTES)
        await shelf.add(GOLDEN_BYTES)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    async def define_text(self, **changes: Any) -> None:
        """Definition 1: the toy model under the card of a decoder whose seed is the beacon, but for the changes to what
        it says of text. Nothing can run it."""
        assert TEXT_CARD.text is not None
        card = msgspec.structs.replace(TEXT_CARD, text=msgspec.structs.replace(TEXT_CARD.text, **changes))
        cid = (await self.content.join(PERFORMER.address).add(encode_canonical(card))).cid
        self.define(TaskDefinition(1, "text", "text", MODEL_HASH, cid))

    # --- nodes -----------------------------------------------------------------------------------
    @asynccontextmanager
    async def gossip_of(self, person: Person) -> AsyncIterator[MemoryGossip]:
        async with MemoryGossip(hub=self.hub, key=peer_key_of(person)) as gossip:
            yield gossip

    async def bystander(self, person: Person | None = None) -> Bystander:
        """Speaks as `person`, whose own node must not run at the same time."""
        gossip = await self._stack.enter_async_context(self.gossip_of(person or Person("bystander")))
        bystander = Bystander(gossip, self.topics)
        readers: tuple[tuple[str, Callable[[bytes], Message]], ...] = (
            (self.topics.task, messages.decode_task),
            (self.topics.vote, messages.decode_vote),
            (self.topics.certificate, messages.decode_certificate),
            (self.topics.batch, messages.decode_batch),
        )
        for topic, decode in readers:
            received = await self._stack.enter_async_context(gossip.subscribe(topic, lambda *_: None))
            await self._stack.enter_async_context(running(listen(received, decode, bystander.heard)))
        return bystander

    def library_of(self, person: Person, engine: InferenceEngine | None = None) -> ModelLibrary:
        return library_on(self.content.join(person.address), engine or engine_of())

    @asynccontextmanager
    async def opened(self, name: str) -> AsyncIterator[tuple[MemoryFile, MemoryStore]]:
        """A store that dies as with kill -9 at the end: what is written afterwards fails."""
        file = self.files[name]
        async with MemoryStore(file) as store:
            try:
                yield file, store
            finally:
                file.kill()

    @asynccontextmanager
    async def performer(
        self,
        *,
        engine: InferenceEngine | None = None,
        chain: OnChain | None = None,
        served: tuple[int, ...] = (),
        max_open_tasks: int = MAX_OPEN_TASKS,
        methods: Mapping[str, Method] = METHODS,
        publishers: Sequence[Publisher] = (),
        sources: tuple[str, ...] = (),
    ) -> AsyncIterator[PerformerDesk]:
        """Built on the same file and content each time; `run` is the caller's to start."""
        content = self.content.join(PERFORMER.address)
        library = library_on(content, engine or engine_of())
        async with self.gossip_of(PERFORMER) as gossip, self.opened("performer") as (file, store):
            ledger = TaskLedger(store=store)
            on_chain = chain or MemoryChain(TERMS)
            earnings = Earnings(
                address=PERFORMER.address, escrow=on_chain, settlement=on_chain, ledger=ledger, store=store
            )
            performer = Performer(
                domain=self.domain,
                roster=lambda: self.roster,
                gossip=gossip,
                topics=self.topics,
                rules=self.rules(),
                content=content,
                library=library,
                signer=LocalIdentitySigner(PERFORMER.identity),
                ledger=ledger,
                admission=Admission(
                    domain=self.domain,
                    address=PERFORMER.address,
                    roster=lambda: self.roster,
                    library=library,
                    content=content,
                    ledger=ledger,
                    earnings=earnings,
                    clock=self.clock,
                    served=served,
                    max_open_tasks=max_open_tasks,
                ),
                settlements=SettlementWatch(
                    domain=self.domain,
                    settlement=on_chain,
                    reader=on_chain,
                    content=content,
                    ledger=ledger,
                    earnings=earnings,
                    store=store,
                    clock=self.clock,
                ),
                earnings=earnings,
                publications=Publications(publishers=publishers, store=store, clock=self.clock),
                clock=self.clock,
                sources=sources,
                methods=methods,
            )
            door = Door(
                domain=self.domain,
                address=PERFORMER.address,
                roster=lambda: self.roster,
                performer=performer,
                content=content,
                library=library,
                served=served,
            )
            yield PerformerDesk(performer, ledger, door, content, store, file, library)

    @asynccontextmanager
    async def attester(
        self,
        index: int = 0,
        *,
        judge: Judge | None = None,
        engine: InferenceEngine | None = None,
        signer: VoteSigner | None = None,
        guard: VoteGuard | None = None,
        max_concurrent: int = MAX_CONCURRENT_VERIFICATIONS,
    ) -> AsyncIterator[Attester]:
        """Running, on the same guard file each time; ends as with kill -9."""
        person = self.people[index]
        file = self.files[f"guard {index}"]
        library, self_test = self.library_of(person, engine), self.self_test(index)
        async with (
            self.gossip_of(person) as gossip,
            MemoryVoteGuard(file) as own_guard,
            self.opened(f"attester {index}") as (_, store),
        ):
            attester = Attester(
                domain=self.domain,
                address=person.address,
                roster=lambda: self.roster,
                gossip=gossip,
                topics=self.topics,
                rules=self.rules(),
                judge=judge or self.judge(index, library=library, self_test=self_test),
                self_test=self_test,
                library=library,
                evidence=EvidenceLocker(
                    store=store,
                    guard=guard or own_guard,
                    secret=person.evidence_secret,
                    address=person.address,
                    clock=self.clock,
                ),
                guard=guard or own_guard,
                signer=signer or LocalVoteSigner(person.vote),
                clock=self.clock,
                max_concurrent=max_concurrent,
            )
            async with running(attester.run()):
                try:
                    yield attester
                finally:
                    file.kill()

    def judge(
        self,
        index: int = 0,
        *,
        engine: InferenceEngine | None = None,
        library: ModelLibrary | None = None,
        self_test: SelfTest | None = None,
        methods: Mapping[str, Method] = METHODS,
    ) -> Judge:
        person = self.people[index]
        return Judge(
            address=person.address,
            roster=lambda: self.roster,
            content=self.content.join(person.address),
            library=library or self.library_of(person, engine),
            self_test=self_test or self.self_test(index),
            clock=self.clock,
            methods=methods,
        )

    def self_test(self, index: int = 0) -> SelfTest:
        return SelfTest(content=self.content.join(self.people[index].address))

    @asynccontextmanager
    async def aggregator(
        self,
        chain: OnChain,
        *,
        person: Person = AGGREGATOR,
        batch_seconds: float = 1.0,
        max_batch: int = 128,
    ) -> AsyncIterator[tuple[Aggregator, Settler, MemoryStore]]:
        """Built on the same file each time; `run` is the caller's to start."""
        async with self.gossip_of(person) as gossip, self.opened(person.name) as (_, store):
            settler = Settler(
                domain=self.domain,
                address=person.address,
                roster=lambda: self.roster,
                gossip=gossip,
                topics=self.topics,
                content=self.content.join(person.address),
                settlement=chain,
                court=chain,
                reader=chain,
                store=store,
                clock=self.clock,
                batch_seconds=batch_seconds,
                max_batch=max_batch,
            )
            aggregator = Aggregator(
                domain=self.domain,
                roster=lambda: self.roster,
                gossip=gossip,
                topics=self.topics,
                rules=self.rules(),
                settler=settler,
                keeper=EpochKeeper(
                    address=person.address,
                    roster=lambda: self.roster,
                    epochs=chain,
                    settlement=chain,
                    clock=self.clock,
                ),
                clock=self.clock,
            )
            yield aggregator, settler, store

    async def chain(self, terms: TaskTerms = DEFINITION.terms) -> MemoryChain:
        """With these operators, this definition under these terms and epoch 1 on it."""
        chain = MemoryChain(TERMS)
        assert chain.domain == self.domain
        attesting = zip(self.people, self.weights, strict=True)
        people = [(PERFORMER, Role.PERFORMER, 10), *((person, Role.ATTESTER, weight) for person, weight in attesting)]
        for person, role, weight in people:
            await chain.register(person.address, person.registration(chain.deployment, role, weight * ETHER))
        await chain.create_task_definition(
            name=DEFINITION.name,
            method=DEFINITION.method,
            model_hash=MODEL_HASH,
            card_cid=CARD_CID,
            terms=terms,
        )
        await chain.roll_epoch()
        assert await chain.operator_table(1) == self.table_of(1)
        return chain


assert START == 1_800_000_000.0  # of VirtualClock, and the time zero of MemoryChain
