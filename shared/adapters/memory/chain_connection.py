"""What a node does on the chain in memory: `Settlement`, `Epochs`, `Court` and `Escrow`, each over one connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeVar

from shared.adapters.memory.chain_center import Details
from shared.adapters.memory.chain_court import Execution
from shared.adapters.memory.chain_hub import HubModel
from shared.adapters.memory.chain_ledger import Action, Emit, Ledger
from shared.adapters.terms import Deployment
from shared.constants import CHAIN_POLL_SECONDS, CONFIRMATIONS
from shared.crypto import bls
from shared.errors import ChainUnavailable, CodecError
from shared.indices import indices_of, missing_of
from shared.interfaces import BatchSubmission, Collection, SignedVote
from shared.types import (
    Address,
    BatchSettled,
    ChainEvent,
    Deposit,
    Digest,
    Settled,
    SlashCancelled,
    SlashExecuted,
    SlashQueued,
    TaskCertificate,
    TaskRequest,
    Verdict,
)

T = TypeVar("T")

CONFIRM_SECONDS = 120.0
# What anvil charged once. A simulation may add it up but not quote it.
APPROVE_GAS, REJECT_GAS, BATCH_GAS, INDEX_GAS, BYTE_GAS = 195_000, 280_000, 180_000, 1_100, 24
ROLL_GAS = 300_000
REPORT_GAS, SLASH_GAS, NAME_GAS = 220_000, 160_000, 80_000
DEPOSIT_GAS, COLLECT_GAS = 60_000, 90_000


class MemoryConnection:
    """One account's connection to a ledger. `is_down` cuts this one alone: every method then raises
    `ChainUnavailable`, and `events` waits."""

    def __init__(
        self, ledger: Ledger, deployment: Deployment, sender: Address, *, poll_seconds: float = CHAIN_POLL_SECONDS
    ) -> None:
        self.deployment, self.sender = deployment, sender
        self.is_down = False
        self._ledger, self._poll_seconds = ledger, poll_seconds

    async def confirm(self, tx_hash: Digest, timeout_seconds: float) -> int:
        """As `Settlement.confirm`."""
        try:
            async with asyncio.timeout(timeout_seconds):
                while True:
                    self._require_up()
                    mined = self._ledger.outcome(tx_hash)
                    if mined is not None and (mined.block or 0) + CONFIRMATIONS - 1 <= self._ledger.head():
                        return mined.gas
                    await asyncio.sleep(self._poll_seconds)
        except TimeoutError:
            raise ChainUnavailable(f"0x{tx_hash.hex()} is not mined after {timeout_seconds:g} s") from None

    async def _do(self, change: Callable[[HubModel, int], T], gas: int) -> T:
        """Confirmed, with what it answered in its block."""
        results: list[T] = []

        def act(state: HubModel, now: int) -> list[Emit]:
            results.append(change(state, now))
            return []

        await self.confirm(self._send(act, gas), CONFIRM_SECONDS)
        return results[-1]

    def _send(self, action: Action, gas: int) -> Digest:
        self._require_up()
        return self._ledger.send(action, gas)

    def _state(self) -> HubModel:
        self._require_up()
        self._ledger.head()
        return self._ledger.state

    def _require_up(self) -> None:
        if self.is_down:
            raise ChainUnavailable("the chain in memory is down")


class MemorySettlement(MemoryConnection):
    """A `Settlement`; its sender is the aggregator of the tasks that settle singly."""

    async def submit_task(self, certificate: TaskCertificate) -> Digest:
        return self._settle(certificate, None)

    async def submit_task_after_deadline(self, certificate: TaskCertificate, request: TaskRequest) -> Digest:
        return self._settle(certificate, request)

    def _settle(self, certificate: TaskCertificate, request: TaskRequest | None) -> Digest:
        """With a request: after its deadline."""
        if certificate.verdict is Verdict.ABSTAIN:
            raise CodecError("certificate: an abstention settles nothing")
        info, is_approved, sender = certificate.task_info, certificate.verdict is Verdict.VALID, self.sender
        indices, info_hash = self._indices(certificate), self.deployment.domain.task_info_hash(info)
        details = Details(is_approved, certificate.performer_signature, certificate.signature, indices)

        def act(state: HubModel, now: int) -> list[Emit]:
            slash_id = state.submit_task(sender, info, details, now, request)
            emitted: list[Emit] = [
                lambda block, tx, gas: Settled(info.task_id, is_approved, block, tx, gas, sender, info_hash, indices)
            ]
            return emitted if slash_id is None else [*emitted, slash_queued(state, slash_id)]

        gas = APPROVE_GAS if is_approved else REJECT_GAS
        return self._send(act, gas + BYTE_GAS * (len(info.data) + len(info.proof_of_task)) + INDEX_GAS * len(indices))

    async def submit_batch(self, batch: BatchSubmission) -> Digest:
        info, signature = batch.batch, batch.signature
        table = self._state().tables.tables.get(info.epoch)
        missing = missing_of(batch.signers, table) if table else b""  # the contract refuses the epoch before it reads

        def act(state: HubModel, now: int) -> list[Emit]:
            state.center.submit_batch(info, signature, missing, now)
            return [lambda block, tx, gas: BatchSettled(info, block, tx, gas)]

        return self._send(act, BATCH_GAS + INDEX_GAS * len(missing))

    async def verdict_of(self, task_id: Digest) -> Verdict | None:
        return self._state().center.verdict_of(task_id)

    async def is_batch_settled(self, root: Digest) -> bool:
        return root in self._state().center.batches

    async def events(self, from_block: int) -> AsyncIterator[ChainEvent]:
        ledger = self._ledger
        position, cuts = 0, len(ledger.cuts)
        while True:
            if not self.is_down:
                ledger.head()
                position = min([position, *ledger.cuts[cuts:]])
                cuts = len(ledger.cuts)
                while position < len(ledger.events) and cuts == len(ledger.cuts) and not self.is_down:
                    position += 1
                    if ledger.events[position - 1].block >= from_block:
                        yield ledger.events[position - 1]
            await asyncio.sleep(self._poll_seconds)

    def _indices(self, certificate: TaskCertificate) -> bytes:
        """For a definition or an epoch that the chain does not know there are none: it refuses those before."""
        state, info = self._state(), certificate.task_info
        table = state.tables.tables.get(info.epoch)
        if table is None or info.task_definition_id >= len(state.center.definitions):
            return b""
        return indices_of(certificate, table)


class MemoryEpochs(MemoryConnection):
    """An `Epochs`. Who sends makes no difference."""

    async def power_unit(self) -> int:
        return self._state().registry.terms.power_unit_wei

    async def rollable_at(self) -> int:
        return self._state().tables.rollable_at

    async def roll(self) -> Digest:
        def act(state: HubModel, now: int) -> list[Emit]:
            state.tables.roll_epoch(now)
            return []

        return self._send(act, ROLL_GAS)


class MemoryCourt(MemoryConnection):
    """A `Court`. Who sends makes no difference."""

    async def report_equivocation(self, first: SignedVote, second: SignedVote) -> Digest:
        """Raises `CodecError` too, for a signature that is no point of its group: those two votes prove nothing."""
        signatures = _signatures(first, second)

        def act(state: HubModel, now: int) -> list[Emit]:
            return [slash_queued(state, state.court.report_equivocation(first, second, signatures, now))]

        return self._send(act, REPORT_GAS)

    async def name_harmed(self, slash_id: Digest, request: TaskRequest) -> Digest:
        def act(state: HubModel, _: int) -> list[Emit]:
            state.court.name_harmed(slash_id, request)
            return []

        return self._send(act, NAME_GAS)

    async def execute_slash(self, slash_id: Digest) -> Digest:
        def act(state: HubModel, now: int) -> list[Emit]:
            return [_slash_executed(slash_id, state.court.execute_slash(slash_id, now))]

        return self._send(act, SLASH_GAS)


class MemoryEscrow(MemoryConnection):
    """An `Escrow`. Who sends makes no difference."""

    async def deposit_of(self, requester: Address, performer: Address) -> Deposit:
        return self._state().escrow.deposit_of(requester, performer)

    async def deposit(self, requester: Address, performer: Address, amount: int) -> Digest:
        def act(state: HubModel, _: int) -> list[Emit]:
            state.escrow.deposit(requester, performer, amount)
            return []

        return self._send(act, DEPOSIT_GAS)

    async def collect(self, tasks: Sequence[Collection]) -> Digest:
        def act(state: HubModel, _: int) -> list[Emit]:
            state.escrow.collect(tasks)
            return []

        return self._send(act, COLLECT_GAS * len(tasks))

    async def is_paid(self, requester: Address, performer: Address, nonce: int) -> bool:
        return self._state().escrow.is_paid(requester, performer, nonce)

    async def earned_by(self, operator: Address) -> int:
        return self._state().escrow.earned_by(operator)


def slash_queued(state: HubModel, slash_id: Digest) -> Emit:
    """The event of a slash that `state` has just queued."""
    slash = state.court.slashes[slash_id]
    return lambda block, tx, _: SlashQueued(
        slash_id, slash.task_id, slash.operator, slash.offence, slash.executable_at, block, tx
    )


def slash_cancelled(slash_id: Digest, operator: Address) -> Emit:
    """The event of a slash that was called off."""
    return lambda block, tx, _: SlashCancelled(slash_id, operator, block, tx)


def _slash_executed(slash_id: Digest, done: Execution) -> Emit:
    slash = done.slash
    return lambda block, tx, _: SlashExecuted(
        slash_id, slash.task_id, slash.operator, done.amount, slash.requester, done.compensation, block, tx
    )


def _signatures(first: SignedVote, second: SignedVote) -> bytes:
    """As the court wants them: one key signed both where seat and epoch are the same."""
    is_one_key = (first.seat, first.info.epoch) == (second.seat, second.info.epoch)
    signatures = (first.signature, second.signature)
    return bls.aggregate(signatures) if is_one_key else b"".join(signatures)
