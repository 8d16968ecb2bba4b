"""The evidence door: what it answers and when, over a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from attester.api import EvidenceDoor
from attester.evidence import EvidenceLocker, Sealed
from poi import evidence as command
from poi.client import EvidenceRefused, reveal_evidence
from shared.adapters.content.gateway import ClientLimits
from shared.adapters.http import CORS
from shared.errors import CodecError, ConfigError
from shared.evidence import commit, decode_opening, encode_evidence, encode_opening
from shared.json_forms import to_hex
from shared.types import Digest
from tests.chain_support import sha
from tests.content_support import serving
from tests.evidence_support import INFO_HASH, OPERATOR, SALT, evidence

HONEST = encode_evidence(evidence())
COMMITMENT = commit(SALT, OPERATOR, INFO_HASH, HONEST)
OPENING = encode_opening(SALT, OPERATOR, INFO_HASH, HONEST)


@dataclass
class Revealing(EvidenceLocker):
    """Answers what a test wants."""

    answer: bytes | Sealed | None
    seconds: float = 0.0
    asked: int = 0

    async def reveal(self, info_hash: Digest) -> bytes | Sealed | None:
        self.asked += 1
        await asyncio.sleep(self.seconds)
        return self.answer if info_hash == INFO_HASH else None


@asynccontextmanager
async def door(answer: bytes | Sealed | None, **limits: int) -> AsyncIterator[str]:
    async with serving(EvidenceDoor(Revealing(answer), ClientLimits(**limits)).routes()) as url:
        yield url


async def ask(url: str, path: str) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/evidence/{path}") as response:
        assert response.headers["Access-Control-Allow-Origin"] == CORS["Access-Control-Allow-Origin"]
        return response.status, await response.json()


# --- the route -----------------------------------------------------------------------------------------
async def test_an_opening_is_answered_as_it_is() -> None:
    async with door(OPENING) as url:
        status, body = await ask(url, to_hex(INFO_HASH))
    assert (status, body["commitment"], body["salt"]) == (200, to_hex(COMMITMENT), to_hex(SALT))
    assert body["evidence"].encode() == HONEST


async def test_what_could_still_be_copied_is_too_early() -> None:
    async with door(Sealed(1_900_000_000)) as url:
        status, body = await ask(url, to_hex(INFO_HASH))
    expected = {"error": "sealed until its task is certified or its deadline is over", "until": 1_900_000_000}
    assert (status, body) == (425, expected)


async def test_what_is_not_here_is_not_found() -> None:
    async with door(OPENING) as url:
        status, body = await ask(url, to_hex(sha("another")))
    assert (status, list(body)) == (404, ["error"])


@pytest.mark.parametrize("path", ["0x", "0x12", INFO_HASH.hex(), to_hex(INFO_HASH) + "00", "0x" + "zz" * 32])
async def test_what_is_no_hash_is_refused(path: str) -> None:
    async with door(OPENING) as url:
        assert await ask(url, path) == (400, {"error": "task info hash: expected 32 bytes as 0x-hex"})


async def test_a_client_with_too_many_requests_open_is_refused() -> None:
    locker = Revealing(OPENING, seconds=0.5)
    routes = EvidenceDoor(locker, ClientLimits(1, 1, waiting_per_client=1)).routes()
    async with serving(routes) as url, aiohttp.ClientSession() as session:

        async def status() -> int:
            async with session.get(f"{url}/evidence/{to_hex(INFO_HASH)}") as response:
                return response.status

        statuses = await asyncio.gather(*(status() for _ in range(5)))
    assert sorted(statuses) == [200, 200, 429, 429, 429]
    assert locker.asked == 2


# --- `poi evidence` ------------------------------------------------------------------------------------
async def test_the_client_reads_what_the_door_says() -> None:
    async with door(OPENING) as url:
        assert await reveal_evidence(url + "/", INFO_HASH) == decode_opening(OPENING)


REFUSALS = {
    "sealed": (Sealed(1_900_000_000), "HTTP 425, sealed until .* \\(unix time 1900000000\\)"),
    "unknown": (None, "HTTP 404, no vote of this attester"),
    "no opening": (b'{"commitment":1}', "CodecError"),
    "not JSON": (b"<html>", "CodecError"),
}


@pytest.mark.parametrize("what", REFUSALS)
async def test_a_refusal_says_why(what: str) -> None:
    answer, said = REFUSALS[what]
    async with door(answer) as url:
        with pytest.raises(EvidenceRefused, match=said):
            await reveal_evidence(url, INFO_HASH)


async def test_an_address_where_nobody_listens_is_said() -> None:
    with pytest.raises(EvidenceRefused, match=r"127\.0\.0\.1:1"):
        await reveal_evidence("http://127.0.0.1:1", INFO_HASH)


@pytest.mark.parametrize("quoted", [None, COMMITMENT])
def test_an_opening_that_opens_is_shown(quoted: Digest | None) -> None:
    shown = command.opened(decode_opening(OPENING), INFO_HASH, quoted)
    assert (shown["commitment"], shown["salt"]) == (to_hex(COMMITMENT), to_hex(SALT))
    assert shown["evidence"]["verdict"] == "valid"
    assert shown["evidence"]["attester"] == to_hex(OPERATOR)


FALSE = {
    "another commitment than the vote's": (OPENING, INFO_HASH, Digest(sha("quoted"))),
    "another task info": (OPENING, Digest(sha("other")), None),
    "other numbers": (OPENING.replace(b'\\"score\\":0.125', b'\\"score\\":0.25'), INFO_HASH, None),
    "another salt": (OPENING.replace(SALT.hex().encode(), bytes(32).hex().encode()), INFO_HASH, None),
    "no evidence": (OPENING.replace(b'\\"verdict\\"', b'\\"vordict\\"'), INFO_HASH, None),
}


@pytest.mark.parametrize("what", FALSE)
def test_an_opening_that_opens_nothing_is_refused(what: str) -> None:
    data, info_hash, quoted = FALSE[what]
    assert (data, info_hash, quoted) != (OPENING, INFO_HASH, None)
    with pytest.raises(CodecError):
        command.opened(decode_opening(data), info_hash, quoted)


@pytest.mark.parametrize(("info_hash", "commitment"), [("0x12", None), (to_hex(INFO_HASH), "0x12")])
def test_what_is_no_hash_is_named(info_hash: str, commitment: str | None) -> None:
    with pytest.raises(ConfigError, match="32 bytes as 0x-hex"):
        command.show("http://127.0.0.1:1", info_hash, commitment)
