"""Chains for tests: the same calls over anvil with the real contracts and over the model in memory."""

from __future__ import annotations

import asyncio
import hashlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from shared.adapters import deploy
from shared.adapters.anvil import Anvil, AnvilSettings
from shared.adapters.chain_evm import (
    EvmClient,
    EvmCourt,
    EvmEpochs,
    EvmEscrow,
    EvmOperatorReader,
    EvmSettlement,
    Sender,
)
from shared.adapters.chain_evm.abi import court_abi, escrow_abi
from shared.adapters.chain_evm.wire import quantity, tohex
from shared.adapters.memory.chain import MemoryChain
from shared.adapters.memory.chain_escrow import Voters
from shared.adapters.signers import LocalIdentitySigner
from shared.adapters.terms import Deployment, NetworkTerms, Registration
from shared.batch import Batch, make_batch
from shared.crypto import bls, ecdsa
from shared.indices import indices_of
from shared.interfaces import BatchSubmission, Collection, SignedVote
from shared.types import (
    Address,
    ChainEvent,
    Cid,
    Digest,
    Fees,
    OperatorTable,
    PeerKey,
    Role,
    TaskCertificate,
    TaskInfo,
    TaskRequest,
    TaskTerms,
    Uint256,
    Verdict,
)

LIMIT_SECONDS = 20.0  # the machine may be busy with other things
BLOCK_SECONDS = 0.02
POLL_SECONDS = 0.01
ETHER = 10**18
POWER_UNIT = 10**15
VAULT = Address(b"\x77" * 20)
TERMS = NetworkTerms(
    vault=VAULT,
    minimum_stake_wei=ETHER,
    power_unit_wei=POWER_UNIT,
    unbonding_seconds=1000,
    epoch_seconds=100,
    grace_seconds=60,
    longest_dispute_seconds=500,
    veto_delay_seconds=200,
    refund_delay_seconds=300,
)
FREE = TaskTerms(dispute_window=500)
# Prime to the powers in the tests, so that each share is rounded.
FEES = Fees(performer=10**6, attesters=1_000_003, aggregator=77)
PAID = TaskTerms(dispute_window=500, fees=FEES)
EQUAL = (ETHER, ETHER, ETHER)
# Two thirds and one third of it fall between whole signers, by one unit of power each.
UNEVEN = (ETHER + POWER_UNIT, ETHER, ETHER)


def sha(*parts: object) -> bytes:
    return hashlib.sha256("/".join(map(str, parts)).encode()).digest()


@dataclass(frozen=True)
class Person:
    """All keys of one operator."""

    name: str
    identity: ecdsa.SecretKey = field(init=False)
    vote: bls.SecretKey = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "identity", ecdsa.SecretKey(sha("identity", self.name)))
        object.__setattr__(self, "vote", bls.SecretKey(int.from_bytes(sha("vote", self.name), "big") % bls.ORDER))

    @property
    def address(self) -> Address:
        return self.identity.address

    @property
    def evidence_secret(self) -> bytes:
        return sha("evidence", self.name)

    @property
    def signer(self) -> LocalIdentitySigner:
        return LocalIdentitySigner(self.identity)

    def registration(self, deployment: Deployment, roles: Role, stake_wei: int = ETHER) -> Registration:
        """Only attesters get a vote key."""
        plain = Registration(
            roles=roles,
            stake_wei=stake_wei,
            peer_key=PeerKey(sha("peer", self.name)),
            p2p_address=f"/dns4/{self.name}/tcp/9700",
            gateway_url=f"http://{self.name}:8700",
        )
        if Role.ATTESTER not in roles:
            return plain
        digest = deployment.possession_domain.key_possession(self.address, self.vote.public_key)
        return replace(plain, vote_key=self.vote.public_key, possession=self.vote.prove_possession(digest))


OWNER, PERFORMER, AGGREGATOR = Person("owner"), Person("performer"), Person("aggregator")
REQUESTER = Person("requester")


def attesters(count: int) -> list[Person]:
    return [Person(f"attester{i}") for i in range(count)]


@dataclass
class Chain(ABC):
    """One network on one chain. What is tested: `reader`, and what sends as OWNER: `settlement`, `court`, `escrow` and
    `epochs`."""

    kind: str
    deployment: Deployment
    reader: EvmOperatorReader | MemoryChain
    settlement: EvmSettlement | MemoryChain
    court: EvmCourt | MemoryChain
    escrow: EvmEscrow | MemoryChain
    epochs: EvmEpochs | MemoryChain
    people: list[Person] = field(default_factory=list)  # the attesters, in order of seats
    tables: dict[int, OperatorTable] = field(default_factory=dict)  # as they were rolled

    @abstractmethod
    async def register(self, person: Person, registration: Registration) -> None:
        """By the person, as owner."""

    @abstractmethod
    async def define(self, name: str, sender: Person = OWNER, terms: TaskTerms = FREE) -> int: ...

    @abstractmethod
    async def roll_epoch(self) -> int: ...

    @abstractmethod
    async def leave(self, person: Person, operator: Person | None = None) -> None:
        """Sent by the person; its own exit unless said. So is `withdraw`."""

    @abstractmethod
    async def withdraw(self, person: Person, operator: Person | None = None) -> None: ...

    @abstractmethod
    async def start_refund(self, requester: Person, performer: Address, amount: int) -> None: ...

    @abstractmethod
    async def refund(self, requester: Person, performer: Address) -> None: ...

    @abstractmethod
    async def claim(self, operator: Address, pools: Sequence[Voters], seats: Sequence[int]) -> None: ...

    @abstractmethod
    async def pay(self, account: Address) -> None:
        """What the court owes."""

    @abstractmethod
    async def balance_of(self, account: Address) -> int:
        """In wei. The two chains agree on accounts that nobody but the contracts ever paid, and on the contracts."""

    @abstractmethod
    async def warp(self, seconds: int) -> None: ...

    @abstractmethod
    async def head(self) -> int:
        """The newest block's number."""

    @abstractmethod
    async def replace_after(self, block: int) -> None:
        """A reorg: other blocks after this one. Their transactions are mined again later."""

    async def roll(self) -> int:
        """The new epoch."""
        epoch = await self.roll_epoch()
        table = await self.reader.operator_table(epoch)
        assert table is not None
        self.tables[epoch] = table
        return epoch

    # --- what people do --------------------------------------------------------------------------
    async def populate(self, stakes: Sequence[int], terms: TaskTerms = FREE) -> None:
        """A performer, attesters with these stakes, one definition, epoch 1."""
        self.people = attesters(len(stakes))
        performer = PERFORMER.registration(self.deployment, Role.PERFORMER)
        await self.register(PERFORMER, performer)
        for person, stake in zip(self.people, stakes, strict=True):
            await self.register(person, person.registration(self.deployment, Role.ATTESTER, stake))
        assert await self.define("digits", terms=terms) == 0
        assert await self.roll() == 1

    def request(self, nonce: int = 1, fee: int = 0, **changes: object) -> TaskRequest:
        """REQUESTER's, to PERFORMER, of definition 0."""
        plain = TaskRequest(
            requester=REQUESTER.address,
            nonce=Uint256(nonce),
            performer=PERFORMER.address,
            task_definition_id=0,
            model_hash=Digest(sha("digits")),
            input_cid=Cid("bafkreiinput"),
            parameters="{}",
            seed=Digest(sha("seed")),
            fee=Uint256(fee),
            deadline=1_900_000_000,
        )
        return msgspec.structs.replace(plain, **changes)

    def done(self, request: TaskRequest, epoch: int = 1) -> TaskInfo:
        """What the performer made of it."""
        return self.info("", task_id=self.deployment.domain.task_id(request), epoch=epoch)

    def info(self, name: str, **changes: object) -> TaskInfo:
        plain = TaskInfo(Digest(sha("task", name)), Cid("bafkreiproof"), b"\x07" * 32, PERFORMER.address, 0, 1)
        fields = {field: getattr(plain, field) for field in plain.__struct_fields__} | changes
        return TaskInfo(**fields)

    def certificate(
        self, info: TaskInfo, verdict: Verdict = Verdict.VALID, signers: Sequence[int] | None = None
    ) -> TaskCertificate:
        """Signed for real, by all unless said."""
        chosen = tuple(range(len(self.people)) if signers is None else signers)
        domain = self.deployment.domain
        info_hash = domain.task_info_hash(info)
        votes = [self.people[i].vote.sign(domain.vote(info_hash, verdict)) for i in chosen]
        return TaskCertificate(info, verdict, chosen, bls.aggregate(votes), PERFORMER.identity.sign(info_hash))

    def vote(self, seat: int, info: TaskInfo, verdict: Verdict = Verdict.VALID) -> SignedVote:
        domain = self.deployment.domain
        signature = self.people[seat].vote.sign(domain.vote(domain.task_info_hash(info), verdict))
        return SignedVote(info, verdict, seat, signature)

    def signed(self, digest: Digest, signers: Sequence[int] | None = None) -> bytes:
        """The aggregate, by all unless said."""
        chosen = range(len(self.people)) if signers is None else signers
        return bls.aggregate(self.people[i].vote.sign(digest) for i in chosen)

    def batch(
        self, names: Sequence[str], signers: Sequence[int] | None = None, epoch: int = 1
    ) -> tuple[Batch, BatchSubmission]:
        """Of one approval for each name."""
        return self.batch_of([self.certificate(self.info(name)) for name in names], signers, epoch)

    def batch_of(
        self, certificates: Sequence[TaskCertificate], signers: Sequence[int] | None = None, epoch: int = 1
    ) -> tuple[Batch, BatchSubmission]:
        chosen = tuple(range(len(self.people)) if signers is None else signers)
        domain, sender = self.deployment.domain, AGGREGATOR.address
        made = make_batch(domain, certificates, epoch, sender, lambda info: self.tables[info.epoch])
        return made, BatchSubmission(made.info, chosen, self.signed(domain.batch(made.info), chosen))

    def collection(self, request: TaskRequest, certificate: TaskCertificate, within: Batch | None = None) -> Collection:
        """Of a task that OWNER settled by itself, or that settled within a batch."""
        domain, info = self.deployment.domain, certificate.task_info
        return Collection(
            request=request,
            requester_signature=REQUESTER.identity.sign(domain.task_id(request)),
            info_hash=domain.task_info_hash(info),
            is_approved=certificate.verdict is Verdict.VALID,
            epoch=info.epoch,
            indices=indices_of(certificate, self.tables[info.epoch]),
            root=within.info.root if within else Digest(bytes(32)),
            aggregator=OWNER.address,
            path=tuple(within.proof(certificate)) if within else (),
        )

    def voters(self, certificate: TaskCertificate) -> Voters:
        """Whose pool its attesters' fee goes to."""
        info = certificate.task_info
        indices = indices_of(certificate, self.tables[info.epoch])
        return Voters(info.epoch, 0, certificate.verdict is Verdict.VALID, indices)

    async def confirmed(self, sending: Awaitable[Digest]) -> int:
        """Its gas."""
        return await self.settlement.confirm(await sending, LIMIT_SECONDS)

    async def settle_batch(self, submission: BatchSubmission) -> None:
        await self.confirmed(self.settlement.submit_batch(submission))

    async def settle(self, certificate: TaskCertificate) -> tuple[Digest, int]:
        """The transaction and its gas."""
        tx_hash = await self.settlement.submit_task(certificate)
        return tx_hash, await self.settlement.confirm(tx_hash, LIMIT_SECONDS)

    async def first_events(self, count: int, from_block: int = 0) -> list[ChainEvent]:
        async with following(self.settlement.events(from_block)) as found:
            await found.has(count)
            return list(found.events)


@dataclass
class AnvilChain(Chain):
    """The real contracts."""

    anvil: Anvil = field(kw_only=True)
    client: EvmClient = field(kw_only=True)
    sender: Sender = field(kw_only=True)
    stack: AsyncExitStack = field(kw_only=True)

    async def sender_of(self, person: Person) -> Sender:
        if person is OWNER:
            return self.sender  # two of one account would fight for its nonces
        await deploy.set_balance(self.client, person.address, 1000 * ETHER)
        return await self.stack.enter_async_context(sender_of(self.client, person))

    async def register(self, person: Person, registration: Registration) -> None:
        await deploy.register(await self.sender_of(person), self.deployment, registration)

    async def define(self, name: str, sender: Person = OWNER, terms: TaskTerms = FREE) -> int:
        return await deploy.create_task_definition(
            await self.sender_of(sender),
            self.deployment,
            name=name,
            method="exact",
            model_hash=Digest(sha(name)),
            card_cid=Cid("bafkreicard"),
            terms=terms,
        )

    async def roll_epoch(self) -> int:
        return await deploy.roll_epoch(self.sender, self.deployment)

    async def leave(self, person: Person, operator: Person | None = None) -> None:
        await deploy.leave(await self.sender_of(person), self.deployment, (operator or person).address)

    async def withdraw(self, person: Person, operator: Person | None = None) -> None:
        await deploy.withdraw(await self.sender_of(person), self.deployment, (operator or person).address)

    async def start_refund(self, requester: Person, performer: Address, amount: int) -> None:
        await self._tell_escrow(await self.sender_of(requester), "startRefund", performer, amount)

    async def refund(self, requester: Person, performer: Address) -> None:
        await self._tell_escrow(await self.sender_of(requester), "refund", performer)

    async def claim(self, operator: Address, pools: Sequence[Voters], seats: Sequence[int]) -> None:
        forms = [(pool.epoch, pool.attester_set, pool.is_approval, pool.indices) for pool in pools]
        await self._tell_escrow(self.sender, "claim", operator, forms, list(seats))

    async def pay(self, account: Address) -> None:
        await self._tell(self.sender, self.deployment.court, court_abi().call_data("pay", account))

    async def balance_of(self, account: Address) -> int:
        return quantity(await self.client.request("eth_getBalance", tohex(account), "latest"))

    async def warp(self, seconds: int) -> None:
        await self.client.request("evm_increaseTime", seconds)
        await self.client.request("evm_mine")

    async def head(self) -> int:
        return (await self.client.head()).number

    async def replace_after(self, block: int) -> None:
        await self.client.request("anvil_reorg", await self.head() - block, [])

    async def _tell_escrow(self, sender: Sender, function: str, *arguments: object) -> None:
        await self._tell(sender, self.deployment.escrow, escrow_abi().call_data(function, *arguments))

    async def _tell(self, sender: Sender, contract: Address, data: bytes) -> None:
        await sender.confirm(await sender.send(contract, data), LIMIT_SECONDS)


@dataclass
class ModelChain(Chain):
    """The model."""

    chain: MemoryChain = field(kw_only=True)

    @classmethod
    def on(cls, chain: MemoryChain) -> ModelChain:
        """As OWNER."""
        by = chain.connect(OWNER.address)
        return cls("memory", by.deployment, by, by, by, by, by, chain=by)

    async def register(self, person: Person, registration: Registration) -> None:
        await self.chain.register(person.address, registration)

    async def define(self, name: str, sender: Person = OWNER, terms: TaskTerms = FREE) -> int:
        return await self.chain.create_task_definition(
            name=name,
            method="exact",
            model_hash=Digest(sha(name)),
            card_cid=Cid("bafkreicard"),
            terms=terms,
            sender=sender.address,
        )

    async def roll_epoch(self) -> int:
        return await self.chain.roll_epoch()

    async def leave(self, person: Person, operator: Person | None = None) -> None:
        await self.chain.leave((operator or person).address, owner=person.address)

    async def withdraw(self, person: Person, operator: Person | None = None) -> None:
        await self.chain.withdraw((operator or person).address, owner=person.address)

    async def start_refund(self, requester: Person, performer: Address, amount: int) -> None:
        await self.chain.start_refund(requester.address, performer, amount)

    async def refund(self, requester: Person, performer: Address) -> None:
        await self.chain.refund(requester.address, performer)

    async def claim(self, operator: Address, pools: Sequence[Voters], seats: Sequence[int]) -> None:
        await self.chain.claim(operator, pools, seats)

    async def pay(self, account: Address) -> None:
        await self.chain.pay(account)

    async def balance_of(self, account: Address) -> int:
        return await self.chain.balance_of(account)

    async def warp(self, seconds: int) -> None:
        self.chain.warp(seconds)

    async def head(self) -> int:
        return self.chain._ledger.head()

    async def replace_after(self, block: int) -> None:
        self.chain.reorg(await self.head() - block)


def sender_of(client: EvmClient, person: Person, *, replace_after_seconds: float = 30.0) -> Sender:
    return Sender(client, person.signer, 31337, poll_seconds=POLL_SECONDS, replace_after_seconds=replace_after_seconds)


@asynccontextmanager
async def open_chain(kind: str, terms: NetworkTerms = TERMS, *, state_file: Path | None = None) -> AsyncIterator[Chain]:
    """ "anvil" or "memory"; deployed, nobody registered."""
    if kind == "memory":
        chain = MemoryChain(replace(terms, owner=OWNER.address), block_seconds=BLOCK_SECONDS, poll_seconds=POLL_SECONDS)
        yield ModelChain.on(chain)
        return
    settings = AnvilSettings(block_seconds=BLOCK_SECONDS, state_file=state_file)
    async with AsyncExitStack() as stack:
        anvil = await stack.enter_async_context(Anvil(settings))
        client = await stack.enter_async_context(EvmClient(anvil.url))
        await deploy.set_balance(client, OWNER.address, 1000 * ETHER)
        sender = await stack.enter_async_context(sender_of(client, OWNER))
        deployment = await deploy.deploy(sender, terms)
        reader = EvmOperatorReader(client, deployment)
        settlement = EvmSettlement(sender, reader, deployment, poll_seconds=POLL_SECONDS)
        yield AnvilChain(
            kind,
            deployment,
            reader,
            settlement,
            EvmCourt(sender, deployment),
            EvmEscrow(sender, deployment),
            EvmEpochs(sender, deployment),
            anvil=anvil,
            client=client,
            sender=sender,
            stack=stack,
        )


async def until(condition: Callable[[], Awaitable[object]], what: str) -> None:
    """Waits for a condition; fails with its name."""
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            while True:
                if await condition():
                    return
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        raise AssertionError(f"not within {LIMIT_SECONDS} s: {what}") from None


@dataclass
class Found:
    """What an event iterator gave so far."""

    events: list[ChainEvent] = field(default_factory=list)

    async def has(self, count: int) -> None:
        async def enough() -> bool:
            return len(self.events) >= count

        await until(enough, f"{count} events, of which there are {self.events}")


@asynccontextmanager
async def following(events: AsyncIterator[ChainEvent]) -> AsyncIterator[Found]:
    """Reads on in the background."""
    found = Found()

    async def read() -> None:
        async with aclosing(events):  # type: ignore[type-var]
            async for event in events:
                found.events.append(event)

    task = asyncio.create_task(read())
    try:
        yield found
    finally:
        assert not task.done(), "events ended"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
