"""A judge that says what it is told, a signer that can be looked over the shoulder, and a performer that asks again."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec

from attester.judge import Judge
from shared.adapters.memory.store import MemoryFile
from shared.adapters.signers import LocalVoteSigner
from shared.constants import REPUBLISH_SECONDS
from shared.crypto import bls
from shared.errors import SigningError
from shared.evidence import NO_EVIDENCE
from shared.messages import TaskMessage, VoteMessage
from shared.reasons import AbstainReason
from shared.types import Digest, Verdict
from shared.verification.method import Judgement
from tests.listening import Bystander

LABEL_2 = (2).to_bytes(32, "big")


def bare(vote: VoteMessage) -> VoteMessage:
    """Without its commitment, as `Cast.vote` makes them."""
    return msgspec.structs.replace(vote, evidence=NO_EVIDENCE)


def now() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class ScriptedJudge:
    """Says what it is told, after `seconds`; remembers when it was asked."""

    opinions: list[Judgement] = field(default_factory=list)  # the last one stays
    seconds: float = 0.0
    asked: list[tuple[float, Digest]] = field(default_factory=list)
    running: int = 0
    most_at_once: int = 0

    async def judge(self, message: TaskMessage) -> Judgement:
        self.asked.append((now(), message.task_info.task_id))
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        await asyncio.sleep(self.seconds)
        self.running -= 1
        return self.opinions.pop(0) if len(self.opinions) > 1 else self.opinions[0]

    @property
    def as_judge(self) -> Judge:
        return cast("Judge", self)


def saying(*opinions: Judgement, seconds: float = 0.0) -> ScriptedJudge:
    return ScriptedJudge(list(opinions), seconds)


def abstain(reason: AbstainReason) -> Judgement:
    return Judgement(verdict=Verdict.ABSTAIN, reason=reason, score=0.0)


AWAY = abstain(AbstainReason.PROOF_UNAVAILABLE)


class SpySigner(LocalVoteSigner):
    """Notes what the guard's disk held when the key signed; fails while told to."""

    def __init__(self, key: bls.SecretKey, file: MemoryFile) -> None:
        super().__init__(key)
        self.file, self.held, self.is_broken = file, list[dict[Digest, Any]](), False

    async def sign(self, digest: Digest) -> bytes:
        self.held.append(dict(self.file.votes))
        if self.is_broken:
            raise SigningError("the signer is away")
        return await super().sign(digest)


async def repeat(speaker: Bystander, *tasks: TaskMessage, times: int = 1) -> None:
    """As a performer that nobody answers."""
    for _ in range(times):
        for message in tasks:
            await speaker.say(message)
        await asyncio.sleep(REPUBLISH_SECONDS)
