"""The aggregator's duty: when votes make a certificate, and what is durable before who hears."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from aggregator.settler import UNSETTLED
from shared import messages
from shared.errors import StoreFull
from shared.messages import CertificateMessage
from shared.types import Role, TaskCertificate, Verdict
from shared.validation import verify_certificate
from tests.cast import peer_key_of
from tests.chain_support import AGGREGATOR, Person
from tests.faulty_chain import FaultyChain
from tests.hall import BATCH, Hall, hall
from tests.listening import running, until, virtual
from tests.roles import World


# --- the quorum ----------------------------------------------------------------------------------------
@virtual
async def test_a_strict_quorum_of_valid_votes_makes_a_certificate() -> None:
    async with hall() as h:
        message = await h.task()
        await h.votes(message, 3, 0)
        await h.none()
        await h.votes(message, 2)
        certificate = await h.certificate()
        assert (certificate.task_info, certificate.verdict, certificate.signers) == (
            message.task_info,
            Verdict.VALID,
            (0, 2, 3),
        )
        verify_certificate(h.world.domain, h.world.table_of(1), certificate)
        said = h.performer.of(CertificateMessage)[0]
        assert (said.valid_power, said.invalid_power) == (3000, 0)
        assert h.world.rules().check_certificate(peer_key_of(AGGREGATOR), messages.encode(said)) == said


@virtual
async def test_more_than_a_third_against_rejects() -> None:
    async with hall() as h:
        message = await h.task()
        await h.votes(message, 0, 1)
        await h.votes(message, 2, verdict=Verdict.INVALID)
        await h.none()
        await h.votes(message, 3, verdict=Verdict.INVALID)
        certificate = await h.certificate()
        assert (certificate.verdict, certificate.signers) == (Verdict.INVALID, (2, 3))
        said = h.performer.of(CertificateMessage)[0]
        assert (said.valid_power, said.invalid_power) == (2000, 2000)


@pytest.mark.parametrize(
    ("weights", "valid", "invalid", "verdict"),
    [
        ((1, 1, 1), (0, 1), (), None),  # exactly two thirds
        ((1, 1, 1), (0, 1, 2), (), Verdict.VALID),
        ((1, 1, 1), (), (0,), None),  # exactly one third
        ((1, 1, 1), (), (0, 1), Verdict.INVALID),
        ((5, 1, 1), (0,), (), Verdict.VALID),
        ((4, 1, 1), (0,), (), None),
        ((5, 1, 1), (1, 2), (), None),
        ((3, 1, 1, 1), (1, 2, 3), (0,), Verdict.INVALID),
    ],
)
@virtual
async def test_power_counts_and_not_heads(
    weights: tuple[int, ...], valid: tuple[int, ...], invalid: tuple[int, ...], verdict: Verdict | None
) -> None:
    async with hall(weights) as h:
        message = await h.task()
        await h.votes(message, *valid)
        await h.votes(message, *invalid, verdict=Verdict.INVALID)
        await asyncio.sleep(0.5)
        assert [certificate.verdict for certificate in h.performer.certificates] == ([verdict] if verdict else [])


@virtual
async def test_one_certificate_a_task_however_many_votes_come() -> None:
    async with hall() as h:
        message = await h.task()
        await h.votes(message, 0, 1, 2, 3)
        await asyncio.sleep(2)
        await h.votes(message, 0, 1, 2, 3)
        await asyncio.sleep(1)
        assert len(h.performer.certificates) == 1
        assert [key for key in h.world.files[AGGREGATOR.name].entries if key[0] == UNSETTLED] == [
            (UNSETTLED, message.task_info.task_id)
        ]


@virtual
async def test_tasks_do_not_mix() -> None:
    async with hall() as h:
        first, second = await h.task(), await h.task(request={"nonce": 2})
        await h.votes(first, 0, 1)
        await h.votes(second, 2, 3)
        await h.none()
        await h.votes(second, 1)
        assert (await h.certificate()).task_info == second.task_info


# --- persist, then publish -----------------------------------------------------------------------------
@virtual
async def test_a_certificate_is_durable_before_it_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    async with hall() as h:
        held: list[bool] = []
        publish = h.aggregator._gossip.publish
        entries = h.world.files[AGGREGATOR.name].entries

        async def spy(topic: str, data: bytes) -> None:
            if topic == h.world.topics.certificate:
                held.append(any(kind == UNSETTLED for kind, _ in entries))
            await publish(topic, data)

        monkeypatch.setattr(h.aggregator._gossip, "publish", spy)
        message = await h.task()
        await h.votes(message, 0, 1, 2)
        certificate = await h.certificate()
        assert held == [True]
        stored = entries[UNSETTLED, message.task_info.task_id]
        assert messages.decode_stored_certificate(stored) == certificate


@virtual
async def test_what_cannot_be_stored_is_not_published_and_is_made_when_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise StoreFull("no room on the disk")

    async with hall() as h:
        monkeypatch.setattr(h.store, "put", fail)
        message = await h.task()
        with capture_logs() as logs:
            await h.votes(message, 0, 1, 2, 3)
            await h.none()
        assert {entry["reason"] for entry in logs if entry["event"] == "message not handled"} == {"no room on the disk"}
        await h.performer.say(message)
        await h.none()
        monkeypatch.undo()
        await asyncio.sleep(1)
        await h.performer.say(message)  # the performer asks again; the votes are here already
        assert (await h.certificate()).signers == (0, 1, 2, 3)


@virtual
async def test_a_slow_disk_makes_one_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is stored, more votes come, and the performer asks again."""
    async with hall() as h:
        puts = 0
        put = h.store.put

        async def slow_put(kind: str, key: bytes, value: bytes) -> None:
            nonlocal puts
            puts += 1
            await asyncio.sleep(5)
            await put(kind, key, value)

        monkeypatch.setattr(h.store, "put", slow_put)
        message = await h.task()
        await h.votes(message, 0, 1, 2)
        await asyncio.sleep(2)
        await h.performer.say(message)
        await h.votes(message, 3)
        await h.certificate()
        await asyncio.sleep(10)
        assert puts == 1
        assert len({certificate.signature for certificate in h.performer.certificates}) == 1


@virtual
async def test_a_lost_certificate_is_said_again_when_the_performer_asks_again() -> None:
    async with hall() as h:
        message = await h.task()
        await h.votes(message, 0, 1, 2)
        first = await h.certificate()
        await asyncio.sleep(2)
        await h.performer.say(message)
        await h.performer.hears(CertificateMessage, 2)
        assert h.performer.certificates == [first, first]


@virtual
async def test_a_restarted_aggregator_makes_the_certificate_from_repeated_votes() -> None:
    async with World() as world:
        async with hall(world=world) as h:
            message = await h.task()
            await h.votes(message, 0, 1)
            performer, attesters = h.performer, h.attesters
        chain = FaultyChain(await world.chain())
        parts = world.aggregator(chain, batch_seconds=BATCH)
        async with parts as (aggregator, _, store), running(aggregator.run()):
            h = Hall(world, aggregator, store, performer, attesters)
            await asyncio.sleep(2)
            await h.votes(message, 2)
            await h.none()
            await h.performer.say(message)
            await h.votes(message, 0, 1)
            assert (await h.certificate()).signers == (0, 1, 2)


# --- several aggregators -------------------------------------------------------------------------------
@virtual
async def test_anothers_certificate_is_taken_for_what_it_is_worth() -> None:
    """It is said again when the performer asks again; a forged one is nothing."""
    async with hall() as h:
        other = Person("other aggregator")
        h.world.enlist(other, Role.AGGREGATOR)
        speaker = await h.world.bystander(other)
        message = await h.task()
        true = h.world.certificate(message.task_info, signers=(1, 2, 3))
        forged = TaskCertificate(
            message.task_info, Verdict.INVALID, (1, 2, 3), true.signature, true.performer_signature
        )
        await speaker.say(CertificateMessage(forged, invalid_power=3, valid_power=0))
        await asyncio.sleep(0.1)
        assert h.aggregator._certificates == {}
        await speaker.say(CertificateMessage(true, invalid_power=0, valid_power=3))
        await asyncio.sleep(2)
        await h.performer.say(message)
        await until(lambda: h.performer.certificates.count(true) == 2, "it is said again")
