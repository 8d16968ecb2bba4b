"""Content: building, reading and fetching files by CID, against sha256 and plain file reads and writes of the same run.

Every figure is the best or the median of a few repetitions, taken in turn with its baseline: the machine's other work
slows both. Peers are a process of their own, with a store and its gateway on loopback. `kill -9` meets a process that
adds 1,000 files, eight at a time; what it acknowledged before is then read back by another process.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from bench.table import Row, arguments, report
from shared.adapters.content.store import EmbeddedContentStore
from shared.content.cid import Codec, make_block
from shared.content.unixfs import UNIXFS_V1_2025, UNIXFS_V1_CLASSIC, build_file
from shared.types import Address, Cid

MIB = 1 << 20
PEER = Address(bytes(20))
LARGE, MEDIUM, SMALL = 64 * MIB, 10 * MIB, 1024
REPETITIONS = 7
AT_ONCE = 50
ADDS, ADDERS = 1000, 8
CHILD_SECONDS = 120.0


def main() -> None:
    options = arguments(__doc__ or "").parse_args()
    with tempfile.TemporaryDirectory(prefix="poi-bench-") as folder:
        rows = asyncio.run(_measure(Path(folder)))
    report("content", rows, options.json)


async def _measure(folder: Path) -> list[Row]:
    return [*_build(), *await _add_and_read(folder), *await _fetch(folder), *await _kill(folder)]


def _bytes(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


# --- building ------------------------------------------------------------------------------------
def _build() -> list[Row]:
    """The best of each: the speed that the machine allows, not what else it was doing."""
    data = _bytes(LARGE)
    hashing = lambda: hashlib.sha256(data).digest()  # noqa: E731
    times: dict[str, list[float]] = {"sha256": [], UNIXFS_V1_2025.name: [], UNIXFS_V1_CLASSIC.name: []}
    for _ in range(REPETITIONS):
        times["sha256"].append(_seconds(hashing))
        for profile in (UNIXFS_V1_2025, UNIXFS_V1_CLASSIC):
            times[profile.name].append(
                _seconds(lambda profile=profile: build_file(io.BytesIO(data), lambda _: None, profile))
            )
    speeds = {name: LARGE / min(taken) for name, taken in times.items()}
    return [
        Row("baseline: sha256 over the same bytes", speeds["sha256"] / MIB, "MiB/s"),
        Row("build: of sha256's speed", 100 * speeds[UNIXFS_V1_2025.name] / speeds["sha256"], "%", 60, at_least=True),
        Row(
            "build, profile unixfs-v1-classic: of sha256's speed",
            100 * speeds[UNIXFS_V1_CLASSIC.name] / speeds["sha256"],
            "%",
        ),
    ]


# --- adding and reading --------------------------------------------------------------------------
async def _add_and_read(folder: Path) -> list[Row]:
    data = _bytes(MEDIUM)
    plain = folder / "plain"
    async with _store(folder / "store") as store:
        adds, writes, reads, plains = [], [], [], []
        for number in range(REPETITIONS):
            fresh = number.to_bytes(8, "big") + data[8:]
            writes.append(_seconds(lambda fresh=fresh: _write_durably(plain, fresh)))
            adds.append(await _timed(lambda fresh=fresh: store.add(fresh)))
        ref = await store.add(data)
        plain.write_bytes(data)
        for _ in range(REPETITIONS):
            plains.append(_seconds(lambda: hashlib.sha256(plain.read_bytes()).digest()))
            reads.append(await _timed(lambda: _get(store, ref.cid, len(data))))
    read, baseline = min(reads), min(plains)
    return [
        Row("baseline: plain write of 10 MiB with fsync", statistics.median(writes) * 1000, "ms"),
        Row("durable add of 10 MiB", statistics.median(adds) * 1000, "ms"),
        Row("durable add as a multiple of the plain write", statistics.median(adds) / statistics.median(writes), "×"),
        Row("baseline: plain read of 10 MiB + hash", baseline * 1000, "ms"),
        Row("verified read of 10 MiB", read * 1000, "ms"),
        Row("verified read of 10 MiB as a multiple of plain read + hash", read / baseline, "×", 2.5),
    ]


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


async def _timed(work: Callable[[], Awaitable[object]]) -> float:
    started = time.perf_counter()
    await work()
    return time.perf_counter() - started


def _store(root: Path, gateways: dict[Address, str] | None = None) -> EmbeddedContentStore:
    return EmbeddedContentStore(root=root, gateways=lambda: gateways or {}, own=None, private_networks=["127.0.0.0/8"])


async def _get(store: EmbeddedContentStore, cid: Cid, size: int) -> bytes:
    return await store.get(cid, max_bytes=size, timeout_seconds=CHILD_SECONDS, prefer=PEER)


# --- fetching from a peer ------------------------------------------------------------------------
async def _fetch(folder: Path) -> list[Row]:
    """Each repetition fetches other files, over connections of its own. A node that has run for a while has the folders
    that blocks are spread over, up to 1,024 of them; one that has just been set up makes them as it goes, and making a
    folder may take longer than fetching a kilobyte. So there is a figure for each."""
    medium, many, first = [], [], []
    async with _peer(folder / "peer") as (url, files):
        await _spread(folder / "old")
        for number, (large, *small) in enumerate(files):
            async with _store(folder / f"new{number}", {PEER: url}) as store:
                first.append(await _timed(lambda store=store, small=small: _get_all(store, small)))
            async with _store(folder / "old", {PEER: url}) as store:
                many.append(await _timed(lambda store=store, small=small: _get_all(store, small)))
                medium.append(await _timed(lambda store=store, large=large: _get(store, large, MEDIUM)))
    return [
        Row("fetch of 10 MiB from a peer node on loopback", statistics.median(medium) * 1000, "ms", 60),
        Row(
            "50 concurrent 1 KB fetches, in total",
            statistics.median(many) * 1000,
            "ms",
            40,
            hindrance="Each makes a file, which takes 0.2 to 0.7 ms of a processor here, by what the disk did before.",
        ),
        Row("50 concurrent 1 KB fetches, into a folder that was just made", statistics.median(first) * 1000, "ms"),
    ]


async def _spread(root: Path) -> None:
    """Blocks in nearly all of the folders."""
    async with _store(root) as store:
        await asyncio.gather(*(store.local.write(make_block(Codec.RAW, b"%d" % number)) for number in range(5000)))


async def _get_all(store: EmbeddedContentStore, cids: list[Cid]) -> None:
    await asyncio.gather(*(_get(store, cid, SMALL) for cid in cids))


@asynccontextmanager
async def _peer(root: Path) -> AsyncIterator[tuple[str, list[list[Cid]]]]:
    """Its gateway's URL; and for each repetition a file of 10 MiB, and fifty of 1 KB."""
    async with _child("peer", root) as child:
        url, *cids = (await _line(child)).split()
        yield url, [[Cid(cid) for cid in cids[i::REPETITIONS]] for i in range(REPETITIONS)]


async def _serve(root: Path) -> None:
    async with _store(root) as store:
        sizes = [MEDIUM] * REPETITIONS + [SMALL] * AT_ONCE * REPETITIONS
        refs = [await store.add(_bytes(size, seed)) for seed, size in enumerate(sizes)]
        application = web.Application()
        application.add_routes(store.routes())
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        print(f"http://{host}:{port}", *(ref.cid for ref in refs), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # until the parent is done, or gone
        await runner.cleanup()


# --- kill -9 -------------------------------------------------------------------------------------
async def _kill(folder: Path) -> list[Row]:
    """Killed once early, once late: the process before it never comes to its end."""
    root, acknowledged = folder / "killed", dict[Cid, int]()
    for limit in (ADDS // 10, ADDS - 50):
        async with _child("adder", root) as child:
            while len(acknowledged) < limit:
                cid, size = (await _line(child)).split()
                acknowledged[Cid(cid)] = int(size)
            child.send_signal(signal.SIGKILL)
            for line in (await child.communicate())[0].decode().splitlines():  # said before it died
                if len(fields := line.split()) == 2:
                    acknowledged[Cid(fields[0])] = int(fields[1])
    lost = half = 0
    async with _store(root) as store:
        pins = {pin.cid: pin.size for pin in await store.pins()}
        for cid, size in acknowledged.items():
            lost += pins.get(cid) != size or not await store.has(cid)
        for cid, pinned in pins.items():
            half += pinned is None or len(await _get(store, cid, 4 * MIB)) != pinned
    return [
        Row("kill -9 during 1,000 adds: acknowledged", len(acknowledged), "adds"),
        Row("kill -9 during 1,000 adds: acknowledged adds that are not there afterwards", lost, "adds", 0),
        Row("kill -9 during 1,000 adds: half adds", half, "adds", 0),
    ]


async def _add(root: Path) -> None:
    numbers = random.Random(time.time_ns())
    async with _store(root) as store:

        async def add_some() -> None:
            for _ in range(ADDS // ADDERS):
                content = numbers.randbytes(numbers.choice([100, 5_000, 200_000, 1_500_000]))
                ref = await store.add(content)
                print(ref.cid, ref.size, flush=True)

        await asyncio.gather(*(add_some() for _ in range(ADDERS)))


# --- children ------------------------------------------------------------------------------------
@asynccontextmanager
async def _child(what: str, root: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.content", what, root, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


async def _line(child: asyncio.subprocess.Process) -> str:
    assert child.stdout is not None
    line = await asyncio.wait_for(child.stdout.readline(), CHILD_SECONDS)
    if not line:
        raise SystemExit("a process of the bench ended early; its error is above")
    return line.decode()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["peer", root]:
            asyncio.run(_serve(Path(root)))
        case ["adder", root]:
            asyncio.run(_add(Path(root)))
        case _:
            main()
