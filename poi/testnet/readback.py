"""What the chain itself says of each task, read back by somebody who is none of the operators."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from poi.testnet.network import LocalNetwork
from shared.batch import Batch
from shared.settled_batch import read_settled_batch
from shared.types import BatchSettled, Digest, Settled, SlashExecuted, TaskCertificate, Verdict


@dataclass(frozen=True)
class OnChain:
    """A task's settlement, confirmed by a call to the contract."""

    verdict: Verdict
    gas: int  # the task's share of its transaction
    batch_size: int  # 0: by itself


class ChainReader:
    """Follows the center's events, and confirms each by asking the contract."""

    def __init__(self, network: LocalNetwork) -> None:
        self._network = network
        self._settled: dict[Digest, OnChain] = {}
        self._slashed: dict[Digest, SlashExecuted] = {}
        self._changed = asyncio.Condition()

    async def run(self) -> None:
        """Until cancelled."""
        async for event in self._network.events.events(0):
            if isinstance(event, Settled):
                await self._confirm_single(event)
            elif isinstance(event, BatchSettled):
                await self._confirm_batch(event)
            elif isinstance(event, SlashExecuted):
                self._slashed[event.task_id] = event
            async with self._changed:
                self._changed.notify_all()

    def settled(self, task_id: Digest) -> OnChain | None:
        return self._settled.get(task_id)

    def slashed(self, task_id: Digest) -> SlashExecuted | None:
        return self._slashed.get(task_id)

    async def wait_settled(self, task_id: Digest, timeout_seconds: float) -> OnChain | None:
        """None when the chain says nothing in time."""
        await self._wait(lambda: task_id in self._settled, timeout_seconds)
        return self.settled(task_id)

    async def wait_slashed(self, task_id: Digest, timeout_seconds: float) -> SlashExecuted | None:
        """None when nothing was slashed in time."""
        await self._wait(lambda: task_id in self._slashed, timeout_seconds)
        return self.slashed(task_id)

    async def _wait(self, is_there: Callable[[], bool], timeout_seconds: float) -> None:
        try:
            async with asyncio.timeout(timeout_seconds), self._changed:
                await self._changed.wait_for(is_there)
        except TimeoutError:
            return

    async def _confirm_single(self, event: Settled) -> None:
        verdict = await self._network.reader.verdict_of(event.task_id)
        if verdict is not None:
            self._settled[event.task_id] = OnChain(verdict, event.gas_used, 0)

    async def _confirm_batch(self, event: BatchSettled) -> None:
        network = self._network
        batch = await read_settled_batch(network.deployment.domain, event.batch, network.content, network.reader)
        for certificate in batch.certificates:
            if await self._is_included(batch, certificate):
                share = event.gas_used // batch.info.size
                self._settled[certificate.task_info.task_id] = OnChain(certificate.verdict, share, batch.info.size)

    async def _is_included(self, batch: Batch, certificate: TaskCertificate) -> bool:
        domain = self._network.deployment.domain
        return await self._network.reader.included(
            batch.info.root,
            certificate.task_info.task_id,
            domain.task_info_hash(certificate.task_info),
            certificate.verdict is Verdict.VALID,
            batch.voters_of(certificate),
            batch.proof(certificate),
        )
