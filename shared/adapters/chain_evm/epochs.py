"""An `Epochs` on the EpochTables."""

from __future__ import annotations

from shared.adapters.chain_evm.abi import Abi, registry_abi, tables_abi
from shared.adapters.chain_evm.sender import Sender
from shared.adapters.chain_evm.wire import Call
from shared.adapters.terms import Deployment
from shared.types import Address, Digest


class EvmEpochs:
    """Rolls with the sender's key; reading needs none."""

    def __init__(self, sender: Sender, deployment: Deployment) -> None:
        self._sender, self._deployment = sender, deployment

    async def power_unit(self) -> int:
        return await self._ask(self._deployment.registry, registry_abi(), "powerUnit")

    async def rollable_at(self) -> int:
        return await self._ask(self._deployment.tables, tables_abi(), "rollableAt")

    async def roll(self) -> Digest:
        return await self._sender.send(self._deployment.tables, tables_abi().call_data("rollEpoch"))

    async def _ask(self, contract: Address, abi: Abi, function: str) -> int:
        (value,) = abi.returned(function, await self._sender.client.call(Call(contract, abi.call_data(function))))
        return int(value)
