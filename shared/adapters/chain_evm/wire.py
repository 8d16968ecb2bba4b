"""What an Ethereum node answers, parsed. JSON-RPC writes numbers and bytes as hex text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shared.errors import ChainUnavailable
from shared.types import Address, Digest

# Pools take a replacement that pays a tenth more (geth, anvil) or an eighth more (others).
RAISE_NUMERATOR, RAISE_DENOMINATOR = 9, 8
NO_RANDOMNESS = Digest(bytes(32))


@dataclass(frozen=True, slots=True)
class Block:
    """A block's header."""

    number: int
    hash: Digest
    parent_hash: Digest
    timestamp: int  # unix seconds
    base_fee_wei: int
    prev_randao: Digest = NO_RANDOMNESS  # the header's `mixHash`: the validators' randomness (EIP-4399)

    @classmethod
    def parse(cls, answer: Any) -> Block:
        """Raises `ChainUnavailable` for anything else than a block."""
        with _Parsing("block"):
            return cls(
                number=number(answer["number"]),
                hash=digest(answer["hash"]),
                parent_hash=digest(answer["parentHash"]),
                timestamp=number(answer["timestamp"]),
                base_fee_wei=number(answer.get("baseFeePerGas") or "0x0"),
                prev_randao=digest(answer["mixHash"]) if answer.get("mixHash") else NO_RANDOMNESS,
            )


@dataclass(frozen=True, slots=True)
class Receipt:
    """A mined transaction's outcome."""

    tx_hash: Digest
    block: int
    block_hash: Digest
    is_success: bool
    gas_used: int
    contract: Address | None  # that it created

    @classmethod
    def parse(cls, answer: Any) -> Receipt:
        """Raises `ChainUnavailable` for anything else than a receipt."""
        with _Parsing("receipt"):
            created = answer.get("contractAddress")
            return cls(
                tx_hash=digest(answer["transactionHash"]),
                block=number(answer["blockNumber"]),
                block_hash=digest(answer["blockHash"]),
                is_success=number(answer["status"]) == 1,
                gas_used=number(answer["gasUsed"]),
                contract=None if created is None else address(created),
            )


@dataclass(frozen=True, slots=True)
class Log:
    """An event as the node gives it."""

    topics: tuple[bytes, ...]
    data: bytes
    block: int
    block_hash: Digest
    tx_hash: Digest
    index: int  # in its block

    @classmethod
    def parse(cls, answer: Any) -> Log:
        """Raises `ChainUnavailable` for anything else than a mined log."""
        with _Parsing("log"):
            return cls(
                topics=tuple(digest(topic) for topic in answer["topics"]),
                data=unhex(answer["data"]),
                block=number(answer["blockNumber"]),
                block_hash=digest(answer["blockHash"]),
                tx_hash=digest(answer["transactionHash"]),
                index=number(answer["logIndex"]),
            )


@dataclass(frozen=True, slots=True)
class Call:
    """What a transaction asks for. `to` is None for the creation of a contract."""

    to: Address | None
    data: bytes
    value_wei: int = 0

    def json(self, sender: Address) -> dict[str, str]:
        """For eth_call and eth_estimateGas."""
        fields = {"from": tohex(sender), "data": tohex(self.data), "value": hex(self.value_wei)}
        return fields if self.to is None else fields | {"to": tohex(self.to)}


@dataclass(frozen=True, slots=True)
class Fees:
    """Per unit of gas, in wei (EIP-1559)."""

    max_wei: int
    tip_wei: int

    @classmethod
    def suggest(cls, base_wei: int, tip_wei: int, cap_wei: int) -> Fees:
        """2 × base + tip: enough for six full blocks in a row, of which each raises the base fee by an eighth."""
        max_wei = min(2 * base_wei + tip_wei, cap_wei)
        return cls(max_wei, min(tip_wei, max_wei))

    def raised(self) -> Fees:
        """What replaces a transaction that offers this."""
        return Fees(_raise(self.max_wei), _raise(self.tip_wei))

    def at_least(self, other: Fees) -> Fees:
        """The higher of both, each for itself."""
        return Fees(max(self.max_wei, other.max_wei), max(self.tip_wei, other.tip_wei))

    def within(self, cap_wei: int) -> bool:
        """Whether the operator allows it."""
        return self.max_wei <= cap_wei


@dataclass(frozen=True, slots=True)
class Known:
    """A transaction that the node knows, mined or waiting."""

    sender: Address
    nonce: int
    call: Call
    gas: int
    fees: Fees

    @classmethod
    def parse(cls, answer: Any) -> Known:
        """Raises `ChainUnavailable` for anything else than a transaction."""
        with _Parsing("transaction"):
            to = answer.get("to")
            price = answer.get("gasPrice") or "0x0"
            return cls(
                sender=address(answer["from"]),
                nonce=number(answer["nonce"]),
                call=Call(None if to is None else address(to), unhex(answer["input"]), number(answer["value"])),
                gas=number(answer["gas"]),
                fees=Fees(
                    max_wei=number(answer.get("maxFeePerGas") or price),
                    tip_wei=number(answer.get("maxPriorityFeePerGas") or price),
                ),
            )


def quantity(answer: Any) -> int:
    """A number that is the whole answer. Raises `ChainUnavailable`."""
    with _Parsing("number"):
        return number(answer)


def payload(answer: Any) -> bytes:
    """Bytes that are the whole answer. Raises `ChainUnavailable`."""
    with _Parsing("data"):
        return unhex(answer)


def number(text: str) -> int:
    """From `0x…`. Raises ValueError, TypeError."""
    return int(text, 16)


def unhex(text: str) -> bytes:
    """From `0x…`. Raises ValueError."""
    return bytes.fromhex(text.removeprefix("0x"))


def tohex(data: bytes) -> str:
    """As JSON-RPC wants it."""
    return "0x" + data.hex()


def digest(text: str) -> Digest:
    """32 bytes. Raises ValueError."""
    return Digest(_sized(text, 32))


def address(text: str) -> Address:
    """20 bytes. Raises ValueError."""
    return Address(_sized(text, 20))


def _sized(text: str, size: int) -> bytes:
    data = unhex(text)
    if len(data) != size:
        raise ValueError(f"expected {size} bytes, got {len(data)}")
    return data


def _raise(wei: int) -> int:
    return -(-wei * RAISE_NUMERATOR // RAISE_DENOMINATOR)


class _Parsing:
    """Turns whatever a malformed answer raises into `ChainUnavailable`: such a node cannot be asked."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, KeyError | ValueError | TypeError | AttributeError):
            raise ChainUnavailable(f"the node's answer is no {self._what}: {error!r}") from None
