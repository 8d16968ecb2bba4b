"""What a contract's refusal means for who asked, and what to do next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from poi.amounts import ether, moment
from shared.errors import Reverted

_ADVICE: dict[str, Callable[..., str]] = {
    "AlreadyRegistered": lambda _: (
        "this operator registered before, and an address serves one registration for ever; see `poi operator status`, "
        "or make other keys with `poi key new`"
    ),
    "PeerKeyTaken": lambda _: "another operator has this peer key; make keys of your own with `poi key new`",
    "VoteKeyTaken": lambda _: "this vote key was registered before, and serves once; make other keys: `poi key new`",
    "StakeTooSmall": lambda stake, least: (
        f"{ether(stake)} ether were offered; expected are at least {ether(least)} ether; raise --stake"
    ),
    "StakeTooLarge": lambda stake, most: (
        f"it would be {ether(stake)} ether, at most {ether(most)} count; lower the amount"
    ),
    "InvalidAllowance": lambda _: "registration is not open here; ask who runs the network for an allowance",
    "NotRegistered": lambda _: "this operator is not registered; `poi operator register` does that",
    "OnlyOwner": lambda caller, owner: f"{owner} owns this operator and alone may do this; {caller} asked",
    "AlreadyLeft": lambda _: "it left before; `poi operator status` says when its stake can be withdrawn",
    "NotLeft": lambda _: "it has not left yet; `poi operator leave` comes first, and is final",
    "AlreadyWithdrawn": lambda _: "the stake was paid back before; nothing is left to do",
    "StillBonded": lambda _, when: f"the stake is bound until {moment(when)}; try again then",
    "StillInTable": lambda _, epoch: (
        f"the table of epoch {epoch} still counts its power; run `poi operator roll`, wait until the tables' grace is "
        "over, and try again"
    ),
    "SlashPending": lambda _, count: (
        f"{count} slashes wait for their dispute windows; `poi operator status` lists them, and anyone can have them "
        "executed when they are due"
    ),
    "EpochNotOver": lambda when: f"the epoch can be rolled from {moment(when)} on; try again then",
    "EndpointTooLong": lambda length, most: f"an endpoint has {length} bytes, at most {most} are kept; shorten it",
    "NothingToClaim": lambda _: "nothing is earned that was not claimed before; nothing is left to do",
    "NothingToRefund": lambda *_: "there is no deposit to ask back; see `poi fees status`",
    "RefundNotDue": lambda when: f"the refund is due at {moment(when)}; try again then",
    "NothingOwed": lambda _: "no slash left a compensation that was not fetched before; nothing is left to do",
    "DepositTooLarge": lambda balance, most: (
        f"the deposit would be {ether(balance)} ether, at most {ether(most)} fit; deposit less"
    ),
    "DepositsPaused": lambda until: f"the network takes no deposits until {moment(until)}; try again then",
}


def explained(error: Reverted) -> Reverted:
    """The same refusal, followed by what it means; as it is where there is nothing to add."""
    advice = _ADVICE.get(error.name)
    if advice is None:
        return error
    try:
        said = advice(*error.arguments)
    except TypeError:  # a contract of another version says it in other words
        return error
    return _Explained(error.name, error.arguments, said)


class _Explained(Reverted):
    def __init__(self, name: str, arguments: tuple[Any, ...], advice: str) -> None:
        super().__init__(name, arguments)
        self.advice = advice

    def __str__(self) -> str:
        return f"the contract refused ({self.name}): {self.advice}"
