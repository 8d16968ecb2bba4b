"""ABI coding: every error of every contract comes back by name, and a stranger's bytes cannot stop a reader."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import nullcontext
from typing import Any

import pytest
from eth_abi.abi import encode
from hypothesis import given
from hypothesis import strategies as st

from shared.adapters.anvil import Anvil
from shared.adapters.chain_evm import EvmClient, events
from shared.adapters.chain_evm.abi import (
    CONTRACTS,
    FOLDER,
    Abi,
    center_abi,
    court_abi,
    load,
    registry_abi,
    reverted,
    tables_abi,
)
from shared.adapters.chain_evm.wire import Call, Log, tohex
from shared.errors import ChainUnavailable, Reverted
from shared.types import Address, Digest

ECHO_AS_ERROR = "0x365f5f37365ffd"  # reverts with its calldata
ECHO = Address(b"\x43" * 20)
SAMPLES: dict[str, Any] = {
    "address": "0x" + "1f" * 20,
    "bool": True,
    "bytes": b"\xff\x00" * 50,
    "bytes32": b"\x9a" * 32,
    "string": "disputeWindow",
    "uint8": 255,
    "uint16": 65535,
    "uint32": 2**32 - 1,
    "uint32[]": (0, 2**32 - 1),
    "uint64": 2**64 - 1,
    "uint256": 2**256 - 1,
}
ERRORS = [
    pytest.param(selector, name, types, id=f"{contract}.{name}")
    for contract in CONTRACTS
    for selector, (name, types) in load(contract).errors.items()
]


@pytest.fixture
async def client() -> AsyncIterator[EvmClient]:
    async with Anvil() as anvil, EvmClient(anvil.url) as found:
        await found.request("anvil_setCode", tohex(ECHO), ECHO_AS_ERROR)
        yield found


def test_the_contracts_declare_what_the_protocol_speaks_of() -> None:
    names = {name for contract in CONTRACTS for name, _ in load(contract).errors.values()}
    assert {"QuorumNotReached", "TaskAlreadySettled", "BatchAlreadySettled", "SlashNotDue", "UnknownEpoch"} <= names
    assert {"StillInTable", "VotesMissing", "DepositTooSmall", "NotWaiting", "ChangeNotDue", "OnlyCourt"} <= names
    assert len(ERRORS) >= 150


def test_each_contract_that_is_exported_is_known() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(CONTRACTS)


@pytest.mark.parametrize("contract", CONTRACTS)
def test_no_name_is_overloaded(contract: str) -> None:
    """Functions, events and errors are looked up by name."""
    import json

    entries = json.loads((FOLDER / f"{contract}.json").read_text())["abi"]
    for kind in ("function", "event", "error"):
        names = [entry["name"] for entry in entries if entry["type"] == kind]
        assert len(names) == len(set(names))


def test_a_selector_means_the_same_in_every_contract() -> None:
    """An error is read by its selector, whichever contract it came from and through."""
    meanings: dict[bytes, set[str]] = {}
    for contract in CONTRACTS:
        for selector, meaning in load(contract).errors.items():
            meanings.setdefault(selector, set()).add(repr(meaning))
    assert all(len(found) == 1 for found in meanings.values())


def test_no_event_of_the_court_is_one_of_the_center() -> None:
    """They are told apart by their topic alone."""
    assert not court_abi()._events.keys() & {center_abi().topic(name) for name in events.CENTER_EVENTS}
    assert not center_abi()._events.keys() & {court_abi().topic(name) for name in events.COURT_EVENTS}


@pytest.mark.parametrize(("selector", "name", "types"), ERRORS)
def test_each_declared_error_is_decoded(selector: bytes, name: str, types: list[str]) -> None:
    values = tuple(SAMPLES[kind] for kind in types)
    error = reverted(selector + encode(types, values))
    assert (error.name, error.arguments) == (name, values)


async def test_each_declared_error_arrives_through_the_node(client: EvmClient) -> None:
    for contract in CONTRACTS:
        for selector, (name, types) in load(contract).errors.items():
            values = tuple(SAMPLES[kind] for kind in types)
            call = Call(ECHO, selector + encode(types, values))
            for asked in (client.call(call), client.estimate_gas(call, ECHO)):
                with pytest.raises(Reverted) as caught:
                    await asked
                assert (caught.value.name, caught.value.arguments) == (name, values)


async def test_what_the_compiler_reverts_with_arrives_too(client: EvmClient) -> None:
    text = bytes.fromhex("08c379a0") + encode(["string"], ["too: late"])
    panic = bytes.fromhex("4e487b71") + encode(["uint256"], [0x11])
    cases = [
        (text, "too: late", ()),
        (panic, "Panic", (0x11,)),
        (b"", "no reason given", ()),
        (b"\x01\x02\x03\x04\x05", "0x0102030405", ()),
        (text[:20], "0x" + text[:20].hex(), ()),
    ]
    for data, name, arguments in cases:
        with pytest.raises(Reverted) as caught:
            await client.call(Call(ECHO, data))
        assert (caught.value.name, caught.value.arguments) == (name, arguments)


@given(selector=st.sampled_from([*registry_abi().errors, b"\x08\xc3\x79\xa0", b"nope"]), data=st.binary(max_size=200))
def test_any_revert_data_becomes_a_short_error(selector: bytes, data: bytes) -> None:
    error = reverted(selector + data)
    assert isinstance(error, Reverted)
    assert error.name


def test_an_endpoint_that_is_no_text_blinds_nobody() -> None:
    """Registering takes any bytes; whoever registers these must not stop all others from reading."""
    abi = registry_abi()
    # string and bytes are encoded alike
    types = ["(address,address,address,uint8,bool,uint64,uint256,bytes32,bytes,bytes,bytes)[]"]
    entry = (ECHO, ECHO, ECHO, 1, True, 0, 10**18, b"\1" * 32, b"", b"\xff\xfe/dns4", b"http://\xc3\x28")
    (((*_, p2p_address, gateway_url),),) = abi.returned("operatorsFrom", encode(types, [[entry]]))
    assert (p2p_address, gateway_url) == ("��/dns4", "http://�(")


def test_answers_that_are_not_the_contracts_are_unavailability() -> None:
    for data in (b"", b"\1", b"\xff" * 64):
        with pytest.raises(ChainUnavailable, match="does not decode"):
            tables_abi().returned("tableOf", data)


def test_logs_that_are_not_the_contracts_are_unavailability() -> None:
    def log(topics: tuple[bytes, ...], data: bytes) -> Log:
        return Log(topics, data, 1, Digest(bytes(32)), Digest(bytes(32)), 0)

    topic = court_abi().topic("SlashQueued")
    data = (3).to_bytes(32, "big") + (5).to_bytes(32, "big")
    good = log((topic, b"\3" * 32, b"\1" * 32, bytes(12) + b"\2" * 20), data)
    name, values = court_abi().event(good)
    assert (name, values) == (
        "SlashQueued",
        {"slashId": b"\3" * 32, "taskId": b"\1" * 32, "operator": "0x" + "02" * 20, "offence": 3, "executableAt": 5},
    )
    for bad in (log((topic, b"\1" * 32), good.data), log(good.topics, b""), log((*good.topics[:3],), good.data)):
        with pytest.raises(ChainUnavailable, match="does not decode"):
            court_abi().event(bad)


def test_an_offence_that_there_is_not_is_unavailability() -> None:
    topics = (court_abi().topic("SlashQueued"), b"\3" * 32, b"\1" * 32, bytes(12) + b"\2" * 20)
    for offence, is_known in ((4, True), (5, False)):
        data = offence.to_bytes(32, "big") + (5).to_bytes(32, "big")
        entry = Log(topics, data, 1, Digest(bytes(32)), Digest(bytes(32)), 0)
        with nullcontext() if is_known else pytest.raises(ChainUnavailable, match="no offence 5"):
            events._event(entry, 0)


def test_arguments_that_do_not_fit_are_refused_before_they_are_sent() -> None:
    abi: Abi = court_abi()
    for arguments in ((b"\1" * 33,), (b"\1" * 32, 1), (), ("text",)):
        with pytest.raises(ValueError, match="contract arguments"):
            abi.call_data("executeSlash", *arguments)
