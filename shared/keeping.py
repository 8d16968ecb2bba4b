"""How long content is kept, as unix seconds for `keep_until`: as long as somebody may have to look at it again.

What is kept is never dropped, whatever room is needed, so each time is as short as the chain's own terms allow.

- What a task needs, its input and its proof, at its performer and at the attesters who fetched it: until the dispute
  about it is over (`kept_until`). Attesters serve it on meanwhile, for a performer that withholds it then; each
  performer's tasks have a share of their disks (`Shares`).
- Batch documents, at the aggregator that made them: BATCH_DOCUMENT_SECONDS, for who claims a share of their fees.
- Models, cards and golden vectors that were fetched: CACHE. Others serve them too, no dispute needs them for long, and
  they are the largest files there are: kept, they could leave no room for what tasks need. But a node stamps those that
  it serves as just used (`ModelLibrary.keep_ready`), so that everything else that is mere cache goes before them.
- An operator's own models: for good, until it unpins them. It may be the only one who has them.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Final

from shared.constants import KEEP_MARGIN_SECONDS, MAX_KEPT_BYTES_A_PERFORMER, SETTLE_SECONDS
from shared.types import Address, Cid

CACHE: Final = 0.0  # kept while there is room
# As which a smaller file counts: its block on the disk, and its pin, which takes a tenth of this in memory.
LEAST_KEPT_BYTES: Final = 4096
MAX_REMEMBERED: Final = 1024  # files of a performer: twice those of all tasks that an attester has under way
_HOUR: Final = 3600


def kept_until(deadline: float, dispute_window: float, settle_seconds: float = SETTLE_SECONDS) -> float:
    """For what a task with this deadline (unix seconds) needs. It settles within `settle_seconds` of that, since a
    task's epoch began before its deadline, and is disputed from then on for its definition's window."""
    return deadline + settle_seconds + dispute_window + KEEP_MARGIN_SECONDS


def kept_until_executed(executable_at: float) -> float:
    """For what a queued slash is about: it may be vetoed, and the veto overruled."""
    return executable_at + KEEP_MARGIN_SECONDS


class _Share:
    """What is kept for one performer."""

    def __init__(self) -> None:
        self.bytes = Counter[int]()  # by the hour in which they may go
        self.lately = OrderedDict[Cid, tuple[int, int]]()  # bytes and hour of the files counted last


class Shares:
    """What is kept for each performer's tasks: a share of the disk and no more, or one of them could fill it with
    proofs that nothing may drop. What comes beyond it is cache."""

    def __init__(self, max_bytes: int = MAX_KEPT_BYTES_A_PERFORMER) -> None:
        self._max_bytes = max_bytes
        self._shares: dict[Address, _Share] = {}

    def granted(self, performer: Address, until: float, now: float) -> float:
        """`until` while the performer's share is not used up, else CACHE."""
        kept = self._share(performer).bytes
        for hour in [hour for hour in kept if hour < now // _HOUR]:
            del kept[hour]
        return until if kept.total() < self._max_bytes else CACHE

    def took(self, performer: Address, cid: Cid, size: int, until: float) -> None:
        """A file of `size` bytes was kept until then, whether it came for that or had been here as cache: of cache a
        performer may have as much here as the disk holds. One that was counted lately is counted once. Of what is
        fetched at once, all may go over the share."""
        if until <= CACHE:
            return
        share, cost, hour = self._share(performer), max(size, LEAST_KEPT_BYTES), int(until // _HOUR)
        former = share.lately.pop(cid, None)
        if former is not None and former[1] in share.bytes:
            share.bytes[former[1]] -= former[0]
            hour = max(hour, former[1])
        share.bytes[hour] += cost
        share.lately[cid] = cost, hour
        if len(share.lately) > MAX_REMEMBERED:
            share.lately.popitem(last=False)

    def _share(self, performer: Address) -> _Share:
        return self._shares.setdefault(performer, _Share())
