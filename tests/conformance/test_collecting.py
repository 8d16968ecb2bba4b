"""What the performer's `Earnings` asks of an `Escrow` and a `Settlement`: over anvil and over the model in memory."""

from __future__ import annotations

import pytest

from performer import earnings as earnings_module
from performer.earnings import Earnings
from performer.ledger import TaskLedger
from shared.adapters.memory.store import MemoryFile, MemoryStore
from shared.errors import RequestRefused
from shared.types import Digest, Verdict
from tests.chain_support import EQUAL, FEES, OWNER, PAID, PERFORMER, REQUESTER, Chain, open_chain, until
from tests.listening import running

FEE = FEES.total + 5_000
PERFORMERS = FEE - FEES.attesters - FEES.aggregator


async def put_down(chain: Chain, amount: int) -> None:
    await chain.confirmed(chain.escrow.deposit(REQUESTER.address, PERFORMER.address, amount))


@pytest.mark.parametrize("kind", ["anvil", "memory"])
async def test_fees_are_collected_around_one_that_the_escrow_refuses(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(earnings_module, "GATHER_SECONDS", 0.05)
    async with open_chain(kind) as chain, MemoryStore(MemoryFile()) as store:
        await chain.populate(EQUAL, PAID)
        await put_down(chain, 3 * FEE)
        requests = [chain.request(nonce=nonce, fee=FEE) for nonce in range(5)]
        verdicts = [Verdict.VALID, Verdict.VALID, Verdict.VALID, Verdict.VALID, Verdict.INVALID]
        certificates = [
            chain.certificate(chain.done(request), verdict) for request, verdict in zip(requests, verdicts, strict=True)
        ]
        batch, submission = chain.batch_of(certificates[:3])
        await chain.settle_batch(submission)
        await chain.settle(certificates[4])  # the fourth is settled nowhere
        within = [batch, batch, batch, None, None]
        earnings = Earnings(
            address=PERFORMER.address,
            escrow=chain.escrow,
            settlement=chain.settlement,
            ledger=TaskLedger(store=store),
            store=store,
        )
        await earnings.load()
        ids = [chain.deployment.domain.task_id(request) for request in requests]
        for task_id, request, certificate, root in zip(ids, requests, certificates, within, strict=True):
            await earnings.earned(task_id, chain.collection(request, certificate, root))
        assert earnings.promised_by(REQUESTER.address) == 5 * FEE
        # Three are paid in full, which leaves nothing for the rejected one until there is more.
        async with running(earnings.run()):

            async def paid_of(wanted: list[bool]) -> bool:
                return [await earnings.is_collected(task_id) for task_id in ids] == wanted

            await until(lambda: paid_of([True, True, True, False, False]), "what is covered is collected")
            assert earnings.promised_by(REQUESTER.address) == 2 * FEE
            request = chain.request(nonce=9, fee=1)
            with pytest.raises(RequestRefused) as refused:
                async with earnings.covering(Digest(bytes(32)), request):
                    raise AssertionError("it was covered")
            assert refused.value.expected == (
                f"TaskEscrow.deposit of {2 * FEE + 1} more for 0x{PERFORMER.address.hex()} first"
            )
            await put_down(chain, FEE)
            await earnings.earned(ids[4], chain.collection(requests[4], certificates[4]))  # told again
            await until(lambda: paid_of([True, True, True, False, True]), "and then the rejected one")
        assert await chain.escrow.earned_by(PERFORMER.address) == 3 * PERFORMERS
        # OWNER submitted what settled by itself; the batch names its own aggregator.
        assert await chain.escrow.earned_by(OWNER.address) == FEES.aggregator
        assert await chain.escrow.earned_by(batch.info.aggregator) == 3 * FEES.aggregator
        left = (await chain.escrow.deposit_of(REQUESTER.address, PERFORMER.address)).balance
        assert left == PERFORMERS
