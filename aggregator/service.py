"""The aggregator's duty (protocol §7): verify votes, add them up, and make certificates."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from aggregator.deadlines import Deadlines
from aggregator.epochs import EpochKeeper
from aggregator.pool import Counted, Tally, VotePool
from aggregator.settler import Settler
from shared import messages
from shared.constants import MAX_EARLY_VOTES, MAX_POOLED_TASKS
from shared.crypto import bls
from shared.digests import Domain
from shared.duty import attend
from shared.errors import Ignore, Reject
from shared.interfaces import Clock, Gossip, Received, SignedVote
from shared.messages import AbstainMessage, CertificateMessage, Topics, VoteMessage
from shared.metrics import Metrics
from shared.roster import Roster
from shared.types import Address, Digest, TaskCertificate, TaskRequest, Verdict
from shared.validation import GossipRules, verify_certificate

if TYPE_CHECKING:
    from shared.node import Node

log = structlog.get_logger(__name__)

Ballot = VoteMessage | AbstainMessage


class Aggregator:
    """Collects votes and settles what a strict quorum decided. Anyone may run one; several never harm each other."""

    def __init__(
        self,
        *,
        domain: Domain,
        roster: Callable[[], Roster],
        gossip: Gossip,
        topics: Topics,
        rules: GossipRules,
        settler: Settler,
        keeper: EpochKeeper,
        clock: Clock,
        metrics: Metrics | None = None,
    ) -> None:
        self._metrics = metrics or Metrics("aggregator")
        self._domain, self._roster = domain, roster
        self._gossip, self._topics, self._rules = gossip, topics, rules
        self._settler, self._keeper, self._clock = settler, keeper, clock
        self.pool = VotePool()
        self._deadlines = Deadlines(clock=clock, conclude=self._conclude)
        self._duties: asyncio.TaskGroup
        self._early: OrderedDict[tuple[Digest, bytes, Verdict], Ballot] = OrderedDict()
        self._certificates: OrderedDict[Digest, CertificateMessage] = OrderedDict()  # by task id
        self._concluding: set[Digest] = set()  # task ids whose certificate is being made

    @classmethod
    def from_node(cls, node: Node) -> Aggregator:
        settler = Settler(
            domain=node.domain,
            address=node.signer.address,
            roster=lambda: node.roster.current,
            gossip=node.gossip,
            topics=node.topics,
            content=node.content,
            settlement=node.settlement,
            court=node.court,
            reader=node.reader,
            store=node.store,
            clock=node.clock,
            batch_seconds=node.config.aggregator.batch_seconds,
            max_batch=node.config.aggregator.max_batch,
        )
        keeper = EpochKeeper(
            address=node.signer.address,
            roster=lambda: node.roster.current,
            epochs=node.epochs,
            settlement=node.settlement,
            clock=node.clock,
        )
        return cls(
            domain=node.domain,
            roster=lambda: node.roster.current,
            gossip=node.gossip,
            topics=node.topics,
            rules=node.rules,
            settler=settler,
            keeper=keeper,
            clock=node.clock,
            metrics=node.metrics,
        )

    async def run(self) -> None:
        """Until cancelled."""
        await self._settler.recover()
        async with asyncio.TaskGroup() as duties:
            self._duties = duties
            duties.create_task(attend(self._gossip, self._topics.task, self._rules.check_task, self._on_task))
            duties.create_task(attend(self._gossip, self._topics.vote, self._rules.check_vote, self._on_ballot))
            duties.create_task(
                attend(self._gossip, self._topics.batch, self._rules.check_batch, self._settler.on_batch_message)
            )
            duties.create_task(
                attend(self._gossip, self._topics.certificate, self._rules.check_certificate, self._on_certificate)
            )
            duties.create_task(self._settler.run())
            duties.create_task(self._keeper.run())

    # (1) gossip checks: done by the validator; what is left is to find the task that a vote belongs to
    async def _on_task(self, received: Received) -> None:
        message = messages.decode_task(received.data)
        info_hash = self._domain.task_info_hash(message.task_info)
        known = self._certificates.get(message.task_info.task_id)
        if known is not None and known.certificate.task_info == message.task_info:
            # The performer asks again: our certificate was lost on the way to it.
            await self._gossip.publish(self._topics.certificate, messages.encode(known))
            if not self._roster().lacks_votes(known.certificate):
                return
            # Maybe another's, whose request is known here only now; and the votes that it lacks may come.
            await self._settler.adopt(known.certificate, message.request)
        table = self._roster().table_of(message.task_info)
        tally = self.pool.open(info_hash, message, table)
        # Out of the waiting room at once: while one is counted, others come and go there.
        for ballot in [self._early.pop(key) for key in list(self._early) if key[0] == info_hash]:
            await self._count(ballot, tally)
        if self._roster().waits_for_all(message.task_info):
            self._deadlines.watch(tally, self._duties)
        await self._conclude(tally)  # once more, in case that it could not be stored the last time

    async def _on_ballot(self, received: Received) -> None:
        ballot = messages.decode_vote(received.data)
        tally = self.pool.tally(ballot.task_info_hash)
        if tally is not None:
            await self._count(ballot, tally)
            return
        # By verdict too: an equivocator's second vote must not take the place of its first.
        verdict = ballot.verdict if isinstance(ballot, VoteMessage) else Verdict.ABSTAIN
        self._early[ballot.task_info_hash, ballot.attester, verdict] = ballot
        if len(self._early) > MAX_EARLY_VOTES:
            self._early.popitem(last=False)

    async def _on_certificate(self, received: Received) -> None:
        message = messages.decode_certificate(received.data)
        if isinstance(message, CertificateMessage):
            is_complete = not self._roster().lacks_votes(message.certificate)
            if not self._is_certified(message.certificate.task_info.task_id, is_complete=is_complete):
                await self._remember_harmed(message.certificate)
                await self._settler.adopt(message.certificate, self._request_of(message.certificate))
                self._remember(message)

    async def _count(self, ballot: Ballot, tally: Tally) -> None:
        info = tally.message.task_info
        if ballot.task_id != info.task_id or ballot.epoch != info.epoch:
            log.info("vote dropped: it names another task or epoch", attester=ballot.attester.hex())
            return
        if isinstance(ballot, AbstainMessage):
            self.pool.add_abstention(ballot, tally)
            return
        if self.pool.has_counted(ballot) or not self._is_signed(ballot, tally):
            return
        # (3) pool
        counted = self.pool.add_vote(ballot, tally)
        if counted is Counted.EQUIVOCATION:
            log.warning("equivocation", attester=ballot.attester.hex(), task=ballot.task_id.hex()[:8])
            await self._accuse(ballot.task_id, ballot.attester)
        if counted is Counted.NEW:
            await self._conclude(tally)

    async def _accuse(self, task_id: Digest, attester: Address) -> None:
        named = self.pool.equivocations.get((task_id, attester))
        if named is None:
            return
        tally = self.pool.tally(named.first.task_info_hash)
        first, second = self._evidence(named.first), self._evidence(named.second)
        if tally is not None and first is not None and second is not None:
            await self._settler.remember(task_id, tally.message.request)
            await self._settler.accuse(attester, first, second)

    def _evidence(self, vote: VoteMessage) -> SignedVote | None:
        """None when the task info that was voted on is not known any more: the court wants it whole."""
        tally = self.pool.tally(vote.task_info_hash)
        seat = tally.table.index_of(vote.attester) if tally else None
        if tally is None or seat is None:
            return None
        return SignedVote(tally.message.task_info, vote.verdict, seat, vote.signature)

    # (2) verify the share
    def _is_signed(self, vote: VoteMessage, tally: Tally) -> bool:
        index = tally.table.index_of(vote.attester)
        if index is None:
            return False
        digest = self._domain.vote(tally.task_info_hash, vote.verdict)
        if bls.verify(tally.table.entries[index].vote_key, digest, vote.signature):
            return True
        log.warning("vote dropped: wrong signature", attester=vote.attester.hex(), task=vote.task_id.hex()[:8])
        return False

    async def _conclude(self, tally: Tally) -> None:
        """(4) at the strict quorum, once; where the definition waits for all votes, when no more can come."""
        task_id, verdict = tally.message.task_info.task_id, tally.reached()
        if verdict is None or task_id in self._concluding:
            return
        if self._is_certified(task_id, is_complete=tally.is_unanimous()):
            return
        if self._roster().waits_for_all(tally.message.task_info) and tally.waits(self._clock.now()):
            return
        self._concluding.add(task_id)
        try:
            await self._certify(tally, verdict)
        finally:
            self._concluding.discard(task_id)

    async def _certify(self, tally: Tally, verdict: Verdict) -> None:
        # (4) aggregate
        signatures = tally.signatures[verdict]
        signers = tuple(sorted(signatures))
        certificate = TaskCertificate(
            task_info=tally.message.task_info,
            verdict=verdict,
            signers=signers,
            signature=bls.aggregate(signatures[index] for index in signers),
            performer_signature=tally.message.performer_signature,
        )
        # (5) verify the aggregate
        try:
            verify_certificate(self._domain, tally.table, certificate)
        except (Reject, Ignore) as error:
            log.error("own certificate does not verify", rule=error.rule, task=certificate.task_info.task_id.hex()[:8])
            return
        message = CertificateMessage(
            certificate=certificate,
            valid_power=tally.power(Verdict.VALID),
            invalid_power=tally.power(Verdict.INVALID),
        )
        # (6) persist, then publish; (7) settle
        await self._remember_harmed(certificate)
        await self._settler.add(certificate, tally.message.request)
        self._remember(message)
        await self._gossip.publish(self._topics.certificate, messages.encode(message))
        self._metrics.certificates.add(verdict=verdict.name.lower())
        log.info("certified", task=certificate.task_info.task_id.hex()[:8], verdict=verdict.name.lower())

    async def _remember_harmed(self, certificate: TaskCertificate) -> None:
        """Whom the slash that a rejection may queue compensates; whoever settles it, any aggregator may name them."""
        request = self._request_of(certificate)
        if certificate.verdict is Verdict.INVALID and request is not None:
            await self._settler.remember(certificate.task_info.task_id, request)

    def _request_of(self, certificate: TaskCertificate) -> TaskRequest | None:
        """None while its task was not heard of here."""
        tally = self.pool.tally(self._domain.task_info_hash(certificate.task_info))
        return tally.message.request if tally is not None else None

    def _is_certified(self, task_id: Digest, *, is_complete: bool) -> bool:
        """Whether the task needs no other certificate. One that lacks votes gives way to a complete one: or whoever
        publishes the first could choose who is missing, and whose settlement waits for its deadline."""
        known = self._certificates.get(task_id)
        return known is not None and not (is_complete and self._roster().lacks_votes(known.certificate))

    def _remember(self, message: CertificateMessage) -> None:
        self._certificates[message.certificate.task_info.task_id] = message
        if len(self._certificates) > MAX_POOLED_TASKS:
            self._certificates.popitem(last=False)
