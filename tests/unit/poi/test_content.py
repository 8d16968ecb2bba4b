"""`poi content …`: with a running node, which is a store and its door here, and with the store itself."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from structlog.testing import capture_logs

from poi import cli
from poi.content import desk, screen
from shared import log
from shared.adapters.content.door.place import socket_path
from shared.adapters.content.door.server import serve_door
from shared.adapters.content.store import EmbeddedContentStore
from shared.constants import CHUNK_BYTES
from shared.content.cid import Codec, make_block, parse_cid
from shared.content.unixfs import UNIXFS_V1_CLASSIC, cid_of
from shared.errors import ChainUnavailable
from shared.interfaces import Swept
from shared.types import Address, Cid
from tests.content_support import Blocks, EmbeddedNetwork, content_of
from tests.kubo_support import FakeKubo

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "config.example.toml"
ABSENT = cid_of(b"nobody has this")
DATA = content_of(CHUNK_BYTES + 5)


class Said(SimpleNamespace):
    """How a command ended: its status, what it answered, what it said besides."""

    status: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.decode().splitlines()


Poi = Callable[..., Said]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(log, "configure", lambda *_: None)  # it is this process's own
    path = tmp_path / "config.toml"
    path.write_text(EXAMPLE.read_text().replace("private_networks = []", 'private_networks = ["127.0.0.0/8"]'))
    return path


@pytest.fixture
def poi(settings: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> Poi:
    """A command in this process, with `settings` in the current folder."""

    def poi(*arguments: object) -> Said:
        capsysbinary.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main(["content", *map(str, arguments)])
        out, err = capsysbinary.readouterr()
        return Said(status=int(caught.value.code or 0), out=out, err=err.decode())

    return poi


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[EmbeddedNetwork]:
    network = EmbeddedNetwork(tmp_path / "others")
    yield network
    await network.close()


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> dict[Address, str]:
    """What the chain says of the operators' gateways."""
    urls: dict[Address, str] = {}

    async def read(_: object) -> dict[Address, str]:
        return urls

    monkeypatch.setattr(desk, "_registered", read)
    return urls


@asynccontextmanager
async def node(folder: Path) -> AsyncIterator[EmbeddedContentStore]:
    """What `poi attester` has open on the folder."""
    async with (
        EmbeddedContentStore(root=folder / "data" / "content", gateways=dict, own=None) as store,
        serve_door(store, folder / "data", 1 << 30),
    ):
        yield store


def stored(folder: Path) -> EmbeddedContentStore:
    return EmbeddedContentStore(root=folder / "data" / "content", gateways=dict, own=None)


def block_of(folder: Path, cid: Cid) -> Path:
    from shared.adapters.content.blocks import BlockFiles

    return BlockFiles(folder / "data" / "content")._path(cid)


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*.part")]


# --- with and without a node ---------------------------------------------------------------------
@pytest.mark.parametrize("is_running", [True, False], ids=["running", "stopped"])
async def test_a_file_s_life(poi: Poi, tmp_path: Path, file: Path, is_running: bool) -> None:
    def live() -> None:
        added = poi("add", file, "--json", tmp_path / "added.json")
        assert (added.status, added.lines, added.err) == (0, [cid_of(DATA)], "")
        told = {"cid": cid_of(DATA), "size": len(DATA), "profile": "unixfs-v1-2025"}
        assert json.loads((tmp_path / "added.json").read_text()) == told
        classic = poi("add", file, "--profile", "unixfs-v1-classic")
        assert classic.lines == [cid_of(DATA, UNIXFS_V1_CLASSIC)]

        got = poi("get", cid_of(DATA), "-o", tmp_path / "got")
        assert (got.status, got.lines) == (0, [f"{tmp_path / 'got'}: {len(DATA)} bytes"])
        assert (tmp_path / "got").read_bytes() == DATA
        assert poi("get", cid_of(DATA), "-o", "-").out == DATA
        assert poi("get", cid_of(DATA), "--offline").status == 0
        assert Path(cid_of(DATA)).read_bytes() == DATA  # in the current folder

        rows = json.loads(poi("ls", "--json").out)
        assert {(row["cid"], row["size"], row["keepUntil"], row["state"]) for row in rows} == {
            (cid_of(DATA), len(DATA), None, "pinned"),
            (cid_of(DATA, UNIXFS_V1_CLASSIC), len(DATA), None, "pinned"),
        }
        assert [row["usedAt"] for row in rows] == sorted((row["usedAt"] for row in rows), reverse=True)
        assert poi("unpin", cid_of(DATA, UNIXFS_V1_CLASSIC)).status == 0
        heading, *table = poi("ls").lines
        assert heading.split() == ["CID", "size", "kept", "until", "last", "used", "state"]
        ((cid, size, unit, *kept, _, _, _, state),) = [line.split() for line in table]
        assert (cid, f"{size} {unit}", kept, state) == (cid_of(DATA), "1.0 MB", ["for", "good"], "pinned")

        again = poi("unpin", cid_of(DATA, UNIXFS_V1_CLASSIC))
        assert (again.status, again.err) == (
            2,
            f"poi: {cid_of(DATA, UNIXFS_V1_CLASSIC)} is not kept here; `poi content ls` lists what is\n",
        )
        assert poi("pin", cid_of(DATA, UNIXFS_V1_CLASSIC)).lines == [f"pinned {cid_of(DATA, UNIXFS_V1_CLASSIC)}"]
        assert set(poi("verify").lines) == {f"whole      {row['cid']}" for row in rows}
        assert leftovers(tmp_path) == []

    if is_running:
        async with node(tmp_path):
            await asyncio.to_thread(live)
    else:
        await asyncio.to_thread(live)


@pytest.mark.parametrize("store", ["kubo", "ipfshttpclient"])
async def test_a_stopped_node_s_content_is_in_its_ipfs_node(
    poi: Poi, settings: Path, tmp_path: Path, file: Path, store: str
) -> None:
    def live(kubo: FakeKubo) -> None:
        assert poi("add", file).lines == [cid_of(DATA)]
        assert kubo.pins == {cid_of(DATA)}
        assert poi("get", cid_of(DATA), "-o", "-", "--offline").out == DATA
        (row,) = json.loads(poi("ls", "--json").out)
        assert (row["cid"], row["size"], row["state"]) == (cid_of(DATA), len(DATA), "pinned")
        leaf = make_block(Codec.RAW, DATA[CHUNK_BYTES:])
        digest = parse_cid(leaf.cid)[1]
        kubo.blocks[digest] = b"wrong"
        assert poi("verify").lines == [f"damaged    {cid_of(DATA)}: missing or damaged are {leaf.cid}"]
        kubo.blocks[digest] = leaf.data
        assert poi("verify").lines == [f"whole      {cid_of(DATA)}"]
        assert poi("unpin", cid_of(DATA)).status == 0
        assert kubo.pins == set()

    kept_in(settings, store, url := closed_url())
    away = await asyncio.to_thread(poi, "ls")
    assert (away.status, f"Kubo at {url} (content.kubo_url) does not answer" in away.err) == (2, True)
    with capture_logs():  # a command shows warnings alone
        async with FakeKubo().serving() as kubo:
            kept_in(settings, store, kubo.url)
            await asyncio.to_thread(live, kubo)
    assert not (tmp_path / "data" / "content" / "blocks").exists()


async def test_a_stopped_node_asks_its_own_ipfs_node_too(
    poi: Poi, settings: Path, registered: dict[Address, str]
) -> None:
    block = make_block(Codec.RAW, b"of the network")
    async with FakeKubo().serving() as kubo:
        kubo.network[parse_cid(block.cid)[1]] = block.data
        kept_in(settings, "embedded", kubo.url)
        assert (await asyncio.to_thread(poi, "get", block.cid, "-o", "-")).out == block.data


def kept_in(settings: Path, store: str, kubo_url: str) -> None:
    text = re.sub(r'(?m)^store = ".*"$', f'store = "{store}"', settings.read_text())
    settings.write_text(re.sub(r'(?m)^kubo_url = ".*"$', f'kubo_url = "{kubo_url}"', text))


def closed_url() -> str:
    """Where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


async def test_standard_input_is_a_file_too(poi: Poi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(DATA)))
    assert (await asyncio.to_thread(poi, "add", "-")).lines == [cid_of(DATA)]
    async with stored(tmp_path) as store:
        assert await store.has(cid_of(DATA))


def test_a_hash_needs_neither_settings_nor_a_store(poi: Poi, settings: Path, file: Path, tmp_path: Path) -> None:
    settings.unlink()
    only = poi("add", file, "--only-hash", "--profile", "unixfs-v1-classic", "--json", tmp_path / "told.json")
    assert (only.status, only.lines) == (0, [cid_of(DATA, UNIXFS_V1_CLASSIC)])
    assert json.loads((tmp_path / "told.json").read_text())["size"] == len(DATA)
    assert not (tmp_path / "data").exists()


# --- what is not here ----------------------------------------------------------------------------
async def test_what_is_not_here_comes_from_the_registered_operators(
    poi: Poi, tmp_path: Path, network: EmbeddedNetwork, registered: dict[Address, str]
) -> None:
    await (await network.start(0)).add(DATA)
    registered.update(network.urls)
    offline = await asyncio.to_thread(poi, "get", cid_of(DATA), "--offline")
    assert (offline.status, offline.out) == (2, b"")
    assert offline.err.splitlines() == [
        f"poi: unavailable: nobody served {cid_of(DATA)} in time, and it may come back; try again later",
        "poi:   local store: does not have it",
    ]
    unfetched = await asyncio.to_thread(poi, "pin", cid_of(DATA))
    assert unfetched.status == 2
    assert "local store: not all of it is here" in unfetched.err
    assert (await asyncio.to_thread(poi, "pin", cid_of(DATA), "--fetch")).status == 0
    async with stored(tmp_path) as store:
        assert [(pin.cid, pin.size, pin.keep_until) for pin in await store.pins()] == [
            (cid_of(DATA), len(DATA), float("inf"))
        ]


async def test_why_nobody_served_it_is_told_for_each_source(
    poi: Poi, tmp_path: Path, network: EmbeddedNetwork, registered: dict[Address, str]
) -> None:
    for index in range(2):
        await network.start(index)
    registered.update(network.urls)
    (tmp_path / "got").write_text("what was there before")
    got = await asyncio.to_thread(poi, "get", ABSENT, "-o", tmp_path / "got")
    assert got.status == 2
    first, *sources = got.err.splitlines()
    assert first.startswith(f"poi: unavailable: nobody served {ABSENT} in time")
    assert sorted(line.partition(":  ")[2].partition(":")[0].strip() for line in sources) == sorted(
        f"0x{address.hex()}" for address in registered
    )
    assert (tmp_path / "got").read_text() == "what was there before"
    assert leftovers(tmp_path) == []


async def test_what_is_provably_wrong_is_told_apart(poi: Poi, tmp_path: Path) -> None:
    blocks = Blocks()
    wrong = blocks.node([(blocks.leaf(b"leaf"), 4)], size=5)
    async with stored(tmp_path) as store:
        for block in blocks.values():
            store.embedded.files.put(block, is_durable=False)
    for arguments in (("--offline",), ("-o", "-", "--offline")):
        got = await asyncio.to_thread(poi, "get", wrong, *arguments)
        assert (got.status, got.out) == (2, b"")
        assert got.err.startswith(f"poi: provably wrong: block {wrong}: ")
    assert leftovers(tmp_path) == []


async def test_half_a_file_never_has_its_name_and_is_not_fetched_twice(
    poi: Poi, tmp_path: Path, network: EmbeddedNetwork, registered: dict[Address, str]
) -> None:
    other = await network.start(0)
    ref = await other.add(DATA)
    await network.drop(0, cid_of(DATA[CHUNK_BYTES:]))
    registered.update(network.urls)
    assert (await asyncio.to_thread(poi, "get", ref.cid, "-o", "out")).status == 2
    assert not Path("out").exists()  # noqa: ASYNC240
    assert leftovers(tmp_path) == []
    (row,) = json.loads((await asyncio.to_thread(poi, "ls", "--json")).out)
    assert (row["cid"], row["size"], row["state"]) == (ref.cid, None, "under way")
    assert (await asyncio.to_thread(poi, "verify")).lines == [f"under way  {ref.cid}"]
    await other.add(DATA)
    await network.drop(0, cid_of(DATA[:CHUNK_BYTES]))  # which is here from the first try
    assert (await asyncio.to_thread(poi, "get", ref.cid, "-o", "out")).status == 0
    assert Path("out").read_bytes() == DATA  # noqa: ASYNC240


def test_a_chain_that_is_away_matters_to_what_is_not_here_alone(
    poi: Poi, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> Any:
        raise ChainUnavailable("cannot connect")

    monkeypatch.setattr("shared.adapters.chain_evm.discover", away)
    assert poi("add", file).status == 0
    assert poi("get", cid_of(DATA), "-o", "-").out == DATA
    got = poi("get", ABSENT)
    assert (got.status, got.err) == (2, "poi: cannot connect; with --offline only what is here is read\n")


# --- care ----------------------------------------------------------------------------------------
async def test_damage_is_found_and_repaired(
    poi: Poi, tmp_path: Path, file: Path, network: EmbeddedNetwork, registered: dict[Address, str]
) -> None:
    leaf = cid_of(DATA[CHUNK_BYTES:])
    assert (await asyncio.to_thread(poi, "add", file)).status == 0
    block_of(tmp_path, leaf).write_bytes(b"wrong")
    for arguments in ((), (cid_of(DATA),)):
        found = await asyncio.to_thread(poi, "verify", *arguments)
        assert (found.status, found.lines) == (
            2,
            [f"damaged    {cid_of(DATA)}: missing or damaged are {leaf}"],
        )
    hopeless = await asyncio.to_thread(poi, "verify", "--repair")
    assert (hopeless.status, hopeless.lines[1].split(":")[0]) == (2, f"failed     {cid_of(DATA)}")
    await (await network.start(0)).add(DATA)
    registered.update(network.urls)
    repaired = await asyncio.to_thread(poi, "verify", "--repair")
    assert (repaired.status, repaired.lines[1:]) == (0, [f"repaired   {cid_of(DATA)}"])
    assert (await asyncio.to_thread(poi, "verify")).lines == [f"whole      {cid_of(DATA)}"]


def test_many_damaged_blocks_are_counted(poi: Poi, tmp_path: Path) -> None:
    data = content_of(12 * 256 * 1024)
    path = tmp_path / "large"
    path.write_bytes(data)
    assert poi("add", path, "--profile", "unixfs-v1-classic").status == 0
    lost = [cid_of(data[start : start + (256 << 10)]) for start in range(0, len(data), 256 << 10)]
    for cid in lost:
        block_of(tmp_path, cid).unlink()
    (line,) = poi("verify").lines
    assert line.endswith(f"missing or damaged are {', '.join(lost[:8])} and 4 more")


async def test_gc_says_what_it_freed(poi: Poi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []
    async with node(tmp_path) as store:

        async def collect(max_bytes: int = 0) -> Swept:
            kept.append(max_bytes)
            return Swept(3, 4_500_000)

        monkeypatch.setattr(store, "collect", collect)
        for arguments in ((), ("--keep", 1000)):
            swept = await asyncio.to_thread(poi, "gc", *arguments)
            assert (swept.status, swept.lines) == (0, ["freed 3 blocks, 4500000 bytes (4.5 MB)"])
    assert kept == [0, 1000]


# --- failures ------------------------------------------------------------------------------------
async def test_a_store_that_somebody_has_without_a_door_is_busy(poi: Poi, tmp_path: Path) -> None:
    async with stored(tmp_path):
        busy = await asyncio.to_thread(poi, "ls")
    assert busy.status == 2
    assert f"poi: {tmp_path / 'data'} is in use by a process that does not answer" in busy.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["get", "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH"], "expected one as `poi content add` prints it"),
        (["pin", "../../etc/passwd"], "expected one as `poi content add` prints it"),
        (["add", "none"], "PATH none: not there; expected a file, or -"),
        (["add", "."], "PATH .: a folder; expected a file, or -"),
        (["add", "none", "--profile", "mine"], "expected one of unixfs-v1-2025, unixfs-v1-classic"),
        (["get", ABSENT, "-o", ".", "--offline"], "-o .: a folder; name the file in it"),
        (["get", ABSENT, "-o", "none/out", "--offline"], "write none/out: No such file or directory"),
    ],
)
def test_what_cannot_be_done_is_explained(poi: Poi, arguments: list[str], said: str) -> None:
    done = poi(*arguments)
    assert done.status == 2
    assert done.err.startswith("poi: ")
    assert said in done.err


def test_a_device_is_written_to_and_a_link_followed(poi: Poi, file: Path, tmp_path: Path) -> None:
    assert poi("add", file).status == 0
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert poi("get", cid_of(DATA), "-o", "link").status == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == DATA
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "read").open("wb") as read, subprocess.Popen(["cat", tmp_path / "pipe"], stdout=read) as reader:
        assert poi("get", cid_of(DATA), "-o", "pipe").status == 0
        assert reader.wait(10) == 0
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "read").read_bytes() == DATA


def test_data_that_cannot_be_kept_is_explained(poi: Poi, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    done = poi("ls")
    assert done.status == 2
    assert "Not a directory" in done.err


def test_a_full_disk_leaves_no_half_file(poi: Poi, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert poi("add", file).status == 0

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full)
    got = poi("get", cid_of(DATA), "-o", "out", "--offline")
    assert (got.status, got.err) == (2, "poi: write out: No space left on device\n")
    assert not Path("out").exists()
    assert leftovers(tmp_path) == []


# --- the screen ----------------------------------------------------------------------------------
def test_a_terminal_shows_how_far_it_is(poi: Poi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(screen, "Console", lambda **_: Console(file=shown, force_terminal=True, width=100))
    monkeypatch.setattr(screen, "LARGE_BYTES", len(DATA))
    path = tmp_path / "model.onnx"
    path.write_bytes(DATA)
    assert poi("add", path).lines == [cid_of(DATA)]
    assert "model.onnx" in shown.getvalue()
    assert poi("get", cid_of(DATA), "-o", "-").out == DATA
    assert f"{cid_of(DATA)[:12]}…" in shown.getvalue()
    assert "1.0/1.0 MB" in shown.getvalue()


# --- real processes ------------------------------------------------------------------------------
SERVER = """
import asyncio, sys
from pathlib import Path
from shared.adapters.content.door.server import serve_door
from shared.adapters.content.store import EmbeddedContentStore

async def main(folder):
    async with EmbeddedContentStore(root=folder / "content", gateways=dict, own=None) as store:
        async with serve_door(store, folder, 1 << 30):
            print("ready", flush=True)
            await asyncio.get_running_loop().create_future()

asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.fixture
def killed(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(tmp_path / "data")], cwd=ROOT, stdout=subprocess.PIPE)
    with process:
        yield process
        process.kill()


def test_a_node_that_was_killed_leaves_its_content_to_be_read(
    poi: Poi, tmp_path: Path, file: Path, killed: subprocess.Popen[bytes]
) -> None:
    assert killed.stdout is not None
    assert killed.stdout.readline() == b"ready\n"
    assert poi("add", file).status == 0
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert socket_path(tmp_path / "data").exists()
    assert poi("get", cid_of(DATA), "-o", "-").out == DATA


def test_the_command_pipes(settings: Path) -> None:
    command = [sys.executable, "-m", "poi", "content"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    added = subprocess.run(
        [*command, "add", "-"], input=DATA, capture_output=True, env=environment, cwd=settings.parent
    )
    assert (added.returncode, added.stdout.decode(), added.stderr) == (0, f"{cid_of(DATA)}\n", b"")
    got = subprocess.run(
        [*command, "get", cid_of(DATA), "-o", "-"], capture_output=True, env=environment, cwd=settings.parent
    )
    assert (got.returncode, got.stdout, got.stderr) == (0, DATA, b"")


@pytest.mark.parametrize("is_named", [False, True])
def test_ctrl_c_ends_an_add_that_waits_for_a_pipe(settings: Path, is_named: bool) -> None:
    pipe = settings.parent / "pipe"
    os.mkfifo(pipe)
    with pipe.open("r+b", buffering=0) as ends:  # both, so that whoever opens it to read waits for bytes alone
        command = [sys.executable, "-m", "poi", "content", "add", str(pipe) if is_named else "-"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(
            command, stdin=ends, stdout=subprocess.PIPE, env=environment, cwd=settings.parent
        ) as process:
            ends.write(b"the beginning")
            while select.select([ends], [], [], 0)[0]:
                assert process.poll() is None  # until it has read that
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            try:
                assert process.wait(10) == 130
            finally:
                process.kill()
    assert not (settings.parent / "data" / "content").exists()  # nothing was opened before there was something to add
