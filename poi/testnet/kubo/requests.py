"""What an RPC request says: arguments and options as Kubo reads them, and the files in its body."""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO, Final

from aiohttp import BodyPartReader, web

from shared import base58
from shared.content.cid import Codec, decode_cid, encode_cid
from shared.errors import CodecError
from shared.types import Cid

_READ_BYTES: Final = 1 << 18
_DURATION: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_SECONDS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_TRUE, _FALSE = {"1", "t", "T", "TRUE", "true", "True"}, {"0", "f", "F", "FALSE", "false", "False"}


class RpcRefused(Exception):
    """What the caller is told."""

    def __init__(self, said: str, status: int = 500) -> None:
        super().__init__(said)
        self.status = status


def argument(request: web.Request) -> str:
    try:
        return request.query["arg"]
    except KeyError:
        raise RpcRefused('argument "ipfs-path" is required', 400) from None


def cid_of(request: web.Request) -> Cid:
    return canonical(name_of(argument(request)))


def name_of(path: str) -> str:
    return path.removeprefix("/ipfs/")


def canonical(name: str) -> Cid:
    """Version 0 as its version 1: the same blocks."""
    try:
        if name.startswith("Qm"):
            return decode_cid(bytes((1, Codec.DAG_PB)) + base58.decode(name))
        encode_cid(Cid(name))
    except CodecError as error:
        raise RpcRefused(f'invalid path "{name}": invalid CID: {error}') from None
    return Cid(name)


def flag(request: web.Request, name: str, *, default: bool) -> bool:
    """As Go's ParseBool: clients send true, True, 1."""
    text = request.query.get(name)
    if text is None:
        return default
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise RpcRefused(f'Could not convert value "{text}" to type "bool" (for option "-{name}")', 400)


def timeout_of(request: web.Request) -> float | None:
    """In seconds, from Go's way of writing it: 30s, 1m30s, 500ms. None: for ever."""
    text = request.query.get("timeout")
    if text is None:
        return None
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise RpcRefused(f'time: invalid duration "{text}"')
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def not_here(cid: Cid) -> RpcRefused:
    return RpcRefused(f"block was not found locally (offline): ipld: could not find {cid}")


# --- files ---------------------------------------------------------------------------------------
async def files_of(request: web.Request) -> AsyncGenerator[tuple[str, Path], None]:
    """(name, file) of each part of a multipart body, one at a time on the disk."""
    if not request.content_type.startswith("multipart/"):
        raise RpcRefused('file argument "path" is required', 400)
    folder = Path(tempfile.mkdtemp(prefix="poi-kubo-"))
    try:
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader):
                raise RpcRefused("parts within parts", 400)
            path = folder / "part"
            with path.open("wb") as sink:
                while chunk := await part.read_chunk(_READ_BYTES):
                    await asyncio.to_thread(sink.write, chunk)
            yield part.filename or "", path
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def first_file(request: web.Request) -> AsyncIterator[BinaryIO]:
    files = files_of(request)
    try:
        async for _, path in files:
            with path.open("rb") as stream:
                yield stream
            return
        raise RpcRefused('file argument "path" is required', 400)
    finally:
        await files.aclose()
