"""The embedded store as a whole: crashes, full disks, memory, and what a stranger's gateway cannot make it do."""

from __future__ import annotations

import asyncio
import base64
import errno
import hashlib
import os
import random
import signal
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from shared.adapters.content import blocks as content_blocks
from shared.adapters.content.pins import Pins
from shared.adapters.content.store import EmbeddedContentStore
from shared.constants import CHUNK_BYTES
from shared.errors import ContentError, ContentUnavailable, StoreBusy, StoreError
from shared.interfaces import Pin
from shared.types import Address, Cid
from tests.content_support import (
    LIMIT_SECONDS,
    LOOPBACK,
    OPERATORS,
    Blocks,
    EmbeddedNetwork,
    content_of,
    serving,
    until,
)

MIB = 1 << 20
A, B, _ = OPERATORS


def store_at(root: Path, urls: dict[Address, str] | None = None, max_bytes: int | None = None) -> EmbeddedContentStore:
    return EmbeddedContentStore(
        root=root, gateways=lambda: urls or {}, own=None, private_networks=LOOPBACK, max_bytes=max_bytes
    )


async def kept(store: EmbeddedContentStore) -> dict[Cid, int]:
    """The sizes of the files that are all here."""
    return {pin.cid: pin.size for pin in await store.pins() if pin.size is not None}


async def get(store: EmbeddedContentStore, cid: Cid, prefer: Address | None = None) -> bytes:
    return await store.get(cid, max_bytes=1 << 30, timeout_seconds=LIMIT_SECONDS, prefer=prefer)


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[EmbeddedNetwork]:
    network = EmbeddedNetwork(tmp_path)
    yield network
    await network.close()


def files_below(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file() and "sqlite" not in path.name]


# --- files and streams ---------------------------------------------------------------------------
@pytest.mark.parametrize("size", [0, 1000, CHUNK_BYTES, 3 * CHUNK_BYTES + 1])
async def test_a_file_gets_the_cid_of_its_bytes(tmp_path, size):
    path = tmp_path / "file"
    path.write_bytes(content_of(size))
    async with store_at(tmp_path / "store") as store:
        cid = (await store.add_file(path)).cid
        assert cid == Blocks().file(content_of(size))
        assert await get(store, cid) == content_of(size)
        assert await kept(store) == {cid: size}
        assert (await store.add(content_of(size))).cid == cid


async def test_a_file_that_cannot_be_read_is_an_error_of_ours(tmp_path):
    async with store_at(tmp_path / "store") as store:
        for path in (tmp_path / "missing", tmp_path):
            with pytest.raises(ContentError, match=r"store content: (No such file|Is a directory)"):
                await store.add_file(path)


async def test_a_stream_gives_the_chunks_in_order(network):
    here, there = await network.start(0), await network.start(1)
    content = content_of(3 * CHUNK_BYTES + 1)
    cid = (await there.add(content)).cid
    async with aclosing(here.open(cid, max_bytes=len(content), timeout_seconds=LIMIT_SECONDS, prefer=B)) as stream:
        assert [chunk async for chunk in stream] == [
            content[start : start + CHUNK_BYTES] for start in range(0, len(content), CHUNK_BYTES)
        ]
    assert await kept(here) == {cid: len(content)}


async def test_an_add_is_on_the_disk_before_it_is_pinned_and_acknowledged(tmp_path, monkeypatch):
    calls: list[str] = []
    real_write, real_pin = content_blocks._write_file, Pins.add

    def write(path: Path, data: bytes, *, is_durable: bool) -> None:
        calls.append("durable block" if is_durable else "block")
        real_write(path, data, is_durable=is_durable)

    async def keep(pins: Pins, pin: Pin) -> None:
        calls.append("pin")
        await real_pin(pins, pin)

    monkeypatch.setattr(content_blocks, "_write_file", write)
    monkeypatch.setattr(Pins, "add", keep)
    async with store_at(tmp_path) as store:
        await store.add(content_of(2 * CHUNK_BYTES))
    assert calls == ["durable block"] * 3 + ["pin"]


# --- the folder ----------------------------------------------------------------------------------
async def test_one_folder_is_for_one_process(tmp_path):
    async with store_at(tmp_path):
        leftover = tmp_path / "tmp" / "7"
        leftover.write_bytes(b"somebody is writing this")
        with pytest.raises(StoreBusy):
            async with store_at(tmp_path):
                pass
        assert leftover.exists()
    async with store_at(tmp_path):
        assert not leftover.exists()


async def test_a_folder_that_cannot_be_used_is_an_error_of_ours(tmp_path):
    (tmp_path / "blocks").write_text("not a folder")
    with pytest.raises(StoreError, match=r"open content folder .*: File exists"):
        async with store_at(tmp_path):
            pass
    (tmp_path / "blocks").unlink()
    async with store_at(tmp_path) as store:  # the pins were closed again
        await store.add(b"content")


async def test_a_damaged_block_is_fetched_again_and_repaired(network, tmp_path):
    here, there = await network.start(0), await network.start(1)
    cid = (await here.add(b"content")).cid
    await there.add(b"content")
    (path,) = (tmp_path / "0" / "blocks").rglob("*.data")
    path.write_bytes(b"kontent")
    assert await here.has(cid) is False
    assert await get(here, cid) == b"content"
    assert path.read_bytes() == b"content"


async def test_a_damaged_block_is_served_to_nobody_and_named_when_nobody_else_has_it(network, tmp_path):
    here, there = await network.start(0), await network.start(1)
    cid = (await there.add(b"content")).cid
    (path,) = (tmp_path / "1" / "blocks").rglob("*.data")
    path.write_bytes(b"kontent")
    with pytest.raises(ContentUnavailable) as failed:
        await get(here, cid)
    assert failed.value.causes == {f"0x{B.hex()}": "does not have it (404)"}
    with pytest.raises(ContentUnavailable) as failed:
        await get(there, cid)
    assert failed.value.causes["local store"].startswith("damaged: 7 bytes do not hash to")


async def test_the_gateway_of_a_closed_store_has_nothing(tmp_path):
    async with store_at(tmp_path / "closing") as store:
        cid = (await store.add(b"content")).cid
        routes = store.routes()
    async with serving(routes) as url, store_at(tmp_path / "other", {A: url}) as other:
        with pytest.raises(ContentUnavailable) as failed:
            await get(other, cid)
    assert failed.value.causes == {f"0x{A.hex()}": "does not have it (404)"}


async def test_gateways_are_looked_up_for_every_read_and_the_own_is_never_asked(tmp_path):
    cid = Blocks().file(b"content")
    urls: dict[Address, str] = {A: "http://127.0.0.1:1", B: "http://127.0.0.1:1"}
    async with EmbeddedContentStore(root=tmp_path, gateways=lambda: urls, own=A) as store:
        for others in ({f"0x{B.hex()}"}, set()):
            with pytest.raises(ContentUnavailable) as failed:
                await get(store, cid, prefer=A)
            assert set(failed.value.causes) == others
            urls.pop(B, None)


# --- a full disk ---------------------------------------------------------------------------------
def fail_write(monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
    """The disk is full from the nth block on."""
    real, calls = content_blocks._write_file, []

    def write(path: Path, data: bytes, *, is_durable: bool) -> None:
        calls.append(path)
        if len(calls) >= nth:
            real(path, data[: len(data) // 2], is_durable=False)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, data, is_durable=is_durable)

    monkeypatch.setattr(content_blocks, "_write_file", write)


@pytest.mark.parametrize("nth", [1, 2, 4])
async def test_a_full_disk_refuses_an_add_and_nothing_is_half_there(tmp_path, monkeypatch, nth):
    content = content_of(2 * CHUNK_BYTES + 1)
    cid = Blocks().file(content)
    async with store_at(tmp_path) as store:
        with monkeypatch.context() as patch:
            fail_write(patch, nth)
            with pytest.raises(ContentError, match=r"^store content: No space left on device$"):
                await store.add(content)
        assert await store.has(cid) is False
        assert await kept(store) == {}
        assert not list((tmp_path / "tmp").iterdir())
        for path in (tmp_path / "blocks").rglob("*.data"):  # whole ones, which a later add finds useful
            assert is_whole(path)
        assert (await store.add(content)).cid == cid
        assert await store.has(cid)


async def test_a_full_disk_makes_content_unavailable_not_wrong(network, monkeypatch):
    here, there = await network.start(0), await network.start(1)
    cid = (await there.add(b"content")).cid
    with monkeypatch.context() as patch:
        fail_write(patch, 1)
        with pytest.raises(ContentUnavailable) as failed:
            await get(here, cid)
    assert failed.value.causes["local store"] == "No space left on device"
    assert await get(here, cid) == b"content"


async def test_the_bound_of_the_folder_is_such_a_full_disk(tmp_path):
    async with store_at(tmp_path, max_bytes=1000) as store:
        kept = (await store.add(bytes(600))).cid
        with pytest.raises(ContentError, match="store content: content would take over 1000 bytes"):
            await store.add(bytes(601))
        assert await get(store, kept) == bytes(600)


async def test_a_pin_that_fails_is_no_add(tmp_path, monkeypatch):
    async with store_at(tmp_path) as store:

        async def full(pin: Pin) -> None:
            raise StoreError("the disk is full")

        monkeypatch.setattr(store.embedded._pins, "add", full)
        with pytest.raises(ContentError, match="store content: the disk is full"):
            await store.add(b"content")


# --- giving up -----------------------------------------------------------------------------------
async def test_an_add_that_is_cancelled_puts_no_further_block(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(bytes(20 * CHUNK_BYTES))
    written: list[Path] = []
    go_on = threading.Event()
    real = content_blocks._write_file

    def write(path: Path, data: bytes, *, is_durable: bool) -> None:
        written.append(path)
        assert go_on.wait(LIMIT_SECONDS)
        real(path, data, is_durable=is_durable)

    monkeypatch.setattr(content_blocks, "_write_file", write)
    async with store_at(tmp_path / "store") as store:
        adding = asyncio.create_task(store.add_file(path))
        await until(lambda: written, "the first block is being written")
        adding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await adding
        go_on.set()
    assert len(written) <= 4  # which were on their way to the disk at the same time
    async with store_at(tmp_path / "store") as store:
        assert await kept(store) == {}


# --- kill -9 -------------------------------------------------------------------------------------
ADDING = """
import asyncio, random, sys
from pathlib import Path
from shared.adapters.content.store import EmbeddedContentStore

async def main(root, seed):
    numbers = random.Random(seed)
    async with EmbeddedContentStore(root=Path(root), gateways=dict, own=None) as store:
        async def add_for_ever():
            while True:
                content = numbers.randbytes(numbers.choice([0, 100, 5000, 1 << 20, 3 << 20]))
                cid = (await store.add(content)).cid
                print(cid, len(content), flush=True)
        await asyncio.gather(*(add_for_ever() for _ in range(4)))

asyncio.run(main(*sys.argv[1:]))
"""


async def killed_after(root: Path, lines: int, seconds: float, seed: int) -> list[tuple[Cid, int]]:
    """What a child process acknowledged before SIGKILL; it comes some time after so many lines."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", ADDING, str(root), str(seed), stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    said = b"".join([await asyncio.wait_for(child.stdout.readline(), LIMIT_SECONDS) for _ in range(lines)])
    await asyncio.sleep(seconds)
    child.send_signal(signal.SIGKILL)
    said += await asyncio.wait_for(child.stdout.read(), LIMIT_SECONDS)
    assert await child.wait() == -signal.SIGKILL
    acknowledged = [line.split() for line in said.decode().splitlines()]
    return [(Cid(words[0]), int(words[1])) for words in acknowledged if len(words) == 2]


async def test_after_kill_9_every_acknowledged_add_is_there_and_none_is_half_there(tmp_path):
    numbers = random.Random(9)
    acknowledged: dict[Cid, int] = {}
    for round_number in range(2):
        acknowledged |= await killed_after(tmp_path, 30, numbers.uniform(0, 0.1), round_number)
        async with store_at(tmp_path) as store:
            assert not list((tmp_path / "tmp").iterdir())
            pins = await kept(store)
            assert pins.items() >= acknowledged.items()
            for cid, size in pins.items():  # whoever is pinned is whole, acknowledged or not
                assert await store.has(cid)
                assert len(await get(store, cid)) == size
            for path in (tmp_path / "blocks").rglob("*.data"):
                assert is_whole(path)


def is_whole(path: Path) -> bool:
    key = base64.b32encode(b"\x12\x20" + hashlib.sha256(path.read_bytes()).digest()).decode().rstrip("=")
    return path.stem == key


# --- memory --------------------------------------------------------------------------------------
MEASURING = """
import asyncio, re, sys
from pathlib import Path
from aiohttp import web
from shared.adapters.content.store import EmbeddedContentStore
from shared.types import Address

OWNER = Address(bytes(20))

def peak_mib():
    # Not getrusage: its peak starts at that of the process that forked us.
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

async def serve(store):
    application = web.Application()
    application.add_routes(store.routes())
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print("http://%s:%d" % runner.addresses[0][:2], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await runner.cleanup()

async def main(what, root, argument, target):
    gateways = {OWNER: argument} if what == "get" else {}
    async with EmbeddedContentStore(
        root=Path(root), gateways=lambda: gateways, own=None, private_networks=["127.0.0.0/8"]
    ) as store:
        before = peak_mib()
        if what == "add":
            print((await store.add_file(Path(argument))).cid, peak_mib() - before, flush=True)
            await serve(store)
        else:
            cid, path = target.split(":", 1)
            with open(path, "wb") as file:
                async for chunk in store.open(cid, max_bytes=1 << 30, timeout_seconds=120, prefer=OWNER):
                    await asyncio.to_thread(file.write, chunk)
            async for chunk in store.open(cid, max_bytes=1 << 30, timeout_seconds=120):
                pass  # now from the disk
            print(cid, peak_mib() - before, flush=True)
        print("in all", peak_mib() - before, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


async def memory_of(tmp_path: Path, size: int) -> tuple[float, float, float]:
    """MiB that adding a file of so many bytes, serving it and getting it into a file take, each in a process."""
    path, target = tmp_path / "model", tmp_path / "fetched"
    with path.open("wb") as file:
        for number in range(size // MIB):
            file.write(number.to_bytes(4, "big") * (MIB // 4))
    pipe = asyncio.subprocess.PIPE
    arguments = [sys.executable, "-c", MEASURING, "add", str(tmp_path / "from"), str(path), ""]
    giver = await asyncio.create_subprocess_exec(*arguments, stdin=pipe, stdout=pipe)
    assert giver.stdin is not None
    assert giver.stdout is not None
    cid, adding = (await asyncio.wait_for(giver.stdout.readline(), 100)).decode().split()
    url = (await giver.stdout.readline()).decode().strip()
    arguments = [sys.executable, "-c", MEASURING, "get", str(tmp_path / "to"), url, f"{cid}:{target}"]
    taker = await asyncio.create_subprocess_exec(*arguments, stdout=pipe)
    assert taker.stdout is not None
    getting = (await asyncio.wait_for(taker.stdout.readline(), 100)).decode().split()[1]
    giver.stdin.close()
    serving_too = (await asyncio.wait_for(giver.stdout.readline(), 100)).decode().split()[2]
    assert (await giver.wait(), await taker.wait()) == (0, 0)
    with path.open("rb") as expected, target.open("rb") as fetched:
        while piece := expected.read(MIB):
            assert fetched.read(MIB) == piece
        assert not fetched.read(1)
    return float(adding), float(serving_too), float(getting)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of its memory from /proc")
@pytest.mark.parametrize("mib", [300])
async def test_a_large_file_takes_little_memory_to_add_serve_and_get(tmp_path, mib):
    adding, serving_too, getting = await memory_of(tmp_path, mib * MIB)
    assert 1 < adding < 64
    assert 1 < serving_too < 64
    assert 1 < getting < 64
