"""Reasons are read from evidence that opens its commitment, and from no other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from poi.testnet import reasons
from poi.testnet.reasons import reasons_of
from shared.evidence import encode_evidence, encode_opening
from tests.evidence_support import INFO_HASH, OPERATOR, SALT, evidence

Answer = Callable[[web.Request], Awaitable[web.Response]]
Attester = Callable[[Answer], Awaitable[str]]


@pytest.fixture
async def attester(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Attester]:
    """Starts one that answers so, and gives its URL."""
    monkeypatch.setattr(reasons, "REVEAL_SECONDS", 0.5)
    async with AsyncExitStack() as stack:

        async def start(answer: Answer) -> str:
            app = web.Application()
            app.add_routes([web.get(f"/evidence/0x{INFO_HASH.hex()}", answer)])
            server = await stack.enter_async_context(TestServer(app, host="127.0.0.1"))
            return f"http://127.0.0.1:{server.port}"

        yield start


def revealing(verdict: str, reason: str | None, salt: bytes = SALT) -> Answer:
    opening = encode_opening(salt, OPERATOR, INFO_HASH, encode_evidence(evidence(verdict=verdict, reason=reason)))

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=opening, content_type="application/json")

    return answer


async def test_the_reasons_of_all_that_voted_against_it(attester: Attester) -> None:
    urls = [
        await attester(revealing("invalid", "tokens_differ")),
        await attester(revealing("invalid", "logits_differ")),
        await attester(revealing("valid", None)),
        "http://127.0.0.1:1",
    ]
    assert await reasons_of(urls, INFO_HASH) == {"tokens_differ", "logits_differ"}


async def test_one_that_does_not_reveal_yet_is_asked_again(attester: Attester) -> None:
    asked = []

    async def later(request: web.Request) -> web.Response:
        asked.append(request)
        if len(asked) == 1:
            return web.json_response({"error": "too early"}, status=425)
        return await revealing("invalid", "scores_differ")(request)

    assert await reasons_of([await attester(later)], INFO_HASH) == {"scores_differ"}
    assert len(asked) == 2


async def test_evidence_that_does_not_open_its_commitment_says_nothing(attester: Attester) -> None:
    honest = encode_opening(SALT, OPERATOR, INFO_HASH, encode_evidence(evidence(verdict="invalid", reason="padded")))

    async def bent(_: web.Request) -> web.Response:
        return web.Response(body=honest.replace(b"padded", b"forged"), content_type="application/json")

    assert await reasons_of([await attester(bent)], INFO_HASH) == frozenset()
