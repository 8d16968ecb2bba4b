"""How long content is kept: through settlement and dispute, and for no performer more than its share of the disk."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shared.constants import KEEP_MARGIN_SECONDS, SETTLE_SECONDS
from shared.keeping import CACHE, Shares, kept_until, kept_until_executed
from shared.types import Address

DAY = 24 * 3600
NOW = 1_800_000_000.0
ONE, OTHER = Address(b"\1" * 20), Address(b"\2" * 20)


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
def test_a_performer_has_its_share_and_no_other_loses_by_it() -> None:
    shares, until = Shares(100), NOW + DAY
    assert shares.granted(ONE, until, NOW) == until
    shares.took(ONE, 99, until)
    assert shares.granted(ONE, until, NOW) == until
    shares.took(ONE, 1, until)
    assert shares.granted(ONE, until, NOW) == CACHE
    assert shares.granted(OTHER, until, NOW) == until


def test_what_is_kept_no_longer_makes_room() -> None:
    shares, until = Shares(100), NOW + DAY
    shares.took(ONE, 100, until)
    assert shares.granted(ONE, until, until - 1) == CACHE
    assert shares.granted(ONE, until + DAY, until + 3600) == until + DAY


def test_cache_takes_nothing_off_a_share() -> None:
    shares = Shares(100)
    shares.took(ONE, 1000, CACHE)
    assert shares.granted(ONE, NOW + DAY, NOW) == NOW + DAY


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 10 * DAY), st.integers(0, DAY)), max_size=60))
def test_no_more_than_the_share_and_one_file_is_ever_kept(files: list[tuple[int, int, int]]) -> None:
    """Files of at most 50 bytes that come after each other, each kept for some days."""
    shares, now, kept = Shares(100), NOW, list[tuple[float, int]]()
    for size, kept_for, passed in files:
        now += passed
        until = shares.granted(ONE, now + kept_for, now)
        shares.took(ONE, size, until)
        kept.append((until, size))
        assert sum(size for until, size in kept if until > now) < 100 + 50
