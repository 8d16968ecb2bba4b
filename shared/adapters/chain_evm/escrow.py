"""An `Escrow` on the TaskEscrow whose token is the chain's own coin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shared.adapters.chain_evm.abi import escrow_abi
from shared.adapters.chain_evm.forms import request_form
from shared.adapters.chain_evm.sender import Sender
from shared.adapters.chain_evm.wire import Call
from shared.adapters.terms import Deployment
from shared.interfaces import Collection
from shared.types import Address, Deposit, Digest


class EvmEscrow:
    """Sends with the sender's key; reading needs none."""

    def __init__(self, sender: Sender, deployment: Deployment) -> None:
        self._sender, self._escrow = sender, deployment.escrow

    async def deposit_of(self, requester: Address, performer: Address) -> Deposit:
        ((balance, refunding, refundable_at),) = await self._ask("depositOf", requester, performer)
        return Deposit(balance, refunding, refundable_at)

    async def deposit(self, requester: Address, performer: Address, amount: int) -> Digest:
        data = escrow_abi().call_data("deposit", requester, performer, amount)
        return await self._sender.send(self._escrow, data, amount)

    async def start_refund(self, performer: Address, amount: int) -> Digest:
        """Of the sender's own deposit. Replaces what was asked for before, and starts the delay again."""
        data = escrow_abi().call_data("startRefund", performer, amount)
        return await self._sender.send(self._escrow, data)

    async def refund(self, performer: Address) -> Digest:
        """Pays the sender what is due of it."""
        return await self._sender.send(self._escrow, escrow_abi().call_data("refund", performer))

    async def collect(self, tasks: Sequence[Collection]) -> Digest:
        data = escrow_abi().call_data("collect", [_collection(task) for task in tasks])
        return await self._sender.send(self._escrow, data)

    async def is_paid(self, requester: Address, performer: Address, nonce: int) -> bool:
        return bool((await self._ask("isPaid", requester, performer, nonce))[0])

    async def earned_by(self, operator: Address) -> int:
        return int((await self._ask("earnedBy", operator))[0])

    async def _ask(self, function: str, *arguments: Any) -> tuple[Any, ...]:
        abi = escrow_abi()
        return abi.returned(
            function, await self._sender.client.call(Call(self._escrow, abi.call_data(function, *arguments)))
        )


def _collection(task: Collection) -> tuple[Any, ...]:
    return (
        request_form(task.request),
        task.requester_signature,
        task.info_hash,
        task.is_approved,
        task.epoch,
        task.indices,
        (task.root, task.aggregator, list(task.path)),
    )
