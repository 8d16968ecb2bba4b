"""A node's content in its metrics: what is read, fetched, served, held and swept."""

from __future__ import annotations

from collections import OrderedDict

from shared.adapters.content.watch import ReadEnd
from shared.interfaces import Source, Swept, Wanted
from shared.metrics import Metrics
from shared.reasons import SourceFault
from shared.types import Cid

MAX_ROOTS = 64  # files whose last source is remembered, for people: more than come at once


class ContentCounts:
    """A `ContentWatch`."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._last: OrderedDict[Cid, str] = OrderedDict()  # source's name by root, last delivered last

    # --- ContentWatch ----------------------------------------------------------------------------
    def delivered(self, source: Source, wanted: Wanted, size: int, seconds: float) -> None:
        self._metrics.fetched_bytes.add(size, source=source.kind)
        self._metrics.fetch_seconds.observe(seconds, source=source.kind)
        self._last[wanted.root] = source.name
        self._last.move_to_end(wanted.root)
        if len(self._last) > MAX_ROOTS:
            self._last.popitem(last=False)

    def failed(self, source: Source, fault: SourceFault) -> None:
        self._metrics.content_refusals.add(source=source.kind, fault=fault)

    def ended(self, end: ReadEnd) -> None:
        self._metrics.content_reads.add(read=end)

    def served(self, form: str, size: int, answer: str) -> None:
        self._metrics.served_bytes.add(size, form=form)
        self._metrics.gateway_requests.add(form=form, answer=answer)

    def swept(self, swept: Swept) -> None:
        self._metrics.swept_bytes.add(swept.bytes)

    # --- others ----------------------------------------------------------------------------------
    def source_of(self, root: Cid) -> str | None:
        """Who brought the file's last block."""
        return self._last.get(root)

    def hold(self, held_bytes: int, max_bytes: int | None) -> None:
        """Of this disk; for whoever is about to expose the metrics. Without a bound, the latter is infinite."""
        self._metrics.held_bytes.set(held_bytes)
        self._metrics.quota_bytes.set(float("inf") if max_bytes is None else max_bytes)
