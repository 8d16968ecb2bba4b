"""Before the work (protocol §8.2): a fee that is too low, a deposit that does not cover it, and what is promised."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from performer.earnings import UNCOLLECTED
from performer.ledger import NONCE, TASK
from shared.errors import ChainUnavailable, RequestRefused
from shared.types import Verdict
from shared.workflow import Failed, Phase
from tests.cast import REQUESTER
from tests.chain_support import FEES, PERFORMER, Person
from tests.doors import asking, open_door
from tests.listening import until, virtual
from tests.shop import FEE, Market, Shop, market, open_shop

OTHER = Person("another requester")


@asynccontextmanager
async def shop_with(amount: int) -> AsyncIterator[tuple[Market, Shop]]:
    """And a deposit."""
    async with market() as place:
        if amount:
            await place.deposit(amount)
        async with open_shop(place) as shop:
            yield place, shop


async def refusal(shop: Shop, nonce: int = 1, **changes: Any) -> RequestRefused:
    """And no task was taken."""

    def taken() -> set[tuple[str, bytes]]:
        return {(kind, key) for kind, key in shop.desk.file.entries if kind in (TASK, NONCE)}

    before = taken()
    with pytest.raises(RequestRefused) as refused:
        await shop.ask(nonce, **changes)
    assert taken() == before
    return refused.value


def missing(amount: int) -> str:
    return f"TaskEscrow.deposit of {amount} more for 0x{PERFORMER.address.hex()} first"


# --- the fee -----------------------------------------------------------------------------------------
@virtual
async def test_a_fee_below_the_definitions_is_refused_with_what_is_needed() -> None:
    async with shop_with(10 * FEE) as (_, shop):
        for fee in (0, 1, FEES.total - 1):
            error = await refusal(shop, fee=fee)
            assert (error.code, error.field, error.expected) == (-32007, "request.fee", f"at least {FEES.total}")
            assert str(error) == "the fee is below the task definition's"
        await shop.ask(fee=FEES.total)


# --- the deposit -------------------------------------------------------------------------------------
@virtual
async def test_a_deposit_that_is_too_small_is_refused_with_what_is_missing() -> None:
    async with shop_with(FEE - 3) as (place, shop):
        error = await refusal(shop)
        assert (error.code, error.field, error.expected) == (-32007, "request.fee", missing(3))
        assert str(error) == (
            f"the deposit for this performer has {FEE - 3}: 0 are promised to other tasks and 0 are being refunded"
        )
        assert (await refusal(shop, fee=2**256 - 1)).expected == missing(2**256 - 1 - (FEE - 3))
        assert (await refusal(shop, requester=OTHER)).expected == missing(FEE)
        await place.deposit(3)
        await shop.ask()


async def test_the_door_says_so_too() -> None:
    async with open_door() as door:
        await door.desk.performer.earnings.load()
        await door.is_refused(asking(fee=1)(door.world), -32007, "request.fee", missing(1))
        await door.is_refused(asking(fee=2**256 - 1)(door.world), -32007, "request.fee", missing(2**256 - 1))


@virtual
async def test_of_two_at_the_same_moment_that_one_deposit_covers_one_is_taken() -> None:
    async with shop_with(2 * FEE - 1) as (_, shop):
        answers = await asyncio.gather(shop.ask(1), shop.ask(2), return_exceptions=True)
        refusals = [answer for answer in answers if isinstance(answer, RequestRefused)]
        assert [(error.code, error.expected) for error in refusals] == [(-32007, missing(1))]
        assert shop.desk.ledger.count_open() == 1


@virtual
async def test_the_same_request_at_the_same_moment_leans_on_its_own_promise() -> None:
    async with shop_with(FEE) as (_, shop):
        first, second = await asyncio.gather(shop.ask(), shop.ask())
        assert first == second == await shop.ask()
        assert shop.desk.ledger.count_open() == 1


@virtual
async def test_another_requesters_tasks_promise_nothing() -> None:
    async with shop_with(FEE) as (place, shop):
        await place.deposit(FEE, OTHER)
        await shop.ask(1)
        await shop.ask(1, requester=OTHER)
        assert (await refusal(shop, 2)).expected == missing(FEE)


# --- what is promised --------------------------------------------------------------------------------
@virtual
async def test_open_and_uncollected_tasks_are_promised_and_collected_ones_are_not() -> None:
    async with shop_with(2 * FEE) as (place, shop):
        earnings = shop.desk.performer.earnings
        shop.chain.fail("collect", *[ChainUnavailable("away")] * 3)
        task_id = await shop.ask(1)
        await shop.ask(2)
        assert earnings.promised_by(REQUESTER.address) == 2 * FEE
        assert earnings.promised_by(OTHER.address) == 0
        assert (await refusal(shop, 3)).expected == missing(FEE)
        await place.settle(await place.certificate(task_id))
        await until(lambda: shop.chain.count("collect"), "it tries to collect")
        task = shop.desk.ledger.get(task_id)
        assert task is not None
        assert task.phase is Phase.APPROVED
        assert earnings.promised_by(REQUESTER.address) == 2 * FEE
        assert (await refusal(shop, 3)).expected == missing(FEE)
        await shop.collected(task_id)
        assert (earnings.promised_by(REQUESTER.address), await place.left()) == (FEE, FEE)
        await place.deposit(FEE)
        await shop.ask(3)


@virtual
async def test_at_no_moment_of_a_settlement_is_its_fee_unpromised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the verdict and the books a second task could lean on the same coin."""
    async with shop_with(FEE) as (place, shop):
        earnings, put = shop.desk.performer.earnings, shop.desk.store.put
        seen: list[tuple[str, int]] = []

        async def spy(kind: str, key: bytes, value: bytes) -> None:
            seen.append((kind, earnings.promised_by(REQUESTER.address)))
            await put(kind, key, value)
            seen.append((kind, earnings.promised_by(REQUESTER.address)))

        task_id = await shop.ask()
        certificate = await place.certificate(task_id)
        monkeypatch.setattr(shop.desk.store, "put", spy)
        await place.settle(certificate)
        await until(lambda: earnings._fees, "the fee is in the books")
        await until(lambda: any(kind == "cursor" for kind, _ in seen), "the event is done with")
        assert {kind for kind, _ in seen} >= {UNCOLLECTED, "task", "cursor"}
        assert {promised for _, promised in seen} == {FEE}


@virtual
async def test_what_is_paid_and_not_confirmed_yet_is_no_promise() -> None:
    """Else the escrow's debit and the promise would count the same coin twice, and refuse who has enough."""
    async with shop_with(FEE) as (place, shop):
        shop.chain.fail("confirm", *[ChainUnavailable("slow")] * 20)
        task_id = await shop.ask(1)
        await place.settle(await place.certificate(task_id))
        await until(lambda: shop.chain.count("confirm"), "the collection is sent")
        await place.deposit(FEE)
        await shop.ask(2)
        assert (await refusal(shop, 3)).expected == missing(FEE)


@virtual
async def test_a_task_that_failed_here_is_no_promise() -> None:
    async with shop_with(FEE) as (_, shop):
        task_id = await shop.ask(1)
        await shop.desk.ledger.advance(task_id, Failed("the engine is on fire"))
        await shop.ask(2)


@virtual
async def test_a_rejected_task_leaves_the_performers_part_for_another() -> None:
    async with shop_with(FEE) as (place, shop):
        task_id = await shop.ask(1)
        await place.settle(await place.certificate(task_id, Verdict.INVALID))
        await shop.collected(task_id)
        left = FEE - FEES.attesters - FEES.aggregator
        assert await place.left() == left
        await place.deposit(FEE - left)
        await shop.ask(2)


@virtual
async def test_promises_survive_kill_9() -> None:
    async with market() as place:
        await place.deposit(2 * FEE)
        async with open_shop(place) as shop:
            shop.chain.fail("collect", *[ChainUnavailable("away")] * 100)
            settled, _ = await shop.ask(1), await shop.ask(2)
            await place.settle(await place.certificate(settled))
            await until(lambda: shop.chain.count("collect"), "it tries to collect")
        async with open_shop(place) as shop:
            shop.chain.fail("collect", *[ChainUnavailable("away")] * 100)
            assert (await refusal(shop, 3)).expected == missing(FEE)


@virtual
async def test_before_it_remembers_its_promises_it_takes_nothing_for_a_fee() -> None:
    async with market() as place:
        await place.deposit(FEE)
        async with place.world.performer(chain=place.truth.connect()) as desk:
            with pytest.raises(RequestRefused, match="the performer is starting") as refused:
                await desk.request(place.form())
            assert (refused.value.code, refused.value.expected) == (-32006, "try again in a moment")
            await desk.performer.earnings.load()
            await desk.request(place.form())


# --- refunds and used nonces ---------------------------------------------------------------------------
@virtual
async def test_what_is_being_refunded_covers_nothing() -> None:
    async with shop_with(FEE + 10) as (place, shop):
        await place.truth.start_refund(REQUESTER.address, PERFORMER.address, 11)
        error = await refusal(shop)
        assert (error.code, error.expected) == (-32007, missing(1))
        assert str(error).endswith("0 are promised to other tasks and 11 are being refunded")
        await place.deposit(1)
        await shop.ask()


@virtual
async def test_a_nonce_that_the_escrow_paid_for_is_refused_by_a_performer_that_forgot_it() -> None:
    async with market() as place:
        await place.deposit(2 * FEE)
        async with open_shop(place) as shop:
            task_id = await shop.ask(1)
            await place.settle(await place.certificate(task_id))
            await shop.collected(task_id)
        del place.world.files["performer"]
        async with open_shop(place) as shop:
            error = await refusal(shop, 1)
            assert (error.code, error.field, error.expected) == (-32010, "request.nonce", "a fresh nonce")
            assert str(error) == "the nonce was paid for already"
            await shop.ask(2)


@virtual
async def test_a_chain_that_is_away_takes_nothing_for_a_fee() -> None:
    async with shop_with(FEE) as (_, shop):
        for method in ("is_paid", "deposit_of"):
            shop.chain.fail(method, ChainUnavailable("the node is down"))
            error = await refusal(shop)
            assert (error.code, str(error)) == (-32006, "the node is down")
        await shop.ask()
