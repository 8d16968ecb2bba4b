"""Pins: what was promised is never shortened, and durable before anybody hears of it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from pathlib import Path
from sqlite3 import Connection
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.adapters.content import pins as pins_file
from shared.adapters.content.pins import Pins
from shared.adapters.sqlite import Database, Work
from shared.errors import StoreBusy, StoreCorrupt, StoreError, StoreFull
from shared.interfaces import Pin
from shared.types import FOREVER, Cid
from tests.content_support import until

A, B = Cid("a"), Cid("b")


class SlowDatabase(Database):
    """Each commit waits until it is let go, or fails."""

    def __init__(self, path: Path, schema: Any) -> None:
        super().__init__(path, schema)
        self.gates: list[asyncio.Future[None]] = []
        self.is_slow = False

    async def run(self, work: Work[Any]) -> Any:
        if self.is_slow:
            gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.gates.append(gate)
            await gate
        return await super().run(work)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pins.sqlite"


@pytest.fixture
async def slow(path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Pins, SlowDatabase]]:
    monkeypatch.setattr(pins_file, "Database", SlowDatabase)
    monkeypatch.setattr(pins_file, "_NOTE_SECONDS", 0.0)
    pins = Pins(path)
    await pins.open()
    database = pins._db
    assert isinstance(database, SlowDatabase)
    database.is_slow = True
    yield pins, database
    database.is_slow = False
    await pins.close()


async def in_the_file(path: Path) -> list[Pin]:
    pins = Pins(path)
    await pins.open()
    try:
        return pins.all()
    finally:
        await pins.close()


# --- the file ------------------------------------------------------------------------------------
async def test_pins_outlive_their_process(path):
    pins = Pins(path)
    await pins.open()
    kept, part = Pin(A, 7, FOREVER, 1.0), Pin(B, None, 5.5, 1.0)
    for pin in (kept, kept, part, Pin(Cid("other"), 1, 5.0, 1.0)):
        await pins.add(pin)
    await pins.remove(Cid("other"))
    await pins.remove(Cid("never there"))
    assert pins.all() == [kept, part]
    await pins.close()
    assert await in_the_file(path) == [kept, part]


async def test_a_second_process_is_refused(path):
    first, second = Pins(path), Pins(path)
    await first.open()
    with pytest.raises(StoreBusy):
        await second.open()
    await first.close()


async def test_another_file_is_refused(path):
    path.write_bytes(b"not a database, but long enough to look like a file of some kind")
    with pytest.raises(StoreCorrupt):
        await Pins(path).open()


# --- promises ------------------------------------------------------------------------------------
PINS = st.builds(
    Pin, st.sampled_from([A, B]), st.sampled_from([None, 7]), st.sampled_from([0.0, 5.0, 9.0, FOREVER]), st.just(1.0)
)


@given(st.lists(PINS, max_size=8), st.booleans())
@settings(max_examples=25)
def test_whatever_the_order_the_longest_promise_holds(tmp_path_factory, added, is_at_once):
    path = tmp_path_factory.mktemp("pins") / "pins.sqlite"

    async def check() -> None:
        pins = Pins(path)
        await pins.open()
        if is_at_once:
            await asyncio.gather(*(pins.add(pin) for pin in added))
        else:
            for pin in added:
                await pins.add(pin)
        known = sorted(pins.all(), key=lambda pin: pin.cid)
        await pins.close()
        assert sorted(await in_the_file(path), key=lambda pin: pin.cid) == known
        expected = {
            cid: (
                max((pin.size for pin in added if pin.cid == cid and pin.size is not None), default=None),
                max(pin.keep_until for pin in added if pin.cid == cid),
            )
            for cid in {pin.cid for pin in added}
        }
        assert {pin.cid: (pin.size, pin.keep_until) for pin in known} == expected

    asyncio.run(check())


async def test_an_add_waits_for_its_own_promise_also_while_another_is_under_way(slow):
    pins, database = slow
    first = asyncio.create_task(pins.add(Pin(A, 7, FOREVER, 1.0)))
    await until(lambda: len(database.gates) == 1, "the first add is under way")
    second = asyncio.create_task(pins.add(Pin(A, 7, FOREVER, 1.0)))
    await until(lambda: len(database.gates) == 2, "the second add does not rely on the first")
    assert pins.all() == []
    assert pins.promised() == [Pin(A, 7, FOREVER, 1.0)]
    database.gates[1].set_result(None)
    await second
    assert not first.done()
    assert pins.all() == [Pin(A, 7, FOREVER, 1.0)]
    database.gates[0].set_result(None)
    await first


async def test_what_the_file_says_wins_over_a_late_shorter_promise(slow, path):
    pins, database = slow
    tasks = [asyncio.create_task(pins.add(Pin(A, None, keep_until, 1.0))) for keep_until in (9.0, 5.0)]
    await until(lambda: len(database.gates) == 2, "both are under way")
    for gate in database.gates:
        gate.set_result(None)
    await asyncio.gather(*tasks)
    assert pins.all() == [Pin(A, None, 9.0, 1.0)]


async def test_a_promise_that_was_cancelled_is_known_as_the_file_has_it(slow, path):
    pins, database = slow
    adding = asyncio.create_task(pins.add(Pin(A, 7, FOREVER, 1.0)))
    await until(lambda: database.gates, "it is under way")
    adding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await adding
    assert pins.promised() == [Pin(A, 7, FOREVER, 1.0)]  # for a collection: it may still come
    database.gates[0].set_result(None)
    database.is_slow = False
    await pins.close()
    assert pins.all() == await in_the_file(path) == [Pin(A, 7, FOREVER, 1.0)]


async def test_a_promise_that_failed_was_none(slow):
    pins, database = slow
    adding = asyncio.create_task(pins.add(Pin(A, 7, FOREVER, 1.0)))
    await until(lambda: database.gates, "it is under way")
    database.gates[0].set_exception(StoreFull("the disk is full"))
    with pytest.raises(StoreFull):
        await adding
    assert pins.all() == pins.promised() == []


# --- notes ---------------------------------------------------------------------------------------
async def test_what_is_noted_is_known_to_a_collection_at_once_and_durable_when_it_is_closed(slow, path):
    pins, database = slow
    pins.note(Pin(A, 7, 0.0, 1.0))
    assert pins.promised() == [Pin(A, 7, 0.0, 1.0)]
    await until(lambda: database.gates, "it is under way")
    closing = asyncio.create_task(pins.close())
    database.gates[0].set_result(None)
    database.is_slow = False
    await closing
    assert await in_the_file(path) == [Pin(A, 7, 0.0, 1.0)]


async def test_a_burst_of_notes_is_one_commit_which_nobody_need_wait_for(slow, path, monkeypatch):
    monkeypatch.setattr(pins_file, "_NOTE_SECONDS", 1e6)
    pins, database = slow
    noted = [Pin(Cid(f"{number}"), number, 0.0, 1.0) for number in range(50)]
    for pin in noted:
        pins.note(pin)
    assert pins.promised() == noted
    settling = asyncio.create_task(pins.settle())
    await until(lambda: database.gates, "it is hurried")
    pins.note(Pin(A, 7, 0.0, 1.0))  # too late for that one
    await until(lambda: len(database.gates) == 2, "it goes at once, while somebody waits")
    for gate in database.gates:
        gate.set_result(None)
    database.is_slow = False
    await settling
    await pins.settle()
    assert pins.all() == [*noted, Pin(A, 7, 0.0, 1.0)]


async def test_a_promise_relies_on_no_note_that_is_under_way(slow):
    pins, database = slow
    pins.note(Pin(A, 7, 0.0, 1.0))
    await until(lambda: database.gates, "the note is under way")
    adding = asyncio.create_task(pins.add(Pin(A, 7, 0.0, 1.0)))
    await until(lambda: len(database.gates) == 2, "both are under way")
    database.gates[0].set_exception(StoreFull("the disk is full"))
    await until(lambda: len(pins._changes) == 1, "the note failed")
    assert pins.all() == []
    assert pins.promised() == [Pin(A, 7, 0.0, 1.0)]
    assert not adding.done()
    database.gates[1].set_result(None)
    await adding
    assert pins.all() == [Pin(A, 7, 0.0, 1.0)]


@pytest.mark.parametrize("is_note", [True, False])
async def test_what_fails_when_nobody_waits_for_it_is_not_known_and_not_logged(slow, caplog, is_note):
    pins, database = slow
    if is_note:
        pins.note(Pin(A, 7, 0.0, 1.0))
    else:
        adding = asyncio.create_task(pins.add(Pin(A, 7, FOREVER, 1.0)))
    await until(lambda: database.gates, "it is under way")
    if not is_note:
        adding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await adding
    database.gates[0].set_exception(StoreFull("the disk is full"))
    await pins.settle()
    assert pins.promised() == []
    gc.collect()  # an error that nobody looked at is logged when its task goes
    assert not caplog.records


async def test_closing_that_is_cancelled_cancels_no_change_and_lets_the_file_go(slow, path):
    pins, database = slow
    pins.note(Pin(B, 7, 0.0, 1.0))
    adding = asyncio.create_task(pins.add(Pin(A, 7, FOREVER, 1.0)))
    await until(lambda: len(database.gates) == 2, "they are under way")
    closing = asyncio.create_task(pins.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    for gate in database.gates:
        gate.set_result(None)
    with pytest.raises(StoreError, match="not open"):  # and is not taken for durable
        await adding
    assert await in_the_file(path) == []


# --- dropping ------------------------------------------------------------------------------------
async def test_what_was_used_or_promised_since_is_not_dropped(path):
    pins = Pins(path)
    await pins.open()
    for cid in "abcd":
        await pins.add(Pin(Cid(cid), 1, 0.0, 1.0))
    seen = pins.promised()
    await pins.add(Pin(Cid("b"), 1, 0.0, 2.0))
    await pins.add(Pin(Cid("c"), 1, FOREVER, 1.0))
    promising = asyncio.create_task(pins.add(Pin(Cid("d"), 1, FOREVER, 1.0)))
    await asyncio.sleep(0)  # it is on its way
    await pins.drop(seen)
    await promising
    assert [pin.cid for pin in pins.all()] == ["b", "c", "d"]
    await pins.close()
    assert [pin.cid for pin in await in_the_file(path)] == ["b", "c", "d"]


async def test_what_is_added_while_it_is_dropped_is_made_durable_again(slow, path):
    pins, database = slow
    database.is_slow = False
    await pins.add(Pin(A, 1, 0.0, 1.0))
    database.is_slow = True
    dropping = asyncio.create_task(pins.drop(pins.promised()))
    await until(lambda: database.gates, "it is being dropped")
    adding = asyncio.create_task(pins.add(Pin(A, 1, 0.0, 1.0)))
    await until(lambda: len(database.gates) == 2, "adding relies on nothing")
    for gate in database.gates:
        gate.set_result(None)
    await asyncio.gather(dropping, adding)
    database.is_slow = False
    await pins.close()
    assert pins.all() == await in_the_file(path) == [Pin(A, 1, 0.0, 1.0)]


async def test_a_drop_that_failed_dropped_nothing(slow):
    pins, database = slow
    database.is_slow = False
    await pins.add(Pin(A, 1, 0.0, 1.0))
    database.is_slow = True
    dropping = asyncio.create_task(pins.drop(pins.promised()))
    await until(lambda: database.gates, "it is being dropped")
    database.gates[0].set_exception(StoreFull("the disk is full"))
    with pytest.raises(StoreFull):
        await dropping
    assert pins.all() == [Pin(A, 1, 0.0, 1.0)]


# --- last uses -----------------------------------------------------------------------------------
async def test_a_use_costs_no_commit_and_is_written_in_the_end(path, monkeypatch):
    pins = Pins(path)
    await pins.open()
    await pins.add(Pin(A, 7, FOREVER, 1.0))
    with monkeypatch.context() as patch:

        async def refused(database: Database, work: Work[Any]) -> Any:
            raise StoreError("no write is worth it")

        patch.setattr(Database, "run", refused)
        for used_at in (5.0, 3.0):
            await pins.add(Pin(A, 7, 0.0, used_at))
    assert pins.all() == [Pin(A, 7, FOREVER, 5.0)]
    await pins.close()
    assert await in_the_file(path) == [Pin(A, 7, FOREVER, 5.0)]


async def test_uses_go_along_with_other_changes(path):
    pins = Pins(path)
    await pins.open()
    await pins.add(Pin(A, 7, FOREVER, 1.0))
    await pins.add(Pin(A, 7, FOREVER, 5.0))
    await pins.add(Pin(B, 7, FOREVER, 1.0))

    def read(connection: Connection) -> list[tuple[str, float]]:
        return connection.execute("SELECT cid, used_at FROM pins ORDER BY cid").fetchall()

    assert await pins._db.run(read) == [("a", 5.0), ("b", 1.0)]
    await pins.close()


# --- the bound -----------------------------------------------------------------------------------
async def test_there_is_so_much_cache_and_no_more_and_what_has_to_stay_does_not_count(path):
    pins = Pins(path, max_cached=32, now=lambda: 1000.0)
    await pins.open()
    for number in range(100):
        await pins.add(Pin(Cid(f"kept {number}"), 1, FOREVER, 0.0))
    for number in range(200):
        await pins.add(Pin(Cid(f"cached {number}"), 1, 0.0, float(number)))
        cached = [pin for pin in pins.all() if pin.keep_until == 0.0]
        assert len(cached) <= 34
        assert cached[-1].cid == f"cached {number}"
        assert [pin.used_at for pin in cached] == [float(number - back) for back in reversed(range(len(cached)))]
    assert sum(pin.keep_until == FOREVER for pin in pins.all()) == 100
    known = pins.all()
    await pins.close()
    assert sorted(await in_the_file(path), key=lambda pin: pin.cid) == sorted(known, key=lambda pin: pin.cid)
