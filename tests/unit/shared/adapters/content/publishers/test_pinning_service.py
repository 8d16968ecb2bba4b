"""The Pinning Service API: asked what it has before it is asked for more, and believed only about our CID."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.adapters.content.publishers import service as service_module
from shared.adapters.content.publishers.pinning_service import (
    MAX_ORIGINS,
    PinningServicePublisher,
    _is_request_id,
)
from shared.adapters.content.publishers.service import Service
from shared.adapters.content.session import open_session
from shared.content.unixfs import cid_of
from shared.errors import ContentUnavailable, PublishFailed, SourceFailed
from shared.interfaces import PublishState, Receipt
from shared.types import Ref
from tests.publisher_support import TOKEN, FakePinningService, Lie, huge, saying, silent

REF = Ref(cid_of(b"proof"), 5, "unixfs-v1-2025")
OTHER = cid_of(b"another")
ORIGIN = "/dns4/node.example/tcp/4001/p2p/12D3KooWOwn"


@asynccontextmanager
async def publisher_of(fake: FakePinningService, token: str = TOKEN, **options: Any) -> AsyncIterator[Any]:
    async with fake.open() as url, open_session(None) as session:
        yield PinningServicePublisher(Service(session, "pinning-service", f"{url}/psa", token), **options)


def receipt(state: PublishState, requestid: str = "request/0") -> Receipt:
    return Receipt("pinning-service", REF.cid, requestid, state)


def status_of(cid: str = REF.cid, requestid: str = "r", status: str = "queued", **more: Any) -> dict[str, Any]:
    return {"requestid": requestid, "status": status, "pin": {"cid": cid}, "delegates": [], **more}


async def test_a_pin_goes_its_course() -> None:
    fake = FakePinningService()
    async with publisher_of(fake, origins=[ORIGIN]) as publisher:
        first = await publisher.publish(REF)
        states = [first, second := await publisher.status(first), await publisher.status(second)]
    assert states == [receipt(PublishState.QUEUED), receipt(PublishState.PINNING), receipt(PublishState.PINNED)]
    assert fake.asked == ["GET /psa/pins", "POST /psa/pins", *["GET /psa/pins/request/0"] * 2]
    assert fake.requests["request/0"]["pin"] == {"cid": REF.cid, "name": f"proof {REF.cid}", "origins": [ORIGIN]}


@pytest.mark.parametrize("course", [["queued"], ["pinning"], ["pinned"]])
async def test_what_the_service_has_is_not_asked_for_again(course: list[str]) -> None:
    fake = FakePinningService(course)
    async with publisher_of(fake) as publisher:
        assert await publisher.publish(REF) == await publisher.publish(REF) == receipt(PublishState(course[0]))
    assert len(fake.requests) == 1


async def test_what_failed_is_asked_for_anew() -> None:
    fake = FakePinningService(["failed"])
    async with publisher_of(fake) as publisher:
        await publisher.publish(REF)
        assert await publisher.publish(REF) == receipt(PublishState.FAILED, "request/1")


async def test_the_file_is_in_the_own_node_before_the_service_looks_for_it() -> None:
    fake, order = FakePinningService(), []

    async def provide(ref: Ref) -> None:
        assert not fake.requests
        order.append(ref.cid)

    async with publisher_of(fake, provide=provide) as publisher:
        await publisher.publish(REF)
    assert order == [REF.cid]


async def test_a_file_that_cannot_be_provided_is_not_asked_for() -> None:
    fake = FakePinningService()

    async def provide(ref: Ref) -> None:
        raise ContentUnavailable(ref.cid)

    async with publisher_of(fake, provide=provide) as publisher:
        with pytest.raises(ContentUnavailable):
            await publisher.publish(REF)
    assert fake.requests == {}


async def test_the_own_node_goes_to_the_delegates_that_are_multiaddrs() -> None:
    fake, met = FakePinningService(), []
    good = [f"/ip4/192.0.2.1/tcp/{port}/p2p/12D3KooW" for port in range(1, 40)]
    fake.delegates = ("http://169.254.169.254/", "/ip4/192.0.2.1/tcp/4001", f"/p2p/{'x' * 300}", *good)  # type: ignore[assignment]

    async def connect(multiaddr: str) -> None:
        met.append(multiaddr)

    async with publisher_of(fake, connect=connect) as publisher:
        await publisher.publish(REF)
    assert met == good[:MAX_ORIGINS]


async def test_a_delegate_that_cannot_be_reached_is_no_failure() -> None:
    async def connect(_: str) -> None:
        raise SourceFailed("cannot dial")

    async with publisher_of(FakePinningService(), connect=connect) as publisher:
        assert await publisher.publish(REF) == receipt(PublishState.QUEUED)


async def test_a_delegate_that_does_not_answer_costs_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.adapters.content.publishers.pinning_service.CONNECT_SECONDS", 0.05)

    async def connect(_: str) -> None:
        await asyncio.get_running_loop().create_future()

    async with publisher_of(FakePinningService(), connect=connect) as publisher:
        assert await publisher.publish(REF) == receipt(PublishState.QUEUED)


async def test_origins_are_multiaddrs_of_a_node_and_few() -> None:
    fake = FakePinningService()
    origins = ["https://gateway.example", "/dns4/node.example/tcp/4001", *[f"{ORIGIN}{n}" for n in range(30)]]
    async with publisher_of(fake, origins=origins) as publisher:
        await publisher.publish(REF)
    assert fake.requests["request/0"]["pin"]["origins"] == [f"{ORIGIN}{n}" for n in range(MAX_ORIGINS)]


# --- refusals and lies ---------------------------------------------------------------------------
async def test_a_token_that_is_not_taken_is_final_and_not_shown() -> None:
    async with publisher_of(FakePinningService(), token="wrong") as publisher:
        with pytest.raises(PublishFailed, match=r"answered 401: the token is not taken; look at its file") as caught:
            await publisher.publish(REF)
    assert caught.value.is_final
    assert "wrong" not in str(caught.value)


async def test_no_funds_are_final() -> None:
    fake = FakePinningService()
    fake.has_funds = False
    async with publisher_of(fake) as publisher:
        with pytest.raises(PublishFailed, match=r"answered 409: out of funds.*INSUFFICIENT_FUNDS") as caught:
            await publisher.publish(REF)
    assert caught.value.is_final


async def test_a_request_that_the_service_lost_is_final() -> None:
    fake = FakePinningService(["pinned"])
    async with publisher_of(fake) as publisher:
        pinned = await publisher.publish(REF)
        fake.requests.clear()
        with pytest.raises(PublishFailed, match=r"knows nothing of request request/0 \(404\)") as caught:
            await publisher.status(pinned)
    assert caught.value.is_final


LIES: dict[str, tuple[Lie, bool, str]] = {
    "400": (saying(400, "no"), True, "answered 400: 'no'"),
    "403": (saying(403), True, "the token is not taken"),
    "404 of the whole API": (saying(404), True, "answered 404"),
    "429": (saying(429), False, "answered 429"),
    "500": (saying(500, {"error": {"reason": "INTERNAL"}}), False, "answered 500: .*INTERNAL"),
    "503": (saying(503), False, "answered 503"),
    "redirect": (saying(302, Location="http://127.0.0.1:1/"), True, "a redirect, which is not followed"),
    "200 with HTML": (saying(200, "<html>Sorry</html>", content_type="text/html"), False, "something else.*<html>"),
    "nested without end": (saying(200, '{"x":' * 20_000), False, "something else"),
    "no text": (saying(200, b'{"results": "\xff"}'), False, "something else"),
    "another form": (saying(200, {"results": [{"requestid": 7}]}), False, "something else"),
    "unknown state": (saying(200, {"results": [status_of(status="stored")]}), False, "something else"),
    "the token back": (saying(418, f"you sent Bearer {TOKEN}"), True, "answered 418: 'you sent Bearer …'"),
    "long": (saying(400, "x" * 10_000), True, f"'{'x' * 160}'$"),
    "huge": (huge(), False, "an answer of more than"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
async def test_what_the_service_says_instead(name: str) -> None:
    fake = FakePinningService()
    lie, is_final, said = LIES[name]
    async with publisher_of(fake) as publisher:
        fake.lie = lie
        with pytest.raises(PublishFailed, match=f"^pinning-service.*{said}") as caught:
            await publisher.publish(REF)
    assert caught.value.is_final is is_final
    assert TOKEN not in str(caught.value)


async def test_silence_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "CALL_SECONDS", 0.05)
    fake = FakePinningService()
    async with publisher_of(fake) as publisher:
        fake.lie = silent(fake)
        with pytest.raises(PublishFailed, match=r"no whole answer within 0\.05 s") as caught:
            await publisher.publish(REF)
    assert not caught.value.is_final


async def test_nobody_there_may_be_there_later() -> None:
    fake = FakePinningService()
    async with publisher_of(fake) as publisher:
        publisher._service._url = "http://127.0.0.1:1"
        with pytest.raises(PublishFailed, match="ClientConnectorError") as caught:
            await publisher.publish(REF)
    assert not caught.value.is_final


async def test_another_cid_in_the_list_is_nobodys_pin() -> None:
    fake = FakePinningService()
    async with publisher_of(fake) as publisher:
        fake.lie = saying(200, {"results": [status_of(OTHER, status="pinned")]})
        with pytest.raises(PublishFailed, match="answered 200"):  # to the POST that follows: 202 is what it should say
            await publisher.publish(REF)
    assert fake.asked == ["GET /psa/pins", "POST /psa/pins"]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (status_of(OTHER, status="pinned"), f"it pins '{OTHER}' instead of {REF.cid}"),
        (status_of("x" * 5000), f"it pins '{'x' * 256}' instead"),
        (status_of(requestid=""), "no usable requestid"),
        (status_of(requestid=".."), "no usable requestid"),
        (status_of(requestid="r" * 256), "no usable requestid"),
        (status_of(requestid="r\n"), "no usable requestid"),
    ],
)
async def test_a_lie_about_what_is_pinned_is_final(said: dict[str, Any], why: str) -> None:
    fake = FakePinningService()
    async with publisher_of(fake) as publisher:
        fake.lie = saying(200, said)
        with pytest.raises(PublishFailed, match=why) as caught:
            await publisher.status(receipt(PublishState.QUEUED))
    assert caught.value.is_final


@given(st.text(max_size=300))
def test_a_request_id_is_one_segment_of_a_path(text: str) -> None:
    if _is_request_id(text):
        assert len(text) <= 255
        assert text.isascii()
        assert text not in ("", ".", "..")
