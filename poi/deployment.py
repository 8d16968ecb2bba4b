"""A new network on a local chain: contracts, funded and registered operators, task definitions, a config file for each.

`poi testnet` puts it on loopback, `poi deploy` into containers; both run the same nodes afterwards.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.adapters import deploy
from shared.adapters.chain_evm import EvmClient, Sender
from shared.adapters.signers import LocalIdentitySigner
from shared.content.unixfs import cid_of
from shared.crypto import keystore
from shared.crypto.keystore import NodeKeys
from shared.documents import ModelCard, decode_card
from shared.errors import ConfigError
from shared.model_library import model_hash_of
from shared.types import Address, Cid, Fees, Role, TaskTerms

ETHER = 10**18
STAKE_WEI = 32 * ETHER
POWER_UNIT_WEI = ETHER // 1000
FUNDS_WEI = 1_000 * ETHER
UNBONDING_SECONDS = 60
EPOCH_SECONDS = 3600
POLL_SECONDS = 0.05
FREE = Fees()
PASSWORD = "a local network protects nothing"  # noqa: S105
# Known to everybody, and rich on local chains only.
DEPLOYER = NodeKeys.from_seed(hashlib.sha256(b"local deployer").digest())


@dataclass(frozen=True)
class Member:
    """One operator of the network. `folder` holds its keystore, password and config file."""

    name: str
    role: str  # the command that it runs
    keys: NodeKeys
    folder: Path
    p2p_address: str  # as others dial it
    url: str  # as others reach its gateway and its door
    listen: str
    http_host: str
    http_port: int

    @property
    def address(self) -> Address:
        return self.keys.address


@dataclass(frozen=True)
class Model:
    """A model folder's card, checked against its ONNX file and its golden vectors."""

    name: str
    card: ModelCard
    card_cid: Cid

    @classmethod
    def read(cls, folder: Path) -> Model:
        """Raises `ConfigError` when card, model and golden vectors do not belong together."""
        try:
            card_bytes, model, golden = (
                (folder / name).read_bytes() for name in ("card.json", "model.onnx", "golden.json")
            )
        except OSError as error:
            raise ConfigError(
                f"{folder}: expected card.json, model.onnx and golden.json ({error.strerror}); `poi calibrate` makes "
                "the first and the last"
            ) from None
        card = decode_card(card_bytes)
        if (
            card.model is None
            or cid_of(model) != card.model.cid
            or hashlib.sha256(model).hexdigest() != card.model.sha256
        ):
            raise ConfigError(f"{folder / 'card.json'} is of another model.onnx; run `poi calibrate` again")
        if card.golden is None or cid_of(golden) != card.golden.cid:
            raise ConfigError(f"{folder / 'card.json'} names other golden vectors; run `poi calibrate` again")
        return cls(folder.name, card, cid_of(card_bytes))


@dataclass(frozen=True)
class DeployedNetwork:
    """Where the contracts are, and the task definition id of each model."""

    deployment: deploy.Deployment
    definitions: Mapping[str, int]


def make_keys(folder: Path) -> NodeKeys:
    """A keystore and its password in a new folder. A few rounds only: a local key is worth no second of two cores."""
    folder.mkdir(parents=True, mode=0o700, exist_ok=True)
    iterations = keystore.TESTNET_PBKDF2_ITERATIONS
    keys = keystore.create(folder / "keystore.json", PASSWORD, kdf="pbkdf2", iterations=iterations)
    password = folder / "password"
    password.touch(mode=0o600)
    password.write_text(PASSWORD)
    return keys


async def deploy_network(
    client: EvmClient,
    members: list[Member],
    models: list[Model],
    *,
    dispute_seconds: int,
    fees: Fees = FREE,
    minimum_stake_wei: int = ETHER,
) -> DeployedNetwork:
    """Contracts, stakes, definitions and epoch 1; every task costs `fees`. Raises `ConfigError` on a chain that gives
    no ether away."""
    accounts = [DEPLOYER.address, *(member.address for member in members)]
    await asyncio.gather(*(deploy.set_balance(client, account, FUNDS_WEI) for account in accounts))
    terms = deploy.NetworkTerms(
        vault=DEPLOYER.address,
        minimum_stake_wei=minimum_stake_wei,
        power_unit_wei=POWER_UNIT_WEI,
        unbonding_seconds=UNBONDING_SECONDS,
        epoch_seconds=EPOCH_SECONDS,
        longest_dispute_seconds=dispute_seconds,
        veto_delay_seconds=1,
    )
    chain_id = int(await client.request("eth_chainId"), 16)
    async with _sender(client, DEPLOYER, chain_id) as sender:
        deployment = await deploy.deploy(sender, terms)
        await asyncio.gather(*(_register(client, member, deployment) for member in members))
        terms_of_tasks = TaskTerms(fees=fees, dispute_window=dispute_seconds)
        definitions = {model.name: await _define(sender, deployment, model, terms_of_tasks) for model in models}
        await deploy.roll_epoch(sender, deployment)
    return DeployedNetwork(deployment, definitions)


def write_config(member: Member, chain_url: str, deployment: deploy.Deployment, **sections: Mapping[str, Any]) -> Path:
    """The member's config file; `sections` add to it, or replace what is here."""
    settings: dict[str, dict[str, Any]] = {
        "network": {
            "chain_rpc": chain_url,
            "chain_id": deployment.chain_id,
            "attestation_center": f"0x{deployment.center.hex()}",
            "task_escrow": f"0x{deployment.escrow.hex()}",
        },
        "node": {"data_dir": "data", "keystore": "keystore.json", "password_file": "password"},
        "p2p": {"listen": member.listen},
        "http": {"host": member.http_host, "port": member.http_port, "public_url": member.url},
        "inference": {"threads": 1},
        "aggregator": {"batch_seconds": 0.5},
    }
    for section, values in sections.items():
        settings.setdefault(section, {}).update(values)
    path = member.folder / "config.toml"
    path.write_text("\n".join(_toml(section, values) for section, values in settings.items()))
    return path


def _toml(section: str, values: Mapping[str, Any]) -> str:
    # JSON's strings, numbers and lists of them are TOML's.
    import json

    return "\n".join([f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items()), ""])


async def _define(sender: Sender, deployment: deploy.Deployment, model: Model, terms: TaskTerms) -> int:
    return await deploy.create_task_definition(
        sender,
        deployment,
        name=model.card.name,
        method=model.card.method,
        model_hash=model_hash_of(model.card),
        card_cid=model.card_cid,
        terms=terms,
    )


async def _register(client: EvmClient, member: Member, deployment: deploy.Deployment) -> None:
    common: dict[str, Any] = {
        "roles": Role[member.role.upper()],
        "stake_wei": STAKE_WEI,
        "peer_key": member.keys.peer_key,
        "p2p_address": member.p2p_address,
        "gateway_url": member.url,
    }
    if member.role == "attester":
        registration = deploy.Registration.signed(
            deployment.possession_domain, member.address, member.keys.vote, **common
        )
    else:
        registration = deploy.Registration(**common)
    async with _sender(client, member.keys, deployment.chain_id) as sender:
        await deploy.register(sender, deployment, registration)


def _sender(client: EvmClient, keys: NodeKeys, chain_id: int) -> Sender:
    return Sender(client, LocalIdentitySigner(keys.operator), chain_id, poll_seconds=POLL_SECONDS)
