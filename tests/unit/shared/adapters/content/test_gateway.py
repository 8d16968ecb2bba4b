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

from shared.adapters.content import gateway as content_gateway
from shared.adapters.content.gateway import CAR, RAW, ClientLimits, Gateway, Outcome
from shared.adapters.content.limits import CUT_BYTES, REQUEST_BYTES
from shared.adapters.http import CORS, serve
from shared.content.car import read_car
from shared.content.cid import Block, Codec, make_block
from shared.content.dagpb import bytes_field, varint_field
from shared.content.selection import EntityBytes, Selection
from shared.content.unixfs import read_node
from shared.types import Cid
from tests.content_support import LIMIT_SECONDS, SMALL, Blocks, content_of, serving, until


class Node:
    """Blocks behind a gateway on loopback, and a client."""

    def __init__(self) -> None:
        self.blocks = Blocks()
        self.limits = ClientLimits(bodies=4, per_client=2, waiting_per_client=3)
        self.served: list[tuple[str, int, Outcome]] = []
        self.reading = asyncio.Event()  # cleared: reading a block waits
        self.reading.set()
        self.reads = 0
        self.url: str
        self.session: aiohttp.ClientSession

    @property
    def gateway(self) -> Gateway:
        return Gateway(self.read, self.limits, lambda *told: self.served.append(told))

    async def read(self, cid: Cid) -> Block | None:
        self.reads += 1
        await self.reading.wait()
        return self.blocks.get(cid)

    def ask(self, path: str, method: str = "GET", **headers: str) -> aiohttp.client._RequestContextManager:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.session.request(method, f"{self.url}/ipfs/{path}", headers=named, allow_redirects=False)


BEYOND = range(300, 301)  # a file of 300 bytes


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
        serving(node.gateway.routes()) as node.url,
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
    assert told["X-Ipfs-Roots"] == cid
    assert told["Content-Disposition"] == f'attachment; filename="{cid}.bin"'
    assert told["Accept-Ranges"] == "bytes"
    assert node.served == [("raw", 7, Outcome.SERVED)]


async def test_a_head_tells_the_same_without_the_block(node):
    cid = node.blocks.leaf(b"content")
    async with node.ask(f"{cid}?format=raw", "HEAD") as response:
        assert (response.status, response.headers["Content-Length"], await response.read()) == (200, "7", b"")
    async with node.ask(f"{Blocks().leaf(b'?')}?format=raw", "HEAD") as response:
        assert response.status == 404


async def test_the_empty_block_is_a_block(node):
    async with node.ask(f"{node.blocks.leaf(b'')}?format=raw") as response:
        assert (response.status, response.headers["Content-Length"], await response.read()) == (200, "0", b"")


async def test_whoever_probes_for_a_gateway_finds_one(node):
    """specs.ipfs.tech/http-gateways/trustless-gateway/#dedicated-probe-paths"""
    for method in ("HEAD", "GET"):
        async with node.ask("bafkqaaa?format=raw", method) as response:
            assert (response.status, response.content_type, await response.read()) == (200, RAW, b"")
    assert node.reads == 0


async def test_a_node_of_a_file_is_served_raw_too(node):
    cid = node.blocks.file(content_of(100), SMALL)
    async with node.ask(f"{cid}?format=raw") as response:
        assert await response.read() == node.blocks[cid].data


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("bafkrei", "CID is not a CIDv1 in base32; expected"),
        ("QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH", "this CID is written bafybeif7ztnhq65lumvvtr4ekcwd2ifwgm3a"),
        ("..%2f..%2fetc%2fpasswd", "CID is not a CIDv1 in base32; expected"),
        ("%00", "CID is not a CIDv1 in base32; expected"),
        ("%3Cscript%3E" * 100, "CID is not a CIDv1 in base32; expected"),
    ],
)
async def test_what_is_no_cid_is_a_bad_request(node, path, said):
    async with node.ask(f"{path}?format=raw") as response:
        assert response.status == 400
        text = await response.text()
    assert said in text
    assert len(text) < 200
    assert "script" not in text
    assert node.reads == 0
    assert node.served == [("none", 0, Outcome.REFUSED)]


@pytest.mark.parametrize("path", ["", "index.html", "a/b/c", "%3Cscript%3E" * 100])
async def test_nothing_lies_below_a_cid(node, path):
    cid = node.blocks.leaf(b"content")
    async with node.ask(f"{cid}/{path}?format=car") as response:
        assert (response.status, await response.text()) == (404, "nothing lies below a CID here: ask for /ipfs/CID")
        assert response.headers["Cache-Control"] == "no-store"
    assert node.reads == 0


async def test_what_is_not_here_is_not_found_and_nobody_remembers_that(node):
    """§5: "What is not here is 404 ... and MUST NOT be cached"."""
    cid = Blocks().leaf(b"elsewhere")
    for form in ("raw", "car"):
        async with node.ask(f"{cid}?format={form}") as response:
            assert (response.status, await response.text()) == (404, f"{cid} is not here")
            assert response.headers["Cache-Control"] == "no-store"
    assert node.served == [("raw", 0, Outcome.ABSENT), ("car", 0, Outcome.ABSENT)]


@pytest.mark.parametrize("form", ["raw", "car"])
async def test_who_wants_it_only_from_a_cache_learns_whether_it_is_here(node, form):
    absent, here = Blocks().leaf(b"elsewhere"), node.blocks.leaf(b"content")
    for method in ("HEAD", "GET"):
        async with node.ask(f"{absent}?format={form}", method, Cache_Control="Only-If-Cached") as response:
            assert (response.status, await response.read()) == (412, b"")
        async with node.ask(f"{here}?format={form}", method, Cache_Control="max-age=0, only-if-cached") as response:
            assert response.status == 200


async def test_no_service_worker_comes_from_here(node):
    cid = node.blocks.leaf(b"content")
    async with node.ask(f"{cid}?format=raw", Service_Worker="script") as response:
        assert response.status == 400


async def test_nothing_can_be_written(node):
    for method in ("PUT", "POST", "DELETE", "PATCH"):
        async with node.ask(f"{node.blocks.leaf(b'content')}?format=raw", method) as response:
            assert response.status == 405


# --- which form ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("query", "accept", "served"),
    [
        ("", f"text/html, {CAR};version=2, {RAW};q=0.5", RAW),
        ("", f"{CAR}; version=1; order=dfs; dups=y", CAR),
        ("?format=raw", CAR, RAW),
        ("?format=car", "text/html", CAR),
        ("", "*/*", None),
        ("?format=tar", RAW, None),
    ],
)
async def test_the_form_is_what_was_asked_for(node, query, accept, served):
    cid = node.blocks.leaf(b"content")
    async with node.ask(cid + query, Accept=accept) as response:
        assert response.status == (200 if served else 406)
        if served:
            assert response.content_type == served
            assert response.headers["Vary"] == "Accept"
        else:
            assert RAW in await response.text()
            assert node.reads == 0


async def test_who_wants_no_form_at_all_made_a_bad_request(node):
    cid = node.blocks.leaf(b"content")
    async with node.session.get(f"{node.url}/ipfs/{cid}", skip_auto_headers=["Accept"]) as response:
        assert response.status == 400


async def test_an_answer_to_accept_tells_the_address_that_says_the_same(node):
    cid = node.blocks.leaf(b"content")
    async with node.ask(cid, Accept=f"{CAR}; dups=y") as response:
        location = response.headers["Content-Location"]
        body = await response.read()
    assert location == f"/ipfs/{cid}?format=car&car-dups=y"
    async with node.session.get(node.url + location) as response:
        assert await response.read() == body
        assert "Content-Location" not in response.headers


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


async def test_a_condition_that_is_not_met_ends_the_request(node):
    cid = node.blocks.leaf(b"content")
    async with node.ask(f"{cid}?format=raw", If_Match='"other"') as response:
        assert response.status == 412
        assert response.headers["Cache-Control"] == "no-store"
    async with node.ask(f"{cid}?format=raw", If_Match=f'"{cid}.raw"') as response:
        assert response.status == 200


async def test_what_is_not_here_is_not_confirmed(node):
    cid = Blocks().leaf(b"elsewhere")
    async with node.ask(f"{cid}?format=raw", If_None_Match=f'"{cid}.raw"') as response:
        assert response.status == 404


# --- ranges --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("asked", "served", "told"),
    [
        ("bytes=2-4", b"nte", "bytes 2-4/7"),
        ("bytes=5-", b"nt", "bytes 5-6/7"),
        ("bytes=-3", b"ent", "bytes 4-6/7"),
        ("bytes=0-100", b"content", "bytes 0-6/7"),
    ],
)
async def test_a_range_of_a_block_is_served(node, asked, served, told):
    cid = node.blocks.leaf(b"content")
    async with node.ask(f"{cid}?format=raw", Range=asked, If_Range=f'"{cid}.raw"') as response:
        assert (response.status, await response.read()) == (206, served)
        assert response.headers["Content-Range"] == told
        assert response.headers["Content-Length"] == str(len(served))
        assert response.headers["ETag"] == f'"{cid}.raw"'
    assert node.served == [("raw", len(served), Outcome.SERVED)]


async def test_a_range_beyond_the_block_tells_the_blocks_size(node):
    cid = node.blocks.leaf(b"content")
    async with node.ask(f"{cid}?format=raw", Range="bytes=7-") as response:
        assert (response.status, response.headers["Content-Range"]) == (416, "bytes */7")
    assert node.served == [("raw", 0, Outcome.REFUSED)]


@pytest.mark.parametrize("asked", ["bytes=0-1,3-4", "bytes=4-3", "lines=1-2"])
async def test_any_other_range_is_answered_with_the_whole_block(node, asked):
    async with node.ask(f"{node.blocks.leaf(b'content')}?format=raw", Range=asked) as response:
        assert (response.status, await response.read()) == (200, b"content")
        assert "Content-Range" not in response.headers


async def test_a_head_has_no_range(node):
    async with node.ask(f"{node.blocks.leaf(b'content')}?format=raw", "HEAD", Range="bytes=0-0") as response:
        assert (response.status, response.headers["Content-Length"]) == (200, "7")


async def test_a_range_of_a_car_means_nothing(node):
    cid = node.blocks.leaf(b"content")
    async with node.ask(f"{cid}?format=car") as response:
        whole = await response.read()
        assert response.headers["Accept-Ranges"] == "none"
    async with node.ask(f"{cid}?format=car", Range="bytes=0-0") as response:
        assert (response.status, await response.read()) == (200, whole)


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


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("dag-scope=block", BEYOND),
        ("dag-scope=entity", range(300)),
        ("dag-scope=all", range(300)),
        ("entity-bytes=0:*", range(300)),
        ("entity-bytes=100:149", range(100, 150)),
        ("entity-bytes=-20:*", range(280, 300)),
        ("entity-bytes=250:9999", range(250, 300)),
        ("entity-bytes=9999:*", BEYOND),
    ],
)
async def test_a_part_of_a_file_is_the_blocks_that_it_needs(node, query, wanted):
    """§5: "the blocks that cover these bytes, those on the path to them, and no others"."""
    cid = node.blocks.file(content_of(300), SMALL)
    needed = Selection(cid, span=EntityBytes(wanted.start, wanted.stop - 1))
    expected = []
    while (next_one := needed.next()) is not None:
        expected.append(next_one)
        needed.feed(node.blocks[next_one])
    async with node.ask(f"{cid}?format=car&{query}") as response:
        assert response.status == 200
        assert [block.cid for block in read_car(io.BytesIO(await response.read()), cid)] == expected


async def test_duplicates_are_sent_where_they_are_wanted(node):
    cid = node.blocks.file(bytes(3 * SMALL.chunk_bytes), SMALL)
    leaf = read_node(node.blocks[cid]).children[0][0]
    for query, expected in (("", [cid, leaf]), ("&car-dups=n", [cid, leaf]), ("&car-dups=y", [cid, leaf, leaf, leaf])):
        async with node.ask(f"{cid}?format=car{query}") as response:
            dups = "y" if query.endswith("y") else "n"
            assert response.headers["Content-Type"] == f"{CAR}; version=1; order=dfs; dups={dups}"
            assert response.headers["Content-Disposition"] == f'attachment; filename="{cid}.car"'
            assert [block.cid for block in read_car(io.BytesIO(await response.read()), cid)] == expected


async def test_what_the_client_has_of_another_part_is_no_help(node):
    cid = node.blocks.file(content_of(300), SMALL)
    part = f"{cid}?format=car&entity-bytes=0:9"
    async with node.ask(part, If_None_Match=f'W/"{cid}.car"') as response:
        assert response.status == 200
        etag = response.headers["ETag"]
        await response.read()
    assert etag == f'W/"{cid}.car.entity.0:9"'
    async with node.ask(part, If_None_Match=etag) as response:
        assert response.status == 304
    assert node.served[-1] == ("car", 0, Outcome.UNCHANGED)


@pytest.mark.parametrize("query", ["dag-scope=file", "entity-bytes=x", "entity-bytes=9:1"])
async def test_a_part_that_cannot_be_told_is_a_bad_request(node, query):
    cid = node.blocks.file(content_of(300), SMALL)
    async with node.ask(f"{cid}?format=car&{query}") as response:
        assert response.status == 400
    assert node.reads == 0


async def test_a_head_of_a_car_reads_no_more_than_its_root(node):
    cid = node.blocks.file(content_of(300), SMALL)
    async with node.ask(f"{cid}?format=car", "HEAD") as response:
        assert (response.status, response.content_type, await response.read()) == (200, CAR, b"")
    assert node.reads == 1


def identity_link(blocks: Blocks) -> Cid:
    """A node that has its child's bytes in the link."""
    link = bytes_field(1, b"\x01\x55\x00\x01x") + bytes_field(2, b"") + varint_field(3, 1)
    data = varint_field(1, 2) + varint_field(3, 1) + varint_field(4, 1)
    return blocks.put(make_block(Codec.DAG_PB, bytes_field(2, link) + bytes_field(1, data)))


def other_codec(blocks: Blocks) -> Cid:
    link = bytes_field(1, b"\x01\x71\x12\x20" + bytes(32)) + bytes_field(2, b"") + varint_field(3, 1)
    data = varint_field(1, 2) + varint_field(3, 1) + varint_field(4, 1)
    return blocks.put(make_block(Codec.DAG_PB, bytes_field(2, link) + bytes_field(1, data)))


def missing(blocks: Blocks) -> Cid:
    cid = blocks.file(content_of(300), SMALL)
    del blocks[list(blocks)[3]]
    return cid


def junk_inside(blocks: Blocks) -> Cid:
    file = blocks.file(content_of(300), SMALL)
    return blocks.node([(file, 300), (blocks.put(make_block(Codec.DAG_PB, b"junk")), 5)])


def lie(blocks: Blocks) -> Cid:
    return blocks.node([(blocks.leaf(b"12345"), 6)])


@pytest.mark.parametrize("hostile", [missing, junk_inside, identity_link, other_codec, lie])
@pytest.mark.parametrize("cache", ["", "only-if-cached"])
async def test_a_car_that_cannot_be_finished_breaks_off_and_says_nothing_in_the_log(node, hostile, cache, caplog):
    """§5: "A CAR that cannot be finished MUST break the connection: cut between two blocks it would look whole." """
    cid = hostile(node.blocks)
    async with node.ask(f"{cid}?format=car", Cache_Control=cache) as response:
        assert response.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    assert not caplog.records
    await until(lambda: node.served, "the request ended")
    assert (node.served[0][0], node.served[0][2]) == ("car", Outcome.CUT)
    async with node.ask(f"{node.blocks.leaf(b'content')}?format=raw") as response:
        assert response.status == 200


async def test_archives_remember_no_more_than_a_node_can_hold(node, monkeypatch):
    monkeypatch.setattr(content_gateway, "MAX_HELD_CIDS", 10)
    cid = node.blocks.file(content_of(300), SMALL)
    async with node.ask(f"{cid}?format=car") as response:
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    async with node.ask(f"{cid}?format=car&car-dups=y") as response:  # which needs no memory
        blocks = Blocks((block.cid, block) for block in read_car(io.BytesIO(await response.read()), cid))
    assert blocks.read(cid, min_bytes_per_node=1) == content_of(300)
    monkeypatch.setattr(content_gateway, "MAX_HELD_CIDS", 0)
    async with node.ask(f"{cid}?format=car") as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "10")
    async with node.ask(f"{cid}?format=raw") as response:
        assert response.status == 200


# --- limits --------------------------------------------------------------------------------------
async def test_a_client_has_so_many_bodies_and_so_many_waiting(node):
    cid = node.blocks.leaf(b"content")
    node.reading.clear()

    async def status() -> int:
        async with node.ask(f"{cid}?format=raw") as response:
            return response.status

    asked = [asyncio.create_task(status()) for _ in range(5)]
    await until(lambda: node.limits.present == 5, "five requests are present")
    assert node.reads == 2
    async with node.ask(f"{cid}?format=raw") as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "1")
    node.reading.set()
    assert await asyncio.gather(*asked) == [200] * 5
    async with node.ask(f"{cid}?format=raw") as response:
        assert response.status == 200
    assert node.limits.present == 0


@pytest.mark.parametrize("bytes_at_a_time", [0, 1])
async def test_a_client_that_does_not_read_is_cut_off(node, monkeypatch, caplog, bytes_at_a_time):
    """However it goes about it: a block has to be taken in SEND_SECONDS as a whole."""
    monkeypatch.setattr(content_gateway, "SEND_SECONDS", 0.2)
    leaves = [(node.blocks.leaf(bytes([number]) * (1 << 20)), 1 << 20) for number in range(40)]
    cid = node.blocks.node(leaves)
    node.limits = ClientLimits(bytes_per_second=1, burst_bytes=CUT_BYTES, clock=lambda: 0.0)
    async with serving(node.gateway.routes()) as node.url:
        host, port = node.url.removeprefix("http://").split(":")
        with socket.socket() as stubborn:
            stubborn.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stubborn.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(stubborn, (host, int(port)))
            await loop.sock_sendall(stubborn, f"GET /ipfs/{cid}?format=car HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            await until(lambda: node.reads >= 2, "the archive began")

            def is_over() -> bool:
                with suppress(OSError):  # nothing has come, or nothing will
                    stubborn.recv(bytes_at_a_time)
                return not node.limits.present

            await until(is_over, "the request ended")
            assert node.reads < 40
            assert not (await drained(stubborn)).endswith(b"0\r\n\r\n")
        assert [told[2] for told in node.served] == [Outcome.CUT]
        async with node.ask(f"{leaves[0][0]}?format=raw") as response:  # it held a body for all that time
            assert response.status == 429
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_client_that_goes_away_leaves_no_trace_in_the_log(node, caplog):
    leaves = [(node.blocks.leaf(bytes([number]) * (1 << 20)), 1 << 20) for number in range(40)]
    cid = node.blocks.node(leaves)
    async with node.ask(f"{cid}?format=car") as response:
        await response.content.readany()
        response.close()
    await until(lambda: not node.limits.present, "the request ended")
    assert not caplog.records


@pytest.mark.parametrize("ask", [{"Range": "bytes=0-0"}, {"If_None_Match": "*"}, {"method": "HEAD"}])
async def test_what_is_read_for_a_client_counts_and_not_what_is_sent(node, ask):
    """Else a byte, or none, of a large block would cost the disk and the hash for nothing."""
    cid = node.blocks.leaf(bytes(1 << 20))
    node.limits = ClientLimits(bytes_per_second=1, burst_bytes=3 << 20, clock=lambda: 0.0)
    statuses = []
    async with serving(node.gateway.routes()) as node.url:
        for _ in range(6):
            async with node.ask(f"{cid}?format=raw", **ask) as response:
                statuses.append(response.status)
                retry_after = response.headers.get("Retry-After")
    assert statuses[3:] == [429, 429, 429]
    assert retry_after == str(3 * REQUEST_BYTES)
    assert node.reads == 3
    assert node.served[-1] == ("none", 0, Outcome.REFUSED)


async def test_a_flood_for_what_is_not_here_is_refused_in_the_end(node):
    cid = Blocks().leaf(b"elsewhere")
    node.limits = ClientLimits(bytes_per_second=1, burst_bytes=4 * REQUEST_BYTES, clock=lambda: 0.0)
    async with serving(node.gateway.routes()) as node.url:
        statuses = []
        for _ in range(8):
            async with node.ask(f"{cid}?format=raw", "HEAD") as response:
                statuses.append(response.status)
    assert statuses == [404] * 5 + [429] * 3


async def test_an_archive_under_way_is_slowed_down_and_not_cut(node):
    content = content_of(300)
    cid = node.blocks.file(content, SMALL)
    rate = 16 << 10
    node.limits = ClientLimits(bytes_per_second=rate, burst_bytes=REQUEST_BYTES)  # nothing is left for the blocks
    loop = asyncio.get_running_loop()
    async with serving(node.gateway.routes()) as node.url:
        began = loop.time()
        async with node.ask(f"{cid}?format=car") as response:
            blocks = Blocks((block.cid, block) for block in read_car(io.BytesIO(await response.read()), cid))
    assert blocks.read(cid, min_bytes_per_node=1) == content
    *paid, _ = blocks.values()  # the last one is the next request's
    assert loop.time() - began >= 0.9 * sum(len(block.data) for block in paid) / rate


async def test_fifty_small_blocks_at_once_are_served_at_once():
    """With the limits that a node has."""
    node = Node()
    node.limits = ClientLimits()
    cids = [node.blocks.leaf(content_of(1000 + number)) for number in range(50)]
    async with serving(node.gateway.routes()) as node.url, aiohttp.ClientSession() as node.session:

        async def fetch(cid: Cid) -> bytes:
            async with node.ask(f"{cid}?format=raw") as response:
                assert response.status == 200
                return await response.read()

        assert await asyncio.gather(*(fetch(cid) for cid in cids)) == [node.blocks[cid].data for cid in cids]


# --- browsers ------------------------------------------------------------------------------------
async def test_a_page_may_ask_and_read_what_it_has_to_know(node):
    cid = node.blocks.leaf(b"content")
    absent = Blocks().leaf(b"elsewhere")
    async with serve(
        host="127.0.0.1",
        port=0,
        routes=node.gateway.routes(),
        health=lambda: (True, {}),
        metrics=lambda: (b"", "text/plain"),
    ) as port:
        node.url = f"http://127.0.0.1:{port}"
        for path, status in ((cid, 200), (absent, 404), ("junk", 400), (f"{cid}/a", 404)):
            async with node.ask(f"{path}?format=raw", Origin="https://dapp.example") as response:
                assert response.status == status
                assert {name: response.headers.getall(name) for name in CORS} == {
                    name: [value] for name, value in CORS.items()
                }
        async with node.ask(f"{cid}?format=raw", If_None_Match="*") as response:
            assert (response.status, response.headers["Access-Control-Allow-Origin"]) == (304, "*")
        async with node.ask(cid, "OPTIONS", Access_Control_Request_Headers="range") as response:
            assert response.status == 204
    exposed = {name.strip() for name in CORS["Access-Control-Expose-Headers"].split(",")}
    assert exposed >= {"Content-Range", "Content-Length", "Accept-Ranges", "ETag", "X-Ipfs-Path", "Retry-After"}
    allowed = {name.strip() for name in CORS["Access-Control-Allow-Headers"].split(",")}
    assert allowed >= {"Accept", "Range", "If-Range", "If-None-Match", "Cache-Control"}
