"""The second round: attesters sign the Merkle root of certificates that they checked (protocol §7)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from shared import messages, quorum
from shared.batch import Batch
from shared.constants import BATCH_VOTE_SECONDS
from shared.crypto import bls
from shared.digests import Domain
from shared.errors import TransportError
from shared.interfaces import BatchSubmission, Gossip
from shared.messages import BatchProposal, BatchVote, Topics
from shared.roster import Roster
from shared.types import BatchInfo, OperatorTable

log = structlog.get_logger(__name__)


@dataclass
class _Open:
    digest: bytes
    table: OperatorTable
    signatures: dict[int, bytes] = field(default_factory=dict)
    reached: asyncio.Event = field(default_factory=asyncio.Event)

    def has_quorum(self) -> bool:
        return quorum.approves(quorum.power_of(self.table, self.signatures), self.table.total_power)


class SecondRound:
    """Collects signatures for the batches of this aggregator."""

    def __init__(self, *, domain: Domain, roster: Callable[[], Roster], gossip: Gossip, topics: Topics) -> None:
        self._domain, self._roster, self._gossip, self._topics = domain, roster, gossip, topics
        self._open: dict[BatchInfo, _Open] = {}

    async def sign(self, batch: Batch) -> BatchSubmission | None:
        """None when no strict quorum signed within BATCH_VOTE_SECONDS."""
        open_ = _Open(self._domain.batch(batch.info), self._roster().table(batch.info.epoch))
        self._open[batch.info] = open_
        try:
            # Twice: one lost message must not cost the batch its discount.
            for _ in range(2):
                await self._propose(batch)
                try:
                    async with asyncio.timeout(BATCH_VOTE_SECONDS / 2):
                        await open_.reached.wait()
                    return self._submission(batch, open_)
                except TimeoutError:
                    continue
            return None
        finally:
            del self._open[batch.info]

    def count(self, vote: BatchVote) -> None:
        """A vote of another batch, of a stranger, or with a wrong signature changes nothing."""
        open_ = self._open.get(vote.batch)
        index = open_.table.index_of(vote.attester) if open_ else None
        if open_ is None or index is None or index in open_.signatures:
            return
        if not bls.verify(open_.table.entries[index].vote_key, open_.digest, vote.signature):
            log.warning("batch vote dropped: wrong signature", attester=vote.attester.hex())
            return
        open_.signatures[index] = vote.signature
        if open_.has_quorum():
            open_.reached.set()

    async def _propose(self, batch: Batch) -> None:
        proposal = BatchProposal(
            epoch=batch.info.epoch, aggregator=batch.info.aggregator, certificates=batch.certificates
        )
        try:
            await self._gossip.publish(self._topics.batch, messages.encode(proposal))
        except TransportError as error:
            log.warning("batch not proposed", reason=str(error))

    @staticmethod
    def _submission(batch: Batch, open_: _Open) -> BatchSubmission:
        signers = tuple(sorted(open_.signatures))
        return BatchSubmission(
            batch=batch.info,
            signers=signers,
            signature=bls.aggregate(open_.signatures[index] for index in signers),
        )
