"""A network's contracts, found from the two that a node is told: center and escrow."""

from __future__ import annotations

from shared.adapters.chain_evm.abi import center_abi, escrow_abi
from shared.adapters.chain_evm.client import EvmClient
from shared.adapters.chain_evm.wire import Call, address
from shared.adapters.terms import Deployment
from shared.errors import ConfigError
from shared.types import Address


async def discover(client: EvmClient, chain_id: int, center: Address, escrow: Address) -> Deployment:
    """Raises `ConfigError` for another chain, for addresses without a contract, and for an escrow of another center."""
    await client.require_network(chain_id, [center, escrow])
    abi = escrow_abi()
    (named,) = abi.returned("center", await client.call(Call(escrow, abi.call_data("center"))))
    if address(named) != center:
        raise ConfigError(
            f"network.task_escrow pays for the AttestationCenter {named}; expected an escrow of 0x{center.hex()}"
        )
    registry, tables, court = [await _named(client, center, name) for name in ("operators", "verifier", "court")]
    if not any(court):
        raise ConfigError(f"the AttestationCenter 0x{center.hex()} has no court yet; finish its deployment first")
    return Deployment(
        chain_id=chain_id, tables=tables, registry=registry, center=center, escrow=escrow, court=court, block=0
    )


async def _named(client: EvmClient, center: Address, name: str) -> Address:
    abi = center_abi()
    (found,) = abi.returned(name, await client.call(Call(center, abi.call_data(name))))
    return address(found)
