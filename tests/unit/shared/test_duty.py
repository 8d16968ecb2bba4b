"""Attending to a topic: in order, only what is valid, and no message ends the duty."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from shared.adapters.memory.gossip import MemoryGossip, MemoryHub
from shared.duty import attend
from shared.errors import ContentUnavailable, Reject, TransportError
from shared.interfaces import Received, Validator
from shared.types import PeerKey
from tests.builders import ATTESTERS, PERFORMER

TOPIC = "poi/3/31337/c0/vote"
LIMIT_SECONDS = 20.0  # the machine may be busy with other things


def valid(origin: PeerKey, data: bytes) -> None:
    """Anything that does not say otherwise."""
    if data.startswith(b"invalid"):
        raise Reject("invalid")


class Duty:
    """Handles messages as a test says, and remembers all of them."""

    def __init__(self, act: Callable[[bytes], Awaitable[None]] | None = None) -> None:
        self.received: list[Received] = []
        self._act = act
        self._changed = asyncio.Event()

    @property
    def data(self) -> list[bytes]:
        return [received.data for received in self.received]

    async def handle(self, received: Received) -> None:
        self.received.append(received)
        self._changed.set()
        if self._act is not None:
            await self._act(received.data)

    async def has(self, count: int) -> None:
        async with asyncio.timeout(LIMIT_SECONDS):
            while len(self.received) < count:
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def attending(
    duty: Duty, validate: Validator = valid
) -> AsyncIterator[tuple[MemoryGossip, MemoryGossip, asyncio.Task[None]]]:
    """A node at its duty, and another that publishes."""
    everybody = [PERFORMER.peer_key, ATTESTERS[0].peer_key]
    hub = MemoryHub()
    async with (
        MemoryGossip(hub=hub, key=PERFORMER.peer_key, members=lambda: everybody) as origin,
        MemoryGossip(hub=hub, key=ATTESTERS[0].peer_key, members=lambda: everybody) as node,
    ):
        task = asyncio.create_task(attend(node, TOPIC, validate, duty.handle))
        await asyncio.sleep(0)
        try:
            yield origin, node, task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_messages_are_handled_in_order_with_their_origin() -> None:
    duty = Duty()
    async with attending(duty) as (origin, _, _):
        for i in range(20):
            await origin.publish(TOPIC, b"%d" % i)
        await duty.has(20)
    assert duty.data == [b"%d" % i for i in range(20)]
    assert {received.origin for received in duty.received} == {PERFORMER.peer_key}


async def test_what_the_validator_refuses_is_not_handled() -> None:
    duty = Duty()
    async with attending(duty) as (origin, _, _):
        for data in (b"one", b"invalid", b"two"):
            await origin.publish(TOPIC, data)
        await duty.has(2)
    assert duty.data == [b"one", b"two"]


async def test_one_message_is_handled_at_a_time() -> None:
    under_way = 0

    async def act(data: bytes) -> None:
        nonlocal under_way
        under_way += 1
        assert under_way == 1
        await asyncio.sleep(0.001)
        under_way -= 1

    duty = Duty(act)
    with capture_logs() as logs:
        async with attending(duty) as (origin, _, _):
            for i in range(5):
                await origin.publish(TOPIC, b"%d" % i)
            await duty.has(5)
    assert logs == []


@pytest.mark.parametrize("error", [ContentUnavailable("bafk"), TransportError("stopped"), Reject("signers")])
async def test_an_error_of_ours_costs_its_message_alone(error: Exception) -> None:
    async def act(data: bytes) -> None:
        if data == b"bad":
            raise error

    duty = Duty(act)
    with capture_logs() as logs:
        async with attending(duty) as (origin, _, task):
            for data in (b"bad", b"good", b"bad", b"good"):
                await origin.publish(TOPIC, data)
            await duty.has(4)
            assert not task.done()
    expected = {"log_level": "warning", "event": "message not handled", "topic": "vote", "reason": str(error)}
    assert logs == [expected, expected]


async def test_a_fault_costs_its_message_alone_and_is_logged_whole() -> None:
    async def act(data: bytes) -> None:
        if data == b"bad":
            raise KeyError("a bug")

    duty = Duty(act)
    with capture_logs() as logs:
        async with attending(duty) as (origin, _, task):
            for data in (b"bad", b"good"):
                await origin.publish(TOPIC, data)
            await duty.has(2)
            assert not task.done()
    (line,) = logs
    assert (line["log_level"], line["event"], line["topic"]) == ("error", "fault while handling a message", "vote")
    assert line["exc_info"]


async def test_a_cancelled_duty_ends_and_lets_go_of_its_topic() -> None:
    started = asyncio.Event()

    async def act(data: bytes) -> None:
        started.set()
        await asyncio.Event().wait()

    with capture_logs() as logs:
        async with attending(Duty(act)) as (origin, node, task):
            await origin.publish(TOPIC, b"one")
            async with asyncio.timeout(LIMIT_SECONDS):
                await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            # One subscription a topic and node: a second one is only possible when the first is gone.
            again = Duty()
            second = asyncio.create_task(attend(node, TOPIC, valid, again.handle))
            await asyncio.sleep(0)
            await origin.publish(TOPIC, b"two")
            await again.has(1)
            second.cancel()
            await asyncio.gather(second, return_exceptions=True)
    assert again.data == [b"two"]
    assert logs == []
