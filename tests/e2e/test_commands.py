"""`poi deploy` and `poi operator …` against a real chain, as the containers and an operator's shell run them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from shared import config
from shared.adapters import deploy
from shared.adapters.anvil import Anvil
from shared.adapters.chain_evm import EvmClient, EvmOperatorReader
from shared.config import Config
from shared.types import Role

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

ROOT = Path(__file__).resolve().parents[2]
ETHER = 10**18


def poi(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "poi", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def reader_of(client: EvmClient, settings: Config) -> EvmOperatorReader:
    network = settings.network
    return EvmOperatorReader(client, registry=network.task_escrow, center=network.attestation_center)


async def test_deploy_writes_settings_that_every_container_can_start_from(tmp_path: Path) -> None:
    folder = tmp_path / "config"
    folder.mkdir()
    async with Anvil() as anvil, EvmClient(anvil.url) as client:
        done = poi("deploy", "--config-dir", folder, "--chain-rpc", anvil.url)
        assert (done.returncode, done.stderr) == (0, "")
        assert "6 operators registered, 2 task definitions, epoch 1 rolled" in done.stdout
        names = ["performer", "aggregator", *(f"attester-{i}" for i in range(1, 5))]
        settings = {name: config.load(folder / f"{name}.toml", environ={}) for name in names}
        for name, one in settings.items():
            assert one.network.chain_rpc == anvil.url
            assert one.node.data_dir == Path("/data")
            assert one.node.keystore == folder / name / "keystore.json"
            assert one.http.gateway_url == f"http://{name}:8700"
            assert (folder / name / "keystore.json").stat().st_mode & 0o077 == 0
        reader = reader_of(client, settings["performer"])
        operators = {operator.gateway_url: operator for operator in await reader.operators()}
        assert set(operators) == {f"http://{name}:8700" for name in names}
        assert operators["http://attester-3:8700"].p2p_address == "/dns4/attester-3/tcp/9700"
        table = await reader.operator_table(1)
        assert table is not None
        assert len(table.entries) == 4
        assert await reader.task_definition_count() == 2

        again = poi("deploy", "--config-dir", folder, "--chain-rpc", anvil.url)
        assert again.returncode == 0
        assert "already" in again.stdout
        assert len(await reader.operators()) == 6


async def test_an_operator_registers_leaves_and_is_told_what_it_waits_for(tmp_path: Path) -> None:
    folder = tmp_path / "config"
    folder.mkdir()
    async with Anvil() as anvil, EvmClient(anvil.url) as client:
        assert poi("deploy", "--config-dir", folder, "--chain-rpc", anvil.url).returncode == 0
        settings = config.load(folder / "performer.toml", environ={})
        mine = write_settings(tmp_path / "mine", anvil.url, settings)
        keys = ["--keystore", mine.with_name("keystore.json"), "--password-file", mine.with_name("password")]
        assert poi("key", "new", *keys, "--kdf", "pbkdf2").returncode == 0
        shown = json.loads(poi("key", "show", *keys, "--json").stdout)
        address = bytes.fromhex(shown["operator"].removeprefix("0x"))
        await deploy.set_balance(client, address, 100 * ETHER)  # type: ignore[arg-type]

        register = ["operator", "register", "--config", mine, "--p2p-address", "/ip4/127.0.0.1/tcp/9700"]
        done = poi(*register, "--role", "attester", "--role", "performer", "--stake", "32.5")
        assert (done.returncode, done.stderr) == (0, "")
        reader = reader_of(client, settings)
        me = next(operator for operator in await reader.operators() if operator.address == address)
        assert (me.roles, me.stake_wei, me.is_active) == (Role.ATTESTER | Role.PERFORMER, 325 * ETHER // 10, True)
        assert me.gateway_url == "http://198.51.100.7:8700"

        refused = poi(*register, "--role", "attester", "--stake", "32")
        assert refused.returncode == 2
        assert "AlreadyRegistered" in refused.stderr
        assert "Traceback" not in refused.stderr
        too_early = poi("operator", "roll", "--config", mine)
        assert too_early.returncode == 2
        assert "EpochNotOver" in too_early.stderr

        assert poi("operator", "leave", "--config", mine).returncode == 0
        waiting = poi("operator", "withdraw", "--config", mine)
        assert waiting.returncode == 2
        assert "reverted" in waiting.stderr
        assert await reader.stake_of(me.address) == 325 * ETHER // 10


def write_settings(folder: Path, chain_rpc: str, network: Config) -> Path:
    folder.mkdir()
    password = folder / "password"
    password.touch(mode=0o600)
    password.write_text("secret of a test")
    path = folder / "config.toml"
    path.write_text(
        f"""[network]
chain_rpc = "{chain_rpc}"
chain_id = {network.network.chain_id}
attestation_center = "0x{network.network.attestation_center.hex()}"
task_escrow = "0x{network.network.task_escrow.hex()}"
[http]
public_url = "http://198.51.100.7:8700"
"""
    )
    return path
