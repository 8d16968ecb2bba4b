"""How strangers share a node: turns, waiting, bytes a second, and thousands of addresses."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from aiohttp import web

from shared.adapters.content import limits as module
from shared.adapters.content.limits import REQUEST_BYTES, ClientLimits, client_of
from tests.content_support import until


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.mark.parametrize(
    ("remote", "client"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        (None, ""),
        ("unix:", ""),
    ],
)
def test_a_client_is_an_address_or_a_subscribers_network(remote, client):
    assert client_of(remote) == client


# --- turns ---------------------------------------------------------------------------------------
async def test_one_client_does_not_take_anothers_turn():
    limits = ClientLimits(bodies=3, per_client=2, waiting_per_client=10)
    entered: list[str] = []
    leave = asyncio.Event()

    async def body(client: str) -> None:
        async with limits.body(client):
            entered.append(client)
            await leave.wait()

    tasks = [asyncio.create_task(body("192.0.2.1")) for _ in range(9)]
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(body("192.0.2.2")))
    await until(lambda: len(entered) == 3, "three are in")
    assert entered == ["192.0.2.1", "192.0.2.1", "192.0.2.2"]
    leave.set()
    await asyncio.gather(*tasks)
    assert limits.present == 0


async def test_a_request_that_is_given_up_frees_its_place():
    limits = ClientLimits(bodies=1, per_client=1, waiting_per_client=1)

    async def body() -> None:
        async with limits.body("192.0.2.1"):
            await asyncio.get_running_loop().create_future()

    tasks = [asyncio.create_task(body()) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(web.HTTPTooManyRequests):
        await body()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert limits.present == 0
    async with limits.body("192.0.2.1"):
        pass


async def test_when_the_node_is_half_full_nobody_may_have_any_wait():
    limits = ClientLimits(per_client=2, waiting_per_client=10, max_present=8)
    async with AsyncExitStack() as present:
        for _ in range(4):  # alone, it may have four and more
            await present.enter_async_context(limits.request("192.0.2.1"))
        with pytest.raises(web.HTTPTooManyRequests):
            await present.enter_async_context(limits.request("192.0.2.1"))
        for client in ("192.0.2.2", "192.0.2.2", "192.0.2.3", "192.0.2.4"):
            await present.enter_async_context(limits.request(client))
        with pytest.raises(web.HTTPServiceUnavailable) as refusal:
            await present.enter_async_context(limits.request("192.0.2.5"))
        assert refusal.value.headers["Retry-After"] == "1"
    assert limits.present == 0
    async with limits.request("192.0.2.5"):
        pass


# --- bytes a second ------------------------------------------------------------------------------
async def test_who_is_over_its_bytes_a_second_is_told_when_to_come_again():
    clock = Clock()
    limits = ClientLimits(bytes_per_second=1000, burst_bytes=5000 + REQUEST_BYTES, clock=clock)
    async with limits.request("192.0.2.1") as client:
        client.charge(5000)
        assert client.debt() == 0  # all of its burst is gone, and no more
        client.charge(2500)
        assert client.debt() == 2.5
    with pytest.raises(web.HTTPTooManyRequests) as refusal:
        async with limits.request("192.0.2.1"):
            pass
    assert (refusal.value.text, refusal.value.headers["Retry-After"]) == ("too much in a short time; more in 3 s", "3")
    async with limits.request("192.0.2.2"):
        pass
    clock.seconds = 2.5
    async with limits.request("192.0.2.1"):
        pass


async def test_an_archive_under_way_waits_for_its_debt():
    clock = Clock()
    limits = ClientLimits(bytes_per_second=1e6, burst_bytes=REQUEST_BYTES, clock=clock)
    loop = asyncio.get_running_loop()
    async with limits.request("192.0.2.1") as client:
        began = loop.time()
        await client.paid()
        client.charge(50_000)
        await client.paid()
        assert loop.time() - began >= 0.05


async def test_asking_costs_even_if_there_is_nothing_to_get():
    clock = Clock()
    limits = ClientLimits(bytes_per_second=1, burst_bytes=10 * REQUEST_BYTES, clock=clock)
    for _ in range(11):
        async with limits.request("192.0.2.1"):
            pass
    with pytest.raises(web.HTTPTooManyRequests):
        await limits.request("192.0.2.1").__aenter__()


def test_the_numbers_let_peers_work_and_hold_nobody_up_for_long():
    """A model of two GiB at once; a testnet's fifty requests at once; a refusal of seconds, not of minutes."""
    assert module.BURST_BYTES >= 2 << 30
    assert module.MAX_BODIES_PER_CLIENT + module.MAX_WAITING_PER_CLIENT >= 50
    most = (module.MAX_BODIES_PER_CLIENT + module.MAX_WAITING_PER_CLIENT) * (2 << 20)
    assert most / module.BYTES_PER_SECOND < 10
    assert module.MAX_CLIENTS > module.MAX_PRESENT


# --- many addresses ------------------------------------------------------------------------------
async def test_thousands_of_addresses_are_not_all_remembered():
    limits = ClientLimits(max_clients=100)
    async with limits.request("192.0.2.1") as first:
        for number in range(5000):
            async with limits.request(f"2001:db8:0:{number:x}::1"):
                pass
        assert len(limits.clients) == 100
        assert limits.clients["192.0.2.1"] is first  # who is here is not forgotten
    assert limits.present == 0


async def test_who_was_here_last_is_forgotten_last():
    limits = ClientLimits(max_clients=2)
    for client in ("192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.3"):
        async with limits.request(client):
            pass
    assert list(limits.clients) == ["192.0.2.1", "192.0.2.3"]
