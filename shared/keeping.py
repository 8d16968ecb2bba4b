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

from collections import Counter
from typing import Final

from shared.constants import KEEP_MARGIN_SECONDS, MAX_KEPT_BYTES_A_PERFORMER, SETTLE_SECONDS
from shared.types import Address

CACHE: Final = 0.0  # kept while there is room
_HOUR: Final = 3600


def kept_until(deadline: float, dispute_window: float, settle_seconds: float = SETTLE_SECONDS) -> float:
    """For what a task with this deadline (unix seconds) needs. It settles within `settle_seconds` of that, since a
    task's epoch began before its deadline, and is disputed from then on for its definition's window."""
    return deadline + settle_seconds + dispute_window + KEEP_MARGIN_SECONDS


def kept_until_executed(executable_at: float) -> float:
    """For what a queued slash is about: it may be vetoed, and the veto overruled."""
    return executable_at + KEEP_MARGIN_SECONDS


class Shares:
    """What is kept for each performer's tasks: a share of the disk and no more, or one of them could fill it with
    proofs that nothing may drop. What comes beyond it is cache."""

    def __init__(self, max_bytes: int = MAX_KEPT_BYTES_A_PERFORMER) -> None:
        self._max_bytes = max_bytes
        self._kept: dict[Address, Counter[int]] = {}  # bytes by the hour in which they may go

    def granted(self, performer: Address, until: float, now: float) -> float:
        """`until` while the performer's share is not used up, else CACHE."""
        kept = self._kept.setdefault(performer, Counter())
        for hour in [hour for hour in kept if hour < now // _HOUR]:
            del kept[hour]
        return until if kept.total() < self._max_bytes else CACHE

    def took(self, performer: Address, size: int, until: float) -> None:
        """`size` bytes were kept until then. Of what is fetched at once, all may go over the share."""
        if until > CACHE:
            self._kept.setdefault(performer, Counter())[int(until // _HOUR)] += size
