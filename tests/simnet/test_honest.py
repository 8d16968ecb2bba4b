"""Everybody does their duty: what a task looks like when nothing goes wrong."""

from __future__ import annotations

from shared.messages import CertificateMessage
from shared.types import Verdict
from shared.workflow import Phase
from tests.simnet.network import Network, simulated


@simulated()
async def test_a_task_is_certified_within_a_second_and_settled_alone(net: Network) -> None:
    asked_at = net.now()
    task_id = await net.ask()
    await net.until(lambda: net.phase(task_id) is Phase.CERTIFIED, "certified", limit_seconds=1.0)
    assert net.now() - asked_at < 1.0
    assert await net.final(task_id) is Phase.APPROVED
    [found] = net.on_chain(task_id)
    assert (found.verdict, found.batch_size) == (Verdict.VALID, 0)
    [message] = net.journal.of(CertificateMessage)
