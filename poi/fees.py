"""`poi fees …`: a requester's deposits in the TaskEscrow, each for one performer, with the key that signs requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from poi.advice import explained
from poi.amounts import ether, moment
from shared import log as logging
from shared.adapters.chain_evm import EvmClient, EvmCourt, EvmEscrow, EvmOperatorReader, Sender, discover
from shared.adapters.signers import LocalIdentitySigner
from shared.config import Config, LogConfig
from shared.constants import GWEI
from shared.crypto import keystore
from shared.crypto.ecdsa import SecretKey
from shared.errors import CodecError, ConfigError, Reverted
from shared.types import Address, Deposit, Digest, Role

CONFIRM_SECONDS = 120.0


@dataclass(frozen=True)
class Purse:
    """One requester, connected to the chain of a config file."""

    sender: Sender
    reader: EvmOperatorReader
    escrow: EvmEscrow
    court: EvmCourt

    async def deposit(self, performer: Address, amount_wei: int) -> str:
        """Raises `ConfigError` for an address that performs nothing: only a refund would bring the coin back."""
        operators = await self.reader.operators()
        if not any(one.address == performer and Role.PERFORMER in one.roles and one.is_active for one in operators):
            raise ConfigError(
                f"0x{performer.hex()} is no performer of this network; expected a registered one that has not left; "
                "a performer's own address is `performer` in what its door answers to poi_getNetwork"
            )
        await self._confirm(await self.escrow.deposit(self.sender.address, performer, amount_wei))
        return f"deposited {ether(amount_wei)} ether; {_said(await self._of(performer))}"

    async def refund(self, performer: Address, amount_wei: int | None) -> str:
        """Pays a refund that is due; without one, asks for `amount_wei` or for everything. A new amount replaces what
        was asked for before."""
        deposit = await self._of(performer)
        if deposit.refunding and amount_wei is None:
            if await self.reader.chain_time() < deposit.refundable_at:
                return f"asked for before; {_said(deposit)}"
            await self._confirm(await self.escrow.refund(performer))
            return f"refunded {ether(deposit.refunding)} ether at most; {_said(await self._of(performer))}"
        wanted = deposit.balance if amount_wei is None else amount_wei
        await self._confirm(await self.escrow.start_refund(performer, wanted))
        return f"asked for; {_said(await self._of(performer))}; run this again then"

    async def status(self, performer: Address | None) -> str:
        """Of one performer, or of all that are registered."""
        performers = [one.address for one in await self.reader.operators() if Role.PERFORMER in one.roles]
        lines = [f"requester   0x{self.sender.address.hex()}"]
        for address in performers if performer is None else [performer]:
            deposit = await self._of(address)
            if deposit.balance or performer is not None:
                lines.append(f"deposit     for 0x{address.hex()}: {_said(deposit)}")
        if len(lines) == 1:
            lines.append("deposit     none for any registered performer")
        owed = await self.reader.owed_to(self.sender.address)
        lines.append(f"owed        {ether(owed)} ether as compensation from slashes")
        return "\n".join(lines)

    async def compensation(self) -> str:
        """Fetches what slashes left for the requester of harmed tasks."""
        owed = await self.reader.owed_to(self.sender.address)
        await self._confirm(await self.court.pay(self.sender.address))
        return f"fetched {ether(owed)} ether"

    async def _of(self, performer: Address) -> Deposit:
        return await self.escrow.deposit_of(self.sender.address, performer)

    async def _confirm(self, tx_hash: Digest) -> None:
        await self.sender.confirm(tx_hash, CONFIRM_SECONDS)


def run(config: Config, key_file: Path, act: Callable[[Purse], Awaitable[str]]) -> None:
    """Does it and prints what happened. Raises `Reverted` with what to do about it."""
    logging.configure(LogConfig(level="warning", format="console"), "requester", "")  # what is printed is the answer
    print(asyncio.run(_run(config, read_key(key_file), act)))


def read_key(path: Path) -> SecretKey:
    """A secp256k1 secret as 64 hexadecimal digits on one line, which nobody but its owner can read. Raises
    `ConfigError`, which says nothing of what is in the file."""
    text = keystore.read_private(path, "key file").strip().removeprefix(b"0x")
    try:
        return SecretKey(bytes.fromhex(text.decode("ascii")))
    except (CodecError, ValueError):
        raise ConfigError(f"key file {path}: expected 64 hexadecimal digits, the requester's secret key") from None


def write_key(path: Path, secret: bytes) -> None:
    """As `read_key` takes it."""
    path.touch(mode=0o600)
    path.write_text(secret.hex() + "\n")


async def _run(config: Config, key: SecretKey, act: Callable[[Purse], Awaitable[str]]) -> str:
    async with _open(config, key) as purse:
        try:
            return await act(purse)
        except Reverted as error:
            raise explained(error) from None


@asynccontextmanager
async def _open(config: Config, key: SecretKey) -> AsyncIterator[Purse]:
    network = config.network
    max_fee_wei = int(config.aggregator.max_fee_gwei * GWEI)
    async with (
        EvmClient(network.chain_rpc) as client,
        Sender(client, LocalIdentitySigner(key), network.chain_id, max_fee_wei=max_fee_wei) as sender,
    ):
        deployment = await discover(client, network.chain_id, network.attestation_center, network.task_escrow)
        reader = EvmOperatorReader(client, deployment)
        yield Purse(sender, reader, EvmEscrow(sender, deployment), EvmCourt(sender, deployment))


def _said(deposit: Deposit) -> str:
    text = f"{ether(deposit.balance)} ether lie there"
    if deposit.refunding:
        when = moment(deposit.refundable_at)
        text += f", {ether(deposit.refunding)} ether of it asked back and payable from {when} on"
    return text
