"""EigenDA through its proxy, in `standard` mode: content for the time in which it is attested, not storage.

| question | answer |
|---|---|
| `POST /put?commitment_mode=standard`, the content as the body | the certificate: a version byte, then RLP |
| `GET /get/0x…?commitment_mode=standard`, the certificate in hex | the content |

| status | meaning |
|---|---|
| 400 | not a certificate that this proxy takes |
| 418 | a derivation error as JSON: the certificate, or the blob behind it, is provably none |
| 429 | too many questions |
| 503 | EigenDA itself is out; whoever can uses another place |
| 500 | anything else |

A certificate does not name its content in a way that can be checked here: whoever reads compares the CID.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import msgspec

from shared.adapters.content.services import Answer, ask
from shared.constants import MAX_ANSWER_BYTES, MAX_EIGENDA_CERTIFICATE_BYTES
from shared.content.cid import Block
from shared.content.unixfs import PROFILES, Profile, build_file
from shared.errors import SourceFailed
from shared.interfaces import Meter, Wanted
from shared.reasons import SourceFault
from shared.types import Cid, Ref, SourceKind

MAX_BLOB_BYTES = 16 << 20  # what EigenDA takes; a proof's limit, too
PUT_SECONDS = 60.0  # operators have to sign for the blob
GET_SECONDS = 20.0  # twice what an attester gives a proof: the proxy may have to ask many of them
# Each download holds a blob and its blocks, each file kept its blocks: 96 MiB at the very most.
MAX_DOWNLOADS = 2
MAX_KEPT_FILES = 2
KEPT_SECONDS = 10.0  # a reader that wants a file's first block wants the next ones soon
_VERSIONS = (0, 1, 2)  # the first byte of a certificate
_QUERY = "commitment_mode=standard"  # without it the proxy speaks another dialect
# Of derivation errors (their StatusCode): the certificate cannot be parsed, is not valid, its blob cannot be decoded.
# 2 is left out: that a certificate is no longer recent depends on when one asks.
_REFUTED = (1, 3, 4)

_Key = tuple[Cid, int, str, bytes]  # all that a `Ref` says of a blob: whoever copies another's and lies gets its own


class _DerivationError(msgspec.Struct):
    status_code: int = msgspec.field(name="StatusCode")


class EigenDaProxy:
    """The operator's own proxy: what it says of a blob is believed, since this node has no other way to know."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session, self._url = session, url

    async def put(self, data: bytes) -> bytes:
        """The certificate. Raises `SourceFailed`; TOO_LARGE when trying again cannot help."""
        if len(data) > MAX_BLOB_BYTES:
            raise SourceFailed(f"{len(data)} bytes, over EigenDA's {MAX_BLOB_BYTES}", SourceFault.TOO_LARGE)
        answer = await ask(
            self._session,
            "POST",
            f"{self._url}/put?{_QUERY}",
            data=io.BytesIO(data),  # sent in pieces: 16 MiB at once would hold everybody up
            headers={"Content-Type": "application/octet-stream"},
            timeout_seconds=PUT_SECONDS,
        )
        if answer.status != 200:
            raise _refused(answer)
        certificate = answer.body
        if not 1 < len(certificate) <= MAX_EIGENDA_CERTIFICATE_BYTES or certificate[0] not in _VERSIONS:
            raise SourceFailed("answered 200 with what is no certificate of version 0, 1 or 2", SourceFault.BAD_ANSWER)
        return certificate

    async def get(
        self, certificate: bytes, *, max_bytes: int, on_received: Callable[[int], None] = lambda _: None
    ) -> bytes:
        """Raises `SourceFailed`; REFUTED when there provably is no such blob."""
        answer = await ask(
            self._session,
            "GET",
            f"{self._url}/get/0x{certificate.hex()}?{_QUERY}",
            timeout_seconds=GET_SECONDS,
            max_bytes=max(max_bytes, MAX_ANSWER_BYTES),  # an error may well be longer than a small file
            on_received=on_received,
        )
        if answer.status != 200:
            raise _refused(answer)
        return answer.body


def _refused(answer: Answer) -> SourceFailed:
    match answer.status:
        case 400:
            return SourceFailed("does not take it (400)", SourceFault.BAD_ANSWER)
        case 404:
            return SourceFailed("does not have it (404)", SourceFault.NOT_FOUND)
        case 418:
            return _derivation_error(answer)
        case 429:
            return SourceFailed("too many requests (429)", SourceFault.BUSY)
        case 503:
            return SourceFailed("EigenDA is out (503)", SourceFault.BUSY)
        case status if status >= 500:
            return SourceFailed(f"failed ({status})")
        case status:
            return SourceFailed(f"answered {status}", SourceFault.BAD_ANSWER)


def _derivation_error(answer: Answer) -> SourceFailed:
    """What it says makes a vote against the performer, so a teapot that is not the proxy must not be believed."""
    try:
        code = msgspec.json.decode(answer.body, type=_DerivationError).status_code
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return SourceFailed("answered 418 without a derivation error", SourceFault.BAD_ANSWER)
    if code not in _REFUTED:
        return SourceFailed(f"derivation error {code} (418)", SourceFault.BAD_ANSWER)
    return SourceFailed(f"provably no blob: derivation error {code} (418)", SourceFault.REFUTED)


class _Download:
    """One file on its way, for everybody who wants a block of it."""

    def __init__(self) -> None:
        self.waiting: list[Meter] = []
        self.task: asyncio.Task[dict[Cid, Block]]

    def count(self, received_bytes: int) -> None:
        for meter in self.waiting:
            meter.received_bytes = received_bytes


class EigenDaSource:
    """Files whose `Ref` has a certificate. A file comes whole, so it is fetched once and cut into its blocks here."""

    def __init__(self, proxy: EigenDaProxy) -> None:
        self._proxy = proxy
        self._downloads: dict[_Key, _Download] = {}  # those that are done are kept a while, in order
        self._slots = asyncio.Semaphore(MAX_DOWNLOADS)
        self._is_closed = False

    @property
    def name(self) -> str:
        return "EigenDA"

    @property
    def kind(self) -> SourceKind:
        return SourceKind.EIGENDA

    async def close(self) -> None:
        """Who waits for a block gets `SourceFailed`."""
        self._is_closed = True
        tasks = [download.task for download in self._downloads.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._downloads.clear()

    async def fetch(self, wanted: Wanted, meter: Meter) -> Block:
        """See `Source`."""
        blocks = await self._blocks(_certified(wanted), meter)
        if wanted.cid not in blocks:
            raise SourceFailed("not a block of the file", SourceFault.NOT_FOUND)
        return blocks[wanted.cid]

    async def _blocks(self, ref: Ref, meter: Meter) -> dict[Cid, Block]:
        if self._is_closed:
            raise SourceFailed("closed")
        key = (ref.cid, ref.size, ref.profile, ref.eigenda)
        download = self._downloads.get(key) or self._start(key, ref)
        download.waiting.append(meter)
        try:
            return await asyncio.shield(download.task)
        except asyncio.CancelledError:
            if not download.task.cancelled():
                raise  # it is the caller who was cancelled
            raise SourceFailed("closed") from None
        finally:
            download.waiting = [other for other in download.waiting if other is not meter]
            if not download.waiting and not download.task.done():
                download.task.cancel()  # nobody wants it any more
                self._forget(key, download)

    def _start(self, key: _Key, ref: Ref) -> _Download:
        download = self._downloads[key] = _Download()
        download.task = asyncio.create_task(self._load(ref, download.count))
        download.task.add_done_callback(lambda task: self._land(key, download, task))
        return download

    async def _load(self, ref: Ref, on_received: Callable[[int], None]) -> dict[Cid, Block]:
        async with self._slots:
            data = await self._proxy.get(ref.eigenda, max_bytes=ref.size, on_received=on_received)
            if len(data) != ref.size:
                raise SourceFailed(f"{len(data)} bytes instead of {ref.size}", SourceFault.WRONG_BYTES)
            root, blocks = await asyncio.to_thread(_cut, data, PROFILES[ref.profile])
        if root != ref.cid:
            raise SourceFailed(f"wrong bytes: a file of CID {root}", SourceFault.WRONG_BYTES)
        return blocks

    def _land(self, key: _Key, download: _Download, task: asyncio.Task[dict[Cid, Block]]) -> None:
        if task.cancelled() or task.exception() is not None:
            self._forget(key, download)
            return
        asyncio.get_running_loop().call_later(KEPT_SECONDS, self._forget, key, download)
        kept = [(key, each) for key, each in self._downloads.items() if each.task.done()]
        for old_key, old in kept[: max(0, len(kept) - MAX_KEPT_FILES)]:
            self._forget(old_key, old)

    def _forget(self, key: _Key, download: _Download) -> None:
        if self._downloads.get(key) is download:
            del self._downloads[key]


@asynccontextmanager
async def open_source(session: aiohttp.ClientSession, url: str) -> AsyncIterator[EigenDaSource]:
    """`url` is the proxy's, of the operator's own settings."""
    source = EigenDaSource(EigenDaProxy(session, url))
    try:
        yield source
    finally:
        await source.close()


def _certified(wanted: Wanted) -> Ref:
    """What the performer says of the file. Raises `SourceFailed` when nothing is to be had for it here."""
    ref = wanted.ref
    if ref is None or not ref.eigenda or ref.cid != wanted.root:
        raise SourceFailed("no certificate for it", SourceFault.NOT_FOUND)
    if ref.size > MAX_BLOB_BYTES:
        raise SourceFailed(f"said to have {ref.size} bytes, over {MAX_BLOB_BYTES}", SourceFault.TOO_LARGE)
    if ref.profile not in PROFILES:
        raise SourceFailed("of a profile that is not known here", SourceFault.NOT_FOUND)
    return ref


def _cut(data: bytes, profile: Profile) -> tuple[Cid, dict[Cid, Block]]:
    blocks: dict[Cid, Block] = {}
    root, _ = build_file(io.BytesIO(data), lambda block: blocks.update({block.cid: block}), profile)
    return root, blocks
