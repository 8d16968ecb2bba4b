"""Puts a network on a chain: the two contracts, operators, task definitions, the first epoch. Each step is one
transaction that is waited for; errors are those of `shared.errors`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.adapters.chain_evm.abi import Abi, center_abi, registry_abi
from shared.adapters.chain_evm.client import EvmClient
from shared.adapters.chain_evm.sender import Sender
from shared.adapters.chain_evm.wire import Receipt, quantity, tohex
from shared.adapters.terms import Deployment, NetworkTerms, Registration
from shared.errors import ChainUnavailable, ConfigError
from shared.types import Address, Cid, Digest

CONFIRM_SECONDS = 120.0  # ten blocks of Ethereum

__all__ = [
    "Deployment",
    "NetworkTerms",
    "Registration",
    "create_task_definition",
    "deploy",
    "leave",
    "register",
    "roll_epoch",
    "set_balance",
    "withdraw",
]


async def deploy(sender: Sender, terms: NetworkTerms) -> Deployment:
    """The registry, the center, and the registry's word that this center alone may slash."""
    chain_id = quantity(await sender.client.request("eth_chainId"))
    bounds = (terms.minimum_stake_wei, terms.unbonding_seconds, terms.epoch_seconds)
    registry = _created(await _confirmed(sender, None, registry_abi().creation_data(*bounds, terms.vault)))
    owner = terms.owner or sender.address
    creation = center_abi().creation_data(registry, owner, terms.slash_wad, terms.dispute_window_seconds)
    receipt = await _confirmed(sender, None, creation)
    center = _created(receipt)
    await _confirmed(sender, registry, registry_abi().call_data("setCenter", center))
    return Deployment(chain_id, registry, center, receipt.block)


async def register(sender: Sender, deployment: Deployment, registration: Registration) -> None:
    """Registers the sender as an operator, and pays its stake. An attester votes from the next roll on."""
    data = registry_abi().call_data(
        "register",
        int(registration.roles),
        registration.vote_key,
        registration.possession,
        registration.peer_key,
        registration.p2p_address,
        registration.gateway_url,
    )
    await _confirmed(sender, deployment.registry, data, registration.stake_wei)


async def create_task_definition(
    sender: Sender, deployment: Deployment, *, name: str, method: str, model_hash: Digest, card_cid: Cid
) -> int:
    """Its id. The sender has to be the center's owner."""
    data = center_abi().call_data("createTaskDefinition", name, method, model_hash, card_cid)
    receipt = await _confirmed(sender, deployment.center, data)
    values = await _event(sender, center_abi(), deployment.center, "TaskDefinitionCreated", receipt)
    return int(values["taskDefinitionId"])


async def roll_epoch(sender: Sender, deployment: Deployment) -> int:
    """Freezes the active attesters into the next table; its epoch. Raises `Reverted("EpochNotOver", (when,))`."""
    receipt = await _confirmed(sender, deployment.registry, registry_abi().call_data("rollEpoch"))
    values = await _event(sender, registry_abi(), deployment.registry, "EpochRolled", receipt)
    return int(values["epoch"])


async def leave(sender: Sender, deployment: Deployment) -> None:
    """Starts the sender's exit, which is final."""
    await _confirmed(sender, deployment.registry, registry_abi().call_data("leave"))


async def withdraw(sender: Sender, deployment: Deployment) -> None:
    """Pays the sender's stake back, once it may leave. Raises `Reverted` with what it still waits for."""
    await _confirmed(sender, deployment.registry, registry_abi().call_data("withdraw"))


async def set_balance(client: EvmClient, account: Address, wei: int) -> None:
    """Gives an account ether out of nothing, on a local chain. Raises `ConfigError` on a real one."""
    version = str(await client.request("web3_clientVersion"))
    if "anvil" not in version.lower():
        raise ConfigError(f"only a local chain gives ether away; this node is {version[:80]}")
    await client.request("anvil_setBalance", tohex(account), hex(wei))


async def _confirmed(sender: Sender, to: Address | None, data: bytes, value_wei: int = 0) -> Receipt:
    return await sender.confirm(await sender.send(to, data, value_wei), CONFIRM_SECONDS)


async def _event(sender: Sender, abi: Abi, contract: Address, name: str, receipt: Receipt) -> Mapping[str, Any]:
    """The one event of that name in the transaction."""
    logs = await sender.client.logs(contract, [abi.topic(name)], receipt.block, receipt.block)
    mine = next((log for log in logs if log.tx_hash == receipt.tx_hash), None)
    if mine is None:
        raise ChainUnavailable(f"a reorg took the event {name}; see what the chain says now")
    return abi.event(mine)[1]


def _created(receipt: Receipt) -> Address:
    if receipt.contract is None:
        raise ChainUnavailable("the node's receipt of a contract's creation names no contract")
    return receipt.contract
