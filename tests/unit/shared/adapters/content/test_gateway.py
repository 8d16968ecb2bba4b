"""The trustless gateway: what it serves, in which words, and how much of a node strangers can take."""

from __future__ import annotations

import asyncio
import io
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import suppress

import aiohttp
import pytest
from aiohttp import web

from shared.adapters.content import gateway as content_gateway
from shared.adapters.content.gateway import CAR, RAW, ClientLimits, Gateway, client_of
from shared.content.car import read_car
from shared.content.cid import Block, Codec, make_block
from shared.types import Cid
from tests.content_support import LIMIT_SECONDS, SMALL, Blocks, content_of, serving, until


class Node:
    """Blocks behind a gateway on loopback, and a client."""

    def __init__(self) -> None:
        self.blocks = Blocks()
        self.limits = ClientLimits(bodies=4, per_client=2, waiting_per_client=3)
        self.reading = asyncio.Event()  # cleared: reading a block waits
        self.reading.set()
        self.reads = 0
        self.url: str
        self.session: aiohttp.ClientSession

    async def read(self, cid: Cid) -> Block | None:
        self.reads += 1
        await self.reading.wait()
        return self.blocks.get(cid)

    def ask(self, path: str, method: str = "GET", **headers: str) -> aiohttp.client._RequestContextManager:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.session.request(method, f"{self.url}/ipfs/{path}", headers=named, allow_redirects=False)


async def drained(connection: socket.socket) -> bytes:
    """The last bytes that still come, up to the end of the connection."""
    last = b""
    with suppress(ConnectionError):
        while piece := await asyncio.get_running_loop().sock_recv(connection, 1 << 20):
            last = piece
    return last


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    node = Node()
    timeout = aiohttp.ClientTimeout(total=LIMIT_SECONDS)
    async with (
        serving(Gateway(node.read, node.limits).routes()) as node.url,
        aiohttp.ClientSession(timeout=timeout) as node.session,
    ):
        yield node


# --- raw blocks ----------------------------------------------------------------------------------
async def test_a_block_is_served_as_it_is(node):
    cid = node.blocks.leaf(b"content")
    async with node.ask(f"{cid}?format=raw") as response:
        assert response.status == 200
        assert await response.read() == b"content"
        told = response.headers
    assert told["Content-Type"] == RAW
    assert told["Content-Length"] == "7"
    assert told["ETag"] == f'"{cid}.raw"'
    assert told["Cache-Control"] == "public, max-age=29030400, immutable"
    assert told["X-Content-Type-Options"] == "nosniff"
    assert told["X-Ipfs-Path"] == f"/ipfs/{cid}"


async def test_a_head_tells_the_same_without_the_block(node):
    cid = node.blocks.leaf(b"content")
    async with node.ask(f"{cid}?format=raw", "HEAD") as response:
        assert (response.status, response.headers["Content-Length"], await response.read()) == (200, "7", b"")
    async with node.ask(f"{Blocks().leaf(b'?')}?format=raw", "HEAD") as response:
        assert response.status == 404


async def test_the_empty_block_is_a_block(node):
    async with node.ask(f"{node.blocks.leaf(b'')}?format=raw") as response:
        assert (response.status, response.headers["Content-Length"], await response.read()) == (200, "0", b"")


async def test_a_node_of_a_file_is_served_raw_too(node):
    cid = node.blocks.file(content_of(100), SMALL)
    async with node.ask(f"{cid}?format=raw") as response:
        assert await response.read() == node.blocks[cid].data


@pytest.mark.parametrize(
    "path", ["bafkrei", "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH", "..%2f..%2fetc%2fpasswd", "%00"]
)
async def test_what_is_no_cid_is_a_bad_request(node, path):
    async with node.ask(f"{path}?format=raw") as response:
        assert response.status == 400
    assert node.reads == 0


async def test_what_is_not_here_is_not_found(node):
    async with node.ask(f"{Blocks().leaf(b'elsewhere')}?format=raw") as response:
        assert response.status == 404


async def test_nothing_can_be_written(node):
    for method in ("PUT", "POST", "DELETE", "PATCH"):
        async with node.ask(f"{node.blocks.leaf(b'content')}?format=raw", method) as response:
            assert response.status == 405


# --- which form ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("query", "accept", "served"),
    [
        ("", RAW, RAW),
        ("", CAR, CAR),
        ("", f"{CAR}; version=1; order=dfs; dups=y", CAR),
        ("", f"text/html, {CAR};version=2, {RAW};q=0.5", RAW),
        ("", f"{RAW};q=0, {CAR}", CAR),
        ("", RAW.upper(), RAW),
        ("?format=raw", CAR, RAW),
        ("?format=car", "text/html", CAR),
        ("", "*/*", None),
        ("", "application/*", None),
        ("", "text/html", None),
        ("", f"{CAR}; version=2", None),
        ("", ";;,,;", None),
        ("?format=tar", RAW, None),
        ("?format=", RAW, None),
    ],
)
async def test_the_form_is_what_was_asked_for(node, query, accept, served):
    cid = node.blocks.leaf(b"content")
    async with node.ask(cid + query, Accept=accept) as response:
        assert response.status == (200 if served else 406)
        if served:
            assert response.content_type == served
            assert response.headers["Vary"] == "Accept"


# --- conditional requests ------------------------------------------------------------------------
@pytest.mark.parametrize("form", ["raw", "car"])
async def test_what_the_client_has_is_not_sent_again(node, form):
    cid = node.blocks.leaf(b"content")
    async with node.ask(f"{cid}?format={form}") as response:
        etag = response.headers["ETag"]
    for known in (etag, f'"other", {etag}', "*", etag.removeprefix("W/"), "W/" + etag.removeprefix("W/")):
        async with node.ask(f"{cid}?format={form}", If_None_Match=known) as response:
            assert (response.status, response.headers["ETag"], await response.read()) == (304, etag, b"")
    for other in ('"other"', f'"{cid}"', "nonsense", f'"{cid}.other"'):
        async with node.ask(f"{cid}?format={form}", If_None_Match=other) as response:
            assert response.status == 200


async def test_what_is_not_here_is_not_confirmed(node):
    cid = Blocks().leaf(b"elsewhere")
    async with node.ask(f"{cid}?format=raw", If_None_Match=f'"{cid}.raw"') as response:
        assert response.status == 404


# --- archives ------------------------------------------------------------------------------------
async def test_a_car_has_the_whole_file_in_its_order(node):
    content = content_of(300)
    cid = node.blocks.file(content, SMALL)
    async with node.ask(f"{cid}?format=car") as response:
        assert response.headers["Content-Type"] == f"{CAR}; version=1; order=dfs; dups=n"
        assert response.headers["ETag"] == f'W/"{cid}.car"'
        blocks = list(read_car(io.BytesIO(await response.read()), cid))
    assert blocks[0].cid == cid
    got = Blocks((block.cid, block) for block in blocks)
    assert got.read(cid, min_bytes_per_node=1) == content
    in_order = [block.data for block in blocks if block.cid in got and block.data in content]
    assert b"".join(in_order) == content


async def test_a_block_named_often_is_in_the_car_once(node):
    content = bytes(17 * SMALL.chunk_bytes + 5)  # its last node has the other nodes' leaf, and one of its own
    cid = node.blocks.file(content, SMALL)
    async with node.ask(f"{cid}?format=car") as response:
        blocks = list(read_car(io.BytesIO(await response.read()), cid))
    assert len(blocks) == len(node.blocks)
    assert Blocks((block.cid, block) for block in blocks).read(cid, min_bytes_per_node=1) == content


async def test_a_head_of_a_car_reads_no_more_than_its_root(node):
    cid = node.blocks.file(content_of(300), SMALL)
    async with node.ask(f"{cid}?format=car", "HEAD") as response:
        assert (response.status, response.content_type, await response.read()) == (200, CAR, b"")
    assert node.reads == 1


@pytest.mark.parametrize("what", ["a block is missing", "a block is no file's"])
async def test_a_car_that_cannot_be_finished_breaks_off_and_says_nothing_in_the_log(node, what, caplog):
    cid = node.blocks.file(content_of(300), SMALL)
    if what == "a block is missing":
        del node.blocks[list(node.blocks)[3]]
    else:
        cid = node.blocks.node([(cid, 300), (node.blocks.put(make_block(Codec.DAG_PB, b"junk")), 5)])
    async with node.ask(f"{cid}?format=car") as response:
        assert response.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    assert not caplog.records
    async with node.ask(f"{node.blocks.leaf(b'content')}?format=raw") as response:
        assert response.status == 200


# --- limits --------------------------------------------------------------------------------------
async def test_a_client_has_so_many_bodies_and_so_many_waiting(node):
    cid = node.blocks.leaf(b"content")
    node.reading.clear()

    async def status() -> int:
        async with node.ask(f"{cid}?format=raw") as response:
            return response.status

    asked = [asyncio.create_task(status()) for _ in range(5)]
    await until(lambda: node.limits._present[client_of("127.0.0.1")] == 5, "five requests are present")
    assert node.reads == 2
    async with node.ask(f"{cid}?format=raw") as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "1")
    node.reading.set()
    assert await asyncio.gather(*asked) == [200] * 5
    async with node.ask(f"{cid}?format=raw") as response:
        assert response.status == 200
    assert not node.limits._present
    assert not node.limits._turns


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
    assert not limits._turns


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
    assert not limits._present
    async with limits.body("192.0.2.1"):
        pass


@pytest.mark.parametrize(
    ("remote", "client"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        (None, ""),
        ("unix:", ""),
    ],
)
def test_a_client_is_an_address_or_a_subscribers_network(remote, client):
    assert client_of(remote) == client


async def test_a_client_that_does_not_read_is_cut_off(node, monkeypatch, caplog):
    monkeypatch.setattr(content_gateway, "SEND_SECONDS", 0.2)
    leaves = [(node.blocks.leaf(bytes([number]) * (1 << 20)), 1 << 20) for number in range(40)]
    cid = node.blocks.node(leaves)
    host, port = node.url.removeprefix("http://").split(":")
    with socket.socket() as stubborn:
        stubborn.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stubborn.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(stubborn, (host, int(port)))
        await loop.sock_sendall(stubborn, f"GET /ipfs/{cid}?format=car HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await until(lambda: node.reads >= 2, "the archive began")
        await until(lambda: not node.limits._present, "the request ended")
        assert node.reads < 40
        assert not (await drained(stubborn)).endswith(b"0\r\n\r\n")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_client_that_goes_away_leaves_no_trace_in_the_log(node, caplog):
    leaves = [(node.blocks.leaf(bytes([number]) * (1 << 20)), 1 << 20) for number in range(40)]
    cid = node.blocks.node(leaves)
    async with node.ask(f"{cid}?format=car") as response:
        await response.content.readany()
        response.close()
    await until(lambda: not node.limits._present, "the request ended")
    assert not caplog.records
