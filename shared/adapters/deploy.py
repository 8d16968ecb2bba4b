"""Puts a network on a chain: the five contracts, operators, task definitions, the first epoch. Each step is one
transaction that is waited for; errors are those of `shared.errors`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.adapters.chain_evm.abi import (
    Abi,
    center_abi,
    court_abi,
    escrow_abi,
    registry_abi,
    tables_abi,
)
from shared.adapters.chain_evm.client import EvmClient
from shared.adapters.chain_evm.forms import terms_form
from shared.adapters.chain_evm.sender import Sender
from shared.adapters.chain_evm.wire import Call, Receipt, quantity, tohex
from shared.adapters.terms import Deployment, NetworkTerms, Registration
from shared.errors import ChainUnavailable, ConfigError
from shared.types import Address, Cid, Digest, TaskTerms

CONFIRM_SECONDS = 120.0  # ten blocks of Ethereum
COIN = Address(bytes(20))  # as token: the chain's own coin
NOBODY = Address(bytes(20))

__all__ = [
    "Deployment",
    "NetworkTerms",
    "Registration",
    "add_stake",
    "announce_change",
    "check_withdraw",
    "create_attester_set",
    "create_task_definition",
    "deploy",
    "leave",
    "make_change",
    "register",
    "roll_epoch",
    "rotate_vote_key",
    "set_balance",
    "set_rewards_receiver",
    "update_endpoints",
    "withdraw",
]


async def deploy(sender: Sender, terms: NetworkTerms) -> Deployment:
    """The five contracts, and the words that join them: who seats attesters, and which court hears of rejections and
    slashes. Only the deployer can say these, once. Stake and fees are the chain's own coin."""
    chain_id = quantity(await sender.client.request("eth_chainId"))
    owned = (terms.owner or sender.address, terms.change_delay_seconds)
    tables, _ = await _create(sender, tables_abi(), terms.epoch_seconds, terms.grace_seconds)
    stake = (COIN, terms.minimum_stake_wei, terms.power_unit_wei, terms.unbonding_seconds)
    registry, _ = await _create(sender, registry_abi(), tables, *stake, *owned)
    center, block = await _create(sender, center_abi(), tables, registry, *owned)
    escrow, _ = await _create(sender, escrow_abi(), center, COIN, terms.refund_delay_seconds, *owned)
    disputes = (terms.vault, terms.veto_delay_seconds, terms.longest_dispute_seconds)
    court, _ = await _create(sender, court_abi(), center, *disputes, *owned)
    await _confirmed(sender, tables, tables_abi().call_data("setSource", registry))
    await _confirmed(sender, registry, registry_abi().call_data("setCourt", court))
    await _confirmed(sender, center, center_abi().call_data("setCourt", court))
    return Deployment(
        chain_id=chain_id, tables=tables, registry=registry, center=center, escrow=escrow, court=court, block=block
    )


# --- operators -----------------------------------------------------------------------------------
async def register(sender: Sender, deployment: Deployment, registration: Registration) -> Receipt:
    """Registers an operator with the sender as its owner, who pays the stake. An attester votes from the next roll
    on."""
    allowance = registration.allowance
    form = (
        registration.operator or NOBODY,
        registration.rewards_receiver or NOBODY,
        int(registration.roles),
        registration.stake_wei,
        registration.vote_key,
        registration.possession,
        registration.peer_key,
        registration.p2p_address,
        registration.gateway_url,
        registration.consent,
        (allowance.nonce, allowance.expiry, allowance.signature),
    )
    data = registry_abi().call_data("register", form)
    return await _confirmed(sender, deployment.registry, data, registration.stake_wei)


async def add_stake(sender: Sender, deployment: Deployment, operator: Address, amount_wei: int) -> None:
    """Anybody may pay; it is the owner's from then on."""
    data = registry_abi().call_data("addStake", operator, amount_wei)
    await _confirmed(sender, deployment.registry, data, amount_wei)


async def rotate_vote_key(
    sender: Sender, deployment: Deployment, operator: Address, vote_key: bytes, possession: bytes
) -> None:
    """Another vote key from the next roll on. The sender is the operator or its owner."""
    await _tell_registry(sender, deployment, "rotateVoteKey", operator, vote_key, possession)


async def set_rewards_receiver(sender: Sender, deployment: Deployment, operator: Address, receiver: Address) -> None:
    """The sender has to be the operator's owner."""
    await _tell_registry(sender, deployment, "setRewardsReceiver", operator, receiver)


async def update_endpoints(
    sender: Sender, deployment: Deployment, operator: Address, p2p_address: str, gateway_url: str
) -> None:
    """Where others find the operator from now on. The sender is the operator or its owner."""
    await _tell_registry(sender, deployment, "updateEndpoints", operator, p2p_address, gateway_url)


async def leave(sender: Sender, deployment: Deployment, operator: Address | None = None) -> None:
    """Starts an operator's exit, which is final. The sender has to be its owner; without `operator` it is both."""
    await _tell_registry(sender, deployment, "leave", operator or sender.address)


async def withdraw(sender: Sender, deployment: Deployment, operator: Address | None = None) -> None:
    """Pays an operator's stake back to its owner, the sender, once it may leave. Raises `Reverted` with what it still
    waits for."""
    await _tell_registry(sender, deployment, "withdraw", operator or sender.address)


async def check_withdraw(client: EvmClient, deployment: Deployment, operator: Address, owner: Address) -> None:
    """Raises `Reverted` with what `withdraw` still waits for. Sends nothing."""
    await client.call(Call(deployment.registry, registry_abi().call_data("withdraw", operator)), sender=owner)


# --- what is voted on, and by whom ---------------------------------------------------------------
async def create_task_definition(
    sender: Sender,
    deployment: Deployment,
    *,
    name: str,
    method: str,
    model_hash: Digest,
    card_cid: Cid,
    terms: TaskTerms,
) -> int:
    """Its id. The sender has to be the center's owner."""
    data = center_abi().call_data("createTaskDefinition", name, method, model_hash, card_cid, terms_form(terms))
    receipt = await _confirmed(sender, deployment.center, data)
    values = await _event(sender, center_abi(), deployment.center, "TaskDefinitionCreated", receipt)
    return int(values["taskDefinitionId"])


async def create_attester_set(
    sender: Sender,
    deployment: Deployment,
    members: list[Address],
    *,
    minimum_power: int = 0,
    maximum_power: int = 0,
    minimum_owners: int = 0,
) -> int:
    """Its id, for a definition's terms. No members: everybody. Anyone may."""
    rules = (sorted(members), minimum_power, maximum_power, minimum_owners)
    receipt = await _confirmed(sender, deployment.tables, tables_abi().call_data("createAttesterSet", rules))
    values = await _event(sender, tables_abi(), deployment.tables, "AttesterSetCreated", receipt)
    return int(values["attesterSet"])


async def roll_epoch(sender: Sender, deployment: Deployment) -> int:
    """Freezes the seated attesters into the next table; its epoch. A call writes one page of new keys at most, so a
    large network takes several. Raises `Reverted("EpochNotOver", (when,))`."""
    while True:
        receipt = await _confirmed(sender, deployment.tables, tables_abi().call_data("rollEpoch"))
        values = await _find_event(sender, tables_abi(), deployment.tables, "EpochRolled", receipt)
        if values is not None:
            return int(values["epoch"])
        # Each other call leaves a page behind; one that does neither was taken back by a reorg.
        await _event(sender, tables_abi(), deployment.tables, "SeatPageWritten", receipt)


# --- settings ------------------------------------------------------------------------------------
async def announce_change(sender: Sender, contract: Address, name: str, subject: int, value: int) -> None:
    """Of a setting of one of the contracts; `subject` is the task definition's id, or 0. The sender has to be the
    contract's owner."""
    # The five say this alike (`Governed`).
    data = center_abi().call_data("announceChange", _name(name), subject, value)
    await _confirmed(sender, contract, data)


async def make_change(sender: Sender, contract: Address, name: str, subject: int) -> None:
    """Makes an announced change. Anyone may. Raises `Reverted("ChangeNotDue", …)` before its time."""
    await _confirmed(sender, contract, center_abi().call_data("makeChange", _name(name), subject))


def _name(name: str) -> bytes:
    return name.encode().ljust(32, b"\0")


# --- local chains --------------------------------------------------------------------------------
async def set_balance(client: EvmClient, account: Address, wei: int) -> None:
    """Gives an account ether out of nothing, on a local chain. Raises `ConfigError` on a real one."""
    version = str(await client.request("web3_clientVersion"))
    if "anvil" not in version.lower():
        raise ConfigError(f"only a local chain gives ether away; this node is {version[:80]}")
    await client.request("anvil_setBalance", tohex(account), hex(wei))


# --- transactions --------------------------------------------------------------------------------
async def _create(sender: Sender, abi: Abi, *arguments: Any) -> tuple[Address, int]:
    """A contract's address, and its block."""
    receipt = await _confirmed(sender, None, abi.creation_data(*arguments))
    if receipt.contract is None:
        raise ChainUnavailable("the node's receipt of a contract's creation names no contract")
    return receipt.contract, receipt.block


async def _tell_registry(sender: Sender, deployment: Deployment, function: str, *arguments: Any) -> None:
    await _confirmed(sender, deployment.registry, registry_abi().call_data(function, *arguments))


async def _confirmed(sender: Sender, to: Address | None, data: bytes, value_wei: int = 0) -> Receipt:
    return await sender.confirm(await sender.send(to, data, value_wei), CONFIRM_SECONDS)


async def _event(sender: Sender, abi: Abi, contract: Address, name: str, receipt: Receipt) -> Mapping[str, Any]:
    """The first event of that name in the transaction, which has one."""
    values = await _find_event(sender, abi, contract, name, receipt)
    if values is None:
        raise ChainUnavailable(f"a reorg took the event {name}; see what the chain says now")
    return values


async def _find_event(
    sender: Sender, abi: Abi, contract: Address, name: str, receipt: Receipt
) -> Mapping[str, Any] | None:
    logs = await sender.client.logs([contract], [abi.topic(name)], receipt.block, receipt.block)
    mine = next((log for log in logs if log.tx_hash == receipt.tx_hash), None)
    return None if mine is None else abi.event(mine)[1]
