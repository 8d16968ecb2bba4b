"""Nested JSON of strangers: refused before it can overflow C's stack, in time that grows with its length only."""

from __future__ import annotations

import subprocess
import sys
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.canonical import MAX_BRACKETS, MAX_DEPTH, MAX_QUOTES, check_depth, check_nesting
from shared.errors import CodecError
from tests.strategies import json_values

# In a process of its own: were it wrong, it would end by a segmentation fault. eth_account brings in py_ecc, which
# raises Python's recursion limit to 100,000, as in every node.
VICTIM = """
import sys
import eth_account
from shared.batch import decode_document
from shared.canonical import check_nesting
from shared.errors import CodecError
assert sys.getrecursionlimit() == 100_000, "py_ecc is tame now: the bound may go"
for opening in (b"[", b'{"a":', b'{"version":1,"certificates":[{"a":'):
    for times in (1, 4_000, 50_000):
        for document in (opening * times, opening + b"[" * times, b'[{"a":' + b"[" * times):
            try:
                decode_document(document)
            except CodecError:
                continue
            sys.exit("a document of brackets was taken")
print("alive")
"""


def test_deep_documents_do_not_end_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", VICTIM], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr[-500:]


def refused(data: bytes) -> bool:
    try:
        check_nesting(data)
    except CodecError:
        return True
    return False


@pytest.mark.parametrize(
    "data",
    [
        b"[" * MAX_BRACKETS,
        b"{" * MAX_BRACKETS,
        b'"' + b"[{" * MAX_BRACKETS + b'"',
        b'"' + b'\\"[' * MAX_BRACKETS + b'"',
        b'["\\\\", "' + b"[" * MAX_BRACKETS + b'"]',
        b'["\\\\\\"' + b"[" * MAX_BRACKETS + b'"]',
        b'"' * MAX_QUOTES,
    ],
)
def test_what_is_taken(data: bytes) -> None:
    assert not refused(data)


@pytest.mark.parametrize(
    "data",
    [
        b"[" * (MAX_BRACKETS + 1),
        b"[{" * (MAX_BRACKETS // 2) + b"[",
        b'["' + b"x" * 10 + b'"' + b"[" * MAX_BRACKETS,
        # The quote after two backslashes ends its string: what follows does nest.
        b'["\\\\"' + b"[" * MAX_BRACKETS,
        b'["\\\\\\\\"' + b"[" * MAX_BRACKETS,
        b'["\\""' + b"[" * MAX_BRACKETS,
        b'"' * (MAX_QUOTES + 1),
    ],
)
def test_what_is_refused(data: bytes) -> None:
    assert refused(data)


@given(json_values, st.text())
def test_brackets_are_counted_as_a_decoder_would(value: object, text: str) -> None:
    """The few values of an example are taken, whatever their strings hold, with room for exactly as many more."""
    data = msgspec.json.encode([value, text + '\\"[{\\'])

    def opened(part: object) -> int:
        members = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
        return isinstance(part, dict | list) + sum(map(opened, members))

    room = MAX_BRACKETS - 1 - opened(value)
    assert not refused(data + b"[" * room)
    assert refused(data + b"[" * (room + 1))


@pytest.mark.parametrize(
    "part", [b'\\"', b'"', b"[", b"\\", b'"\\', b'"a\\', b'""', b'"[', b"a"], ids=lambda part: part.decode()
)
@pytest.mark.parametrize("start", [b"", b'"'])
def test_it_takes_no_longer_than_reading(start: bytes, part: bytes) -> None:
    data = start + part * (4 * 2**20 // len(part))
    began = time.process_time()
    refused(data)
    assert time.process_time() - began < 1.0  # some 20 ms; minutes and days where a pattern tries again at each quote


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"]":', b"[[],"])
def test_depth_is_bounded_whatever_the_stack_is(opening: bytes) -> None:
    closing = b"}" if opening.startswith(b"{") else b"]"
    check_depth(opening * (MAX_DEPTH - 1) + b"[" + b"]" + closing * (MAX_DEPTH - 1))
    with pytest.raises(CodecError, match="deep"):
        check_depth(opening * MAX_DEPTH + b"[" + b"]" + closing * MAX_DEPTH)


def test_what_is_wide_is_not_deep() -> None:
    check_depth(b"[" + b"[]," * (MAX_BRACKETS - 1) + b"7]")
