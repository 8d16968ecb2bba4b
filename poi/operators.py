"""`poi operator …`: an operator's dealings with the registry. Each is one transaction of the operator's own key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from shared.adapters import deploy
from shared.adapters.chain_evm import EvmClient, EvmOperatorReader, Sender, discover
from shared.adapters.signers import LocalIdentitySigner
from shared.config import Config
from shared.constants import GWEI
from shared.crypto import keystore
from shared.crypto.keystore import NodeKeys
from shared.errors import ConfigError
from shared.types import Role


@dataclass(frozen=True)
class Registrar:
    """The operator of one config file, connected to its chain."""

    config: Config
    keys: NodeKeys
    sender: Sender
    reader: EvmOperatorReader
    deployment: deploy.Deployment

    async def register(self, roles: Role, stake_wei: int, p2p_address: str) -> str:
        """Raises `Reverted` with the registry's reason."""
        registration = deploy.Registration.signed(
            self.deployment.possession_domain,
            self.keys.address,
            self.keys.vote,
            roles=roles,
            stake_wei=stake_wei,
            peer_key=self.keys.peer_key,
            p2p_address=p2p_address,
            gateway_url=self.config.http.gateway_url,
        )
        await deploy.register(self.sender, self.deployment, registration)
        return f"registered 0x{self.keys.address.hex()}; an attester votes from the next epoch on"

    async def leave(self) -> str:
        await deploy.leave(self.sender, self.deployment, self.keys.address)
        return "left; the stake can be withdrawn when its unbonding is over, and slashed until then"

    async def withdraw(self) -> str:
        await deploy.withdraw(self.sender, self.deployment, self.keys.address)
        return "withdrawn"

    async def roll(self) -> str:
        return f"epoch {await deploy.roll_epoch(self.sender, self.deployment)} rolled"


def roles_of(names: list[str]) -> Role:
    """Raises `ConfigError` for a name that is no role."""
    roles = Role(0)
    for name in names:
        if name.upper() not in Role.__members__:
            raise ConfigError(f"no role {name!r}; expected performer, attester or aggregator")
        roles |= Role[name.upper()]
    return roles


def run(config: Config, act: Callable[[Registrar], Awaitable[str]]) -> None:
    """Does it and prints what happened."""
    print(asyncio.run(_run(config, act)))


async def _run(config: Config, act: Callable[[Registrar], Awaitable[str]]) -> str:
    async with _open(config) as registrar:
        return await act(registrar)


@asynccontextmanager
async def _open(config: Config) -> AsyncIterator[Registrar]:
    keys = keystore.load(config.node.keystore, keystore.read_password(config.node.password_file))
    network = config.network
    max_fee_wei = int(config.aggregator.max_fee_gwei * GWEI)
    async with (
        EvmClient(network.chain_rpc) as client,
        Sender(client, LocalIdentitySigner(keys.operator), network.chain_id, max_fee_wei=max_fee_wei) as sender,
    ):
        center, escrow = network.attestation_center, network.task_escrow
        deployment = await discover(client, network.chain_id, center, escrow)
        yield Registrar(config, keys, sender, EvmOperatorReader(client, deployment), deployment)
