"""The chain's events by polling: one code path for the start, for gaps while a node was away, and for reorgs.

Nodes do not tell of logs that a reorg removed (anvil never, others over a subscription that may have broken), so the
reader remembers which blocks it read up to, and walks back when one is no longer the chain's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import structlog

from shared.adapters.chain_evm.abi import center_abi, court_abi
from shared.adapters.chain_evm.client import EvmClient
from shared.adapters.chain_evm.forms import batch_of
from shared.adapters.chain_evm.wire import Block, Log, address
from shared.adapters.terms import Deployment
from shared.constants import CHAIN_POLL_SECONDS, CONFIRMATIONS
from shared.errors import ChainUnavailable
from shared.types import (
    BatchSettled,
    ChainEvent,
    Digest,
    Offence,
    Settled,
    SlashCancelled,
    SlashExecuted,
    SlashQueued,
)

log = structlog.get_logger(__name__)

CENTER_EVENTS = ("TaskSubmitted", "TaskRejected", "BatchSettled")
COURT_EVENTS = ("SlashQueued", "SlashExecuted", "SlashCancelled")
WINDOW_BLOCKS = 64  # read in steps small enough to walk back over; what is deeper is final
SPAN_BLOCKS = 1000  # a request; public nodes refuse more, and those that refuse this get half
MAX_BACK_OFF_SECONDS = 10.0

_Key = tuple[Digest, int, Digest]  # transaction, index of the log, block


class _Reorganised(Exception):
    """The chain changed between two questions."""


class EventReader:
    """Reads the AttestationCenter's and the SlashingCourt's events. Each iterator of `events` keeps its own place."""

    def __init__(
        self,
        client: EvmClient,
        deployment: Deployment,
        *,
        poll_seconds: float = CHAIN_POLL_SECONDS,
        span_blocks: int = SPAN_BLOCKS,
    ) -> None:
        self._client, self._deployment = client, deployment
        self._poll_seconds, self._span_blocks = poll_seconds, span_blocks

    async def events(self, from_block: int) -> AsyncIterator[ChainEvent]:
        """As `Settlement.events`. An unreachable node is waited for, however long."""
        place = _Place(self._client, self._deployment, from_block, self._span_blocks)
        back_off = self._poll_seconds
        is_lost = False
        while True:
            try:
                found = await place.advance()
            except ChainUnavailable as error:
                if not is_lost:
                    log.warning("events cannot be read; retrying", reason=str(error), block=place.next_block)
                is_lost = True
                await asyncio.sleep(back_off)
                back_off = min(2 * back_off, MAX_BACK_OFF_SECONDS)
                continue
            if is_lost:
                log.info("events are read again", block=place.next_block)
            back_off, is_lost = self._poll_seconds, False
            for event in found:
                yield event
            if place.is_at_head:
                await asyncio.sleep(self._poll_seconds)


class _Place:
    """How far one iterator has read."""

    def __init__(self, client: EvmClient, deployment: Deployment, from_block: int, span_blocks: int) -> None:
        self._client = client
        self._contracts = (deployment.center, deployment.court)
        self._from_block, self._most_blocks = from_block, span_blocks
        self._span_blocks = span_blocks
        self._topics = [center_abi().topic(event) for event in CENTER_EVENTS]
        self._topics += [court_abi().topic(event) for event in COURT_EVENTS]
        self._trail: deque[Block] = deque(maxlen=WINDOW_BLOCKS)  # the ends of the ranges read last
        self._seen: dict[_Key, int] = {}  # with the block's number; of the trail's ranges only
        self.next_block = from_block
        self.is_at_head = False

    async def advance(self) -> list[ChainEvent]:
        """The new events of the next range; none when there is no new block. Raises `ChainUnavailable`, and changes
        nothing then but the size of the next range."""
        try:
            head = await self._client.head()
            await self._walk_back(head)
            last_readable = head.number - (CONFIRMATIONS - 1)
            if last_readable < self.next_block:
                self.is_at_head = True
                return []
            return await self._read(last_readable)
        except _Reorganised:
            self.is_at_head = True  # the next call walks back, after a pause
            return []
        except ChainUnavailable:
            # It may be the range that the node will not answer for.
            self._span_blocks = max(1, self._span_blocks // 2)
            raise

    async def _walk_back(self, head: Block) -> None:
        was_at = self.next_block
        while self._trail and not await self._is_canonical(self._trail[-1], head):
            self._trail.pop()
            # Nothing remembered is left: another chain, or one deeper than any reorg. What was seen is still not told
            # again.
            self.next_block = self._trail[-1].number + 1 if self._trail else self._from_block
        if self.next_block != was_at:
            log.info("reorg: events are read again", block=self.next_block, was_at=was_at, head=head.number)

    async def _follows(self, end: Block) -> bool:
        return not self._trail or await self._is_canonical(self._trail[-1], end)

    async def _is_canonical(self, block: Block, head: Block) -> bool:
        if head.number == block.number:
            return head.hash == block.hash
        if head.number == block.number + 1:
            return head.parent_hash == block.hash
        now = await self._client.block(block.number)
        return now is not None and now.hash == block.hash

    async def _read(self, last_readable: int) -> list[ChainEvent]:
        last = self._end_of_range(last_readable)
        end = await self._client.block(last)
        # Asked between two sights of the end: so the former range lies under the end, or the chain changed.
        if end is None or not await self._follows(end):
            raise _Reorganised
        logs = await self._client.logs(self._contracts, self._topics, self.next_block, last)
        fresh = [entry for entry in logs if _key(entry) not in self._seen]
        gas = await self._gas_of({entry.tx_hash: entry.block_hash for entry in fresh})
        now = await self._client.block(last)
        if now is None or now.hash != end.hash:
            raise _Reorganised
        self._seen |= {_key(entry): entry.block for entry in fresh}
        self._trail.append(end)
        self.next_block, self.is_at_head = last + 1, last == last_readable
        self._span_blocks = min(2 * self._span_blocks, self._most_blocks)
        self._prune()
        return [_event(entry, gas[entry.tx_hash]) for entry in fresh]

    def _end_of_range(self, last_readable: int) -> int:
        """Old blocks in large steps; the last WINDOW_BLOCKS apart from them, so that a reorg rereads no more."""
        recent = last_readable - WINDOW_BLOCKS
        last = min(self.next_block + self._span_blocks - 1, last_readable)
        return min(last, recent) if self.next_block <= recent else last

    async def _gas_of(self, transactions: dict[Digest, Digest]) -> dict[Digest, int]:
        """Of each transaction, which has to be in the block that its log was in."""
        gas = {}
        for tx_hash, block_hash in transactions.items():
            receipt = await self._client.receipt(tx_hash)
            if receipt is None or receipt.block_hash != block_hash:
                raise _Reorganised
            gas[tx_hash] = receipt.gas_used
        return gas

    def _prune(self) -> None:
        """Forgets what lies before the trail: no reorg reaches it."""
        if len(self._trail) < WINDOW_BLOCKS:
            return
        oldest = self._trail[0].number
        self._seen = {key: block for key, block in self._seen.items() if block >= oldest}


def _key(entry: Log) -> _Key:
    return entry.tx_hash, entry.index, entry.block_hash


def _event(entry: Log, gas_used: int) -> ChainEvent:
    abi = court_abi() if court_abi().has_event(entry) else center_abi()
    name, values = abi.event(entry)
    place: Any = {"block": entry.block, "tx_hash": entry.tx_hash}
    match name:
        case "BatchSettled":
            return BatchSettled(batch=batch_of(values), gas_used=gas_used, **place)
        case "SlashQueued":
            return SlashQueued(
                slash_id=Digest(values["slashId"]),
                task_id=Digest(values["taskId"]),
                operator=address(values["operator"]),
                offence=_offence(values["offence"]),
                executable_at=values["executableAt"],
                **place,
            )
        case "SlashExecuted":
            return SlashExecuted(
                slash_id=Digest(values["slashId"]),
                task_id=Digest(values["taskId"]),
                operator=address(values["operator"]),
                amount_wei=values["amount"],
                requester=address(values["requester"]),
                compensation_wei=values["compensation"],
                **place,
            )
        case "SlashCancelled":
            return SlashCancelled(slash_id=Digest(values["slashId"]), operator=address(values["operator"]), **place)
        case _:
            return Settled(
                task_id=Digest(values["taskId"]),
                is_approved=name == "TaskSubmitted",
                gas_used=gas_used,
                task_info_hash=Digest(values["taskInfoHash"]),
                aggregator=address(values["aggregator"]),
                indices=values["indices"],
                **place,
            )


def _offence(value: int) -> Offence:
    try:
        return Offence(value)
    except ValueError:
        raise ChainUnavailable(f"event SlashQueued: there is no offence {value}") from None
