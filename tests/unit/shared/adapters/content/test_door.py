"""A running node's private door: every call, every way to fail at it, and who may stand in its place."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import socket
import stat
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

from shared.adapters.content.door import server
from shared.adapters.content.door.client import RemoteContent, knock
from shared.adapters.content.door.place import listening, socket_path
from shared.adapters.content.door.server import ContentDoor, serve_door
from shared.adapters.content.door.wire import END, Get, frame
from shared.adapters.content.store import EmbeddedContentStore
from shared.constants import CHUNK_BYTES
from shared.content.unixfs import PROFILES, UNIXFS_V1_2025, UNIXFS_V1_CLASSIC, Profile, cid_of
from shared.errors import (
    ConfigError,
    ContentCorrupt,
    ContentError,
    ContentTooLarge,
    ContentUnavailable,
    StoreBusy,
    StoreError,
)
from shared.types import FOREVER, Address, Cid
from tests.content_support import LIMIT_SECONDS, LOOPBACK, Blocks, EmbeddedNetwork, content_of, until

MAX_BYTES = 4 << 20
LIMITS: dict[str, Any] = {"max_bytes": MAX_BYTES, "timeout_seconds": LIMIT_SECONDS}
ABSENT = cid_of(b"nobody has this")


@dataclass
class House:
    """A node's store, and its door as somebody else sees it."""

    store: EmbeddedContentStore
    remote: RemoteContent
    data_dir: Path
    urls: dict[Address, str]

    def uploads(self) -> list[Path]:
        return list((self.data_dir / "door").glob("upload-*"))

    def damage(self, cid: Cid) -> None:
        path = self.store.embedded.files._path(cid)
        data = path.read_bytes()
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:])

    def lose(self, cid: Cid) -> None:
        self.store.embedded.files._path(cid).unlink()

    def hold(self, blocks: Blocks) -> None:
        for block in blocks.values():
            self.store.embedded.files.put(block, is_durable=False)

    async def read(self, cid: Cid, **limits: Any) -> bytes:
        return await drained(self.remote, cid, [], **limits)


async def drained(remote: RemoteContent, cid: Cid, got: list[bytes], **limits: Any) -> bytes:
    """The file; what came of it before an error is in `got`."""
    async with aclosing(remote.open(cid, **{**LIMITS, **limits})) as chunks:
        async for chunk in chunks:
            got.append(chunk)  # noqa: PERF401 - a comprehension would lose what came before an error
    return b"".join(got)


async def furnish(stack: AsyncExitStack, data_dir: Path, max_bytes: int | None = None) -> House:
    urls: dict[Address, str] = {}
    root = data_dir / "content"
    store = EmbeddedContentStore(
        root=root, gateways=lambda: urls, own=None, private_networks=LOOPBACK, max_bytes=max_bytes
    )
    await stack.enter_async_context(store)
    await stack.enter_async_context(serve_door(store, data_dir, MAX_BYTES))
    remote = await stack.enter_async_context(knock(socket_path(data_dir)))
    assert remote is not None
    return House(store, remote, data_dir, urls)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        yield await furnish(stack, tmp_path / "data")


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[EmbeddedNetwork]:
    network = EmbeddedNetwork(tmp_path / "others")
    yield network
    await network.close()


class Damaged(io.BytesIO):
    """A file on a disk with a hole after its first piece."""

    def read(self, size: int | None = -1, /) -> bytes:
        if not (data := super().read(size)):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return data


def stream_of(data: bytes) -> Any:
    return lambda: io.BytesIO(data)


async def raw(data_dir: Path, said: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A client that speaks HTTP by itself, and breaks off where it likes."""
    reader, writer = await asyncio.open_unix_connection(str(socket_path(data_dir)))
    writer.write(said)
    await writer.drain()
    return reader, writer


UPLOAD = (
    b"POST /add?ask=%7B%22profile%22%3A%22unixfs-v1-2025%22%7D HTTP/1.1\r\nHost: node\r\nContent-Length: 1000\r\n\r\n"
)


# --- adding --------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [0, 1000, CHUNK_BYTES + 1])
@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
async def test_what_is_added_is_there_under_the_profile(house: House, size: int, profile: Profile) -> None:
    data = content_of(size)
    ref = await house.remote.add_stream(stream_of(data), profile=profile)
    assert (ref.cid, ref.size, ref.profile) == (cid_of(data, profile), size, profile.name)
    assert [(pin.cid, pin.size, pin.keep_until) for pin in await house.store.pins()] == [(ref.cid, size, FOREVER)]
    assert await house.read(ref.cid) == data
    assert house.uploads() == []


async def test_a_file_can_be_kept_for_a_time_alone(house: House) -> None:
    ref = await house.remote.add_stream(stream_of(b"for a while"), keep_until=2e9)
    assert [(pin.cid, pin.keep_until) for pin in await house.remote.pins()] == [(ref.cid, 2e9)]


async def test_uploads_do_not_mix(house: House) -> None:
    files = [content_of(CHUNK_BYTES + number) for number in range(4)]
    refs = await asyncio.gather(*(house.remote.add_stream(stream_of(data)) for data in files))
    assert [ref.cid for ref in refs] == [cid_of(data) for data in files]
    assert [await house.read(ref.cid) for ref in refs] == files


async def test_an_upload_over_the_limit_is_refused_and_leaves_nothing(house: House) -> None:
    with pytest.raises(ContentTooLarge, match=f"over {MAX_BYTES} bytes"):
        await house.remote.add_stream(stream_of(bytes(4 * MAX_BYTES)))  # its end is never read
    assert (list(await house.store.pins()), house.uploads()) == ([], [])


async def test_a_full_store_is_told_and_nothing_stays(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        house = await furnish(stack, tmp_path, max_bytes=CHUNK_BYTES)
        with pytest.raises(ContentError, match="store content: "):
            await house.remote.add_stream(stream_of(content_of(2 * CHUNK_BYTES)))
        assert (list(await house.store.pins()), house.uploads()) == ([], [])


async def test_a_full_disk_is_told_before_any_block_is_made(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ContentDoor, "_receive", fail)
    with pytest.raises(ContentError, match="take the upload: No space left on device"):
        await house.remote.add_stream(stream_of(content_of(2 * CHUNK_BYTES)))
    assert (list(await house.store.pins()), house.uploads()) == ([], [])


async def test_a_file_that_cannot_be_read_is_told(house: House, tmp_path: Path) -> None:
    with pytest.raises(ContentError, match="read the file: No such file"):
        await house.remote.add_stream(lambda: (tmp_path / "none").open("rb"))
    with pytest.raises(ContentError, match="read the file: Input/output error"):
        await house.remote.add_stream(lambda: Damaged(bytes(CHUNK_BYTES)))
    await until(lambda: not house.uploads(), "the upload is gone")
    assert list(await house.store.pins()) == []


@pytest.mark.parametrize("steps", [0, 1, 2])
async def test_an_upload_that_is_cancelled_as_a_piece_comes_goes_no_further(tmp_path: Path, steps: int) -> None:
    came: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    class Body:
        async def read(self, _: int) -> bytes:
            return await came if not came.done() else b""

    door = ContentDoor(EmbeddedContentStore(root=tmp_path, gateways=dict, own=None), tmp_path, MAX_BYTES)
    request: Any = SimpleNamespace(content=Body())
    taking = asyncio.create_task(door._receive(request, io.BytesIO()))
    for _ in range(2):  # it waits for a piece
        await asyncio.sleep(0)
    came.set_result(b"piece")
    for _ in range(steps):  # the piece is on its way up
        await asyncio.sleep(0)
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking


async def test_an_upload_that_is_cut_leaves_nothing(house: House) -> None:
    _, writer = await raw(house.data_dir, UPLOAD + b"only this")
    await until(house.uploads, "the upload begins")
    writer.close()
    await until(lambda: not house.uploads(), "the upload is gone")
    assert list(await house.store.pins()) == []
    assert not any(house.store.embedded.files.digests())


async def test_an_upload_that_stands_still_is_ended(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "IDLE_SECONDS", 0.05)
    reader, writer = await raw(house.data_dir, UPLOAD + b"only this")
    answer = await reader.readuntil(b"}")
    assert b"422" in answer.partition(b"\r\n")[0]
    assert b"the upload stood still for 0.05 s" in answer
    assert house.uploads() == []
    writer.close()


# --- getting -------------------------------------------------------------------------------------
async def test_what_is_not_here_comes_from_an_operator_and_stays(house: House, network: EmbeddedNetwork) -> None:
    data = content_of(2 * CHUNK_BYTES)
    ref = await (await network.start(0)).add(data)
    house.urls.update(network.urls)
    assert await house.remote.has(ref.cid) is False
    assert await house.remote.size_of(ref.cid) is None
    with pytest.raises(ContentUnavailable):
        await anext(house.remote.read(ref.cid))  # what is here, and nobody is asked
    assert await house.read(ref.cid, keep_until=FOREVER) == data
    assert await house.remote.has(ref.cid) is True
    assert await house.remote.size_of(ref.cid) == len(data)
    assert [(pin.cid, pin.keep_until) for pin in await house.remote.pins()] == [(ref.cid, FOREVER)]
    house.urls.clear()
    async with aclosing(house.remote.read(ref.cid)) as chunks:
        assert b"".join([chunk async for chunk in chunks]) == data


async def test_each_way_to_fail_comes_through_as_it_was(house: House, network: EmbeddedNetwork) -> None:
    await network.start(0)
    house.urls.update(network.urls)
    with pytest.raises(ContentUnavailable) as caught:
        await house.read(ABSENT)
    with pytest.raises(ContentUnavailable) as local:
        async with aclosing(house.store.open(ABSENT, **LIMITS)) as chunks:
            await anext(chunks)
    assert (caught.value.cid, caught.value.causes) == (ABSENT, local.value.causes)
    assert len(caught.value.causes) == 1  # the operator's
    blocks = Blocks()
    wrong = blocks.node([(blocks.leaf(b"leaf"), 4)], size=5)
    house.hold(blocks)
    with pytest.raises(ContentCorrupt, match="do not add up"):
        await house.read(wrong)
    ref = await house.store.add(content_of(1000))
    with pytest.raises(ContentTooLarge, match="over the limit of 999"):
        await house.read(ref.cid, max_bytes=999)


async def test_an_error_after_the_body_began_is_seen(house: House) -> None:
    data = content_of(3 * CHUNK_BYTES)
    ref = await house.store.add(data)
    house.lose(cid_of(data[2 * CHUNK_BYTES :]))
    got: list[bytes] = []
    with pytest.raises(ContentUnavailable):
        await drained(house.remote, ref.cid, got)
    assert b"".join(got) == data[: 2 * CHUNK_BYTES]


async def test_the_time_is_the_whole_call_s(house: House, network: EmbeddedNetwork) -> None:
    await network.start(0)
    network.stall(0)
    house.urls.update(network.urls)
    with pytest.raises(ContentUnavailable):
        await house.read(ABSENT, timeout_seconds=0.05)


async def test_who_hangs_up_stops_the_fetch(house: House, network: EmbeddedNetwork) -> None:
    await network.start(0)
    network.stall(0)
    house.urls.update(network.urls)
    reading = asyncio.create_task(house.read(ABSENT))
    await until(lambda: house.store._reader._flights, "the node fetches")
    reading.cancel()
    await until(lambda: not house.store._reader._flights, "the node has stopped")


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (frame(b"half") + b"\x00\x00\x01\x00only this", "the node ended the call"),
        (frame(b"half"), "the node ended the call"),
        (b"\xff\xff\xff\xff", "a frame of 4294967295 bytes"),
        (END + b"[]", "what this program does not know"),
        (END, "what this program does not know"),
    ],
    ids=["in a frame", "between frames", "too long", "no outcome", "no outcome at all"],
)
async def test_a_file_without_its_end_is_no_file(tmp_path: Path, said: bytes, error: str) -> None:
    got: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not await reader.read(1):  # the first look, whether anybody is there
            writer.close()
            return
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + said)
        writer.close()

    with listening(socket_path(tmp_path)) as listener:
        async with await asyncio.start_unix_server(answer, sock=listener), knock(socket_path(tmp_path)) as remote:
            assert remote is not None
            with pytest.raises(ContentError, match=error):
                await drained(remote, ABSENT, got)
            assert got == ([b"half"] if said.startswith(frame(b"half")) else [])


async def test_who_reads_no_further_is_let_go(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "IDLE_SECONDS", 0.05)
    monkeypatch.setattr(server, "MAX_CALLS", 1)
    ref = await house.store.add(content_of(4 * CHUNK_BYTES))  # more than the socket and both sides buffer
    ask = quote(f'{{"cid":"{ref.cid}","max_bytes":{MAX_BYTES},"timeout_seconds":0.05}}')
    reader, writer = await raw(house.data_dir, f"POST /get?ask={ask} HTTP/1.1\r\nHost: node\r\n\r\n".encode())
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    async with asyncio.timeout(LIMIT_SECONDS):
        while not await is_answered(house.remote):  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(0.005)
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(4 * CHUNK_BYTES)
    writer.close()


async def is_answered(remote: RemoteContent) -> bool:
    try:
        await remote.pins()
    except ContentError:
        return False
    return True


# --- care ----------------------------------------------------------------------------------------
async def test_what_is_all_here_is_pinned_and_unpinned(house: House) -> None:
    data = content_of(CHUNK_BYTES + 1)
    ref = await house.store.add(data, keep_until=0.0)
    await house.remote.pin(ref.cid, keep_until=time.time() + 1e6)
    await house.remote.pin(ref.cid)
    await house.remote.pin(ref.cid, keep_until=0.0)  # shortens nothing
    assert [(pin.cid, pin.size, pin.keep_until) for pin in await house.remote.pins()] == [(ref.cid, len(data), FOREVER)]
    await house.remote.unpin(ref.cid)
    assert await house.remote.pins() == []
    house.lose(cid_of(data[CHUNK_BYTES:]))
    for cid in (ref.cid, ABSENT):
        with pytest.raises(ContentUnavailable, match="not all of it is here"):
            await house.remote.pin(cid)
    assert await house.remote.pins() == []


async def test_a_file_under_way_is_listed_without_a_size(house: House) -> None:
    await house.store.local.begin(ABSENT)
    (pin,) = await house.remote.pins()
    assert (pin.cid, pin.size) == (ABSENT, None)


async def test_what_is_missing_or_damaged_is_found_and_comes_back(house: House, network: EmbeddedNetwork) -> None:
    data = content_of(3 * CHUNK_BYTES)
    first, second, third = (cid_of(data[start : start + CHUNK_BYTES]) for start in range(0, len(data), CHUNK_BYTES))
    ref = await house.store.add(data)
    assert await house.remote.verify(ref.cid) == []
    house.damage(second)
    house.lose(third)
    assert await house.remote.verify(ref.cid) == [second, third]
    assert await house.remote.verify(first) == []
    await (await network.start(0)).add(data)
    house.urls.update(network.urls)
    assert await house.read(ref.cid) == data
    assert await house.remote.verify(ref.cid) == []
    house.damage(ref.cid)
    assert await house.remote.verify(ref.cid) == [ref.cid]  # and nobody knows what hangs on it


async def test_a_block_that_a_file_has_twice_is_looked_at_once(house: House) -> None:
    ref = await house.store.add(bytes(3 * CHUNK_BYTES), profile=UNIXFS_V1_2025)
    house.lose(cid_of(bytes(CHUNK_BYTES)))
    assert await house.remote.verify(ref.cid) == [cid_of(bytes(CHUNK_BYTES))]


async def test_a_dag_that_is_no_file_is_provably_wrong(house: House) -> None:
    blocks = Blocks()
    wrong = blocks.node([(blocks.leaf(b"leaf"), 4)], size=5)
    house.hold(blocks)
    for call in (house.remote.verify, house.remote.size_of):
        with pytest.raises(ContentCorrupt):
            await call(wrong)


# --- strangers and crowds ------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("call", "ask"),
    [
        ("get", "{"),
        ("get", '{"cid":"../../etc/passwd","max_bytes":1,"timeout_seconds":1}'),
        ("get", f'{{"cid":"{ABSENT}","max_bytes":-1,"timeout_seconds":1}}'),
        ("get", f'{{"cid":"{ABSENT}","max_bytes":1,"timeout_seconds":1e9}}'),
        ("verify", "{}"),
        ("verify", f'{{"cid":"{ABSENT.upper()}"}}'),
        ("collect", '{"max_bytes":"all"}'),
        ("pin", f'{{"cid":"{ABSENT}","until":0}}'),
        ("add", '{"profile":5}'),
    ],
)
async def test_what_is_not_understood_is_refused(house: House, call: str, ask: str) -> None:
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket_path(house.data_dir)))) as session,
        session.post(f"http://node/{call}", params={"ask": ask}) as response,
    ):
        assert response.status == 400
        assert (await response.json())["said"].startswith("not understood: ")


async def test_an_unknown_profile_is_refused(house: House) -> None:
    with pytest.raises(ContentError, match="expected one of unixfs-v1-2025, unixfs-v1-classic"):
        await house.remote.add_stream(stream_of(b""), profile=Profile("trickle", 1, 2))


async def test_a_crowd_is_told_to_come_later(
    house: House, network: EmbeddedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_CALLS", 1)
    await network.start(0)
    network.stall(0)
    house.urls.update(network.urls)
    reading = asyncio.create_task(house.read(ABSENT))
    await until(lambda: house.store._reader._flights, "the node is at one call")
    with pytest.raises(ContentError, match="at 1 calls already; try again later"):
        await house.remote.pins()
    with pytest.raises(ContentError, match="at 1 calls already; try again later"):
        await house.read(ABSENT)
    reading.cancel()
    await until(lambda: not house.store._reader._flights, "the call is over")
    assert await house.remote.pins() == []


async def test_a_fault_of_the_node_is_called_one(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(house.store, "pins", fail)
    with pytest.raises(ContentError, match="the node failed at it; its log says why"):
        await house.remote.pins()


# --- the place -----------------------------------------------------------------------------------
async def test_only_its_owner_can_come_to_the_door(tmp_path: Path) -> None:
    folder = tmp_path / "door"
    folder.mkdir(mode=0o755)
    with listening(socket_path(tmp_path)):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(socket_path(tmp_path).stat().st_mode) == 0o600
    assert list(folder.iterdir()) == []


async def test_what_a_killed_node_left_is_replaced(tmp_path: Path) -> None:
    path = socket_path(tmp_path)
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    (path.parent / "upload-cut").write_bytes(b"half")
    async with knock(path) as remote:
        assert remote is None
    async with AsyncExitStack() as stack:
        house = await furnish(stack, tmp_path)
        assert await house.remote.pins() == []
        assert house.uploads() == []
    assert not path.exists()


async def test_a_node_that_listens_is_not_pushed_aside(house: House) -> None:
    with pytest.raises(StoreBusy, match="is in use"), listening(socket_path(house.data_dir)):
        pass
    assert await house.remote.pins() == []


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
async def test_what_is_no_socket_is_let_be(tmp_path: Path, kind: str) -> None:
    path = socket_path(tmp_path)
    path.parent.mkdir()
    match kind:
        case "file":
            path.write_text("mine")
        case "folder":
            path.mkdir()
        case _:
            path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="something that is no socket is in its place"), listening(path):
        pass
    assert [found.name for found in path.parent.iterdir()] == [path.name]
    async with knock(path) as remote:
        assert remote is None


async def test_without_a_node_nobody_answers(tmp_path: Path) -> None:
    for data_dir in (tmp_path, tmp_path / "none", tmp_path / ("long" * 50)):
        async with knock(socket_path(data_dir)) as remote:
            assert remote is None


async def test_a_door_that_cannot_be_made_is_a_setting_to_mend(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    path = socket_path(tmp_path / "data")
    with pytest.raises(ConfigError, match=r"content door .*set another node\.data_dir"), listening(path):
        pass
    with pytest.raises(StoreError, match="Not a directory"):
        async with knock(path):
            pass


async def test_a_folder_may_be_deeper_than_a_socket_s_address_is_long(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        house = await furnish(stack, tmp_path / ("deep" * 40))
        ref = await house.remote.add_stream(stream_of(b"deep"), profile=UNIXFS_V1_CLASSIC)
        assert await house.read(ref.cid) == b"deep"


def test_a_get_keeps_nothing_unless_told() -> None:
    assert Get(ABSENT, max_bytes=1, timeout_seconds=1).keep_until == 0.0
