"""Tasks whose verdict waits for all votes: concluded without the missing ones once their deadline is over."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

import structlog

from aggregator.finality import RETRY_MAX_SECONDS, RETRY_SECONDS
from aggregator.pool import Tally
from shared.constants import MAX_POOLED_TASKS
from shared.errors import PoiError
from shared.interfaces import Clock
from shared.types import Digest

log = structlog.get_logger(__name__)

BLOCK_STAMP_SECONDS = 1.0  # the chain's time has whole seconds, and must be past the deadline, not at it


async def passed(deadline: int, clock: Clock) -> None:
    """Returns once the deadline is over by this machine's clock, if nobody sets it back meanwhile."""
    await asyncio.sleep(max(0.0, deadline + BLOCK_STAMP_SECONDS - clock.now()))


class Deadlines:
    """One timer for each task info that is watched. Bounded as the pool is: the oldest goes first, whose tally is gone
    from there by then."""

    def __init__(
        self, *, clock: Clock, conclude: Callable[[Tally], Awaitable[None]], capacity: int = MAX_POOLED_TASKS
    ) -> None:
        self._clock, self._conclude, self._capacity = clock, conclude, capacity
        self._timers: OrderedDict[Digest, tuple[Tally, asyncio.Task[None]]] = OrderedDict()  # by task info hash

    def watch(self, tally: Tally, group: asyncio.TaskGroup) -> None:
        """Concludes the tally, in `group`, after its request's deadline. Told twice, it does so once; one that the pool
        forgot and opened anew takes the place of the former."""
        key = tally.task_info_hash
        former, timer = self._timers.pop(key, (None, None))
        if timer is not None and former is not tally:
            timer.cancel()
        if timer is None or former is not tally:
            timer = group.create_task(self._conclude_late(tally))
            timer.add_done_callback(lambda done: self._remove(key, done))
        self._timers[key] = tally, timer
        if len(self._timers) > self._capacity:
            self._timers.popitem(last=False)[1][1].cancel()

    def __len__(self) -> int:
        return len(self._timers)

    def _remove(self, key: Digest, timer: asyncio.Task[None]) -> None:
        if key in self._timers and self._timers[key][1] is timer:
            del self._timers[key]

    async def _conclude_late(self, tally: Tally) -> None:
        """Until it went well: nobody repeats a task or a vote after the deadline."""
        while tally.waits(self._clock.now()):
            await passed(tally.message.request.deadline, self._clock)
        delay = RETRY_SECONDS
        while True:
            try:
                await self._conclude(tally)
            except PoiError as error:
                log.warning("not concluded yet", task=tally.message.task_info.task_id.hex()[:8], reason=str(error))
            else:
                return
            await asyncio.sleep(delay)
            delay = min(2 * delay, RETRY_MAX_SECONDS)
