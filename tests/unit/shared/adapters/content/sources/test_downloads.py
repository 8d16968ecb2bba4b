"""A file's archive and the fetches of its blocks, on virtual time: who gets what, what is held, and when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.adapters.content.sources.downloads import LINGER_SECONDS, MAX_HELD_BYTES, ORDER_SECONDS, Download
from shared.content.car import car_header, car_section
from shared.content.cid import Block, Codec, make_block
from shared.errors import SourceFailed
from shared.interfaces import Meter
from shared.reasons import SourceFault
from tests.simnet.virtual_time import run_virtual

MIB = 1 << 20
LEAVES = [make_block(Codec.RAW, bytes([number]) * MIB) for number in range(20)]
SMALL = [make_block(Codec.RAW, bytes([number])) for number in range(200)]
HELD = MAX_HELD_BYTES // MIB  # of LEAVES
STRANGE = make_block(Codec.RAW, b"strange")


class Archive:
    """What a gateway sends. `read` counts what was taken of it."""

    def __init__(self, blocks: Sequence[Block], *, end: Exception | None = None, seconds: float = 0.0) -> None:
        self._parts = [car_header(blocks[0].cid), *map(car_section, blocks)]
        self._end, self._seconds = end, seconds
        self.read, self.is_closed = -1, False

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        try:
            for part in self._parts:
                self.read += 1
                await asyncio.sleep(self._seconds)
                yield part
            if self._end is not None:
                raise self._end
        finally:
            self.is_closed = True


def simulate(main: Coroutine[Any, Any, None]) -> None:
    run_virtual(main)


async def settle() -> None:
    """Until nothing happens any more at this time."""
    await asyncio.sleep(1e-3)


async def take(download: Download, block: Block, meter: Meter | None = None) -> Block:
    return await download.block(block.cid, meter or Meter())


async def refused(download: Download, block: Block) -> SourceFailed:
    with pytest.raises(SourceFailed) as failed:
        await take(download, block)
    return failed.value


# --- in order ------------------------------------------------------------------------------------
@given(st.integers(1, 6))
def test_a_reader_that_asks_a_few_ahead_gets_every_block(ahead):
    async def main() -> None:
        archive = Archive(LEAVES)
        download = Download(archive.pieces())
        tasks: list[asyncio.Task[Block]] = []
        for number, leaf in enumerate(LEAVES):
            while len(tasks) < min(number + ahead, len(LEAVES)):
                tasks.append(asyncio.create_task(take(download, LEAVES[len(tasks)])))
            assert await tasks[number] == leaf
        await asyncio.wait_for(download.task, 0.1)  # all is taken: it ends by itself
        assert archive.is_closed

    simulate(main())


def test_all_who_wait_for_a_block_get_it():
    async def main() -> None:
        download = Download(Archive(LEAVES[:2], seconds=0.1).pieces())
        got = await asyncio.gather(*(take(download, LEAVES[1]) for _ in range(3)))
        assert got == [LEAVES[1]] * 3
        await download.close()

    simulate(main())


def test_who_asks_again_is_sent_to_ask_for_the_block_alone():
    async def main() -> None:
        download = Download(Archive(LEAVES).pieces())
        for block in LEAVES[:2]:
            await take(download, block)
            assert str(await refused(download, block)) == "the archive gave it a moment ago"
        await download.close()

    simulate(main())


def test_who_waits_is_told_of_what_comes():
    async def main() -> None:
        archive = Archive(LEAVES[:4], seconds=0.1)
        download, meter = Download(archive.pieces()), Meter()
        await take(download, LEAVES[3], meter)
        assert meter.received_bytes == len(car_header(LEAVES[0].cid)) + sum(map(len, map(car_section, LEAVES[:4])))
        await download.close()

    simulate(main())


# --- bounds --------------------------------------------------------------------------------------
def test_a_gateway_has_to_wait_for_a_slow_reader():
    async def main() -> None:
        archive = Archive(LEAVES)
        download = Download(archive.pieces())
        await take(download, LEAVES[0])
        await settle()
        assert archive.read == 1 + HELD + 1  # the first, those held, and the one at the door
        await take(download, LEAVES[1])
        await settle()
        assert archive.read == 1 + HELD + 2
        assert not archive.is_closed
        await download.close()
        assert archive.is_closed

    simulate(main())


def test_many_small_blocks_are_not_held():
    async def main() -> None:
        archive = Archive(SMALL)
        download = Download(archive.pieces())
        await take(download, SMALL[0])
        await settle()
        assert archive.read == 1 + 64 + 1
        await download.close()

    simulate(main())


@pytest.mark.parametrize("noise", [LEAVES, [STRANGE] * 1000], ids=["other blocks", "one block for ever"])
def test_an_archive_in_another_order_is_given_up(noise):
    async def main() -> None:
        loop = asyncio.get_running_loop()
        archive = Archive([*noise, STRANGE])
        download, started = Download(archive.pieces()), loop.time()
        failure = await refused(download, SMALL[0])
        assert str(failure) == "the archive has another order"
        assert failure.fault is SourceFault.BAD_ANSWER
        assert loop.time() - started == pytest.approx(ORDER_SECONDS)
        assert archive.read <= 66
        await settle()
        assert archive.is_closed
        assert download.task.done()

    simulate(main())


def test_blocks_that_are_here_already_are_passed_over_a_few_at_a_time():
    async def main() -> None:
        download = Download(Archive(LEAVES).pieces())
        for block in (LEAVES[0], LEAVES[5], LEAVES[6], LEAVES[8]):
            assert await take(download, block) == block
        await download.close()

    simulate(main())


# --- ends ----------------------------------------------------------------------------------------
def test_what_came_is_there_after_the_end_and_the_rest_is_refused():
    async def main() -> None:
        download = Download(Archive(LEAVES[:4]).pieces())
        await take(download, LEAVES[0])
        await settle()
        assert await take(download, LEAVES[2]) == LEAVES[2]
        failure = await refused(download, STRANGE)
        assert (str(failure), failure.fault) == ("the archive ended without the block", SourceFault.BAD_ANSWER)
        assert await take(download, LEAVES[1]) == LEAVES[1]
        assert await take(download, LEAVES[3]) == LEAVES[3]
        await asyncio.wait_for(download.task, 0.1)

    simulate(main())


def test_all_who_wait_are_told_what_ended_it():
    async def main() -> None:
        end = SourceFailed("HTTP status 503", SourceFault.BUSY)
        download = Download(Archive(LEAVES[:2], end=end, seconds=0.1).pieces())
        outcomes = await asyncio.gather(*(take(download, leaf) for leaf in LEAVES[:4]), return_exceptions=True)
        assert outcomes == [LEAVES[0], LEAVES[1], end, end]

    simulate(main())


@pytest.mark.parametrize(
    ("tail", "cause"),
    [
        (b"\x00", "wrong archive: CAR: a section of 0 bytes"),
        (car_section(LEAVES[1])[:-1], "wrong archive: CAR: cut"),
        (car_section(LEAVES[1])[:-1] + b"!", f"wrong archive: {MIB} bytes do not hash to {LEAVES[1].cid}"),
    ],
    ids=["padded", "cut", "forged"],
)
def test_a_wrong_archive_ends_where_it_is_wrong(tail, cause):
    async def main() -> None:
        async def pieces() -> AsyncGenerator[bytes, None]:
            yield car_header(LEAVES[0].cid) + car_section(LEAVES[0])
            yield tail

        download = Download(pieces())
        outcomes = await asyncio.gather(*(take(download, leaf) for leaf in LEAVES[:2]), return_exceptions=True)
        assert outcomes[0] == LEAVES[0]
        assert str(outcomes[1]) == cause
        assert isinstance(outcomes[1], SourceFailed)
        assert outcomes[1].fault is SourceFault.WRONG_BYTES

    simulate(main())


def test_it_lingers_for_the_next_fetch_and_no_longer():
    async def main() -> None:
        archive = Archive(LEAVES)
        download = Download(archive.pieces())
        for block in LEAVES[:3]:
            await take(download, block)
            await asyncio.sleep(LINGER_SECONDS - 0.1)
            assert not download.task.done()
        await asyncio.sleep(0.2)
        assert download.task.done()
        assert archive.is_closed
        assert str(await refused(download, LEAVES[3])) == "the archive was given up"

    simulate(main())


def test_a_fetch_that_waits_keeps_it_for_longer():
    async def main() -> None:
        download = Download(Archive(LEAVES[:3], seconds=LINGER_SECONDS + 1).pieces())
        assert await take(download, LEAVES[0]) == LEAVES[0]
        assert await take(download, LEAVES[2]) == LEAVES[2]
        await download.close()

    simulate(main())


def test_a_loser_hangs_up_at_once():
    async def main() -> None:
        archive = Archive(LEAVES, seconds=1)
        download = Download(archive.pieces())
        fetch = asyncio.create_task(take(download, LEAVES[0]))
        await asyncio.sleep(0.5)
        fetch.cancel()
        await asyncio.gather(fetch, return_exceptions=True)
        await settle()
        assert archive.is_closed

    simulate(main())


def test_between_two_levels_of_a_file_all_fetches_may_change():
    """A reader lets go of what an inner node puts further off, and asks for what is below it a moment later."""

    async def main() -> None:
        download = Download(Archive(LEAVES, seconds=0.01).pieces())
        await take(download, LEAVES[0])
        further = asyncio.create_task(take(download, STRANGE))
        await settle()
        further.cancel()
        await asyncio.gather(further, return_exceptions=True)
        await asyncio.sleep(0.1)
        assert await take(download, LEAVES[1]) == LEAVES[1]
        await download.close()

    simulate(main())


def test_closing_ends_all_fetches():
    async def main() -> None:
        archive = Archive(LEAVES, seconds=10)
        download = Download(archive.pieces())
        fetch = asyncio.create_task(take(download, LEAVES[0]))
        await settle()
        await download.close()
        with pytest.raises(SourceFailed, match="given up"):
            await fetch
        assert archive.is_closed

    simulate(main())
