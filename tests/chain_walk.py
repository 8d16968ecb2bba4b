"""People on a chain, real or in memory: what they do to tasks, stakes and money, by number. What a contract refuses is
part of the walk."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from shared.adapters.memory.chain_court import slash_id_of
from shared.batch import Batch
from shared.errors import Reverted
from shared.types import Digest, Offence, TaskCertificate, TaskInfo, Verdict
from tests.chain_support import FEES, PERFORMER, REQUESTER, VAULT, Chain

FEE = 2 * FEES.total
# Of a task, of a person, or of nothing.
ACTS = ("approve", "reject", "batch", "equivocate", "name", "slash", "pay", "deposit", "refund", "collect", "claim")
EXITS = ("leave", "withdraw")


class Walk:
    """On a chain that was populated with three attesters and a definition with fees."""

    def __init__(self, network: Chain) -> None:
        self.network = network
        self._settled: dict[int, tuple[TaskCertificate, Batch | None]] = {}

    async def step(self, what: str, number: int) -> str:
        """ "done", or the error's name."""
        try:
            await getattr(self, what)(number)
        except Reverted as error:
            return error.name
        return "done"

    # --- tasks -----------------------------------------------------------------------------------
    @property
    def epoch(self) -> int:
        return max(self.network.tables)

    def task(self, number: int) -> TaskInfo:
        return self.network.done(self.network.request(number, fee=FEE), self.epoch)

    def certificate(self, number: int, verdict: Verdict = Verdict.VALID) -> TaskCertificate:
        """By all who have a vote now; a rejection by two of them."""
        entries = self.network.tables[self.epoch].entries
        voters = [seat for seat, entry in enumerate(entries) if entry.power]
        signers = voters if verdict is Verdict.VALID else voters[:2]
        return self.network.certificate(self.task(number), verdict, signers)

    async def approve(self, number: int) -> None:
        await self._settle(number, self.certificate(number))

    async def reject(self, number: int) -> None:
        await self._settle(number, self.certificate(number, Verdict.INVALID))

    async def _settle(self, number: int, certificate: TaskCertificate) -> None:
        await self.network.settle(certificate)
        self._settled[number] = certificate, None

    async def batch(self, number: int) -> None:
        certificate = self.certificate(number)
        made, submission = self.network.batch_of([certificate], certificate.signers, self.epoch)
        await self.network.settle_batch(submission)
        self._settled[number] = certificate, made

    async def roll(self, _: int) -> None:
        await self.network.roll()

    # --- offences --------------------------------------------------------------------------------
    async def equivocate(self, number: int) -> None:
        seat, info = number % 3, self.task(number)
        votes = self.network.vote(seat, info), self.network.vote(seat, info, Verdict.INVALID)
        await self.network.confirmed(self.network.court.report_equivocation(*votes))

    async def name(self, number: int) -> None:
        request = self.network.request(number, fee=FEE)
        await self._either([self.network.court.name_harmed(slash_id, request) for slash_id in self._slashes(number)])

    async def slash(self, number: int) -> None:
        await self._either([self.network.court.execute_slash(slash_id) for slash_id in self._slashes(number)])

    async def pay(self, number: int) -> None:
        await self.network.pay(VAULT if number % 2 else REQUESTER.address)

    def _slashes(self, number: int) -> list[Digest]:
        """That may be queued over the task."""
        task_id, liar = self.task(number).task_id, self.network.people[number % 3]
        return [
            slash_id_of(Offence.REJECTED_TASK, task_id, PERFORMER.address),
            slash_id_of(Offence.EQUIVOCATION, task_id, liar.address),
        ]

    async def _either(self, attempts: list[Coroutine[Any, Any, Digest]]) -> None:
        """One of them at least."""
        refusals = []
        for attempt in attempts:
            try:
                await self.network.confirmed(attempt)
            except Reverted as error:
                refusals.append(error)
        if len(refusals) == len(attempts):
            raise refusals[0]

    # --- fees ------------------------------------------------------------------------------------
    async def deposit(self, _: int) -> None:
        await self.network.confirmed(self.network.escrow.deposit(REQUESTER.address, PERFORMER.address, FEE))

    async def refund(self, number: int) -> None:
        """Takes what was started, or starts one."""
        try:
            await self.network.refund(REQUESTER, PERFORMER.address)
        except Reverted as error:
            if error.name != "NothingToRefund":
                raise
            await self.network.start_refund(REQUESTER, PERFORMER.address, (4 - number) * FEE)

    async def collect(self, number: int) -> None:
        """As it settled, if it did."""
        certificate, within = self._settled.get(number) or (self.certificate(number), None)
        request = self.network.request(number, fee=FEE)
        await self.network.confirmed(
            self.network.escrow.collect([self.network.collection(request, certificate, within)])
        )

    async def claim(self, number: int) -> None:
        """From each pool that the walk knows and that has the operator's vote."""
        seat = number % 3
        certificates = [certificate for certificate, _ in self._settled.values() if seat in certificate.signers]
        pools = list(dict.fromkeys(map(self.network.voters, certificates)))
        await self.network.claim(self.network.people[seat].address, pools, [seat] * len(pools))

    # --- exits and time --------------------------------------------------------------------------
    async def leave(self, number: int) -> None:
        await self.network.leave(self.network.people[number])

    async def withdraw(self, number: int) -> None:
        await self.network.withdraw(self.network.people[number])

    async def wait(self, seconds: int) -> None:
        """Of the chain's time."""
        await self.network.warp(seconds)
        await asyncio.sleep(0.1)  # for a block of it
