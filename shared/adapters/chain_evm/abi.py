"""The contracts' ABIs as functions from values to bytes and back.

Straight on eth-abi: through web3's contract objects the same bytes take ten times as long (2.4 against 0.2 ms), and a
node asks its chain some twenty times a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from eth_abi.codec import ABICodec
from eth_abi.decoding import StringDecoder
from eth_abi.encoding import TextStringEncoder
from eth_abi.exceptions import DecodingError, EncodingError
from eth_abi.registry import BaseEquals, registry
from eth_utils.abi import (
    event_abi_to_log_topic,
    function_abi_to_4byte_selector,
    get_abi_input_types,
    get_abi_output_types,
)

from shared.adapters.chain_evm.wire import Log
from shared.errors import ChainUnavailable, Reverted

SELECTOR_BYTES = 4
FOLDER = Path(__file__).resolve().parents[2] / "abi"
CONTRACTS = ("EpochTables", "OperatorRegistry", "AttestationCenter", "TaskEscrow", "SlashingCourt", "EigenLayerSource")

# What the compiler itself reverts with: require with a text, and checked arithmetic.
_BUILT_IN = {bytes.fromhex("08c379a0"): ("Error", ["string"]), bytes.fromhex("4e487b71"): ("Panic", ["uint256"])}


def _lenient() -> ABICodec:
    """Anybody may register an endpoint that is not UTF-8; one who does must not blind all others."""
    types = registry.copy()  # type: ignore[no-untyped-call]
    is_string = BaseEquals("string")  # type: ignore[no-untyped-call]
    decoder = StringDecoder(handle_string_errors="replace")  # type: ignore[no-untyped-call]
    types.unregister("string")
    types.register(is_string, TextStringEncoder, decoder, label="string")
    return ABICodec(types)


_codec = _lenient()
encode, decode = _codec.encode, _codec.decode


class Artifact(msgspec.Struct, frozen=True):
    """What `contracts/script/export_artifacts.py` writes, as far as it is needed here."""

    abi: list[Any]
    bytecode: str


@dataclass(frozen=True, slots=True)
class _Function:
    selector: bytes
    inputs: list[str]
    outputs: list[str]


@dataclass(frozen=True, slots=True)
class _Event:
    name: str
    indexed: list[tuple[str, str]]  # name, type
    data: list[tuple[str, str]]


class Abi:
    """One contract's. Overloaded functions would hide each other; ours has none, and a test says so."""

    def __init__(self, artifact: Artifact) -> None:
        self.bytecode = bytes.fromhex(artifact.bytecode.removeprefix("0x"))
        self.errors = {
            function_abi_to_4byte_selector(entry): (str(entry["name"]), get_abi_input_types(entry))
            for entry in _entries(artifact, "error")
        }
        self._functions = {str(entry["name"]): _function(entry) for entry in _entries(artifact, "function")}
        self._events = {event_abi_to_log_topic(entry): _event(entry) for entry in _entries(artifact, "event")}
        self._constructor = next((get_abi_input_types(entry) for entry in _entries(artifact, "constructor")), [])

    def call_data(self, function: str, *arguments: Any) -> bytes:
        """Selector and arguments; addresses as 20 bytes, structs as tuples. Raises ValueError for what does not fit."""
        entry = self._functions[function]
        return entry.selector + _encoded(entry.inputs, arguments)

    def creation_data(self, *arguments: Any) -> bytes:
        """Bytecode and constructor arguments."""
        return self.bytecode + _encoded(self._constructor, arguments)

    def returned(self, function: str, data: bytes) -> tuple[Any, ...]:
        """What the function returned; addresses as `0x` text. Raises `ChainUnavailable`: nothing but these contracts
        answers in their form, so whoever answered is not them."""
        try:
            return decode(self._functions[function].outputs, data)
        except DecodingError as error:
            raise ChainUnavailable(f"{function}: the contract's answer does not decode ({error})") from None

    def topic(self, event: str) -> bytes:
        """The first topic of an event's logs."""
        return next(topic for topic, entry in self._events.items() if entry.name == event)

    def has_event(self, log: Log) -> bool:
        """Whether the log is of an event of this contract's."""
        return log.topics[0] in self._events

    def event(self, log: Log) -> tuple[str, Mapping[str, Any]]:
        """Name and arguments of one of this contract's events; addresses as `0x` text."""
        entry = self._events[log.topics[0]]
        try:
            values = {
                name: decode([kind], topic)[0]
                for (name, kind), topic in zip(entry.indexed, log.topics[1:], strict=True)
            }
            data = decode([kind for _, kind in entry.data], log.data)
        except (DecodingError, ValueError) as error:
            raise ChainUnavailable(f"event {entry.name} does not decode ({error})") from None
        return entry.name, values | {name: value for (name, _), value in zip(entry.data, data, strict=True)}


def tables_abi() -> Abi:
    """The EpochTables'."""
    return load("EpochTables")


def registry_abi() -> Abi:
    """The OperatorRegistry's."""
    return load("OperatorRegistry")


def center_abi() -> Abi:
    """The AttestationCenter's."""
    return load("AttestationCenter")


def escrow_abi() -> Abi:
    """The TaskEscrow's."""
    return load("TaskEscrow")


def court_abi() -> Abi:
    """The SlashingCourt's."""
    return load("SlashingCourt")


@cache
def load(contract: str) -> Abi:
    """From the committed artifact."""
    return Abi(msgspec.json.decode((FOLDER / f"{contract}.json").read_bytes(), type=Artifact))


def reverted(data: bytes) -> Reverted:
    """The error that revert data says, by its selector in any of our ABIs: errors come through other contracts (the
    tables' through the center, the registry's through the court).

    A text (`require`) becomes the name itself; an unknown selector, or data that does not decode, is shown in hex.
    """
    known = _known_errors()
    selector = data[:SELECTOR_BYTES]
    if selector not in known:
        return Reverted(f"0x{data[:68].hex()}" if data else "no reason given")
    name, types = known[selector]
    try:
        arguments = tuple(decode(types, data[SELECTOR_BYTES:]))
    except DecodingError:
        return Reverted(f"0x{data[:68].hex()}")
    return Reverted(str(arguments[0])) if name == "Error" else Reverted(name, arguments)


@cache
def _known_errors() -> dict[bytes, tuple[str, list[str]]]:
    known = dict(_BUILT_IN)
    for contract in CONTRACTS:
        known |= load(contract).errors
    return known


def _entries(artifact: Artifact, kind: str) -> list[Any]:
    return [entry for entry in artifact.abi if entry["type"] == kind]


def _function(entry: Any) -> _Function:
    return _Function(
        selector=function_abi_to_4byte_selector(entry),
        inputs=get_abi_input_types(entry),
        outputs=get_abi_output_types(entry),
    )


def _event(entry: Any) -> _Event:
    types = zip(entry["inputs"], get_abi_input_types(entry), strict=True)
    parts = [(part["indexed"], (str(part["name"]), kind)) for part, kind in types]
    return _Event(
        name=str(entry["name"]),
        indexed=[part for is_indexed, part in parts if is_indexed],
        data=[part for is_indexed, part in parts if not is_indexed],
    )


def _encoded(types: Sequence[str], arguments: Sequence[Any]) -> bytes:
    try:
        return encode(types, arguments)
    except (EncodingError, TypeError) as error:
        raise ValueError(f"contract arguments: {error}") from None
