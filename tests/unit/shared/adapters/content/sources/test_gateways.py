"""Configured gateways over HTTP: files by one archive, blocks by themselves, and every way to lie about either."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, nullcontext

import pytest
from aiohttp import web

from shared.adapters.content.archive import archive
from shared.adapters.content.gateway import CAR, Gateway
from shared.adapters.content.read import ContentReader
from shared.adapters.content.sources import answers
from shared.adapters.content.sources import gateways as gateways_module
from shared.adapters.content.sources.gateways import MAX_DOWNLOADS, ConfiguredGateway, open_gateways
from shared.constants import CHUNK_BYTES
from shared.content.car import car_header, car_section
from shared.content.cid import Block
from shared.errors import ContentCorrupt, ContentUnavailable, SourceFailed
from shared.interfaces import Meter, Wanted
from shared.reasons import SourceFault
from shared.types import Cid, SourceKind
from tests.content_support import LIMIT_SECONDS, Blocks, content_of, serving, talking, until
from tests.liars import CONTENT, LIARS, Talk, answer, bytes_of, endless, hang, head

BLOCKS = Blocks()
SIZE = 5 * CHUNK_BYTES + 7
ROOT = BLOCKS.file(content_of(SIZE))
SMALL_ROOT = BLOCKS.file(content_of(3 * (256 << 10)) + CONTENT)  # one raw block
OTHER_ROOT = BLOCKS.file(b"other" + content_of(SIZE))
DEEP = BLOCKS.node(
    [(BLOCKS.node([(BLOCKS.leaf(bytes([i, j]) * 2048), 4096) for j in range(8)]), 32768) for i in range(8)]
)
DEEP_CONTENT = b"".join(bytes([i, j]) * 2048 for i in range(8) for j in range(8))

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "ATTEMPT_SECONDS", 0.6)
    monkeypatch.setattr(gateways_module, "ARCHIVE_SECONDS", 0.3)


class LocalDict:
    """The local blocks of a node, in memory."""

    def __init__(self) -> None:
        self.blocks: dict[Cid, Block] = {}

    async def read(self, cid: Cid) -> Block | None:
        return self.blocks.get(cid)

    async def write(self, block: Block) -> None:
        self.blocks[block.cid] = block

    def hold(self, root: Cid) -> AbstractContextManager[None]:
        return nullcontext()

    async def begin(self, root: Cid) -> None:
        pass

    async def keep(self, root: Cid, size: int, keep_until: float) -> None:
        pass


async def read(cid: Cid) -> Block | None:
    return BLOCKS.get(cid)


async def read_or_fail(cid: Cid) -> Block:
    return BLOCKS[cid]


class Asked:
    """What a gateway was asked for: (CID, format) and how often."""

    def __init__(self, car: Handler | None = None) -> None:
        self.count: Counter[tuple[str, str]] = Counter()
        self._car = car

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        form = request.query["format"]
        self.count[request.match_info["cid"], form] += 1
        return await (self._car if self._car and form == "car" else handler)(request)

    def __getitem__(self, form: str) -> int:
        return sum(count for (_, asked_form), count in self.count.items() if asked_form == form)


@asynccontextmanager
async def gateway(asked: Asked) -> AsyncIterator[ConfiguredGateway]:
    """An honest one, but for its archives."""
    async with serving(Gateway(read).routes(), [asked.middleware]) as url, open_gateways([url]) as gateways:
        yield gateways[0]


async def got(
    sources: Sequence[ConfiguredGateway], root: Cid, local: LocalDict | None = None, seconds: float = LIMIT_SECONDS
) -> bytes:
    reader = ContentReader(local or LocalDict(), lambda prefer, ref: list(sources))
    try:
        return await reader.get(root, max_bytes=1 << 24, timeout_seconds=seconds)
    finally:
        await reader.close()


# --- by one archive ------------------------------------------------------------------------------
async def test_a_file_of_several_blocks_comes_by_one_request():
    asked = Asked()
    async with gateway(asked) as source:
        assert await got([source], ROOT) == content_of(SIZE)
    assert asked.count == {(ROOT, "car"): 1}


async def test_of_a_file_of_many_levels_most_comes_by_one_request():
    """An inner node that came while a reader was letting go of it is asked for again by itself."""
    asked = Asked()
    async with gateway(asked) as source:
        assert await got([source], DEEP) == DEEP_CONTENT
    assert asked["car"] == 1
    assert asked["raw"] <= 8  # of 72 other blocks


async def test_what_is_asked_for_is_said_in_the_query_and_in_the_header():
    seen: list[web.Request] = []

    async def car(request: web.Request) -> web.StreamResponse:
        seen.append(request)
        return web.Response(status=404)

    async with gateway(Asked(car)) as source:
        with pytest.raises(ContentUnavailable):
            await got([source], ROOT)
    assert seen[0].path_qs == f"/ipfs/{ROOT}?format=car&car-version=1&car-order=dfs&car-dups=n"
    assert seen[0].headers["Accept"] == "application/vnd.ipld.car; version=1; order=dfs; dups=n"


async def test_a_file_of_one_block_comes_as_that_block():
    asked = Asked()
    async with gateway(asked) as source:
        await got([source], SMALL_ROOT)
    assert asked.count == {(SMALL_ROOT, "raw"): 1}


async def test_a_file_whose_root_is_here_is_completed_block_by_block():
    asked, local = Asked(), LocalDict()
    local.blocks = {cid: BLOCKS[cid] for cid in [ROOT]}
    async with gateway(asked) as source:
        assert await got([source], ROOT, local) == content_of(SIZE)
    assert (asked["car"], asked["raw"]) == (0, 6)


async def test_many_readers_share_one_archive():
    asked = Asked()
    async with gateway(asked) as source:
        reader = ContentReader(LocalDict(), lambda prefer, ref: [source])
        contents = await asyncio.gather(
            *(reader.get(ROOT, max_bytes=1 << 24, timeout_seconds=LIMIT_SECONDS) for _ in range(10))
        )
        await reader.close()
    assert contents == [content_of(SIZE)] * 10
    assert asked.count == {(ROOT, "car"): 1}


async def test_more_files_than_a_few_at_once_come_block_by_block():
    async with gateway(Asked(lambda request: asyncio.get_running_loop().create_future())) as source:
        others = [Wanted(Blocks().node(content=bytes([n])), Blocks().node(content=bytes([n]))) for n in range(9)]
        fetches = [asyncio.create_task(source.fetch(wanted, Meter())) for wanted in others[:MAX_DOWNLOADS]]
        await asyncio.sleep(0)
        assert (await source.fetch(Wanted(ROOT, ROOT), Meter())).cid == ROOT
        for fetch in fetches:
            fetch.cancel()
        await asyncio.gather(*fetches, return_exceptions=True)


# --- archives that are none ----------------------------------------------------------------------
def car_of(cids: Sequence[Cid]) -> bytes:
    return car_header(ROOT) + b"".join(car_section(BLOCKS[cid]) for cid in cids)


async def in_order(root: Cid) -> list[bytes]:
    return [section async for section in archive(root, read_or_fail)]


def replying(body: bytes, content_type: str = f"{CAR}; version=1", status: int = 200) -> Handler:
    async def reply(request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, headers={"Content-Type": content_type}, status=status)

    return reply


LEAVES = [cid for cid in BLOCKS if cid != ROOT][:6]
FORGED = car_of([ROOT])[:-1] + bytes([car_of([ROOT])[-1] ^ 1])
BAD_ARCHIVES: dict[str, tuple[Handler, int]] = {  # and how many blocks have to be asked for by themselves
    "no archives": (replying(b"", status=406), 7),
    "a bad request": (replying(b"", status=400), 7),
    "broken": (replying(b"", status=500), 7),
    "a redirect": (replying(b"", status=302), 7),
    "a page": (replying(b"<html>", "text/html"), 7),
    "the file itself": (replying(content_of(SIZE), "application/octet-stream"), 7),
    "a page that says it is an archive": (replying(b"<html>"), 7),
    "nothing": (replying(b""), 7),
    "a header alone": (replying(car_header(ROOT)), 7),
    "another root's": (replying(car_header(OTHER_ROOT) + car_section(BLOCKS[OTHER_ROOT])), 7),
    "a forged root": (replying(FORGED), 7),
    "a root alone": (replying(car_of([ROOT])), 6),
    "a part": (replying(car_of([ROOT, *LEAVES[:4]])), 2),
    "cut within a block": (replying(car_of([ROOT, *LEAVES])[:-3]), 1),
    "leaves missing": (replying(car_of([ROOT, *LEAVES[::2]])), 3),
    "padded": (replying(car_of([ROOT, *LEAVES]) + bytes(100)), 0),
    "blocks twice": (replying(car_of([ROOT, ROOT, *LEAVES, *LEAVES])), 0),
    "another order": (replying(car_of([*reversed(LEAVES), ROOT])), 0),
    "identity CIDs between": (replying(car_of([ROOT]) + b"\x07\x01\x55\x00\x03abc" + car_of(LEAVES)[59:]), 0),
}


@pytest.mark.parametrize(("car", "alone"), BAD_ARCHIVES.values(), ids=BAD_ARCHIVES)
async def test_what_does_not_come_in_the_archive_is_asked_for_by_itself(car, alone):
    asked = Asked(car)
    async with gateway(asked) as source:
        assert await got([source], ROOT) == content_of(SIZE)
    assert (asked["car"], asked["raw"]) == (1, alone)


@pytest.mark.parametrize(
    ("status", "fault"),
    [
        (404, SourceFault.NOT_FOUND),
        (410, SourceFault.NOT_FOUND),
        (451, SourceFault.NOT_FOUND),
        (429, SourceFault.BUSY),
        (503, SourceFault.BUSY),
        (504, SourceFault.SLOW),
    ],
)
async def test_a_gateway_that_does_not_have_it_or_cannot_now_is_not_asked_twice(status, fault):
    asked = Asked(replying(b"", status=status))
    async with gateway(asked) as source:
        with pytest.raises(SourceFailed) as failed:
            await source.fetch(Wanted(ROOT, ROOT), Meter())
    assert failed.value.fault is fault
    assert asked.count == {(ROOT, "car"): 1}


async def test_an_archive_that_stalls_leaves_time_for_the_block_alone(monkeypatch):
    monkeypatch.setattr(gateways_module, "ARCHIVE_SECONDS", 0.3)

    async def stall(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": CAR})
        await response.prepare(request)
        await response.write(car_of([ROOT]))
        return await asyncio.get_running_loop().create_future()

    asked = Asked(stall)
    async with gateway(asked) as source:
        assert await got([source], ROOT) == content_of(SIZE)
    assert (asked["car"], asked["raw"]) == (1, 6)


# --- gateways that lie about everything ----------------------------------------------------------
CAR_LIARS: dict[str, Talk] = {
    "an endless block": endless(head("Connection: close", content_type=CAR) + car_of([ROOT])[:100], bytes(0x10000)),
    "endless empty sections": endless(
        head("Connection: close", content_type=CAR) + car_header(ROOT), b"\x24\x01\x71\x12\x20" + bytes(32)
    ),
    "endless blocks of another file": endless(
        head("Connection: close", content_type=CAR) + car_header(ROOT), car_section(BLOCKS[LEAVES[0]])
    ),
    "a drip": endless(head("Connection: close", content_type=CAR) + car_header(ROOT), b"\x01\x01", 0.02),
    "an endless length": endless(head("Connection: close", content_type=CAR) + car_header(ROOT), b"\xff"),
    "a cut connection": bytes_of(head("Content-Length: 70000", content_type=CAR) + car_of([ROOT])[:100]),
    "another file's archive": answer(car_section(BLOCKS[OTHER_ROOT]), content_type=CAR),
    "a compressed one": answer(car_of([ROOT]), "Content-Encoding: gzip", content_type=CAR),
}
ALL_LIARS = {**{name: talk for name, (talk, _, _) in LIARS.items()}, **CAR_LIARS}


@pytest.mark.parametrize("talk", ALL_LIARS.values(), ids=ALL_LIARS)
async def test_a_liar_is_a_cause_within_its_time(impatient, talk):
    started = time.monotonic()
    async with talking(talk) as url, open_gateways([url]) as gateways:
        with pytest.raises(SourceFailed) as failed:
            await gateways[0].fetch(Wanted(ROOT, ROOT), Meter())
    assert 0 < len(str(failed.value)) < 200
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("name", ["silence", "a drip", "another file's archive", "a bomb", "an endless block"])
async def test_beside_a_liar_the_next_gateway_is_enough(name):
    async with AsyncExitStack() as stack:
        liar = await stack.enter_async_context(talking(ALL_LIARS[name]))
        honest = await stack.enter_async_context(serving(Gateway(read).routes()))
        gateways = await stack.enter_async_context(open_gateways([liar, honest]))
        assert await got(gateways, ROOT) == content_of(SIZE)


async def test_the_deadline_of_a_read_holds_whatever_a_gateway_does():
    started = time.monotonic()
    async with talking(hang) as url, open_gateways([url]) as gateways:
        with pytest.raises(ContentUnavailable) as failed:
            await got(gateways, ROOT, seconds=0.2)
    assert failed.value.causes == {"gateway 1 (127.0.0.1)": "no whole block in time"}
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("form", ["car", "raw"])
async def test_what_is_no_file_is_provably_wrong_whichever_way_it_came(form):
    root = BLOCKS.node([(BLOCKS.leaf(b"leaf"), 5)])  # a byte more than it has
    asked = Asked(None if form == "car" else replying(b"", status=406))
    async with gateway(asked) as source:
        with pytest.raises(ContentCorrupt):
            await got([source], root)
    assert asked[form] > 0


# --- being given up ------------------------------------------------------------------------------
async def test_a_loser_hangs_up_at_once():
    asked, gone = asyncio.Event(), asyncio.Event()

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()  # until the other side closes
        gone.set()

    async with talking(stall) as url, open_gateways([url]) as gateways, asyncio.timeout(LIMIT_SECONDS):
        fetch = asyncio.create_task(gateways[0].fetch(Wanted(ROOT, ROOT), Meter()))
        await asked.wait()
        fetch.cancel()
        await asyncio.gather(fetch, return_exceptions=True)
        await gone.wait()
        await until(lambda: not gateways[0]._downloads, "the download is forgotten")


async def test_closing_ends_what_is_under_way():
    async with talking(hang) as url:
        async with open_gateways([url]) as gateways:
            fetch = asyncio.create_task(gateways[0].fetch(Wanted(ROOT, ROOT), Meter()))
            await until(lambda: gateways[0]._downloads, "a download begins")
            await gateways[0].close()
            assert not gateways[0]._downloads
        with pytest.raises((SourceFailed, RuntimeError)):
            await fetch


async def test_gateways_are_named_by_place_and_host_and_by_nothing_secret():
    async with open_gateways(["https://gate.example/key-1234", "https://gate.example/b"]) as gateways:
        assert [source.name for source in gateways] == ["gateway 1 (gate.example)", "gateway 2 (gate.example)"]
        assert {source.kind for source in gateways} == {SourceKind.GATEWAY}
