"""One suite for every `TaskStore`, then what only a file can suffer."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.adapters import sqlite
from shared.adapters.memory.store import MemoryFile, MemoryStore
from shared.adapters.store_limits import MAX_KEY_BYTES, MAX_VALUE_BYTES
from shared.adapters.store_sqlite import PAGE_ENTRIES, SqliteStore
from shared.errors import StoreBusy, StoreCorrupt, StoreError, StoreFull
from shared.interfaces import TaskStore

ROOT = Path(__file__).resolve().parents[2]


class OpenedStore(TaskStore, AbstractAsyncContextManager["OpenedStore"], Protocol):
    """A store that opens and closes."""


Make = Callable[[], OpenedStore]


@pytest.fixture(params=["sqlite", "memory"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Makes stores on one and the same place; each must be opened."""
    if request.param == "sqlite":
        return lambda: SqliteStore(tmp_path / "data" / "tasks.sqlite")
    file = MemoryFile()
    return lambda: MemoryStore(file)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.sqlite"


async def entries(store: TaskStore, kind: str) -> list[tuple[bytes, bytes]]:
    return [entry async for entry in store.scan(kind)]


# --- the promise ---------------------------------------------------------------------------------
async def test_what_is_put_is_there(make: Make) -> None:
    async with make() as store:
        await store.put("task", b"key", b"value")
        assert await store.get("task", b"key") == b"value"
        assert await store.get("task", b"other") is None
        assert await store.get("batch", b"key") is None


async def test_the_last_write_wins(make: Make) -> None:
    async with make() as store:
        await store.put("task", b"key", b"one")
        await store.put("task", b"key", b"two")
        assert await store.get("task", b"key") == b"two"
        assert await entries(store, "task") == [(b"key", b"two")]


async def test_concurrent_puts_end_in_the_order_of_the_calls(make: Make) -> None:
    async with make() as store:
        await asyncio.gather(*(store.put("task", b"key", bytes([i])) for i in range(50)))
        assert await store.get("task", b"key") == bytes([49])


async def test_what_is_deleted_is_gone(make: Make) -> None:
    async with make() as store:
        await store.put("task", b"key", b"value")
        await store.delete("task", b"key")
        await store.delete("task", b"never there")
        assert await store.get("task", b"key") is None
        assert await entries(store, "task") == []


async def test_everything_is_there_after_a_restart(make: Make) -> None:
    async with make() as store:
        await store.put("task", b"kept", b"1")
        await store.put("task", b"deleted", b"2")
        await store.delete("task", b"deleted")
    async with make() as store:
        assert await entries(store, "task") == [(b"kept", b"1")]


async def test_empty_keys_and_values_are_values(make: Make) -> None:
    async with make() as store:
        await store.put("task", b"", b"")
        assert await store.get("task", b"") == b""
        assert await entries(store, "task") == [(b"", b"")]


async def test_the_largest_entry_fits_and_a_larger_is_refused(make: Make) -> None:
    async with make() as store:
        key, value = b"k" * MAX_KEY_BYTES, b"v" * MAX_VALUE_BYTES
        await store.put("k" * 64, key, value)
        assert await store.get("k" * 64, key) == value
        for kind, key, value in [("", b"", b""), ("k" * 65, b"", b""), ("ü", b"", b"")]:
            with pytest.raises(StoreError, match="kind: expected 1 to 64 ASCII"):
                await store.put(kind, key, value)
        with pytest.raises(StoreError, match="over the limit"):
            await store.put("task", b"k" * (MAX_KEY_BYTES + 1), b"")
        with pytest.raises(StoreError, match="over the limit"):
            await store.put("task", b"", b"v" * (MAX_VALUE_BYTES + 1))
        with pytest.raises(StoreError, match="over the limit"):
            await store.get("task", b"k" * (MAX_KEY_BYTES + 1))


async def test_a_scan_has_every_entry_of_its_kind_by_key(make: Make) -> None:
    count = 2 * PAGE_ENTRIES + 1
    async with make() as store:
        keys = [i.to_bytes(2, "big") for i in range(count)]
        await asyncio.gather(*(store.put("task", key, key * 2) for key in reversed(keys)))
        await store.put("other", b"key", b"value")
        assert await entries(store, "task") == [(key, key * 2) for key in keys]


async def test_a_scan_of_large_values_has_them_all(make: Make) -> None:
    async with make() as store:
        for i in range(4):
            await store.put("task", bytes([i]), bytes([i]) * (3 << 20))
        assert [(key, value[:1], len(value)) for key, value in await entries(store, "task")] == [
            (bytes([i]), bytes([i]), 3 << 20) for i in range(4)
        ]


async def test_a_scan_bears_changes_under_way(make: Make) -> None:
    async with make() as store:
        for i in range(PAGE_ENTRIES + 10):
            await store.put("task", i.to_bytes(2, "big"), b"old")
        seen = []
        async for key, _ in store.scan("task"):
            seen.append(key)
            await store.put("task", key, b"new")
            await store.delete("task", (PAGE_ENTRIES + 9).to_bytes(2, "big"))
        assert seen == [i.to_bytes(2, "big") for i in range(PAGE_ENTRIES + 9)]
        assert {value for _, value in await entries(store, "task")} == {b"new"}


async def test_a_scan_may_be_left_early(make: Make) -> None:
    async with make() as store:
        await store.put("task", b"1", b"")
        await store.put("task", b"2", b"")
        async for _ in store.scan("task"):
            break
        await store.put("task", b"3", b"")


async def test_a_second_opener_is_refused_until_the_first_closes(make: Make) -> None:
    async with make():
        with pytest.raises(StoreBusy, match="in use; stop the other process first"):
            async with make():
                pytest.fail("two have it open")
    async with make():
        pass


async def test_a_store_that_is_not_open_says_so(make: Make) -> None:
    store = make()
    with pytest.raises(StoreError, match="not open"):
        await store.put("task", b"key", b"value")
    async with store:
        await store.put("task", b"key", b"value")
    for call in (store.get("task", b"key"), store.delete("task", b"key"), entries(store, "task")):
        with pytest.raises(StoreError, match="not open"):
            await call


async def test_a_cancelled_put_harms_nothing(make: Make) -> None:
    async with make() as store:
        doing = [asyncio.create_task(store.put("task", bytes([i]), b"value")) for i in range(20)]
        await asyncio.sleep(0)
        for task in doing[::2]:
            task.cancel()
        results = await asyncio.gather(*doing, return_exceptions=True)
        assert results[1::2] == [None] * 10
        there = {key for key, _ in await entries(store, "task")}
        assert there >= {bytes([i]) for i in range(1, 20, 2)}


operations = st.lists(
    st.tuples(
        st.sampled_from(["put", "delete", "restart"]),
        st.sampled_from(["a", "b"]),
        st.binary(max_size=2),
        st.binary(max_size=8),
    ),
    max_size=25,
)


@settings(max_examples=25, deadline=None)
@given(operations)
def test_any_store_is_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, bytes, bytes]]
) -> None:
    async def compare(make: Make) -> None:
        model: dict[tuple[str, bytes], bytes] = {}
        store = await make().__aenter__()
        for step, kind, key, value in steps:
            match step:
                case "put":
                    await store.put(kind, key, value)
                    model[kind, key] = value
                case "delete":
                    await store.delete(kind, key)
                    model.pop((kind, key), None)
                case _:
                    await store.__aexit__(None, None, None)
                    store = await make().__aenter__()
            assert await store.get(kind, key) == model.get((kind, key))
        for kind in ("a", "b"):
            assert await entries(store, kind) == sorted((key, v) for (k, key), v in model.items() if k == kind)
        await store.__aexit__(None, None, None)

    path, file = tmp_path_factory.mktemp("model") / "tasks.sqlite", MemoryFile()
    asyncio.run(compare(lambda: SqliteStore(path)))
    asyncio.run(compare(lambda: MemoryStore(file)))


# --- the file ------------------------------------------------------------------------------------
def read(path: Path) -> bytes:
    return path.read_bytes()


def write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


WRITER = """
import asyncio, sys
from pathlib import Path
from shared.adapters.store_sqlite import SqliteStore

async def put(store, number):
    await store.put("task", number.to_bytes(4, "big"), number.to_bytes(4, "big") * 100)
    print(number, flush=True)

async def main():
    async with SqliteStore(Path(sys.argv[1])) as store:
        for start in range(0, 100_000, 8):
            await asyncio.gather(*(put(store, start + i) for i in range(8)))

asyncio.run(main())
"""


@pytest.fixture
def writer(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that puts without end, and prints each number once its put was acknowledged."""
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("acknowledged", [1, 50, 333])
async def test_kill_9_loses_nothing_acknowledged(path: Path, writer: subprocess.Popen[str], acknowledged: int) -> None:
    assert writer.stdout is not None
    numbers = [int(writer.stdout.readline()) for _ in range(acknowledged)]
    writer.send_signal(signal.SIGKILL)
    numbers += [int(line) for line in writer.stdout.read().splitlines()]
    assert writer.wait(timeout=30) == -signal.SIGKILL
    async with SqliteStore(path) as store:
        for number in numbers:
            assert await store.get("task", number.to_bytes(4, "big")) == number.to_bytes(4, "big") * 100
        await store.put("task", b"after", b"it goes on")


async def test_a_second_process_is_refused_until_the_first_dies(path: Path, writer: subprocess.Popen[str]) -> None:
    assert writer.stdout is not None
    writer.stdout.readline()
    with pytest.raises(StoreBusy, match=r"task store .*tasks\.sqlite is in use; stop the other process first"):
        await SqliteStore(path).__aenter__()
    writer.kill()
    writer.wait(timeout=30)
    async with SqliteStore(path):
        pass


async def test_another_name_of_the_file_is_refused_too(path: Path) -> None:
    async with SqliteStore(path):
        alias = path.with_name("alias.sqlite")
        alias.symlink_to(path)
        with pytest.raises(StoreBusy):
            await SqliteStore(alias).__aenter__()


async def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        async with SqliteStore(tmp_path / "data" / "tasks.sqlite") as store:
            await store.put("task", b"key", b"value")
            modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "data").iterdir()}
    finally:
        os.umask(before)
    assert modes == {"tasks.sqlite": 0o600, "tasks.sqlite-wal": 0o600}
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


async def test_many_callers_share_a_commit(path: Path) -> None:
    statements: list[str] = []
    async with SqliteStore(path) as store:
        await store._database.run(lambda connection: connection.set_trace_callback(statements.append))
        await asyncio.gather(*(store.put("task", i.to_bytes(2, "big"), b"value") for i in range(500)))
        await store._database.run(lambda connection: connection.set_trace_callback(None))
    commits = [statement for statement in statements if statement == "COMMIT"]
    assert 500 / sqlite.GROUP <= len(commits) < 50


async def test_every_commit_reaches_the_disk(path: Path) -> None:
    async with SqliteStore(path) as store:
        pragmas = ("synchronous", "journal_mode", "locking_mode")
        read = [
            await store._database.run(lambda c, name=name: c.execute(f"PRAGMA {name}").fetchone()[0])  # type: ignore[misc]
            for name in pragmas
        ]
    assert read == [2, "wal", "exclusive"]


async def test_a_full_disk_is_named_and_nothing_acknowledged_is_lost(path: Path) -> None:
    async with SqliteStore(path) as store:
        await store.put("task", b"before", b"value")
        await store._database.run(lambda connection: connection.execute("PRAGMA max_page_count=64").fetchone())
        with pytest.raises(StoreFull, match="the disk is full; free some space"):
            await store.put("task", b"large", bytes(1 << 20))
        assert await store.get("task", b"large") is None
        await store._database.run(lambda connection: connection.execute("PRAGMA max_page_count=100000").fetchone())
        await store.put("task", b"large", bytes(1 << 20))
        assert await store.get("task", b"before") == b"value"


async def test_one_callers_full_disk_is_not_its_neighbours(path: Path) -> None:
    async with SqliteStore(path) as store:
        await store._database.run(lambda connection: connection.execute("PRAGMA max_page_count=64").fetchone())
        puts = [store.put("task", bytes([i]), bytes(1 << 20 if i == 7 else 10)) for i in range(20)]
        results = await asyncio.gather(*puts, return_exceptions=True)
        assert [i for i, result in enumerate(results) if isinstance(result, StoreFull)] == [7]
        assert [key for key, _ in await entries(store, "task")] == [bytes([i]) for i in range(20) if i != 7]


async def test_a_fault_in_one_callers_work_is_that_callers(path: Path) -> None:
    def fail(_: sqlite3.Connection) -> None:
        raise KeyError("a bug")

    async with SqliteStore(path) as store:
        results = await asyncio.gather(
            store.put("task", b"1", b""),
            store._database.run(fail),
            store.put("task", b"2", b""),
            return_exceptions=True,
        )
        assert [type(result) for result in results] == [type(None), KeyError, type(None)]
        assert len(await entries(store, "task")) == 2


async def test_close_finishes_what_was_asked_for(path: Path) -> None:
    store = await SqliteStore(path).__aenter__()
    puts = [asyncio.create_task(store.put("task", i.to_bytes(2, "big"), b"")) for i in range(300)]
    await asyncio.sleep(0)
    await store.__aexit__(None, None, None)
    await asyncio.gather(*puts)
    async with SqliteStore(path) as store:
        assert len(await entries(store, "task")) == 300


async def test_more_callers_than_places_all_get_their_turn(path: Path) -> None:
    async with SqliteStore(path) as store:
        count = 2 * sqlite.MAX_PENDING
        await asyncio.gather(*(store.put("task", i.to_bytes(2, "big"), b"") for i in range(count)))
        assert len(await entries(store, "task")) == count


async def test_opening_may_be_cancelled(path: Path) -> None:
    opening = asyncio.create_task(SqliteStore(path).__aenter__())
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    async with asyncio.timeout(30):
        while True:
            try:
                async with SqliteStore(path):
                    break
            except StoreBusy:
                await asyncio.sleep(0.01)  # its thread is closing the file


async def test_a_newer_versions_file_is_refused_and_let_be(path: Path) -> None:
    async with SqliteStore(path):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=2")
    connection.close()
    before = read(path)
    with pytest.raises(StoreError, match="has schema version 2 and this program knows 1; run the version"):
        await SqliteStore(path).__aenter__()
    assert read(path) == before


async def test_another_programs_database_is_refused_and_let_be(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE entries (mine)")
    connection.close()
    with pytest.raises(StoreCorrupt, match="is not a task store but another file; nothing was changed"):
        await SqliteStore(path).__aenter__()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT sql FROM sqlite_master").fetchall() == [("CREATE TABLE entries (mine)",)]
    connection.close()


@pytest.mark.parametrize("garbage", [b"this is no database " * 100, b"\0" * 4096], ids=["text", "zeros"])
async def test_garbage_is_refused(path: Path, garbage: bytes) -> None:
    write(path, garbage)
    with pytest.raises(StoreCorrupt, match="damaged or is another kind of file"):
        await SqliteStore(path).__aenter__()
    assert read(path) == garbage


@pytest.mark.parametrize("damage", ["overwritten", "cut"])
async def test_damage_is_noticed_on_opening(path: Path, damage: str) -> None:
    async with SqliteStore(path) as store:
        for i in range(100):
            await store.put("task", bytes([i]), bytes([i]) * 1000)
    data = read(path)
    write(path, data[: len(data) // 2] if damage == "cut" else data[:8192] + b"\xff" * 8192 + data[16384:])
    with pytest.raises(StoreCorrupt, match="keep it for inspection"):
        await SqliteStore(path).__aenter__()


async def test_a_place_that_cannot_hold_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="create task store"):
        await SqliteStore(tmp_path / "file" / "tasks.sqlite").__aenter__()
    with pytest.raises(StoreError, match="unable to open"):
        await SqliteStore(tmp_path).__aenter__()
