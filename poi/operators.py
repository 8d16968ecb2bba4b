"""`poi operator …`: an operator's dealings with registry and escrow, with the operator's own key. An operator that
registers itself is its own owner."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from poi.advice import explained
from poi.amounts import ether, moment
from poi.pools import FoundPools, PoolFinder, Share, total
from shared import log as logging
from shared.adapters import deploy
from shared.adapters.chain_evm import (
    EvmClient,
    EvmEpochs,
    EvmOperatorReader,
    EvmRewards,
    History,
    Sender,
    discover,
)
from shared.adapters.chain_evm.history import Slash, SlashState
from shared.adapters.content.stores import open_content
from shared.adapters.signers import LocalIdentitySigner
from shared.config import Config, LogConfig
from shared.constants import GWEI
from shared.crypto import keystore
from shared.crypto.keystore import NodeKeys
from shared.errors import ConfigError, Reverted
from shared.types import Address, Operator, Role

CONFIRM_SECONDS = 120.0
CLAIMED_POOLS = 64  # in one transaction: each costs some 100k gas at most, and a transaction has 16.7M (EIP-7825)


@dataclass(frozen=True)
class Registrar:
    """The operator of one config file, connected to its chain."""

    config: Config
    keys: NodeKeys
    client: EvmClient
    sender: Sender
    reader: EvmOperatorReader
    deployment: deploy.Deployment

    async def register(self, roles: Role, stake_wei: int, p2p_address: str) -> str:
        """Raises `Reverted` with the registry's reason."""
        registration = deploy.Registration(
            roles=roles,
            stake_wei=stake_wei,
            peer_key=self.keys.peer_key,
            p2p_address=p2p_address,
            gateway_url=self.config.http.gateway_url,
        )
        if Role.ATTESTER in roles:  # the registry takes a vote key from nobody else
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

    async def add_stake(self, amount_wei: int) -> str:
        await self._me()  # the registry would say it too, but not before the coin is asked for
        await deploy.add_stake(self.sender, self.deployment, self.keys.address, amount_wei)
        stake = (await self._me()).stake_wei
        return f"added {ether(amount_wei)} ether; the stake is {ether(stake)} ether, and counts from the next epoch on"

    async def endpoints(self, p2p_address: str) -> str:
        gateway_url = self.config.http.gateway_url
        await deploy.update_endpoints(self.sender, self.deployment, self.keys.address, p2p_address, gateway_url)
        return f"registered now: gossip {p2p_address}, gateway {gateway_url}"

    async def set_rewards_receiver(self, receiver: Address) -> str:
        await deploy.set_rewards_receiver(self.sender, self.deployment, self.keys.address, receiver)
        return f"rewards go to 0x{receiver.hex()} from now on, those that are not claimed yet too"

    async def leave(self) -> str:
        await deploy.leave(self.sender, self.deployment, self.keys.address)
        when = moment((await self._me()).withdrawable_at)
        return f"left; the stake can be withdrawn from {when} on, and slashed until it is"

    async def withdraw(self) -> str:
        stake = (await self._me()).stake_wei
        await deploy.withdraw(self.sender, self.deployment, self.keys.address)
        return f"withdrawn: {ether(stake)} ether"

    async def roll(self) -> str:
        return f"epoch {await deploy.roll_epoch(self.sender, self.deployment)} rolled"

    async def status(self, blocks: int) -> str:
        """Everything the chain says about the operator, a line each."""
        me = await self._me()
        first, last = await self._range(blocks)
        slashes = await History(self.client, self.deployment).slashes_of(me.address, first, last)
        earned = await EvmRewards(self.client, self.deployment).earned_by(me.address)
        found, shares = await self._shares(blocks)
        rows = [
            ("operator", f"0x{me.address.hex()}"),
            ("owner", f"0x{me.owner.hex()}"),
            ("roles", " ".join(role.name.lower() for role in Role if role in me.roles and role.name)),
            ("stake", f"{ether(me.stake_wei)} ether"),
            *await self._voting_rows(me),
            ("leaving", await self._leaving(me)),
            *(("slash", _slash_line(slash)) for slash in slashes if slash.state is SlashState.WAITING),
            ("rewards to", f"0x{me.rewards_receiver.hex()}"),
            ("earned", f"{ether(earned)} ether as performer or aggregator"),
            ("pools", f"{ether(total(shares))} ether as attester{_unread(found)}"),
            ("claimable", f"{ether(earned + total(shares))} ether"),
            ("gossip", me.p2p_address),
            ("gateway", me.gateway_url),
        ]
        return "\n".join(f"{name:<11} {value}" for name, value in rows)

    async def claim(self, blocks: int) -> str:
        """What was earned in any role, to the rewards receiver."""
        rewards = EvmRewards(self.client, self.deployment)
        earned = await rewards.earned_by(self.keys.address)
        found, shares = await self._shares(blocks)
        if not earned and not shares:
            return f"nothing to claim: nothing is earned, and no pool of the last {blocks} blocks{_unread(found)}"
        # At least one, for what was earned outside of pools.
        for start in range(0, max(1, len(shares)), CLAIMED_POOLS):
            part = shares[start : start + CLAIMED_POOLS]
            tx_hash = await rewards.claim(
                self.sender, self.keys.address, [one.pool for one in part], [one.seat for one in part]
            )
            await self.sender.confirm(tx_hash, CONFIRM_SECONDS)
        claimed = ether(earned + total(shares))
        return f"claimed {claimed} ether: {ether(earned)} earned, {ether(total(shares))} of pools{_unread(found)}"

    # --- inside --------------------------------------------------------------------------------------
    async def _me(self) -> Operator:
        me = next((one for one in await self.reader.operators() if one.address == self.keys.address), None)
        if me is None:
            raise ConfigError(
                f"0x{self.keys.address.hex()} is not registered in this network, or has withdrawn; "
                "expected a registered operator; `poi operator register` makes one of new keys"
            )
        return me

    async def _voting_rows(self, me: Operator) -> list[tuple[str, str]]:
        if Role.ATTESTER not in me.roles:
            return []
        epoch = await self.reader.current_epoch()
        table = await self.reader.operator_table(epoch)
        seat = None if table is None else table.index_of(me.address)
        unit = await EvmEpochs(self.sender, self.deployment).power_unit()
        if table is None or seat is None:
            now = f"none in epoch {epoch}"
        else:
            now = f"{table.entries[seat].power} of {table.total_power} in epoch {epoch}, seat {seat}"
        counts = me.is_active and me.stake_wei >= await self.reader.minimum_stake()
        return [("power", now), ("next power", f"{me.stake_wei // unit if counts else 0} after the next roll")]

    async def _leaving(self, me: Operator) -> str:
        if me.is_active:
            return "no"
        try:
            await deploy.check_withdraw(self.client, self.deployment, me.address, me.owner)
        except Reverted as error:
            return f"since it left: unbonds {moment(me.withdrawable_at)}; now {explained(error)}"
        return "the stake can be withdrawn now"

    async def _shares(self, blocks: int) -> tuple[FoundPools, list[Share]]:
        """Of what settled lately. The documents of batches come from whoever serves them."""
        gateways = {one.address: one.gateway_url for one in await self.reader.operators()}
        # A store of its own, since a running node has the operator's; the same sources beyond it.
        settings = msgspec.structs.replace(self.config.content, store="embedded")
        with tempfile.TemporaryDirectory(prefix="poi-claim-") as folder:
            async with open_content(settings, Path(folder), gateways=lambda: gateways, own=None) as content:
                finder = PoolFinder(
                    domain=self.deployment.domain,
                    reader=self.reader,
                    history=History(self.client, self.deployment),
                    rewards=EvmRewards(self.client, self.deployment),
                    content=content,
                )
                found = await finder.find(*await self._range(blocks))
                return found, await finder.shares_of(self.keys.address, found.pools)

    async def _range(self, blocks: int) -> tuple[int, int]:
        head = (await self.client.head()).number
        return max(0, head - blocks + 1), head


def roles_of(names: list[str]) -> Role:
    """Raises `ConfigError` for a name that is no role."""
    roles = Role(0)
    for name in names:
        if name.upper() not in Role.__members__:
            raise ConfigError(f"no role {name!r}; expected performer, attester or aggregator")
        roles |= Role[name.upper()]
    return roles


def run(config: Config, act: Callable[[Registrar], Awaitable[str]]) -> None:
    """Does it and prints what happened. Raises `Reverted` with what to do about it."""
    logging.configure(LogConfig(level="warning", format="console"), "operator", "")  # what is printed is the answer
    print(asyncio.run(_run(config, act)))


async def _run(config: Config, act: Callable[[Registrar], Awaitable[str]]) -> str:
    async with _open(config) as registrar:
        try:
            return await act(registrar)
        except Reverted as error:
            raise explained(error) from None


@asynccontextmanager
async def _open(config: Config) -> AsyncIterator[Registrar]:
    keys = keystore.load(config.node.keystore, keystore.read_password(config.node.password_file))
    network = config.network
    max_fee_wei = int(config.aggregator.max_fee_gwei * GWEI)
    async with (
        EvmClient(network.chain_rpc) as client,
        Sender(client, LocalIdentitySigner(keys.operator), network.chain_id, max_fee_wei=max_fee_wei) as sender,
    ):
        deployment = await discover(client, network.chain_id, network.attestation_center, network.task_escrow)
        yield Registrar(config, keys, client, sender, EvmOperatorReader(client, deployment), deployment)


def _slash_line(slash: Slash) -> str:
    offence = slash.offence.name.lower().replace("_", " ")
    veto = f", a veto takes effect {moment(slash.veto_due_at)}" if slash.veto_due_at else ""
    return f"waiting: {offence}, task 0x{slash.task_id.hex()}, due {moment(slash.executable_at)}{veto}"


def _unread(found: FoundPools) -> str:
    if not found.unread:
        return ""
    return (
        f" (the documents of {found.unread} batches are served by nobody now: what they paid is not known; try later)"
    )
