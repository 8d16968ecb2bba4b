"""What stands on chain already, whoever put it there: so that an aggregator whose turn it was not need not."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

import structlog

from shared.digests import Domain
from shared.errors import CodecError, PoiError
from shared.interfaces import ContentStore, OperatorReader, Settlement
from shared.roster import Roster
from shared.settled_batch import read_settled_batch
from shared.types import BatchInfo, BatchSettled, Digest, Settled

log = structlog.get_logger(__name__)

MAX_KNOWN = 65_536  # ids of 32 bytes; a certificate that waits is asked about within minutes
MAX_READING = 4  # documents at a time
RETRY_SECONDS = (1.0, 5.0, 30.0)  # a document that nobody serves then says nothing of its tasks


class SettledElsewhere:
    """Fed by the settler's own view of the chain's events."""

    def __init__(
        self,
        *,
        domain: Domain,
        roster: Callable[[], Roster],
        settlement: Settlement,
        reader: OperatorReader,
        content: ContentStore,
    ) -> None:
        self._domain, self._roster, self._settlement = domain, roster, settlement
        self._reader, self._content = reader, content
        self._known: OrderedDict[Digest, Digest | None] = OrderedDict()  # task id → root, None: by itself
        self._slots = asyncio.Semaphore(MAX_READING)

    async def on_settled(self, event: Settled | BatchSettled) -> None:
        """Reads a batch's document, so it may take as long as a fetch."""
        if isinstance(event, Settled):
            self._keep(event.task_id, None)
            return
        # What waits is of valid epochs, or can settle no more: after a start, years of batches stay unread.
        if event.batch.epoch < min(self._roster().tables, default=0):
            return
        for task_id in await self._read(event.batch):
            self._keep(task_id, event.batch.root)

    async def holds(self, task_id: Digest) -> bool:
        """Whether the task stands on chain now, as far as events and documents tell. Raises `ChainUnavailable`."""
        if task_id not in self._known:
            return False
        root = self._known[task_id]
        if root is None:
            stands = await self._settlement.verdict_of(task_id) is not None
        else:
            stands = await self._settlement.is_batch_settled(root)
        if not stands and self._known.get(task_id, root) == root:  # a reorg took it back
            self._known.pop(task_id, None)
        return stands

    def _keep(self, task_id: Digest, root: Digest | None) -> None:
        self._known[task_id] = root
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    async def _read(self, batch: BatchInfo) -> list[Digest]:
        for seconds in (0.0, *RETRY_SECONDS):
            await asyncio.sleep(seconds)
            try:
                async with self._slots:
                    read = await read_settled_batch(self._domain, batch, self._content, self._reader)
            except CodecError as error:
                log.error("a settled batch has no readable document", root=batch.root.hex(), reason=str(error))
                return []
            except PoiError as error:  # nobody serves it, the chain is away, or there is no room for it here
                log.info("batch document not here yet", root=batch.root.hex()[:8], reason=str(error))
                continue
            return [certificate.task_info.task_id for certificate in read.certificates]
        return []
