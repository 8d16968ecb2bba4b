"""Equivocations before the court: reported once, for good, or not at all."""

from __future__ import annotations

from asyncio import sleep
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec
import pytest
from structlog.testing import capture_logs

from aggregator.evidence import EVIDENCE, Accuser
from aggregator.finality import LOOKS_SECONDS
from shared.adapters.memory.chain import MemoryChain
from shared.adapters.memory.chain_court import Slash, slash_id_of
from shared.adapters.memory.store import MemoryFile, MemoryStore
from shared.crypto import bls
from shared.errors import ChainUnavailable, CodecError, Dropped, StoreError
from shared.interfaces import SignedVote
from shared.types import Fees, Offence, TaskInfo, TaskTerms, Uint256, Verdict
from tests.cast import REQUESTER
from tests.chain_support import ETHER
from tests.faulty_chain import FaultyChain
from tests.hall import hall
from tests.listening import running, until, virtual
from tests.roles import World
from tests.toy_model import DEFINITION

FINAL = sum(LOOKS_SECONDS)


@dataclass
class Bench:
    """An accuser, and a chain with the court."""

    world: World
    chain: MemoryChain
    faulty: FaultyChain
    accuser: Accuser
    file: MemoryFile

    def vote(self, seat: int, info: TaskInfo, verdict: Verdict = Verdict.VALID) -> SignedVote:
        return SignedVote(info, verdict, seat, self.world.vote(seat, info, verdict).signature)

    async def accuse(self, seat: int = 0, name: str = "a") -> None:
        """Of both verdicts."""
        info = self.world.info(name)
        votes = self.vote(seat, info), self.vote(seat, info, Verdict.INVALID)
        await self.accuser.accuse(self.world.people[seat].address, *votes)

    @property
    def slashes(self) -> list[Slash]:
        return list(self.chain._state().court.slashes.values())


@asynccontextmanager
async def bench(
    world: World | None = None, chain: MemoryChain | None = None, file: MemoryFile | None = None
) -> AsyncIterator[Bench]:
    """Ends as with kill -9."""
    world = World() if world is None else world
    chain = await world.chain() if chain is None else chain
    file = MemoryFile() if file is None else file
    faulty = FaultyChain(chain)
    async with MemoryStore(file) as store:
        accuser = Accuser(court=faulty, settlement=faulty, store=store)
        async with running(accuser.run()):
            yield Bench(world, chain, faulty, accuser, file)
        file.kill()


@virtual
async def test_an_equivocation_is_reported_once_and_forgotten_when_that_is_final() -> None:
    async with bench() as c:
        await c.accuse()
        await c.accuse()  # its votes were repeated
        await sleep(2)
        [slash] = c.slashes
        assert (slash.offence, slash.operator) == (Offence.EQUIVOCATION, c.world.people[0].address)
        assert slash.task_id == c.world.info("a").task_id
        assert {kind for kind, _ in c.file.entries} == {EVIDENCE}
        await sleep(FINAL + 10)
        assert (c.file.entries, len(c.slashes)) == ({}, 1)
        assert c.faulty.count("confirm") == 1
        asked = c.faulty.count("report_equivocation")
        await sleep(10 * FINAL)
        assert c.faulty.count("report_equivocation") == asked == 2 + len(LOOKS_SECONDS)


@virtual
async def test_votes_on_two_task_infos_convict_too() -> None:
    async with bench() as c:
        first, second = c.world.info("a"), c.world.info("a", data=bytes(32))
        await c.accuser.accuse(c.world.people[1].address, c.vote(1, first), c.vote(1, second))
        await sleep(2)
        assert [slash.operator for slash in c.slashes] == [c.world.people[1].address]


@virtual
async def test_two_equivocators_on_one_task_are_two_slashes() -> None:
    async with bench() as c:
        await c.accuse(0)
        await c.accuse(1)
        await sleep(2)
        assert {slash.operator for slash in c.slashes} == {c.world.people[i].address for i in (0, 1)}


@pytest.mark.parametrize("call", ["report_equivocation", "confirm"])
@pytest.mark.parametrize("trouble", [ChainUnavailable("away"), Dropped("gone")])
@virtual
async def test_an_outage_delays_it(call: str, trouble: Exception) -> None:
    async with bench() as c:
        c.faulty.fail(call, trouble, trouble)
        await c.accuse()
        await sleep(20)
        assert len(c.slashes) == 1


@virtual
async def test_kill_9_before_the_report_delays_it() -> None:
    world, file = World(), MemoryFile()
    async with bench(world, file=file) as c:
        c.chain.is_down = True
        await c.accuse()
        await sleep(10)
    c.chain.is_down = False
    assert c.slashes == []
    async with bench(world, c.chain, file) as again:
        await sleep(2)
        assert len(again.slashes) == 1


@virtual
async def test_a_report_that_a_reorg_took_back_is_made_again_also_after_kill_9() -> None:
    world, file = World(), MemoryFile()
    async with bench(world, file=file) as c:
        await c.accuse()
        await until(lambda: c.slashes, "it is queued")
        report = list(c.chain._ledger._known)[-1]
    c.chain.reorg(4, dropped=[report])
    await sleep(1)
    assert c.slashes == []
    async with bench(world, c.chain, file) as again:
        await until(lambda: again.slashes, "it is queued again", 2)
        report = list(c.chain._ledger._known)[-1]
        await sleep(2)
        c.chain.reorg(20, dropped=[report])
        await sleep(LOOKS_SECONDS[0] + 2)
        assert len(again.slashes) == 1
        await sleep(FINAL)
        assert file.entries == {}


@virtual
async def test_evidence_that_cannot_be_stored_is_not_taken() -> None:
    async with bench() as c:
        c.file.kill()
        with pytest.raises(StoreError):
            await c.accuse()
        await sleep(10)
        assert c.faulty.calls == []


@pytest.mark.parametrize("is_point", [True, False])
@virtual
async def test_evidence_that_the_court_refuses_is_told_and_dropped(is_point: bool) -> None:
    async with bench() as c:
        info = c.world.info("a")
        twice = c.vote(0, info)  # nothing contradicts itself
        other = twice if is_point else SignedVote(info, Verdict.INVALID, 0, b"\xff" * 96)
        with capture_logs() as logs:
            await c.accuser.accuse(c.world.people[0].address, twice, other)
            await sleep(100)
        assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["the court refuses the evidence"]
        assert (c.slashes, c.file.entries, c.faulty.count("report_equivocation")) == ([], {}, 1)


def test_a_signature_that_is_no_point_is_a_codec_error() -> None:
    """What the test above relies on."""
    with pytest.raises(CodecError):
        bls.aggregate([b"\xff" * 96])


# --- from the votes to the stake -------------------------------------------------------------------------
@virtual
async def test_who_signs_both_verdicts_loses_everything_and_the_requester_gets_its_fee() -> None:
    fee = 777
    async with hall() as h:
        chain = h.aggregator._settler._settlement.chain  # type: ignore[attr-defined]
        terms = TaskTerms(dispute_window=500, fees=Fees(performer=fee))
        await chain.create_task_definition(
            name="paid", method="exact", model_hash=DEFINITION.model_hash, card_cid=DEFINITION.card_cid, terms=terms
        )
        h.world.define(msgspec.structs.replace(DEFINITION, id=1, terms=terms))
        message = await h.task(request={"fee": Uint256(fee), "task_definition_id": 1})
        await h.votes(message, 0)
        await h.votes(message, 0, verdict=Verdict.INVALID)
        address = h.world.people[0].address
        await until(lambda: chain._state().court.slashes, "it is queued")
        [slash_id] = chain._state().court.slashes
        assert slash_id == slash_id_of(Offence.EQUIVOCATION, message.task_info.task_id, address)
        await sleep(DEFINITION.terms.dispute_window + 20)
        assert await chain.stake_of(address) == 0
        assert await chain.owed_to(REQUESTER.address) == fee
        assert await chain.vault_balance() == ETHER - fee


@virtual
async def test_who_is_honest_is_never_accused() -> None:
    async with hall() as h:
        message = await h.task()
        await h.votes(message, 0, 1, 2, 3)
        await sleep(2)
        await h.votes(message, 0, 1, 2, 3)
        await sleep(5)
        assert [kind for kind, _ in h.world.files["aggregator"].entries if kind == EVIDENCE] == []
