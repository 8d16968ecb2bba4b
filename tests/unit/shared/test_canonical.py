"""Canonical JSON, and how much a stranger's JSON may cost."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.canonical import MAX_BRACKETS, MAX_VALUES, check_nesting, decode_canonical, decode_json, encode_canonical
from shared.errors import CodecError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


class Pair(msgspec.Struct, forbid_unknown_fields=True):
    b: int
    a: int


@given(VALUES)
def test_it_is_what_json_with_sorted_keys_and_no_spaces_is(value: Any) -> None:
    encoded = encode_canonical(value)
    assert encoded == json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert decode_canonical(encoded, object, "value", max_bytes=10**6) == value


def test_fields_are_sorted_as_keys_are() -> None:
    assert encode_canonical(Pair(b=1, a=2)) == encode_canonical({"b": 1, "a": 2}) == b'{"a":2,"b":1}'


@pytest.mark.parametrize(
    "spelling",
    [b'{"b":1,"a":2}', b'{"a":2, "b":1}', b'{"a":2,"b":1}\n', b'{"a":3,"a":2,"b":1}', b'{"\\u0061":2,"b":1}'],
)
def test_another_spelling_is_read_but_not_canonical(spelling: bytes) -> None:
    assert decode_json(spelling, Pair, "pair", max_bytes=100) == Pair(b=1, a=2)
    with pytest.raises(CodecError, match=r"^pair: not canonical"):
        decode_canonical(spelling, Pair, "pair", max_bytes=100)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b'{"a":1}',
        b'{"a":1,"b":2,"c":3}',
        b'{"a":1,"b":NaN}',
        b'{"a":1,"b":1e999}',
        b'{"a":1,"b":"\xff"}',
        b'{"a":1,"b":2}{}',
        b"\xef\xbb\xbf{}",
        b'{"a":' + b"[" * 16_000,
    ],
)
def test_what_is_not_the_document_is_refused(data: bytes) -> None:
    with pytest.raises(CodecError, match=r"^pair: "):
        decode_json(data, Pair, "pair", max_bytes=10**6)


def test_deep_nesting_is_refused() -> None:
    # Which of the two depends on whether somebody raised Python's recursion limit, as py_ecc does.
    with pytest.raises(CodecError, match=r"recursion|truncated"):
        decode_json(b"[" * 16_000, object, "value", max_bytes=10**6)


def test_nesting_is_bounded_whatever_the_recursion_limit_is() -> None:
    check_nesting(b"[" * MAX_BRACKETS)
    check_nesting(b'{"a":"' + b"[" * 10**6 + b'\\"[[[["}')
    for deep in (b"[" * 10**6, b'{"a":' * 10**5, b'""' + b"[" * 5000):
        with pytest.raises(CodecError, match="objects and arrays"):
            check_nesting(deep)


def test_size_is_checked_before_reading() -> None:
    with pytest.raises(CodecError, match="101 bytes, at most 100"):
        decode_json(b"[" * 101, object, "value", max_bytes=100)


def test_many_values_are_refused_before_reading() -> None:
    within = b"[" + b"1," * (MAX_VALUES - 2) + b"1]"
    assert len(decode_json(within, list[int], "list", max_bytes=10**6)) == MAX_VALUES - 1
    for over in (within[:-1] + b",1,1]", b"[" * (MAX_VALUES + 1), b"{" * (MAX_VALUES + 1)):
        with pytest.raises(CodecError, match="more than 16384 values"):
            decode_json(over, list[int], "list", max_bytes=10**6)
