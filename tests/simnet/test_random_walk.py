"""Whatever may go wrong, at random: the invariants hold while it lasts, and all work is done once it is over.

Every run follows from its seed; a failure names it. `-m slow` walks many more.
"""

from __future__ import annotations

import asyncio
import random
from functools import partial

import pytest

from shared.adapters.memory.gossip import Link
from shared.types import Digest, Offence, SlashExecuted, SlashQueued, Verdict
from shared.workflow import Phase
from tests.chain_support import ETHER
from tests.simnet.liars import TwoVotes, liar, naysayer
from tests.simnet.network import Network
from tests.simnet.plan import NEAR, PERFORMER_STAKE, Make, Plan
from tests.simnet.simulation import simulate

FAULT_SECONDS = 40.0
CALM_SECONDS = 120.0
DEADLINE_SECONDS = 600
HONEST_TASKS, LIES = 5, 2
SEEDS, MORE_SEEDS = range(12), range(12, 212)


class Chaos:
    """Breaks something every few seconds, and mends it again a little later."""

    def __init__(self, net: Network, chance: random.Random) -> None:
        self._net, self._chance = net, chance
        self._first_block = net.chain._ledger.head() + 1  # registrations and the roll are before it
        self._setup = set(net.chain._ledger._known)

    async def rage(self, until: float) -> None:
        faults = (self._kill, self._kill, self._kill_at_a_step, self._lose, self._partition, self._outage, self._reorg)
        async with asyncio.TaskGroup() as group:
            while self._net.now() < until:
                group.create_task(self._chance.choice(faults)())
                await self._net.pause(self._chance.uniform(0.2, 4.0))

    async def _kill(self) -> None:
        node = self._net.node(self._chance.choice(list(self._net.nodes)))
        node.kill()
        await self._net.pause(self._chance.uniform(0.0, 8.0))
        node.start()

    async def _kill_at_a_step(self) -> None:
        node = self._net.node(self._chance.choice(list(self._net.nodes)))
        node.steps.fatal = len(node.steps.reached) + self._chance.randrange(8)

    async def _lose(self) -> None:
        self._net.set_link(Link(0.0, self._chance.uniform(0.1, 3.0), self._chance.uniform(0.0, 0.7), 0.3))
        await self._net.pause(self._chance.uniform(1.0, 8.0))
        self._net.set_link(NEAR)

    async def _partition(self) -> None:
        sides: tuple[list[str], list[str]] = ([], [])
        for name in self._net.nodes:
            self._chance.choice(sides).append(name)
        self._net.partition(*sides)
        await self._net.pause(self._chance.uniform(1.0, 10.0))
        self._net.heal()

    async def _outage(self) -> None:
        self._net.chain_outage(True)
        await self._net.pause(self._chance.uniform(0.5, 10.0))
        self._net.chain_outage(False)

    async def _reorg(self) -> None:
        ledger = self._net.chain._ledger
        depth = min(self._chance.randint(1, 8), ledger.head() - self._first_block)
        sent = [tx_hash for tx_hash in ledger._known if tx_hash not in self._setup]
        dropped = [tx_hash for tx_hash in sent[-4:] if self._chance.random() < 0.3]
        if depth > 0:
            self._net.journal.note("reorg", depth=depth, dropped=len(dropped))
            self._net.chain.reorg(depth, dropped=dropped)


def plan_of(seed: int) -> Plan:
    """Now and then one attester of five is a liar, whom the quorum carries; now and then there are two aggregators."""
    chance = random.Random(seed)
    roles: dict[str, Make] = {"liar": liar}
    if chance.random() < 0.5:
        roles["attester4"] = chance.choice([naysayer, TwoVotes.from_node])
    return Plan(
        seed=seed,
        attesters=(ETHER,) * 5,
        aggregators=chance.choice([1, 2]),
        dispute_seconds=15,
        roles=roles,
        block_seconds=chance.choice([0.25, 1.0, 3.0]),
    )


async def walk(seed: int, net: Network) -> None:
    chance = random.Random(seed)
    async with asyncio.TaskGroup() as group:
        group.create_task(Chaos(net, chance).rage(net.now() + FAULT_SECONDS))
        asking = [group.create_task(_ask_later(net, "performer", chance.uniform(0, 30))) for _ in range(HONEST_TASKS)]
        lying = [group.create_task(_ask_later(net, "liar", chance.uniform(0, 30))) for _ in range(LIES)]
    for node in net.nodes.values():
        node.steps.fatal = None
        node.start()
    for task in asking:
        assert await net.final(task.result(), limit_seconds=CALM_SECONDS) is Phase.APPROVED
    for task in lying:
        assert await net.final(task.result(), "liar", limit_seconds=CALM_SECONDS) is Phase.REJECTED
        await net.slashed(task.result())
    await net.pause(CALM_SECONDS)  # what a reorg took back is settled again by now, and nothing else happens
    await _agrees(net, [task.result() for task in asking], [task.result() for task in lying])


async def _ask_later(net: Network, performer: str, seconds: float) -> Digest:
    await net.pause(seconds)
    return await net.ask(performer, deadline_seconds=DEADLINE_SECONDS)


async def _agrees(net: Network, honest: list[Digest], lies: list[Digest]) -> None:
    """The chain and the performers, on every task; and nobody honest lost a wei."""
    assert [{found.verdict for found in net.on_chain(task)} for task in honest] == [{Verdict.VALID}] * len(honest)
    assert [{found.verdict for found in net.on_chain(task)} for task in lies] == [{Verdict.INVALID}] * len(lies)
    if net.plan.aggregators == 1:  # several may settle a task under two roots; see test_aggregators
        assert [len(net.on_chain(task)) for task in honest + lies] == [1] * len(honest + lies)
    # An equivocator may go unseen, where one of its votes was lost each time; for each task it is seen on, once.
    liars = {net.address("liar"): Offence.REJECTED_TASK}
    if net.plan.roles.get("attester4") == TwoVotes.from_node:
        liars[net.address("attester4")] = Offence.EQUIVOCATION
    queued = net.slashes(SlashQueued)
    assert [slash.offence for slash in queued] == [liars.get(slash.operator) for slash in queued]
    executed = [slash.slash_id for slash in net.slashes(SlashExecuted)]
    assert len(executed) == len(set(executed)) == len(queued)
    assert sum(slash.operator == net.address("liar") for slash in queued) == len(lies)
    assert await net.stake("liar") == PERFORMER_STAKE * 9 ** len(lies) // 10 ** len(lies)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_network_outlives_a_storm(seed: int) -> None:
    simulate(partial(walk, seed), plan_of(seed))


@pytest.mark.slow
@pytest.mark.parametrize("seed", MORE_SEEDS)
def test_the_network_outlives_many_storms(seed: int) -> None:
    simulate(partial(walk, seed), plan_of(seed))
