"""What Kubo's RPC API answers, as values: JSON objects, one or several after another, and errors in its own words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import msgspec

from shared.errors import SourceFailed
from shared.reasons import SourceFault
from shared.types import Cid

MAX_SHOWN = 160  # characters of the node's text in a cause
# Go's words for a block, a path or a pin that is not there, over the versions from go-ipfs 0.5 on.
_ABSENT = ("not found", "could not find", "not pinned", "pinned indirectly")
_LATE = ("deadline exceeded", "context canceled", "timed out", "timeout")
_BUSY = (429, 502, 503, 504)  # 502 and 504: of a proxy before it, which has lost it for now

# What decoding a stranger's JSON raises; the last two for text that is none, and for brackets without end.
_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Service:
    """Who speaks the API, and which settings its operator looks at when it does not."""

    name: str
    url: str
    token: str
    usual: str = ""
    start: str = ""


KUBO = Service(
    "Kubo",
    "content.kubo_url",
    "content.kubo_auth_file and its API.Authorizations",
    usual=" (port 5001 as a rule)",
    start="; start it with: ipfs daemon",
)


class Identity(msgspec.Struct, frozen=True, rename="pascal"):
    id: str = msgspec.field(name="ID")


class Version(msgspec.Struct, frozen=True, rename="pascal"):
    version: str


class BlockStat(msgspec.Struct, frozen=True, rename="pascal"):
    """Of block/put and block/stat."""

    key: str
    size: int


class Pinned(msgspec.Struct, frozen=True, rename="pascal"):
    """Of pin/add and pin/rm. Progress comes without pins."""

    pins: tuple[str, ...] = ()


class PinType(msgspec.Struct, frozen=True, rename="pascal"):
    type: str = ""


class PinList(msgspec.Struct, frozen=True, rename="pascal"):
    """Of pin/ls: one object with every key, or one object a key."""

    keys: dict[str, PinType] = {}
    cid: str = ""
    type: str = ""


class Link(msgspec.Struct, frozen=True):
    """A CID in DAG-JSON."""

    cid: str = msgspec.field(name="/")


class Root(msgspec.Struct, frozen=True, rename="pascal"):
    cid: Link
    pin_error_msg: str = ""


class Imported(msgspec.Struct, frozen=True, rename="pascal"):
    """Of dag/import, a line a root; other lines have statistics."""

    root: Root | None = None


class Added(msgspec.Struct, frozen=True, rename="pascal"):
    """Of add. `Size` beside it is the DAG's, not the file's."""

    hash: str = ""


class _Error(msgspec.Struct, frozen=True, rename="pascal"):
    message: str


def decode(body: bytes, kind: type[T], command: str) -> list[T]:
    """The objects of an answer, a line each. Raises `SourceFailed`."""
    try:
        return msgspec.json.Decoder(kind).decode_lines(body)
    except _NOT_JSON as error:
        raise SourceFailed(f"{command}: not what Kubo answers: {error}"[:MAX_SHOWN], SourceFault.BAD_ANSWER) from None


def decode_one(body: bytes, kind: type[T], command: str) -> T:
    """The one object of an answer. Raises `SourceFailed`."""
    answers = decode(body, kind, command)
    if len(answers) != 1:
        raise SourceFailed(f"{command}: {len(answers)} answers instead of one", SourceFault.BAD_ANSWER)
    return answers[0]


def converted(value: object, kind: type[T], command: str) -> T:
    """An answer that is plain objects already. Raises `SourceFailed`."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise SourceFailed(f"{command}: not what Kubo answers: {error}"[:MAX_SHOWN], SourceFault.BAD_ANSWER) from None


def check_imported(lines: list[Imported], root: Cid) -> None:
    """Raises `SourceFailed` unless `root` was imported and pinned."""
    for line in lines:
        if line.root is not None and line.root.cid.cid == root:
            if line.root.pin_error_msg:
                said = line.root.pin_error_msg[:MAX_SHOWN]
                raise SourceFailed(f"dag/import: imported {root} and did not pin it: {said}", SourceFault.BAD_ANSWER)
            return
    raise SourceFailed(f"dag/import: the answer does not have the root {root}", SourceFault.BAD_ANSWER)


def check_pinned(lines: list[Pinned], root: Cid) -> None:
    """Raises `SourceFailed` unless one of them has it."""
    if not any(root in line.pins for line in lines):
        raise SourceFailed(f"pin/add: the answer does not have {root}", SourceFault.BAD_ANSWER)


def has_pin(lines: list[PinList], root: Cid) -> bool:
    """Whether pin/ls names it as a recursive pin, in either form of its answer."""
    types = [line.keys[root].type for line in lines if root in line.keys]
    types += [line.type for line in lines if line.cid == root]
    return "recursive" in types


def refusal(status: int, body: bytes, command: str, service: Service = KUBO) -> SourceFailed:
    """What an answer other than 200 means, with what the operator can do about it."""
    if status in (401, 403):
        said = f"{command}: {service.name} refuses this node ({status}); check {service.token}"
        return SourceFailed(said, SourceFault.BAD_ANSWER)
    if status in _BUSY:
        return SourceFailed(f"{command}: HTTP status {status}", SourceFault.BUSY)
    try:
        message = msgspec.json.decode(body, type=_Error).message
    except _NOT_JSON:
        said = f"{command}: HTTP status {status}, not Kubo's RPC API: check {service.url}{service.usual}"
        return SourceFailed(said, SourceFault.BAD_ANSWER)
    return failure(message, command)


def failure(message: str, command: str) -> SourceFailed:
    """Kubo's own words as ours."""
    said, lower = f"{command}: {message}"[:MAX_SHOWN], message.lower()
    if any(words in lower for words in _ABSENT):
        return SourceFailed(said, SourceFault.NOT_FOUND)
    if any(words in lower for words in _LATE):
        return SourceFailed(said, SourceFault.SLOW)
    return SourceFailed(said, SourceFault.BAD_ANSWER)


def unreachable(url: str, command: str, said: str, service: Service = KUBO) -> SourceFailed:
    return SourceFailed(
        f"{command}: {service.name} at {url} ({service.url}) does not answer ({said[:MAX_SHOWN]}){service.start}",
        SourceFault.UNREACHABLE,
    )
