"""Models taken apart for batch audits: their weights are kept, and each of their graphs is loaded when it is run."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from shared.errors import ModelMismatch
from shared.interfaces import InferenceEngine, Tensors
from shared.types import Digest
from shared.verification.linear import AuditParts
from shared.verification.method import AuditRuns, Forward

Fetch = Callable[[], Awaitable[bytes]]
"""The whole model, from the content store. Raises as `ModelLibrary.ready` does."""


@dataclass(frozen=True, slots=True)
class _Apart:
    """What is kept of the parts. Graphs are the engine's to keep: they are made again when it has let one go."""

    parts: AuditParts  # its graphs are empty
    exposed: Digest
    replay: Digest | None

    @property
    def size(self) -> int:
        return sum(linear.weight.nbytes for linear in self.parts.linears)


class AuditLibrary:
    """`split` takes a model apart, the same each time. `max_bytes` bounds the weights that are kept; one model always
    is."""

    def __init__(self, split: Callable[[bytes], AuditParts], *, max_bytes: int) -> None:
        self._split, self._max_bytes = split, max_bytes
        self._kept: OrderedDict[Digest, _Apart] = OrderedDict()  # the least recently used first
        self._locks: dict[Digest, asyncio.Lock] = {}

    async def runs(self, engine: InferenceEngine, model_hash: Digest, fetch: Fetch) -> AuditRuns:
        """Raises `ModelMismatch`, `InferenceFailed` for a model that cannot be taken apart, and as `fetch` does."""
        async with self._locks.setdefault(model_hash, asyncio.Lock()):
            apart = self._kept.get(model_hash) or _apart(await self._take_apart(model_hash, fetch))
            self._keep(model_hash, apart)

        def forward(graph: Digest) -> Forward:
            return self._forward(engine, model_hash, graph, fetch)

        return AuditRuns(
            exposed=forward(apart.exposed),
            replay=_nothing if apart.replay is None else forward(apart.replay),
            linears=apart.parts.linears,
            inputs=apart.parts.inputs,
        )

    async def _take_apart(self, model_hash: Digest, fetch: Fetch) -> AuditParts:
        """A card may name the hash of one model and the CID of another: no engine sees these bytes before we do."""
        model = await fetch()
        if await asyncio.to_thread(_digest, model) != model_hash:
            raise ModelMismatch(f"the model's bytes do not have the hash {model_hash.hex()}")
        return await asyncio.to_thread(self._split, model)

    def _keep(self, model_hash: Digest, apart: _Apart) -> None:
        self._kept[model_hash] = apart
        self._kept.move_to_end(model_hash)
        while len(self._kept) > 1 and sum(kept.size for kept in self._kept.values()) > self._max_bytes:
            self._kept.popitem(last=False)

    def _forward(self, engine: InferenceEngine, model_hash: Digest, graph: Digest, fetch: Fetch) -> Forward:
        async def run(inputs: Tensors) -> Tensors:
            async with self._locks.setdefault(graph, asyncio.Lock()):
                if not engine.is_loaded(graph):  # a first use, or pushed out by another model meanwhile
                    parts = await self._take_apart(model_hash, fetch)
                    graphs = {_digest(each): each for each in (parts.exposed, parts.replay) if each is not None}
                    await engine.load(graph, graphs[graph])
            return await engine.run(graph, inputs)

        return run


def _apart(parts: AuditParts) -> _Apart:
    return _Apart(
        AuditParts(b"", None, parts.linears, parts.inputs),
        exposed=_digest(parts.exposed),
        replay=None if parts.replay is None else _digest(parts.replay),
    )


def _digest(graph: bytes) -> Digest:
    return Digest(hashlib.sha256(graph).digest())


async def _nothing(inputs: Tensors) -> Tensors:
    return {}
