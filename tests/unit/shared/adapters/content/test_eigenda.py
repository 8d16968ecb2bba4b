"""Fetching by certificate: once a file, in bounded memory, and only what is provable speaks against the performer."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from shared.adapters.content import eigenda as eigenda_module
from shared.adapters.content.eigenda import (
    MAX_BLOB_BYTES,
    MAX_DOWNLOADS,
    MAX_KEPT_FILES,
    EigenDaProxy,
    EigenDaSource,
    open_source,
)
from shared.adapters.content.publishers.eigenda import EigenDaPublisher
from shared.adapters.content.session import open_session
from shared.adapters.content.stores import open_content
from shared.config import ContentConfig
from shared.content.cid import Block
from shared.content.unixfs import UNIXFS_V1_2025, UNIXFS_V1_CLASSIC, Profile, build_file, cid_of
from shared.errors import ContentUnavailable, SourceFailed
from shared.interfaces import Meter, Wanted
from shared.reasons import SourceFault
from shared.types import Cid, Ref
from tests.content_support import LIMIT_SECONDS, content_of, until
from tests.publisher_support import FakeEigenDa, Lie, derivation_error, huge, saying, silent

CONTENT = content_of(600 << 10)
CERTIFICATE = b"\x01certificate"


@dataclass
class Shop:
    """A proxy that holds files, and a source that asks it."""

    fake: FakeEigenDa
    source: EigenDaSource

    def sell(
        self, data: bytes, profile: Profile = UNIXFS_V1_CLASSIC, certificate: bytes = CERTIFICATE
    ) -> tuple[Ref, list[Block]]:
        """Under the certificate; and its blocks, leaves first."""
        blocks: list[Block] = []
        cid, size = build_file(io.BytesIO(data), blocks.append, profile)
        self.fake.blobs[f"0x{certificate.hex()}"] = data
        return Ref(cid, size, profile.name, (), certificate), blocks

    async def fetch(self, ref: Ref | None, cid: Cid | None = None, root: Cid | None = None) -> Block:
        given = ref.cid if ref else root
        assert given is not None
        async with asyncio.timeout(LIMIT_SECONDS):
            return await self.source.fetch(Wanted(cid or given, root or given, ref), Meter())


@asynccontextmanager
async def shop() -> AsyncIterator[Shop]:
    fake = FakeEigenDa()
    async with fake.open() as url, open_session(None) as session, open_source(session, url) as source:
        yield Shop(fake, source)


async def fault_of(fetching: Awaitable[Block]) -> tuple[SourceFault, str]:
    with pytest.raises(SourceFailed) as caught:
        await fetching
    return caught.value.fault, str(caught.value)


@pytest.mark.parametrize("profile", [UNIXFS_V1_CLASSIC, UNIXFS_V1_2025])
@pytest.mark.parametrize("size", [0, 1, 3 << 20])
async def test_every_block_comes_from_one_download(size: int, profile: Profile) -> None:
    async with shop() as at:
        ref, blocks = at.sell(content_of(size), profile)
        for block in reversed(blocks):
            assert await at.fetch(ref, block.cid) == block
        assert at.fake.asked == [f"GET /get/0x{CERTIFICATE.hex()}"]


async def test_the_largest_blob_is_fetched() -> None:
    async with shop() as at:
        ref, blocks = at.sell(bytes(MAX_BLOB_BYTES), UNIXFS_V1_2025)
        assert await at.fetch(ref) == blocks[-1]


async def test_who_asks_together_shares_the_download_and_counts_its_bytes() -> None:
    async with shop() as at:
        ref, blocks = at.sell(CONTENT)
        meters = [Meter() for _ in blocks]
        fetching = [
            at.source.fetch(Wanted(block.cid, ref.cid, ref), meter) for block, meter in zip(blocks, meters, strict=True)
        ]
        assert await asyncio.gather(*fetching) == blocks
        assert [meter.received_bytes for meter in meters] == [len(CONTENT)] * len(blocks)
        assert len(at.fake.asked) == 1


async def test_who_copies_a_certificate_and_lies_of_the_size_spoils_nobodys_download() -> None:
    async with shop() as at:
        ref, blocks = at.sell(CONTENT)
        lie = msgspec.structs.replace(ref, size=ref.size + 1)
        lied, fetched = await asyncio.gather(fault_of(at.fetch(lie)), at.fetch(ref))
        assert (lied[0], fetched) == (SourceFault.WRONG_BYTES, blocks[-1])


def without_certificate(ref: Ref) -> Ref | None:
    return msgspec.structs.replace(ref, eigenda=b"")


def of_another_file(ref: Ref) -> Ref | None:
    return msgspec.structs.replace(ref, cid=cid_of(b"another"))


def of_an_unknown_profile(ref: Ref) -> Ref | None:
    return msgspec.structs.replace(ref, profile="unixfs-v9")


@pytest.mark.parametrize("change", [lambda _: None, without_certificate, of_another_file, of_an_unknown_profile])
async def test_what_has_no_certificate_is_not_asked_for(change: Callable[[Ref], Ref | None]) -> None:
    async with shop() as at:
        ref, _ = at.sell(CONTENT)
        fault, _ = await fault_of(at.fetch(change(ref), ref.cid, ref.cid))
        assert fault is SourceFault.NOT_FOUND
        assert at.fake.asked == []


async def test_a_size_beyond_any_blob_is_not_asked_for() -> None:
    async with shop() as at:
        ref, _ = at.sell(CONTENT)
        fault, _ = await fault_of(at.fetch(msgspec.structs.replace(ref, size=MAX_BLOB_BYTES + 1)))
        assert fault is SourceFault.TOO_LARGE
        assert at.fake.asked == []


async def test_a_block_of_another_file_is_not_here() -> None:
    async with shop() as at:
        ref, _ = at.sell(CONTENT)
        assert (await fault_of(at.fetch(ref, cid_of(b"another"), ref.cid)))[0] is SourceFault.NOT_FOUND


# --- what the proxy says instead -----------------------------------------------------------------
def derived(code: int) -> Lie:
    async def answer(_: web.Request) -> web.StreamResponse:
        return derivation_error(code)

    return answer


def bytes_of(body: bytes) -> Lie:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=body)

    return answer


TEAPOT = "answered 418 without a derivation error"
ANSWERS: dict[str, tuple[Lie, SourceFault, str]] = {
    "400": (saying(400, "bad certificate"), SourceFault.BAD_ANSWER, "does not take it (400)"),
    "401": (saying(401), SourceFault.BAD_ANSWER, "answered 401"),
    "404": (saying(404), SourceFault.NOT_FOUND, "does not have it (404)"),
    "418, certificate of no form": (derived(1), SourceFault.REFUTED, "provably no blob: derivation error 1 (418)"),
    "418, certificate not recent": (derived(2), SourceFault.BAD_ANSWER, "derivation error 2 (418)"),
    "418, certificate not valid": (derived(3), SourceFault.REFUTED, "provably no blob: derivation error 3 (418)"),
    "418, blob of no form": (derived(4), SourceFault.REFUTED, "provably no blob: derivation error 4 (418)"),
    "418, of a later version": (derived(5), SourceFault.BAD_ANSWER, "derivation error 5 (418)"),
    "418 of a teapot": (saying(418, "short and stout"), SourceFault.BAD_ANSWER, TEAPOT),
    "418 with other JSON": (saying(418, "[3]"), SourceFault.BAD_ANSWER, TEAPOT),
    "429": (saying(429), SourceFault.BUSY, "too many requests (429)"),
    "500": (saying(500), SourceFault.UNREACHABLE, "failed (500)"),
    "503": (saying(503), SourceFault.BUSY, "EigenDA is out (503)"),
    "redirect": (saying(302, Location="http://127.0.0.1:1/"), SourceFault.BAD_ANSWER, "answered 302"),
    "200 with HTML": (
        saying(200, "<html>", content_type="text/html"),
        SourceFault.WRONG_BYTES,
        f"6 bytes instead of {len(CONTENT)}",
    ),
    "cut": (bytes_of(CONTENT[:-1]), SourceFault.WRONG_BYTES, f"{len(CONTENT) - 1} bytes instead of {len(CONTENT)}"),
    "padded": (bytes_of(CONTENT + b"\0"), SourceFault.TOO_LARGE, f"an answer of more than {len(CONTENT)} bytes"),
    "other bytes": (
        bytes_of(bytes(len(CONTENT))),
        SourceFault.WRONG_BYTES,
        f"wrong bytes: a file of CID {cid_of(bytes(len(CONTENT)), UNIXFS_V1_CLASSIC)}",
    ),
    "huge": (huge(), SourceFault.TOO_LARGE, f"an answer of more than {len(CONTENT)} bytes"),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
async def test_every_answer_has_its_fault(name: str) -> None:
    lie, fault, said = ANSWERS[name]
    async with shop() as at:
        ref, blocks = at.sell(CONTENT)
        at.fake.lie = lie
        assert await fault_of(at.fetch(ref)) == (fault, said)
        at.fake.lie = None  # nothing of a failure is kept
        assert await at.fetch(ref) == blocks[-1]


async def test_another_profile_than_the_refs_is_wrong_bytes() -> None:
    async with shop() as at:
        ref, _ = at.sell(CONTENT, UNIXFS_V1_CLASSIC)
        fault, _ = await fault_of(at.fetch(msgspec.structs.replace(ref, profile=UNIXFS_V1_2025.name)))
        assert fault is SourceFault.WRONG_BYTES


async def test_an_error_longer_than_the_file_is_still_understood() -> None:
    async with shop() as at:
        ref, _ = at.sell(b"x")
        at.fake.lie = saying(418, {"StatusCode": 4, "Msg": "long " * 1000})
        assert (await fault_of(at.fetch(ref)))[0] is SourceFault.REFUTED


async def test_silence_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eigenda_module, "GET_SECONDS", 0.05)
    async with shop() as at:
        ref, _ = at.sell(CONTENT)
        at.fake.lie = silent(at.fake)
        assert await fault_of(at.fetch(ref)) == (SourceFault.SLOW, "no whole answer within 0.05 s")


# --- bounds --------------------------------------------------------------------------------------
async def test_only_a_few_downloads_run_at_once() -> None:
    running = most = 0
    async with shop() as at:
        refs = [at.sell(content_of(size), certificate=bytes((2, size)))[0] for size in range(1, 9)]

        async def slow(request: web.Request) -> web.StreamResponse:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.01)
            running -= 1
            return await at.fake._get(request)

        at.fake.lie = slow
        await asyncio.gather(*map(at.fetch, refs))
        assert most == MAX_DOWNLOADS
        assert len(at.source._downloads) == MAX_KEPT_FILES


async def test_a_file_is_kept_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eigenda_module, "KEPT_SECONDS", 0.01)
    async with shop() as at:
        ref, _ = at.sell(CONTENT)
        await at.fetch(ref)
        await until(lambda: not at.source._downloads, "it is forgotten")


async def test_a_download_that_nobody_wants_any_more_ends() -> None:
    async with shop() as at:
        ref, blocks = at.sell(CONTENT)
        at.fake.lie = silent(at.fake)
        first, second = (asyncio.create_task(at.fetch(ref, block.cid)) for block in blocks[:2])
        await until(lambda: at.fake.asked, "it is asked")
        (download,) = at.source._downloads.values()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert not download.task.done()
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        await until(download.task.cancelled, "it ends")
        at.fake.lie = None
        assert await at.fetch(ref) == blocks[-1]  # a newcomer starts its own


async def test_closing_ends_what_is_under_way() -> None:
    async with shop() as at:
        ref, _ = at.sell(CONTENT)
        at.fake.lie = silent(at.fake)
        fetching = asyncio.create_task(at.fetch(ref))
        await until(lambda: at.fake.asked, "it is asked")
        await at.source.close()
        assert await fault_of(fetching) == (SourceFault.UNREACHABLE, "closed")
        assert await fault_of(at.fetch(ref)) == (SourceFault.UNREACHABLE, "closed")


# --- a whole node --------------------------------------------------------------------------------
async def test_a_node_fetches_a_file_that_another_published_and_serves_no_more(tmp_path: Path) -> None:
    fake, data = FakeEigenDa(), content_of(5 << 20)
    async with fake.open() as url:
        settings = ContentConfig(eigenda_url=url)
        async with (
            open_content(settings, tmp_path / "performer", gateways=dict, own=None) as performer,
            open_session(None) as session,
        ):
            ref = await performer.add(data)
            publisher = EigenDaPublisher(EigenDaProxy(session, url), performer)
            receipt = await publisher.status(await publisher.publish(ref))
        certified = msgspec.structs.replace(ref, eigenda=bytes.fromhex(receipt.id))
        fake.asked.clear()
        async with open_content(settings, tmp_path / "attester", gateways=dict, own=None) as attester:
            got = await attester.get(ref.cid, max_bytes=len(data), timeout_seconds=LIMIT_SECONDS, ref=certified)
            assert got == data
            assert await attester.has(ref.cid)
        assert len(fake.asked) == 1


async def test_without_the_setting_no_proxy_is_asked(tmp_path: Path) -> None:
    ref = Ref(cid_of(CONTENT), len(CONTENT), UNIXFS_V1_2025.name, (), CERTIFICATE)
    async with open_content(ContentConfig(), tmp_path, gateways=dict, own=None) as content:
        with pytest.raises(ContentUnavailable, match="no source is known"):
            await content.get(ref.cid, max_bytes=1 << 20, timeout_seconds=LIMIT_SECONDS, ref=ref)
