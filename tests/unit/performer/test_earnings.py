"""After the verdict (protocol §8.2): fees to the wei, none lost and none paid twice, whatever dies or is away."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import pytest
from structlog.testing import capture_logs

from performer import earnings as earnings_module
from performer.earnings import (
    COLLECTED,
    GATHER_SECONDS,
    LOOKS_SECONDS,
    MAX_COLLECTIONS,
    MAX_TRANSACTION_BYTES,
    PARALLEL,
    REFUSED_RETRY_SECONDS,
    UNCOLLECTED,
    Earnings,
    _Fee,
)
from performer.ledger import TaskLedger
from shared.adapters.chain_evm.abi import escrow_abi
from shared.adapters.chain_evm.escrow import _collection
from shared.adapters.memory.chain import MemoryChain
from shared.adapters.memory.store import MemoryFile, MemoryStore
from shared.constants import MAX_BATCH_SIZE, MAX_PARAMETERS_BYTES, MAX_SEATS
from shared.errors import ChainUnavailable, Dropped, Reverted, StoreError
from shared.interfaces import Collection
from shared.json_forms import to_hex
from shared.types import Digest, Verdict
from tests.cast import REQUESTER, Cast
from tests.chain_support import AGGREGATOR, FEES, PERFORMER, Person, sha
from tests.faulty_chain import FaultyChain
from tests.listening import until, virtual
from tests.roles import TERMS
from tests.shop import FEE, Market, Shop, market, open_shop

OTHER = Person("another requester")
PERFORMERS = FEE - FEES.attesters - FEES.aggregator
AWAY = ChainUnavailable("the node is down")


def kinds(shop: Shop) -> list[str]:
    return sorted(kind for kind, _ in shop.desk.file.entries if kind in (UNCOLLECTED, COLLECTED))


def remembered(shop: Shop) -> int:
    return len(shop.desk.performer.earnings._fees)


async def view_of(shop: Shop, task_id: Digest) -> dict[str, object]:
    view = await shop.desk.door._get_task({"taskId": to_hex(task_id)})
    fee: dict[str, object] = view["fee"]
    return fee


# --- to the wei --------------------------------------------------------------------------------------
@virtual
async def test_a_task_that_settled_by_itself_is_paid_to_the_wei() -> None:
    async with market() as place, open_shop(place) as shop:
        await place.deposit(FEE + 1)
        task_id = await shop.ask()
        assert await view_of(shop, task_id) == {"amount": str(FEE), "isCollected": None}
        certificate = await place.certificate(task_id, signers=(0, 2, 3))
        shop.chain.fail("collect", AWAY)
        await place.settle(certificate)
        await until(lambda: shop.chain.count("collect"), "it tries to collect")
        assert await view_of(shop, task_id) == {"amount": str(FEE), "isCollected": False}
        await shop.collected(task_id)
        assert await view_of(shop, task_id) == {"amount": str(FEE), "isCollected": True}
        assert await place.earned() == (PERFORMERS, FEES.aggregator)
        assert await place.shares(certificate) == [FEES.attesters // 3, 0, FEES.attesters // 3, FEES.attesters // 3]
        assert await place.left() == 1


@virtual
async def test_a_batch_is_paid_to_the_wei_in_one_transaction_and_a_contract_can_check_it() -> None:
    async with market() as place, open_shop(place) as shop:
        await place.deposit(3 * FEE + 7)
        ids = [await shop.ask(nonce, fee=FEE + nonce) for nonce in range(3)]
        certificates = [await place.certificate(task_id) for task_id in ids]
        await place.settle_batch(certificates)
        await shop.collected(*ids)
        assert shop.chain.count("collect") == 1
        assert await place.earned() == (3 * PERFORMERS + 3, 3 * FEES.aggregator)
        assert await place.shares(certificates[0]) == [3 * FEES.attesters // 4] * 4
        assert await place.left() == 4
        for task_id in ids:
            view = await shop.desk.door._get_task({"taskId": to_hex(task_id)})
            assert view["fee"]["isCollected"] is True
            told = view["settlement"]["inclusion"]
            named = [bytes.fromhex(told[name][2:]) for name in ("root", "taskInfoHash", "votersHash")]
            root, info_hash, voters_hash = map(Digest, named)
            proof = [bytes.fromhex(sibling[2:]) for sibling in told["proof"]]
            assert told["isApproved"] is True
            assert await place.truth.included(root, task_id, info_hash, True, voters_hash, proof)
            assert not await place.truth.included(root, task_id, info_hash, False, voters_hash, proof)


@virtual
async def test_a_rejected_task_pays_the_performer_nothing() -> None:
    async with market() as place, open_shop(place) as shop:
        await place.deposit(FEE)
        task_id = await shop.ask()
        certificate = await place.certificate(task_id, Verdict.INVALID, signers=(1, 2))
        await place.settle(certificate)
        await shop.collected(task_id)
        assert await place.earned() == (0, FEES.aggregator)
        assert await place.shares(certificate) == [0, FEES.attesters // 2, FEES.attesters // 2, 0]
        assert await place.left() == PERFORMERS


@virtual
async def test_both_verdicts_and_two_requesters_go_in_one_transaction() -> None:
    async with market() as place, open_shop(place) as shop:
        await place.deposit(FEE)
        await place.deposit(FEE, OTHER)
        ids = [await shop.ask(), await shop.ask(requester=OTHER)]
        await place.settle_batch(
            [await place.certificate(ids[0]), await place.certificate(ids[1], Verdict.INVALID)],
        )
        await shop.collected(*ids)
        assert shop.chain.count("collect") == 1
        assert await place.earned() == (PERFORMERS, 2 * FEES.aggregator)
        assert (await place.left(), await place.left(OTHER)) == (0, PERFORMERS)


@virtual
async def test_a_task_without_a_fee_is_nothing_to_collect() -> None:
    async with market() as place, open_shop(place) as shop:
        definition = place.world.roster.definitions[0]
        free = msgspec.structs.replace(definition.terms, fees=type(FEES)())
        place.world.define(msgspec.structs.replace(definition, terms=free))
        task_id = await shop.ask(fee=0)
        await place.settle(await place.certificate(task_id))
        await asyncio.sleep(60)
        task = shop.desk.ledger.get(task_id)
        assert task is not None
        assert task.phase == "approved"
        assert (shop.chain.count("collect"), kinds(shop)) == (0, [])
        assert await view_of(shop, task_id) == {"amount": "0", "isCollected": None}


# --- kill -9 -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("write", range(16))
@virtual
async def test_kill_9_at_any_write_loses_no_fee_and_pays_none_twice(write: int) -> None:
    """From the verdict to the last look, before and after each thing that is written."""
    async with market() as place:
        await place.deposit(3 * FEE)
        async with place.world.performer(chain=place.truth.connect()) as desk:
            duty = asyncio.create_task(desk.performer.run())
            await until(lambda: desk.performer.earnings._is_loaded, "it runs")
            ids = [await desk.request(place.form(nonce)) for nonce in range(3)]
            certificates = [await place.certificate(task_id) for task_id in ids]
            put, delete, writes = desk.store.put, desk.store.delete, 0

            def count() -> None:
                nonlocal writes
                if writes == write:
                    desk.file.kill()
                writes += 1

            async def put_or_die(kind: str, key: bytes, value: bytes) -> None:
                count()
                await put(kind, key, value)

            async def delete_or_die(kind: str, key: bytes) -> None:
                count()
                await delete(kind, key)

            desk.store.put, desk.store.delete = put_or_die, delete_or_die  # type: ignore[method-assign]
            await place.settle(certificates[0])
            await place.settle_batch(certificates[1:])
            with pytest.raises(ExceptionGroup) as ended:
                await asyncio.wait_for(duty, 2000)
            assert ended.group_contains(StoreError)
        async with open_shop(place) as shop:
            await until(lambda: kinds(shop) == [COLLECTED] * 3, "all is collected for good", 2000)
            assert await place.earned() == (3 * PERFORMERS, 3 * FEES.aggregator)
            assert await place.left() == 0
            assert [await view_of(shop, task_id) for task_id in ids] == [{"amount": str(FEE), "isCollected": True}] * 3


@virtual
async def test_kill_9_while_the_collection_is_under_way_pays_once() -> None:
    async with market() as place:
        await place.deposit(2 * FEE)
        async with open_shop(place) as shop:
            ids = [await shop.ask(1), await shop.ask(2)]
            await place.settle_batch([await place.certificate(task_id) for task_id in ids])
            await until(lambda: shop.chain.count("confirm"), "it is sent")
        async with open_shop(place) as shop:
            await shop.collected(*ids)
            assert await place.earned() == (2 * PERFORMERS, 2 * FEES.aggregator)
            assert await place.left() == 0


@virtual
async def test_what_anybody_else_collected_is_seen_to_be_paid_and_the_rest_is_collected() -> None:
    async with market() as place, open_shop(place) as shop:
        await place.deposit(3 * FEE)
        shop.chain.fail("collect", AWAY)
        ids = [await shop.ask(nonce) for nonce in range(3)]
        await place.settle_batch([await place.certificate(task_id) for task_id in ids])
        await until(lambda: remembered(shop) == 3, "the fees are in the books")
        one = shop.desk.performer.earnings._fees[ids[1]].settlements[0]
        await place.truth.confirm(await place.truth.collect([one]), 10)
        await shop.collected(*ids)
        assert shop.chain.count("collect") == 3  # the node was down; one of them was paid; the rest
        assert await place.earned() == (3 * PERFORMERS, 3 * FEES.aggregator)


# --- what cannot be collected ------------------------------------------------------------------------
async def poor_among(place: Market, shop: Shop, count: int, poor: int) -> list[Digest]:
    """Tasks, settled in one batch, of which one requester took its deposit back meanwhile."""
    requesters = [OTHER if number == poor else REQUESTER for number in range(count)]
    ids = []
    for number, requester in enumerate(requesters):
        await place.deposit(FEE, requester)
        ids.append(await shop.ask(number, requester=requester))
    certificates = [await place.certificate(task_id) for task_id in ids]
    await place.truth.start_refund(OTHER.address, PERFORMER.address, FEE)
    place.truth.warp(TERMS.refund_delay_seconds)
    await place.truth.refund(OTHER.address, PERFORMER.address)
    await place.settle_batch(certificates)
    return ids


@pytest.mark.parametrize("poor", [0, 3, 6])
@virtual
async def test_one_bad_collection_does_not_hold_up_the_others(poor: int) -> None:
    async with market() as place, open_shop(place) as shop:
        with capture_logs() as logs:
            ids = await poor_among(place, shop, 7, poor)
            good = [task_id for task_id in ids if task_id != ids[poor]]
            await shop.collected(*good)
        assert await place.earned() == (6 * PERFORMERS, 6 * FEES.aggregator)
        refused = [entry for entry in logs if entry["event"] == "a fee is not paid"]
        assert [entry["task"] for entry in refused] == [ids[poor].hex()[:8]]
        assert refused[0]["reason"].startswith("reverted: DepositTooSmall")
        # By halves: of seven, at most three transactions, and the refusals cost nothing.
        assert shop.chain.count("confirm") <= 3
        assert await view_of(shop, ids[poor]) == {"amount": str(FEE), "isCollected": False}
        # Later ones neither.
        await place.deposit(FEE)
        later = await shop.ask(99)
        await place.settle(await place.certificate(later))
        await shop.collected(later)
        # And once it can be paid, it is, though others keep the performer busy.
        await place.deposit(FEE, OTHER)
        tries = shop.chain.count("collect")
        await asyncio.sleep(REFUSED_RETRY_SECONDS / 2)
        assert shop.chain.count("collect") == tries
        await shop.collected(ids[poor], limit_seconds=REFUSED_RETRY_SECONDS)
        assert await place.earned() == (8 * PERFORMERS, 8 * FEES.aggregator)


@virtual
async def test_a_settlement_that_a_reorg_took_is_tried_again_when_it_is_back() -> None:
    """Not only after an hour: the chain tells of it again."""
    async with market() as place, open_shop(place) as shop:
        await place.deposit(FEE)
        shop.chain.fail("collect", Reverted("NotSettled"))
        task_id = await shop.ask()
        certificate = await place.certificate(task_id)
        await place.settle(certificate)
        await until(lambda: shop.chain.count("collect") == 1, "it was refused")
        await asyncio.sleep(1)
        place.truth.reorg(40)  # mined again, with the same event
        await shop.collected(task_id)
        assert await place.earned() == (PERFORMERS, FEES.aggregator)


@virtual
async def test_of_two_settlements_the_one_that_stands_is_collected() -> None:
    """Two aggregators settle one task, each its way, and the newer one goes with a reorg."""
    async with market() as place, open_shop(place) as shop:
        await place.deposit(FEE)
        shop.chain.fail("collect", *[AWAY] * 2)
        task_id = await shop.ask()
        certificate = await place.certificate(task_id)
        await place.settle_batch([certificate])
        await until(lambda: remembered(shop) == 1, "the batch is in the books")
        tx_hash = await place.aggregator.submit_task(certificate)
        await place.truth.confirm(tx_hash, 10)
        fee = shop.desk.performer.earnings._fees[task_id]
        await until(lambda: len(fee.settlements) == 2, "both are in the books")
        assert [each.root == bytes(32) for each in fee.settlements] == [True, False]
        place.truth.reorg(4, dropped=[tx_hash])
        assert await place.truth.verdict_of(task_id) is None
        await shop.collected(task_id)
        assert await place.earned() == (PERFORMERS, FEES.aggregator)


# --- a chain that is away, or goes back --------------------------------------------------------------
@virtual
async def test_a_chain_that_is_away_only_delays() -> None:
    async with market() as place, open_shop(place) as shop:
        await place.deposit(FEE)
        task_id = await shop.ask()
        shop.chain.fail("collect", *[AWAY] * 20)
        await place.settle(await place.certificate(task_id))
        await asyncio.sleep(200)
        assert kinds(shop) == [UNCOLLECTED]
        assert 10 <= shop.chain.count("collect") <= 15  # patiently
        await shop.collected(task_id, limit_seconds=300)
        assert await place.earned() == (PERFORMERS, FEES.aggregator)


@virtual
async def test_a_transaction_that_takes_long_is_not_sent_twice() -> None:
    async with market() as place, open_shop(place) as shop:
        await place.deposit(FEE)
        task_id = await shop.ask()
        shop.chain.fail("confirm", *[ChainUnavailable("not mined after 60 s")] * 5)
        await place.settle(await place.certificate(task_id))
        await shop.collected(task_id, limit_seconds=200)
        assert (shop.chain.count("collect"), shop.chain.count("confirm")) == (1, 6)


@virtual
async def test_a_transaction_that_was_dropped_is_sent_again() -> None:
    async with market() as place, open_shop(place) as shop:
        await place.deposit(FEE)
        task_id = await shop.ask()
        collect = place.truth.collect
        shop.chain.fail("confirm", Dropped("its nonce was used"))

        async def collect_nothing(tasks: Sequence[Collection]) -> Digest:
            assert len(tasks) == 1
            shop.chain.chain.collect = collect  # type: ignore[method-assign]
            return Digest(bytes(32))

        shop.chain.chain.collect = collect_nothing  # type: ignore[method-assign]
        await place.settle(await place.certificate(task_id))
        await shop.collected(task_id)
        assert await place.earned() == (PERFORMERS, FEES.aggregator)


def newest_transaction(chain: MemoryChain) -> Digest:
    return list(chain._ledger._known)[-1]


@virtual
async def test_a_collection_that_a_reorg_took_back_is_made_again_and_then_it_is_for_good() -> None:
    async with market() as place, open_shop(place) as shop:
        await place.deposit(FEE)
        task_id = await shop.ask()
        await place.settle(await place.certificate(task_id))
        await shop.collected(task_id)
        place.truth.reorg(4, dropped=[newest_transaction(place.truth)])
        assert await place.earned() == (0, 0)
        shop.chain.fail("is_paid", AWAY)  # a look that nobody answers says nothing
        with capture_logs() as logs:
            await until(lambda: shop.chain.count("collect") == 2, "it is collected again", 2 * LOOKS_SECONDS[0])
        assert "a fee was taken back by a reorg" in [entry["event"] for entry in logs]
        await shop.collected(task_id)
        assert await place.earned() == (PERFORMERS, FEES.aggregator)
        await asyncio.sleep(sum(LOOKS_SECONDS) - 60)
        assert kinds(shop) == [UNCOLLECTED]
        await until(lambda: kinds(shop) == [COLLECTED], "it is forgotten", 120)
        assert (remembered(shop), shop.chain.count("collect")) == (0, 2)
        assert await view_of(shop, task_id) == {"amount": str(FEE), "isCollected": True}
        await shop.desk.performer.earnings.earned(task_id, await collection_of(place, shop, task_id))
        assert (remembered(shop), kinds(shop)) == (0, [COLLECTED])  # the chain repeats itself after a restart


async def collection_of(place: Market, shop: Shop, task_id: Digest) -> Collection:
    task = await shop.desk.ledger.find(task_id)
    assert task is not None
    return Collection(
        request=task.request,
        requester_signature=task.requester_signature,
        info_hash=Digest(sha("info")),
        is_approved=True,
        epoch=1,
        indices=b"",
        root=Digest(bytes(32)),
        aggregator=AGGREGATOR.address,
        path=(),
    )


# --- transactions have room --------------------------------------------------------------------------
@virtual
async def test_those_that_settle_together_are_collected_together() -> None:
    async with market() as place, open_shop(place) as shop:
        await place.deposit(6 * FEE)
        ids = [await shop.ask(nonce) for nonce in range(6)]
        certificates = [await place.certificate(task_id) for task_id in ids]
        for certificate in certificates:
            await place.truth.connect(AGGREGATOR.address).submit_task(certificate)
        await shop.collected(*ids)
        assert shop.chain.count("collect") == 1
        first = shop.chain.times("collect")[0]
        assert GATHER_SECONDS <= first <= GATHER_SECONDS + 10


def books(chain: MemoryChain, store: MemoryStore) -> Earnings:
    return Earnings(
        address=PERFORMER.address,
        escrow=chain,
        settlement=FaultyChain(chain),
        ledger=TaskLedger(store=store),
        store=store,
    )


def collection(cast: Cast, number: int, parameters: str, **changes: object) -> Collection:
    request = cast.request(nonce=number, fee=1, parameters=parameters)
    plain = Collection(request, bytes(65), Digest(bytes(32)), True, 1, b"", Digest(bytes(32)), AGGREGATOR.address, ())
    fields = {name: getattr(plain, name) for name in Collection.__dataclass_fields__} | changes
    return Collection(**fields)


@pytest.mark.parametrize("parameters", ["{}", '{"' + "ü" * (MAX_PARAMETERS_BYTES // 2 - 4) + '":1}'])
@virtual
async def test_a_transaction_has_no_more_than_a_node_takes(parameters: str) -> None:
    async with MemoryStore(MemoryFile()) as store:
        earnings = books(MemoryChain(TERMS), store)
        cast, count = Cast(), 2 * PARALLEL * MAX_COLLECTIONS
        for number in range(count):
            await earnings.earned(Digest(sha("task", number)), collection(cast, number, parameters))
        groups = earnings._due()
        assert len(groups) == PARALLEL
        sizes = [len(group) for group in groups]
        if parameters == "{}":
            assert sizes == [MAX_COLLECTIONS] * PARALLEL
        else:
            assert all(16 <= size <= MAX_TRANSACTION_BYTES // MAX_PARAMETERS_BYTES for size in sizes)
        numbers = [int(fee.request.nonce) for group in groups for fee in group]
        assert numbers == list(range(sum(sizes)))  # first come, first served


@virtual
async def test_calldata_is_not_underestimated() -> None:
    cast = Cast()
    largest = {"indices": bytes(2 * MAX_SEATS), "path": (bytes(32),) * (MAX_BATCH_SIZE.bit_length() - 1)}
    for parameters in ("{}", "ü" * (MAX_PARAMETERS_BYTES // 2)):
        for changes in ({}, largest):
            task = collection(cast, 1, parameters, **changes)
            empty, full = (escrow_abi().call_data("collect", [_collection(task)] * count) for count in (0, 10))
            weight = earnings_module._calldata_bytes(task)
            assert (len(full) - len(empty)) / 10 <= weight <= (len(full) - len(empty)) / 10 + 300


@virtual
async def test_definitions_come_together_and_a_books_entry_survives_as_it_was() -> None:
    file, cast = MemoryFile(), Cast()
    largest = collection(cast, 2**256 - 1, "{}", path=(bytes(32), b"\1" * 32), indices=b"\1\2")
    async with MemoryStore(file) as store:
        earnings = books(MemoryChain(TERMS), store)
        for number, definition in enumerate((1, 0, 1, 0)):
            task = collection(cast, number, "{}")
            asked = msgspec.structs.replace(task.request, task_definition_id=definition)
            await earnings.earned(Digest(sha("task", number)), collection(cast, number, "{}", request=asked))
        (group,) = earnings._due()
        assert [fee.request.task_definition_id for fee in group] == [0, 0, 1, 1]
        await earnings.earned(Digest(sha("largest")), largest)
        for number in range(8):
            other = collection(cast, 2**256 - 1, "{}", root=Digest(sha("root", number)))
            await earnings.earned(Digest(sha("largest")), other)
        assert len(earnings._fees[Digest(sha("largest"))].settlements) == earnings_module.MAX_SETTLEMENTS
        await earnings.earned(Digest(sha("largest")), largest)
    async with MemoryStore(file) as store:
        again = books(MemoryChain(TERMS), store)
        await again.load()
        fee = again._fees[Digest(sha("largest"))]
        assert isinstance(fee, _Fee)
        assert fee.settlements[0] == largest
        assert len(again._fees) == 5
