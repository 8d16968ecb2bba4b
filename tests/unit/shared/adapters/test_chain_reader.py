"""What the reader asks, how often, and how much of a hostile answer it takes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest
from eth_abi.abi import encode
from structlog.testing import capture_logs

from shared.adapters.chain_evm import EvmClient, EvmOperatorReader, discover, reader
from shared.adapters.chain_evm.abi import center_abi, registry_abi, tables_abi
from shared.adapters.chain_evm.wire import Block, Call
from shared.adapters.deploy import deploy, set_balance
from shared.adapters.terms import Deployment
from shared.errors import ChainUnavailable, ConfigError, Reverted
from shared.types import Address, Digest, Role
from tests.chain_support import ETHER, TERMS, AnvilChain, Person, open_chain
from tests.simnet.virtual_time import run_virtual

TABLES, REGISTRY, CENTER, ESCROW, COURT = (Address(bytes([number]) * 20) for number in range(0x11, 0x16))
DEPLOYMENT = Deployment(31337, TABLES, REGISTRY, CENTER, ESCROW, COURT, 0)
OPERATOR = "(address,address,address,uint8,bool,uint64,uint256,bytes32,bytes,string,string)[]"


@dataclass
class ScriptedContracts:
    """As much of `EvmClient` as the reader uses, over the tables and the registry."""

    operators: int = 0
    epoch: int = 5
    power: int = 7
    is_down: bool = False
    refusal: Reverted | None = None
    asked: list[tuple[str, Any]] = field(default_factory=list)  # function, block

    async def call(self, call: Call, *, block: str | int = "latest") -> bytes:
        if self.is_down:
            raise ChainUnavailable("down")
        abi = {TABLES: tables_abi, REGISTRY: registry_abi, CENTER: center_abi}[call.to]()  # type: ignore[index]
        name = next(n for n, f in abi._functions.items() if f.selector == call.data[:4])
        self.asked.append((name, block))
        if self.refusal is not None:
            raise self.refusal
        match name:
            case "currentEpoch":
                return encode(["uint32"], [self.epoch])
            case "tableOf":
                epoch, attester_set = (int.from_bytes(call.data[at : at + 32], "big") for at in (4, 36))
                if not 1 <= epoch <= self.epoch:
                    raise Reverted("UnknownEpoch", (epoch, self.epoch))
                if attester_set > 2:
                    raise Reverted("UnknownAttesterSet", (attester_set,))
                power = self.power + epoch + 100 * attester_set
                return encode(["address[]", "bytes[]", "uint64[]"], [[CENTER], [b"\3" * 192], [power]])
            case "operatorsFrom":
                start, limit = (int.from_bytes(call.data[at : at + 32], "big") for at in (4, 36))
                numbers = range(start, min(start + limit, self.operators))
                entries = [
                    (
                        number.to_bytes(20, "big"),
                        CENTER,
                        REGISTRY,
                        2,
                        False,
                        1_900_000_000,
                        ETHER,
                        number.to_bytes(32, "big"),
                        b"",
                        "p",
                        "g",
                    )
                    for number in numbers
                ]
                return encode([OPERATOR], [entries])
        raise AssertionError(name)

    async def head(self) -> Block:
        return Block(77, Digest(bytes(32)), Digest(bytes(32)), 0, 0)

    def count(self, function: str) -> int:
        return sum(name == function for name, _ in self.asked)


def of(contracts: ScriptedContracts) -> EvmOperatorReader:
    return EvmOperatorReader(cast(EvmClient, contracts), DEPLOYMENT)


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 128, 200])
async def test_every_operator_is_read_whatever_the_page(size: int) -> None:
    contracts = ScriptedContracts(operators=size)
    operators = await of(contracts).operators()
    assert [int.from_bytes(operator.address, "big") for operator in operators] == list(range(size))
    for operator in operators:
        assert (operator.owner, operator.rewards_receiver, operator.roles) == (CENTER, REGISTRY, Role.ATTESTER)
        assert (operator.is_active, operator.withdrawable_at, operator.stake_wei) == (False, 1_900_000_000, ETHER)


async def test_a_set_of_several_pages_is_read_at_one_block() -> None:
    contracts = ScriptedContracts(operators=130)
    await of(contracts).operators()
    assert [block for _, block in contracts.asked] == ["latest", 77, 77, 77]


async def test_more_operators_than_anybody_needs_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_OPERATORS", 128)
    with capture_logs() as logs:
        assert len(await of(ScriptedContracts(operators=300)).operators()) == 128
    assert [entry["limit"] for entry in logs] == [128]


async def test_an_answer_that_did_not_change_is_not_decoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    contracts = ScriptedContracts(operators=5)
    reading = of(contracts)
    first = await reading.operators()
    assert await reading.operators() is first
    contracts.operators = 6
    assert len(await reading.operators()) == 6


def test_a_table_is_asked_for_ever_less_often() -> None:
    async def scenario() -> None:
        contracts = ScriptedContracts()
        reading = of(contracts)
        for _ in range(4 * 3600):
            assert await reading.operator_table(5) is not None
            await asyncio.sleep(0.25)
        # Twice as old each time, then once a minute: an hour is 14,400 polls.
        assert 60 <= contracts.count("tableOf") <= 75

    run_virtual(scenario())


def test_a_table_that_a_reorg_changed_is_noticed() -> None:
    async def scenario() -> None:
        contracts = ScriptedContracts()
        reading = of(contracts)
        before = await reading.operator_table(5)
        await asyncio.sleep(20.0)
        assert await reading.operator_table(5) == before
        contracts.power = 8
        await asyncio.sleep(30.0)
        after = await reading.operator_table(5)
        assert after is not None
        assert before is not None
        assert after.total_power == before.total_power + 1

    run_virtual(scenario())


async def test_every_epoch_there_was_has_its_table() -> None:
    contracts = ScriptedContracts(epoch=5)
    reading = of(contracts)
    for epoch in range(1, 6):
        table = await reading.operator_table(epoch)
        assert table is not None
        assert (table.epoch, table.attester_set, table.total_power) == (epoch, 0, 7 + epoch)
    for epoch in (6, 2**32 - 1):
        assert await reading.operator_table(epoch) is None
    asked = contracts.count("tableOf")
    for epoch in (0, -1, 2**32):
        assert await reading.operator_table(epoch) is None
    assert contracts.count("tableOf") == asked  # no chain has these


async def test_each_attester_set_has_a_table_of_its_own() -> None:
    contracts = ScriptedContracts()
    reading = of(contracts)
    for _ in range(2):
        for attester_set in (0, 1, 2):
            table = await reading.operator_table(5, attester_set)
            assert table is not None
            assert (table.epoch, table.attester_set, table.total_power) == (5, attester_set, 12 + 100 * attester_set)
    assert await reading.operator_table(5, 3) is None


async def test_a_table_that_a_reorg_took_back_is_forgotten() -> None:
    contracts = ScriptedContracts(epoch=5)
    reading = of(contracts)
    assert await reading.operator_table(5) is not None
    contracts.epoch = 4
    assert await reading.operator_table(5) is None
    assert (5, 0) not in reading._tables


async def test_a_bounded_number_of_tables_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Old epochs are asked for by whoever names them in a batch document."""
    monkeypatch.setattr(reader, "MAX_TABLES", 3)
    reading = of(ScriptedContracts(epoch=100))
    for epoch in range(1, 101):
        assert await reading.operator_table(100) is not None
        assert await reading.operator_table(epoch) is not None
    # The one in use outlives those that were looked at once.
    assert set(reading._tables) == {(98, 0), (99, 0), (100, 0)}


async def test_a_table_that_cannot_be_read_is_not_one_that_there_is_not() -> None:
    """A node that runs out of gas, say, must not make an epoch look unknown."""
    contracts = ScriptedContracts(refusal=Reverted("out of gas"))
    with pytest.raises(ChainUnavailable, match=r"tableOf: .*out of gas"):
        await of(contracts).operator_table(5)
    with pytest.raises(ChainUnavailable, match=r"taskDefinition: .*out of gas"):
        await of(contracts).task_definition(0)


async def test_an_epoch_that_no_chain_has_is_expired() -> None:
    contracts = ScriptedContracts(is_down=True)
    assert await of(contracts).is_expired(-1)
    assert await of(contracts).is_expired(2**32)
    assert contracts.asked == []


async def test_an_unreachable_chain_is_said_so_and_forgets_nothing() -> None:
    contracts = ScriptedContracts(operators=2)
    reading = of(contracts)
    table = await reading.operator_table(5)
    contracts.is_down = True
    for asked in (reading.current_epoch(), reading.operator_table(5), reading.operators()):
        with pytest.raises(ChainUnavailable):
            await asked
    contracts.is_down = False
    assert await reading.operator_table(5) == table


# --- on anvil ------------------------------------------------------------------------------------
@pytest.fixture
async def chain() -> AsyncIterator[AnvilChain]:
    async with open_chain("anvil") as opened:
        assert isinstance(opened, AnvilChain)
        yield opened


async def test_an_operator_with_broken_endpoints_blinds_nobody(chain: AnvilChain) -> None:
    """The contract takes any bytes as text."""
    liar = Person("liar")
    types = "(address,address,uint8,uint256,bytes,bytes,bytes32,bytes,bytes,bytes,(uint256,uint64,bytes))"  # no strings
    nobody = Address(bytes(20))
    endpoints = (b"\xff\xfe", b"\xc3(")
    form = (nobody, nobody, 1, ETHER, b"", b"", b"\x01" * 32, *endpoints, b"", (0, 0, b""))
    data = registry_abi()._functions["register"].selector + encode([types], [form])
    sender = await chain.sender_of(liar)
    await sender.confirm(await sender.send(chain.deployment.registry, data, ETHER), 20.0)

    (operator,) = await chain.reader.operators()
    assert operator.address == liar.address
    assert operator.p2p_address == "\N{REPLACEMENT CHARACTER}" * 2


async def test_ether_is_given_away_on_local_chains_only(chain: AnvilChain, monkeypatch: pytest.MonkeyPatch) -> None:
    async def real(method: str, *_: object) -> object:
        assert method == "web3_clientVersion"
        return "Geth/v1.16"

    await set_balance(chain.client, CENTER, 5)
    assert await chain.client.request("eth_getBalance", "0x" + CENTER.hex(), "latest") == "0x5"
    monkeypatch.setattr(chain.client, "request", real)
    with pytest.raises(ConfigError, match="only a local chain"):
        await set_balance(chain.client, CENTER, 6)


async def test_the_network_of_a_deployment_is_recognised(chain: AnvilChain) -> None:
    await chain.client.require_network(31337, [chain.deployment.registry, chain.deployment.center])
    with pytest.raises(ConfigError, match="no contract"):
        await chain.client.require_network(31337, [CENTER])


async def test_five_contracts_are_found_from_two(chain: AnvilChain) -> None:
    made = chain.deployment
    assert await discover(chain.client, 31337, made.center, made.escrow) == replace(made, block=0)
    with pytest.raises(ConfigError, match="on chain 31337"):
        await discover(chain.client, 1, made.center, made.escrow)
    with pytest.raises(ConfigError, match="no contract"):
        await discover(chain.client, 31337, made.center, CENTER)


async def test_an_escrow_of_another_center_is_refused(chain: AnvilChain) -> None:
    other = await deploy(chain.sender, TERMS)
    with pytest.raises(ConfigError, match="pays for the AttestationCenter"):
        await discover(chain.client, 31337, chain.deployment.center, other.escrow)
