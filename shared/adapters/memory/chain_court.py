"""A model of the SlashingCourt: as chain_tables.py, for offences. Left out: outliers, tampering, and another guardian
than the owner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

from shared.adapters.memory.chain_center import CenterModel, SettlementProof
from shared.adapters.memory.chain_coins import Coins, hex_of, require_within
from shared.adapters.memory.chain_registry import NOBODY
from shared.constants import WAD
from shared.crypto import bls, ecdsa
from shared.digests import Domain, slash_id_of
from shared.errors import Reverted
from shared.interfaces import SignedVote
from shared.types import Address, Digest, Offence, TaskInfo, TaskRequest, Verdict

ANSWER_SECONDS = 3600
REPORT_SECONDS = 7 * 24 * 3600
MAX_VETOES = 3
VETO_PERIOD_SECONDS = 30 * 24 * 3600
MAX_DISPUTE_SECONDS = 365 * 24 * 3600
MAX_VALUE = 2**96 - 1
MAX_TIME = 2**64 - 1

GRADES = {
    Offence.OUTLIER: WAD // 100,
    Offence.REJECTED_TASK: WAD // 10,
    Offence.MISSED_DEADLINE: WAD // 10,
    Offence.EQUIVOCATION: WAD,
    Offence.TAMPERING: WAD,
}


class State(IntEnum):
    """Solidity's, in its order."""

    NONE = 0
    WAITING = 1
    EXECUTED = 2
    CANCELLED = 3


@dataclass(frozen=True, slots=True)
class Slash:
    """Solidity's."""

    task_id: Digest
    operator: Address
    offence: Offence
    state: State
    executable_at: int  # unix seconds
    veto_due_at: int = 0  # 0: no veto
    is_vetoed: bool = False  # ever, even if it was overruled
    requester: Address = NOBODY
    value: int = 0


@dataclass(frozen=True, slots=True)
class Execution:
    """What moved."""

    slash: Slash
    amount: int
    compensation: int


@dataclass(slots=True)
class CourtModel:
    """Like `RegistryModel`."""

    domain: Domain  # of certificates that cancel a slash or overrule a veto
    coins: Coins
    center: CenterModel
    slashes: dict[Digest, Slash] = field(default_factory=dict)
    owed: dict[Address, int] = field(default_factory=dict)
    compensated: dict[Digest, int] = field(default_factory=dict)
    delivered: set[Digest] = field(default_factory=set)
    vetoes: tuple[int, ...] = ()  # when the last few were announced

    def __post_init__(self) -> None:
        terms = self.center.registry.terms
        if not any(terms.vault):
            raise Reverted("InvalidSetting", ("vault", 0))
        longest = min(MAX_DISPUTE_SECONDS, terms.unbonding_seconds)
        require_within("longestDispute", terms.longest_dispute_seconds, 1, longest)
        require_within("vetoDelay", terms.veto_delay_seconds, 1, terms.longest_dispute_seconds)

    def copy(self, coins: Coins, center: CenterModel) -> CourtModel:
        """Another court in the same state."""
        return replace(
            self,
            coins=coins,
            center=center,
            slashes=dict(self.slashes),
            owed=dict(self.owed),
            compensated=dict(self.compensated),
            delivered=set(self.delivered),
        )

    # --- reports -------------------------------------------------------------------------------------
    def queue_rejected(self, task_id: Digest, performer: Address, dispute_window: int, now: int) -> Digest:
        """The center's. Each report returns its slash's id."""
        return self._queue(Offence.REJECTED_TASK, task_id, performer, now + dispute_window)

    def report_equivocation(self, first: SignedVote, second: SignedVote, signatures: bytes, now: int) -> Digest:
        """`signatures`: the sum of both where seat and epoch are the same, else one after the other."""
        task_id, votes = first.info.task_id, (first, second)
        if any(vote.verdict not in (Verdict.VALID, Verdict.INVALID) for vote in votes):
            raise Reverted("NoEquivocation")
        digests = [self._vote_digest(vote) for vote in votes]
        if task_id != second.info.task_id or digests[0] == digests[1]:
            raise Reverted("NoEquivocation")
        operator = self._equivocator(votes, digests, signatures)
        window = self.center.definition(first.info.task_definition_id).terms.dispute_window
        return self._queue(Offence.EQUIVOCATION, task_id, operator, now + window)

    def report_missed_deadline(self, request: TaskRequest, performer_signature: bytes, now: int) -> Digest:
        domain = self.center.domain
        task_id = domain.task_id(request)
        _require_signed(request.performer, domain.promise(task_id), performer_signature)
        claimable_at = request.deadline + ANSWER_SECONDS
        if now <= claimable_at:
            raise Reverted("DeadlineNotMissed", (task_id, min(claimable_at, MAX_TIME)))
        if now > claimable_at + REPORT_SECONDS:
            raise Reverted("ReportTooLate", (task_id, claimable_at + REPORT_SECONDS))
        if task_id in self.delivered or self.center.verdict_of(task_id) is not None:
            raise Reverted("AlreadyDelivered", (task_id,))
        window = self.center.definition(request.task_definition_id).terms.dispute_window
        slash_id = self._queue(Offence.MISSED_DEADLINE, task_id, request.performer, now + window)
        self._name(slash_id, request)
        return slash_id

    def _equivocator(
        self, votes: tuple[SignedVote, SignedVote], digests: Sequence[Digest], signatures: bytes
    ) -> Address:
        tables = self.center.registry.tables
        first, second = votes
        is_one_seat = (first.seat, first.info.epoch) == (second.seat, second.info.epoch)
        if len(signatures) != (1 if is_one_seat else 2) * bls.G1_BYTES:
            raise Reverted("SignaturesLength", (len(signatures),))
        if is_one_seat:
            return tables.verify_both_votes(digests, first.info.epoch, first.seat, signatures)
        halves = signatures[: bls.G1_BYTES], signatures[bls.G1_BYTES :]
        operator, other = (
            tables.verify_vote(digest, vote.info.epoch, vote.seat, half)
            for digest, vote, half in zip(digests, votes, halves, strict=True)
        )
        if operator != other:
            raise Reverted("NoEquivocation")
        return operator

    def _vote_digest(self, vote: SignedVote) -> Digest:
        domain = self.center.domain
        return domain.vote(domain.task_info_hash(vote.info), vote.verdict)

    def _queue(self, offence: Offence, task_id: Digest, operator: Address, executable_at: int) -> Digest:
        slash_id = slash_id_of(offence, task_id, operator)
        if slash_id in self.slashes:
            raise Reverted("AlreadyQueued", (slash_id,))
        self.slashes[slash_id] = Slash(task_id, operator, offence, State.WAITING, executable_at)
        self.center.registry.hold_exit(operator)
        return slash_id

    # --- answers -------------------------------------------------------------------------------------
    def record_delivery(self, request: TaskRequest, info: TaskInfo, performer_signature: bytes, now: int) -> None:
        domain = self.center.domain
        task_id = domain.task_id(request)
        named = (info.task_id, info.task_performer, info.task_definition_id)
        if named != (task_id, request.performer, request.task_definition_id):
            raise Reverted("RequestMismatch", (task_id,))
        if now > request.deadline:
            raise Reverted("DeadlinePassed", (task_id, request.deadline))
        if task_id in self.delivered:
            raise Reverted("AlreadyDelivered", (task_id,))
        _require_signed(request.performer, domain.task_info_hash(info), performer_signature)
        self.delivered.add(task_id)

    def refute_missed_deadline(
        self, slash_id: Digest, info_hash: Digest, is_approved: bool, voters: Digest, proof: SettlementProof
    ) -> Slash:
        """What is cancelled; likewise below."""
        slash = self._waiting(slash_id)
        if slash.offence is not Offence.MISSED_DEADLINE:
            raise Reverted("WrongOffence", (slash_id, int(slash.offence)))
        self.center.require_settled(slash.task_id, info_hash, is_approved, voters, proof)
        return self._cancel(slash_id, slash)

    def cancel_slash(self, slash_id: Digest, epoch: int, signature: bytes, missing: bytes, now: int) -> Slash:
        slash = self._waiting(slash_id)
        self.center.verify_everybody(self.domain.cancel_slash(slash_id), epoch, signature, missing, now)
        return self._cancel(slash_id, slash)

    def _cancel(self, slash_id: Digest, slash: Slash) -> Slash:
        self.slashes[slash_id] = replace(slash, state=State.CANCELLED)
        self.center.registry.release_exit(slash.operator)
        return slash

    # --- vetoes --------------------------------------------------------------------------------------
    def announce_veto(self, sender: Address, slash_id: Digest, now: int) -> None:
        """The guardian's, of which it has few."""
        if sender != self.center.owner:
            raise Reverted("OnlyGuardian", (hex_of(sender),))
        slash = self._waiting(slash_id)
        if slash.is_vetoed:
            raise Reverted("AlreadyVetoed", (slash_id,))
        if now >= slash.executable_at:
            raise Reverted("TooLateForVeto", (slash_id, slash.executable_at))
        if len(self.vetoes) == MAX_VETOES and now < self.vetoes[0] + VETO_PERIOD_SECONDS:
            raise Reverted("VetoesUsedUp", (self.vetoes[0] + VETO_PERIOD_SECONDS,))
        self.vetoes = (*self.vetoes, now)[-MAX_VETOES:]
        due_at = now + self.center.registry.terms.veto_delay_seconds
        self.slashes[slash_id] = replace(slash, veto_due_at=due_at, is_vetoed=True)

    def overrule_veto(self, slash_id: Digest, epoch: int, signature: bytes, missing: bytes, now: int) -> None:
        slash = self._vetoed(slash_id)
        self.center.verify_everybody(self.domain.overrule_veto(slash_id), epoch, signature, missing, now)
        self.slashes[slash_id] = replace(slash, veto_due_at=0)

    def execute_veto(self, slash_id: Digest, now: int) -> Slash:
        slash = self._vetoed(slash_id)
        if now < slash.veto_due_at:
            raise Reverted("VetoNotDue", (slash_id, slash.veto_due_at))
        return self._cancel(slash_id, slash)

    def _vetoed(self, slash_id: Digest) -> Slash:
        slash = self._waiting(slash_id)
        if slash.veto_due_at == 0:
            raise Reverted("NoVeto", (slash_id,))
        return slash

    # --- execution -----------------------------------------------------------------------------------
    def name_harmed(self, slash_id: Digest, request: TaskRequest) -> None:
        slash = self._waiting(slash_id)
        if slash.requester != NOBODY:
            raise Reverted("HarmedAlreadyNamed", (slash_id,))
        if self.center.domain.task_id(request) != slash.task_id:
            raise Reverted("RequestMismatch", (slash.task_id,))
        self._name(slash_id, request)

    def _name(self, slash_id: Digest, request: TaskRequest) -> None:
        slash = self.slashes[slash_id]
        if request.requester == NOBODY:
            raise Reverted("RequestMismatch", (slash.task_id,))
        value = min(request.fee, self.center.definition(request.task_definition_id).terms.fees.total)
        self.slashes[slash_id] = replace(slash, requester=request.requester, value=value)

    def execute_slash(self, slash_id: Digest, now: int) -> Execution:
        slash = self._waiting(slash_id)
        if now < slash.executable_at:
            raise Reverted("SlashNotDue", (slash_id, slash.executable_at))
        if slash.veto_due_at:
            raise Reverted("VetoPending", (slash_id, slash.veto_due_at))
        self.slashes[slash_id] = replace(slash, state=State.EXECUTED)
        registry = self.center.registry
        amount = registry.slash(self.domain.contract, slash.operator, GRADES[slash.offence])
        # All slashes of one task together give its requester no more than the task's value.
        former = self.compensated.get(slash.task_id, 0)
        compensation = min(amount, max(0, slash.value - former))
        if compensation:
            self.compensated[slash.task_id] = former + compensation
            self._owe(slash.requester, compensation)
        self._owe(registry.terms.vault, amount - compensation)
        return Execution(slash, amount, compensation)

    def pay(self, account: Address) -> int:
        """The wei that are paid."""
        amount = self.owed_to(account)
        if amount == 0:
            raise Reverted("NothingOwed", (hex_of(account),))
        del self.owed[account]
        self.coins.pay(self.domain.contract, account, amount)
        return amount

    def _owe(self, account: Address, amount: int) -> None:
        self.owed[account] = self.owed_to(account) + amount

    def _waiting(self, slash_id: Digest) -> Slash:
        slash = self.slashes.get(slash_id)
        if slash is None or slash.state is not State.WAITING:
            raise Reverted("NotWaiting", (slash_id, int(slash.state if slash else State.NONE)))
        return slash

    # --- reading -------------------------------------------------------------------------------------
    def owed_to(self, account: Address) -> int:
        return self.owed.get(account, 0)

    @property
    def total_owed(self) -> int:
        return sum(self.owed.values())


def _require_signed(performer: Address, digest: Digest, signature: bytes) -> None:
    if not ecdsa.is_signed_by(performer, digest, signature):
        raise Reverted("PerformerSignatureMismatch", (hex_of(performer),))
