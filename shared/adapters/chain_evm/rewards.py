"""What operators earned, in the TaskEscrow whose token is the chain's own coin: reading it, and claiming it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shared.adapters.chain_evm.abi import escrow_abi
from shared.adapters.chain_evm.client import EvmClient
from shared.adapters.chain_evm.sender import Sender
from shared.adapters.chain_evm.wire import Call
from shared.adapters.terms import Deployment
from shared.types import Address, Digest


@dataclass(frozen=True, slots=True)
class Pool:
    """Who voted alike, in which table: they share the attesters' fees of all tasks that settled so."""

    epoch: int
    attester_set: int
    is_approval: bool
    indices: bytes

    @property
    def form(self) -> tuple[Any, ...]:
        """`ITaskEscrow.Voters`."""
        return self.epoch, self.attester_set, self.is_approval, self.indices


class EvmRewards:
    """Reading needs no key."""

    def __init__(self, client: EvmClient, deployment: Deployment) -> None:
        self._client, self._escrow = client, deployment.escrow

    async def earned_by(self, operator: Address) -> int:
        """As performer or aggregator, not claimed yet."""
        return int((await self._ask("earnedBy", operator))[0])

    async def pool_of(self, pool: Pool) -> int:
        """All that ever went there."""
        return int((await self._ask("poolOf", pool.form))[0])

    async def claimable_of(self, pool: Pool, seat: int) -> int:
        """What the attester in `seat` would get of the pool now. Raises `Reverted` for a table that is not there."""
        return int((await self._ask("claimableOf", pool.form, seat))[1])

    async def held(self) -> int:
        """Everything that lies in the escrow: deposits, pools, and what is earned and not claimed."""
        return int((await self._ask("held"))[0])

    async def claim(self, sender: Sender, operator: Address, pools: Sequence[Pool], seats: Sequence[int]) -> Digest:
        """The transaction's hash. Pays what the operator earned otherwise, too."""
        data = escrow_abi().call_data("claim", operator, [pool.form for pool in pools], list(seats))
        return await sender.send(self._escrow, data)

    async def _ask(self, function: str, *arguments: Any) -> tuple[Any, ...]:
        abi = escrow_abi()
        return abi.returned(function, await self._client.call(Call(self._escrow, abi.call_data(function, *arguments))))
