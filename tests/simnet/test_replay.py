"""A simulation is a function of its seed: the same log to the line, with every fault in it."""

from __future__ import annotations

from functools import partial

import pytest

from tests.simnet.network import Network
from tests.simnet.plan import LOSSY, Plan
from tests.simnet.simulation import simulate
from tests.simnet.test_random_walk import plan_of, walk


async def _some_work(net: Network) -> None:
    tasks = [await net.ask(deadline_seconds=300) for _ in range(3)]
    net.node("attester0").kill()
    await net.pause(3)
    net.node("attester0").start()
    for task_id in tasks:
        await net.final(task_id, limit_seconds=300)


def _log(seed: int) -> list[str]:
    return simulate(_some_work, Plan(seed=seed, link=LOSSY, aggregators=2)).journal.replay()


def test_the_same_seed_gives_the_same_log_and_another_seed_another() -> None:
    first, again, other = _log(1), _log(1), _log(2)
    assert len(first) > 50
    assert first == again
    assert first != other


@pytest.mark.parametrize("seed", [3, 7])
def test_a_storm_repeats_itself(seed: int) -> None:
    logs = [simulate(partial(walk, seed), plan_of(seed)).journal.replay() for _ in range(2)]
    assert logs[0] == logs[1]
