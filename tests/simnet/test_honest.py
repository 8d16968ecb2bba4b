"""Everybody does their duty: what a task looks like when nothing goes wrong."""

from __future__ import annotations

from shared.messages import AbstainMessage, CertificateMessage, SubmittedMessage, TaskMessage
from shared.types import Verdict
from shared.workflow import Phase
from tests.simnet.network import Network, OnChain
from tests.simnet.plan import PERFORMER_STAKE
from tests.simnet.simulation import simulated


@simulated()
async def test_a_task_is_certified_within_a_second_and_settled_by_itself(net: Network) -> None:
    task_id = await net.ask()
    await net.until(lambda: net.phase(task_id) is Phase.CERTIFIED, "certified", limit_seconds=1.0)
    assert await net.final(task_id) is Phase.APPROVED
    assert net.on_chain(task_id) == [OnChain(Verdict.VALID, batch_size=0)]
    [message] = net.journal.of(CertificateMessage)
    task = net.task(task_id)
    assert task is not None
    assert task.certificate == message.certificate
    assert (task.valid_power, task.invalid_power, task.total_power) == (message.valid_power, 0, 4000)
    assert await net.stake("performer") == PERFORMER_STAKE
    assert await net.chain.vault_balance() == 0


@simulated()
async def test_nobody_says_more_than_is_needed(net: Network) -> None:
    task_id = await net.ask()
    await net.final(task_id)
    assert [len(net.votes(name, task_id)) for name in net.attesters] == [1, 1, 1, 1]
    assert len(net.journal.of(TaskMessage)) == 1
    assert len(net.journal.of(SubmittedMessage)) == 1
    assert net.journal.of(AbstainMessage) == []


@simulated(models=("digits", "text"))
async def test_every_shipped_model_makes_it(net: Network) -> None:
    parameters = '{"max_tokens":8,"temperature":0.8,"top_k":40}'
    tasks = [await net.ask(), await net.ask(model="text", parameters=parameters)]
    assert [await net.final(task_id) for task_id in tasks] == [Phase.APPROVED, Phase.APPROVED]
    assert [line["verdict"] for line in net.journal.said("voted")] == ["valid"] * 8


@simulated()
async def test_tasks_of_one_moment_settle_in_one_batch(net: Network) -> None:
    tasks = [await net.ask() for _ in range(5)]
    for task_id in tasks:
        assert await net.final(task_id) is Phase.APPROVED
        assert net.on_chain(task_id) == [OnChain(Verdict.VALID, batch_size=5)]
    assert len(net.events()) == 1


@simulated()
async def test_the_same_request_twice_is_one_task(net: Network) -> None:
    call = net.prepare()
    assert await net.send(call) == await net.send(call)
    assert await net.final(call.task_id) is Phase.APPROVED
    assert await net.send(call) == call.task_id
    assert len(net.journal.of(TaskMessage)) == 1
    assert net.verdict(call.task_id) is Verdict.VALID
