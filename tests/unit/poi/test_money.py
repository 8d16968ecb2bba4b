"""The testnet's books: one run that adds up, and each way in which a wei can go missing."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from poi.testnet.money import Books, Shares, Snapshot
from shared.adapters.chain_evm import Pool
from shared.adapters.chain_evm.history import PaidTask
from shared.types import Address, Digest, Fees, SlashExecuted

FEES = Fees(performer=1000, attesters=400, aggregator=100)
PERFORMER, LIAR, AGGREGATOR = (Address(bytes([i]) * 20) for i in (1, 2, 3))
ATTESTERS = [Address(bytes([10 + i]) * 20) for i in range(3)]
REQUESTER = Address(b"\x99" * 20)
GOOD, BAD = Digest(b"\x0a" * 32), Digest(b"\x0b" * 32)
APPROVAL, REJECTION = Pool(1, 0, True, b""), Pool(1, 0, False, b"\0\1")

# 5000 and 2000 are deposited; the honest task takes 1500, the lie 500. 10 % of the liar's 32000 are slashed, of which
# the requester gets the 1500 that the lie would have cost.
BEFORE = Snapshot(
    block=5,
    stakes={PERFORMER: 32_000, LIAR: 32_000},
    deposits={PERFORMER: 5000, LIAR: 2000},
    earned={PERFORMER: 70, AGGREGATOR: 30},
    pools={APPROVAL: 1000},
    held=8100,
    compensation=0,
    vault=11,
)
AFTER = Snapshot(
    block=90,
    stakes={PERFORMER: 32_000, LIAR: 28_800},
    deposits={PERFORMER: 3500, LIAR: 1500},
    earned={PERFORMER: 1070, AGGREGATOR: 230},
    pools={APPROVAL: 1400, REJECTION: 400},
    held=8100,
    compensation=1500,
    vault=1711,
)
BOOKS = Books(
    fees=FEES,
    before=BEFORE,
    after=AFTER,
    payments=(
        PaidTask(GOOD, REQUESTER, 1000, 400, AGGREGATOR, 100),
        PaidTask(BAD, REQUESTER, 0, 400, AGGREGATOR, 100),
    ),
    shares=(
        Shares(APPROVAL, dict.fromkeys(ATTESTERS, 466)),
        Shares(REJECTION, dict.fromkeys(ATTESTERS[:2], 200)),
    ),
    slashes=(SlashExecuted(Digest(b"\5" * 32), BAD, LIAR, 3200, REQUESTER, 1500, 80, Digest(b"\6" * 32)),),
    approved=frozenset({GOOD}),
    rejected=frozenset({BAD}),
)


def test_a_run_that_adds_up_has_no_problem() -> None:
    assert BOOKS.problems() == []
    assert (BOOKS.spent, BOOKS.to_pools, BOOKS.slashed) == (2000, 800, 3200)
    assert (BOOKS.compensated, BOOKS.to_vault) == (1500, 1700)
    assert [BOOKS.earned_by(one) for one in (PERFORMER, LIAR, AGGREGATOR)] == [1000, 0, 200]
    assert [BOOKS.claimable_by(one) for one in ATTESTERS] == [666, 666, 466]
    assert BOOKS.dust == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"deposits": {PERFORMER: 3499, LIAR: 1500}}, "the deposits lost 2001 wei, but operators and pools got 2000"),
        ({"deposits": {PERFORMER: 3501, LIAR: 1500}}, "the deposits lost 1999 wei, but operators and pools got 2000"),
        (
            {"earned": {PERFORMER: 1071, AGGREGATOR: 230}},
            "operators earned 1201 wei, but the payments to them say 1200",
        ),
        (
            {"earned": {PERFORMER: 1070, AGGREGATOR: 229}},
            "operators earned 1199 wei, but the payments to them say 1200",
        ),
        ({"pools": {APPROVAL: 1400, REJECTION: 401}}, "the pools got 801 wei, but the payments to them say 800"),
        ({"held": 8101}, "the escrow holds 8101 wei, but before it held 8100"),
        ({"stakes": {PERFORMER: 31_999, LIAR: 28_800}}, "stake was lost of 3201 wei, but requester and vault got 3200"),
        ({"vault": 1710}, "stake was lost of 3200 wei, but requester and vault got 3199"),
        ({"compensation": 1501}, "the requester got 1501 wei, but the slashes say 1500"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_a_wei_that_is_missing_or_too_many_is_a_problem(change: dict[str, object], said: str) -> None:
    books = replace(BOOKS, after=replace(AFTER, **change))  # type: ignore[arg-type]
    assert any(problem.startswith(said) for problem in books.problems()), books.problems()


def test_a_wei_moved_from_one_account_to_another_is_a_problem() -> None:
    """The totals agree; what was agreed on does not."""
    moved = replace(BOOKS.payments[0], to_performer=999, to_aggregator=101)
    books = replace(BOOKS, payments=(moved, BOOKS.payments[1]))
    assert books.problems() == [f"task {GOOD.hex()[:8]} was paid otherwise than its definition says"]


def test_a_rejected_task_pays_its_performer_nothing() -> None:
    paid = replace(BOOKS.payments[1], to_performer=1000)
    problems = replace(BOOKS, payments=(BOOKS.payments[0], paid)).problems()
    assert f"task {BAD.hex()[:8]} was paid otherwise than its definition says" in problems


@pytest.mark.parametrize("payments", [(), BOOKS.payments[:1], (*BOOKS.payments, BOOKS.payments[0])])
def test_a_task_that_is_not_paid_or_paid_twice_is_a_problem(payments: tuple[PaidTask, ...]) -> None:
    problems = replace(BOOKS, payments=payments).problems()
    assert f"2 tasks settled, and {len(payments)} were paid, or others than those" in problems


def test_a_compensation_below_what_the_lie_would_have_cost_is_a_problem() -> None:
    slash = msgspec.structs.replace(BOOKS.slashes[0], compensation_wei=0)
    after = replace(AFTER, compensation=0, vault=3211)
    problems = replace(BOOKS, after=after, slashes=(slash,)).problems()
    assert problems == ["the requester got 0 wei, but it lost by rejected tasks 1500 wei"]


@pytest.mark.parametrize(("share", "left"), [(465, 5), (467, -1)])
def test_a_pool_that_rounding_does_not_explain_is_a_problem(share: int, left: int) -> None:
    shares = (Shares(APPROVAL, dict.fromkeys(ATTESTERS, share)), BOOKS.shares[1])
    problems = replace(BOOKS, shares=shares).problems()
    assert problems == ([f"a pool of 1400 wei leaves {left} to nobody"])
