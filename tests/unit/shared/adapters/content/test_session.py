"""The client of content: who is connected to, by which name whatsoever, and what is kept of whom."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import ClientSession
from aiohttp.abc import ResolveResult

from shared.adapters.content import session as content_session
from shared.adapters.content.addresses import AddressPolicy
from shared.adapters.content.race import MAX_ATTEMPTS_AT_ONCE
from shared.adapters.content.read import BLOCKS_AHEAD
from shared.adapters.content.session import open_session
from shared.adapters.content.sources import answers
from shared.adapters.content.sources.operators import OperatorGateway
from shared.constants import MAX_CONCURRENT_VERIFICATIONS
from shared.errors import SourceFailed
from shared.interfaces import Meter, Wanted
from shared.reasons import SourceFault
from tests.content_support import LIMIT_SECONDS, LOOPBACK, Blocks, talking, until
from tests.liars import CONTENT, answer

CID = Blocks().leaf(CONTENT)
WANTED = Wanted(CID, CID)


@dataclass
class Inside:
    """A service of this machine that no stranger may reach."""

    port: int
    connections: int = 0


@pytest.fixture
async def inside() -> AsyncIterator[Inside]:
    found = Inside(0)

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found.connections += 1
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        found.port = server.sockets[0].getsockname()[1]
        yield found


@pytest.fixture
async def session() -> AsyncIterator[ClientSession]:
    """For public addresses alone."""
    async with open_session(AddressPolicy()) as session:
        yield session


@pytest.fixture
async def loopback() -> AsyncIterator[ClientSession]:
    async with open_session(AddressPolicy(LOOPBACK)) as session:
        yield session


async def failing(session: ClientSession, url: str) -> SourceFailed:
    with pytest.raises(SourceFailed) as failed:
        await OperatorGateway(session, "odd", url).fetch(WANTED, Meter())
    return failed.value


def names(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """From now on every name is at these addresses."""

    def look_up(host: str, port: int, *_: object) -> list[Any]:
        return [
            (socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in addresses
        ]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


# --- who is connected to -------------------------------------------------------------------------
INSIDE = [
    "127.0.0.1",
    "0x7f000001",
    "0x7f.1",
    "0x7f.0.0.1",
    "0.0.0.0",
    "１２７.０.０.１",
    "127。0。0。1",
    "localhost",
    "LOCALHOST",
    "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
]
ODD = ["127.0.0.1.", "127.1", "127.0.1", "2130706433", "0177.0.0.1", "017700000001", "0"]


@pytest.mark.parametrize("host", INSIDE, ids=ascii)
async def test_no_spelling_of_an_inner_address_is_connected_to(session, inside, host):
    failure = await failing(session, f"http://{host}:{inside.port}")
    assert failure.fault is SourceFault.ADDRESS_REFUSED
    assert str(failure).endswith(
        "is no public address; put its network into content.private_networks to fetch from there"
    )
    assert inside.connections == 0


@pytest.mark.parametrize("host", ODD)
async def test_numbers_that_only_some_read_as_an_address_are_not_connected_to(session, inside, host):
    failure = await failing(session, f"http://{host}:{inside.port}")
    assert "is not a canonical IPv4 address" in str(failure)
    assert inside.connections == 0


@pytest.mark.parametrize("host", ["[::1%25lo]", "[fe80::1%25lo]"])
async def test_no_interface_is_chosen_by_strangers(session, inside, host):
    failure = await failing(session, f"http://{host}:{inside.port}")
    assert str(failure) == "its address names an interface of this machine"
    assert inside.connections == 0


async def test_a_listed_network_is_connected_to(loopback, inside):
    failure = await failing(loopback, f"http://127.0.0.1:{inside.port}")
    assert failure.fault is SourceFault.UNREACHABLE  # it hangs up
    assert inside.connections > 0


async def test_the_operators_own_urls_are_connected_to_wherever_they_lead(inside):
    async with open_session(None) as session:
        await failing(session, f"http://127.0.0.1:{inside.port}")
    assert inside.connections > 0


@pytest.mark.parametrize(
    "addresses",
    [
        ("127.0.0.1",),
        ("1.1.1.1", "127.0.0.1"),
        ("127.0.0.1", "1.1.1.1"),
        ("2606:4700::1", "::1"),
        ("1.1.1.1", "10.0.0.1", "1.0.0.1"),
        ("fe80::1%eth0",),
    ],
)
async def test_a_name_with_any_inner_address_is_not_connected_to_at_all(session, inside, monkeypatch, addresses):
    names(monkeypatch, *addresses)
    failure = await failing(session, f"http://rebound.example:{inside.port}")
    assert failure.fault is SourceFault.ADDRESS_REFUSED
    assert inside.connections == 0


async def test_a_name_in_a_listed_network_is_connected_to(loopback, inside, monkeypatch):
    names(monkeypatch, "127.0.0.1")
    failure = await failing(loopback, f"http://operator.example:{inside.port}")
    assert failure.fault is SourceFault.UNREACHABLE
    assert inside.connections > 0


@pytest.mark.parametrize("count", [1, 2])
async def test_the_address_is_checked_again_when_it_is_connected_to(session, inside, monkeypatch, count):
    """Whatever was resolved or remembered before."""

    async def resolve(self: object, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=f"127.0.0.{number}", port=port, family=socket.AF_INET, proto=0, flags=0)
            for number in range(1, count + 1)
        ]

    monkeypatch.setattr(content_session._Resolver, "resolve", resolve)
    failure = await failing(session, f"http://rebound.example:{inside.port}")
    assert failure.fault is SourceFault.ADDRESS_REFUSED
    assert inside.connections == 0


# --- names ---------------------------------------------------------------------------------------
@pytest.fixture
def patience() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answers, "ATTEMPT_SECONDS", LIMIT_SECONDS)
        yield


async def test_host_names_are_looked_up_in_threads_of_their_own(session, patience, monkeypatch):
    """A liar's name server that never answers must not hold up what else runs in threads."""
    stuck = threading.Event()
    looking: list[str] = []

    def look_up(host: str, *_: object) -> list[object]:
        looking.append(threading.current_thread().name)
        stuck.wait(LIMIT_SECONDS)
        raise socket.gaierror("no answer")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    sources = [OperatorGateway(session, "slow", f"http://{number}.invalid") for number in range(20)]
    fetches = [asyncio.create_task(source.fetch(WANTED, Meter())) for source in sources]
    await until(lambda: len(looking) == 20, "all names are looked up")
    assert await asyncio.to_thread(lambda: "free") == "free"
    assert all(name.startswith("gateway DNS") for name in looking)
    stuck.set()
    outcomes = await asyncio.gather(*fetches, return_exceptions=True)
    assert all(isinstance(outcome, SourceFailed) for outcome in outcomes)


async def test_a_name_has_one_thread_whatever_ports_and_spellings_it_is_asked_for(session, patience, monkeypatch):
    """A performer that names its own host again and again must not keep the others from being looked up."""
    stuck = threading.Event()
    looking: list[str] = []

    def look_up(host: str, *_: object) -> list[object]:
        looking.append(host)
        if host == "slow.invalid":
            stuck.wait(LIMIT_SECONDS)
        raise socket.gaierror("no answer")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    urls = [f"http://{host}:{port}" for port in range(1, 21) for host in ("slow.invalid", "SLOW.invalid.")]
    given_up, *fetches = [
        asyncio.create_task(OperatorGateway(session, "slow", url).fetch(WANTED, Meter())) for url in urls
    ]
    await until(lambda: bool(looking), "the name is looked up")
    given_up.cancel()
    assert (await failing(session, "http://honest.invalid")).fault is SourceFault.UNREACHABLE
    assert looking == ["slow.invalid", "honest.invalid"]
    stuck.set()
    outcomes = await asyncio.gather(*fetches, return_exceptions=True)
    assert all(isinstance(outcome, SourceFailed) for outcome in outcomes)


def test_a_performer_that_stalls_leaves_connections_for_the_task_of_another():
    """It never has all verifications (`attester.turns`), and its ports count as so many hosts."""
    each = 2 * BLOCKS_AHEAD * MAX_ATTEMPTS_AT_ONCE
    assert (MAX_CONCURRENT_VERIFICATIONS - 1) * each + each <= content_session.MAX_CONNECTIONS


# --- memory --------------------------------------------------------------------------------------
async def test_cookies_are_not_kept(loopback, monkeypatch):
    names(monkeypatch, "127.0.0.1")
    async with talking(answer(CONTENT, "Set-Cookie: track=me")) as url:
        named = url.replace("127.0.0.1", "tracker.example")  # addresses have no cookies anyway
        await OperatorGateway(loopback, "tracker", named).fetch(WANTED, Meter())
        assert not list(loopback.cookie_jar)
