"""What a simulated network begins with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache

from aggregator.service import Aggregator
from attester.service import Attester
from performer.service import Performer
from shared.adapters.memory.gossip import Link
from shared.node import Node
from shared.types import Role
from tests.chain_support import ETHER, Person
from tests.simnet.node import Duty

Make = Callable[[Node], Duty]

PERFORMER_STAKE = 10 * ETHER
NEAR = Link(min_delay_seconds=0.005, max_delay_seconds=0.05)  # a quiet network within a continent
LOSSY = Link(min_delay_seconds=0.0, max_delay_seconds=1.0, loss=0.2, duplication=0.2)

HONEST: dict[Role, Make] = {
    Role.PERFORMER: Performer.from_node,
    Role.ATTESTER: Attester.from_node,
    Role.AGGREGATOR: Aggregator.from_node,
}

person = cache(Person)  # keys are the same in every simulation


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Attesters are their stakes in wei. `roles` are those that differ from the honest ones, by node name; a node of
    the name "liar" is a second performer. Who stands in `roles` may break every rule without failing the invariants."""

    seed: int = 1
    attesters: tuple[int, ...] = (ETHER,) * 4
    aggregators: int = 1
    link: Link = NEAR
    models: tuple[str, ...] = ("digits",)
    batch_seconds: float = 1.0
    block_seconds: float = 0.25
    epoch_seconds: int = 3600
    grace_seconds: int = 3600
    dispute_seconds: int = 20
    waits_for_all: bool = False
    roles: Mapping[str, Make] = field(default_factory=dict)

    def members(self) -> dict[str, tuple[Role, int]]:
        """Role and stake by name, in order of registration."""
        performers = ["performer", *(["liar"] if "liar" in self.roles else [])]
        return (
            dict.fromkeys(performers, (Role.PERFORMER, PERFORMER_STAKE))
            | {f"attester{i}": (Role.ATTESTER, stake) for i, stake in enumerate(self.attesters)}
            | {f"aggregator{i}": (Role.AGGREGATOR, ETHER) for i in range(self.aggregators)}
        )
