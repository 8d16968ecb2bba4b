"""Where a node may die: before and after each effect that it has on the world. Adapters that take these steps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

from shared.adapters.memory.chain import MemoryChain
from shared.adapters.memory.content import ContentHub, MemoryContentStore
from shared.adapters.memory.gossip import MemoryGossip, MemoryHub
from shared.adapters.memory.store import MemoryFile, MemoryStore, MemoryVoteGuard
from shared.adapters.signers import LocalIdentitySigner, LocalVoteSigner
from shared.content.unixfs import UNIXFS_V1_2025, Profile
from shared.crypto import bls, ecdsa
from shared.interfaces import BatchSubmission, SignedVote, Source
from shared.types import FOREVER, Address, Digest, PeerKey, Ref, TaskCertificate, TaskRequest, Verdict


class Steps:
    """One node's steps, over all its lives. `die` ends the life at once, as kill -9 does."""

    def __init__(self, die: Callable[[], None]) -> None:
        self._die = die
        self.reached: list[str] = []
        self.fatal: int | str | None = None  # dies at the step of this number, or at the next of this name; once

    async def reach(self, name: str) -> None:
        """Never returns in a life that ends here."""
        number = len(self.reached)
        self.reached.append(name)
        if self.fatal in (number, name):
            self.fatal = None
            self._die()
            await asyncio.get_running_loop().create_future()


class Life:
    """One process of a node. The dead have no effects, whatever their `finally` blocks try."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self.is_over = False

    async def step(self, name: str) -> None:
        if self.is_over:
            raise asyncio.CancelledError
        await self._steps.reach(name)


class SteppedStore(MemoryStore):
    def __init__(self, file: MemoryFile, life: Life) -> None:
        super().__init__(file)
        self._life = life

    async def put(self, kind: str, key: bytes, value: bytes) -> None:
        await self._life.step(f"before put {kind}")
        await super().put(kind, key, value)
        await self._life.step(f"after put {kind}")

    async def delete(self, kind: str, key: bytes) -> None:
        await self._life.step(f"before delete {kind}")
        await super().delete(kind, key)
        await self._life.step(f"after delete {kind}")


class SteppedGuard(MemoryVoteGuard):
    def __init__(self, file: MemoryFile, life: Life) -> None:
        super().__init__(file)
        self._life = life

    async def check_and_insert(self, task_id: Digest, task_info_hash: Digest, verdict: Verdict) -> None:
        await self._life.step("before guard")
        await super().check_and_insert(task_id, task_info_hash, verdict)
        await self._life.step("after guard")


class SteppedGossip(MemoryGossip):
    def __init__(self, hub: MemoryHub, key: PeerKey, members: Callable[[], Mapping[PeerKey, object]], life: Life):
        super().__init__(hub=hub, key=key, members=members)
        self._life = life

    async def publish(self, topic: str, data: bytes) -> None:
        kind = topic.rsplit("/", 1)[-1]
        await self._life.step(f"before publish {kind}")
        await super().publish(topic, data)
        await self._life.step(f"after publish {kind}")

    def cut(self) -> None:
        """The wire is pulled: nothing leaves or arrives from now on."""
        if self._is_open:
            self._is_open = False
            self._hub.leave(self)


@dataclass
class Shelf:
    """What a node does with content beyond storing it. Liars change these."""

    bend: Callable[[bytes], bytes] = lambda data: data  # before it is stored, and its CID made
    hides: Callable[[bytes], bool] = lambda data: False  # stored, and served to nobody


class SteppedContent(MemoryContentStore):
    """`reaches` says whose gateway answers: not that of a dead node, nor one across a partition."""

    def __init__(
        self, hub: ContentHub, own: Address, life: Life, reaches: Callable[[Address], bool], shelf: Shelf
    ) -> None:
        hub.blocks.setdefault(own, {})
        hub.pins.setdefault(own, {})
        super().__init__(hub, own)
        self._life, self._reaches, self._shelf = life, reaches, shelf

    async def add(self, data: bytes, *, profile: Profile = UNIXFS_V1_2025, keep_until: float = FOREVER) -> Ref:
        await self._life.step("before add content")
        data = self._shelf.bend(data)
        ref = await super().add(data, profile=profile, keep_until=keep_until)
        if self._shelf.hides(data):
            self._hub.withhold(self._own, ref.cid)
        await self._life.step("after add content")
        return ref

    def _sources(self, prefer: Address | None, ref: Ref | None) -> list[Source]:
        reached = {f"0x{owner.hex()}" for owner in self._hub.blocks if self._reaches(owner)}
        return [source for source in super()._sources(prefer, ref) if source.name in reached]


class SteppedIdentity(LocalIdentitySigner):
    def __init__(self, key: ecdsa.SecretKey, life: Life) -> None:
        super().__init__(key)
        self._life = life

    async def sign(self, digest: Digest) -> bytes:
        await self._life.step("before sign task info")
        return await super().sign(digest)


class SteppedVoteKey(LocalVoteSigner):
    def __init__(self, key: bls.SecretKey, life: Life) -> None:
        super().__init__(key)
        self._life = life

    async def sign(self, digest: Digest) -> bytes:
        await self._life.step("before sign vote")
        return await super().sign(digest)


class SteppedChain(MemoryChain):
    """One node's connection."""

    _life: Life

    @classmethod
    def of(cls, chain: MemoryChain, life: Life) -> Self:
        connection = cls.__new__(cls)
        connection.__dict__.update(chain.connect().__dict__)
        connection._life = life
        return connection

    async def submit_task(self, certificate: TaskCertificate) -> Digest:
        await self._life.step("before submit task")
        tx_hash = await super().submit_task(certificate)
        await self._life.step("after submit task")
        return tx_hash

    async def submit_task_after_deadline(self, certificate: TaskCertificate, request: TaskRequest) -> Digest:
        await self._life.step("before submit late task")
        tx_hash = await super().submit_task_after_deadline(certificate, request)
        await self._life.step("after submit late task")
        return tx_hash

    async def submit_batch(self, batch: BatchSubmission) -> Digest:
        await self._life.step("before submit batch")
        tx_hash = await super().submit_batch(batch)
        await self._life.step("after submit batch")
        return tx_hash

    async def execute_slash(self, slash_id: Digest) -> Digest:
        await self._life.step("before execute slash")
        tx_hash = await super().execute_slash(slash_id)
        await self._life.step("after execute slash")
        return tx_hash

    async def report_equivocation(self, first: SignedVote, second: SignedVote) -> Digest:
        await self._life.step("before report equivocation")
        tx_hash = await super().report_equivocation(first, second)
        await self._life.step("after report equivocation")
        return tx_hash

    async def name_harmed(self, slash_id: Digest, request: TaskRequest) -> Digest:
        await self._life.step("before name harmed")
        tx_hash = await super().name_harmed(slash_id, request)
        await self._life.step("after name harmed")
        return tx_hash

    async def roll(self) -> Digest:
        await self._life.step("before roll")
        tx_hash = await super().roll()
        await self._life.step("after roll")
        return tx_hash

    async def confirm(self, tx_hash: Digest, timeout_seconds: float) -> int:
        gas = await super().confirm(tx_hash, timeout_seconds)
        await self._life.step("after confirm")
        return gas
