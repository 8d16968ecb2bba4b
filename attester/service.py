"""The attester's duty (protocol §7): check, recompute, and vote once for ever."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import structlog

from attester.evidence import EvidenceLocker, evidence_of
from attester.judge import Judge
from attester.self_test import SelfTest
from attester.sequences import SequenceLedger
from attester.turns import Openings, Turns
from shared import messages
from shared.batch import make_batch
from shared.constants import ABSTAIN_RETRY_MAX_SECONDS, ABSTAIN_RETRY_SECONDS, MAX_OPEN_VERIFICATIONS
from shared.digests import Domain
from shared.duty import attend
from shared.errors import ConflictingVote, Ignore, PoiError, Reject, TransportError
from shared.interfaces import Clock, Gossip, Received, VoteGuard, VoteSigner
from shared.messages import (
    AbstainMessage,
    BatchProposal,
    BatchVote,
    CertificateMessage,
    TaskMessage,
    Topics,
    VoteMessage,
)
from shared.metrics import NO_REASON, OTHER, Metrics
from shared.model_library import ModelLibrary
from shared.reasons import AbstainReason
from shared.roster import Roster
from shared.types import Address, Digest, Verdict
from shared.validation import GossipRules
from shared.verification.method import Judgement
from shared.verification.sequential import SequentialText

if TYPE_CHECKING:
    from shared.node import Node

log = structlog.get_logger(__name__)


class Attester:
    """One operator, one vote key, one engine."""

    def __init__(
        self,
        *,
        domain: Domain,
        address: Address,
        roster: Callable[[], Roster],
        gossip: Gossip,
        topics: Topics,
        rules: GossipRules,
        judge: Judge,
        self_test: SelfTest,
        library: ModelLibrary,
        evidence: EvidenceLocker,
        guard: VoteGuard,
        signer: VoteSigner,
        clock: Clock,
        max_concurrent: int,
        metrics: Metrics | None = None,
    ) -> None:
        self._metrics = metrics or Metrics("attester")
        self._self_test, self._library, self.evidence = self_test, library, evidence
        self._domain, self._address, self._roster = domain, address, roster
        self._gossip, self._topics, self._rules = gossip, topics, rules
        self._judge, self._guard, self._signer, self._clock = judge, guard, signer, clock
        self._turns, self._openings = Turns(max_concurrent), Openings(MAX_OPEN_VERIFICATIONS)
        self._open: dict[Digest, asyncio.Task[None]] = {}  # by task info hash

    @classmethod
    def from_node(cls, node: Node) -> Attester:
        methods = {**node.methods, "sequential": SequentialText(SequenceLedger(node.store))}
        self_test = SelfTest(content=node.content, methods=methods, metrics=node.metrics)
        return cls(
            domain=node.domain,
            address=node.signer.address,
            roster=lambda: node.roster.current,
            gossip=node.gossip,
            topics=node.topics,
            rules=node.rules,
            judge=Judge(
                address=node.signer.address,
                roster=lambda: node.roster.current,
                content=node.content,
                library=node.library,
                methods=methods,
                self_test=self_test,
                clock=node.clock,
            ),
            self_test=self_test,
            library=node.library,
            evidence=EvidenceLocker(
                store=node.store,
                guard=node.guard,
                secret=node.evidence_secret,
                address=node.signer.address,
                clock=node.clock,
            ),
            guard=node.guard,
            signer=node.vote_signer,
            clock=node.clock,
            max_concurrent=node.config.attester.max_concurrent,
            metrics=node.metrics,
        )

    def health(self) -> dict[str, Any]:
        """What `/health` says of this role. A definition is ready when its model is, and its self-test is over."""
        definitions, ready_ids = self._roster().definitions, self._library.ready_ids
        return {
            "readyDefinitions": sorted(
                number
                for number in ready_ids & definitions.keys()
                if self._self_test.has_tested(definitions[number].card_cid)
            ),
            "selfTests": self._self_test.view(),
            "evidence": self.evidence.view(),
        }

    async def run(self) -> None:
        """Until cancelled."""
        await self.evidence.load()
        async with asyncio.TaskGroup() as group:

            async def on_task(received: Received) -> None:
                self._take(messages.decode_task(received.data), group)

            async def on_batch(received: Received) -> None:
                message = messages.decode_batch(received.data)
                if isinstance(message, BatchProposal):
                    await self._sign_batch(message)

            group.create_task(attend(self._gossip, self._topics.task, self._rules.check_task, on_task))
            group.create_task(attend(self._gossip, self._topics.batch, self._rules.check_batch, on_batch))
            group.create_task(
                attend(self._gossip, self._topics.certificate, self._rules.check_certificate, self._on_certificate)
            )
            group.create_task(self._self_test.keep_fresh(self._roster, self._library))
            group.create_task(self.evidence.run())

    # (1) gossip checks: done by the validator
    def _take(self, message: TaskMessage, group: asyncio.TaskGroup) -> None:
        info_hash = self._domain.task_info_hash(message.task_info)
        if info_hash in self._open:
            return
        task = group.create_task(self._attest(message, info_hash))
        self._open[info_hash] = task
        task.add_done_callback(lambda _: self._open.pop(info_hash))

    async def _attest(self, message: TaskMessage, info_hash: Digest) -> None:
        task_id = message.task_info.task_id
        bound = log.bind(task=task_id.hex()[:8])
        try:
            voted = await self._guard.vote_of(task_id)
            if voted is not None:
                await self._repeat_vote(message, info_hash, voted)
            else:
                await self._open_and_decide(message, info_hash)
        except PoiError as error:
            # The vote, if there is one, is in the guard: the performer's next repetition brings it out again.
            bound.warning("attestation interrupted", reason=str(error))
        except Exception:  # noqa: BLE001 - a fault of ours costs this task alone, and is logged whole
            bound.exception("fault while attesting")
            with contextlib.suppress(TransportError):  # best effort: it only tells people why power is missing
                await self._abstain(message, info_hash, AbstainReason.INTERNAL)

    async def _open_and_decide(self, message: TaskMessage, info_hash: Digest) -> None:
        """Those that find no room do not count, or a burst would leave no room for anybody, itself included."""
        performer = message.task_info.task_performer
        self._openings.add(performer)
        try:
            is_over = self._openings.is_over(performer)
            if not is_over:
                await self._decide(message, info_hash)
        finally:
            self._openings.remove(performer)
        if is_over:
            await self._abstain(message, info_hash, AbstainReason.OVERLOADED)

    async def _decide(self, message: TaskMessage, info_hash: Digest) -> None:
        delay = ABSTAIN_RETRY_SECONDS
        while True:
            # (2) fetch (3) binding (4) verify
            async with self._turns.of(message.task_info.task_performer):
                judgement = await self._judge_timed(message)
            if judgement.verdict is not Verdict.ABSTAIN:
                await self._vote(message, info_hash, judgement)
                return
            # (5) say why, and try again: content may still arrive
            reason = AbstainReason(judgement.reason or AbstainReason.INTERNAL)
            await self._abstain(message, info_hash, reason, judgement)
            if judgement.reason in FINAL_ABSTENTIONS or self._clock.now() + delay >= message.request.deadline:
                return
            await asyncio.sleep(delay)
            delay = min(2 * delay, ABSTAIN_RETRY_MAX_SECONDS)

    async def _judge_timed(self, message: TaskMessage) -> Judgement:
        started = time.perf_counter()
        judgement = await self._judge.judge(message)
        method = self._method_of(message)
        self._metrics.verification_seconds.observe(time.perf_counter() - started, method=method)
        verdict, reason = judgement.verdict.name.lower(), str(judgement.reason or NO_REASON)
        self._metrics.votes.add(verdict=verdict, reason=reason)
        if judgement.verdict is not Verdict.ABSTAIN:
            self._metrics.vote_scores.observe(judgement.score, method=method)
        if judgement.is_refereed:
            self._metrics.refereed_votes.add(method=method)
        return judgement

    async def _vote(self, message: TaskMessage, info_hash: Digest, judgement: Judgement) -> None:
        task_id = message.task_info.task_id
        definition = self._roster().definitions[message.request.task_definition_id]
        # (6) evidence: durable before the vote, which quotes its commitment
        evidence = evidence_of(message, info_hash, self._address, definition, judgement)
        await self.evidence.keep(evidence, message, info_hash)
        # (7) vote guard: durable before the key signs
        try:
            await self._guard.check_and_insert(task_id, info_hash, judgement.verdict)
        except ConflictingVote as error:
            log.warning("vote refused by the guard", task=task_id.hex()[:8], reason=str(error))
            await self.evidence.forget(info_hash)
            await self._abstain(message, info_hash, AbstainReason.GUARDED)
            return
        # (8) sign (9) publish
        await self._sign_and_publish(message, info_hash, judgement.verdict)
        log.info(
            "voted",
            task=task_id.hex()[:8],
            info_hash=f"0x{info_hash.hex()}",  # by which its evidence is asked for
            verdict=judgement.verdict.name.lower(),
            reason=str(judgement.reason) if judgement.reason else None,
            **self._described(message, judgement),
        )

    async def _repeat_vote(self, message: TaskMessage, info_hash: Digest, voted: tuple[Digest, Verdict]) -> None:
        if voted[0] == info_hash:
            await self._sign_and_publish(message, info_hash, voted[1])
        else:
            log.warning("performer signed two task infos for one task", task=message.task_info.task_id.hex()[:8])
            await self._abstain(message, info_hash, AbstainReason.GUARDED)

    async def _sign_and_publish(self, message: TaskMessage, info_hash: Digest, verdict: Verdict) -> None:
        vote = VoteMessage(
            task_id=message.task_info.task_id,
            task_info_hash=info_hash,
            epoch=message.task_info.epoch,
            attester=self._address,
            verdict=verdict,
            signature=await self._signer.sign(self._domain.vote(info_hash, verdict)),
            evidence=await self.evidence.commitment_of(info_hash),
        )
        await self._gossip.publish(self._topics.vote, messages.encode(vote))

    async def _abstain(
        self, message: TaskMessage, info_hash: Digest, reason: AbstainReason, judgement: Judgement | None = None
    ) -> None:
        described = {} if judgement is None else self._described(message, judgement)
        log.info("abstained", task=message.task_info.task_id.hex()[:8], reason=str(reason), **described)
        abstention = AbstainMessage(
            task_id=message.task_info.task_id,
            task_info_hash=info_hash,
            epoch=message.task_info.epoch,
            attester=self._address,
            reason=reason,
        )
        await self._gossip.publish(self._topics.vote, messages.encode(abstention))

    def _method_of(self, message: TaskMessage) -> str:
        definition = self._roster().definitions.get(message.request.task_definition_id)
        return definition.method if definition is not None else OTHER

    def _described(self, message: TaskMessage, judgement: Judgement) -> dict[str, Any]:
        """What a judgement rests on, for the log."""
        return {
            "method": self._method_of(message),
            "score": round(judgement.score, 6),
            "statistics": {name: round(value, 6) for name, value in judgement.statistics.items()},
            "refereed": judgement.is_refereed,
            "engine": str(judgement.engine) if judgement.engine is not None else None,
            "content": str(judgement.content) if judgement.content is not None else None,
            **({"said": judgement.said} if judgement.said else {}),
        }

    async def _on_certificate(self, received: Received) -> None:
        """A quorum has decided; but where all votes are waited for, one without them is no end."""
        message = messages.decode_certificate(received.data)
        if isinstance(message, CertificateMessage) and not self._roster().lacks_votes(message.certificate):
            self.evidence.note_certified(self._domain.task_info_hash(message.certificate.task_info))

    async def _sign_batch(self, proposal: BatchProposal) -> None:
        """Certificates that it checked, not opinions that it shares."""
        roster = self._roster()
        try:
            for certificate in proposal.certificates:
                if roster.settles_singly(certificate.task_info):
                    raise Ignore("settles singly")  # its hook would not be called, and nobody paid
                if roster.lacks_votes(certificate):
                    raise Ignore("votes are missing")  # the contract, which does not see it, would refuse it alone
                table = roster.table_of(certificate.task_info)
                self._rules.certificate_checker.check(certificate, table)
                await asyncio.sleep(0)  # a pairing each: let votes pass between them
            batch = make_batch(
                self._domain, proposal.certificates, proposal.epoch, proposal.aggregator, roster.table_of
            )
        except (Reject, Ignore, ValueError) as error:
            log.warning("batch not signed", reason=str(error), aggregator=proposal.aggregator.hex())
            return
        vote = BatchVote(
            batch=batch.info,
            attester=self._address,
            signature=await self._signer.sign(self._domain.batch(batch.info)),
        )
        await self._gossip.publish(self._topics.batch, messages.encode(vote))


# Trying again cannot change these.
FINAL_ABSTENTIONS = frozenset(
    {AbstainReason.OWN_TASK, AbstainReason.METHOD_UNKNOWN, AbstainReason.INPUT_UNUSABLE, AbstainReason.MODEL_MISMATCH}
)
