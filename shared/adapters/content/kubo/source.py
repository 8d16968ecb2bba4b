"""The operator's own Kubo node as a source: whatever the IPFS network has."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress

from shared.adapters.content.kubo.api import KuboApi
from shared.constants import MAX_SOURCES
from shared.content.cid import Block
from shared.errors import SourceFailed
from shared.interfaces import Meter, Wanted
from shared.types import Ref, SourceKind

ATTEMPT_SECONDS = 10.0  # two or three round trips of the network's look-up, and the largest block at a slow pace
CONNECT_SECONDS = 5.0
CONNECT_AGAIN_SECONDS = 60.0  # Kubo keeps connections by itself; a node that refuses must not be dialled by each block
MAX_REMEMBERED = 1024  # multiaddrs dialled lately, of at most 256 characters

Peers = Callable[[Ref | None], Sequence[str]]
"""The multiaddrs, among those that a file's `Ref` names, that Kubo may dial: whoever signed it chose them all."""


class KuboSource:
    """Asks for blocks one by one, also those of large files.

    `dag/export` would send a whole file in one answer, but Kubo then fetches each block only after the one before it,
    and a cut answer looks whole. The reader asks for several blocks at a time, any other source may step in between two
    of them, and what Kubo has fetched once it has.
    """

    def __init__(self, api: KuboApi, peers: Peers = lambda _: ()) -> None:
        self._api, self._peers = api, peers
        self._dialled: OrderedDict[str, float] = OrderedDict()

    @property
    def name(self) -> str:
        return "own Kubo"

    @property
    def kind(self) -> SourceKind:
        return SourceKind.KUBO

    async def fetch(self, wanted: Wanted, meter: Meter) -> Block:
        """Kubo looks for the block while it connects: a new peer is asked for what is wanted already."""
        connecting = [asyncio.create_task(self._connect(address)) for address in self._due(wanted.ref)]
        try:
            return await self._api.get_block(wanted.cid, seconds=ATTEMPT_SECONDS, is_offline=False, meter=meter)
        finally:
            for task in connecting:
                task.cancel()
            await asyncio.gather(*connecting, return_exceptions=True)

    async def _connect(self, address: str) -> None:
        with suppress(SourceFailed):  # nobody there: others may have the block
            await self._api.connect(address, seconds=CONNECT_SECONDS)

    def _due(self, ref: Ref | None) -> list[str]:
        """Those not dialled within CONNECT_AGAIN_SECONDS, which are from now on."""
        now = asyncio.get_running_loop().time()
        due = [
            address
            for address in dict.fromkeys(self._peers(ref)[:MAX_SOURCES])
            if now - self._dialled.get(address, -CONNECT_AGAIN_SECONDS) >= CONNECT_AGAIN_SECONDS
        ]
        for address in due:
            self._dialled[address] = now
            self._dialled.move_to_end(address)
        while len(self._dialled) > MAX_REMEMBERED:
            self._dialled.popitem(last=False)
        return due
