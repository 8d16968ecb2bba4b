"""What the reader asks, how often, and how much of a hostile answer it takes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from eth_abi.abi import encode
from structlog.testing import capture_logs

from shared.adapters.chain_evm import EvmClient, EvmOperatorReader, reader
from shared.adapters.chain_evm.abi import registry_abi
from shared.adapters.chain_evm.wire import Block, Call
from shared.adapters.deploy import set_balance
from shared.errors import ChainUnavailable, ConfigError, Reverted
from shared.types import Address, Digest, Role
from tests.chain_support import ETHER, AnvilChain, Person, open_chain
from tests.simnet.virtual_time import run_virtual

REGISTRY, CENTER = Address(b"\x11" * 20), Address(b"\x22" * 20)
OPERATOR = "(address,uint8,bool,uint64,uint256,bytes32,bytes,string,string)[]"


@dataclass
class ScriptedRegistry:
    """As much of `EvmClient` as the reader uses."""

    operators: int = 0
    epoch: int = 5
    power: int = 7
    is_down: bool = False
    asked: list[tuple[str, Any]] = field(default_factory=list)  # function, block

    async def call(self, call: Call, *, block: str | int = "latest") -> bytes:
        if self.is_down:
            raise ChainUnavailable("down")
        name = next(n for n, f in registry_abi()._functions.items() if f.selector == call.data[:4])
        self.asked.append((name, block))
        match name:
            case "currentEpoch":
                return encode(["uint32"], [self.epoch])
            case "tableOf":
                epoch = int.from_bytes(call.data[4:], "big")
                if not self.epoch - 1 <= epoch <= self.epoch:
                    raise Reverted("UnknownEpoch", (epoch, self.epoch))
                return encode(["address[]", "bytes[]", "uint64[]"], [[CENTER], [b"\3" * 192], [self.power + epoch]])
            case "operatorsFrom":
                start, limit = (int.from_bytes(call.data[at : at + 32], "big") for at in (4, 36))
                numbers = range(start, min(start + limit, self.operators))
                entries = [
                    (number.to_bytes(20, "big"), 2, True, 0, ETHER, number.to_bytes(32, "big"), b"", "p", "g")
                    for number in numbers
                ]
                return encode([OPERATOR], [entries])
        raise AssertionError(name)

    async def head(self) -> Block:
        return Block(77, Digest(bytes(32)), Digest(bytes(32)), 0, 0)

    def count(self, function: str) -> int:
        return sum(name == function for name, _ in self.asked)


def of(registry: ScriptedRegistry) -> EvmOperatorReader:
    return EvmOperatorReader(cast(EvmClient, registry), registry=REGISTRY, center=CENTER)


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 128, 200])
async def test_every_operator_is_read_whatever_the_page(size: int) -> None:
    registry = ScriptedRegistry(operators=size)
    operators = await of(registry).operators()
    assert [int.from_bytes(operator.address, "big") for operator in operators] == list(range(size))
    assert all(operator.roles is Role.ATTESTER for operator in operators)


async def test_a_set_of_several_pages_is_read_at_one_block() -> None:
    registry = ScriptedRegistry(operators=130)
    await of(registry).operators()
    assert [block for _, block in registry.asked] == ["latest", 77, 77, 77]


async def test_more_operators_than_anybody_needs_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_OPERATORS", 128)
    with capture_logs() as logs:
        assert len(await of(ScriptedRegistry(operators=300)).operators()) == 128
    assert [entry["limit"] for entry in logs] == [128]


async def test_an_answer_that_did_not_change_is_not_decoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = ScriptedRegistry(operators=5)
    reading = of(registry)
    first = await reading.operators()
    assert await reading.operators() is first
    registry.operators = 6
    assert len(await reading.operators()) == 6


def test_a_table_is_asked_for_ever_less_often() -> None:
    async def scenario() -> None:
        registry = ScriptedRegistry()
        reading = of(registry)
        for _ in range(4 * 3600):
            assert await reading.operator_table(5) is not None
            await asyncio.sleep(0.25)
        # Twice as old each time, then once a minute: an hour is 14,400 polls.
        assert 60 <= registry.count("tableOf") <= 75

    run_virtual(scenario())


def test_a_table_that_a_reorg_changed_is_noticed() -> None:
    async def scenario() -> None:
        registry = ScriptedRegistry()
        reading = of(registry)
        before = await reading.operator_table(5)
        await asyncio.sleep(20.0)
        assert await reading.operator_table(5) == before
        registry.power = 8
        await asyncio.sleep(30.0)
        after = await reading.operator_table(5)
        assert after is not None
        assert before is not None
        assert after.total_power == before.total_power + 1

    run_virtual(scenario())


async def test_an_epoch_that_passed_has_no_table_though_it_is_remembered() -> None:
    registry = ScriptedRegistry()
    reading = of(registry)
    assert await reading.operator_table(4) is not None
    registry.epoch = 6
    assert await reading.operator_table(4) is None
    assert await reading.operator_table(5) is not None
    assert set(reading._tables) == {5}
    assert await reading.operator_table(7) is None
    assert await reading.operator_table(0) is None
    assert await reading.operator_table(-1) is None


async def test_an_epoch_that_passes_between_two_questions_has_no_table() -> None:
    class Rolling(ScriptedRegistry):
        async def call(self, call: Call, *, block: str | int = "latest") -> bytes:
            answer = await super().call(call, block=block)
            self.epoch += 1
            return answer

    assert await of(Rolling()).operator_table(4) is None


async def test_an_unreachable_chain_is_said_so_and_forgets_nothing() -> None:
    registry = ScriptedRegistry(operators=2)
    reading = of(registry)
    table = await reading.operator_table(5)
    registry.is_down = True
    for asked in (reading.current_epoch(), reading.operator_table(5), reading.operators()):
        with pytest.raises(ChainUnavailable):
            await asked
    registry.is_down = False
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
    good = liar.registration(chain.deployment, Role.PERFORMER)
    fields = (int(good.roles), b"", b"", good.peer_key)
    types = ["uint8", "bytes", "bytes", "bytes32", "bytes", "bytes"]
    data = registry_abi().call_data("register", *fields, "", "")[:4] + encode(types, [*fields, b"\xff\xfe", b"\xc3("])
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
