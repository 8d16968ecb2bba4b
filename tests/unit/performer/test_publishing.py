"""Proofs on their way to services: tried until they are there, over crashes, and never at a task's expense."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from performer import publishing
from performer.publishing import (
    CERTIFICATE_SECONDS,
    MAX_AGE_SECONDS,
    PARALLEL,
    PUBLICATION,
    REMEMBERED_SECONDS,
    RETRY_MAX_SECONDS,
    Publications,
)
from shared.adapters.memory.store import MemoryFile, MemoryStore
from shared.content.unixfs import cid_of
from shared.errors import ContentUnavailable, PublishFailed, StoreError
from shared.interfaces import Publisher, PublishState
from shared.types import Ref
from tests.listening import running, until, virtual
from tests.publisher_support import ScriptedPublisher
from tests.simnet.virtual_time import VirtualClock, run_virtual

QUEUED, PINNING, PINNED, FAILED = PublishState
BUSY = PublishFailed("answered 503")
REFUSED = PublishFailed("answered 401", is_final=True)
CERTIFICATE = "01c0ffee"
FAR = 1e12


def ref_of(number: int = 0) -> Ref:
    data = f"proof {number}".encode()
    return Ref(cid_of(data), len(data), "unixfs-v1-2025")


REF = ref_of()


@dataclass
class Desk:
    """A queue with what is around it."""

    file: MemoryFile
    queue: Publications
    counted: list[tuple[str, PublishState]] = field(default_factory=list)

    @property
    def stored(self) -> list[bytes]:
        return [key for kind, key in self.file.entries if kind == PUBLICATION]

    def state_of(self, publisher: str, ref: Ref = REF) -> PublishState | None:
        entry = self.queue._entries.get((publisher, ref.cid))
        return entry.publication.receipt.state if entry and entry.publication.receipt else None

    async def publish(self, ref: Ref = REF, deadline: float = FAR) -> Ref:
        return await self.queue.publish(ref, deadline)

    async def reaches(self, *counted: tuple[str, PublishState], limit_seconds: float = 30.0) -> None:
        await until(lambda: self.counted == list(counted), f"{counted}, not {self.counted}", limit_seconds)


@asynccontextmanager
async def desk(publishers: Sequence[Publisher], file: MemoryFile | None = None) -> AsyncIterator[Desk]:
    """Running; ends as with kill -9."""
    file = file or MemoryFile()
    async with MemoryStore(file) as store:
        counted: list[tuple[str, PublishState]] = []
        queue = Publications(
            publishers=publishers,
            store=store,
            clock=VirtualClock(),
            count=lambda name, state: counted.append((name, state)),
        )
        await queue.load()
        async with running(_forever(queue)):
            yield Desk(file, queue, counted)
            file.kill()


async def _forever(queue: Publications) -> None:
    """Without publishers there is nothing to do for ever."""
    await queue.run()
    await asyncio.get_running_loop().create_future()


def questions(publisher: ScriptedPublisher) -> list[str]:
    return [question for question, _, _ in publisher.asked]


# --- the queue -----------------------------------------------------------------------------------
@virtual
async def test_a_proof_goes_its_course_once() -> None:
    publisher = ScriptedPublisher(steps=[QUEUED, QUEUED, PINNING, PINNED])
    async with desk([publisher]) as at:
        assert await at.publish() == REF
        await at.reaches(("filebase", QUEUED), ("filebase", PINNING), ("filebase", PINNED))
        assert questions(publisher) == ["publish", "status", "status", "status"]
        await at.publish()
        await asyncio.sleep(REMEMBERED_SECONDS / 2)
        assert len(publisher.asked) == 4


@virtual
async def test_every_service_has_its_own_course() -> None:
    slow, broken, good = (
        ScriptedPublisher("pinata", [1000.0, PINNED]),
        ScriptedPublisher("kubo", [REFUSED]),
        ScriptedPublisher("filebase"),
    )
    async with desk([slow, broken, good]) as at:
        start = asyncio.get_running_loop().time()
        await at.publish()
        assert asyncio.get_running_loop().time() == start
        await until(lambda: len(at.counted) == 2, "two of them are done")
        assert sorted(at.counted) == [("filebase", PINNED), ("kubo", FAILED)]


@virtual
async def test_it_is_durable_before_the_task_goes_on() -> None:
    async with desk([ScriptedPublisher(steps=[1.0])]) as at:
        await at.publish()
        assert at.stored == [f"filebase/{REF.cid}".encode()]


@virtual
async def test_what_may_pass_is_tried_with_growing_pauses() -> None:
    publisher = ScriptedPublisher(steps=[*[BUSY] * 10, PINNED])
    async with desk([publisher]) as at:
        with capture_logs() as logs:
            await at.publish()
            await at.reaches(("filebase", PINNED), limit_seconds=3600)
    times = [at for _, _, at in publisher.asked]
    pauses = [round(later - earlier, 3) for earlier, later in pairwise(times)]
    assert pauses == [2, 4, 8, 16, 32, 64, 128, 256, RETRY_MAX_SECONDS, RETRY_MAX_SECONDS]
    assert [(line["event"], line.get("reason")) for line in logs] == [
        ("proof not published yet", "answered 503"),
        ("proof published", None),
    ]


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (REFUSED, "answered 401"),
        (FAILED, "the service says that it failed"),
        (ContentUnavailable(REF.cid), f"content {REF.cid} is unavailable (no source is known)"),
    ],
)
@virtual
async def test_what_is_final_is_said_once_and_forgotten(step: PublishState | Exception, reason: str) -> None:
    publisher = ScriptedPublisher(steps=[step])
    async with desk([publisher]) as at:
        with capture_logs() as logs:
            await at.publish()
            await at.reaches(("filebase", FAILED))
            await asyncio.sleep(MAX_AGE_SECONDS)
        assert [(line["event"], line["reason"]) for line in logs] == [("proof not published", reason)]
        assert questions(publisher) == ["publish"]
        assert at.stored == []


@virtual
async def test_what_is_never_pinned_is_given_up() -> None:
    publisher = ScriptedPublisher(steps=[QUEUED])
    async with desk([publisher]) as at:
        with capture_logs() as logs:
            await at.publish()
            await asyncio.sleep(MAX_AGE_SECONDS + RETRY_MAX_SECONDS)
        assert at.counted == [("filebase", QUEUED), ("filebase", FAILED)]
        assert logs[-1]["reason"] == "not there after 24 hours"
        assert at.stored == []
        assert publisher.asked[-1][2] - publisher.asked[0][2] <= MAX_AGE_SECONDS
        assert len(publisher.asked) < 300


@virtual
async def test_a_pin_that_is_lost_on_its_way_is_a_failure() -> None:
    lost = PublishFailed("knows nothing of request r (404)", is_final=True)
    async with desk([ScriptedPublisher(steps=[QUEUED, lost])]) as at:
        await at.publish()
        await at.reaches(("filebase", QUEUED), ("filebase", FAILED))


@virtual
async def test_a_fault_of_ours_is_logged_and_the_queue_goes_on() -> None:
    publisher = ScriptedPublisher(steps=[KeyError("bug"), PINNED])
    async with desk([publisher]) as at:
        with capture_logs() as logs:
            await at.publish()
            await at.reaches(("filebase", PINNED))
        assert [line["event"] for line in logs] == [
            "fault while publishing",
            "proof not published yet",
            "proof published",
        ]


@virtual
async def test_a_publisher_that_never_answers_is_cut_off() -> None:
    publisher = ScriptedPublisher(steps=[1e9, PINNED])
    async with desk([publisher]) as at:
        await at.publish()
        await at.reaches(("filebase", PINNED), limit_seconds=2 * publishing.ASK_SECONDS)


@virtual
async def test_a_service_is_asked_a_few_questions_at_once() -> None:
    publisher = ScriptedPublisher(steps=[10.0, PINNED] * 3 * PARALLEL)
    async with desk([publisher]) as at:
        await asyncio.gather(*(at.publish(ref_of(number)) for number in range(3 * PARALLEL)))
        await asyncio.sleep(1)
        assert len(publisher.asked) == PARALLEL


@virtual
async def test_too_many_push_the_oldest_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "MAX_PUBLICATIONS", 3)
    publisher = ScriptedPublisher(steps=[BUSY])
    async with desk([publisher]) as at:
        with capture_logs() as logs:
            for number in range(5):
                await at.publish(ref_of(number))
        assert [cid for _, cid in at.queue._entries] == [ref_of(number).cid for number in (2, 3, 4)]
        assert len(at.stored) == 3
        given_up = [line["cid"] for line in logs if line["event"] == "proof not published"]
        assert given_up == [ref_of(0).cid, ref_of(1).cid]


@virtual
async def test_what_is_done_goes_before_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "MAX_PUBLICATIONS", 2)
    publisher = ScriptedPublisher(steps=[BUSY, PINNED, BUSY])
    async with desk([publisher]) as at:
        for number in range(2):
            await at.publish(ref_of(number))
            await asyncio.sleep(0.1)
        assert at.state_of("filebase", ref_of(1)) is PINNED
        await at.publish(ref_of(2))
        assert [cid for _, cid in at.queue._entries] == [ref_of(0).cid, ref_of(2).cid]
        assert ("filebase", FAILED) not in at.counted


@virtual
async def test_what_is_done_is_forgotten_in_the_end() -> None:
    async with desk([ScriptedPublisher()]) as at:
        await at.publish()
        await until(lambda: at.state_of("filebase") is PINNED, "it is there")
        await asyncio.sleep(REMEMBERED_SECONDS + 1)
        assert at.stored == []
        assert at.queue._entries == {}
        assert at.counted == [("filebase", PINNED)]


# --- over crashes --------------------------------------------------------------------------------
@virtual
async def test_what_was_queued_is_tried_again_after_a_crash() -> None:
    file = MemoryFile()
    async with desk([ScriptedPublisher(steps=[1e6])], file) as at:
        await at.publish()
        await asyncio.sleep(1)
    publisher = ScriptedPublisher()
    async with desk([publisher], file) as at:
        await at.reaches(("filebase", PINNED))
        assert questions(publisher) == ["publish"]


@virtual
async def test_what_was_taken_is_polled_after_a_crash_and_not_sent_again() -> None:
    file = MemoryFile()
    async with desk([ScriptedPublisher(steps=[QUEUED])], file) as at:
        await at.publish()
        await at.reaches(("filebase", QUEUED))
    publisher = ScriptedPublisher(steps=[PINNED])
    async with desk([publisher], file) as at:
        await at.reaches(("filebase", PINNED))
        assert questions(publisher) == ["status"]


@virtual
async def test_what_is_done_is_not_published_again_after_a_crash() -> None:
    file = MemoryFile()
    async with desk([ScriptedPublisher()], file) as at:
        await at.publish()
        await at.reaches(("filebase", PINNED))
    publisher = ScriptedPublisher()
    async with desk([publisher], file) as at:
        await at.publish()  # as by a task that is performed again
        await asyncio.sleep(REMEMBERED_SECONDS + 1)
        assert at.stored == []
        assert publisher.asked == []


@virtual
async def test_a_service_that_the_settings_name_no_more_is_dropped() -> None:
    file = MemoryFile()
    async with desk([ScriptedPublisher(steps=[BUSY])], file) as at:
        await at.publish()
    async with desk([ScriptedPublisher("pinata")], file) as at:
        assert at.stored == []


@virtual
async def test_without_publishers_nothing_is_kept() -> None:
    async with desk([]) as at:
        assert await at.publish() == REF
        assert at.stored == []


@given(
    st.lists(st.sampled_from([QUEUED, PINNING, BUSY]), max_size=6),
    st.sampled_from([PINNED, FAILED, REFUSED]),
    st.lists(st.integers(0, 400), max_size=3),
)
@settings(max_examples=60)
def test_whenever_it_dies_the_end_is_the_same(
    course: list[PublishState | Exception], end: PublishState | Exception, deaths: list[int]
) -> None:
    """Acknowledged is kept: the end comes once, and after it nothing is left but the memory of what is there."""

    async def live() -> None:
        file, publisher = MemoryFile(), ScriptedPublisher(steps=[*course, end])
        ends: list[PublishState] = []
        left: list[bytes] = []
        for number, seconds in enumerate([*deaths, 5000]):
            async with desk([publisher], file) as at:
                if number == 0:
                    await at.publish()
                await asyncio.sleep(seconds)
                ends += [state for _, state in at.counted if state in (PINNED, FAILED)]
                left = at.stored
        assert ends == [PINNED if end is PINNED else FAILED]
        assert len(left) == (end is PINNED)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publishing, "REMEMBERED_SECONDS", 1e9)
        run_virtual(live())


# --- the certificate -----------------------------------------------------------------------------
def eigenda(*steps: PublishState | Exception | float, receipt_id: str = CERTIFICATE) -> ScriptedPublisher:
    return ScriptedPublisher("eigenda", list(steps), receipt_id=receipt_id)


async def certified(publisher: ScriptedPublisher, deadline: float = FAR) -> tuple[bytes, float]:
    """What the `Ref` gets, and after how long."""
    async with desk([publisher]) as at:
        start = asyncio.get_running_loop().time()
        ref = await at.publish(deadline=deadline)
        return ref.eigenda, round(asyncio.get_running_loop().time() - start, 3)


@virtual
async def test_a_certificate_that_was_read_back_goes_into_the_ref() -> None:
    publisher = eigenda(3.0, PINNING, 1.0, PINNED)
    assert await certified(publisher) == (bytes.fromhex(CERTIFICATE), 4.0)
    assert questions(publisher) == ["publish", "publish", "status", "status"]  # a step of seconds counts as a question


@virtual
async def test_what_may_pass_is_tried_and_a_blob_is_put_once() -> None:
    publisher = eigenda(BUSY, PINNING, BUSY, PINNING, PINNED)
    certificate, _ = await certified(publisher)
    assert certificate == bytes.fromhex(CERTIFICATE)
    assert questions(publisher) == ["publish", "publish", "status", "status", "status"]


@pytest.mark.parametrize(
    ("steps", "seconds"),
    [
        ([1e9], CERTIFICATE_SECONDS),
        ([BUSY], CERTIFICATE_SECONDS),
        ([PINNING, 1e9], CERTIFICATE_SECONDS),  # put, and never read back: it would speak against the performer
        ([PINNING], CERTIFICATE_SECONDS),
        ([REFUSED], 0.0),
        ([FAILED], 0.0),
        ([PINNING, REFUSED], 0.0),
        ([ContentUnavailable(REF.cid)], 0.0),
        ([KeyError("bug")], 0.0),
    ],
)
@virtual
async def test_without_a_certificate_the_task_goes_on(
    steps: list[PublishState | Exception | float], seconds: float
) -> None:
    with capture_logs() as logs:
        assert await certified(eigenda(*steps)) == (b"", seconds)
    assert [line["event"] for line in logs if line["log_level"] == "warning"] == [
        "a task goes out without a certificate"
    ]


@pytest.mark.parametrize(("left", "seconds"), [(1000.0, 10.0), (20.0, 5.0), (4.0, 1.0), (0.0, 0.0), (-5.0, 0.0)])
@virtual
async def test_the_deadline_leaves_time_for_votes(left: float, seconds: float) -> None:
    certificate, waited = await certified(eigenda(1e9), VirtualClock().now() + left + 0.01)
    assert certificate == b""
    assert waited == pytest.approx(seconds, abs=0.01)


@virtual
async def test_a_receipt_that_is_no_certificate_is_none() -> None:
    assert (await certified(eigenda(PINNED, receipt_id="no hex")))[0] == b""


@virtual
async def test_a_certificate_outlives_a_crash() -> None:
    """A task that is performed again has the same proof, and pays for no second blob."""
    file = MemoryFile()
    async with desk([eigenda(PINNED)], file) as at:
        await at.publish()
    publisher = eigenda(PINNED, receipt_id="02")
    async with desk([publisher], file) as at:
        assert (await at.publish()).eigenda == bytes.fromhex(CERTIFICATE)
        assert publisher.asked == []


@virtual
async def test_a_certificate_is_remembered_for_a_while() -> None:
    publisher = eigenda(PINNED)
    async with desk([publisher]) as at:
        await at.publish()
        await asyncio.sleep(REMEMBERED_SECONDS - 1)
        await at.publish()
        assert questions(publisher) == ["publish", "status"]
        assert at.counted == [("eigenda", PINNED)]
        await asyncio.sleep(2)
        assert at.stored == []


@virtual
async def test_the_others_do_not_wait_for_the_certificate() -> None:
    other = ScriptedPublisher()
    async with desk([eigenda(5.0, PINNED), other]) as at:
        publishing_it = asyncio.create_task(at.publish())
        await at.reaches(("filebase", PINNED), limit_seconds=1)
        assert not publishing_it.done()
        assert (await publishing_it).eigenda == bytes.fromhex(CERTIFICATE)


@virtual
async def test_a_full_disk_is_not_hidden() -> None:
    async with desk([ScriptedPublisher()]) as at:
        at.file.kill()
        with pytest.raises(StoreError):
            await at.publish()
