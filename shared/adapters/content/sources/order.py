"""The order in which a node asks for what it does not have."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from shared.interfaces import Source
from shared.types import Address, Ref, SourceKind

_RANK = {kind: rank for rank, kind in enumerate(SourceKind)}


class OrderedSources:
    """The operators' gateways, then the `further` sources, by kind: performer, other operators, own Kubo, configured
    gateways, EigenDA. Within a kind in the order given."""

    def __init__(
        self, operators: Callable[[Address | None, Ref | None], Sequence[Source]], further: Sequence[Source] = ()
    ) -> None:
        self._operators, self._further = operators, tuple(further)

    def __call__(self, prefer: Address | None, ref: Ref | None) -> list[Source]:
        return sorted((*self._operators(prefer, ref), *self._further), key=lambda source: _RANK[source.kind])
