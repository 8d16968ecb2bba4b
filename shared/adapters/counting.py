"""Adapters around adapters that count what passes, so that neither the roles nor the real ones need to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager

from shared.errors import ChainUnavailable, Dropped, GossipRuling, Ignore, Reverted
from shared.interfaces import BatchSubmission, Gossip, Received, Settlement, Validator
from shared.metrics import Metrics
from shared.types import ChainEvent, Digest, PeerKey, TaskCertificate, TaskRequest, Verdict


class CountingGossip:
    """A `Gossip` that counts rulings by topic."""

    def __init__(self, gossip: Gossip, metrics: Metrics) -> None:
        self._gossip, self._metrics = gossip, metrics

    @property
    def peer_key(self) -> PeerKey:
        return self._gossip.peer_key

    async def publish(self, topic: str, data: bytes) -> None:
        await self._gossip.publish(topic, data)

    def subscribe(self, topic: str, validate: Validator) -> AbstractAsyncContextManager[AsyncIterator[Received]]:
        label = topic.rsplit("/", 1)[-1]

        def counted(origin: PeerKey, data: bytes) -> None:
            try:
                validate(origin, data)
            except GossipRuling as ruling:
                self._metrics.gossip_messages.add(
                    topic=label, ruling="ignore" if isinstance(ruling, Ignore) else "reject"
                )
                raise
            self._metrics.gossip_messages.add(topic=label, ruling="accept")

        return self._gossip.subscribe(topic, counted)

    def peers(self) -> Sequence[PeerKey]:
        return self._gossip.peers()


class CountingSettlement:
    """A `Settlement` that counts transactions by outcome, and their gas."""

    def __init__(self, settlement: Settlement, metrics: Metrics) -> None:
        self._settlement, self._metrics = settlement, metrics

    async def submit_task(self, certificate: TaskCertificate) -> Digest:
        return self._sent(await self._settlement.submit_task(certificate))

    async def submit_task_after_deadline(self, certificate: TaskCertificate, request: TaskRequest) -> Digest:
        return self._sent(await self._settlement.submit_task_after_deadline(certificate, request))

    async def submit_batch(self, batch: BatchSubmission) -> Digest:
        return self._sent(await self._settlement.submit_batch(batch))

    async def verdict_of(self, task_id: Digest) -> Verdict | None:
        return await self._settlement.verdict_of(task_id)

    async def is_batch_settled(self, root: Digest) -> bool:
        return await self._settlement.is_batch_settled(root)

    async def confirm(self, tx_hash: Digest, timeout_seconds: float) -> int:
        try:
            gas = await self._settlement.confirm(tx_hash, timeout_seconds)
        except Reverted:
            self._metrics.transactions.add(outcome="reverted")
            raise
        except Dropped:
            self._metrics.transactions.add(outcome="dropped")
            raise
        except ChainUnavailable:
            self._metrics.transactions.add(outcome="unavailable")
            raise
        self._metrics.transactions.add(outcome="confirmed")
        self._metrics.gas.add(gas)
        return gas

    def events(self, from_block: int) -> AsyncIterator[ChainEvent]:
        return self._settlement.events(from_block)

    def _sent(self, tx_hash: Digest) -> Digest:
        self._metrics.transactions.add(outcome="submitted")
        return tx_hash
