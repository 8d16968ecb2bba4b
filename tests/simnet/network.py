"""A whole network on virtual time: one performer, a liar where asked for, attesters, aggregators, a requester and a
chain. Everything that happens follows from the seed.
"""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from io import BytesIO
from typing import Any, Concatenate, ParamSpec

from aggregator.service import Aggregator
from attester.service import Attester
from performer.service import Performer
from shared.adapters.memory.chain import MemoryChain
from shared.adapters.memory.content import ContentHub
from shared.adapters.memory.gossip import Link, MemoryGossip, MemoryHub
from shared.adapters.terms import NetworkTerms
from shared.batch import decode_document, document_cid
from shared.content.cid import parse_cid
from shared.content.unixfs import build_file
from shared.errors import RequestRefused
from shared.interfaces import Received
from shared.json_forms import request_to_json, to_hex
from shared.messages import Topics
from shared.node import Node
from shared.types import BatchSettled, ChainEvent, Digest, Role, Settled, TaskRequest, Uint256, Verdict
from shared.workflow import Phase, Task
from tests.cast import peer_key_of
from tests.chain_support import ETHER, OWNER, VAULT, Person, sha
from tests.simnet import invariants
from tests.simnet.journal import Journal
from tests.simnet.models import engine_of, shipped
from tests.simnet.node import Duty, SimNode, Unreachable, World
from tests.simnet.virtual_time import START, run_virtual

P = ParamSpec("P")

PERFORMER_STAKE = 10 * ETHER
MAX_SIMULATED_SECONDS = 3600.0
LOOK_SECONDS = 0.05
ASK_AGAIN_SECONDS = 0.5
NEAR = Link(min_delay_seconds=0.005, max_delay_seconds=0.05)  # a quiet network within a continent
LOSSY = Link(min_delay_seconds=0.0, max_delay_seconds=1.0, loss=0.2, duplication=0.2)

person = cache(Person)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a simulation begins with. Stakes are in wei; an honest performer named "performer" is always there."""

    seed: int = 1
    attesters: tuple[int, ...] = (ETHER,) * 4
    aggregators: int = 1
    link: Link = NEAR
    models: tuple[str, ...] = ("digits",)
    batch_seconds: float = 1.0
    epoch_seconds: int = 3600
    dispute_seconds: int = 20
    # Roles that are not the honest ones, by node name; who is named here is expected to break the rules.
    liars: Mapping[str, Callable[[Node], Duty]] | None = None

    @property
    def attester_names(self) -> list[str]:
        return [f"attester{i}" for i in range(len(self.attesters))]


def honest(name: str) -> Callable[[Node], Duty]:
    """Which role a node has, its name says."""
    return Attester.from_node if name.startswith("attester") else (
        Aggregator.from_node if name.startswith("aggregator") else Performer.from_node
    )
