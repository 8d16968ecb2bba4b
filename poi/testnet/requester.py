"""The testnet's requester: a key with a deposit for each performer, and its looks at where the money is."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from poi.deployment import FUNDS_WEI, POLL_SECONDS
from poi.pools import PoolFinder, voters_of
from poi.testnet.money import Books, Shares, Snapshot
from poi.testnet.network import LocalNetwork
from shared.adapters import deploy
from shared.adapters.chain_evm import EvmEscrow, EvmRewards, History, Pool, Sender
from shared.adapters.chain_evm.history import PaidTask
from shared.adapters.signers import LocalIdentitySigner
from shared.crypto.ecdsa import SecretKey
from shared.types import Address, Digest, SlashExecuted

CONFIRM_SECONDS = 30.0
COLLECT_SECONDS = 30.0
LOOK_SECONDS = 0.25


@dataclass(frozen=True)
class Requester:
    """Raises `ChainError`."""

    network: LocalNetwork
    key: SecretKey
    escrow: EvmEscrow
    sender: Sender

    async def deposit(self, fees_of: Mapping[Address, int]) -> None:
        """For each performer so many tasks' fees."""
        total = self.network.fees.total
        hashes = [
            await self.escrow.deposit(self.key.address, performer, count * total)
            for performer, count in fees_of.items()
            if count
        ]
        await asyncio.gather(*(self.sender.confirm(tx_hash, CONFIRM_SECONDS) for tx_hash in hashes))

    async def look(self) -> Snapshot:
        """Nothing moves meanwhile: no task is open."""
        network, rewards = self.network, self._rewards
        block = (await network.client.head()).number
        found = await self._finder.find(0, block)
        addresses = [member.address for member in network.members]
        return Snapshot(
            block=block,
            stakes={operator.address: operator.stake_wei for operator in await network.reader.operators()},
            deposits={
                member.address: (await self.escrow.deposit_of(self.key.address, member.address)).balance
                for member in network.members
                if member.role == "performer"
            },
            earned={address: await rewards.earned_by(address) for address in addresses},
            pools={pool: await rewards.pool_of(pool) for pool in found.pools},
            held=await rewards.held(),
            compensation=await network.reader.owed_to(self.key.address),
            vault=await network.reader.vault_balance(),
        )

    async def wait_collected(self, tasks: Sequence[Digest], from_block: int) -> None:
        """Until the performers have fetched what they earned by these tasks, or it takes too long."""
        end = asyncio.get_running_loop().time() + COLLECT_SECONDS
        while asyncio.get_running_loop().time() < end:
            if {one.task_id for one in await self._payments(from_block)} >= set(tasks):
                return
            await asyncio.sleep(LOOK_SECONDS)

    async def books(
        self,
        before: Snapshot,
        approved: Sequence[Digest],
        rejected: Sequence[Digest],
        slashes: Sequence[SlashExecuted],
    ) -> Books:
        """Once everything has come to rest."""
        await self.wait_collected([*approved, *rejected], before.block + 1)
        after = await self.look()
        return Books(
            fees=self.network.fees,
            before=before,
            after=after,
            payments=tuple(await self._payments(before.block + 1)),
            shares=tuple([await self._shares(pool) for pool in after.pools]),
            slashes=tuple(slashes),
            approved=frozenset(approved),
            rejected=frozenset(rejected),
        )

    async def _payments(self, from_block: int) -> list[PaidTask]:
        head = (await self.network.client.head()).number
        payments = await History(self.network.client, self.network.deployment).payments(from_block, head)
        return [one for one in payments if one.requester == self.key.address]

    async def _shares(self, pool: Pool) -> Shares:
        table = await self.network.reader.operator_table(pool.epoch, pool.attester_set)
        if table is None:
            return Shares(pool, {})
        claimable = {
            table.entries[seat].address: await self._rewards.claimable_of(pool, seat) for seat in voters_of(pool, table)
        }
        return Shares(pool, claimable)

    @property
    def _rewards(self) -> EvmRewards:
        return EvmRewards(self.network.client, self.network.deployment)

    @property
    def _finder(self) -> PoolFinder:
        network = self.network
        return PoolFinder(
            domain=network.deployment.domain,
            reader=network.reader,
            history=History(network.client, network.deployment),
            rewards=self._rewards,
            content=network.content,
        )


@asynccontextmanager
async def open_requester(network: LocalNetwork, secret: bytes | None = None) -> AsyncIterator[Requester]:
    """One that nobody knew before, unless `secret` says who, with coin out of nothing."""
    key = SecretKey(secret or secrets.token_bytes(32))
    await deploy.set_balance(network.client, key.address, FUNDS_WEI)
    signer, chain_id = LocalIdentitySigner(key), network.deployment.chain_id
    async with Sender(network.client, signer, chain_id, poll_seconds=POLL_SECONDS) as sender:
        yield Requester(network, key, EvmEscrow(sender, network.deployment), sender)
