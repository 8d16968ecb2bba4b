"""What each command does. Standard output has the answer alone, so that it can be piped; all else is standard error."""

from __future__ import annotations

import asyncio
import json
import math
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from poi.content.desk import Desk, open_desk
from poi.content.screen import HEADING, decimal, line_of, opened, progress, state_of
from shared import log as logging
from shared.config import Config, LogConfig
from shared.content.cid import codec_of
from shared.content.unixfs import PROFILES, Profile, build_file
from shared.errors import (
    CodecError,
    ConfigError,
    ContentCorrupt,
    ContentError,
    ContentTooLarge,
    ContentUnavailable,
)
from shared.interfaces import Pin
from shared.types import FOREVER, Cid, Ref

DONE, FAILED, INTERRUPTED = 0, 2, 130
STANDARD = Path("-")
SHOWN_BLOCKS = 8  # of a damaged file; the rest is counted

Act = Callable[[Desk], Awaitable[int]]


@dataclass(frozen=True)
class Reading:
    """How far a command goes for what is not here."""

    max_bytes: int
    timeout_seconds: float
    is_offline: bool = False


def run(config: Config, act: Act) -> int:
    """The exit status. Raises what the message of one line explains."""
    logging.configure(LogConfig(level="warning", format="console"), "content", "")  # what is printed is the answer
    try:
        return asyncio.run(_run(config, act))
    except KeyboardInterrupt:
        return INTERRUPTED
    except ContentUnavailable as error:
        _say(f"unavailable: nobody served {error.cid} in time, and it may come back; try again later")
        for source, cause in error.causes.items():
            _say(f"  {source}: {cause}")
    except ContentTooLarge as error:
        _say(f"too large: {error}; content.max_bytes is the limit")
    except ContentCorrupt as error:
        _say(f"provably wrong: {error}; no source can serve another file by this CID")
    return FAILED


async def _run(config: Config, act: Act) -> int:
    async with open_desk(config) as desk:
        return await act(desk)


def parsed(text: str) -> Cid:
    """Raises `ConfigError`."""
    try:
        codec_of(Cid(text))
    except CodecError as error:
        raise ConfigError(f"CID {text[:80]!r}: {error}; expected one as `poi content add` prints it") from None
    return Cid(text)


def check_file(path: Path) -> None:
    """Raises `ConfigError`."""
    if path != STANDARD and (path.is_dir() or not path.exists()):
        raise ConfigError(f"PATH {path}: {'a folder' if path.is_dir() else 'not there'}; expected a file, or -")


def profile_of(name: str) -> Profile:
    """Raises `ConfigError`."""
    if name not in PROFILES:
        raise ConfigError(f"--profile {name!r}: expected one of {', '.join(PROFILES)}")
    return PROFILES[name]


# --- add -----------------------------------------------------------------------------------------
def only_hash(path: Path, profile: Profile, json_path: Path | None) -> None:
    """Needs no node and keeps nothing. Raises `ContentError` when the file cannot be read."""
    try:
        with progress() as bars, sys.stdin.buffer if path == STANDARD else opened(path, bars) as stream:
            cid, size = build_file(stream, lambda _: None, profile)
    except OSError as error:
        raise ContentError(f"read {path}: {error.strerror}") from error
    _report(Ref(cid, size, profile.name), json_path)


async def add(desk: Desk, file: Path, profile: Profile, json_path: Path | None) -> int:
    with progress() as bars:
        ref = await desk.content.add_stream(lambda: opened(file, bars), profile=profile, keep_until=FOREVER)
    _report(ref, json_path)
    return DONE


@contextmanager
def named(path: Path) -> Iterator[Path]:
    """Standard input, or a pipe, as a file: a store may read it more than once. Read before anything is opened, and by
    the main thread alone, which Ctrl-C ends also while nothing comes."""
    if path != STANDARD and path.is_file():
        yield path
        return
    shown = "standard input" if path == STANDARD else path
    with tempfile.NamedTemporaryFile(prefix="poi-content-") as spool:
        try:
            with nullcontext(sys.stdin.buffer) if path == STANDARD else path.open("rb") as stream:
                shutil.copyfileobj(stream, spool, 1 << 20)
            spool.flush()
        except OSError as error:
            raise ContentError(f"keep {shown} in {spool.name}: {error.strerror}; set TMPDIR") from error
        yield Path(spool.name)


def _report(ref: Ref, json_path: Path | None) -> None:
    print(ref.cid)
    if json_path is not None:
        told = {"cid": ref.cid, "size": ref.size, "profile": ref.profile}
        try:
            json_path.write_text(json.dumps(told) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--json {json_path}: {error.strerror}") from error


# --- get -----------------------------------------------------------------------------------------
async def get(desk: Desk, cid: Cid, target: Path, reading: Reading) -> int:
    """The file is there under its name when all of it is verified, and not before. What came stays in the store, so
    that another try goes on from there."""
    await _look_around(desk, cid, reading)
    if target == STANDARD:
        await _copy(desk, cid, sys.stdout.buffer.write, reading)
        sys.stdout.buffer.flush()
        return DONE
    with _written(target) as file:
        size = await _copy(desk, cid, file.write, reading)
    print(f"{target}: {size} bytes")
    return DONE


async def _look_around(desk: Desk, cid: Cid, reading: Reading) -> None:
    """What is all here is read without the chain, which may be away."""
    if not reading.is_offline and not await desk.content.has(cid):
        await desk.find_sources()


async def _copy(desk: Desk, cid: Cid, write: Callable[[bytes], object], reading: Reading, keep: float = 0.0) -> int:
    """How many bytes `write` got, chunk by chunk."""
    written_bytes = 0
    with progress() as bars:
        bar = bars.add_task(f"{cid[:12]}…", total=None)
        async with aclosing(_chunks(desk, cid, reading, keep)) as chunks:
            async for chunk in chunks:
                if not written_bytes:
                    bars.update(bar, total=await desk.content.size_of(cid))
                await asyncio.to_thread(write, chunk)
                written_bytes += len(chunk)
                bars.update(bar, completed=written_bytes)
    return written_bytes


def _chunks(desk: Desk, cid: Cid, reading: Reading, keep: float) -> AsyncGenerator[bytes, None]:
    if reading.is_offline:
        return desk.content.read(cid)
    return desk.content.open(cid, max_bytes=reading.max_bytes, timeout_seconds=reading.timeout_seconds, keep_until=keep)


@contextmanager
def _written(target: Path) -> Iterator[BinaryIO]:
    if target.is_dir():
        raise ConfigError(f"-o {target}: a folder; name the file in it")
    is_special = target.exists() and not target.is_file()  # a device or a pipe is written to, and never replaced
    try:
        with target.open("wb") if is_special else _beside(target.resolve()) as file:
            yield file
    except OSError as error:
        raise ContentError(f"write {target}: {error.strerror or error}") from error


@contextmanager
def _beside(target: Path) -> Iterator[BinaryIO]:
    """A new file that takes the target's name at the end, or is gone."""
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


# --- care ----------------------------------------------------------------------------------------
async def pin(desk: Desk, cid: Cid, fetch: Reading | None) -> int:
    """With `fetch` from wherever it is, else what is all here."""
    if fetch is None:
        await desk.content.pin(cid)
    else:
        await _look_around(desk, cid, fetch)
        await _copy(desk, cid, len, fetch, keep=FOREVER)
    print(f"pinned {cid}")
    return DONE


async def unpin(desk: Desk, cid: Cid) -> int:
    if cid not in {pin.cid for pin in await desk.content.pins()}:
        raise ConfigError(f"{cid} is not kept here; `poi content ls` lists what is")
    await desk.content.unpin(cid)
    print(f"unpinned {cid}; `poi content gc` frees what nothing else keeps")
    return DONE


async def ls(desk: Desk, *, is_json: bool) -> int:
    """Last used first."""
    pins = sorted(await desk.content.pins(), key=lambda pin: (-pin.used_at, pin.cid))
    if is_json:
        print(json.dumps([_row(pin) for pin in pins]))
    else:
        print("\n".join([HEADING, *map(line_of, pins)]))
    return DONE


def _row(pin: Pin) -> dict[str, object]:
    """`keepUntil` is null for good: JSON has no infinity."""
    keep_until = None if pin.keep_until == math.inf else pin.keep_until
    return {"cid": pin.cid, "size": pin.size, "keepUntil": keep_until, "usedAt": pin.used_at, "state": state_of(pin)}


async def gc(desk: Desk, keep_bytes: int) -> int:
    swept = await desk.content.collect(keep_bytes)
    print(f"freed {swept.blocks} blocks, {swept.bytes} bytes ({decimal(swept.bytes)})")
    return DONE


async def verify(desk: Desk, cid: Cid | None, repair: Reading | None) -> int:
    """Every file that is all here, or the one. FAILED when any stays damaged."""
    pins = [Pin(cid, 0, 0.0, 0.0)] if cid is not None else await desk.content.pins()
    is_sound = True
    for pin in pins:
        if pin.size is None:
            print(f"under way  {pin.cid}")
        else:
            is_sound = await _is_sound(desk, pin.cid, repair) and is_sound
    return DONE if is_sound else FAILED


async def _is_sound(desk: Desk, cid: Cid, repair: Reading | None) -> bool:
    try:
        lost = await desk.content.verify(cid)
        if not lost:
            print(f"whole      {cid}")
            return True
        more = f" and {len(lost) - SHOWN_BLOCKS} more" if len(lost) > SHOWN_BLOCKS else ""
        print(f"damaged    {cid}: missing or damaged are {', '.join(lost[:SHOWN_BLOCKS])}{more}")
        if repair is None:
            return False
        await desk.find_sources()
        await _copy(desk, cid, len, repair)  # reading fetches what is damaged from others, and overwrites it
        is_repaired = not await desk.content.verify(cid)
    except ContentError as error:
        print(f"failed     {cid}: {error}")
        return False
    print(f"{'repaired' if is_repaired else 'damaged still':<9}  {cid}")
    return is_repaired


def _say(line: str) -> None:
    print(f"poi: {line}", file=sys.stderr)
