"""A chain in memory: both contracts as models, behind the same Protocols as the real one, with faults on request.

`OperatorReader` and `Settlement` for simulations and tests. Real signatures are really checked. Gas is not: it is
what anvil charged once, and a simulation may add it up but not quote it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from copy import copy
from typing import TypeVar

from shared.adapters.memory.chain_center import CenterModel, Details
from shared.adapters.memory.chain_ledger import Action, Emit, Ledger
from shared.adapters.memory.chain_registry import RegistryModel
from shared.adapters.terms import Deployment, NetworkTerms, Registration
from shared.constants import CHAIN_POLL_SECONDS, CONFIRMATIONS
from shared.digests import Domain
from shared.errors import ChainUnavailable, CodecError
from shared.indices import missing_of, signers_of
from shared.interfaces import BatchSubmission
from shared.types import (
    Address,
    BatchSettled,
    ChainEvent,
    Cid,
    Digest,
    Operator,
    OperatorTable,
    Settled,
    SlashExecuted,
    SlashQueued,
    TaskCertificate,
    TaskDefinition,
    Verdict,
)

TIME_ZERO = 1_800_000_000.0  # unix seconds
DEPLOYER = Address(hashlib.sha256(b"memory deployer").digest()[:20])
CONFIRM_SECONDS = 120.0

T = TypeVar("T")

REGISTER_GAS, DEFINE_GAS, ROLL_GAS, LEAVE_GAS, SLASH_GAS = 400_000, 200_000, 300_000, 60_000, 90_000
APPROVE_GAS, REJECT_GAS, BATCH_GAS, INDEX_GAS, BYTE_GAS = 195_000, 230_000, 180_000, 1_100, 24


class MemoryChain:
    """One connection to a chain in memory; the first one makes the chain. Needs a running event loop, whose time 0 is
    `time_zero` in unix seconds.

    `is_down` cuts this connection alone: every method then raises `ChainUnavailable`, and `events` waits.
    """

    def __init__(
        self,
        terms: NetworkTerms,
        *,
        chain_id: int = 31337,
        block_seconds: float = 0.25,
        poll_seconds: float = CHAIN_POLL_SECONDS,
        time_zero: float = TIME_ZERO,
    ) -> None:
        registry, center = (Address(hashlib.sha256(name).digest()[:20]) for name in (b"registry", b"center"))
        self.deployment = Deployment(chain_id, registry, center, block=0)
        domain, owner = self.deployment.domain, terms.owner or DEPLOYER
        state = CenterModel(domain, owner, RegistryModel(self.deployment.possession_domain, terms))
        self._owner = owner
        self._ledger = Ledger(state, block_seconds, time_zero)
        self._poll_seconds = poll_seconds
        self.is_down = False

    def connect(self) -> MemoryChain:
        """Another connection to the same chain."""
        other = copy(self)
        other.is_down = False
        return other

    @property
    def domain(self) -> Domain:
        return self.deployment.domain

    # --- OperatorReader ------------------------------------------------------------------------------
    async def current_epoch(self) -> int:
        return self._state().registry.epoch

    async def operator_table(self, epoch: int) -> OperatorTable | None:
        return self._state().registry.tables.get(epoch)

    async def operators(self) -> Sequence[Operator]:
        return self._state().registry.operators()

    async def task_definition(self, definition_id: int) -> TaskDefinition | None:
        definitions = self._state().definitions
        return definitions[definition_id] if 0 <= definition_id < len(definitions) else None

    async def task_definition_count(self) -> int:
        return len(self._state().definitions)

    # --- Settlement ----------------------------------------------------------------------------------
    async def submit_task(self, certificate: TaskCertificate) -> Digest:
        info, is_approved = certificate.task_info, certificate.verdict is Verdict.VALID
        if certificate.verdict is Verdict.ABSTAIN:
            raise CodecError("certificate: an abstention settles nothing")
        indices = self._indices(info.epoch, certificate.signers, is_approved=is_approved)
        details = Details(is_approved, certificate.performer_signature, certificate.signature, indices)

        def act(state: CenterModel, now: int) -> list[Emit]:
            slash = state.submit_task(info, details, now)
            emitted: list[Emit] = [lambda block, tx, gas: Settled(info.task_id, is_approved, block, tx, gas)]
            if slash is not None:
                operator, when = slash.operator, slash.executable_at
                emitted.append(lambda block, tx, _: SlashQueued(info.task_id, operator, when, block, tx))
            return emitted

        gas = APPROVE_GAS if is_approved else REJECT_GAS
        return self._send(act, gas + BYTE_GAS * (len(info.data) + len(info.proof_of_task)) + INDEX_GAS * len(indices))

    async def submit_batch(self, batch: BatchSubmission) -> Digest:
        info, signature = batch.batch, batch.signature
        missing = self._indices(info.epoch, batch.signers, is_approved=True)

        def act(state: CenterModel, _: int) -> list[Emit]:
            state.submit_batch(info, signature, missing)
            return [lambda block, tx, gas: BatchSettled(info, block, tx, gas)]

        return self._send(act, BATCH_GAS + INDEX_GAS * len(missing))

    async def execute_slash(self, task_id: Digest) -> Digest:
        def act(state: CenterModel, now: int) -> list[Emit]:
            operator, amount = state.execute_slash(task_id, now)
            return [lambda block, tx, _: SlashExecuted(task_id, operator, amount, block, tx)]

        return self._send(act, SLASH_GAS)

    async def verdict_of(self, task_id: Digest) -> Verdict | None:
        return self._state().verdicts.get(task_id)

    async def is_batch_settled(self, root: Digest) -> bool:
        return root in self._state().batches

    async def confirm(self, tx_hash: Digest, timeout_seconds: float) -> int:
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

    # --- more answers --------------------------------------------------------------------------------
    async def included(
        self, root: Digest, task_id: Digest, task_info_hash: Digest, is_approved: bool, proof: Sequence[bytes]
    ) -> bool:
        """Whether a settled batch has this verdict."""
        return self._state().included(root, task_id, task_info_hash, is_approved, proof)

    async def stake_of(self, operator: Address) -> int:
        """In wei. Raises `Reverted("NotRegistered")`."""
        return self._state().registry.stake_of(operator)

    async def vault_balance(self) -> int:
        """What slashing collected, in wei."""
        return self._state().registry.vault_wei

    async def rollable_at(self) -> int:
        """When the next epoch may be rolled, in unix seconds; 0 before the first."""
        return self._state().registry.rollable_at

    async def chain_time(self) -> int:
        """The newest block's, in unix seconds."""
        self._require_up()
        return self._ledger.timestamp()

    # --- what `shared.adapters.deploy` does on a real chain ------------------------------------------------
    async def register(self, operator: Address, registration: Registration) -> None:
        await self._do(lambda state, _: state.registry.register(operator, registration), REGISTER_GAS)

    async def create_task_definition(
        self, *, name: str, method: str, model_hash: Digest, card_cid: Cid, sender: Address | None = None
    ) -> int:
        """Its id. By the owner, unless another sender is given."""
        by = sender or self._owner
        return await self._do(
            lambda state, _: state.create_task_definition(by, name, method, model_hash, card_cid), DEFINE_GAS
        )

    async def roll_epoch(self) -> int:
        """The new epoch."""
        return await self._do(lambda state, now: state.registry.roll_epoch(now), ROLL_GAS)

    async def leave(self, operator: Address) -> None:
        await self._do(lambda state, now: state.registry.leave(operator, now), LEAVE_GAS)

    async def withdraw(self, operator: Address) -> int:
        """The wei that are paid back."""
        return await self._do(lambda state, now: state.registry.withdraw(operator, now), LEAVE_GAS)

    # --- faults --------------------------------------------------------------------------------------
    def reorg(self, depth: int, dropped: Collection[Digest] = ()) -> None:
        """Replaces the newest `depth` blocks. Their transactions are mined again, but for the `dropped`."""
        self._ledger.reorg(depth, dropped)

    def warp(self, seconds: float) -> None:
        """Moves the chain's time on."""
        self._ledger.warp(seconds)

    # --- inside --------------------------------------------------------------------------------------
    async def _do(self, change: Callable[[CenterModel, int], T], gas: int) -> T:
        results: list[T] = []

        def act(state: CenterModel, now: int) -> list[Emit]:
            results.append(change(state, now))
            return []

        await self.confirm(self._send(act, gas), CONFIRM_SECONDS)
        return results[-1]

    def _send(self, action: Action, gas: int) -> Digest:
        self._require_up()
        return self._ledger.send(action, gas)

    def _state(self) -> CenterModel:
        self._require_up()
        self._ledger.head()
        return self._ledger.state

    def _require_up(self) -> None:
        if self.is_down:
            raise ChainUnavailable("the chain in memory is down")

    def _indices(self, epoch: int, signers: tuple[int, ...], *, is_approved: bool) -> bytes:
        table = self._state().registry.tables.get(epoch)
        if table is None:
            return b""  # the contract refuses the epoch before it reads them
        encode = missing_of if is_approved else signers_of
        return encode(signers, len(table.entries))
