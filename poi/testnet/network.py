"""The local network itself: a chain, contracts, operators with keys and stake, and a process for each node."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import aiohttp

from poi.deployment import POLL_SECONDS, Member, Model, deploy_network, make_keys, write_config
from poi.testnet.ipfs import IpfsNodes, content_settings
from poi.testnet.kubo.daemon import Ready
from poi.testnet.kubo.libkubo import library_file
from poi.testnet.plan import MODEL_NAMES, MODELS, model_folder
from poi.testnet.processes import NodeProcess, Supervisor
from shared.adapters import deploy
from shared.adapters.anvil import Anvil, AnvilSettings
from shared.adapters.chain_evm import EventReader, EvmClient, EvmOperatorReader
from shared.adapters.content.store import EmbeddedContentStore
from shared.errors import PoiError
from shared.types import Fees

DISPUTE_SECONDS = 1
START_SECONDS = 60.0
LOOPBACK = ["127.0.0.0/8"]  # where all gateways of this network lie
# What a task costs, in wei. Three attesters cannot share theirs to the wei: rounding shows.
FEES = Fees(performer=10**15, attesters=4 * 10**14, aggregator=10**14)
MINIMUM_STAKE_WEI = 10**16  # so little that the liar is still an operator when all its lies have cost it a tenth each
PERFORMER, LIAR, AGGREGATOR = "performer", "liar", "aggregator"

Store = Literal["embedded", "kubo"]
"""Where the nodes keep content: by themselves, or each in an IPFS node of its own."""


class NetworkFailed(PoiError):
    """The local network did not come up, or a node of it ended by itself."""


@dataclass(frozen=True)
class LocalNetwork:
    """A network that is up. `definitions` are task definition ids by model name."""

    members: tuple[Member, ...]
    deployment: deploy.Deployment
    chain_url: str
    definitions: dict[str, int]
    fees: Fees  # of each definition
    client: EvmClient
    reader: EvmOperatorReader
    events: EventReader
    content: EmbeddedContentStore  # of nobody: reads what the operators serve
    supervisor: Supervisor
    kubos: Mapping[str, Ready]  # by their member's name; none with the embedded store

    def member(self, name: str) -> Member:
        return next(member for member in self.members if member.name == name)

    def process(self, name: str) -> NodeProcess:
        return next(node for node in self.supervisor.nodes if node.name == name)


@asynccontextmanager
async def open_network(
    folder: Path,
    attesters: int,
    say: Callable[[str], None],
    *,
    block_seconds: float = 0.25,
    store: Store = "embedded",
) -> AsyncIterator[LocalNetwork]:
    """Everything started, registered and ready; everything ended and gone afterwards. Raises `PoiError`; `ConfigError`
    when `store` is kubo and no Kubo is installed."""
    if store == "kubo":
        library_file()
    supervisor = Supervisor()
    supervisor.warm_up()
    async with AsyncExitStack() as stack:
        anvil = await stack.enter_async_context(Anvil(AnvilSettings(block_seconds=block_seconds)))
        say(f"chain at {anvil.url}")
        client = await stack.enter_async_context(EvmClient(anvil.url))
        members = await asyncio.to_thread(_make_members, folder, attesters)
        ipfs = IpfsNodes()
        stack.push_async_callback(ipfs.stop)
        if store == "kubo":
            ipfs.start(members)  # while the contracts are deployed
        models = [Model.read(model_folder(name)) for name in MODEL_NAMES]
        network = await deploy_network(
            client,
            members,
            models,
            dispute_seconds=DISPUTE_SECONDS,
            fees=FEES,
            minimum_stake_wei=MINIMUM_STAKE_WEI,
        )
        deployment, definitions = network.deployment, dict(network.definitions)
        say(f"contracts deployed, {len(members)} operators registered, epoch 1 rolled")
        kubos = await ipfs.wait()
        if kubos:
            say(f"{len(kubos)} IPFS nodes up, one for each node")
        stack.push_async_callback(supervisor.stop)
        for member in members:
            # Only the performer is handed the models: everybody else fetches them from it by CID.
            own = {"models_dir": str(MODELS)} if member.name == PERFORMER else {}
            config = write_config(
                member,
                anvil.url,
                deployment,
                content={"private_networks": LOOPBACK} | content_settings(kubos.get(member.name)),
                performer=own,
                log={"format": "console"},
            )
            lying_about = MODELS if member.name == LIAR else None
            supervisor.start(member.name, member.role, config, lying_about=lying_about)
            await asyncio.sleep(0)  # starting blocks while the server imports: let Ctrl-C in between
        await _wait_until_ready(supervisor, ipfs, members, len(definitions))
        say(f"{len(members)} nodes up, models fetched by CID and loaded")
        reader = EvmOperatorReader(client, deployment)
        content = await stack.enter_async_context(
            EmbeddedContentStore(
                root=folder / "reader",
                gateways=lambda: {member.address: member.url for member in members},
                own=None,
                private_networks=LOOPBACK,
            )
        )
        yield LocalNetwork(
            members=tuple(members),
            deployment=deployment,
            chain_url=anvil.url,
            definitions=definitions,
            fees=FEES,
            client=client,
            reader=reader,
            events=EventReader(client, deployment, poll_seconds=POLL_SECONDS),
            content=content,
            supervisor=supervisor,
            kubos=kubos,
        )


def _make_members(folder: Path, attesters: int) -> list[Member]:
    roles = [(PERFORMER, "performer"), (LIAR, "performer"), (AGGREGATOR, "aggregator")]
    roles += [(f"attester-{i + 1}", "attester") for i in range(attesters)]
    ports = iter(_free_ports(2 * len(roles)))
    return [_make_member(folder / name, name, role, next(ports), next(ports)) for name, role in roles]


def _make_member(folder: Path, name: str, role: str, p2p_port: int, http_port: int) -> Member:
    listen = f"/ip4/127.0.0.1/tcp/{p2p_port}"
    return Member(
        name=name,
        role=role,
        keys=make_keys(folder),
        folder=folder,
        p2p_address=listen,
        url=f"http://127.0.0.1:{http_port}",
        listen=listen,
        http_host="127.0.0.1",
        http_port=http_port,
    )


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


async def _wait_until_ready(supervisor: Supervisor, ipfs: IpfsNodes, members: list[Member], definitions: int) -> None:
    """Until each node hears all others and, where it runs models, has them loaded."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2.0)) as session:
        try:
            async with asyncio.timeout(START_SECONDS):
                waiting = list(members)
                while waiting:
                    _check_alive(supervisor)
                    ipfs.check_alive()
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
