"""The race between sources, on virtual time: who is asked when, who wins, and what is said of the rest."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.adapters.content.race import (
    MAX_ATTEMPTS_AT_ONCE,
    PACE_BYTES_PER_SECOND,
    SourceOrder,
    race,
)
from shared.constants import HEDGE_SECONDS
from shared.content.cid import Block, Codec, make_block
from shared.errors import ContentUnavailable, SourceFailed
from shared.interfaces import Meter, Wanted
from tests.simnet.virtual_time import run_virtual

BLOCK = make_block(Codec.RAW, b"block")
WANTED = Wanted(BLOCK.cid, BLOCK.cid)
MIB = 1 << 20


@dataclass
class Fake:
    """A source that waits, then delivers or fails. `bytes_per_second` comes in meanwhile."""

    name: str
    seconds: float = 0.0
    failure: str | None = None
    bytes_per_second: float = 0.0
    asked_at: list[float] = field(default_factory=list)
    cancelled: int = 0
    running: int = 0

    async def fetch(self, wanted: Wanted, meter: Meter) -> Block:
        self.asked_at.append(asyncio.get_running_loop().time())
        self.running += 1
        try:
            await self._receive(meter)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        if self.failure is not None:
            raise SourceFailed(self.failure)
        return BLOCK

    async def _receive(self, meter: Meter) -> None:
        left = self.seconds
        while left > 0 and self.bytes_per_second:
            await asyncio.sleep(min(0.05, left))
            left -= 0.05
            meter.received_bytes += round(0.05 * self.bytes_per_second)
        if left == math.inf:
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(max(left, 0))


@dataclass
class Outcome:
    block: Block | None
    seconds: float
    causes: dict[str, str]
    order: list[str]


def run(*sources: Fake, limit_seconds: float = 60.0) -> Outcome:
    """The race to its end, or to the limit; by then no source may be at work any more."""

    async def main() -> Outcome:
        order, causes = SourceOrder(sources), {}
        started = asyncio.get_running_loop().time()
        block = None
        try:
            async with asyncio.timeout(limit_seconds):
                block = await race(WANTED, order, causes)
        except (ContentUnavailable, TimeoutError):
            pass
        for source in sources:
            source.asked_at = [at - started for at in source.asked_at]
        assert not any(source.running for source in sources)
        names = [source.name for source in order.snapshot()]
        return Outcome(block, asyncio.get_running_loop().time() - started, causes, names)

    return run_virtual(main())


def silent(name: str) -> Fake:
    return Fake(name, math.inf)


# --- whom and when -------------------------------------------------------------------------------
def test_a_source_that_delivers_is_the_only_one_asked():
    first, second = Fake("first", 0.29), Fake("second")
    outcome = run(first, second)
    assert outcome.block is BLOCK
    assert second.asked_at == []


def test_the_next_source_is_asked_after_a_silence_and_the_loser_is_cancelled():
    first, second = silent("first"), Fake("second", 0.1)
    outcome = run(first, second)
    assert outcome.block is BLOCK
    assert second.asked_at == [pytest.approx(HEDGE_SECONDS)]
    assert outcome.seconds == pytest.approx(HEDGE_SECONDS + 0.1)
    assert first.cancelled == 1


def test_the_first_to_deliver_wins_though_asked_later():
    slow, quick = Fake("slow", 2.0), Fake("quick", 0.1)
    assert run(slow, quick).seconds == pytest.approx(HEDGE_SECONDS + 0.1)
    assert slow.cancelled == 1


def test_a_slow_answer_still_counts_when_the_others_do_not_have_it():
    slow, others = Fake("slow", 5.0), [Fake(f"other {number}", 0.01, "no") for number in range(50)]
    outcome = run(slow, *others)
    assert outcome.block is BLOCK
    assert outcome.seconds == pytest.approx(5.0)
    assert slow.cancelled == 0


def test_after_a_failure_the_next_is_asked_at_once():
    failing, good = Fake("failing", 0.01, "no"), Fake("good", 0.01)
    outcome = run(failing, good)
    assert outcome.seconds == pytest.approx(0.02)
    assert outcome.causes["failing"] == "no"


def test_a_failure_beside_a_silent_source_is_replaced_at_once():
    first, failing, good = silent("first"), Fake("failing", 0.01, "no"), Fake("good", 0.01)
    assert run(first, failing, good).seconds == pytest.approx(HEDGE_SECONDS + 0.02)


def test_many_failures_do_not_cost_a_round_trip_each():
    failing, good = [Fake(f"failing {number}", 0.1, "no") for number in range(30)], Fake("good", 0.1)
    outcome = run(*failing, good)
    assert outcome.block is BLOCK
    # 1, then 2, then 3 at a time: the last of the thirty-one is in the twelfth group, which starts at 1.1 s.
    assert outcome.seconds == pytest.approx(1.2)
    assert [source.asked_at for source in failing[:4]] == [
        [pytest.approx(0.0)],
        [pytest.approx(0.1)],
        [pytest.approx(0.1)],
        [pytest.approx(0.2)],
    ]


def test_many_failures_take_nobodys_turn_who_is_at_work():
    slow, failing, good = Fake("slow", 0.5), [Fake(str(n), 0.001, "no") for n in range(20)], Fake("good", 5.0)
    outcome = run(slow, *failing, good)
    assert outcome.seconds == pytest.approx(0.5)
    assert (slow.cancelled, good.cancelled) == (0, 1)


# --- pace ----------------------------------------------------------------------------------------
def test_a_source_on_pace_is_left_alone():
    steady, other = Fake("steady", 4.0, bytes_per_second=1.2 * PACE_BYTES_PER_SECOND), Fake("other")
    assert run(steady, other).seconds == pytest.approx(4.0)
    assert other.asked_at == []


def test_a_source_that_drips_is_not_waited_for():
    drip, good = Fake("drip", math.inf, bytes_per_second=0.5 * PACE_BYTES_PER_SECOND), Fake("good")
    assert run(drip, good).seconds == pytest.approx(HEDGE_SECONDS)


def test_a_source_that_falls_silent_is_not_waited_for():
    class Stops(Fake):
        async def _receive(self, meter: Meter) -> None:
            meter.received_bytes += MIB
            await asyncio.get_running_loop().create_future()

    assert run(Stops("stops"), Fake("good")).seconds == pytest.approx(2 * HEDGE_SECONDS)


# --- many that stall -----------------------------------------------------------------------------
def test_silent_sources_are_given_up_for_others_but_the_first_is_not():
    first, stalling, good = Fake("first", 20.0), [silent(f"silent {number}") for number in range(20)], silent("last")
    outcome = run(first, *stalling, good)
    assert outcome.block is BLOCK
    assert outcome.seconds == pytest.approx(20.0)
    assert [source.cancelled for source in stalling] == [1] * 20
    assert outcome.causes["silent 0"] == "too slow, given up for another source"


def test_one_honest_source_among_many_silent_ones_is_reached():
    stalling, good = [silent(f"silent {number}") for number in range(20)], Fake("good", 0.1)
    outcome = run(*stalling, good)
    assert outcome.block is BLOCK
    assert outcome.seconds == pytest.approx(20 * HEDGE_SECONDS + 0.1)


def test_only_a_few_are_asked_at_once():
    most = 0

    class Counted(Fake):
        async def _receive(self, meter: Meter) -> None:
            nonlocal most
            most = max(most, sum(source.running for source in sources))
            await super()._receive(meter)

    sources = [Counted(str(number), math.inf) for number in range(10)]
    assert run(*sources).block is None
    assert most == MAX_ATTEMPTS_AT_ONCE


# --- what is said --------------------------------------------------------------------------------
def test_when_all_fail_each_is_named():
    outcome = run(Fake("a", 0.1, "no"), Fake("b", 0.0, "wrong bytes"))
    assert outcome.block is None
    assert outcome.causes == {"a": "no", "b": "wrong bytes"}


def test_who_gives_up_waiting_knows_what_each_was_at():
    outcome = run(*(silent(name) for name in "acd"), Fake("b", 0.0, "no"), limit_seconds=0.5)
    assert outcome.causes == {
        "a": "no whole block in time",
        "c": "no whole block in time",
        "d": "not asked in time",
        "b": "not asked in time",
    }
    outcome = run(silent("a"), Fake("b", 0.0, "no"), silent("c"), silent("d"), silent("e"), limit_seconds=0.5)
    assert outcome.causes == {
        "a": "no whole block in time",
        "b": "no",
        "c": "no whole block in time",
        "d": "no whole block in time",
        "e": "not asked in time",
    }


def test_without_sources_nothing_is_served():
    outcome = run()
    assert (outcome.block, outcome.causes, outcome.seconds) == (None, {}, 0)


def test_who_delivered_leads_and_who_failed_goes_last():
    assert run(Fake("a", 0.0, "no"), silent("b"), Fake("c"), Fake("d")).order == ["c", "b", "d", "a"]


def test_a_bug_in_a_source_is_not_taken_for_a_failure():
    class Broken(Fake):
        async def fetch(self, wanted: Wanted, meter: Meter) -> Block:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(Broken("broken"), silent("other"))


@given(
    st.lists(
        st.builds(
            Fake,
            st.just(""),
            st.sampled_from([0.0, 0.1, 0.29, 1.0, math.inf]),
            st.sampled_from([None, "no"]),
            st.sampled_from([0.0, 1e4, 1e6]),
        ),
        max_size=12,
    )
)
def test_whatever_the_others_do_a_prompt_honest_source_is_enough(others):
    for name, source in enumerate(others):
        source.name, source.asked_at = str(name), []
    on_pace_for_ever = any(other.seconds == math.inf and other.bytes_per_second == 1e6 for other in others)
    outcome = run(*others, Fake("honest", 0.2), limit_seconds=60)
    assert outcome.block is BLOCK or on_pace_for_ever  # which GatewaySource bounds, by bytes and by time
