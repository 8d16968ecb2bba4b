"""Fetching from gateways that lie, stall, flood and vanish: never a wrong byte, never a hang, always a cause."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext, suppress

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.adapters.content.addresses import AddressPolicy
from shared.adapters.content.gateway import RAW, Gateway
from shared.adapters.content.read import ContentReader
from shared.adapters.content.session import open_session
from shared.adapters.content.sources import answers
from shared.adapters.content.sources.operators import OperatorGateway, OperatorSources, own_sources, registered_hosts
from shared.constants import MAX_BLOCK_BYTES, MAX_SOURCES
from shared.content.cid import Block
from shared.errors import ContentUnavailable, SourceFailed
from shared.interfaces import Meter, Wanted
from shared.reasons import SourceFault
from shared.types import Address, Cid, Ref, SourceKind
from tests.content_support import LOOPBACK, OPERATORS, Blocks, serving, talking
from tests.liars import CONTENT, LIARS, answer, bytes_of, hang

CID = Blocks().leaf(CONTENT)
WANTED = Wanted(CID, CID)
LIAR, HONEST, _ = OPERATORS


FRAGMENTS = [
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.0 200\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n",
    f"Content-Type: {RAW}\r\n".encode(),
    b"Content-Type: ;;==\r\n",
    b"Content-Type: text/html; charset=\xff\r\n",
    b"Content-Length: 7000\r\n",
    b"Content-Length: 1e3\r\n",
    b"Content-Encoding: br\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Set-Cookie: ;=;\r\n",
    b"Location: http://[\r\n",
    b"Connection: close\r\n",
    b"\r\n",
    b"1b58\r\n",
    b"0\r\n\r\n",
    b"-1\r\n",
    CONTENT,
]


@pytest.fixture(autouse=True, scope="module")
def patience() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answers, "ATTEMPT_SECONDS", 1.0)
        yield


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with open_session(AddressPolicy(LOOPBACK)) as session:
        yield session


class NoBlocks:
    """The local blocks of a node that keeps nothing."""

    async def read(self, cid: Cid) -> Block | None:
        return None

    async def write(self, block: Block) -> None:
        assert block.data == CONTENT

    def hold(self, root: Cid) -> AbstractContextManager[None]:
        return nullcontext()

    async def begin(self, root: Cid) -> None:
        raise AssertionError("a file of one block needs no second try")

    async def keep(self, root: Cid, size: int, keep_until: float) -> None:
        assert (root, size, keep_until) == (CID, len(CONTENT), 0.0)


@pytest.mark.parametrize(("talk", "cause", "fault"), LIARS.values(), ids=LIARS)
async def test_a_liar_is_a_cause_and_nothing_else(session, talk, cause, fault):
    started = time.monotonic()
    async with talking(talk) as url:
        source = OperatorGateway(session, "liar", url)
        with pytest.raises(SourceFailed) as failed:
            await source.fetch(WANTED, Meter())
    assert cause in str(failed.value)
    assert failed.value.fault is fault
    assert len(str(failed.value)) < 200
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("talk", [talk for talk, _, _ in LIARS.values()], ids=LIARS)
async def test_beside_a_liar_the_honest_gateway_is_enough(session, talk):
    blocks = Blocks()
    blocks.leaf(CONTENT)

    async def read(cid: Cid) -> Block | None:
        return blocks.get(cid)

    async with AsyncExitStack() as stack:
        urls = {
            LIAR: await stack.enter_async_context(talking(talk)),
            HONEST: await stack.enter_async_context(serving(Gateway(read).routes())),
        }
        sources = {operator: OperatorGateway(session, operator.hex(), url) for operator, url in urls.items()}
        reader = ContentReader(NoBlocks(), lambda prefer, ref: list(sources.values()))
        assert await reader.get(CID, max_bytes=7000, timeout_seconds=10, prefer=LIAR) == CONTENT
        await reader.close()


async def test_a_redirect_is_not_followed_even_to_the_content(session):
    async with AsyncExitStack() as stack:
        honest = await stack.enter_async_context(talking(answer(CONTENT)))
        away = answer(b"", f"Location: {honest}/ipfs/{CID}", status="307 Temporary Redirect")
        url = await stack.enter_async_context(talking(away))
        with pytest.raises(SourceFailed, match="HTTP status 307"):
            await OperatorGateway(session, "liar", url).fetch(WANTED, Meter())


async def test_a_gateway_that_is_not_there_is_a_cause(session):
    async with talking(hang) as url:
        pass
    with pytest.raises(SourceFailed, match="ClientConnectorError"):
        await OperatorGateway(session, "gone", url).fetch(WANTED, Meter())


NO_GATEWAYS = [
    "",
    "gateway",
    "//127.0.0.1/",
    "file:///etc/passwd",
    "ftp://127.0.0.1/",
    "unix:///run/docker.sock",
    "javascript:alert(1)",
    "http://",
    "http:///ipfs",
    "http://user@127.0.0.1/",
    "http://:password@127.0.0.1/",
    "http://127.0.0.1/?admin=",
    "http://127.0.0.1/#x",
    "http://[::1",
    "http://[]@",
    "http://[::1]@127.0.0.1/",
    "http://127.0.0.1:99999/",
    "http://127.0.0.1:0/",
    "http://127.0.0.1:port/",
]
NO_HOSTS = [
    "http://\x00/",
    "http://a b/",
    "http://" + "a" * 70 + ".invalid/",
    "http://" + "a." * 5000,
    "http://\ud800/",
    "http://.../",
    "https://nobody.invalid/",
]


@pytest.mark.parametrize("url", NO_GATEWAYS, ids=lambda url: ascii(url[:30]))
async def test_a_url_that_is_no_plain_http_is_never_connected_to(session, url):
    with pytest.raises(SourceFailed, match=r"^gateway URL") as failed:
        await OperatorGateway(session, "odd", url).fetch(WANTED, Meter())
    assert len(str(failed.value)) <= 100


@pytest.mark.parametrize("url", NO_HOSTS, ids=lambda url: ascii(url[:30]))
async def test_a_host_that_cannot_be_is_a_cause(session, url):
    with pytest.raises(SourceFailed) as failed:
        await OperatorGateway(session, "odd", url).fetch(WANTED, Meter())
    assert len(str(failed.value)) <= 100


async def test_a_gateway_may_live_below_a_path(session):
    asked: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answer(CONTENT)(reader, writer)

    async def noting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            await talk(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(noting, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        for base in (f"http://127.0.0.1:{port}/gate/way", f"http://127.0.0.1:{port}/gate/way/"):
            block = await OperatorGateway(session, "below", base).fetch(WANTED, Meter())
            assert block.data == CONTENT
    lines = [request.decode().split("\r\n") for request in asked]
    assert [line[0] for line in lines] == [f"GET /gate/way/ipfs/{CID}?format=raw HTTP/1.1"] * 2
    assert f"Accept: {RAW}" in lines[0]
    assert "Accept-Encoding: identity" in lines[0]
    assert not [line for line in lines[0] if line.startswith("Cookie")]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=20), max_size=12), st.booleans())
def test_whatever_a_gateway_says_a_block_or_a_cause_comes_of_it(fragments, starts_well):
    async def main() -> None:
        said = b"".join([b"HTTP/1.1 200 OK\r\n"] * starts_well + fragments)
        async with open_session(AddressPolicy(LOOPBACK)) as session, talking(bytes_of(said)) as url:
            with suppress(SourceFailed):
                assert (await OperatorGateway(session, "any", url).fetch(WANTED, Meter())).data == CONTENT

    asyncio.run(main())


async def test_the_largest_block_is_taken_and_metered(session):
    content = bytes(MAX_BLOCK_BYTES)
    meter = Meter()
    async with talking(answer(content)) as url:
        block = await OperatorGateway(session, "honest", url).fetch(Wanted(cid := Blocks().leaf(content), cid), meter)
    assert block.data == content
    assert meter.received_bytes == MAX_BLOCK_BYTES


async def test_each_gateways_failing_is_named(session):
    async with AsyncExitStack() as stack:
        talks = [answer(b"?"), answer(b"", status="404 Not Found"), hang]
        sources = {
            operator: OperatorGateway(session, operator.hex()[:2], await stack.enter_async_context(talking(talk)))
            for operator, talk in zip(OPERATORS, talks, strict=True)
        }
        reader = ContentReader(NoBlocks(), lambda prefer, ref: list(sources.values()))
        with pytest.raises(ContentUnavailable) as failed:
            await reader.get(CID, max_bytes=7000, timeout_seconds=0.8, prefer=None)
        await reader.close()
    assert failed.value.causes == {
        "01": f"wrong bytes: 1 bytes do not hash to {CID}",
        "02": "does not have it (404)",
        "03": "no whole block in time",
    }


# --- what a message names ------------------------------------------------------------------------
def ref_of(*sources: str) -> Ref:
    return Ref(CID, len(CONTENT), "unixfs-v1-2025", sources)


def test_sources_at_the_signers_hosts_count_and_no_others():
    hosts = registered_hosts("https://gate.example:8443/node", "/dns4/p2p.example/tcp/9700")
    own = own_sources(
        ref_of(
            "http://gate.example:9000/other",
            "https://P2P.Example./",
            "/dns4/gate.example/tcp/4001/p2p/12D3KooW",
            "/dns6/p2p.example/udp/4001/quic-v1",
            "http://victim.example/",
            "http://gate.example.victim.example/",
            "http://gate.example@victim.example/",
            "/dns4/victim.example/tcp/80",
        ),
        hosts,
    )
    assert own.urls == ("http://gate.example:9000/other", "https://P2P.Example./")
    assert own.multiaddrs == ("/dns4/gate.example/tcp/4001/p2p/12D3KooW", "/dns6/p2p.example/udp/4001/quic-v1")
    assert own.ignored == 4


@pytest.mark.parametrize(
    ("registered", "named"),
    [
        ("http://[2001:db8::1]:8700", "http://[2001:DB8:0:0::1]:9000"),
        ("http://[2001:db8::1]:8700", "/ip6/2001:db8:0::1/tcp/4001"),
        ("http://192.0.2.1:8700", "/ip4/192.0.2.1/tcp/4001"),
        ("http://bücher.example", "http://xn--bcher-kva.example/x"),
        ("http://gate.example.", "http://gate.example"),
    ],
)
def test_one_host_has_many_spellings(registered, named):
    assert own_sources(ref_of(named), registered_hosts(registered, "")).ignored == 0


@pytest.mark.parametrize(
    "named",
    [
        "",
        "/",
        "//gate.example/",
        "/dns4",
        "/dns4/",
        "/unix/gate.example",
        "/p2p/gate.example",
        "gate.example",
        "http://",
        "http://[::1",
        "http://[]@",
        "http://\x00gate.example/",
        "http://gate.example" + "/" * 300,
        "http://gate.example\\@victim.example/",
    ],
)
def test_what_has_no_host_or_no_bound_is_ignored(named):
    hosts = registered_hosts("http://gate.example", "")
    assert own_sources(ref_of(named), hosts).ignored == 1
    assert own_sources(ref_of(named), registered_hosts("", "")).ignored == 1  # "" is nobody's host


def test_of_too_many_sources_and_of_repeated_ones_few_count():
    hosts = registered_hosts("http://gate.example", "")
    many = [f"http://gate.example/{number}" for number in range(MAX_SOURCES + 5)]
    assert own_sources(ref_of(*many), hosts).urls == tuple(many[:MAX_SOURCES])
    assert own_sources(ref_of(*many), hosts).ignored == 5
    assert own_sources(ref_of(*[many[0]] * 3), hosts).urls == (many[0],)


def test_without_a_reference_nothing_is_named():
    assert own_sources(None, registered_hosts("http://gate.example", "")).ignored == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=40) | st.text(max_size=40).map("http://{}".format), max_size=10))
def test_no_text_is_taken_for_another_host(sources):
    own = own_sources(ref_of(*sources), registered_hosts("http://gate.example", "/ip4/192.0.2.1/tcp/1"))
    assert len(own.urls) + len(own.multiaddrs) + own.ignored == len(sources)
    assert all("gate.example" in url.lower() or "192.0.2.1" in url for url in (*own.urls, *own.multiaddrs))


# --- whom to ask ---------------------------------------------------------------------------------
GATEWAYS = {operator: f"http://{operator.hex()[:2]}.example" for operator in OPERATORS}


async def asked(prefer: Address | None, ref: Ref | None, own: Address | None = None) -> list[tuple[str, SourceKind]]:
    p2p = {LIAR: "/dns4/p2p.example/tcp/9700"}
    async with OperatorSources(lambda: GATEWAYS, own, p2p_addresses=lambda: p2p) as sources:
        return [(source.name, source.kind) for source in sources(prefer, ref)]


async def test_the_performer_comes_first_then_what_it_names_then_the_others():
    ref = ref_of("http://p2p.example/cache", "http://01.example/", "http://02.example/", "/dns4/01.example/tcp/1")
    name = f"0x{LIAR.hex()}"
    found = await asked(LIAR, ref)
    assert found[:2] == [(name, SourceKind.PERFORMER), (f"{name}, source 1", SourceKind.PERFORMER)]
    assert sorted(found[2:]) == [(f"0x{operator.hex()}", SourceKind.OPERATOR) for operator in OPERATORS[1:]]


@pytest.mark.parametrize("prefer", [None, Address(b"\xee" * 20), HONEST])
async def test_nobody_but_the_registered_performer_names_sources(prefer):
    found = await asked(prefer, ref_of("http://01.example/x", "http://02.example/x", "http://p2p.example/"), own=HONEST)
    assert sorted(found) == [
        (f"0x{operator.hex()}", SourceKind.OPERATOR) for operator in OPERATORS if operator != HONEST
    ]


async def test_the_others_are_asked_in_any_order():
    orders = {tuple(await asked(None, None)) for _ in range(100)}
    assert len(orders) == 6


async def test_unless_it_is_told_otherwise_a_node_fetches_from_public_addresses_alone():
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(talking(answer(CONTENT)))
        sources = await stack.enter_async_context(OperatorSources(lambda: {HONEST: url}, None))
        with pytest.raises(SourceFailed) as failed:
            await sources(None, None)[0].fetch(WANTED, Meter())
    assert failed.value.fault is SourceFault.ADDRESS_REFUSED


async def test_what_a_performer_names_is_fetched_from_and_a_loser_hangs_up():
    gone = asyncio.Event()

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until the other side closes
        gone.set()

    async with AsyncExitStack() as stack:
        registered = await stack.enter_async_context(talking(stall))
        cache = await stack.enter_async_context(talking(answer(CONTENT)))
        sources = await stack.enter_async_context(
            OperatorSources(lambda: {LIAR: registered}, None, policy=AddressPolicy(LOOPBACK))
        )
        reader = ContentReader(NoBlocks(), sources)
        ref = ref_of(cache)
        got = await reader.get(CID, max_bytes=7000, timeout_seconds=10, prefer=LIAR, ref=ref)
        assert got == CONTENT
        async with asyncio.timeout(5):
            await gone.wait()
        await reader.close()
