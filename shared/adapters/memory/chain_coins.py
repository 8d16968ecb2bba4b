"""Whose the chain's own coin is, as far as the contracts' models move it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from shared.errors import Reverted
from shared.types import Address


@dataclass(slots=True)
class Coins:
    """Balances of the contracts and of whomever they paid. What people had before is not counted: they pay from
    outside, and `put_in` adds that up."""

    balances: dict[Address, int] = field(default_factory=dict)
    put_in: int = 0

    def copy(self) -> Coins:
        """The same balances, apart from these."""
        return replace(self, balances=dict(self.balances))

    def of(self, account: Address) -> int:
        return self.balances.get(account, 0)

    def take(self, contract: Address, amount: int) -> None:
        """From outside."""
        self.put_in += amount
        self.balances[contract] = self.of(contract) + amount

    def pay(self, contract: Address, to: Address, amount: int) -> None:
        """A contract that has less than it owes would revert here, and its operators would never get out."""
        if amount > self.of(contract):
            raise Reverted("TransferFailed", (hex_of(to), amount))
        self.balances[contract] -= amount
        self.balances[to] = self.of(to) + amount


def hex_of(address: Address) -> str:
    """As errors have addresses."""
    return "0x" + address.hex()


def require_within(name: str, value: int, smallest: int, largest: int) -> None:
    """What the constructors ask of their settings."""
    if not smallest <= value <= largest:
        raise Reverted("InvalidSetting", (name, value))
