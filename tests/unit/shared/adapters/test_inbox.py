"""The queue between a transport's thread and one reader."""

import asyncio
import threading

import pytest

from shared.adapters.inbox import Inbox
from shared.errors import TransportError
from shared.interfaces import Received
from shared.types import PeerKey

ORIGIN = PeerKey(bytes(32))


def received(number: int, size: int = 8) -> Received:
    return Received(ORIGIN, number.to_bytes(size, "big"))


def inbox(max_messages: int = 1000, max_bytes: int = 10**6) -> Inbox:
    return Inbox(asyncio.get_running_loop().call_soon_threadsafe, max_messages, max_bytes)


async def test_in_order():
    box = inbox()
    for number in range(5):
        assert box.put(received(number))
    assert [await anext(box) for _ in range(5)] == [received(number) for number in range(5)]


async def test_the_newest_is_lost_when_messages_are_too_many():
    box = inbox(max_messages=2)
    assert [box.put(received(number)) for number in range(4)] == [True, True, False, False]
    assert box.dropped == 2
    assert (await anext(box), await anext(box)) == (received(0), received(1))
    assert box.put(received(9))


async def test_the_newest_is_lost_when_bytes_are_too_many():
    box = inbox(max_bytes=20)
    assert [box.put(received(0, 15)), box.put(received(1, 6)), box.put(received(2, 5))] == [True, False, True]
    await anext(box)
    assert box.put(received(3, 15))


async def test_a_reader_that_waits_is_woken():
    box = inbox()
    reading = asyncio.ensure_future(anext(box))
    await asyncio.sleep(0)
    box.put(received(1))
    assert await reading == received(1)


async def test_from_another_thread_nothing_is_lost():
    box = inbox(max_messages=100_000)
    thread = threading.Thread(target=lambda: [box.put(received(number)) for number in range(20_000)])
    thread.start()
    async with asyncio.timeout(20):
        assert [await anext(box) for _ in range(20_000)] == [received(number) for number in range(20_000)]
    thread.join()


async def test_one_callback_is_under_way_at_most():
    """The loop's queue of callbacks has no bound: a stalled loop must not fill it."""
    woken: list[object] = []
    box = Inbox(woken.append)
    for number in range(100):
        box.put(received(number))
    assert len(woken) == 1


async def test_after_the_end_what_is_there_is_still_read():
    box = inbox()
    box.put(received(1))
    box.close()
    assert [message async for message in box] == [received(1)]


async def test_an_end_with_a_reason_is_an_error():
    box = inbox()
    box.put(received(1))
    box.close("it died")
    box.close()
    assert await anext(box) == received(1)
    with pytest.raises(TransportError, match="it died"):
        await anext(box)


async def test_closing_wakes_the_reader():
    box = inbox()
    reading = asyncio.ensure_future(anext(box))
    await asyncio.sleep(0)
    box.close()
    with pytest.raises(StopAsyncIteration):
        await reading
