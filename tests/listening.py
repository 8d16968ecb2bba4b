"""Tests on virtual time, duties in the background, and a node that hears all gossip and says what a test wants said."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ParamSpec

from shared import messages
from shared.adapters.memory.gossip import MemoryGossip
from shared.errors import CodecError
from shared.messages import (
    AbstainMessage,
    BatchProposal,
    BatchVote,
    CertificateMessage,
    SubmittedMessage,
    TaskMessage,
    Topics,
    VoteMessage,
)
from shared.reasons import AbstainReason
from shared.types import TaskCertificate
from tests.simnet.virtual_time import run_virtual

P = ParamSpec("P")
Message = TaskMessage | VoteMessage | AbstainMessage | CertificateMessage | SubmittedMessage | BatchProposal | BatchVote

SUBSCRIBED_SECONDS = 0.01  # of the same, in which a duty that starts has subscribed to what it hears
PATIENCE_SECONDS = 30.0  # of the loop's time, which jumps in most of these tests


def virtual(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """The test on virtual time."""

    @functools.wraps(test)
    def run(*arguments: P.args, **named: P.kwargs) -> None:
        run_virtual(test(*arguments, **named))

    return run


async def until(condition: Callable[[], object], what: str, limit_seconds: float = PATIENCE_SECONDS) -> None:
    """Waits for a condition; fails with its name."""
    end, pause = asyncio.get_running_loop().time() + limit_seconds, 0.005
    while not condition():
        assert asyncio.get_running_loop().time() < end, f"not within {limit_seconds} s: {what}"
        await asyncio.sleep(pause)
        pause = min(1.1 * pause, 0.1)  # minutes of virtual time would be a great many steps


@asynccontextmanager
async def running(duty: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    """In the background; a duty that ended by itself fails the test with what ended it."""
    task = asyncio.create_task(duty)
    try:
        await asyncio.sleep(SUBSCRIBED_SECONDS)
        yield task
        if task.done():
            task.result()
            raise AssertionError("the duty ended")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@dataclass
class Bystander:
    """A gossip node that plays no role: it hears everything, and says what a test wants said as anybody's node."""

    gossip: MemoryGossip
    topics: Topics
    heard: list[Message] = field(default_factory=list)

    def of(self, kind: type[Any], where: Callable[[Any], object] = lambda _: True) -> list[Any]:
        """Messages of one kind, in the order they came."""
        return [message for message in self.heard if isinstance(message, kind) and where(message)]

    @property
    def votes(self) -> list[VoteMessage]:
        return self.of(VoteMessage)

    @property
    def abstentions(self) -> list[AbstainReason]:
        return [message.reason for message in self.of(AbstainMessage)]

    @property
    def certificates(self) -> list[TaskCertificate]:
        return [message.certificate for message in self.of(CertificateMessage)]

    async def hears(self, kind: type[Any], count: int = 1) -> list[Any]:
        await until(lambda: len(self.of(kind)) >= count, f"{count} {kind.__name__} among {self.heard}")
        return self.of(kind)

    async def say(self, message: Message) -> None:
        await self.gossip.publish(self.topic_of(message), messages.encode(message))

    def topic_of(self, message: Message) -> str:
        match message:
            case TaskMessage():
                return self.topics.task
            case VoteMessage() | AbstainMessage():
                return self.topics.vote
            case CertificateMessage() | SubmittedMessage():
                return self.topics.certificate
            case BatchProposal() | BatchVote():
                return self.topics.batch


async def listen(received: AsyncIterator[Any], decode: Callable[[bytes], Message], heard: list[Message]) -> None:
    async for message in received:
        with contextlib.suppress(CodecError):  # some tests say what is no message
            heard.append(decode(message.data))
