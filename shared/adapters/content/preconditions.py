"""What becomes of a request whose content is here: RFC 9110, §13.2.2 (which condition first) and §14.2 (ranges).

There is no Last-Modified, so the conditions on dates are met, and an If-Range with a date is not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from aiohttp import ETag

_TAGS = re.compile(r'(W/)?"([\x21\x23-\x7e]*)"')
_RANGE = re.compile(r"bytes[ \t]*=[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The status, and which of the bytes are sent with it."""

    status: int
    part: range = range(0)


def judge(headers: Mapping[str, str], method: str, etag: ETag, size: int | None) -> Verdict:
    """`size` is what a GET without conditions would send; None when nobody knows, and then ranges mean nothing."""
    if "If-Match" in headers and not _names(headers["If-Match"], etag, is_strong=True):
        return Verdict(412)
    if "If-None-Match" in headers and _names(headers["If-None-Match"], etag, is_strong=False):
        return Verdict(304)
    if size is None:
        return Verdict(200)
    if method != "GET" or "Range" not in headers or not size:
        return Verdict(200, range(size))
    if "If-Range" in headers and not _is_same(headers["If-Range"], etag):
        return Verdict(200, range(size))
    return _judge_range(headers["Range"], size)


def _judge_range(text: str, size: int) -> Verdict:
    """One range of bytes. Several, or what is none, are answered with the whole, as any server may."""
    match = _RANGE.fullmatch(text)
    if match is None or not (match[1] or match[2]):
        return Verdict(200, range(size))
    if not match[1]:
        part = range(max(0, size - int(match[2])), size)
    else:
        first, last = int(match[1]), int(match[2] or size)
        if match[2] and last < first:
            return Verdict(200, range(size))
        part = range(first, min(last + 1, size))
    return Verdict(206, part) if part else Verdict(416)


def _names(text: str, etag: ETag, *, is_strong: bool) -> bool:
    """Whether the list has the tag. A strong comparison takes no weak one for the same, and not this one if it is."""
    if text.strip() == "*":
        return True
    return any(
        value == etag.value and not (is_strong and (weak or etag.is_weak)) for weak, value in _TAGS.findall(text)
    )


def _is_same(text: str, etag: ETag) -> bool:
    match = _TAGS.fullmatch(text.strip())
    return match is not None and match[2] == etag.value and not (match[1] or etag.is_weak)
