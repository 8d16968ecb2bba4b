"""The local network itself: a chain, contracts, operators with keys and stake, and a process for each node."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from poi.testnet.plan import DIGITS, MODEL_NAMES, model_folder
from poi.testnet.processes import NodeProcess, Supervisor
from shared.adapters import deploy
from shared.adapters.anvil import Anvil, AnvilSettings
from shared.adapters.chain_evm import EventReader, EvmClient, EvmOperatorReader, Sender
from shared.adapters.content_network import EmbeddedContentStore
from shared.adapters.signers import LocalIdentitySigner
from shared.crypto import keystore
from shared.crypto.keystore import NodeKeys
from shared.documents import decode_card
from shared.errors import ConfigError, PoiError
from shared.types import Address, Cid, Digest, Role

ETHER = 10**18
STAKE_WEI = 32 * ETHER
FUNDS_WEI = 1_000 * ETHER
DISPUTE_SECONDS = 1
UNBONDING_SECONDS = 60
EPOCH_SECONDS = 3600
PASSWORD = "a local testnet protects nothing"  # noqa: S105
START_SECONDS = 60.0
POLL_SECONDS = 0.05
PERFORMER, LIAR, AGGREGATOR = "performer", "liar", "aggregator"


class NetworkFailed(PoiError):
    """The local network did not come up, or a node of it ended by itself."""


@dataclass(frozen=True)
class Member:
    """One operator of the local network."""

    name: str
    role: str  # the command that it runs
    keys: NodeKeys
    folder: Path
    p2p_port: int
    http_port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def address(self) -> Address:
        return self.keys.address

    @property
    def p2p_address(self) -> str:
        return f"/ip4/127.0.0.1/tcp/{self.p2p_port}"


@dataclass(frozen=True)
class LocalNetwork:
    """A network that is up. `definitions` are task definition ids by model name."""

    members: tuple[Member, ...]
    deployment: deploy.Deployment
    chain_url: str
    definitions: dict[str, int]
    reader: EvmOperatorReader
    events: EventReader
    content: EmbeddedContentStore  # of nobody: reads what the operators serve
    supervisor: Supervisor

    def member(self, name: str) -> Member:
        return next(member for member in self.members if member.name == name)

    def process(self, name: str) -> NodeProcess:
        return next(node for node in self.supervisor.nodes if node.name == name)


@asynccontextmanager
async def open_network(
    folder: Path, attesters: int, say: Callable[[str], None], *, block_seconds: float = 0.25
) -> AsyncIterator[LocalNetwork]:
    """Everything started, registered and ready; everything ended and gone afterwards. Raises `PoiError`."""
    supervisor = Supervisor()
    supervisor.warm_up()
    async with AsyncExitStack() as stack:
        anvil = await stack.enter_async_context(Anvil(AnvilSettings(block_seconds=block_seconds)))
        say(f"chain at {anvil.url}")
        client = await stack.enter_async_context(EvmClient(anvil.url))
        members = await asyncio.to_thread(_make_members, folder, attesters)
        cards = await _seed_models(members[0])
        deployment, definitions = await _deploy(client, members, cards)
        say(f"contracts deployed, {len(members)} operators registered, epoch 1 rolled")
        stack.push_async_callback(supervisor.stop)
        for member in members:
            _write_config(member, anvil.url, deployment)
            decoy = model_folder(DIGITS) / "decoy.onnx" if member.name == LIAR else None
            supervisor.start(member.name, member.role, member.folder / "config.toml", decoy_model=decoy)
        await _wait_until_ready(supervisor, members, len(definitions))
        say(f"{len(members)} nodes up, models fetched by CID and loaded")
        reader = EvmOperatorReader(client, registry=deployment.registry, center=deployment.center)
        content = await stack.enter_async_context(
            EmbeddedContentStore(
                root=folder / "reader",
                gateways=lambda: {member.address: member.url for member in members},
                own=None,
            )
        )
        yield LocalNetwork(
            members=tuple(members),
            deployment=deployment,
            chain_url=anvil.url,
            definitions=definitions,
            reader=reader,
            events=EventReader(client, deployment.center, poll_seconds=POLL_SECONDS),
            content=content,
            supervisor=supervisor,
        )


def _make_members(folder: Path, attesters: int) -> list[Member]:
    roles = [(PERFORMER, "performer"), (LIAR, "performer"), (AGGREGATOR, "aggregator")]
    roles += [(f"attester-{i + 1}", "attester") for i in range(attesters)]
    ports = iter(_free_ports(2 * len(roles)))
    members = []
    for name, role in roles:
        home = folder / name
        home.mkdir(parents=True, mode=0o700)
        # A few rounds only, else every node would spend a second of two shared cores on its key.
        keys = keystore.create(
            home / "keystore.json", PASSWORD, kdf="pbkdf2", iterations=keystore.TESTNET_PBKDF2_ITERATIONS
        )
        password = home / "password"
        password.touch(mode=0o600)
        password.write_text(PASSWORD)
        members.append(Member(name, role, keys, home, next(ports), next(ports)))
    return members


def _free_ports(count: int) -> list[int]:
    """Free now. Held together, so that no two are the same."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


async def _seed_models(performer: Member) -> dict[str, tuple[Cid, bytes]]:
    """Models and cards into the performer's own store, where everybody else fetches them by CID."""
    cards = {}
    root = performer.folder / "data" / "content"
    root.parent.mkdir(parents=True)
    async with EmbeddedContentStore(root=root, gateways=dict, own=performer.address) as content:
        for name in MODEL_NAMES:
            card_bytes = (model_folder(name) / "card.json").read_bytes()
            card = decode_card(card_bytes)
            model = (model_folder(name) / "model.onnx").read_bytes()
            if await content.add(model) != card.model.cid or hashlib.sha256(model).hexdigest() != card.model.sha256:
                raise ConfigError(f"models/{name}/card.json is of another model.onnx; run models/calibrate.py again")
            cards[name] = (await content.add(card_bytes), card_bytes)
    return cards


async def _deploy(
    client: EvmClient, members: list[Member], cards: dict[str, tuple[Cid, bytes]]
) -> tuple[deploy.Deployment, dict[str, int]]:
    owner = NodeKeys.from_seed(hashlib.sha256(b"local testnet deployer").digest())
    accounts = [owner.address, *(member.address for member in members)]
    await asyncio.gather(*(deploy.set_balance(client, account, FUNDS_WEI) for account in accounts))
    terms = deploy.NetworkTerms(
        vault=owner.address,
        minimum_stake_wei=ETHER,
        unbonding_seconds=UNBONDING_SECONDS,
        epoch_seconds=EPOCH_SECONDS,
        dispute_window_seconds=DISPUTE_SECONDS,
    )
    chain_id = int(await client.request("eth_chainId"), 16)
    async with _sender(client, owner, chain_id) as sender:
        deployment = await deploy.deploy(sender, terms)
        await asyncio.gather(*(_register(client, member, deployment) for member in members))
        definitions = {}
        for name, (cid, card_bytes) in cards.items():
            card = decode_card(card_bytes)
            definitions[name] = await deploy.create_task_definition(
                sender,
                deployment,
                name=card.name,
                method=card.method,
                model_hash=Digest(bytes.fromhex(card.model.sha256)),
                card_cid=cid,
            )
        await deploy.roll_epoch(sender, deployment)
    return deployment, definitions


async def _register(client: EvmClient, member: Member, deployment: deploy.Deployment) -> None:
    common: dict[str, Any] = {
        "stake_wei": STAKE_WEI,
        "peer_key": member.keys.peer_key,
        "p2p_address": member.p2p_address,
        "gateway_url": member.url,
    }
    if member.role == "attester":
        registration = deploy.Registration.signed(
            deployment.possession_domain, member.address, member.keys.vote, roles=Role.ATTESTER, **common
        )
    else:
        registration = deploy.Registration(roles=Role[member.role.upper()], **common)
    async with _sender(client, member.keys, deployment.chain_id) as sender:
        await deploy.register(sender, deployment, registration)


def _sender(client: EvmClient, keys: NodeKeys, chain_id: int) -> Sender:
    return Sender(client, LocalIdentitySigner(keys.operator), chain_id, poll_seconds=POLL_SECONDS)


def _write_config(member: Member, chain_url: str, deployment: deploy.Deployment) -> None:
    (member.folder / "config.toml").write_text(
        f"""[network]
chain_rpc = "{chain_url}"
chain_id = {deployment.chain_id}
attestation_center = "0x{deployment.center.hex()}"
operator_registry = "0x{deployment.registry.hex()}"
[node]
data_dir = "data"
keystore = "keystore.json"
password_file = "password"
[p2p]
listen = "{member.p2p_address}"
[http]
port = {member.http_port}
[inference]
threads = 1
[aggregator]
batch_seconds = 0.5
[log]
format = "console"
"""
    )


async def _wait_until_ready(supervisor: Supervisor, members: list[Member], definitions: int) -> None:
    """Until each node hears all others and, where it runs models, has them loaded."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2.0)) as session:
        try:
            async with asyncio.timeout(START_SECONDS):
                waiting = list(members)
                while waiting:
                    _check_alive(supervisor)
                    ready = await asyncio.gather(*(_is_ready(session, m, len(members), definitions) for m in waiting))
                    waiting = [member for member, is_ready in zip(waiting, ready, strict=True) if not is_ready]
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            tails = "\n".join(f"--- {m.name}\n{_tail(supervisor, m.name)}" for m in waiting)
            raise NetworkFailed(f"not ready after {START_SECONDS:g} s:\n{tails}") from None


async def _is_ready(session: aiohttp.ClientSession, member: Member, members: int, definitions: int) -> bool:
    try:
        async with session.get(f"{member.url}/health") as response:
            health = await response.json()
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return False
    has_models = member.role == "aggregator" or len(health["readyDefinitions"]) == definitions
    return response.status == 200 and health["peers"] == members - 1 and has_models


def _check_alive(supervisor: Supervisor) -> None:
    for node in supervisor.nodes:
        if not node.process.is_alive():
            raise NetworkFailed(f"{node.name} ended by itself:\n{node.tail()}")


def _tail(supervisor: Supervisor, name: str) -> str:
    return next(node.tail() for node in supervisor.nodes if node.name == name)
