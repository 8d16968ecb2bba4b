"""A model of the TaskEscrow: as chain_tables.py, for fees. Left out: pauses, ERC-1271 requesters, and fee calculators
(see chain_center.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from shared.adapters.memory.chain_center import NO_ROOT, CenterModel, SettlementProof, voters_hash_of
from shared.adapters.memory.chain_coins import Coins, hex_of, require_within
from shared.adapters.memory.chain_registry import NOBODY
from shared.crypto import ecdsa
from shared.errors import Reverted
from shared.interfaces import Collection
from shared.types import Address, Deposit, Fees, TaskTerms

MAX_REFUND_DELAY_SECONDS = 30 * 24 * 3600
MAX_DEPOSIT_WEI = 2**96 - 1

Between = tuple[Address, Address]  # requester, performer


@dataclass(frozen=True, slots=True)
class Voters:
    """Solidity's: who voted alike, in which table. They share a pool."""

    epoch: int
    attester_set: int
    is_approval: bool
    indices: bytes


@dataclass(slots=True)
class EscrowModel:
    """Like `RegistryModel`."""

    address: Address
    refund_delay: int
    coins: Coins
    center: CenterModel
    deposits: dict[Between, Deposit] = field(default_factory=dict)
    paid_nonces: set[tuple[Address, Address, int]] = field(default_factory=set)
    earned: dict[Address, int] = field(default_factory=dict)
    pools: dict[Voters, int] = field(default_factory=dict)  # all that ever went there
    taken: dict[tuple[Voters, int], int] = field(default_factory=dict)  # by seat

    def __post_init__(self) -> None:
        require_within("refundDelay", self.refund_delay, 1, MAX_REFUND_DELAY_SECONDS)

    def copy(self, coins: Coins, center: CenterModel) -> EscrowModel:
        """Another escrow in the same state."""
        return replace(
            self,
            coins=coins,
            center=center,
            deposits=dict(self.deposits),
            paid_nonces=set(self.paid_nonces),
            earned=dict(self.earned),
            pools=dict(self.pools),
            taken=dict(self.taken),
        )

    # --- deposits ------------------------------------------------------------------------------------
    def deposit(self, requester: Address, performer: Address, amount: int) -> None:
        former = self.deposit_of(requester, performer)
        balance = former.balance + amount
        if balance > MAX_DEPOSIT_WEI:
            raise Reverted("DepositTooLarge", (balance, MAX_DEPOSIT_WEI))
        self.coins.take(self.address, amount)
        self.deposits[requester, performer] = Deposit(balance, former.refunding, former.refundable_at)

    def start_refund(self, sender: Address, performer: Address, amount: int, now: int) -> None:
        """More than there is means all of it."""
        balance = self.deposit_of(sender, performer).balance
        refunding = min(amount, balance)
        if refunding == 0:
            raise Reverted("NothingToRefund", (hex_of(sender), hex_of(performer)))
        self.deposits[sender, performer] = Deposit(balance, refunding, now + self.refund_delay)

    def refund(self, sender: Address, performer: Address, now: int) -> int:
        """The wei that are paid back."""
        deposit = self.deposit_of(sender, performer)
        if deposit.refunding == 0:
            raise Reverted("NothingToRefund", (hex_of(sender), hex_of(performer)))
        if now < deposit.refundable_at:
            raise Reverted("RefundNotDue", (deposit.refundable_at,))
        self.deposits[sender, performer] = Deposit(deposit.balance - deposit.refunding)
        self.coins.pay(self.address, sender, deposit.refunding)
        return deposit.refunding

    def _debit(self, requester: Address, performer: Address, amount: int) -> None:
        """What was going to be refunded pays last, and is forgotten as far as it is spent."""
        deposit = self.deposit_of(requester, performer)
        if amount > deposit.balance:
            raise Reverted("DepositTooSmall", (hex_of(requester), hex_of(performer), deposit.balance, amount))
        balance = deposit.balance - amount
        self.deposits[requester, performer] = Deposit(balance, min(deposit.refunding, balance), deposit.refundable_at)

    # --- collecting ----------------------------------------------------------------------------------
    def collect(self, tasks: Sequence[Collection]) -> None:
        for task in tasks:
            self._collect(task, self.center.definition(task.request.task_definition_id).terms)

    def _collect(self, task: Collection, terms: TaskTerms) -> None:
        request, task_id = task.request, self.center.domain.task_id(task.request)
        if self.is_paid(request.requester, request.performer, request.nonce):
            parties = hex_of(request.requester), hex_of(request.performer)
            raise Reverted("AlreadyPaid", (*parties, request.nonce))
        self.paid_nonces.add((request.requester, request.performer, request.nonce))
        if not ecdsa.is_signed_by(request.requester, task_id, task.requester_signature):
            raise Reverted("RequesterSignatureMismatch", (hex_of(request.requester), task_id))
        voters = voters_hash_of(task.epoch, terms.attester_set, task.indices)
        # In a batch everybody's quorum would speak for the definition's set, and without its hooks.
        if terms.settles_singly and task.root != NO_ROOT:
            raise Reverted("NotSettled", (task_id,))
        proof = SettlementProof(task.root, task.aggregator, task.path)
        aggregator = self.center.require_settled(task_id, task.info_hash, task.is_approved, voters, proof)
        fees: Fees = terms.fees
        if fees.total > request.fee:
            raise Reverted("FeeTooSmall", (task_id, request.fee, fees.total))
        to_others = fees.attesters + fees.aggregator
        to_performer = request.fee - to_others if task.is_approved else 0
        self._debit(request.requester, request.performer, to_performer + to_others)
        self._earn(request.performer, to_performer)
        self._earn(aggregator, fees.aggregator)
        pool = Voters(task.epoch, terms.attester_set, task.is_approved, task.indices)
        self.pools[pool] = self.pool_of(pool) + fees.attesters

    def _earn(self, operator: Address, amount: int) -> None:
        self.earned[operator] = self.earned_by(operator) + amount

    # --- claiming ------------------------------------------------------------------------------------
    def claim(self, operator: Address, pools: Sequence[Voters], seats: Sequence[int]) -> int:
        """The wei that go to the operator's receiver."""
        if len(seats) != len(pools):
            raise Reverted("SeatsLength", (len(seats), len(pools)))
        amount = self.earned.pop(operator, 0)
        for pool, seat in zip(pools, seats, strict=True):
            amount += self._take_share(operator, pool, seat)
        if amount == 0:
            raise Reverted("NothingToClaim", (hex_of(operator),))
        receiver = self.center.registry.rewards_receiver_of(operator)
        # An aggregator need not be an operator.
        self.coins.pay(self.address, operator if receiver == NOBODY else receiver, amount)
        return amount

    def _take_share(self, operator: Address, pool: Voters, seat: int) -> int:
        seated, power, share = self._share_of(pool, seat)
        if seated != operator or power == 0:
            raise Reverted("NotAVoter", (seat,))
        amount = share - self.taken.get((pool, seat), 0)
        self.taken[pool, seat] = share
        return amount

    def _share_of(self, pool: Voters, seat: int) -> tuple[Address, int, int]:
        """Who sits there, with what power, and what of the pool is or was theirs."""
        operator, power, signed = self.center.registry.tables.share_of(
            pool.epoch, pool.attester_set, is_approval=pool.is_approval, indices=pool.indices, seat=seat
        )
        return operator, power, self.pool_of(pool) * power // signed if power else 0

    # --- reading -------------------------------------------------------------------------------------
    def deposit_of(self, requester: Address, performer: Address) -> Deposit:
        return self.deposits.get((requester, performer), Deposit(0))

    def is_paid(self, requester: Address, performer: Address, nonce: int) -> bool:
        return (requester, performer, nonce) in self.paid_nonces

    def earned_by(self, operator: Address) -> int:
        return self.earned.get(operator, 0)

    def pool_of(self, pool: Voters) -> int:
        return self.pools.get(pool, 0)

    def claimable_of(self, pool: Voters, seat: int) -> tuple[Address, int]:
        """Who sits there, and what it would get of the pool now."""
        operator, _, share = self._share_of(pool, seat)
        return operator, share - self.taken.get((pool, seat), 0)

    @property
    def held(self) -> int:
        """Deposits, pools and what is earned, less what was paid."""
        deposits = sum(deposit.balance for deposit in self.deposits.values())
        return deposits + sum(self.earned.values()) + sum(self.pools.values()) - sum(self.taken.values())
