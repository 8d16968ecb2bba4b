"""When the performer and everybody else are down: a proof by its EigenDA certificate, and what each answer decides."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import msgspec
import pytest
from aiohttp import web

from attester.judge import Judge
from shared.adapters.content import eigenda as eigenda_module
from shared.adapters.content.eigenda import open_source
from shared.adapters.content.session import open_session
from shared.adapters.content.store import NodeContentStore
from shared.messages import TaskMessage
from shared.reasons import AbstainReason, ContentOutcome, InvalidReason
from shared.types import Verdict
from tests.chain_support import PERFORMER
from tests.publisher_support import FakeEigenDa, Lie, derivation_error, huge, saying, silent
from tests.roles import World
from tests.toy_model import DEFINITION

CERTIFICATE = b"\x02certificate"
UNAVAILABLE = (Verdict.ABSTAIN, AbstainReason.PROOF_UNAVAILABLE)
MALFORMED = (Verdict.INVALID, InvalidReason.PROOF_MALFORMED)


@dataclass
class Court:
    """An attester, and a task whose proof is at EigenDA alone."""

    fake: FakeEigenDa
    judge: Judge
    message: TaskMessage
    proof: bytes
    world: World

    async def decides(self, message: TaskMessage | None = None) -> tuple[Verdict, object]:
        judgement = await self.judge.judge(message or self.message)
        return judgement.verdict, judgement.reason

    def put_back(self) -> None:
        """The performer serves its proof again."""
        self.world.content.release(PERFORMER.address, self.message.task_info.proof_of_task)


@asynccontextmanager
async def court() -> AsyncIterator[Court]:
    fake = FakeEigenDa()
    async with (
        World() as world,
        fake.open() as url,
        open_session(None) as session,
        open_source(session, url) as source,
    ):
        honest = await world.performed()
        cid = honest.task_info.proof_of_task
        proof = world.content.blocks[PERFORMER.address][cid].data
        fake.blobs[f"0x{CERTIFICATE.hex()}"] = proof
        world.content.withhold(PERFORMER.address, cid)
        own = world.content.join(world.people[0].address)
        judge = world.judge()
        judge._content = NodeContentStore(own.local, lambda prefer, ref: [*own._sources(prefer, ref), source])
        content = msgspec.structs.replace(honest.content, eigenda=CERTIFICATE)
        yield Court(fake, judge, msgspec.structs.replace(honest, content=content), proof, world)


async def test_the_certificate_leads_to_the_proof() -> None:
    async with court() as at:
        assert await at.decides() == (Verdict.VALID, None)
        assert at.fake.asked == [f"GET /get/0x{CERTIFICATE.hex()}"]
        cid = at.message.task_info.proof_of_task
        own = at.world.content.blocks[at.world.people[0].address]
        assert own[cid].data == at.proof  # and the attester serves it on


async def test_without_a_certificate_nobody_has_it() -> None:
    async with court() as at:
        content = msgspec.structs.replace(at.message.content, eigenda=b"")
        assert await at.decides(msgspec.structs.replace(at.message, content=content)) == UNAVAILABLE
        assert at.fake.asked == []


async def test_a_certificate_that_leads_nowhere_is_no_matter_while_somebody_serves_the_proof() -> None:
    async with court() as at:
        at.fake.blobs.clear()
        at.put_back()
        assert await at.decides() == (Verdict.VALID, None)


async def test_who_was_not_sure_asks_again() -> None:
    async with court() as at:
        at.fake.lie = saying(503)
        assert await at.decides() == UNAVAILABLE
        at.fake.lie = None
        assert await at.decides() == (Verdict.VALID, None)


@pytest.mark.parametrize("code", [1, 3, 4])
async def test_where_outliers_are_slashed_a_certificate_that_leads_nowhere_decides_nothing(code: int) -> None:
    """The performer could serve all the others, whose verdict it is then a crime to have voted against."""
    async with court() as at:
        terms = msgspec.structs.replace(DEFINITION.terms, slashes_outliers=True)
        definitions = {DEFINITION.id: msgspec.structs.replace(DEFINITION, terms=terms)}
        at.world.roster = replace(at.world.roster, definitions=definitions)
        at.fake.lie = derived(code)
        judgement = await at.judge.judge(at.message)
        assert (judgement.verdict, judgement.reason) == UNAVAILABLE
        assert judgement.content is ContentOutcome.UNAVAILABLE
        assert f"derivation error {code} (418)" in judgement.said
        at.put_back()
        assert await at.decides() == (Verdict.VALID, None)


def derived(code: int) -> Lie:
    async def answer(_: web.Request) -> web.StreamResponse:
        return derivation_error(code)

    return answer


ANSWERS: dict[str, tuple[Lie, tuple[Verdict, object]]] = {
    "418, certificate of no form": (derived(1), MALFORMED),
    "418, certificate not valid": (derived(3), MALFORMED),
    "418, blob of no form": (derived(4), MALFORMED),
    "418, certificate not recent": (derived(2), UNAVAILABLE),
    "418 of a teapot": (saying(418, "short and stout"), UNAVAILABLE),
    "400": (saying(400), UNAVAILABLE),
    "404": (saying(404), UNAVAILABLE),
    "429": (saying(429), UNAVAILABLE),
    "500": (saying(500), UNAVAILABLE),
    "503": (saying(503), UNAVAILABLE),
    "redirect": (saying(302, Location="http://127.0.0.1:1/"), UNAVAILABLE),
    "other bytes": (saying(200, "other bytes"), UNAVAILABLE),
    "nothing": (saying(200), UNAVAILABLE),
    "HTML": (saying(200, "<html>", content_type="text/html"), UNAVAILABLE),
    "huge": (huge(), UNAVAILABLE),
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_only_what_is_provable_speaks_against_the_performer(name: str) -> None:
    lie, expected = ANSWERS[name]
    async with court() as at:
        at.fake.lie = lie
        assert await at.decides() == expected


async def test_a_proxy_that_is_silent_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eigenda_module, "GET_SECONDS", 0.05)
    async with court() as at:
        at.fake.lie = silent(at.fake)
        assert await at.decides() == UNAVAILABLE


@pytest.mark.parametrize("change", [{"size": 1}, {"profile": "unixfs-v9"}, {"size": 1 << 40}])
async def test_a_ref_that_does_not_fit_decides_nothing(change: dict[str, object]) -> None:
    async with court() as at:
        content = msgspec.structs.replace(at.message.content, **change)
        assert await at.decides(msgspec.structs.replace(at.message, content=content)) == UNAVAILABLE
