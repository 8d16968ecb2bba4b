"""The performer's duty, step by step: run, prove, sign, publish until somebody heard, and go on after kill -9."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from performer.service import PARALLEL_RUNS
from shared import messages
from shared.constants import MAX_PROOF_BYTES, REPUBLISH_SECONDS
from shared.content.unixfs import cid_of
from shared.crypto import ecdsa
from shared.documents import Output, TensorOutput, decode_proof
from shared.errors import TransportError
from shared.interfaces import Tensors
from shared.keeping import kept_until
from shared.messages import CertificateMessage, SubmittedMessage, TaskMessage
from shared.tensors import encode_tensor
from shared.types import Digest, TaskCertificate, TaskDefinition, Verdict
from shared.verification.method import Compute, Work
from shared.verification.tensor import TensorDistance
from shared.workflow import Phase, Task
from tests.cast import peer_key_of
from tests.chain_support import AGGREGATOR, PERFORMER, sha
from tests.listening import Bystander, running, until, virtual
from tests.roles import PerformerDesk, World
from tests.toy_model import CARD_CID, DATA, DEFINITION, MODEL, MODEL_HASH, OUTPUT, document_of, engine_of, multiply


def now() -> float:
    return asyncio.get_running_loop().time()


def task_in(desk: PerformerDesk, task_id: Digest) -> Task:
    task = desk.ledger.get(task_id)
    assert task is not None
    return task


async def reaches(desk: PerformerDesk, task_id: Digest, phase: Phase, limit_seconds: float = 60) -> Task:
    await until(lambda: task_in(desk, task_id).phase is phase, f"{phase}: {task_in(desk, task_id)}", limit_seconds)
    return task_in(desk, task_id)


async def certify(
    world: World, aggregator: Bystander, message: TaskMessage, verdict: Verdict = Verdict.VALID
) -> TaskCertificate:
    certificate = world.certificate(message.task_info, verdict)
    await aggregator.say(CertificateMessage(certificate, invalid_power=1, valid_power=3))
    return certificate


# --- (3) to (7) ----------------------------------------------------------------------------------------
@virtual
async def test_an_honest_task_message_passes_every_check_and_is_bound_to_its_proof() -> None:
    async with World() as world, world.performer() as desk:
        bystander = await world.bystander()
        async with running(desk.performer.run()):
            request = world.request()
            task_id = await desk.request(world.form(request))
            message: TaskMessage = (await bystander.hears(TaskMessage))[0]
        assert world.rules().check_task(peer_key_of(PERFORMER), messages.encode(message)) == message
        info = message.task_info
        assert (info.task_id, info.data, info.epoch) == (task_id, DATA, 1)
        assert ecdsa.is_signed_by(PERFORMER.address, world.domain.task_info_hash(info), message.performer_signature)
        proof = decode_proof(
            await world.content.join(world.people[0].address).get(
                info.proof_of_task, max_bytes=1 << 20, timeout_seconds=1
            )
        )
        assert (proof.task_id, proof.card_cid, proof.model_hash) == (task_id, CARD_CID, MODEL_HASH)
        assert (proof.input_cid, proof.output, proof.engine.runtime) == (request.input_cid, OUTPUT, "memory")
        task = task_in(desk, task_id)
        assert (task.task_info, task.performer_signature) == (info, message.performer_signature)


@virtual
async def test_nothing_is_published_before_it_is_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proof, then task info, then gossip: who hears of a task can fetch its proof, and a crash forgets no signature."""
    order: list[str] = []
    async with World() as world, world.performer() as desk:
        put, add, publish = desk.store.put, desk.content.add, desk.performer._gossip.publish

        async def spy_put(kind: str, key: bytes, value: bytes) -> None:
            await put(kind, key, value)
            order.append(kind)

        async def spy_add(data: bytes, **promised: Any) -> Any:
            ref = await add(data, **promised)
            order.append("content")
            return ref

        async def spy_publish(topic: str, data: bytes) -> None:
            order.append("publish")
            await publish(topic, data)

        monkeypatch.setattr(desk.store, "put", spy_put)
        monkeypatch.setattr(desk.content, "add", spy_add)
        monkeypatch.setattr(desk.performer._gossip, "publish", spy_publish)
        async with running(desk.performer.run()):
            await desk.request(world.form())
            await until(lambda: "publish" in order, "it is published")
    assert order == ["content", "nonce", "task", "content", "task", "publish"]


@virtual
async def test_what_a_task_needs_is_kept_until_its_dispute_is_over_and_no_longer() -> None:
    async with World() as world, world.performer() as desk:
        bystander = await world.bystander()
        async with running(desk.performer.run()):
            request = world.request()
            await desk.request(world.form(request))
            message: TaskMessage = (await bystander.hears(TaskMessage))[0]
        until_then = kept_until(request.deadline, DEFINITION.terms.dispute_window, world.roster.settle_seconds)
        pins = world.content.pins[PERFORMER.address]
        assert [pins[cid].keep_until for cid in (request.input_cid, message.task_info.proof_of_task)] == [
            until_then
        ] * 2


@virtual
async def test_it_asks_again_until_certified() -> None:
    async with World() as world, world.performer() as desk:
        bystander, aggregator = await world.bystander(), await world.bystander(AGGREGATOR)
        async with running(desk.performer.run()):
            task_id = await desk.request(world.form())
            heard = await bystander.hears(TaskMessage, 4)
            assert len({messages.encode(message) for message in heard}) == 1
            await certify(world, aggregator, heard[0])
            await reaches(desk, task_id, Phase.CERTIFIED)
            count = len(bystander.of(TaskMessage))
            await asyncio.sleep(5 * REPUBLISH_SECONDS)
            assert len(bystander.of(TaskMessage)) == count


@virtual
async def test_it_asks_no_more_after_the_deadline_and_still_takes_the_certificate() -> None:
    async with World() as world, world.performer() as desk:
        bystander, aggregator = await world.bystander(), await world.bystander(AGGREGATOR)
        async with running(desk.performer.run()):
            task_id = await desk.request(world.form(world.request(deadline=int(world.clock.now()) + 11)))
            await reaches(desk, task_id, Phase.EXPIRED)
            heard = bystander.of(TaskMessage)
            assert 4 <= len(heard) <= 7
            await asyncio.sleep(5 * REPUBLISH_SECONDS)
            assert bystander.of(TaskMessage) == heard
            await certify(world, aggregator, heard[0])
            await reaches(desk, task_id, Phase.CERTIFIED)


@virtual
async def test_a_message_that_could_not_be_sent_is_sent_later(monkeypatch: pytest.MonkeyPatch) -> None:
    async with World() as world, world.performer() as desk:
        bystander = await world.bystander()

        async def fail(*_: object) -> None:
            raise TransportError("no network")

        monkeypatch.setattr(desk.performer._gossip, "publish", fail)
        async with running(desk.performer.run()):
            with capture_logs() as logs:
                task_id = await desk.request(world.form())
                await reaches(desk, task_id, Phase.PERFORMED)
                await until(lambda: any(entry["event"] == "task not published" for entry in logs), "it says so")
            monkeypatch.undo()
            await bystander.hears(TaskMessage)


# --- certificates and hints ----------------------------------------------------------------------------
@virtual
async def test_a_certificate_is_kept_with_its_powers_and_a_hint_shows_the_transaction() -> None:
    async with World() as world, world.performer() as desk:
        bystander, aggregator = await world.bystander(), await world.bystander(AGGREGATOR)
        async with running(desk.performer.run()):
            task_id = await desk.request(world.form())
            message = (await bystander.hears(TaskMessage))[0]
            hint = SubmittedMessage(AGGREGATOR.address, Digest(b"t" * 32), (task_id, Digest(sha("stranger"))))
            await aggregator.say(hint)
            await asyncio.sleep(1)
            assert task_in(desk, task_id).phase is Phase.PERFORMED  # a hint about a task that nobody certified
            certificate = await certify(world, aggregator, message)
            task = await reaches(desk, task_id, Phase.CERTIFIED)
            assert task.certificate == certificate
            assert (task.valid_power, task.invalid_power, task.total_power) == (3, 1, 4000)
            await aggregator.say(hint)
            assert (await reaches(desk, task_id, Phase.SUBMITTED)).tx_hash == b"t" * 32


@virtual
async def test_a_certificate_for_a_task_info_that_is_not_ours_is_refused_aloud() -> None:
    """Signed by the same key, so somebody has a copy of it: to be told to the operator, and not to be taken."""
    async with World() as world, world.performer() as desk:
        bystander, aggregator = await world.bystander(), await world.bystander(AGGREGATOR)
        async with running(desk.performer.run()):
            task_id = await desk.request(world.form())
            message = (await bystander.hears(TaskMessage))[0]
            foreign = world.info("x", task_id=task_id, proof_of_task=cid_of(b"another proof"))
            with capture_logs() as logs:
                await aggregator.say(CertificateMessage(world.certificate(foreign), invalid_power=0, valid_power=4))
                await until(lambda: logs, "it says so")
            assert [entry["log_level"] for entry in logs] == ["error"]
            assert task_in(desk, task_id).phase is Phase.PERFORMED
            await certify(world, aggregator, message)
            await reaches(desk, task_id, Phase.CERTIFIED)


@pytest.mark.parametrize("fault", ["signature", "quorum", "epoch", "origin"])
@virtual
async def test_a_certificate_that_no_quorum_signed_changes_nothing(fault: str) -> None:
    async with World() as world, world.performer() as desk:
        bystander = await world.bystander()
        speaker = await world.bystander(world.people[0] if fault == "origin" else AGGREGATOR)
        async with running(desk.performer.run()):
            task_id = await desk.request(world.form())
            info = (await bystander.hears(TaskMessage))[0].task_info
            other = world.certificate(world.info("another"))
            certificate = world.certificate(info)
            match fault:
                case "signature":
                    certificate = TaskCertificate(
                        info, Verdict.VALID, (0, 1, 2, 3), other.signature, certificate.performer_signature
                    )
                case "quorum":
                    certificate = world.certificate(info, signers=(0, 1))
                case "epoch":
                    certificate = world.certificate(world.info("x", task_id=task_id, epoch=9))
                case _:
                    assert fault == "origin"
            # As a libp2p peer would: past its own checks.
            await speaker.gossip.publish(
                world.topics.certificate, messages.encode(CertificateMessage(certificate, 0, 4 * 10**9))
            )
            await asyncio.sleep(1)
            assert task_in(desk, task_id).phase is Phase.PERFORMED


# --- failures ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("trouble", "failure"),
    [
        (RuntimeError("device lost"), f"model {MODEL_HASH.hex()}: device lost"),
        (AssertionError("a bug"), "internal fault: AssertionError"),
    ],
)
@virtual
async def test_a_run_that_fails_is_told_and_the_next_one_goes_on(trouble: Exception, failure: str) -> None:
    calls = 0

    def fail_once(inputs: Tensors) -> Tensors:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise trouble
        return multiply(inputs)

    async with World() as world, world.performer(engine=engine_of(fail_once)) as desk:
        bystander = await world.bystander()
        async with running(desk.performer.run()):
            first = await desk.request(world.form())
            await until(lambda: task_in(desk, first).failure, "it failed")
            assert (task_in(desk, first).phase, task_in(desk, first).failure) == (Phase.REQUESTED, failure)
            second = await desk.request(world.form(world.request(nonce=2)))
            await reaches(desk, second, Phase.PERFORMED)
            assert [message.task_info.task_id for message in await bystander.hears(TaskMessage)] == [second]
    async with world.performer() as desk, running(desk.performer.run()):
        await asyncio.sleep(5)
        # What failed is not tried again behind the requester's back.
        assert (task_in(desk, first).phase, task_in(desk, first).failure) == (Phase.REQUESTED, failure)


@virtual
async def test_an_output_that_no_proof_can_carry_is_a_failure() -> None:
    def overflow(inputs: Tensors) -> Tensors:
        return {"scores": np.full((1, 3), np.inf, np.float32)}

    async with World() as world, world.performer(engine=engine_of(overflow)) as desk, running(desk.performer.run()):
        task_id = await desk.request(world.form())
        await until(lambda: task_in(desk, task_id).failure, "it failed")
        assert "NaN and infinities are refused" in str(task_in(desk, task_id).failure)


class Wide(TensorDistance):
    """What an embedding model gives for 4096 tokens: within every limit of a tensor, and in base64 over a proof's."""

    async def prove(self, work: Work, compute: Compute) -> Output:
        return TensorOutput({"states": encode_tensor(np.zeros((1, 4096, 768), np.float32))})


@virtual
async def test_a_result_that_makes_the_proof_too_large_is_a_failure_and_not_an_offence() -> None:
    """Attesters refuse such a proof unread, and whoever signed it pays."""
    async with World() as world, world.performer(methods={"tensor": Wide()}) as desk, running(desk.performer.run()):
        task_id = await desk.request(world.form())
        await until(lambda: task_in(desk, task_id).failure or task_in(desk, task_id).task_info, "it ended")
        assert f"at most {MAX_PROOF_BYTES} are allowed" in str(task_in(desk, task_id).failure)
        assert task_in(desk, task_id).task_info is None


@virtual
async def test_a_model_that_nobody_serves_is_a_failure() -> None:
    async with World() as world, world.performer() as desk, running(desk.performer.run()):
        del world.content.blocks[PERFORMER.address][cid_of(MODEL)]
        task_id = await desk.request(world.form())
        await until(lambda: task_in(desk, task_id).failure, "it failed")
        assert f"content {cid_of(MODEL)} is unavailable" in str(task_in(desk, task_id).failure)


@virtual
async def test_a_slow_run_does_not_hold_up_the_others() -> None:
    slow = engine_of(seconds=10)
    async with World() as world, world.performer(engine=slow) as desk, running(desk.performer.run()):
        start = now()
        ids = [await desk.request(world.form(world.request(nonce=nonce))) for nonce in range(2 * PARALLEL_RUNS)]
        for task_id in ids:
            await reaches(desk, task_id, Phase.PERFORMED)
        assert now() - start == pytest.approx(20, abs=1)


@virtual
async def test_what_ran_out_in_the_queue_is_not_run() -> None:
    runs: list[float] = []

    def noted(inputs: Tensors) -> Tensors:
        runs.append(now())
        return multiply(inputs)

    slow = engine_of(noted, seconds=10)
    async with World() as world, world.performer(engine=slow) as desk, running(desk.performer.run()):
        for nonce in range(PARALLEL_RUNS):
            await desk.request(world.form(world.request(nonce=nonce)))
        late = await desk.request(world.form(world.request(nonce=99, deadline=int(world.clock.now()) + 5)))
        await reaches(desk, late, Phase.EXPIRED)
        await asyncio.sleep(30)
        assert len(runs) == PARALLEL_RUNS


# --- kill -9 -------------------------------------------------------------------------------------------
@virtual
async def test_a_task_that_was_taken_is_performed_by_the_next_run() -> None:
    async with World() as world:
        bystander = await world.bystander()
        async with world.performer() as desk:
            task_id = await desk.request(world.form())  # taken, and nobody runs yet
        async with world.performer() as desk, running(desk.performer.run()):
            await until(lambda: desk.ledger.get(task_id), "it is remembered")
            await reaches(desk, task_id, Phase.PERFORMED)
            assert [message.task_info.task_id for message in await bystander.hears(TaskMessage)] == [task_id]


@virtual
async def test_a_task_that_comes_while_the_run_begins_is_performed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Tensors] = []

    def counted(inputs: Tensors) -> Tensors:
        runs.append(inputs)
        return multiply(inputs)

    async with World() as world, world.performer(engine=engine_of(counted)) as desk:
        load = desk.performer.earnings.load

        async def slowly() -> None:
            await desk.request(world.form())  # the door is open
            await load()

        monkeypatch.setattr(desk.performer.earnings, "load", slowly)
        async with running(desk.performer.run()):
            await until(lambda: [task.phase for task in desk.ledger.open_tasks()] == [Phase.PERFORMED], "performed")
            await asyncio.sleep(1)
    assert len(runs) == 1


@virtual
async def test_kill_9_in_the_middle_of_a_run_runs_it_again() -> None:
    async with World() as world:
        async with world.performer(engine=engine_of(seconds=10)) as desk, running(desk.performer.run()):
            task_id = await desk.request(world.form())
            await asyncio.sleep(5)
            desk.file.kill()
        async with world.performer() as desk, running(desk.performer.run()):
            await until(lambda: desk.ledger.get(task_id), "it is remembered")
            await reaches(desk, task_id, Phase.PERFORMED)


@virtual
async def test_what_was_signed_is_published_again_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another task info for the same task would be an equivocation: the attesters' guards would refuse it."""
    async with World() as world:
        bystander = await world.bystander()
        async with world.performer() as desk:
            monkeypatch.setattr(desk.performer._gossip, "publish", drop)
            async with running(desk.performer.run()):
                task_id = await desk.request(world.form())
                signed = (await reaches(desk, task_id, Phase.PERFORMED)).task_info
        world.roll()  # a new signature would name the new epoch
        async with world.performer(engine=engine_of(never)) as desk, running(desk.performer.run()):
            message = (await bystander.hears(TaskMessage))[0]
            assert message.task_info == signed
            assert task_in(desk, task_id).task_info == signed


async def drop(*_: object) -> None:
    """Lost on the way."""


def never(inputs: Tensors) -> Tensors:
    raise AssertionError("the model was run again")


@virtual
async def test_what_expired_while_it_was_down_is_not_run() -> None:
    async with World() as world:
        async with world.performer() as desk:
            task_id = await desk.request(world.form(world.request(deadline=int(world.clock.now()) + 5)))
        await asyncio.sleep(6)
        async with world.performer(engine=engine_of(never)) as desk, running(desk.performer.run()):
            await until(lambda: desk.ledger.get(task_id), "it is remembered")
            assert (await reaches(desk, task_id, Phase.EXPIRED)).failure is None


@virtual
async def test_a_certificate_survives_and_settles_in_the_next_run() -> None:
    async with World() as world:
        chain = await world.chain()
        bystander, aggregator = await world.bystander(), await world.bystander(AGGREGATOR)
        async with world.performer(chain=chain.connect()) as desk, running(desk.performer.run()):
            task_id = await desk.request(world.form())
            certificate = await certify(world, aggregator, (await bystander.hears(TaskMessage))[0])
            await reaches(desk, task_id, Phase.CERTIFIED)
            desk.file.kill()
        await chain.confirm(await chain.submit_task(certificate), 10)
        async with world.performer(chain=chain.connect()) as desk, running(desk.performer.run()):
            await until(lambda: desk.ledger.get(task_id), "it is remembered")
            task = await reaches(desk, task_id, Phase.APPROVED)
            assert (task.certificate, task.settled_in_batch_of) == (certificate, 0)


# --- more than one definition --------------------------------------------------------------------------
@virtual
async def test_a_definition_that_came_later_is_served() -> None:
    async with World() as world, world.performer() as desk, running(desk.performer.run()):
        world.define(TaskDefinition(1, "again", "tensor", MODEL_HASH, CARD_CID))
        document = document_of(0, 0, 1, 0)
        request = world.request(task_definition_id=1, input_cid=cid_of(document))
        task = await reaches(desk, await desk.request(world.form(request, document)), Phase.PERFORMED)
        assert task.task_info is not None
        assert task.task_info.task_definition_id == 1
