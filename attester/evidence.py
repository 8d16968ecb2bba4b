"""The evidence behind this attester's votes: stored before each is signed, revealed when nobody can use it any more."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import nlargest

import msgspec
import structlog

from shared.constants import EVIDENCE_SECONDS, MAX_EVIDENCE, MAX_EVIDENCE_STORE_BYTES, SEEN_CACHE_SIZE
from shared.errors import PoiError
from shared.evidence import (
    MAX_STATISTICS,
    NO_EVIDENCE,
    Evidence,
    Number,
    commit,
    encode_evidence,
    encode_opening,
    output_in_evidence,
    salt_of,
)
from shared.interfaces import Clock, TaskStore, VoteGuard
from shared.messages import TaskMessage
from shared.types import Address, Digest, TaskDefinition, Verdict
from shared.verification.method import Judgement

log = structlog.get_logger(__name__)

EVIDENCE = "evidence"  # the store's kind; its keys are task info hashes
CLEAN_SECONDS = 60.0  # what came meanwhile, at 50 messages a second, is 3,000 over the limit


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """As it is stored."""

    kept_at: float  # unix seconds
    task_id: Digest
    deadline: int  # of the task; unix seconds
    evidence: bytes


@dataclass(frozen=True, slots=True)
class _Line:
    """What is remembered of each, to know which goes first."""

    kept_at: float
    size: int


@dataclass(frozen=True, slots=True)
class Sealed:
    """It is there, and stays closed until then (unix seconds) or until its task is certified."""

    until: int


def evidence_of(
    message: TaskMessage, info_hash: Digest, attester: Address, definition: TaskDefinition, judgement: Judgement
) -> Evidence:
    """Of a vote; an abstention has none."""
    recomputed = judgement.recomputed
    # The largest say why; a batch audit has one for each of up to a thousand layers.
    statistics = nlargest(MAX_STATISTICS, judgement.statistics.items(), key=lambda item: _rank(item[1]))
    return Evidence(
        task_info_hash=f"0x{info_hash.hex()}",
        task_id=f"0x{message.task_info.task_id.hex()}",
        attester=f"0x{attester.hex()}",
        card_cid=definition.card_cid,
        method=definition.method,
        verdict="valid" if judgement.verdict is Verdict.VALID else "invalid",
        reason=None if judgement.reason is None else str(judgement.reason),
        score=_number(judgement.score),
        statistics={name: _number(value) for name, value in statistics},
        is_refereed=judgement.is_refereed,
        engine=judgement.engine,
        recomputed=None if recomputed is None else output_in_evidence(recomputed),
    )


class EvidenceLocker:
    """One operator's, in its task store. The salts follow from a secret of its node seed, so none is stored."""

    def __init__(
        self,
        *,
        store: TaskStore,
        guard: VoteGuard,
        secret: bytes,
        address: Address,
        clock: Clock,
        max_count: int = MAX_EVIDENCE,
        max_bytes: int = MAX_EVIDENCE_STORE_BYTES,
    ) -> None:
        self._store, self._guard, self._secret = store, guard, secret
        self._address, self._clock = address, clock
        self._max_count, self._max_bytes = max_count, max_bytes
        self._lines: OrderedDict[Digest, _Line] = OrderedDict()  # the oldest first
        self._bytes = 0
        self._certified: OrderedDict[Digest, None] = OrderedDict()  # task info hashes, as heard in this life

    async def load(self) -> None:
        """What former processes stored. Before anything else."""
        found = [(Digest(key), _line(stored)) async for key, stored in self._store.scan(EVIDENCE)]
        for info_hash, line in sorted(found, key=lambda entry: entry[1].kept_at):
            self._remember(info_hash, line)

    async def run(self) -> None:
        """Lets go of what is too old, or too much, until cancelled."""
        while True:
            try:
                await self.clean()
            except PoiError as error:
                log.warning("old evidence is not let go of yet", reason=str(error))
            await asyncio.sleep(CLEAN_SECONDS)

    async def clean(self) -> None:
        """The oldest go first."""
        for info_hash in list(self._surplus()):
            await self.forget(info_hash)

    # --- keeping -------------------------------------------------------------------------------------
    async def keep(self, evidence: Evidence, message: TaskMessage, info_hash: Digest) -> None:
        """Durable before it returns. Of a vote that is not signed yet; another of the same takes its place."""
        kept = _Kept(
            kept_at=self._clock.now(),
            task_id=message.task_info.task_id,
            deadline=message.request.deadline,
            evidence=encode_evidence(evidence),
        )
        stored = msgspec.msgpack.encode(kept)
        await self._store.put(EVIDENCE, info_hash, stored)
        self._remember(info_hash, _Line(kept.kept_at, len(stored)))

    async def forget(self, info_hash: Digest) -> None:
        """Of a vote that was never signed, or long ago."""
        await self._store.delete(EVIDENCE, info_hash)
        line = self._lines.pop(info_hash, None)
        self._bytes -= line.size if line is not None else 0

    async def commitment_of(self, info_hash: Digest) -> Digest:
        """The same for every repetition of a vote. `NO_EVIDENCE` for one whose evidence is kept no longer."""
        kept = await self._get(info_hash)
        if kept is None:
            return NO_EVIDENCE
        return commit(salt_of(self._secret, info_hash), self._address, info_hash, kept.evidence)

    # --- revealing -----------------------------------------------------------------------------------
    def note_certified(self, info_hash: Digest) -> None:
        """A quorum has decided on it: no vote that could be copied from the evidence counts any more."""
        self._certified[info_hash] = None
        if len(self._certified) > SEEN_CACHE_SIZE:
            self._certified.popitem(last=False)

    async def reveal(self, info_hash: Digest) -> bytes | Sealed | None:
        """The opening of a vote's commitment, as JSON. None where there is no vote, or none whose evidence is kept."""
        kept = await self._get(info_hash)
        if kept is None or not await self._is_voted(info_hash, kept):
            return None
        if info_hash not in self._certified and self._clock.now() <= kept.deadline:
            return Sealed(kept.deadline)
        return encode_opening(salt_of(self._secret, info_hash), self._address, info_hash, kept.evidence)

    async def _is_voted(self, info_hash: Digest, kept: _Kept) -> bool:
        """A crash, or the guard's refusal, may leave evidence of a vote that was never cast."""
        voted = await self._guard.vote_of(kept.task_id)
        return voted is not None and voted[0] == info_hash

    # --- inside --------------------------------------------------------------------------------------
    def view(self) -> dict[str, int]:
        """For `/health`."""
        return {"kept": len(self._lines), "bytes": self._bytes}

    async def _get(self, info_hash: Digest) -> _Kept | None:
        stored = await self._store.get(EVIDENCE, info_hash)
        return None if stored is None else _decoder.decode(stored)

    def _remember(self, info_hash: Digest, line: _Line) -> None:
        former = self._lines.pop(info_hash, None)
        self._bytes += line.size - (former.size if former is not None else 0)
        self._lines[info_hash] = line

    def _surplus(self) -> Iterator[Digest]:
        """Those that are to go, in order."""
        now, count, total = self._clock.now(), len(self._lines), self._bytes
        for info_hash, line in self._lines.items():
            is_old = line.kept_at + EVIDENCE_SECONDS <= now
            if not is_old and count <= self._max_count and total <= self._max_bytes:
                return
            count, total = count - 1, total - line.size
            yield info_hash


_decoder = msgspec.msgpack.Decoder(_Kept)


def _line(stored: bytes) -> _Line:
    return _Line(_decoder.decode(stored).kept_at, len(stored))


def _rank(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _number(value: float) -> Number:
    return value if math.isfinite(value) else None
