"""`poi deploy`: a network for containers on a local chain. A node's host name is its name, as in docker-compose.yml."""

from __future__ import annotations

import asyncio
from pathlib import Path

from poi.deployment import DeployedNetwork, Member, Model, deploy_network, make_keys, write_config
from shared.adapters.chain_evm import EvmClient
from shared.constants import MAX_SEATS

P2P_PORT, HTTP_PORT = 9700, 8700
DISPUTE_SECONDS = 10
MARK = "deployed"
# Which of the private networks the containers are in is for their engine to say.
CONTAINER_NETWORKS = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"]


def main(chain_rpc: str, config_dir: Path, attesters: int, models: Path) -> int:
    """Writes `NAME.toml` and a folder of keys for each node. Once: a second call changes nothing."""
    if (config_dir / MARK).exists():
        print(f"{config_dir} has a network already; remove the volumes of chain and config together for a new one")
        return 0
    names = [("performer", "performer"), ("aggregator", "aggregator")]
    names += [(f"attester-{i + 1}", "attester") for i in range(min(attesters, MAX_SEATS))]
    members = [_member(config_dir, name, role) for name, role in names]
    found = [Model.read(card.parent) for card in sorted(models.glob("*/card.json"))]
    network = asyncio.run(_deploy(chain_rpc, members, found))
    for member in members:
        home = {"data_dir": "/data", "keystore": f"{member.name}/keystore.json"}
        home["password_file"] = f"{member.name}/password"
        performer = {"models_dir": str(models.absolute())}
        content = {"private_networks": CONTAINER_NETWORKS}
        config = write_config(member, chain_rpc, network.deployment, node=home, content=content, performer=performer)
        config.rename(config_dir / f"{member.name}.toml")
    print(f"{len(members)} operators registered, {len(found)} task definitions, epoch 1 rolled")
    (config_dir / MARK).touch()
    return 0


async def _deploy(chain_rpc: str, members: list[Member], models: list[Model]) -> DeployedNetwork:
    async with EvmClient(chain_rpc) as client:
        return await deploy_network(client, members, models, dispute_seconds=DISPUTE_SECONDS)


def _member(config_dir: Path, name: str, role: str) -> Member:
    return Member(
        name=name,
        role=role,
        keys=make_keys(config_dir / name),
        folder=config_dir / name,
        p2p_address=f"/dns4/{name}/tcp/{P2P_PORT}",
        url=f"http://{name}:{HTTP_PORT}",
        listen=f"/ip4/0.0.0.0/tcp/{P2P_PORT}",
        http_host="0.0.0.0",  # noqa: S104 - the container's own network
        http_port=HTTP_PORT,
    )
