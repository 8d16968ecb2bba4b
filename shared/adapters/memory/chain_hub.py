"""The five contracts' models as one state: what a transaction changes, and what a refused one leaves as it was."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from shared.adapters.memory.chain_center import CenterModel, Details
from shared.adapters.memory.chain_coins import Coins
from shared.adapters.memory.chain_court import CourtModel
from shared.adapters.memory.chain_escrow import EscrowModel
from shared.adapters.memory.chain_registry import RegistryModel
from shared.adapters.memory.chain_tables import TablesModel
from shared.adapters.terms import Deployment, NetworkTerms
from shared.types import Address, Digest, TaskInfo, TaskRequest


@dataclass(frozen=True, slots=True)
class HubModel:
    """Wired once; `copy` shares nothing that changes."""

    coins: Coins
    tables: TablesModel
    registry: RegistryModel
    center: CenterModel
    escrow: EscrowModel
    court: CourtModel

    @classmethod
    def deployed(cls, deployment: Deployment, terms: NetworkTerms, owner: Address) -> HubModel:
        """In the order of the real deployment, so that the first wrong term is named. Raises `Reverted`."""
        coins = Coins()
        tables = TablesModel(deployment.possession_domain, terms.epoch_seconds, terms.grace_seconds)
        registry = RegistryModel(deployment.registry_domain, terms, coins, tables)
        center = CenterModel(deployment.domain, owner, registry)
        escrow = EscrowModel(deployment.escrow, terms.refund_delay_seconds, coins, center)
        return cls(coins, tables, registry, center, escrow, CourtModel(deployment.court_domain, coins, center))

    def copy(self) -> HubModel:
        """Another hub in the same state."""
        coins = self.coins.copy()
        registry = self.registry.copy(coins)
        center = self.center.copy(registry)
        return HubModel(
            coins, registry.tables, registry, center, self.escrow.copy(coins, center), self.court.copy(coins, center)
        )

    def submit_task(
        self, sender: Address, info: TaskInfo, details: Details, now: int, request: TaskRequest | None = None
    ) -> Digest | None:
        """The id of the slash that a rejection queued. With a request: Solidity's `submitTaskAfterDeadline`."""
        terms = self.center.submit_task(sender, info, details, now, request)
        if details.is_approved or not terms.slashes_rejected:
            return None
        return self.court.queue_rejected(info.task_id, info.task_performer, terms.dispute_window, now)


def contract_address(name: str) -> Address:
    """Where a model says it is."""
    return Address(hashlib.sha256(name.encode()).digest()[:20])


def deployment_on(chain_id: int) -> Deployment:
    """Where the models say they are; the same on every chain in memory."""
    return Deployment(
        chain_id,
        tables=contract_address("tables"),
        registry=contract_address("registry"),
        center=contract_address("center"),
        escrow=contract_address("escrow"),
        court=contract_address("court"),
        block=0,
    )
