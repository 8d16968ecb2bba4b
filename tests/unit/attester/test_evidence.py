"""Evidence lies on the disk before a vote is signed, says the same ever after, is bounded, and opens in time."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from attester.evidence import CLEAN_SECONDS, EVIDENCE, EvidenceLocker, Sealed, _decoder, evidence_of
from shared.adapters.memory.store import MemoryFile, MemoryStore, MemoryVoteGuard
from shared.constants import EVIDENCE_SECONDS
from shared.errors import StoreFull
from shared.evidence import (
    NO_EVIDENCE,
    Evidence,
    check_commitment,
    decode_evidence,
    decode_opening,
    encode_evidence,
    salt_of,
)
from shared.messages import AbstainMessage, CertificateMessage, TaskMessage, VoteMessage
from shared.reasons import AbstainReason, InvalidReason
from shared.types import Digest, Fingerprint, TaskTerms, Verdict
from shared.verification.method import Judgement, invalid, valid
from tests.chain_support import AGGREGATOR, PERFORMER, sha
from tests.judging import LABEL_2, SpySigner, repeat, saying
from tests.listening import running, until, virtual
from tests.roles import World
from tests.toy_model import CARD_CID, DEFINITION, OUTPUT

JUDGEMENT = Judgement(
    verdict=Verdict.VALID,
    reason=None,
    score=0.125,
    statistics={"distance of scores": 0.125},
    recomputed=OUTPUT,
    engine=Fingerprint("memory", "1", "FunctionProvider", "python"),
)


class Locker:
    """A locker of the first attester's, on a disk that survives it."""

    def __init__(self, world: World, **limits: int) -> None:
        self.world, self.limits = world, limits
        self.file, self.guards = MemoryFile(), MemoryFile()
        self.person = world.people[0]

    async def __aenter__(self) -> EvidenceLocker:
        self.store = await MemoryStore(self.file).__aenter__()
        self.guard = await MemoryVoteGuard(self.guards).__aenter__()
        locker = EvidenceLocker(
            store=self.store,
            guard=self.guard,
            secret=self.person.evidence_secret,
            address=self.person.address,
            clock=self.world.clock,
            **self.limits,
        )
        await locker.load()
        return locker

    async def __aexit__(self, *_: object) -> None:
        self.file.kill()
        self.guards.kill()

    def evidence(self, message: TaskMessage, judgement: Judgement = JUDGEMENT) -> tuple[Evidence, Digest]:
        info_hash = self.world.domain.task_info_hash(message.task_info)
        return evidence_of(message, info_hash, self.person.address, DEFINITION, judgement), info_hash

    def kept(self) -> list[Digest]:
        return [Digest(key) for kind, key in self.file.entries if kind == EVIDENCE]


# --- what it says ------------------------------------------------------------------------------------
@virtual
async def test_evidence_says_what_was_computed_and_what_was_made_of_it() -> None:
    async with World() as world:
        message = await world.performed()
        evidence, info_hash = Locker(world).evidence(message)
        assert evidence == Evidence(
            task_info_hash=f"0x{info_hash.hex()}",
            task_id=f"0x{message.task_info.task_id.hex()}",
            attester=f"0x{world.people[0].address.hex()}",
            card_cid=CARD_CID,
            method="tensor",
            verdict="valid",
            reason=None,
            score=0.125,
            statistics={"distance of scores": 0.125},
            is_refereed=False,
            engine=JUDGEMENT.engine,
            recomputed=OUTPUT,
        )


@pytest.mark.parametrize("beyond", [float("inf"), float("nan")])
@virtual
async def test_what_is_no_number_is_none(beyond: float) -> None:
    lie = Judgement(Verdict.INVALID, InvalidReason.SCORES_DIFFER, beyond, {"distance of scores": beyond})
    async with World() as world:
        evidence, _ = Locker(world).evidence(await world.performed(), lie)
        assert (evidence.verdict, evidence.reason) == ("invalid", "scores_differ")
        assert (evidence.score, evidence.statistics, evidence.recomputed) == (None, {"distance of scores": None}, None)


@virtual
async def test_of_a_thousand_statistics_the_largest_are_kept() -> None:
    said = {f"{'residual ' * 20}of layer {i}": float(i) for i in range(1000)} | {"first that differs": math.nan}
    async with World() as world:
        evidence, _ = Locker(world).evidence(await world.performed(), Judgement(Verdict.VALID, None, 1.0, said))
        assert list(evidence.statistics) == list(reversed(list(said)))[:64]
        assert evidence.statistics["first that differs"] is None
        assert decode_evidence(encode_evidence(evidence)) == evidence


# --- keeping -----------------------------------------------------------------------------------------
@virtual
async def test_the_commitment_is_the_same_in_every_life() -> None:
    async with World() as world:
        box = Locker(world)
        message = await world.performed()
        evidence, info_hash = box.evidence(message)
        async with box as locker:
            assert await locker.commitment_of(info_hash) == NO_EVIDENCE
            await locker.keep(evidence, message, info_hash)
            first = await locker.commitment_of(info_hash)
        async with box as locker:
            assert await locker.commitment_of(info_hash) == first != NO_EVIDENCE
            assert locker.view() == {"kept": 1, "bytes": len(box.file.entries[EVIDENCE, info_hash])}


@virtual
async def test_another_judgement_of_a_vote_that_was_not_signed_takes_the_place() -> None:
    async with World() as world:
        box = Locker(world)
        message = await world.performed()
        async with box as locker:
            for judgement in (JUDGEMENT, invalid(InvalidReason.SCORES_DIFFER, 20.0)):
                evidence, info_hash = box.evidence(message, judgement)
                await locker.keep(evidence, message, info_hash)
            assert box.kept() == [info_hash]
            assert locker.view() == {"kept": 1, "bytes": len(box.file.entries[EVIDENCE, info_hash])}


async def _fill(world: World, box: Locker, locker: EvidenceLocker, count: int) -> list[Digest]:
    """One a second."""
    hashes = []
    for nonce in range(count):
        message = await world.performed(request={"nonce": nonce, "deadline": int(world.clock.now()) + 60})
        evidence, info_hash = box.evidence(message)
        await locker.keep(evidence, message, info_hash)
        hashes.append(info_hash)
        await asyncio.sleep(1)
    return hashes


@virtual
async def test_of_too_many_the_oldest_go_first_also_those_of_former_lives() -> None:
    async with World() as world:
        box = Locker(world, max_count=5)
        async with box as locker:
            hashes = await _fill(world, box, locker, 8)
        async with box as locker, running(locker.run()):
            await until(lambda: len(box.kept()) == 5, "cleaned")
            assert set(box.kept()) == set(hashes[3:])
            assert locker.view()["kept"] == 5
            assert await locker.commitment_of(hashes[2]) == NO_EVIDENCE


@virtual
async def test_of_too_much_the_oldest_go_first() -> None:
    async with World() as world:
        box = Locker(world)
        async with box as locker:
            hashes = await _fill(world, box, locker, 4)
            sizes = [len(box.file.entries[EVIDENCE, info_hash]) for info_hash in hashes]
        box.limits = {"max_bytes": sizes[2] + sizes[3]}
        async with box as locker:
            await locker.clean()
            assert box.kept() == hashes[2:]
            assert locker.view() == {"kept": 2, "bytes": sizes[2] + sizes[3]}
        box.limits = {"max_bytes": sizes[3] - 1}
        async with box as locker:
            await locker.clean()
            assert (box.kept(), locker.view()) == ([], {"kept": 0, "bytes": 0})


@virtual
async def test_it_is_kept_for_thirty_days() -> None:
    async with World() as world:
        box = Locker(world)
        async with box as locker, running(locker.run()):
            hashes = await _fill(world, box, locker, 2)
            await asyncio.sleep(EVIDENCE_SECONDS - 10)
            assert box.kept() == hashes
            await asyncio.sleep(10 + CLEAN_SECONDS)
            assert box.kept() == []


@virtual
async def test_a_disk_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise StoreFull("no room")

    async with World() as world:
        box = Locker(world, max_count=1)
        async with box as locker:
            hashes = await _fill(world, box, locker, 2)
            monkeypatch.setattr(box.store, "delete", fail)
            with capture_logs() as logs:
                async with running(locker.run()):
                    await asyncio.sleep(1)
                    assert box.kept() == hashes
                    monkeypatch.undo()
                    await asyncio.sleep(CLEAN_SECONDS)
                    assert box.kept() == hashes[1:]
            assert [line["log_level"] for line in logs] == ["warning"]


# --- revealing -----------------------------------------------------------------------------------------
async def _voted(box: Locker, locker: EvidenceLocker, **request: Any) -> tuple[Digest, int]:
    """A vote of now with a deadline in a minute."""
    deadline = int(box.world.clock.now()) + 60
    message = await box.world.performed(request={"deadline": deadline, **request})
    evidence, info_hash = box.evidence(message)
    await locker.keep(evidence, message, info_hash)
    await box.guard.check_and_insert(message.task_info.task_id, info_hash, Verdict.VALID)
    return info_hash, deadline


def _opened(box: Locker, revealed: object, info_hash: Digest) -> Evidence:
    assert isinstance(revealed, bytes)
    opening = decode_opening(revealed)
    salt = bytes.fromhex(opening.salt[2:])
    assert salt == salt_of(box.person.evidence_secret, info_hash)
    return check_commitment(
        Digest(bytes.fromhex(opening.commitment[2:])),
        salt,
        opening.evidence.encode(),
        operator=box.person.address,
        task_info_hash=info_hash,
    )


@virtual
async def test_it_is_sealed_up_to_the_deadline_to_the_second() -> None:
    async with World() as world:
        box = Locker(world)
        async with box as locker:
            info_hash, deadline = await _voted(box, locker)
            await asyncio.sleep(deadline - world.clock.now())
            assert await locker.reveal(info_hash) == Sealed(deadline)
            await asyncio.sleep(0.001)
            assert _opened(box, await locker.reveal(info_hash), info_hash).score == 0.125


@virtual
async def test_a_certificate_opens_it_before() -> None:
    async with World() as world:
        box = Locker(world)
        async with box as locker:
            info_hash, _ = await _voted(box, locker)
            other, deadline = await _voted(box, locker, nonce=2)
            locker.note_certified(info_hash)
            assert _opened(box, await locker.reveal(info_hash), info_hash).verdict == "valid"
            assert await locker.reveal(other) == Sealed(deadline)


@virtual
async def test_what_was_never_voted_is_never_shown() -> None:
    """Evidence without a vote is what a crash leaves before the guard, or a second task info after it."""
    async with World() as world:
        box = Locker(world)
        async with box as locker:
            message = await world.performed()
            evidence, info_hash = box.evidence(message)
            await locker.keep(evidence, message, info_hash)
            locker.note_certified(info_hash)
            assert await locker.reveal(info_hash) is None
            await box.guard.check_and_insert(message.task_info.task_id, Digest(sha("other")), Verdict.VALID)
            assert await locker.reveal(info_hash) is None
            assert await locker.reveal(Digest(sha("nothing"))) is None


# --- in the attester -----------------------------------------------------------------------------------
@virtual
async def test_a_vote_quotes_what_lies_on_the_disk() -> None:
    async with World() as world, world.attester(2):
        performer, person = await world.bystander(PERFORMER), world.people[2]
        message = await world.performed()
        await performer.say(message)
        [vote] = await performer.hears(VoteMessage)
        info_hash = world.domain.task_info_hash(message.task_info)
        assert list(world.files["attester 2"].entries) == [(EVIDENCE, info_hash)]
        evidence = check_commitment(
            vote.evidence,
            salt_of(person.evidence_secret, info_hash),
            _on_disk(world, "attester 2", info_hash),
            operator=person.address,
            task_info_hash=info_hash,
        )
        assert (evidence.verdict, evidence.recomputed, evidence.score) == ("valid", OUTPUT, 0.0)
        assert evidence.engine == JUDGEMENT.engine


def _on_disk(world: World, name: str, info_hash: Digest) -> bytes:
    kept: bytes = _decoder.decode(world.files[name].entries[EVIDENCE, info_hash]).evidence
    return kept


@virtual
async def test_evidence_is_durable_before_the_guard_and_the_key() -> None:
    async with World() as world:
        file = world.files["attester 0"]

        class Spy(SpySigner):
            async def sign(self, digest: Digest) -> bytes:
                assert len(file.entries) == 1
                return await super().sign(digest)

        class Guard(MemoryVoteGuard):
            async def check_and_insert(self, task_id: Digest, task_info_hash: Digest, verdict: Verdict) -> None:
                assert list(file.entries) == [(EVIDENCE, task_info_hash)]
                await super().check_and_insert(task_id, task_info_hash, verdict)

        signer = Spy(world.people[0].vote, world.files["guard 0"])
        async with Guard(MemoryFile()) as guard, world.attester(signer=signer, guard=guard):
            performer = await world.bystander(PERFORMER)
            await performer.say(await world.performed())
            await performer.hears(VoteMessage)
        assert len(signer.held) == 1


@virtual
async def test_a_disk_without_room_lets_nothing_be_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise StoreFull("no room on the disk")

    async with World() as world, world.attester() as attester:
        performer = await world.bystander(PERFORMER)
        monkeypatch.setattr(attester.evidence._store, "put", fail)
        message = await world.performed()
        await repeat(performer, message)
        assert (performer.votes, world.files["guard 0"].votes) == ([], {})
        monkeypatch.undo()
        await performer.say(message)
        await performer.hears(VoteMessage)


@virtual
async def test_a_repeated_vote_quotes_the_same_commitment_in_the_next_life_too() -> None:
    async with World() as world:
        performer, message = await world.bystander(PERFORMER), await world.performed()
        for _ in range(2):
            async with world.attester():
                await repeat(performer, message, times=2)
        assert len(performer.votes) == 4
        assert len(set(performer.votes)) == 1


@virtual
async def test_a_vote_whose_evidence_is_gone_is_repeated_without() -> None:
    async with World() as world, world.attester() as attester:
        performer, message = await world.bystander(PERFORMER), await world.performed()
        await repeat(performer, message)
        await attester.evidence.forget(world.domain.task_info_hash(message.task_info))
        await repeat(performer, message)
        assert [vote.evidence == NO_EVIDENCE for vote in performer.votes] == [False, True]
        assert performer.votes[1] == world.vote(0, message.task_info)


@virtual
async def test_the_evidence_of_a_vote_that_the_guard_refuses_is_let_go_of() -> None:
    judge = saying(valid(0.0), seconds=1)
    async with World() as world, world.attester(judge=judge.as_judge):
        performer = await world.bystander(PERFORMER)
        honest, second = await world.performed(), await world.performed(info={"data": LABEL_2})
        for message in (honest, second):
            await performer.say(message)
        [vote] = await performer.hears(VoteMessage)
        [abstention] = await performer.hears(AbstainMessage)
        assert abstention.reason is AbstainReason.GUARDED
        assert list(world.files["attester 0"].entries) == [(EVIDENCE, vote.task_info_hash)]


@virtual
async def test_an_abstention_leaves_no_evidence() -> None:
    judge = saying(Judgement(Verdict.ABSTAIN, AbstainReason.UNDECIDED, 3.0, {"distance": 3.0}))
    async with World() as world, world.attester(judge=judge.as_judge):
        performer = await world.bystander(PERFORMER)
        with capture_logs() as logs:
            await performer.say(await world.performed())
            await performer.hears(AbstainMessage)
        assert world.files["attester 0"].entries == {}
        [line] = [line for line in logs if line["event"] == "abstained"]
        assert (line["reason"], line["method"], line["score"]) == ("undecided", "tensor", 3.0)
        assert (line["statistics"], line["refereed"], line["engine"]) == ({"distance": 3.0}, False, None)


@virtual
async def test_a_vote_logs_what_it_rests_on() -> None:
    async with World() as world, world.attester():
        performer = await world.bystander(PERFORMER)
        with capture_logs() as logs:
            await performer.say(await world.performed())
            await performer.hears(VoteMessage)
            await asyncio.sleep(0)
        [line] = [line for line in logs if line["event"] == "voted"]
        assert (line["verdict"], line["reason"], line["method"], line["score"]) == ("valid", None, "tensor", 0.0)
        assert line["statistics"] == {
            "distance of scores": 0.0,
            "cosine distance of scores": pytest.approx(0, abs=1e-6),
        }
        assert (line["refereed"], line["engine"]) == (False, "memory 1, FunctionProvider on python, native")


@virtual
async def test_scores_and_referees_are_counted_by_method() -> None:
    refereed = Judgement(Verdict.INVALID, InvalidReason.SCORES_DIFFER, 3.0, is_refereed=True)
    endless = invalid(InvalidReason.TENSOR_DIFFERS, float("inf"))
    judge = saying(valid(0.2), refereed, endless, Judgement(Verdict.ABSTAIN, AbstainReason.UNDECIDED, 5.0))
    async with World() as world, world.attester(judge=judge.as_judge) as attester:
        performer = await world.bystander(PERFORMER)
        for nonce in range(4):
            await performer.say(await world.performed(request={"nonce": nonce}))
            await asyncio.sleep(0.5)
        lines = attester._metrics.exposition()[0].decode().splitlines()
        counted = dict(line.rsplit(" ", 1) for line in lines if line.startswith("poi_attester_"))
        buckets = {edge: counted[f'poi_attester_vote_scores_bucket{{le="{edge}",method="tensor"}}'] for edge in EDGES}
        assert buckets == {"0.1": "0.0", "0.25": "1.0", "2.0": "1.0", "5.0": "2.0", "100.0": "2.0", "+Inf": "3.0"}
        assert float(counted['poi_attester_vote_scores_sum{method="tensor"}']) == 1e6 + 3.2
        assert counted['poi_attester_refereed_votes_total{method="tensor"}'] == "1.0"


EDGES = ("0.1", "0.25", "2.0", "5.0", "100.0", "+Inf")


@pytest.mark.parametrize("waits", [False, True])
@virtual
async def test_a_certificate_opens_unless_votes_are_waited_for(waits: bool) -> None:
    """Where all votes are waited for, a copied one would still count."""
    async with World() as world, world.attester() as attester:
        world.define(_waiting(waits))
        performer, aggregator = await world.bystander(PERFORMER), await world.bystander(AGGREGATOR)
        message = await world.performed()
        await performer.say(message)
        [vote] = await performer.hears(VoteMessage)
        certificate = world.certificate(message.task_info, signers=(0, 1, 2))
        assert isinstance(await attester.evidence.reveal(vote.task_info_hash), Sealed)
        await aggregator.say(CertificateMessage(certificate, 0, 3000))
        await asyncio.sleep(1)
        revealed = await attester.evidence.reveal(vote.task_info_hash)
        assert isinstance(revealed, bytes) is not waits


def _waiting(waits: bool) -> Any:
    return msgspec.structs.replace(DEFINITION, terms=TaskTerms(dispute_window=500, waits_for_all=waits))


@virtual
async def test_health_tells_how_much_is_kept() -> None:
    async with World() as world, world.attester() as attester:
        performer = await world.bystander(PERFORMER)
        await performer.say(await world.performed())
        [vote] = await performer.hears(VoteMessage)
        size = len(world.files["attester 0"].entries[EVIDENCE, vote.task_info_hash])
        assert attester.health()["evidence"] == {"kept": 1, "bytes": size}
        assert decode_evidence(_on_disk(world, "attester 0", vote.task_info_hash)).card_cid == CARD_CID
