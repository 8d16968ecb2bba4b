"""Conditions and ranges as RFC 9110 has them."""

from __future__ import annotations

import pytest
from aiohttp import ETag
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from shared.adapters.content.preconditions import Verdict, judge

STRONG, WEAK = ETag("cid.raw"), ETag("cid.car", is_weak=True)
WHOLE = Verdict(200, range(100))


def verdict(*, method: str = "GET", etag: ETag = STRONG, size: int | None = 100, **headers: str) -> Verdict:
    named = CIMultiDict((name.replace("_", "-"), value) for name, value in headers.items())
    return judge(named, method, etag, size)


# --- ranges --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("bytes=0-0", range(1)),
        ("bytes=10-19", range(10, 20)),
        ("bytes=10-", range(10, 100)),
        ("bytes=0-", range(100)),
        ("bytes=99-", range(99, 100)),
        ("bytes=10-1000", range(10, 100)),
        ("bytes=-10", range(90, 100)),
        ("bytes=-1000", range(100)),
        ("Bytes = 1-2 ", range(1, 3)),
    ],
)
def test_one_range_is_served(text, part):
    assert verdict(Range=text) == Verdict(206, part)


@pytest.mark.parametrize("text", ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=999999999999999999-"])
def test_a_range_beyond_the_block_cannot_be_satisfied(text):
    assert verdict(Range=text) == Verdict(416)


@pytest.mark.parametrize(
    "text",
    [
        "bytes=0-1,5-6",
        "bytes=0-0," * 1000,
        "bytes=",
        "bytes=-",
        "bytes=5-4",
        "bytes=a-b",
        "bytes=--5",
        "bytes=+1-2",
        "bytes=1-" + "9" * 8000,
        "blocks=0-1",
        "0-1",
        "",
    ],
)
def test_several_ranges_and_none_are_answered_with_the_whole(text):
    assert verdict(Range=text) == WHOLE


def test_ranges_mean_nothing_for_a_head_for_an_archive_and_for_no_bytes():
    assert verdict(method="HEAD", Range="bytes=0-0") == WHOLE
    assert verdict(etag=WEAK, size=None, Range="bytes=0-0") == Verdict(200)
    assert verdict(size=0, Range="bytes=0-0") == Verdict(200, range(0))


@given(st.binary(min_size=1, max_size=50), st.integers(0, 60), st.none() | st.integers(0, 60))
def test_a_range_is_a_slice(data, first, last):
    got = verdict(size=len(data), Range=f"bytes={first}-{'' if last is None else last}")
    if last is not None and last < first:
        assert got == Verdict(200, range(len(data)))
    elif first >= len(data):
        assert got == Verdict(416)
    else:
        assert got.status == 206
        assert data[got.part.start : got.part.stop] == data[first : None if last is None else last + 1]


# --- conditions ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "text", ['"cid.raw"', 'W/"cid.raw"', '"other", "cid.raw"', '"a",W/"b" , W/"cid.raw"', "*", " * "]
)
def test_if_none_match_compares_weakly(text):
    for method in ("GET", "HEAD"):
        assert verdict(method=method, If_None_Match=text) == Verdict(304)
    assert verdict(etag=WEAK, size=None, If_None_Match=text.replace(".raw", ".car")) == Verdict(304)


@pytest.mark.parametrize("text", ['"other"', '"cid"', "cid.raw", "'cid.raw'", '"cid.raw', "nonsense", "", '"*"'])
def test_what_the_client_has_not_is_sent(text):
    assert verdict(If_None_Match=text) == WHOLE


@pytest.mark.parametrize(
    ("text", "etag", "is_met"),
    [
        ('"cid.raw"', STRONG, True),
        ('"other", "cid.raw"', STRONG, True),
        ("*", STRONG, True),
        ("*", WEAK, True),
        ('W/"cid.raw"', STRONG, False),
        ('"other"', STRONG, False),
        ("", STRONG, False),
        ('"cid.car"', WEAK, False),
        ('W/"cid.car"', WEAK, False),
    ],
)
def test_if_match_compares_strongly(text, etag, is_met):
    assert verdict(etag=etag, If_Match=text).status == (200 if is_met else 412)


@pytest.mark.parametrize(
    ("text", "is_same"),
    [
        ('"cid.raw"', True),
        ('W/"cid.raw"', False),
        ('"other"', False),
        ('"cid.raw", "other"', False),
        ("*", False),
        ("Wed, 21 Oct 2015 07:28:00 GMT", False),
        ("", False),
    ],
)
def test_a_range_is_sent_if_what_the_client_has_is_the_same(text, is_same):
    expected = Verdict(206, range(5, 10)) if is_same else WHOLE
    assert verdict(If_Range=text, Range="bytes=5-9") == expected


def test_conditions_come_in_the_order_of_the_standard():
    both = {"If_Match": '"other"', "If_None_Match": '"cid.raw"', "Range": "bytes=500-"}
    assert verdict(**both) == Verdict(412)
    assert verdict(**both | {"If_Match": '"cid.raw"'}) == Verdict(304)
    assert verdict(**both | {"If_Match": '"cid.raw"', "If_None_Match": '"other"'}) == Verdict(416)
    assert verdict(Range="bytes=500-", If_Range='"other"') == WHOLE


def test_conditions_on_dates_are_met_for_nothing_here_changes():
    past = "Wed, 21 Oct 2015 07:28:00 GMT"
    assert verdict(If_Modified_Since=past, If_Unmodified_Since=past) == WHOLE
