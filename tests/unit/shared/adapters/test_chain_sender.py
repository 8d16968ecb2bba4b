"""One key's transactions on a real pool: nonces, fees, losses, replacements, reorgs, restarts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from shared.adapters.anvil import Anvil, AnvilSettings
from shared.adapters.chain_evm import EvmClient, Sender, outbox, sender
from shared.adapters.chain_evm.client import Refused
from shared.adapters.chain_evm.transactions import Attempt, Slot, sign
from shared.adapters.chain_evm.wire import Call, Fees, tohex
from shared.adapters.deploy import set_balance
from shared.constants import GWEI
from shared.errors import ChainUnavailable, Dropped, Reverted
from shared.types import Address, Digest
from tests.chain_support import ETHER, LIMIT_SECONDS, POLL_SECONDS, Person, sha, until

ME, OTHER = Person("me"), Person("other")
FRIEND = Address(b"\x42" * 20)
REFUSES = Address(b"\x43" * 20)
ECHO_AS_ERROR = "0x365f5f37365ffd"  # reverts with its calldata
BY_HAND = 1000.0  # seconds a block: only `evm_mine` mines


@asynccontextmanager
async def opened(block_seconds: float = BY_HAND, **settings: Any) -> AsyncIterator[tuple[Anvil, EvmClient]]:
    chain = Anvil(AnvilSettings(block_seconds=block_seconds, **settings))
    async with chain, EvmClient(chain.url) as client:
        await set_balance(client, ME.address, 1000 * ETHER)
        yield chain, client


@pytest.fixture
async def client() -> AsyncIterator[EvmClient]:
    """A chain that mines by hand."""
    async with opened() as (_, found):
        yield found


def of(client: EvmClient, *, replace_after_seconds: float = 30.0, max_fee_wei: int = 100 * GWEI) -> Sender:
    return Sender(
        client,
        ME.signer,
        31337,
        max_fee_wei=max_fee_wei,
        poll_seconds=POLL_SECONDS,
        replace_after_seconds=replace_after_seconds,
    )


async def mine(client: EvmClient) -> None:
    await client.request("evm_mine")


async def mining(client: EvmClient) -> None:
    """From now on every 20 ms."""
    await client.request("anvil_setIntervalMining", 0)
    await client.request("evm_setAutomine", False)

    async def tick() -> None:
        while True:
            await mine(client)
            await asyncio.sleep(0.02)

    await tick()


@asynccontextmanager
async def mined_by_the_clock(client: EvmClient) -> AsyncIterator[None]:
    task = asyncio.create_task(mining(client))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def put(client: EvmClient, nonce: int, fee_gwei: int, data: bytes = b"") -> Digest:
    """A transaction of this key that the sender knows nothing of."""
    slot = Slot(nonce, Call(FRIEND, data, 7), 30_000, Fees(fee_gwei * GWEI, fee_gwei * GWEI))
    attempt = await sign(slot, 31337, ME.signer)
    await client.send_raw(attempt.raw)
    return attempt.tx_hash


async def balance(client: EvmClient, address: Address = FRIEND) -> int:
    return int(await client.request("eth_getBalance", tohex(address), "latest"), 16)


# --- forms ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("to", [FRIEND, None])
async def test_a_transaction_is_signed_as_eth_account_signs_it(to: Address | None) -> None:
    slot = Slot(7, Call(to, b"abc", 5), 100_000, Fees(9 * GWEI, GWEI))
    fields = {"type": 2, "chainId": 31337, "nonce": 7, "gas": 100_000, "to": to or b"", "value": 5, "data": b"abc"}
    fees = {"maxFeePerGas": 9 * GWEI, "maxPriorityFeePerGas": GWEI}
    theirs = Account.from_key(sha("identity", "me")).sign_transaction(fields | fees)

    attempt = await sign(slot, 31337, ME.signer)

    assert attempt == Attempt(Digest(bytes(theirs.hash)), bytes(theirs.raw_transaction))


WEI = st.integers(0, 10**15)


@given(base=WEI, tip=WEI, cap=WEI)
def test_fees_stay_within_the_cap(base: int, tip: int, cap: int) -> None:
    fees = Fees.suggest(base, tip, cap)
    assert fees.tip_wei <= fees.max_wei <= cap
    assert fees.within(cap)
    assert fees.max_wei == min(2 * base + tip, cap)


@given(most=WEI, tip=WEI)
def test_a_raise_is_an_eighth_at_least(most: int, tip: int) -> None:
    raised = Fees(most, tip).raised()
    assert 8 * raised.max_wei >= 9 * most
    assert 8 * raised.tip_wei >= 9 * tip
    assert raised.max_wei <= most + most // 8 + 1


# --- many at once --------------------------------------------------------------------------------
async def test_twenty_at_once_with_one_key_are_all_mined() -> None:
    async with opened(block_seconds=0.05) as (_, client), of(client) as sending:
        hashes = await asyncio.gather(*(sending.send(FRIEND, b"", 1) for _ in range(20)))
        receipts = await asyncio.gather(*(sending.confirm(tx_hash, LIMIT_SECONDS) for tx_hash in hashes))

        assert len(set(hashes)) == 20
        assert [receipt.tx_hash for receipt in receipts] == hashes
        assert await balance(client) == 20
        assert await client.nonce(ME.address, "latest") == 20


async def test_a_backlog_makes_senders_wait(client: EvmClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "MAX_IN_FLIGHT", 2)
    async with of(client) as sending:
        for _ in range(2):
            await sending.send(FRIEND, b"", 1)
        third = asyncio.create_task(sending.send(FRIEND, b"", 1))
        await asyncio.sleep(5 * POLL_SECONDS)
        assert not third.done()
        assert await client.nonce(ME.address, "pending") == 2
        await mine(client)
        await asyncio.wait_for(third, LIMIT_SECONDS)
        await sending.send(FRIEND, b"", 1)
        monkeypatch.setattr(sender, "ROOM_SECONDS", 0.05)
        with pytest.raises(ChainUnavailable, match="wait to be mined"):
            await sending.send(FRIEND, b"", 1)


# --- what is refused -----------------------------------------------------------------------------
async def test_what_the_contract_would_refuse_is_not_sent(client: EvmClient) -> None:
    await client.request("anvil_setCode", tohex(REFUSES), ECHO_AS_ERROR)
    async with of(client) as sending:
        with pytest.raises(Reverted, match="0x01020304"):
            await sending.send(REFUSES, b"\1\2\3\4")
        assert await client.nonce(ME.address, "pending") == 0
        await sending.send(FRIEND, b"", 1)
        assert await client.nonce(ME.address, "pending") == 1


async def test_a_mined_failure_says_why(client: EvmClient) -> None:
    """The contract changes its mind between simulation and block."""
    async with of(client) as sending:
        tx_hash = await sending.send(REFUSES, b"\1\2\3\4")
        await client.request("anvil_setCode", tohex(REFUSES), ECHO_AS_ERROR)
        async with mined_by_the_clock(client):
            with pytest.raises(Reverted, match="0x01020304"):
                await sending.confirm(tx_hash, LIMIT_SECONDS)
            with pytest.raises(Reverted, match="0x01020304"):
                await sending.confirm(tx_hash, LIMIT_SECONDS)


@pytest.mark.parametrize("refusing", ["before its block", "after its block"])
async def test_a_failure_is_asked_for_on_the_state_that_had_it(
    client: EvmClient, monkeypatch: pytest.MonkeyPatch, refusing: str
) -> None:
    """An earlier transaction of the same block, or a later one, may have changed the state."""
    async with of(client) as sending:
        tx_hash = await sending.send(REFUSES, b"\1\2\3\4")
        await client.request("anvil_setCode", tohex(REFUSES), ECHO_AS_ERROR)
        await mine(client)
        number = (await client.head()).number

        async def call(_: Call, *, sender: Address, block: int) -> bytes:
            assert sender == ME.address
            if block == (number - 1 if refusing == "before its block" else number):
                raise Reverted("TaskAlreadySettled", (5,))
            return b""

        monkeypatch.setattr(client, "call", call)
        with pytest.raises(Reverted) as caught:
            await sending.confirm(tx_hash, LIMIT_SECONDS)
        assert (caught.value.name, caught.value.arguments) == ("TaskAlreadySettled", (5,))


async def test_a_failure_on_a_state_that_the_node_has_dropped_is_still_a_failure(
    client: EvmClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with of(client) as sending:
        tx_hash = await sending.send(REFUSES, b"\1\2\3\4")
        await client.request("anvil_setCode", tohex(REFUSES), ECHO_AS_ERROR)
        await mine(client)

        async def call(*_: object, **__: object) -> bytes:
            raise Refused(-32000, "missing trie node")

        monkeypatch.setattr(client, "call", call)
        with pytest.raises(Reverted, match="no reason known: missing trie node"):
            await sending.confirm(tx_hash, LIMIT_SECONDS)


async def test_gas_that_did_not_suffice_is_named(client: EvmClient) -> None:
    """It suffices for the state of the simulation; then the contract becomes an endless loop."""
    async with of(client) as sending:
        tx_hash = await sending.send(REFUSES, b"")
        await client.request("anvil_setCode", tohex(REFUSES), "0x5b5f56")
        async with mined_by_the_clock(client):
            with pytest.raises(Reverted, match=r"(?i)out ?of ?gas"):
                await sending.confirm(tx_hash, LIMIT_SECONDS)


async def test_without_funds_nothing_is_sent_and_the_nonce_is_free(client: EvmClient) -> None:
    async with of(client) as sending:
        with pytest.raises(ChainUnavailable, match=r"(?i)insufficient funds"):
            await sending.send(FRIEND, b"", 1000 * ETHER - 1)
        tx_hash = await sending.send(FRIEND, b"", 1)
        async with mined_by_the_clock(client):
            await sending.confirm(tx_hash, LIMIT_SECONDS)


async def test_fees_over_the_cap_are_not_paid(client: EvmClient) -> None:
    async with of(client, max_fee_wei=GWEI // 2) as sending:
        with pytest.raises(ChainUnavailable, match=r"base fee is 1 gwei, over the cap of 0\.5 gwei"):
            await sending.send(FRIEND, b"", 1)
    assert await client.nonce(ME.address, "pending") == 0


# --- pools ---------------------------------------------------------------------------------------
async def test_an_answer_that_was_lost_makes_no_second_transaction(client: EvmClient) -> None:
    send_raw = client.send_raw
    lost: list[bytes] = []

    async def forgetful(raw: bytes) -> None:
        await send_raw(raw)
        if not lost:
            lost.append(raw)
            raise ChainUnavailable("the answer was lost")

    client.send_raw = forgetful  # type: ignore[method-assign]
    async with of(client) as sending:
        tx_hash = await sending.send(FRIEND, b"", 1)
        assert lost
        async with mined_by_the_clock(client):
            await sending.confirm(tx_hash, LIMIT_SECONDS)
        assert await client.nonce(ME.address, "latest") == 1


async def test_a_transaction_that_fell_out_of_the_pool_is_offered_again(client: EvmClient) -> None:
    async with of(client) as sending:
        hashes = [await sending.send(FRIEND, b"", 1) for _ in range(3)]
        await client.request("anvil_dropTransaction", tohex(hashes[0]))
        async with mined_by_the_clock(client):
            receipts = [await sending.confirm(tx_hash, LIMIT_SECONDS) for tx_hash in hashes]
        assert [receipt.tx_hash for receipt in receipts] == hashes


async def test_a_node_that_lost_its_pool_does_not_give_a_nonce_twice(client: EvmClient) -> None:
    async with Sender(client, ME.signer, 31337, poll_seconds=0.5) as sending:  # slow: nothing is offered again yet
        first = await sending.send(FRIEND, b"", 1)
        await client.request("anvil_dropTransaction", tohex(first))
        with pytest.raises(ChainUnavailable, match=r"(?i)insufficient funds"):
            await sending.send(FRIEND, b"", 1000 * ETHER - 1)  # enough for the simulation, not for the fees
        second = await sending.send(FRIEND, b"", 2)
        async with mined_by_the_clock(client):
            for tx_hash in (first, second):
                await sending.confirm(tx_hash, LIMIT_SECONDS)
        assert await balance(client) == 3


async def test_a_nonce_that_a_former_process_left_open_is_filled(client: EvmClient) -> None:
    """Its transaction was pooled when this process counted, and lost after that."""
    former = await put(client, 0, fee_gwei=10)
    async with of(client, replace_after_seconds=0.2) as sending:
        mine_hash = await sending.send(FRIEND, b"", 1)
        await client.request("anvil_dropTransaction", tohex(former))
        async with mined_by_the_clock(client):
            await sending.confirm(mine_hash, LIMIT_SECONDS)
        assert await balance(client) == 1  # the lost one sent 7
        assert await client.nonce(ME.address, "latest") == 2
        with pytest.raises(Dropped, match="does not know it"):
            await sending.confirm(former, LIMIT_SECONDS)


async def test_a_former_transaction_at_too_low_a_fee_is_outbid(client: EvmClient) -> None:
    former = await put(client, 0, fee_gwei=2)
    await set_base_fee(client, 50)
    async with of(client, replace_after_seconds=0.2, max_fee_wei=500 * GWEI) as sending:
        ours = await sending.send(FRIEND, b"", 1)
        async with mined_by_the_clock(client):
            await sending.confirm(ours, LIMIT_SECONDS)
        assert await balance(client) == 1
        with pytest.raises(Dropped):
            await sending.confirm(former, LIMIT_SECONDS)


async def set_base_fee(client: EvmClient, gwei: int) -> None:
    await client.request("anvil_setNextBlockBaseFeePerGas", hex(gwei * GWEI))
    await mine(client)


async def test_a_stuck_transaction_is_replaced_and_confirmed_under_its_old_hash(client: EvmClient) -> None:
    async with of(client, replace_after_seconds=0.2) as sending:
        hashes = [await sending.send(FRIEND, b"", value) for value in (1, 2)]
        await set_base_fee(client, 20)
        assert await balance(client) == 0
        async with mined_by_the_clock(client):
            receipts = [await sending.confirm(tx_hash, LIMIT_SECONDS) for tx_hash in hashes]
        assert all(receipt.is_success for receipt in receipts)
        assert receipts[0].tx_hash != hashes[0]
        assert await balance(client) == 3  # each was mined once
        assert await client.nonce(ME.address, "latest") == 2


async def test_a_transaction_stuck_at_the_cap_waits_and_is_named_once(client: EvmClient) -> None:
    async with of(client, replace_after_seconds=0.05, max_fee_wei=3 * GWEI) as sending:
        with capture_logs() as logs:
            tx_hash = await sending.send(FRIEND, b"", 1)
            await client.request("anvil_setNextBlockBaseFeePerGas", hex(4 * GWEI))
            with pytest.raises(ChainUnavailable, match="not mined after"):
                await sending.confirm(tx_hash, 0.5)
        said = [entry for entry in logs if "fee cap" in entry["event"]]
        assert [entry["nonce"] for entry in said] == [0]
        await client.request("anvil_setNextBlockBaseFeePerGas", hex(GWEI))
        await mine(client)
        assert (await sending.confirm(tx_hash, LIMIT_SECONDS)).tx_hash == tx_hash


async def test_an_underpriced_replacement_takes_the_next_nonce(client: EvmClient) -> None:
    """A transaction that this process does not know waits under the nonce that it thinks is next."""
    await put(client, 1, fee_gwei=50)
    async with of(client) as sending:
        hashes = [await sending.send(FRIEND, b"", 1) for _ in range(2)]
        async with mined_by_the_clock(client):
            for tx_hash in hashes:
                await sending.confirm(tx_hash, LIMIT_SECONDS)
        assert await balance(client) == 9
        assert await client.nonce(ME.address, "latest") == 3


async def test_a_nonce_that_another_process_used_is_passed_over(client: EvmClient) -> None:
    async with of(client) as sending:
        await sending.send(FRIEND, b"", 1)
        await mine(client)
        await put(client, 1, fee_gwei=10)
        await mine(client)
        tx_hash = await sending.send(FRIEND, b"", 1)
        async with mined_by_the_clock(client):
            await sending.confirm(tx_hash, LIMIT_SECONDS)
        assert await balance(client) == 9


async def test_a_transaction_whose_nonce_was_taken_is_dropped(client: EvmClient) -> None:
    async with of(client) as sending:
        tx_hash = await sending.send(FRIEND, b"", 1)
        await put(client, 0, fee_gwei=50)
        await mine(client)
        with pytest.raises(Dropped, match="nonce 0 was used by another"):
            await sending.confirm(tx_hash, LIMIT_SECONDS)


# --- reorgs and restarts -------------------------------------------------------------------------
async def test_what_a_reorg_dropped_is_sent_again() -> None:
    async with opened(block_seconds=0.05) as (_, client), of(client) as sending:
        first = await sending.confirm(await sending.send(FRIEND, b"", 1), LIMIT_SECONDS)
        second = await sending.confirm(await sending.send(FRIEND, b"", 2), LIMIT_SECONDS)
        depth = (await client.head()).number - first.block + 1
        await client.request("anvil_reorg", depth, [])

        async def is_mined_elsewhere() -> bool:
            again = [await client.receipt(receipt.tx_hash) for receipt in (first, second)]
            hashes = {receipt.block_hash for receipt in again if receipt is not None}
            return len([r for r in again if r]) == 2 and not hashes & {first.block_hash, second.block_hash}

        await until(is_mined_elsewhere, "both are mined again")
        assert await balance(client) == 3
        assert await sending.confirm(first.tx_hash, LIMIT_SECONDS) != first
        third = await sending.send(FRIEND, b"", 4)
        await sending.confirm(third, LIMIT_SECONDS)
        assert await balance(client) == 7


async def test_deep_transactions_are_forgotten(client: EvmClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "REORG_BLOCKS", 3)
    async with of(client) as sending:
        tx_hash = await sending.send(FRIEND, b"", 1)
        await mine(client)
        await sending.confirm(tx_hash, LIMIT_SECONDS)
        for _ in range(4):
            await mine(client)

        async def is_empty() -> bool:
            return sending._outbox.slot_of(tx_hash) is None

        await until(is_empty, "it is forgotten")
        assert (await sending.confirm(tx_hash, LIMIT_SECONDS)).tx_hash == tx_hash


async def test_a_node_that_dies_and_comes_back_without_its_pool(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    async with opened(state_file=state) as (chain, client), of(client) as sending:
        await client.request("evm_mine")
        tx_hash = await sending.send(FRIEND, b"", 1)
        waiting = asyncio.create_task(sending.confirm(tx_hash, LIMIT_SECONDS))
        await chain.stop()
        with pytest.raises(ChainUnavailable):
            await sending.send(FRIEND, b"", 1)
        port = int(chain.url.rpartition(":")[2])
        async with Anvil(AnvilSettings(block_seconds=0.05, state_file=state, port=port)):
            assert (await waiting).tx_hash == tx_hash
            await sending.confirm(await sending.send(FRIEND, b"", 1), LIMIT_SECONDS)
            assert await balance(client) == 2


async def test_a_transaction_of_a_former_process_is_looked_after(client: EvmClient) -> None:
    async with of(client) as former:
        tx_hash = await former.send(FRIEND, b"", 1)
    async with of(client, replace_after_seconds=0.2) as sending:
        waiting = asyncio.create_task(sending.confirm(tx_hash, LIMIT_SECONDS))

        async def is_adopted() -> bool:
            return sending._outbox.slot_of(tx_hash) is not None

        await until(is_adopted, "it is adopted")
        await set_base_fee(client, 20)
        async with mined_by_the_clock(client):
            receipt = await waiting
        assert receipt.tx_hash != tx_hash  # replaced at a higher fee
        assert await balance(client) == 1


async def test_of_two_rivals_for_a_nonce_the_mined_one_is_confirmed(client: EvmClient) -> None:
    former = await put(client, 0, fee_gwei=2)
    async with of(client) as sending:
        slot = Slot(0, Call(FRIEND, b"", 1), 21_000, Fees(GWEI, GWEI))
        await sending._outbox.sign(slot)
        sending._outbox.keep(slot)
        waiting = asyncio.create_task(sending.confirm(former, LIMIT_SECONDS))
        await mine(client)
        assert (await waiting).tx_hash == former


async def test_transactions_of_others_are_not_followed(client: EvmClient) -> None:
    await set_balance(client, OTHER.address, ETHER)
    slot = Slot(0, Call(FRIEND, b"", 1), 21_000, Fees(5 * GWEI, GWEI))
    attempt = await sign(slot, 31337, OTHER.signer)
    await client.send_raw(attempt.raw)
    async with of(client) as sending:
        with pytest.raises(Dropped, match="another key"):
            await sending.confirm(attempt.tx_hash, LIMIT_SECONDS)


# --- ends ----------------------------------------------------------------------------------------
async def test_a_closed_sender_sends_nothing_and_lets_go_of_who_waits(client: EvmClient) -> None:
    sending = of(client)
    with pytest.raises(ChainUnavailable, match="closed"):
        await sending.send(FRIEND, b"", 1)
    async with sending:
        tx_hash = await sending.send(FRIEND, b"", 1)
        waiting = asyncio.create_task(sending.confirm(tx_hash, LIMIT_SECONDS))
        await asyncio.sleep(5 * POLL_SECONDS)
    with pytest.raises(ChainUnavailable, match="closed"):
        await asyncio.wait_for(waiting, LIMIT_SECONDS)


async def test_a_fault_of_its_own_is_not_hidden(client: EvmClient, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(outbox.Outbox, "_look", broken)
    async with of(client) as sending:
        tx_hash = await sending.send(FRIEND, b"", 1)
        with pytest.raises(RuntimeError, match="a bug"):
            await sending.confirm(tx_hash, LIMIT_SECONDS)


@pytest.mark.parametrize("word", ["already known", "AlreadyKnown: transaction already imported"])
async def test_a_transaction_that_the_node_has_is_no_failure(
    client: EvmClient, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    async def knows(_: bytes) -> None:
        raise Refused(-32000, word)

    async with of(client) as sending:
        monkeypatch.setattr(client, "send_raw", knows)
        assert len(await sending.send(FRIEND, b"", 1)) == 32


async def test_other_refusals_are_passed_on(client: EvmClient, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bytes] = []

    def refusing(message: str) -> Callable[[bytes], Any]:
        async def refuse(raw: bytes) -> None:
            calls.append(raw)
            raise Refused(-32000, message)

        return refuse

    async with of(client) as sending:
        monkeypatch.setattr(client, "send_raw", refusing("exceeds block gas limit"))
        with pytest.raises(ChainUnavailable, match="exceeds block gas limit"):
            await sending.send(FRIEND, b"", 1)
        assert len(calls) == 1
        monkeypatch.setattr(client, "send_raw", refusing("replacement transaction underpriced"))
        with pytest.raises(ChainUnavailable, match="underpriced"):
            await sending.send(FRIEND, b"", 1)
        assert len(calls) == 1 + sender.SEND_ATTEMPTS
        assert (
            len(set(calls)) == 1 + sender.SEND_ATTEMPTS - 1
        )  # the first has the usual fees again, then each pays more
