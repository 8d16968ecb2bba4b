"""Putting proofs into EigenDA: a certificate counts once the content came back by it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import msgspec
import pytest

from shared.adapters.content import eigenda as eigenda_module
from shared.adapters.content.eigenda import MAX_BLOB_BYTES, EigenDaProxy
from shared.adapters.content.publishers.eigenda import EigenDaPublisher
from shared.adapters.content.session import open_session
from shared.constants import MAX_EIGENDA_CERTIFICATE_BYTES
from shared.content.unixfs import UNIXFS_V1_2025, UNIXFS_V1_CLASSIC, Profile
from shared.errors import ContentUnavailable, PublishFailed
from shared.interfaces import PublishState, Receipt
from tests.content_support import content_of
from tests.publisher_support import FakeEigenDa, Lie, Shelf, derivation_error, huge, saying, silent


@asynccontextmanager
async def publisher_of(fake: FakeEigenDa, shelf: Shelf) -> AsyncIterator[EigenDaPublisher]:
    async with fake.open() as url, open_session(None) as session:
        yield EigenDaPublisher(EigenDaProxy(session, url), shelf)


@pytest.mark.parametrize(
    ("size", "profile"), [(0, UNIXFS_V1_2025), (3 << 20, UNIXFS_V1_2025), (3 << 20, UNIXFS_V1_CLASSIC)]
)
async def test_what_came_back_is_pinned(size: int, profile: Profile) -> None:
    fake, shelf = FakeEigenDa(), Shelf()
    ref = shelf.add(content_of(size), profile)
    async with publisher_of(fake, shelf) as publisher:
        put = await publisher.publish(ref)
        back = await publisher.status(put)
    (certificate,) = fake.blobs
    assert put == Receipt("eigenda", ref.cid, certificate[2:], PublishState.PINNING)
    assert back == replace(put, state=PublishState.PINNED)
    assert fake.blobs[certificate] == content_of(size)


async def test_a_file_over_the_limit_is_not_put() -> None:
    fake, shelf = FakeEigenDa(), Shelf()
    ref = msgspec.structs.replace(shelf.add(b"proof"), size=MAX_BLOB_BYTES + 1)
    async with publisher_of(fake, shelf) as publisher:
        with pytest.raises(PublishFailed, match="over the limit of 16777216") as caught:
            await publisher.publish(ref)
    assert caught.value.is_final
    assert fake.asked == []


async def test_a_file_that_is_not_here_is_not_put() -> None:
    fake, shelf = FakeEigenDa(), Shelf()
    ref = shelf.add(b"proof")
    shelf.files.clear()
    async with publisher_of(fake, shelf) as publisher:
        with pytest.raises(ContentUnavailable):
            await publisher.publish(ref)
    assert fake.asked == []


async def test_other_bytes_that_come_back_are_final() -> None:
    fake, shelf = FakeEigenDa(), Shelf()
    ref = shelf.add(b"proof")
    async with publisher_of(fake, shelf) as publisher:
        put = await publisher.publish(ref)
        fake.blobs = dict.fromkeys(fake.blobs, b"other")
        with pytest.raises(PublishFailed, match=f"gives other bytes back than {ref.cid}") as caught:
            await publisher.status(put)
    assert caught.value.is_final


def derived(code: int) -> Lie:
    async def answer(_: object) -> object:
        return derivation_error(code)

    return answer  # type: ignore[return-value]


PUT_LIES: dict[str, tuple[Lie, bool, str]] = {
    "400": (saying(400, "bad"), True, r"does not take it \(400\)"),
    "413": (saying(413), True, "answered 413"),
    "418": (derived(3), True, "provably no blob"),
    "429": (saying(429), False, r"too many requests \(429\)"),
    "500": (saying(500), False, r"failed \(500\)"),
    "503": (saying(503), False, r"EigenDA is out \(503\)"),
    "redirect": (saying(307, Location="http://127.0.0.1:1/"), True, "answered 307"),
    "200 with HTML": (
        saying(200, "<html>", content_type="text/html"),
        True,
        "answered 200 with what is no certificate of version",
    ),
    "empty": (saying(200), True, "answered 200 with what is no certificate of version"),
    "version byte alone": (saying(200, "\x01"), True, "answered 200 with what is no certificate of version"),
    "another version": (saying(200, "\x03" * 700), True, "answered 200 with what is no certificate of version"),
    "too long": (
        saying(200, "\x02" * (MAX_EIGENDA_CERTIFICATE_BYTES + 1)),
        True,
        "answered 200 with what is no certificate of version",
    ),
    "huge": (huge(), True, "an answer of more than"),
}


@pytest.mark.parametrize("name", PUT_LIES)
async def test_what_the_proxy_says_instead_of_a_certificate(name: str) -> None:
    fake, shelf = FakeEigenDa(), Shelf()
    lie, is_final, said = PUT_LIES[name]
    async with publisher_of(fake, shelf) as publisher:
        fake.lie = lie
        with pytest.raises(PublishFailed, match=f"^eigenda: {said}") as caught:
            await publisher.publish(shelf.add(b"proof"))
    assert caught.value.is_final is is_final


async def test_the_longest_certificate_is_taken() -> None:
    fake, shelf = FakeEigenDa(), Shelf()
    async with publisher_of(fake, shelf) as publisher:
        fake.lie = saying(200, "\x02" * MAX_EIGENDA_CERTIFICATE_BYTES)
        assert len((await publisher.publish(shelf.add(b"proof"))).id) == 2 * MAX_EIGENDA_CERTIFICATE_BYTES


async def test_silence_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eigenda_module, "PUT_SECONDS", 0.05)
    fake, shelf = FakeEigenDa(), Shelf()
    async with publisher_of(fake, shelf) as publisher:
        fake.lie = silent(fake)
        with pytest.raises(PublishFailed, match=r"no whole answer within 0\.05 s") as caught:
            await publisher.publish(shelf.add(b"proof"))
    assert not caught.value.is_final
