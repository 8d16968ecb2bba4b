"""Votes by task, and what they add up to: pure. Who signs twice is named here."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from shared import quorum
from shared.constants import MAX_POOLED_TASKS
from shared.messages import AbstainMessage, TaskMessage, VoteMessage
from shared.reasons import AbstainReason
from shared.types import Address, Digest, OperatorTable, Verdict


class Counted(StrEnum):
    """What became of a vote."""

    NEW = "new"
    REPEATED = "repeated"
    EQUIVOCATION = "equivocation"  # a second, different vote of this attester on this task
    STRANGER = "stranger"  # not in the epoch's table
    FORGOTTEN = "forgotten"  # the task made room for newer ones


@dataclass
class Tally:
    """The votes on one task info."""

    task_info_hash: Digest
    message: TaskMessage
    table: OperatorTable
    signatures: dict[Verdict, dict[int, bytes]] = field(
        default_factory=lambda: {Verdict.VALID: {}, Verdict.INVALID: {}}
    )
    abstained: dict[int, AbstainReason] = field(default_factory=dict)

    def power(self, verdict: Verdict) -> int:
        return quorum.power_of(self.table, self.signatures[verdict])

    def withdraw(self, attester: Address) -> None:
        """Forget what the attester signed."""
        index = self.table.index_of(attester)
        for signatures in self.signatures.values():
            signatures.pop(index if index is not None else -1, None)

    def abstentions(self) -> Mapping[Address, AbstainReason]:
        return {self.table.entries[index].address: reason for index, reason in self.abstained.items()}

    def is_complete(self) -> bool:
        """Everybody with a vote has cast it, for either verdict."""
        voted = self.signatures[Verdict.VALID].keys() | self.signatures[Verdict.INVALID].keys()
        return voted >= {seat for seat, entry in enumerate(self.table.entries) if entry.power}

    def is_unanimous(self) -> bool:
        """And all for the same one."""
        return self.is_complete() and not all(self.signatures.values())

    def waits(self, now: float) -> bool:
        """For a definition that waits for all votes: whether some may still come."""
        return not self.is_complete() and now <= self.message.request.deadline

    def reached(self) -> Verdict | None:
        """The verdict whose strict quorum is there. Never two: nobody is counted for both."""
        for verdict in (Verdict.VALID, Verdict.INVALID):
            if quorum.reached(verdict, self.power(verdict), self.table.total_power):
                return verdict
        return None


@dataclass(frozen=True)
class Equivocation:
    """Two signed votes of one attester on one task that cannot both be honest."""

    attester: Address
    first: VoteMessage
    second: VoteMessage


@dataclass
class _Ballots:
    """What attesters signed for one task, over all of its task infos."""

    tallies: set[Digest] = field(default_factory=set)  # task info hashes that are pooled
    first: dict[Address, VoteMessage] = field(default_factory=dict)
    barred: set[Address] = field(default_factory=set)  # equivocators


class VotePool:
    """Votes whose signature was verified, on tasks that are known. Bounded; the oldest task goes first, with all that
    was remembered of it: half a memory would count an attester for both verdicts, or a repeated vote never again.
    """

    def __init__(self, *, capacity: int = MAX_POOLED_TASKS) -> None:
        self._capacity = capacity
        self._tallies: OrderedDict[Digest, Tally] = OrderedDict()  # by task info hash
        self._ballots: dict[Digest, _Ballots] = {}  # by task id; a task is here while one of its tallies is
        self.equivocations: OrderedDict[tuple[Digest, Address], Equivocation] = OrderedDict()

    def open(self, task_info_hash: Digest, message: TaskMessage, table: OperatorTable) -> Tally:
        """The task's tally, a new one the first time. `table` must be the one of the task info's epoch."""
        tally = self._tallies.setdefault(task_info_hash, Tally(task_info_hash, message, table))
        self._ballots.setdefault(_task_of(tally), _Ballots()).tallies.add(task_info_hash)
        while len(self._tallies) > self._capacity:
            self._forget(self._tallies.popitem(last=False)[1])
        return tally

    def tally(self, task_info_hash: Digest) -> Tally | None:
        return self._tallies.get(task_info_hash)

    def has_counted(self, vote: VoteMessage) -> bool:
        """The very same vote was counted: its signature need not be verified again."""
        ballots = self._ballots.get(vote.task_id)
        return ballots is not None and ballots.first.get(vote.attester) == vote

    def add_vote(self, vote: VoteMessage, tally: Tally) -> Counted:
        """The caller has verified the signature, so that nobody can be framed as an equivocator, and that the vote
        names the tally's task and epoch."""
        index = tally.table.index_of(vote.attester)
        if index is None:
            return Counted.STRANGER
        if self._tallies.get(tally.task_info_hash) is not tally:
            return Counted.FORGOTTEN
        ballots = self._ballots[_task_of(tally)]
        if vote.attester in ballots.barred:
            return Counted.EQUIVOCATION
        first = ballots.first.setdefault(vote.attester, vote)
        if _conflict(first, vote):
            ballots.barred.add(vote.attester)
            self._name_equivocator(Equivocation(vote.attester, first, vote))
            return Counted.EQUIVOCATION
        if index in tally.signatures[vote.verdict]:
            return Counted.REPEATED
        tally.signatures[vote.verdict][index] = vote.signature
        tally.abstained.pop(index, None)
        return Counted.NEW

    def add_abstention(self, message: AbstainMessage, tally: Tally) -> None:
        """Counts for nobody; kept so that people see why power is missing."""
        index = tally.table.index_of(message.attester)
        ballots = self._ballots.get(_task_of(tally))
        if index is not None and ballots is not None and message.attester not in ballots.first:
            tally.abstained[index] = message.reason

    def _name_equivocator(self, equivocation: Equivocation) -> None:
        self.equivocations[equivocation.first.task_id, equivocation.attester] = equivocation
        if len(self.equivocations) > self._capacity:
            self.equivocations.popitem(last=False)
        # Neither vote counts any more: which of them is the lie is not for us to guess.
        for vote in (equivocation.first, equivocation.second):
            tally = self._tallies.get(vote.task_info_hash)
            if tally is not None:
                tally.withdraw(vote.attester)

    def _forget(self, tally: Tally) -> None:
        ballots = self._ballots[_task_of(tally)]
        ballots.tallies.discard(tally.task_info_hash)
        for attester in [a for a, vote in ballots.first.items() if vote.task_info_hash == tally.task_info_hash]:
            del ballots.first[attester]
        if not ballots.tallies:
            del self._ballots[_task_of(tally)]


def _task_of(tally: Tally) -> Digest:
    return tally.message.task_info.task_id


def _conflict(first: VoteMessage, second: VoteMessage) -> bool:
    return (first.task_info_hash, first.verdict) != (second.task_info_hash, second.verdict)
