"""The order of asking, whatever order the sources are given in."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import pytest

from shared.adapters.content.sources.order import OrderedSources
from shared.content.cid import Block
from shared.interfaces import Meter, Source, Wanted
from shared.types import Address, Ref, SourceKind

PERFORMER = Address(b"\x01" * 20)


@dataclass
class Named:
    name: str
    kind: SourceKind

    async def fetch(self, wanted: Wanted, meter: Meter) -> Block:
        raise NotImplementedError


FURTHER = [
    Named("kubo", SourceKind.KUBO),
    Named("gateway 1", SourceKind.GATEWAY),
    Named("eigenda", SourceKind.EIGENDA),
]


def operators(prefer: Address | None, ref: Ref | None) -> list[Source]:
    first = [] if prefer is None else [Named("performer", SourceKind.PERFORMER), Named("cache", SourceKind.PERFORMER)]
    return [*first, Named("operator", SourceKind.OPERATOR)]


def names(sources: list[Source]) -> list[str]:
    return [source.name for source in sources]


@pytest.mark.parametrize("further", list(permutations(FURTHER)), ids=lambda further: "-".join(names(further)))
def test_operators_then_kubo_then_gateways_then_eigenda(further):
    sources = OrderedSources(operators, further)
    later = ["operator", "kubo", "gateway 1", "eigenda"]
    assert names(sources(PERFORMER, None)) == ["performer", "cache", *later]
    assert names(sources(None, None)) == later


def test_gateways_keep_the_order_of_the_settings():
    gateways = [Named(f"gateway {number}", SourceKind.GATEWAY) for number in (2, 1, 3)]
    assert names(OrderedSources(operators, gateways)(None, None)) == ["operator", "gateway 2", "gateway 1", "gateway 3"]


def test_the_kinds_are_declared_in_the_order_of_asking():
    assert list(SourceKind) == ["local", "performer", "operator", "kubo", "gateway", "eigenda"]
