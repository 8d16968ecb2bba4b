"""Where every wei of the testnet's fees and slashes went: what two looks at the chain say, and whether it adds up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shared.adapters.chain_evm import Pool
from shared.adapters.chain_evm.history import PaidTask
from shared.types import Address, Digest, Fees, SlashExecuted


@dataclass(frozen=True)
class Snapshot:
    """What the contracts say at one moment, in wei."""

    block: int
    stakes: Mapping[Address, int]
    deposits: Mapping[Address, int]  # the requester's, by performer
    earned: Mapping[Address, int]  # by operator, not claimed
    pools: Mapping[Pool, int]  # the attesters', all that ever went there
    held: int  # by the escrow, in all
    compensation: int  # owed to the requester by the court
    vault: int  # owed to the vault by the court


@dataclass(frozen=True)
class Shares:
    """Of one pool: what each of its voters can claim now."""

    pool: Pool
    claimable: Mapping[Address, int]


@dataclass(frozen=True)
class Books:
    """One requester's run. `approved` and `rejected` are the tasks that settled so."""

    fees: Fees  # of each task
    before: Snapshot  # with the deposits made, and no task sent
    after: Snapshot
    payments: tuple[PaidTask, ...]
    shares: tuple[Shares, ...]
    slashes: tuple[SlashExecuted, ...]
    approved: frozenset[Digest]
    rejected: frozenset[Digest]

    @property
    def spent(self) -> int:
        """Out of the requester's deposits."""
        return sum(self.before.deposits.values()) - sum(self.after.deposits.values())

    @property
    def to_pools(self) -> int:
        """The attesters' part."""
        return sum(self.after.pools.values()) - sum(self.before.pools.values())

    @property
    def slashed(self) -> int:
        """Stake that is gone."""
        return sum(self.before.stakes.values()) - sum(self.after.stakes.values())

    @property
    def compensated(self) -> int:
        """Of what was slashed, the requester's."""
        return self.after.compensation - self.before.compensation

    @property
    def to_vault(self) -> int:
        """Of what was slashed, the vault's."""
        return self.after.vault - self.before.vault

    def earned_by(self, operator: Address) -> int:
        """As performer or aggregator, in this run."""
        return self.after.earned.get(operator, 0) - self.before.earned.get(operator, 0)

    def claimable_by(self, attester: Address) -> int:
        """Out of all pools."""
        return sum(shares.claimable.get(attester, 0) for shares in self.shares)

    @property
    def dust(self) -> int:
        """What rounding leaves in the pools."""
        return sum(self.after.pools.values()) - sum(sum(shares.claimable.values()) for shares in self.shares)

    def problems(self) -> list[str]:
        """What does not add up, to the wei; none if everything does. Each sum has two sources: balances that the
        contracts keep, and what their events or the fees that were agreed on say."""
        found = [_differ(*check) for check in self._sums()]
        return [problem for problem in (*found, *self._unpaid(), *self._uneven_pools()) if problem]

    def _sums(self) -> list[tuple[str, int, str, int]]:
        earned = sum(self.after.earned.values()) - sum(self.before.earned.values())
        paid = len(self.approved) * self.fees.total + len(self.rejected) * (self.fees.total - self.fees.performer)
        named = sum(slash.compensation_wei for slash in self.slashes)
        return [
            ("the deposits lost", self.spent, "operators and pools got", earned + self.to_pools),
            ("the deposits lost", self.spent, "the settled tasks' fees are", paid),
            ("operators earned", earned, "the payments to them say", self._paid_to_operators()),
            (
                "the pools got",
                self.to_pools,
                "the payments to them say",
                sum(one.to_attesters for one in self.payments),
            ),
            ("the escrow holds", self.after.held, "before it held", self.before.held),
            ("stake was lost of", self.slashed, "requester and vault got", self.compensated + self.to_vault),
            ("stake was lost of", self.slashed, "the slashes say", sum(slash.amount_wei for slash in self.slashes)),
            ("the requester got", self.compensated, "the slashes say", named),
            ("the requester got", self.compensated, "it lost by rejected tasks", len(self.rejected) * self.fees.total),
        ]

    def _paid_to_operators(self) -> int:
        return sum(one.to_performer + one.to_aggregator for one in self.payments)

    def _unpaid(self) -> list[str]:
        """Each settled task is paid once, and as its verdict says."""
        settled = sorted(self.approved | self.rejected)
        if sorted(one.task_id for one in self.payments) != settled:
            return [f"{len(settled)} tasks settled, and {len(self.payments)} were paid, or others than those"]
        wrong = []
        for one in self.payments:
            performer = self.fees.performer if one.task_id in self.approved else 0
            if (one.to_performer, one.to_attesters, one.to_aggregator) != (
                performer,
                self.fees.attesters,
                self.fees.aggregator,
            ):
                wrong.append(f"task {one.task_id.hex()[:8]} was paid otherwise than its definition says")
        return wrong

    def _uneven_pools(self) -> list[str]:
        """Less than a wei for each voter may stay in a pool, by rounding."""
        wrong = []
        for shares in self.shares:
            left = self.after.pools[shares.pool] - sum(shares.claimable.values())
            if not 0 <= left < max(1, len(shares.claimable)):
                wrong.append(f"a pool of {self.after.pools[shares.pool]} wei leaves {left} to nobody")
        return wrong


def _differ(name: str, amount: int, other: str, expected: int) -> str:
    return "" if amount == expected else f"{name} {amount} wei, but {other} {expected} wei"
