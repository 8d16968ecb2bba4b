"""Gateways that lie, stall, flood and vanish: what they say on a connection, and what has to come of it."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Awaitable, Callable

from shared.adapters.content.gateway import RAW
from shared.constants import MAX_BLOCK_BYTES
from shared.reasons import SourceFault

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
CONTENT = b"content" * 1000


def head(*lines: str, status: str = "200 OK", content_type: str = RAW) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Type: {content_type}", *lines, "", ""]).encode()


def answer(body: bytes, *lines: str, status: str = "200 OK", content_type: str = RAW) -> Talk:
    """An orderly answer, whatever it says."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head(f"Content-Length: {len(body)}", *lines, status=status, content_type=content_type) + body)
        await writer.drain()

    return talk


def bytes_of(raw: bytes) -> Talk:
    """Just these bytes, and the connection closes."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()

    return talk


def endless(start: bytes, again: bytes, seconds: float = 0.0) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while True:
            writer.write(again)
            await writer.drain()
            await asyncio.sleep(seconds)

    return talk


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.get_running_loop().create_future()


CHUNK = b"10000\r\n" + bytes(0x10000) + b"\r\n"
# Asked for the raw block of CONTENT: who, and what is said of it.
LIARS: dict[str, tuple[Talk, str, SourceFault]] = {
    "wrong bytes": (answer(CONTENT[:-1] + b"!"), "wrong bytes", SourceFault.WRONG_BYTES),
    "no bytes": (answer(b""), "wrong bytes", SourceFault.WRONG_BYTES),
    "bytes added": (answer(CONTENT + b"!"), "wrong bytes", SourceFault.WRONG_BYTES),
    "a page with status 200": (
        answer(b"<html>", content_type="text/html"),
        "Content-Type 'text/html'",
        SourceFault.BAD_ANSWER,
    ),
    "a page that says it is raw": (answer(b"<html>not found</html>"), "wrong bytes", SourceFault.WRONG_BYTES),
    "a CAR": (
        answer(b"car", content_type="application/vnd.ipld.car"),
        "Content-Type 'application/vnd.ipld.car'",
        SourceFault.BAD_ANSWER,
    ),
    "an absurd type": (answer(CONTENT, content_type="x/" + "y" * 5000), "Content-Type 'x/yyy", SourceFault.BAD_ANSWER),
    "a type that cannot be parsed": (
        answer(CONTENT[:-1] + b"!", content_type=f"{RAW}; a*"),
        "wrong bytes",
        SourceFault.WRONG_BYTES,
    ),
    "another type that cannot be parsed": (
        answer(CONTENT, content_type="text/html; a*"),
        "Content-Type 'text/html'",
        SourceFault.BAD_ANSWER,
    ),
    "no type": (bytes_of(b"HTTP/1.1 200 OK\r\n\r\n" + CONTENT), "Content-Type ''", SourceFault.BAD_ANSWER),
    "a redirect": (
        answer(b"", "Location: http://127.0.0.1:1/", status="302 Found"),
        "HTTP status 302",
        SourceFault.BAD_ANSWER,
    ),
    "a part": (answer(CONTENT, status="206 Partial Content"), "HTTP status 206", SourceFault.BAD_ANSWER),
    "not here": (answer(b"", status="404 Not Found"), "does not have it (404)", SourceFault.NOT_FOUND),
    "too busy": (answer(b"", status="429 Too Many Requests"), "HTTP status 429", SourceFault.BUSY),
    "gone": (answer(b"", status="410 Gone"), "HTTP status 410", SourceFault.NOT_FOUND),
    "withheld by law": (answer(b"", status="451 No"), "HTTP status 451", SourceFault.NOT_FOUND),
    "overloaded": (answer(b"", status="503 No"), "HTTP status 503", SourceFault.BUSY),
    "still looking": (answer(b"", status="504 No"), "HTTP status 504", SourceFault.SLOW),
    "broken": (answer(b"", status="500 Oops"), "HTTP status 500", SourceFault.BAD_ANSWER),
    "a bomb": (answer(gzip.compress(bytes(1 << 20)), "Content-Encoding: gzip"), "compressed", SourceFault.BAD_ANSWER),
    "an endless body": (
        endless(head("Transfer-Encoding: chunked"), CHUNK),
        f"body over {MAX_BLOCK_BYTES} bytes",
        SourceFault.TOO_LARGE,
    ),
    "an endless body to the end": (
        endless(head("Connection: close"), CHUNK),
        f"body over {MAX_BLOCK_BYTES} bytes",
        SourceFault.TOO_LARGE,
    ),
    "an enormous length": (
        bytes_of(head("Content-Length: 99999999999")),
        f"Content-Length over {MAX_BLOCK_BYTES}",
        SourceFault.TOO_LARGE,
    ),
    "a length that is none": (bytes_of(head("Content-Length: -1")), "Content-Length", SourceFault.BAD_ANSWER),
    "two lengths": (
        bytes_of(head("Content-Length: 7000", "Content-Length: 7") + CONTENT),
        "Content-Length",
        SourceFault.BAD_ANSWER,
    ),
    "less than promised": (
        bytes_of(head("Content-Length: 7000") + CONTENT[:100]),
        "ClientPayloadError",
        SourceFault.BAD_ANSWER,
    ),
    "a cut chunk": (
        bytes_of(head("Transfer-Encoding: chunked") + CHUNK[:100]),
        "ClientPayloadError",
        SourceFault.BAD_ANSWER,
    ),
    "a chunk that is none": (bytes_of(head("Transfer-Encoding: chunked") + b"zz\r\n"), "Error", SourceFault.BAD_ANSWER),
    "endless headers": (endless(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 1000), "Error", SourceFault.BAD_ANSWER),
    "an endless header": (endless(b"HTTP/1.1 200 OK\r\nX: ", b"y" * 10000), "Error", SourceFault.BAD_ANSWER),
    "no HTTP": (bytes_of(b"SSH-2.0-OpenSSH_9.2\r\n"), "Error", SourceFault.BAD_ANSWER),
    "a closed door": (bytes_of(b""), "ServerDisconnectedError", SourceFault.UNREACHABLE),
    "silence": (hang, "no whole block within 1 s", SourceFault.SLOW),
    "a body that never comes": (
        endless(head("Content-Length: 7000"), b"", 0.05),
        "no whole block within 1 s",
        SourceFault.SLOW,
    ),
    "a slow drip": (endless(head("Content-Length: 7000"), b"c", 0.05), "no whole block within 1 s", SourceFault.SLOW),
    "slow headers": (endless(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n", 0.05), "no whole block within 1 s", SourceFault.SLOW),
}
