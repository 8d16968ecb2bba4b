"""Chains for tests: the same calls over anvil with the real contracts and over the model in memory."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from shared import batch
from shared.adapters import deploy
from shared.adapters.anvil import Anvil, AnvilSettings
from shared.adapters.chain_evm import EvmClient, EvmOperatorReader, EvmSettlement, Sender
from shared.adapters.memory.chain import MemoryChain
from shared.adapters.signers import LocalIdentitySigner
from shared.adapters.terms import Deployment, NetworkTerms, Registration
from shared.crypto import bls, ecdsa
from shared.interfaces import BatchSubmission
from shared.types import Address, ChainEvent, Cid, Digest, PeerKey, Role, TaskCertificate, TaskInfo, Verdict

LIMIT_SECONDS = 20.0  # the machine may be busy with other things
BLOCK_SECONDS = 0.02
POLL_SECONDS = 0.01
ETHER = 10**18
VAULT = Address(b"\x77" * 20)
TERMS = NetworkTerms(
    vault=VAULT, minimum_stake_wei=ETHER, unbonding_seconds=1000, epoch_seconds=100, dispute_window_seconds=500
)
EQUAL = (ETHER, ETHER, ETHER)
# Two thirds and one third of it fall between whole signers, by one unit of power each.
UNEVEN = (ETHER + 10**9, ETHER, ETHER)


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


def attesters(count: int) -> list[Person]:
    return [Person(f"attester{i}") for i in range(count)]


@dataclass
class Chain:
    """One network on one chain. `reader` and `settlement` are what is tested."""

    kind: str
    deployment: Deployment
    reader: EvmOperatorReader | MemoryChain
    settlement: EvmSettlement | MemoryChain
    people: list[Person] = field(default_factory=list)  # the attesters, in order of registration

    async def register(self, person: Person, registration: Registration) -> None:
        raise NotImplementedError

    async def define(self, name: str, sender: Person = OWNER) -> int:
        raise NotImplementedError

    async def roll(self) -> int:
        raise NotImplementedError

    async def leave(self, person: Person) -> None:
        raise NotImplementedError

    async def withdraw(self, person: Person) -> None:
        raise NotImplementedError

    async def warp(self, seconds: int) -> None:
        raise NotImplementedError

    # --- what people do --------------------------------------------------------------------------
    async def populate(self, stakes: Sequence[int]) -> None:
        """A performer, attesters with these stakes, one definition, epoch 1."""
        self.people = attesters(len(stakes))
        performer = PERFORMER.registration(self.deployment, Role.PERFORMER)
        await self.register(PERFORMER, performer)
        for person, stake in zip(self.people, stakes, strict=True):
            await self.register(person, person.registration(self.deployment, Role.ATTESTER, stake))
        assert await self.define("digits") == 0
        assert await self.roll() == 1

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

    def batch(
        self, names: Sequence[str], signers: Sequence[int] | None = None, epoch: int = 1
    ) -> tuple[batch.Batch, BatchSubmission]:
        chosen = tuple(range(len(self.people)) if signers is None else signers)
        certificates = [self.certificate(self.info(name)) for name in names]
        made = batch.make_batch(self.deployment.domain, certificates, epoch, AGGREGATOR.address)
        digest = self.deployment.domain.batch(made.info)
        signature = bls.aggregate(self.people[i].vote.sign(digest) for i in chosen)
        return made, BatchSubmission(made.info, chosen, signature)

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
        await deploy.set_balance(self.client, person.address, 1000 * ETHER)
        return await self.stack.enter_async_context(sender_of(self.client, person))

    async def register(self, person: Person, registration: Registration) -> None:
        await deploy.register(await self.sender_of(person), self.deployment, registration)

    async def define(self, name: str, sender: Person = OWNER) -> int:
        by = self.sender if sender is OWNER else await self.sender_of(sender)
        return await deploy.create_task_definition(
            by, self.deployment, name=name, method="exact", model_hash=Digest(sha(name)), card_cid=Cid("bafkreicard")
        )

    async def roll(self) -> int:
        return await deploy.roll_epoch(self.sender, self.deployment)

    async def leave(self, person: Person) -> None:
        await deploy.leave(await self.sender_of(person), self.deployment)

    async def withdraw(self, person: Person) -> None:
        await deploy.withdraw(await self.sender_of(person), self.deployment)

    async def warp(self, seconds: int) -> None:
        await self.client.request("evm_increaseTime", seconds)
        await self.client.request("evm_mine")


@dataclass
class ModelChain(Chain):
    """The model."""

    chain: MemoryChain = field(kw_only=True)

    async def register(self, person: Person, registration: Registration) -> None:
        await self.chain.register(person.address, registration)

    async def define(self, name: str, sender: Person = OWNER) -> int:
        return await self.chain.create_task_definition(
            name=name,
            method="exact",
            model_hash=Digest(sha(name)),
            card_cid=Cid("bafkreicard"),
            sender=sender.address,
        )

    async def roll(self) -> int:
        return await self.chain.roll_epoch()

    async def leave(self, person: Person) -> None:
        await self.chain.leave(person.address)

    async def withdraw(self, person: Person) -> None:
        await self.chain.withdraw(person.address)

    async def warp(self, seconds: int) -> None:
        self.chain.warp(seconds)


def sender_of(client: EvmClient, person: Person, *, replace_after_seconds: float = 30.0) -> Sender:
    return Sender(client, person.signer, 31337, poll_seconds=POLL_SECONDS, replace_after_seconds=replace_after_seconds)


@asynccontextmanager
async def open_chain(kind: str, terms: NetworkTerms = TERMS, *, state_file: Path | None = None) -> AsyncIterator[Chain]:
    """ "anvil" or "memory"; deployed, nobody registered."""
    if kind == "memory":
        chain = MemoryChain(replace(terms, owner=OWNER.address), block_seconds=BLOCK_SECONDS, poll_seconds=POLL_SECONDS)
        yield ModelChain(kind, chain.deployment, chain, chain, chain=chain)
        return
    settings = AnvilSettings(block_seconds=BLOCK_SECONDS, state_file=state_file)
    async with AsyncExitStack() as stack:
        anvil = await stack.enter_async_context(Anvil(settings))
        client = await stack.enter_async_context(EvmClient(anvil.url))
        await deploy.set_balance(client, OWNER.address, 1000 * ETHER)
        sender = await stack.enter_async_context(sender_of(client, OWNER))
        deployment = await deploy.deploy(sender, terms)
        reader = EvmOperatorReader(client, registry=deployment.registry, center=deployment.center)
        settlement = EvmSettlement(sender, reader, deployment.center, poll_seconds=POLL_SECONDS)
        yield AnvilChain(kind, deployment, reader, settlement, anvil=anvil, client=client, sender=sender, stack=stack)


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
