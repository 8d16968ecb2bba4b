"""The deployment on EigenLayer, against our stand-ins of its contracts on a real chain."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from shared.adapters import deploy
from shared.adapters.anvil import Anvil, AnvilSettings
from shared.adapters.chain_evm import EvmClient, EvmOperatorReader, Sender
from shared.adapters.chain_evm.abi import Abi, Artifact, center_abi
from shared.adapters.chain_evm.wire import Call, quantity, tohex
from shared.adapters.terms import Deployment
from shared.crypto import keystore
from shared.crypto.keystore import NodeKeys
from shared.errors import ConfigError, Reverted
from shared.types import Address, Role
from tests.chain_support import BLOCK_SECONDS, ETHER, LIMIT_SECONDS, OWNER, VAULT, Person, sender_of

pytestmark = pytest.mark.timeout(300)  # the stand-ins are compiled first: 15 s on one quiet core

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "contracts" / "script" / "deploy_eigenlayer.py"
STAND_INS = ("AllocationManagerStandIn", "DelegationManagerStandIn", "StrategyManagerStandIn", "StrategyStandIn")
DEALLOCATION_BLOCKS, SLASHER_BLOCKS, ALLOCATION_BLOCKS = 100_800, 126_000, 5
SET, SHARES = 3, 7 * ETHER


@cache
def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "contracts" / "script" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their own module up
    spec.loader.exec_module(module)
    return module


@cache
def stand_ins() -> dict[str, Abi]:
    if not (ROOT / "tools" / "node_modules" / "solc").is_dir():
        pytest.skip("tools/node_modules is not installed")
    paths = [f"test/eigenlayer/{name}.sol" for name in STAND_INS]
    exporter = script("export_artifacts")
    try:
        compiled = exporter.compile_contracts(paths, via_ir=False)
    except exporter.CompileError as error:
        if "no Node found" in str(error):
            pytest.skip("no Node to run the compiler with")
        raise
    return {name: Abi(Artifact(found["abi"], found["bytecode"])) for name, found in compiled.items()}


@dataclass
class EigenLayer:
    """The stand-ins on a chain; the sender is the AVS."""

    url: str
    client: EvmClient
    sender: Sender
    allocations: Address
    delegations: Address
    deposits: Address
    strategies: tuple[Address, ...]

    async def tell(self, sender: Sender, name: str, to: Address, function: str, *arguments: Any) -> None:
        data = stand_ins()[name].call_data(function, *arguments)
        await sender.confirm(await sender.send(to, data), LIMIT_SECONDS)

    async def ask(self, function: str, *arguments: Any) -> tuple[Any, ...]:
        """Of the AllocationManager."""
        abi = stand_ins()["AllocationManagerStandIn"]
        return abi.returned(
            function, await self.client.call(Call(self.allocations, abi.call_data(function, *arguments)))
        )

    def terms(self, **changes: Any) -> Any:
        plain = script("deploy_eigenlayer").EigenLayerTerms(
            allocation_manager=self.allocations,
            delegation_manager=self.delegations,
            avs=OWNER.address,
            operator_set=SET,
            strategies=self.strategies,
            metadata_uri="https://avs.example",
            vault=VAULT,
        )
        return replace(plain, **changes)


@asynccontextmanager
async def eigenlayer() -> AsyncIterator[EigenLayer]:
    compiled = stand_ins()
    async with Anvil(AnvilSettings(block_seconds=BLOCK_SECONDS)) as anvil, EvmClient(anvil.url) as client:
        await deploy.set_balance(client, OWNER.address, 1000 * ETHER)
        async with sender_of(client, OWNER) as sender:

            async def create(name: str, *arguments: Any) -> Address:
                data = compiled[name].creation_data(*arguments)
                receipt = await sender.confirm(await sender.send(None, data), LIMIT_SECONDS)
                assert receipt.contract is not None
                return receipt.contract

            delegations = await create("DelegationManagerStandIn", DEALLOCATION_BLOCKS)
            allocations = await create("AllocationManagerStandIn", delegations, DEALLOCATION_BLOCKS, SLASHER_BLOCKS)
            deposits = await create("StrategyManagerStandIn", delegations, allocations)
            # Nothing is deposited by a transfer here: the strategies' token is never asked.
            strategies = [await create("StrategyStandIn", VAULT, deposits) for _ in range(2)]
            made = EigenLayer(anvil.url, client, sender, allocations, delegations, deposits, tuple(strategies))
            await made.tell(sender, "DelegationManagerStandIn", delegations, "initialize", allocations, OWNER.address)
            yield made


async def enlist(chain: EigenLayer, person: Person, deployment: Deployment, roles: Role) -> None:
    """An operator of EigenLayer with all of its stake in our set, registered there."""
    await deploy.set_balance(chain.client, person.address, 1000 * ETHER)
    me, key = person.address, (OWNER.address, SET)
    made = person.registration(deployment, roles)
    endpoints = made.p2p_address.encode(), made.gateway_url.encode()
    data = bytes([roles]) + bytes(20) + made.peer_key + made.vote_key + made.possession
    data += len(endpoints[0]).to_bytes(2, "big") + b"".join(endpoints)
    async with sender_of(chain.client, person) as sender:
        delegation, allocation = "DelegationManagerStandIn", "AllocationManagerStandIn"
        at = chain.delegations, chain.allocations
        await chain.tell(sender, delegation, at[0], "registerAsOperator", bytes(20), ALLOCATION_BLOCKS, "")
        for strategy in chain.strategies:
            # The stand-in's StrategyManager is OWNER here.
            await chain.tell(chain.sender, delegation, at[0], "increaseDelegatedShares", me, strategy, SHARES)
        everything = (key, list(chain.strategies), [10**18] * 2)
        await chain.tell(sender, allocation, at[1], "modifyAllocations", me, [everything])
        await chain.client.request("anvil_mine", hex(ALLOCATION_BLOCKS))
        await chain.tell(sender, allocation, at[1], "registerForOperatorSets", me, (OWNER.address, [SET], data))


async def test_operators_of_eigenlayer_are_read_and_rolled_as_the_registrys_are() -> None:
    async with eigenlayer() as chain:
        module, terms = script("deploy_eigenlayer"), chain.terms()
        deployment = await module.deploy_eigenlayer(chain.sender, terms)
        await module.join_eigenlayer(chain.sender, terms, deployment.registry)
        assert await chain.ask("getSlasher", (OWNER.address, SET)) == (tohex(deployment.registry),)
        assert await chain.ask("getAVSRegistrar", OWNER.address) == (tohex(deployment.registry),)
        assert await chain.ask("getRedistributionRecipient", (OWNER.address, SET)) == (tohex(VAULT),)
        (found,) = await chain.ask("getStrategiesInOperatorSet", (OWNER.address, SET))
        assert sorted(found) == sorted(map(tohex, chain.strategies))

        performer, attester = Person("performer"), Person("attester")
        await enlist(chain, performer, deployment, Role.PERFORMER)
        await enlist(chain, attester, deployment, Role.ATTESTER)
        assert await deploy.roll_epoch(chain.sender, deployment) == 1
        reader = EvmOperatorReader(chain.client, deployment)
        operators = {operator.address: operator for operator in await reader.operators()}
        assert set(operators) == {performer.address, attester.address}
        assert operators[performer.address].roles == Role.PERFORMER
        assert operators[attester.address].stake_wei == 2 * SHARES
        assert operators[attester.address].vote_key == attester.vote.public_key
        assert operators[attester.address].gateway_url == "http://attester:8700"
        assert operators[attester.address].is_active
        table = await reader.operator_table(1)
        assert table is not None
        assert [(entry.address, entry.power) for entry in table.entries] == [
            (attester.address, 2 * SHARES // terms.power_unit)
        ]


async def test_burning_sets_have_no_recipient() -> None:
    async with eigenlayer() as chain:
        module, terms = script("deploy_eigenlayer"), chain.terms(burns=True)
        deployment = await module.deploy_eigenlayer(chain.sender, terms)
        await module.join_eigenlayer(chain.sender, terms, deployment.registry)
        (recipient,) = await chain.ask("getRedistributionRecipient", (OWNER.address, SET))
        assert recipient == "0x00000000000000000000000000000000000e16e4"


async def test_terms_that_outlive_the_deallocation_are_refused() -> None:
    async with eigenlayer() as chain:
        too_long = chain.terms(unbonding_seconds=14 * 24 * 3600)
        with pytest.raises(Reverted):
            await script("deploy_eigenlayer").deploy_eigenlayer(chain.sender, too_long)


async def test_addresses_without_a_contract_are_refused() -> None:
    async with eigenlayer() as chain:
        with pytest.raises(ConfigError):
            await script("deploy_eigenlayer").deploy_eigenlayer(chain.sender, chain.terms(allocation_manager=VAULT))


async def test_only_the_avs_makes_its_calls() -> None:
    async with eigenlayer() as chain:
        with pytest.raises(ConfigError, match="expected the AVS 0x7777"):
            await script("deploy_eigenlayer").join_eigenlayer(chain.sender, chain.terms(avs=VAULT), VAULT)


# --- the command ---------------------------------------------------------------------------------
def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def write_keys(folder: Path) -> NodeKeys:
    keys = keystore.create(folder / "keystore.json", "secret", kdf="pbkdf2", iterations=1000)
    password = folder / "password"
    password.touch(mode=0o600)
    password.write_text("secret")
    return keys


async def test_command_prints_what_the_avs_has_to_call(tmp_path: Path) -> None:
    keys = write_keys(tmp_path)
    async with eigenlayer() as chain:
        await deploy.set_balance(chain.client, keys.address, 1000 * ETHER)
        options = {
            "--chain-rpc": chain.url,
            "--keystore": tmp_path / "keystore.json",
            "--password-file": tmp_path / "password",
            "--allocation-manager": tohex(chain.allocations),
            "--delegation-manager": tohex(chain.delegations),
            "--avs": tohex(OWNER.address),
            "--operator-set": SET,
            "--metadata-uri": "https://avs.example",
            "--vault": tohex(VAULT),
        }
        needed = [part for option in options.items() for part in option]
        needed += [part for strategy in chain.strategies for part in ("--strategy", tohex(strategy))]
        refused = run(*needed, "--as-avs")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "expected the AVS" in refused.stderr

        done = run(*needed)
        assert (done.returncode, done.stderr) == (0, "")
        printed = json.loads(done.stdout)
        for call in printed["avs_calls"]:
            assert call["from"] == tohex(OWNER.address)
            data = bytes.fromhex(call["data"][2:])
            assert Address(bytes.fromhex(call["to"][2:])) == chain.allocations
            await chain.sender.confirm(await chain.sender.send(chain.allocations, data), LIMIT_SECONDS)
        assert await chain.ask("getSlasher", (OWNER.address, SET)) == (printed["registry"],)
        center = Address(bytes.fromhex(printed["center"][2:]))
        answer = await chain.client.call(Call(center, center_abi().call_data("operators")))
        assert center_abi().returned("operators", answer) == (printed["registry"],)
        assert quantity(await chain.client.request("eth_chainId")) == printed["chain_id"]


def test_help_says_what_is_needed() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert all(option in done.stdout for option in ("--allocation-manager", "--strategy", "--as-avs"))


def test_addresses_are_checked() -> None:
    done = run("--avs", "0x1234")
    assert done.returncode == 2
    assert "expected 0x and 40 hexadecimal digits, got '0x1234'" in done.stderr
