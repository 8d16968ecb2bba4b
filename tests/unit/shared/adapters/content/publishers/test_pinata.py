"""Uploading to a service that cuts files its own way: the CID it returns is compared, and what differs is explained."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from shared.adapters.content.publishers import service as service_module
from shared.adapters.content.publishers.pinata import PinataPublisher
from shared.adapters.content.publishers.service import Service
from shared.adapters.content.session import open_session
from shared.content.unixfs import UNIXFS_V1_2025, UNIXFS_V1_CLASSIC, Profile, cid_of
from shared.errors import ContentUnavailable, PublishFailed
from shared.interfaces import PublishState, Receipt
from tests.content_support import content_of
from tests.publisher_support import TOKEN, FakePinata, Lie, Shelf, huge, saying, silent

KIB = 1024


@asynccontextmanager
async def publisher_of(fake: FakePinata, shelf: Shelf, token: str = TOKEN) -> AsyncIterator[PinataPublisher]:
    async with fake.open() as url, open_session(None) as session:
        yield PinataPublisher(Service(session, "pinata", url, token), shelf)


@pytest.mark.parametrize("size", [0, 1, 255 * KIB, 256 * KIB])
async def test_a_file_of_one_small_block_has_one_cid_everywhere(size: int) -> None:
    fake, shelf = FakePinata(), Shelf()
    ref = shelf.add(content_of(size))
    async with publisher_of(fake, shelf) as publisher:
        published = await publisher.publish(ref)
        assert published == Receipt("pinata", ref.cid, ref.cid, PublishState.PINNED)
        assert await publisher.status(published) == published
    assert fake.files == {ref.cid: content_of(size)}
    assert fake.names == [f"proof {ref.cid}"]


@pytest.mark.parametrize("profile", [UNIXFS_V1_CLASSIC, UNIXFS_V1_2025])
async def test_a_large_file_fits_a_service_of_its_profile(profile: Profile) -> None:
    fake, shelf = FakePinata(profile), Shelf()
    ref = shelf.add(content_of(1025 * KIB), profile)
    async with publisher_of(fake, shelf) as publisher:
        assert (await publisher.publish(ref)).state is PublishState.PINNED


async def test_a_service_that_cuts_smaller_is_found_out_once() -> None:
    fake, shelf = FakePinata(), Shelf()
    small, large, larger = (shelf.add(content_of(size)) for size in (10, 257 * KIB, 258 * KIB))
    async with publisher_of(fake, shelf) as publisher:
        for ref in (large, larger):
            with pytest.raises(PublishFailed, match=r"cuts files into 262144 bytes.*filebase, kubo or") as caught:
                await publisher.publish(ref)
            assert caught.value.is_final
            assert ref.cid in str(caught.value)
        assert (await publisher.publish(small)).state is PublishState.PINNED
    assert list(fake.files) == [cid_of(content_of(257 * KIB), UNIXFS_V1_CLASSIC), small.cid]


async def test_the_same_again_is_no_second_copy() -> None:
    fake, shelf = FakePinata(), Shelf()
    ref = shelf.add(b"proof")
    async with publisher_of(fake, shelf) as publisher:
        assert await publisher.publish(ref) == await publisher.publish(ref)
    assert len(fake.files) == 1


async def test_what_was_lost_is_said() -> None:
    fake, shelf = FakePinata(), Shelf()
    ref = shelf.add(b"proof")
    async with publisher_of(fake, shelf) as publisher:
        published = await publisher.publish(ref)
        fake.files.clear()
        assert (await publisher.status(published)).state is PublishState.FAILED


async def test_a_file_that_breaks_off_here_is_our_own_trouble() -> None:
    """And no half of it is a file there."""
    fake, shelf = FakePinata(), Shelf()
    ref = shelf.add(b"proof")
    shelf.files.clear()
    async with publisher_of(fake, shelf) as publisher:
        with pytest.raises(ContentUnavailable, match="does not have it"):
            await publisher.publish(ref)
    assert fake.files == {}


OTHER = cid_of(b"another")
LIES: dict[str, tuple[Lie, bool, str]] = {
    "another CID": (saying(200, {"IpfsHash": OTHER}), True, f"returned the CID '{OTHER}' instead of"),
    "a long CID": (saying(200, {"IpfsHash": "x" * 9999}), True, f"returned the CID '{'x' * 128}' instead of"),
    "no CID": (saying(200, {"PinSize": 5}), False, "something else than its API's"),
    "401": (saying(401), True, "the token is not taken"),
    "402": (saying(402, "pay"), True, "out of funds, or over its limit: 'pay'"),
    "429": (saying(429), False, "answered 429"),
    "502 with HTML": (saying(502, "<html>", content_type="text/html"), False, "answered 502"),
    "200 with HTML": (saying(200, "<html>", content_type="text/html"), False, "something else"),
    "redirect": (saying(308, Location="http://127.0.0.1:1/"), True, "a redirect"),
    "huge": (huge(), False, "an answer of more than"),
}


@pytest.mark.parametrize("name", LIES)
async def test_what_the_service_says_instead(name: str) -> None:
    fake, shelf = FakePinata(), Shelf()
    ref = shelf.add(b"proof")
    lie, is_final, said = LIES[name]
    async with publisher_of(fake, shelf) as publisher:
        fake.lie = lie
        with pytest.raises(PublishFailed, match=f"^pinata.*{said}") as caught:
            await publisher.publish(ref)
    assert caught.value.is_final is is_final
    assert TOKEN not in str(caught.value)


async def test_silence_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "CALL_SECONDS", 0.05)
    fake, shelf = FakePinata(), Shelf()
    async with publisher_of(fake, shelf) as publisher:
        fake.lie = silent(fake)
        with pytest.raises(PublishFailed, match="no whole answer within"):
            await publisher.publish(shelf.add(b"proof"))
