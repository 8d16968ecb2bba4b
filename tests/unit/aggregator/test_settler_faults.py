"""No certificate is lost: not by a chain that is away, not by a reorg, not by kill -9 at any step."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any, cast

import pytest

from aggregator.finality import LOOKS_SECONDS, RETRY_MAX_SECONDS, SETTLED
from aggregator.settler import BATCH, UNSETTLED
from shared.adapters.memory.chain import MemoryChain
from shared.adapters.memory.store import MemoryStore
from shared.errors import ChainUnavailable, Dropped, StoreError
from shared.messages import SubmittedMessage
from shared.types import Verdict
from tests.listening import until, virtual
from tests.office import Office, TakesAll, by_root, included, office
from tests.roles import World


# --- the chain is away ---------------------------------------------------------------------------------
@virtual
async def test_a_chain_that_is_away_is_waited_for() -> None:
    async with office() as o:
        o.chain.is_down = True
        certificates = await o.take("a", "b")
        await o.take("x", verdict=Verdict.INVALID)
        await asyncio.sleep(1000)
        assert o.stored(UNSETTLED) == 3
        distances = _distances(o.faulty.times("submit_task"))
        assert distances[:6] == pytest.approx([1, 2, 4, 8, 16, RETRY_MAX_SECONDS])
        assert max(distances) == pytest.approx(RETRY_MAX_SECONDS)
        o.chain.is_down = False
        await o.is_done()
        assert await o.verdict_of("x") is Verdict.INVALID
        assert [await included(o, certificate) for certificate in certificates] == [True] * 2


@pytest.mark.parametrize("trouble", [Dropped("the nonce was used"), ChainUnavailable("not mined in time")])
@virtual
async def test_a_transaction_that_is_lost_is_sent_again(trouble: Exception) -> None:
    async with office() as o:
        o.faulty.fail("confirm", trouble, trouble)
        await o.take("x", verdict=Verdict.INVALID)
        await o.is_done()
        assert await o.verdict_of("x") is Verdict.INVALID


@virtual
async def test_a_transaction_that_a_reorg_dropped_is_sent_again() -> None:
    async with office() as o:
        await o.take("x", verdict=Verdict.INVALID)
        hint = (await o.bystander.hears(SubmittedMessage))[0]
        o.chain.reorg(1, dropped=[hint.tx_hash])
        await o.is_done()
        assert await o.verdict_of("x") is Verdict.INVALID
        assert o.faulty.count("submit_task") == 2


@pytest.mark.parametrize("names", ["x", "xy"], ids=["alone", "in a batch"])
@virtual
async def test_what_a_reorg_took_back_is_settled_again_as_it_was(names: str) -> None:
    async with office() as o:
        certificates = await o.take(*names)
        await o.is_done()
        hint = (await o.bystander.hears(SubmittedMessage))[0]
        o.chain.reorg(10, dropped=[hint.tx_hash])
        assert o.chain._state().center.records == {}
        assert o.chain._state().center.batches == {}
        await asyncio.sleep(sum(LOOKS_SECONDS) + 60)
        alone = [await o.verdict_of(name) for name in names]
        assert alone == ([Verdict.VALID] if len(names) == 1 else [None, None])
        o.faulty.batches = by_root(o.faulty.batches)
        assert len(o.faulty.batches) == len(names) - 1
        assert [await included(o, certificate) for certificate in certificates] == [len(names) > 1] * len(names)
        await asyncio.sleep(sum(LOOKS_SECONDS) + 60)
        assert o.file.entries == {}


@virtual
async def test_one_that_was_mined_while_nobody_looked_is_not_sent_twice() -> None:
    """The confirmation was lost, not the transaction: the second submission finds it settled."""
    async with office() as o:
        o.faulty.fail("confirm", ChainUnavailable("no answer"))
        await o.take("x", verdict=Verdict.INVALID)
        o.faulty.fail("submit_task", None)
        await o.is_done()
        assert await o.verdict_of("x") is Verdict.INVALID
        assert len(o.chain._state().court.slashes) == 1


@virtual
async def test_it_never_gives_up_and_asks_ever_less_often() -> None:
    async with office() as o:
        o.faulty.fail("confirm", *[Dropped("gone")] * 20)
        o.faulty.fail("submit_task", *[None] * 20)
        o.faulty.chain = cast("MemoryChain", TakesAll())
        await o.take("x", verdict=Verdict.INVALID)
        await asyncio.sleep(1000)
        assert o.faulty.count("submit_task") == 21
        assert _distances(o.faulty.times("submit_task"))[:6] == pytest.approx([1, 2, 4, 8, 16, RETRY_MAX_SECONDS])
        assert o.stored(UNSETTLED) == 0


def _distances(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(times)]


@virtual
async def test_a_settlement_is_kept_before_its_certificate_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a crash between the two, and a reorg after it, would lose the task."""
    async with office() as o:
        put, delete = o.store.put, o.store.delete
        changes: list[tuple[str, str]] = []

        async def spy_put(kind: str, key: bytes, value: bytes) -> None:
            changes.append(("put", kind))
            await put(kind, key, value)

        async def spy_delete(kind: str, key: bytes) -> None:
            changes.append(("delete", kind))
            await delete(kind, key)

        monkeypatch.setattr(o.store, "put", spy_put)
        monkeypatch.setattr(o.store, "delete", spy_delete)
        await o.take("x", verdict=Verdict.INVALID)
        await o.is_done()
        await asyncio.sleep(sum(LOOKS_SECONDS) + 10)
        assert [change for change in changes if change[1] in (UNSETTLED, SETTLED)] == [
            ("put", UNSETTLED),
            ("put", SETTLED),
            ("delete", UNSETTLED),
            ("delete", SETTLED),
        ]


# --- kill -9 -------------------------------------------------------------------------------------------
@virtual
async def test_what_was_added_is_settled_by_the_next_run() -> None:
    async with World() as world:
        chain = await world.chain()
        async with office(world=world, chain=chain, begin=False) as o:
            await o.take("a", "b")
            await o.take("x", verdict=Verdict.INVALID)
        async with office(world=world, chain=chain) as o:
            await o.is_done()
            assert await o.verdict_of("x") is Verdict.INVALID
            assert [submission.batch.size for submission in o.faulty.batches] == [2]


@virtual
async def test_a_certificate_that_cannot_be_stored_is_not_taken() -> None:
    async with office() as o:
        o.file.kill()
        with pytest.raises(StoreError):
            await o.take("a")
        await asyncio.sleep(10)
        assert (o.faulty.count("submit_task"), o.faulty.count("submit_batch"), o.file.entries) == (0, 0, {})


@pytest.mark.parametrize("is_mined", [True, False])
@virtual
async def test_a_batch_that_was_half_submitted_is_settled_once(is_mined: bool) -> None:
    async with World() as world:
        chain = await world.chain()
        async with office(world=world, chain=chain) as o:
            certificates = await o.take("a", "b")
            await until(lambda: o.faulty.count("confirm" if is_mined else "submit_batch"), "it is being submitted")
            assert o.stored(BATCH) == 1
            if not is_mined:
                hint = (await o.bystander.hears(SubmittedMessage))[0]
                chain.reorg(1, dropped=[hint.tx_hash])
        await asyncio.sleep(10)
        async with office(world=world, chain=chain) as again:
            await again.is_done()
            assert again.faulty.count("submit_task") == 0
            assert again.faulty.count("submit_batch") == (0 if is_mined else 1)
            everything = o.faulty.batches + again.faulty.batches
            assert await chain.is_batch_settled(everything[-1].batch.root)
            again.faulty.batches = everything
            assert [await included(again, certificate) for certificate in certificates] == [True] * 2


@pytest.mark.parametrize("is_mined", [True, False])
@virtual
async def test_one_that_was_sent_alone_never_joins_a_batch(is_mined: bool) -> None:
    """It would be settled twice, and nothing on the chain says so."""
    async with World() as world:
        chain = await world.chain()
        async with office(world=world, chain=chain) as o:
            [certificate] = await o.take("a")
            hint = (await o.bystander.hears(SubmittedMessage))[0]
            if not is_mined:
                chain.reorg(1, dropped=[hint.tx_hash])
        async with office(world=world, chain=chain) as again:
            others = await again.take("b", "c")
            await again.is_done()
            assert await again.verdict_of("a") is Verdict.VALID
            assert [await included(again, other) for other in (certificate, *others)] == [False, True, True]


@virtual
async def test_recovery_waits_for_the_chain() -> None:
    async with World() as world:
        chain = await world.chain()
        async with office(world=world, chain=chain) as o:
            await o.take("a", "b")
            await until(lambda: o.stored(BATCH), "it is being submitted")
        await asyncio.sleep(10)
        chain.is_down = True
        async with office(world=world, chain=chain) as again:
            await asyncio.sleep(100)
            assert again.stored(UNSETTLED) == 2
            chain.is_down = False
            await again.is_done()
            assert again.faulty.count("submit_batch") == 0


class DyingStore:
    """Lets `count` changes through; then the process is dead, before or after the next one reached the disk."""

    def __init__(self, store: MemoryStore, count: int, *, is_after: bool) -> None:
        self.left, self.is_after, self.died = count, is_after, asyncio.Event()
        self.keys = set[tuple[str, bytes]]()  # of everything that ever reached the disk
        for name in ("put", "delete"):
            setattr(store, name, self._wrap(store, getattr(store, name)))

    def _wrap(self, store: MemoryStore, change: Any) -> Any:
        async def count(*arguments: Any) -> None:
            self.left -= 1
            if self.left >= 0 or (self.left == -1 and self.is_after):
                self.keys.add((arguments[0], arguments[1]))
                await change(*arguments)
            if self.left >= 0:
                return
            store._file.kill()
            self.died.set()
            await asyncio.get_running_loop().create_future()

        return count


@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("changes", range(13))
@virtual
async def test_kill_9_at_any_change_of_the_disk_loses_no_certificate(changes: int, is_after: bool) -> None:
    """Two approvals and a rejection make a dozen: added, sent alone, sent in a batch, settled, forgotten. Each settles
    once, alone or in a batch."""
    async with World() as world:
        chain = await world.chain()
        async with office(world=world, chain=chain) as o:
            dying = DyingStore(o.store, changes, is_after=is_after)
            adding = asyncio.create_task(_add_all(o))
            await asyncio.wait(
                [asyncio.create_task(dying.died.wait()), asyncio.create_task(asyncio.sleep(20))],
                return_when=asyncio.FIRST_COMPLETED,
            )
            adding.cancel()
            acknowledged = dying.keys & {(UNSETTLED, world.info(name).task_id) for name in "abx"}
            batches = list(o.faulty.batches)
        async with office(world=world, chain=chain) as again:
            await again.is_done()
            again.faulty.batches = by_root(batches + again.faulty.batches)
            for name in "abx":
                verdict = Verdict.INVALID if name == "x" else Verdict.VALID
                certificate = world.certificate(world.info(name), verdict)
                settled = [await again.verdict_of(name) is verdict, await included(again, certificate)]
                assert sum(settled) == ((UNSETTLED, world.info(name).task_id) in acknowledged)
            await asyncio.sleep(sum(LOOKS_SECONDS) + 10)
            assert again.file.entries == {}


async def _add_all(o: Office) -> None:
    await o.take("a", "b")
    await o.take("x", verdict=Verdict.INVALID)
