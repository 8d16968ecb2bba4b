"""A chain in memory: the five contracts as models, behind the same Protocols as the real one, with faults on request.

For simulations and tests. Real signatures are really checked; gas is not. What of the contracts is left out, each
model's file says.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from copy import copy

from shared.adapters.memory.chain_center import SettlementProof
from shared.adapters.memory.chain_connection import (
    CONFIRM_SECONDS,
    ROLL_GAS,
    MemoryConnection,
    MemoryCourt,
    MemoryEpochs,
    MemoryEscrow,
    MemorySettlement,
    slash_cancelled,
    slash_queued,
)
from shared.adapters.memory.chain_escrow import Voters
from shared.adapters.memory.chain_hub import HubModel, contract_address, deployment_on
from shared.adapters.memory.chain_ledger import Action, Emit, Ledger
from shared.adapters.terms import NetworkTerms, Registration
from shared.constants import CHAIN_POLL_SECONDS
from shared.digests import Domain
from shared.types import (
    Address,
    Cid,
    Digest,
    Operator,
    OperatorTable,
    TaskDefinition,
    TaskInfo,
    TaskRequest,
    TaskTerms,
)

__all__ = ["DEPLOYER", "TIME_ZERO", "MemoryChain", "MemoryCourt", "MemoryEpochs", "MemoryEscrow", "MemorySettlement"]

TIME_ZERO = 1_800_000_000.0  # unix seconds
DEPLOYER = contract_address("memory deployer")

REGISTER_GAS, DEFINE_GAS, LEAVE_GAS, PAY_GAS, ANSWER_GAS = 400_000, 200_000, 60_000, 60_000, 200_000


class MemoryChain(MemorySettlement, MemoryEpochs, MemoryCourt, MemoryEscrow):
    """One account's connection to a chain in memory, for all that there is to do on it; also an `OperatorReader`. The
    first one makes the chain, and is its deployer's. Needs a running event loop, whose time 0 is `time_zero` in unix
    seconds.
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
        deployment = deployment_on(chain_id)
        self._owner = terms.owner or DEPLOYER
        hub = HubModel.deployed(deployment, terms, self._owner)
        ledger = Ledger(hub, block_seconds, time_zero)
        MemoryConnection.__init__(self, ledger, deployment, DEPLOYER, poll_seconds=poll_seconds)

    def connect(self, sender: Address | None = None) -> MemoryChain:
        """Another connection to the same chain, by the same account unless said."""
        other = copy(self)
        other.is_down = False
        other.sender = sender or self.sender
        return other

    @property
    def domain(self) -> Domain:
        return self.deployment.domain

    # --- OperatorReader ------------------------------------------------------------------------------
    async def current_epoch(self) -> int:
        return self._state().tables.epoch

    async def operator_table(self, epoch: int, attester_set: int = 0) -> OperatorTable | None:
        """None for every attester set but 0: here is nobody who could make one."""
        return None if attester_set else self._state().tables.tables.get(epoch)

    async def is_expired(self, epoch: int) -> bool:
        return epoch < 1 or self._state().tables.is_expired(epoch, self._ledger.timestamp())

    async def settle_seconds(self) -> int:
        tables = self._state().tables
        return tables.epoch_seconds + tables.grace_seconds

    async def beacon(self, epoch: int) -> Digest | None:
        return self._state().tables.beacons.get(epoch)

    async def operators(self) -> Sequence[Operator]:
        return self._state().registry.operators()

    async def task_definition(self, definition_id: int) -> TaskDefinition | None:
        definitions = self._state().center.definitions
        return definitions[definition_id] if 0 <= definition_id < len(definitions) else None

    async def task_definition_count(self) -> int:
        return len(self._state().center.definitions)

    # --- more answers --------------------------------------------------------------------------------
    async def included(
        self,
        root: Digest,
        task_id: Digest,
        task_info_hash: Digest,
        is_approved: bool,
        voters_hash: Digest,
        proof: Sequence[bytes],
    ) -> bool:
        """Whether a settled batch has this verdict, by these voters."""
        return self._state().center.included(root, task_id, task_info_hash, is_approved, voters_hash, proof)

    async def stake_of(self, operator: Address) -> int:
        """In wei. Raises `Reverted("NotRegistered")`."""
        return self._state().registry.registered(operator).stake_wei

    async def owed_to(self, account: Address) -> int:
        """What slashes left to a harmed requester or to the vault, and nobody fetched yet, in wei."""
        return self._state().court.owed_to(account)

    async def vault_balance(self) -> int:
        """`owed_to` the vault: what slashing collected and compensated nobody."""
        return await self.owed_to(self._state().registry.terms.vault)

    async def balance_of(self, account: Address) -> int:
        """What the contracts hold or paid out there, in wei; what else it owns is not known here."""
        return self._state().coins.of(account)

    async def chain_time(self) -> int:
        """The newest block's, in unix seconds."""
        self._require_up()
        return self._ledger.timestamp()

    # --- what `shared.adapters.deploy` does on a real chain ------------------------------------------------
    async def register(self, owner: Address, registration: Registration) -> None:
        await self._do(lambda state, _: state.registry.register(owner, registration), REGISTER_GAS)

    async def add_stake(self, operator: Address, amount_wei: int) -> None:
        await self._do(lambda state, _: state.registry.add_stake(operator, amount_wei), LEAVE_GAS)

    async def create_task_definition(
        self,
        *,
        name: str,
        method: str,
        model_hash: Digest,
        card_cid: Cid,
        terms: TaskTerms,
        sender: Address | None = None,
    ) -> int:
        """Its id. By the owner, unless another sender is given."""
        by = sender or self._owner
        return await self._do(
            lambda state, _: state.center.create_task_definition(by, name, method, model_hash, card_cid, terms),
            DEFINE_GAS,
        )

    async def roll_epoch(self) -> int:
        """The new epoch."""
        return await self._do(lambda state, now: state.tables.roll_epoch(now), ROLL_GAS)

    async def leave(self, operator: Address, *, owner: Address | None = None) -> None:
        by = owner or operator
        await self._do(lambda state, now: state.registry.leave(by, operator, now), LEAVE_GAS)

    async def withdraw(self, operator: Address, *, owner: Address | None = None) -> int:
        """The wei that are paid back."""
        by = owner or operator
        return await self._do(lambda state, now: state.registry.withdraw(by, operator, now), LEAVE_GAS)

    # --- money ---------------------------------------------------------------------------------------
    async def start_refund(self, requester: Address, performer: Address, amount: int) -> None:
        await self._do(lambda state, now: state.escrow.start_refund(requester, performer, amount, now), PAY_GAS)

    async def refund(self, requester: Address, performer: Address) -> int:
        """The wei that are paid back."""
        return await self._do(lambda state, now: state.escrow.refund(requester, performer, now), PAY_GAS)

    async def claim(self, operator: Address, pools: Sequence[Voters] = (), seats: Sequence[int] = ()) -> int:
        """The wei that go to the operator's rewards receiver."""
        return await self._do(lambda state, _: state.escrow.claim(operator, pools, seats), PAY_GAS)

    async def claimable_of(self, pool: Voters, seat: int) -> tuple[Address, int]:
        """Who sits there, and what it would get of the pool now, in wei."""
        return self._state().escrow.claimable_of(pool, seat)

    async def pay(self, account: Address) -> int:
        """The wei that the court owed."""
        return await self._do(lambda state, _: state.court.pay(account), PAY_GAS)

    # --- answers to slashes --------------------------------------------------------------------------
    async def report_missed_deadline(self, request: TaskRequest, performer_signature: bytes) -> None:
        def act(state: HubModel, now: int) -> list[Emit]:
            return [slash_queued(state, state.court.report_missed_deadline(request, performer_signature, now))]

        await self._confirmed(act)

    async def record_delivery(self, request: TaskRequest, info: TaskInfo, performer_signature: bytes) -> None:
        await self._do(
            lambda state, now: state.court.record_delivery(request, info, performer_signature, now), ANSWER_GAS
        )

    async def cancel_slash(self, slash_id: Digest, epoch: int, signature: bytes, missing: bytes) -> None:
        def act(state: HubModel, now: int) -> list[Emit]:
            slash = state.court.cancel_slash(slash_id, epoch, signature, missing, now)
            return [slash_cancelled(slash_id, slash.operator)]

        await self._confirmed(act)

    async def refute_missed_deadline(
        self, slash_id: Digest, info_hash: Digest, is_approved: bool, voters_hash: Digest, proof: SettlementProof
    ) -> None:
        def act(state: HubModel, _: int) -> list[Emit]:
            slash = state.court.refute_missed_deadline(slash_id, info_hash, is_approved, voters_hash, proof)
            return [slash_cancelled(slash_id, slash.operator)]

        await self._confirmed(act)

    async def announce_veto(self, guardian: Address, slash_id: Digest) -> None:
        await self._do(lambda state, now: state.court.announce_veto(guardian, slash_id, now), ANSWER_GAS)

    async def overrule_veto(self, slash_id: Digest, epoch: int, signature: bytes, missing: bytes) -> None:
        await self._do(
            lambda state, now: state.court.overrule_veto(slash_id, epoch, signature, missing, now), ANSWER_GAS
        )

    async def execute_veto(self, slash_id: Digest) -> None:
        def act(state: HubModel, now: int) -> list[Emit]:
            return [slash_cancelled(slash_id, state.court.execute_veto(slash_id, now).operator)]

        await self._confirmed(act)

    # --- faults --------------------------------------------------------------------------------------
    def reorg(self, depth: int, dropped: Collection[Digest] = ()) -> None:
        """Replaces the newest `depth` blocks. Their transactions are mined again, but for the `dropped`."""
        self._ledger.reorg(depth, dropped)

    def warp(self, seconds: float) -> None:
        """Moves the chain's time on."""
        self._ledger.warp(seconds)

    async def _confirmed(self, act: Action) -> None:
        await self.confirm(self._send(act, ANSWER_GAS), CONFIRM_SECONDS)
