"""`poi deploy` and `poi operator …` against a real chain, as the containers and an operator's shell run them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from poi import fees
from shared import config
from shared.adapters import deploy
from shared.adapters.anvil import Anvil
from shared.adapters.chain_evm import EvmClient, EvmOperatorReader, discover
from shared.adapters.chain_evm.wire import quantity, tohex
from shared.config import Config
from shared.crypto import keystore
from shared.crypto.ecdsa import SecretKey
from shared.types import Address, Role

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[2]
ETHER = 10**18


def poi(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "poi", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


async def reader_of(client: EvmClient, settings: Config) -> EvmOperatorReader:
    network = settings.network
    center, escrow = network.attestation_center, network.task_escrow
    return EvmOperatorReader(client, await discover(client, network.chain_id, center, escrow))


async def test_deploy_writes_settings_that_every_container_can_start_from(tmp_path: Path) -> None:
    folder = tmp_path / "config"
    folder.mkdir()
    async with Anvil() as anvil, EvmClient(anvil.url) as client:
        done = poi("deploy", "--config-dir", folder, "--chain-rpc", anvil.url)
        assert (done.returncode, done.stderr) == (0, "")
        assert "6 operators registered, 5 task definitions, epoch 1 rolled" in done.stdout
        names = ["performer", "aggregator", *(f"attester-{i}" for i in range(1, 5))]
        settings = {name: config.load(folder / f"{name}.toml", environ={}) for name in names}
        for name, one in settings.items():
            assert one.network.chain_rpc == anvil.url
            assert one.node.data_dir == Path("/data")
            assert one.node.keystore == folder / name / "keystore.json"
            assert one.http.gateway_url == f"http://{name}:8700"
            assert (folder / name / "keystore.json").stat().st_mode & 0o077 == 0
        reader = await reader_of(client, settings["performer"])
        operators = {operator.gateway_url: operator for operator in await reader.operators()}
        assert set(operators) == {f"http://{name}:8700" for name in names}
        assert operators["http://attester-3:8700"].p2p_address == "/dns4/attester-3/tcp/9700"
        table = await reader.operator_table(1)
        assert table is not None
        assert len(table.entries) == 4
        assert await reader.task_definition_count() == 5

        again = poi("deploy", "--config-dir", folder, "--chain-rpc", anvil.url)
        assert again.returncode == 0
        assert "already" in again.stdout
        assert len(await reader.operators()) == 6


async def test_an_operator_lives_from_its_registration_to_its_withdrawal(tmp_path: Path) -> None:
    folder = tmp_path / "config"
    folder.mkdir()
    async with Anvil() as anvil, EvmClient(anvil.url) as client:
        assert poi("deploy", "--config-dir", folder, "--chain-rpc", anvil.url).returncode == 0
        settings = config.load(folder / "performer.toml", environ={})
        mine = write_settings(tmp_path / "mine", anvil.url, settings)
        keys: list[str | Path] = [
            "--keystore",
            mine.with_name("keystore.json"),
            "--password-file",
            mine.with_name("password"),
        ]
        assert poi("key", "new", *keys, "--kdf", "pbkdf2").returncode == 0
        shown = json.loads(poi("key", "show", *keys, "--json").stdout)
        address = Address(bytes.fromhex(shown["operator"].removeprefix("0x")))
        await deploy.set_balance(client, address, 100 * ETHER)
        settings_of_mine = ("--config", mine)

        stranger = poi("operator", "status", *settings_of_mine)
        assert stranger.returncode == 2
        assert f"{shown['operator']} is not registered in this network" in stranger.stderr

        register: list[str | Path] = [
            "operator",
            "register",
            *settings_of_mine,
            "--p2p-address",
            "/ip4/127.0.0.1/tcp/9700",
        ]
        poor = poi(*register, "--role", "attester", "--stake", "0.5")
        assert poor.returncode == 2
        assert "0.5 ether were offered; expected are at least 1 ether; raise --stake" in poor.stderr
        done = poi(*register, "--role", "attester", "--role", "performer", "--stake", "32.5")
        assert (done.returncode, done.stderr) == (0, "")
        reader = await reader_of(client, settings)
        me = next(operator for operator in await reader.operators() if operator.address == address)
        assert (me.roles, me.stake_wei, me.is_active) == (Role.ATTESTER | Role.PERFORMER, 325 * ETHER // 10, True)
        assert me.gateway_url == "http://198.51.100.7:8700"

        refused = poi(*register, "--role", "attester", "--stake", "32")
        assert refused.returncode == 2
        assert "AlreadyRegistered" in refused.stderr
        assert "Traceback" not in refused.stderr
        too_early = poi("operator", "roll", *settings_of_mine)
        assert too_early.returncode == 2
        assert "EpochNotOver" in too_early.stderr

        added = poi("operator", "add-stake", *settings_of_mine, "--amount", "0.000000000000000001")
        assert added.stdout.startswith("added 0.000000000000000001 ether; the stake is 32.500000000000000001 ether")
        moved = poi("operator", "endpoints", *settings_of_mine, "--p2p-address", "/dns4/new.example/tcp/9701")
        assert moved.returncode == 0
        cold = Address(b"\x0c" * 20)
        assert poi("operator", "set-rewards-receiver", *settings_of_mine, tohex(cold)).returncode == 0
        me = next(operator for operator in await reader.operators() if operator.address == address)
        assert (me.stake_wei, me.p2p_address, me.rewards_receiver) == (
            325 * ETHER // 10 + 1,
            "/dns4/new.example/tcp/9701",
            cold,
        )
        status = rows(poi("operator", "status", *settings_of_mine))
        assert status["stake"] == "32.500000000000000001 ether"
        assert status["roles"] == "performer attester"
        assert status["power"] == "none in epoch 1"
        assert status["next power"] == "32500 after the next roll"
        assert status["leaving"] == "no"
        assert status["claimable"] == "0 ether"
        assert poi("operator", "claim", *settings_of_mine).stdout.startswith("nothing to claim")

        assert poi("operator", "leave", *settings_of_mine).returncode == 0
        waiting = poi("operator", "withdraw", *settings_of_mine)
        assert waiting.returncode == 2
        assert "StillBonded" in waiting.stderr
        status = rows(poi("operator", "status", *settings_of_mine))
        assert "StillBonded" in status["leaving"]
        assert status["next power"] == "0 after the next roll"
        await warp(client, 61)
        counted = poi("operator", "withdraw", *settings_of_mine)
        assert counted.returncode == 2
        assert "the table of epoch 1 still counts its power; run `poi operator roll`" in counted.stderr
        rolled = poi("operator", "roll", *settings_of_mine)  # at once, because somebody left
        assert (rolled.returncode, rolled.stdout) == (0, "epoch 2 rolled\n")
        await warp(client, 3601)
        before = quantity(await client.request("eth_getBalance", tohex(address), "latest"))
        done = poi("operator", "withdraw", *settings_of_mine)
        assert (done.returncode, done.stdout) == (0, "withdrawn: 32.500000000000000001 ether\n")
        gained = quantity(await client.request("eth_getBalance", tohex(address), "latest")) - before
        assert 32 * ETHER < gained <= 325 * ETHER // 10 + 1  # less the gas


async def test_a_performer_alone_registers_without_a_vote_key(tmp_path: Path) -> None:
    folder = tmp_path / "config"
    folder.mkdir()
    async with Anvil() as anvil, EvmClient(anvil.url) as client:
        assert poi("deploy", "--config-dir", folder, "--chain-rpc", anvil.url).returncode == 0
        settings = config.load(folder / "performer.toml", environ={})
        mine = write_settings(tmp_path / "mine", anvil.url, settings)
        keys: list[str | Path] = [
            "--keystore",
            mine.with_name("keystore.json"),
            "--password-file",
            mine.with_name("password"),
        ]
        assert poi("key", "new", *keys, "--kdf", "pbkdf2").returncode == 0
        address = Address(bytes.fromhex(json.loads(poi("key", "show", *keys, "--json").stdout)["operator"][2:]))
        await deploy.set_balance(client, address, 100 * ETHER)
        register: list[str | Path] = [
            "operator",
            "register",
            "--config",
            mine,
            "--p2p-address",
            "/ip4/127.0.0.1/tcp/9700",
        ]
        done = poi(*register, "--role", "performer", "--stake", "2")
        assert (done.returncode, done.stderr) == (0, "")
        reader = await reader_of(client, settings)
        me = next(operator for operator in await reader.operators() if operator.address == address)
        assert (me.roles, me.vote_key) == (Role.PERFORMER, b"")
        assert "power" not in rows(poi("operator", "status", "--config", mine))


async def test_a_requester_deposits_and_gets_it_back(tmp_path: Path) -> None:
    folder = tmp_path / "config"
    folder.mkdir()
    async with Anvil() as anvil, EvmClient(anvil.url) as client:
        assert poi("deploy", "--config-dir", folder, "--chain-rpc", anvil.url).returncode == 0
        path = folder / "performer.toml"
        settings = config.load(path, environ={})
        performer = keystore.load(settings.node.keystore, keystore.read_password(settings.node.password_file)).address
        key_file = tmp_path / "requester.key"
        fees.write_key(key_file, b"\x07" * 32)
        requester = SecretKey(b"\x07" * 32).address
        await deploy.set_balance(client, requester, ETHER)
        whose = ("--config", path, "--key-file", key_file)
        of = ("--performer", tohex(performer))

        wrong = poi("fees", "deposit", *whose, "--performer", tohex(requester), "--amount", "0.1")
        assert wrong.returncode == 2
        assert f"{tohex(requester)} is no performer of this network" in wrong.stderr
        done = poi("fees", "deposit", *whose, *of, "--amount", "0.25")
        assert (done.returncode, done.stdout) == (0, "deposited 0.25 ether; 0.25 ether lie there\n")
        asked = poi("fees", "refund", *whose, *of, "--amount", "0.1")
        assert "0.25 ether lie there, 0.1 ether of it asked back and payable from" in asked.stdout
        early = poi("fees", "refund", *whose, *of)
        assert early.stdout.startswith("asked for before; ")
        await warp(client, 24 * 3600)
        paid = poi("fees", "refund", *whose, *of)
        assert paid.stdout == "refunded 0.1 ether at most; 0.15 ether lie there\n"
        status = poi("fees", "status", *whose).stdout
        assert f"deposit     for {tohex(performer)}: 0.15 ether lie there\n" in status
        assert status.endswith("owed        0 ether as compensation from slashes\n")
        nothing = poi("fees", "compensation", *whose)
        assert nothing.returncode == 2
        assert "NothingOwed" in nothing.stderr


def rows(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """What a status says, by name."""
    assert (done.returncode, done.stderr) == (0, "")
    return {line[:11].strip(): line[12:] for line in done.stdout.splitlines()}


async def warp(client: EvmClient, seconds: int) -> None:
    await client.request("evm_increaseTime", seconds)
    await client.request("evm_mine")


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
