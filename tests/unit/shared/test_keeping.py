"""How long content is kept: through settlement and dispute, and for no performer more than its share of the disk."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shared.constants import KEEP_MARGIN_SECONDS, SETTLE_SECONDS
from shared.keeping import CACHE, LEAST_KEPT_BYTES, MAX_REMEMBERED, Shares, kept_until, kept_until_executed
from shared.types import Address, Cid

DAY = 24 * 3600
NOW = 1_800_000_000.0
ONE, OTHER = Address(b"\1" * 20), Address(b"\2" * 20)
UNIT = LEAST_KEPT_BYTES


def test_a_tasks_content_is_kept_until_its_dispute_is_over() -> None:
    assert kept_until(NOW, DAY, 7200) == NOW + 7200 + DAY + KEEP_MARGIN_SECONDS
    assert kept_until(NOW, DAY) == NOW + SETTLE_SECONDS + DAY + KEEP_MARGIN_SECONDS
    assert kept_until_executed(NOW) == NOW + KEEP_MARGIN_SECONDS


@given(
    deadline=st.integers(0, 2**40),
    window=st.integers(1, 365 * DAY),
    settle=st.integers(2, 60 * DAY),
    settled_after=st.floats(0, 1),
)
def test_it_is_never_let_go_of_before_its_slash_can_be_executed(
    deadline: int, window: int, settle: int, settled_after: float
) -> None:
    executable_at = deadline + settled_after * settle + window
    assert kept_until(deadline, window, settle) >= executable_at + KEEP_MARGIN_SECONDS


# --- shares ------------------------------------------------------------------------------------------
def cid(number: int) -> Cid:
    return Cid(f"file {number}")


def test_a_performer_has_its_share_and_no_other_loses_by_it() -> None:
    shares, until = Shares(100 * UNIT), NOW + DAY
    assert shares.granted(ONE, until, NOW) == until
    shares.took(ONE, cid(1), 99 * UNIT, until)
    assert shares.granted(ONE, until, NOW) == until
    shares.took(ONE, cid(2), UNIT, until)
    assert shares.granted(ONE, until, NOW) == CACHE
    assert shares.granted(OTHER, until, NOW) == until


def test_what_is_kept_no_longer_makes_room() -> None:
    shares, until = Shares(100 * UNIT), NOW + DAY
    shares.took(ONE, cid(1), 100 * UNIT, until)
    assert shares.granted(ONE, until, until - 1) == CACHE
    assert shares.granted(ONE, until + DAY, until + 3600) == until + DAY


def test_cache_takes_nothing_off_a_share() -> None:
    shares = Shares(100 * UNIT)
    shares.took(ONE, cid(1), 1000 * UNIT, CACHE)
    assert shares.granted(ONE, NOW + DAY, NOW) == NOW + DAY


def test_many_files_of_next_to_nothing_use_a_share_up() -> None:
    """Each is a block on the disk and a pin in memory."""
    shares, until = Shares(10 * UNIT), NOW + DAY
    for number in range(9):
        shares.took(ONE, cid(number), 1, until)
    assert shares.granted(ONE, until, NOW) == until
    shares.took(ONE, cid(9), 1, until)
    assert shares.granted(ONE, until, NOW) == CACHE


def test_a_file_counts_once_and_for_as_long_as_the_longest_promise() -> None:
    shares, until = Shares(2 * UNIT), NOW + DAY
    shares.took(ONE, cid(1), UNIT, until + DAY)
    shares.took(ONE, cid(1), UNIT, until)
    assert shares.granted(ONE, until, NOW) == until
    shares.took(ONE, cid(2), UNIT, until + DAY)
    assert shares.granted(ONE, until, until + 3600) == CACHE


def test_little_is_remembered_and_what_is_forgotten_still_counts() -> None:
    shares, until = Shares((MAX_REMEMBERED + 2) * UNIT), NOW + DAY
    for number in range(MAX_REMEMBERED + 1):
        shares.took(ONE, cid(number), UNIT, until)
    assert shares.granted(ONE, until, NOW) == until
    shares.took(ONE, cid(0), UNIT, until)
    assert shares.granted(ONE, until, NOW) == CACHE


Files = list[tuple[int, int, int, int]]


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 50), st.integers(0, 10 * DAY), st.integers(0, DAY)), max_size=60
    )
)
def test_no_more_than_the_share_and_one_file_is_ever_kept(files: Files) -> None:
    """Files of at most 50 units that come after each other, some of them again, each kept for some days."""
    shares, now = Shares(100 * UNIT), NOW
    sizes, kept = dict[int, int](), dict[int, float]()
    for number, size, kept_for, passed in files:
        now += passed
        until = shares.granted(ONE, now + kept_for, now)
        shares.took(ONE, cid(number), sizes.setdefault(number, size * UNIT), until)
        kept[number] = max(kept.get(number, CACHE), until)
        assert sum(sizes[each] for each, until in kept.items() if until > now) < (100 + 50) * UNIT
