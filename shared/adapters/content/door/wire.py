"""What goes through the door: HTTP, each question as JSON in the query, files as frames with an outcome at their end.

A frame is its length (four bytes, big endian) and that many bytes. A frame of no bytes ends the file; what follows it
is JSON: null, or why the file ends here. A file without that end was cut.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from shared.content.cid import codec_of
from shared.errors import CodecError, ContentCorrupt, ContentError, ContentTooLarge, ContentUnavailable, PoiError
from shared.interfaces import Pin
from shared.types import FOREVER, Cid

FRAME_HEAD_BYTES = 4
END = bytes(FRAME_HEAD_BYTES)
DAY_SECONDS = 24 * 3600

Moment = float | None
"""Unix seconds; None is for good, for JSON has no infinity."""


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a call wants to know. The list of pins wants nothing more."""


class About(Question, frozen=True):
    """The size of a file, its blocks, or that it is kept no longer."""

    cid: Cid

    def __post_init__(self) -> None:
        try:
            codec_of(self.cid)
        except CodecError as error:
            raise ValueError(str(error)) from error


class Keep(About, frozen=True):
    keep_until: Moment = None


class Get(About, frozen=True, kw_only=True):
    max_bytes: Annotated[int, msgspec.Meta(ge=0)]
    timeout_seconds: Annotated[float, msgspec.Meta(gt=0, le=DAY_SECONDS)]
    keep_until: Moment = 0.0
    is_local: bool = False  # what is here, and nobody is asked


class Add(Question, frozen=True, kw_only=True):
    """The body of the request is the file."""

    profile: str
    keep_until: Moment = None


class Collect(Question, frozen=True, kw_only=True):
    max_bytes: Annotated[int, msgspec.Meta(ge=0)]


class PinLine(msgspec.Struct, frozen=True):
    """A `Pin` in JSON."""

    cid: Cid
    size: int | None
    keep_until: Moment
    used_at: float


class Refusal(msgspec.Struct, frozen=True):
    """One of our errors, as it travels."""

    kind: str
    said: str
    cid: str = ""
    causes: dict[str, str] = {}


def until(moment: Moment) -> float:
    return FOREVER if moment is None else moment


def moment_of(keep_until: float) -> Moment:
    return None if keep_until == FOREVER else keep_until


def line_of(pin: Pin) -> PinLine:
    return PinLine(pin.cid, pin.size, moment_of(pin.keep_until), pin.used_at)


def pin_of(line: PinLine) -> Pin:
    return Pin(line.cid, line.size, until(line.keep_until), line.used_at)


def frame(data: bytes) -> bytes:
    """`data` has a byte at least: a frame without any is the end."""
    return len(data).to_bytes(FRAME_HEAD_BYTES, "big") + data


def refusal_of(error: PoiError) -> Refusal:
    match error:
        case ContentUnavailable():
            return Refusal("unavailable", str(error), error.cid, error.causes)
        case ContentTooLarge():
            return Refusal("too_large", str(error))
        case ContentCorrupt():
            return Refusal("corrupt", str(error))
        case _:
            return Refusal("failed", str(error))


def error_of(refusal: Refusal) -> ContentError:
    match refusal.kind:
        case "unavailable":
            return ContentUnavailable(refusal.cid, refusal.causes)
        case "too_large":
            return ContentTooLarge(refusal.said)
        case "corrupt":
            return ContentCorrupt(refusal.said)
        case _:
            return ContentError(refusal.said)
