"""The beacon of each epoch: the prevRandao of the block in which the epoch's roll was completed (protocol §6).

It is nowhere in the contracts' state, so it is read from the block that has the event.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from shared.adapters.chain_evm.abi import tables_abi
from shared.adapters.chain_evm.client import EvmClient, Refused
from shared.adapters.chain_evm.events import SPAN_BLOCKS, WINDOW_BLOCKS
from shared.adapters.chain_evm.wire import NO_RANDOMNESS, Block, Log
from shared.adapters.terms import Deployment
from shared.errors import ChainUnavailable
from shared.types import Digest

log = structlog.get_logger(__name__)

MAX_EPOCHS = 16  # remembered; a roster asks for at most five
# A search asks for ever longer ranges, as far as the node answers for them, and goes on next time where it stopped: the
# first 16 questions reach a million blocks back, 140 days of 12 seconds.
MAX_SPAN_BLOCKS = 100 * SPAN_BLOCKS
MAX_QUESTIONS = 16
SEARCH_AGAIN_SECONDS = 30.0  # after all was searched for nothing: the node has lost old events, or lags behind


@dataclass(slots=True)
class _Roll:
    """The block in which an epoch began."""

    block: Block
    is_final: bool = False  # deeper than any reorg


@dataclass(slots=True)
class _Search:
    """For a roll that is not found yet."""

    last: int  # newest block that was not searched
    not_before: float = 0.0  # loop time


class Beacons:
    """Finds each roll once. Until no reorg can reach its block, each question looks whether it still stands."""

    def __init__(
        self, client: EvmClient, deployment: Deployment, *, current_epoch: Callable[[], Awaitable[int]]
    ) -> None:
        self._client, self._deployment, self._current_epoch = client, deployment, current_epoch
        self._rolls: OrderedDict[int, _Roll] = OrderedDict()  # by epoch, last used last
        self._searches: OrderedDict[int, _Search] = OrderedDict()
        self._is_fixed_told = False

    async def of(self, epoch: int) -> Digest | None:
        """None for an epoch to come, while its roll is not found, and where the chain has no randomness."""
        roll = self._rolls.get(epoch)
        if roll is None or not await self._stands(roll):
            self._rolls.pop(epoch, None)
            block = await self._find(epoch)
            if block is None:
                return None
            self._rolls[epoch] = roll = _Roll(block)
            _bound(self._rolls)
        if epoch in self._rolls:  # not pushed out by others meanwhile
            self._rolls.move_to_end(epoch)
        return self._randomness(roll.block)

    async def _stands(self, roll: _Roll) -> bool:
        """Whether the block is still the chain's."""
        if roll.is_final:
            return True
        head = await self._client.head()
        now = await self._client.block(roll.block.number)
        if now is None or now.hash != roll.block.hash:
            return False
        roll.is_final = head.number - now.number >= WINDOW_BLOCKS
        return True

    async def _find(self, epoch: int) -> Block | None:
        now = asyncio.get_running_loop().time()
        search = self._searches.get(epoch)
        if search is not None and now < search.not_before:
            return None
        if epoch > await self._current_epoch():
            return None
        head = (await self._client.head()).number
        search = self._searches[epoch] = search or _Search(self._newest_for(epoch, head))
        _bound(self._searches)
        found = await self._look_back(epoch, search)
        if found is None:
            if search.last < self._deployment.block:
                log.warning("the node has no roll of this epoch: its beacon is not known", epoch=epoch)
                self._searches[epoch] = _Search(head, now + SEARCH_AGAIN_SECONDS)
            return None
        self._searches.pop(epoch, None)
        block = await self._client.block(found.block)
        if block is None or block.hash != found.block_hash:
            raise ChainUnavailable(f"the chain changed while the roll of epoch {epoch} was read; it is asked again")
        return block

    def _newest_for(self, epoch: int, head: int) -> int:
        """The newest block that can have its roll."""
        following = self._rolls.get(epoch + 1)
        return min(head, following.block.number) if following else head

    async def _look_back(self, epoch: int, search: _Search) -> Log | None:
        """The newest blocks first: what is asked for is mostly the newest roll."""
        span, most = SPAN_BLOCKS, MAX_SPAN_BLOCKS
        for _ in range(MAX_QUESTIONS):
            if search.last < self._deployment.block:
                return None
            first = max(self._deployment.block, search.last - span + 1)
            try:
                logs = await self._client.logs(
                    [self._deployment.tables],
                    [tables_abi().topic("EpochRolled")],
                    first,
                    search.last,
                    argument=epoch.to_bytes(32, "big"),
                )
            except ChainUnavailable as error:
                # Nodes have limits of their own: they refuse a range, or take too long for it.
                if span <= SPAN_BLOCKS and not isinstance(error, Refused):
                    raise
                if span == 1:  # events that it no longer keeps; whoever needs no beacon must not go blind for that
                    search.last = self._deployment.block - 1
                    return None
                span = most = span // 2
                continue
            if logs:
                return logs[-1]
            search.last, span = first - 1, min(2 * span, most)
        return None

    def _randomness(self, block: Block) -> Digest | None:
        if block.prev_randao != NO_RANDOMNESS:
            return block.prev_randao
        if not self._is_fixed_told:
            log.warning("this chain's blocks have no randomness: tasks whose seed is the beacon cannot be served")
            self._is_fixed_told = True
        return None


def _bound(remembered: OrderedDict[int, _Roll] | OrderedDict[int, _Search]) -> None:
    while len(remembered) > MAX_EPOCHS:
        remembered.popitem(last=False)
