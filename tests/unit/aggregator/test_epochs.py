"""Rolling epochs: by whoever is first in the order, when it is due and changes anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from structlog.testing import capture_logs

from aggregator.epochs import RETRY_SECONDS, EpochKeeper
from aggregator.turns import TAKEOVER_SECONDS, place_of
from shared.adapters.memory.chain import MemoryChain
from shared.constants import ROSTER_POLL_SECONDS
from shared.errors import ChainUnavailable, Dropped, Reverted
from shared.roster import RosterWatch
from shared.types import Address, Role
from tests.chain_support import AGGREGATOR, ETHER, TERMS, Person
from tests.faulty_chain import FaultyChain
from tests.listening import running, until, virtual
from tests.roles import World

EPOCH_SECONDS = TERMS.epoch_seconds
OTHERS = [Person("other aggregator"), Person("third aggregator")]
SOON = 4 * ROSTER_POLL_SECONDS


@dataclass
class Keeping:
    """A chain in epoch 1 whose table is fresh, and who looks after it."""

    world: World
    chain: MemoryChain
    watch: RosterWatch

    async def register(self, person: Person, role: Role, stake_wei: int = ETHER) -> None:
        await self.chain.register(person.address, person.registration(self.chain.deployment, role, stake_wei))

    async def someone_joins(self, name: str = "newcomer") -> None:
        await self.register(Person(name), Role.ATTESTER)

    @asynccontextmanager
    async def keeper(self, address: Address) -> AsyncIterator[FaultyChain]:
        faulty = FaultyChain(self.chain)
        keeper = EpochKeeper(
            address=address,
            roster=lambda: self.watch.current,
            epochs=faulty,
            settlement=faulty,
            clock=self.world.clock,
        )
        async with running(keeper.run()):
            yield faulty

    async def epoch_is(self, epoch: int, limit_seconds: float) -> float:
        """When it came."""
        await until(lambda: self.chain._state().tables.epoch == epoch, f"epoch {epoch}", limit_seconds)
        return asyncio.get_running_loop().time()


@asynccontextmanager
async def keeping(*aggregators: Person) -> AsyncIterator[Keeping]:
    async with World() as world:
        chain = await world.chain()
        watch = RosterWatch(chain)
        k = Keeping(world, chain, watch)
        for person in aggregators:
            await k.register(person, Role.AGGREGATOR)
        await watch.refresh()
        async with running(watch.run()):
            yield k


async def _sleep(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return asyncio.get_running_loop().time()


@virtual
async def test_a_stale_table_is_rolled_when_it_is_due_and_not_before() -> None:
    async with keeping(AGGREGATOR) as k, k.keeper(AGGREGATOR.address) as faulty:
        await k.someone_joins()
        due = await k.chain.rollable_at() - k.world.clock.now()
        await asyncio.sleep(due - 1)
        assert faulty.count("roll") == 0
        await k.epoch_is(2, SOON)
        table = await k.chain.operator_table(2)
        assert table is not None
        assert [entry.address for entry in table.entries][-1] == Person("newcomer").address
        await asyncio.sleep(3 * EPOCH_SECONDS)  # fresh again
        assert (await k.chain.current_epoch(), faulty.count("roll")) == (2, 1)
        assert faulty.count("power_unit") == 1  # it never changes


@virtual
async def test_a_fresh_table_is_left_alone_however_long_it_is_due() -> None:
    async with keeping(AGGREGATOR) as k, k.keeper(AGGREGATOR.address) as faulty:
        await asyncio.sleep(5 * EPOCH_SECONDS)
        assert (await k.chain.current_epoch(), faulty.count("roll")) == (1, 0)


@virtual
async def test_an_exit_is_rolled_at_once() -> None:
    async with keeping(AGGREGATOR) as k, k.keeper(AGGREGATOR.address):
        await k.chain.leave(k.world.people[0].address)
        await k.epoch_is(2, SOON)
        table = await k.chain.operator_table(2)
        assert table is not None
        assert table.index_of(k.world.people[0].address) is None


def _in_order(people: list[Person]) -> list[Person]:
    async def order() -> list[Person]:
        async with keeping(*people) as k:
            return sorted(people, key=lambda person: place_of(person.address, 1, k.watch.current.operators))

    return asyncio.run(order())


FIRST, SECOND, THIRD = _in_order([AGGREGATOR, *OTHERS])


@pytest.mark.parametrize(("person", "place"), [(FIRST, 0), (SECOND, 1), (THIRD, 2)], ids=["first", "second", "third"])
@pytest.mark.parametrize("long_due", [False, True])
@virtual
async def test_who_is_later_in_the_order_waits_for_those_before_it(person: Person, place: int, long_due: bool) -> None:
    """From when there is something to roll, not from when the contract would have taken a roll that changes nothing."""
    async with keeping(FIRST, SECOND, THIRD) as k, k.keeper(person.address):
        if long_due:
            await asyncio.sleep(5 * EPOCH_SECONDS)
        await k.someone_joins()
        begin = max(asyncio.get_running_loop().time(), await k.chain.rollable_at() - k.world.clock.now() + _now())
        rolled = await k.epoch_is(2, 2 * EPOCH_SECONDS)
        assert place * TAKEOVER_SECONDS <= rolled - begin <= place * TAKEOVER_SECONDS + 2 * SOON


def _now() -> float:
    return asyncio.get_running_loop().time()


@virtual
async def test_the_second_sends_nothing_when_the_first_is_there() -> None:
    async with keeping(FIRST, SECOND) as k, k.keeper(FIRST.address) as first, k.keeper(SECOND.address) as second:
        await k.someone_joins()
        await k.epoch_is(2, 2 * EPOCH_SECONDS)
        await asyncio.sleep(EPOCH_SECONDS)
        assert (first.count("roll"), second.count("roll")) == (1, 0)


@virtual
async def test_somebody_who_is_faster_is_no_trouble() -> None:
    async with keeping(AGGREGATOR) as k, k.keeper(AGGREGATOR.address) as faulty:
        await k.someone_joins()
        faulty.fail("roll", Reverted("EpochNotOver", (1,)))
        with capture_logs() as logs:
            await asyncio.sleep(EPOCH_SECONDS)
            await k.chain.roll_epoch()
            await asyncio.sleep(2 * RETRY_SECONDS)
        assert [entry["log_level"] for entry in logs] == ["info"]
        assert await k.chain.current_epoch() == 2


@pytest.mark.parametrize("call", ["power_unit", "rollable_at", "roll", "confirm"])
@pytest.mark.parametrize("trouble", [ChainUnavailable("away"), Dropped("gone")])
@virtual
async def test_an_outage_delays_it(call: str, trouble: Exception) -> None:
    async with keeping(AGGREGATOR) as k, k.keeper(AGGREGATOR.address) as faulty:
        faulty.fail(call, trouble)
        await k.someone_joins()
        await k.epoch_is(2, EPOCH_SECONDS + 2 * RETRY_SECONDS)
        await asyncio.sleep(2 * EPOCH_SECONDS)
        assert await k.chain.current_epoch() == 2


@virtual
async def test_before_the_first_epoch_nobody_rolls() -> None:
    """That is the deployer's, who knows when the first attesters are there."""
    async with World() as world:
        chain = MemoryChain(TERMS)
        k = Keeping(world, chain, RosterWatch(chain))
        await k.watch.refresh()
        async with k.keeper(AGGREGATOR.address) as faulty:
            await k.someone_joins()
            await k.watch.refresh()
            await asyncio.sleep(EPOCH_SECONDS)
            assert (await chain.current_epoch(), faulty.count("roll")) == (0, 0)
