"""The model of the court beyond what `Court` reaches: missed deadlines, and the three ways to call a slash off. On the
real contract forge tests the same."""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from shared.adapters.memory.chain import MemoryChain
from shared.adapters.memory.chain_center import SettlementProof
from shared.adapters.memory.chain_court import (
    ANSWER_SECONDS,
    GRADES,
    MAX_VETOES,
    REPORT_SECONDS,
    VETO_PERIOD_SECONDS,
    State,
    slash_id_of,
)
from shared.constants import WAD
from shared.errors import Reverted
from shared.interfaces import SignedVote
from shared.types import (
    Address,
    Digest,
    Fees,
    Offence,
    SlashCancelled,
    SlashQueued,
    TaskInfo,
    TaskRequest,
    TaskTerms,
    Verdict,
)
from tests.chain_support import (
    EQUAL,
    ETHER,
    OWNER,
    PERFORMER,
    REQUESTER,
    TERMS,
    ModelChain,
    Person,
)
from tests.simnet.virtual_time import run_virtual

STRANGER = Person("stranger")
INVALID = Verdict.INVALID
DEADLINE_SECONDS = 60


def run(scenario: Coroutine[Any, Any, None]) -> None:
    run_virtual(scenario)


# So dear that a request may be worth half of its performer's stake.
DEAR = TaskTerms(dispute_window=500, fees=Fees(performer=ETHER // 2))


async def opened(**terms: Any) -> ModelChain:
    """Three attesters on a chain with a block a second."""
    chain = MemoryChain(replace(TERMS, owner=OWNER.address, **terms), block_seconds=1.0, poll_seconds=0.25)
    network = ModelChain.on(chain)
    await network.populate(EQUAL, DEAR)
    return network


async def refused(outcome: Awaitable[object], name: str, *arguments: object) -> None:
    with pytest.raises(Reverted) as caught:
        await outcome
    assert (caught.value.name, caught.value.arguments) == (name, arguments)


def text(address: Address) -> str:
    return "0x" + address.hex()


async def asked(network: ModelChain, nonce: int = 1, fee: int = ETHER // 50) -> TaskRequest:
    """A request whose deadline is near."""
    deadline = await network.chain.chain_time() + DEADLINE_SECONDS
    return network.request(nonce, fee, deadline=deadline)


def promise(network: ModelChain, request: TaskRequest, by: Person = PERFORMER) -> bytes:
    domain = network.deployment.domain
    return by.identity.sign(domain.promise(domain.task_id(request)))


def signed(network: ModelChain, info: TaskInfo, by: Person = PERFORMER) -> bytes:
    return by.identity.sign(network.deployment.domain.task_info_hash(info))


def missed(network: ModelChain, request: TaskRequest) -> Digest:
    return slash_id_of(Offence.MISSED_DEADLINE, network.deployment.domain.task_id(request), PERFORMER.address)


async def rejected(network: ModelChain, name: str = "a") -> Digest:
    """The slash that a rejection queued."""
    info = network.info(name)
    await network.settle(network.certificate(info, INVALID))
    return slash_id_of(Offence.REJECTED_TASK, info.task_id, PERFORMER.address)


def state_of(network: ModelChain, slash_id: Digest) -> State:
    return network.chain._state().court.slashes[slash_id].state


# --- missed deadlines ----------------------------------------------------------------------------
def test_a_broken_promise_is_slashed_for_its_requester() -> None:
    async def scenario() -> None:
        network = await opened()
        request = await asked(network)
        task_id, word = network.deployment.domain.task_id(request), promise(network, request)
        report = network.chain.report_missed_deadline
        theirs = promise(network, request, STRANGER)
        await refused(report(request, theirs), "PerformerSignatureMismatch", text(PERFORMER.address))
        claimable_at = request.deadline + ANSWER_SECONDS
        await refused(report(request, word), "DeadlineNotMissed", task_id, claimable_at)
        network.chain.warp(claimable_at - await network.chain.chain_time())
        await refused(report(request, word), "DeadlineNotMissed", task_id, claimable_at)  # to the second
        network.chain.warp(1)
        await report(request, word)
        await refused(report(request, word), "AlreadyQueued", missed(network, request))

        (queued,) = await network.first_events(1)
        assert isinstance(queued, SlashQueued)
        assert (queued.slash_id, queued.offence) == (missed(network, request), Offence.MISSED_DEADLINE)
        assert queued.executable_at == await network.chain.chain_time() + 500
        network.chain.warp(500)
        await network.confirmed(network.court.execute_slash(queued.slash_id))
        # Whom it harmed is known from the report.
        assert await network.chain.owed_to(REQUESTER.address) == ETHER // 50
        assert await network.chain.vault_balance() == ETHER // 10 - ETHER // 50

    run(scenario())


def test_a_broken_promise_is_reported_within_a_week() -> None:
    async def scenario() -> None:
        network = await opened()
        request = await asked(network)
        task_id, word = network.deployment.domain.task_id(request), promise(network, request)
        until = request.deadline + ANSWER_SECONDS + REPORT_SECONDS
        network.chain.warp(until + 1 - await network.chain.chain_time())
        await refused(network.chain.report_missed_deadline(request, word), "ReportTooLate", task_id, until)

    run(scenario())


def test_a_promise_of_a_task_that_nobody_defined_convicts_nobody() -> None:
    async def scenario() -> None:
        network = await opened()
        network.chain.warp(2 * ANSWER_SECONDS)
        missed_at = await network.chain.chain_time() - ANSWER_SECONDS - 1
        request = msgspec.structs.replace(await asked(network), task_definition_id=1, deadline=missed_at)
        await refused(
            network.chain.report_missed_deadline(request, promise(network, request)), "UnknownTaskDefinition", 1
        )
        endless = msgspec.structs.replace(await asked(network), deadline=2**64 - 1)
        task_id = network.deployment.domain.task_id(endless)
        report = network.chain.report_missed_deadline(endless, promise(network, endless))
        await refused(report, "DeadlineNotMissed", task_id, 2**64 - 1)

    run(scenario())


def test_what_was_delivered_or_settled_was_not_missed() -> None:
    async def scenario() -> None:
        network = await opened()
        delivered, settled = await asked(network, 1), await asked(network, 2)
        info = network.done(delivered)
        record = network.chain.record_delivery
        task_id = info.task_id
        for wrong in (
            network.done(settled),
            msgspec.structs.replace(info, task_performer=STRANGER.address),
            msgspec.structs.replace(info, task_definition_id=1),
        ):
            await refused(record(delivered, wrong, signed(network, wrong)), "RequestMismatch", task_id)
        theirs = signed(network, info, STRANGER)
        await refused(record(delivered, info, theirs), "PerformerSignatureMismatch", text(PERFORMER.address))
        await record(delivered, info, signed(network, info))
        await refused(record(delivered, info, signed(network, info)), "AlreadyDelivered", task_id)
        await network.settle(network.certificate(network.done(settled)))

        network.chain.warp(DEADLINE_SECONDS + ANSWER_SECONDS + 5)
        late = network.done(settled)
        await refused(record(settled, late, signed(network, late)), "DeadlinePassed", late.task_id, settled.deadline)
        for request in (delivered, settled):
            expected = network.deployment.domain.task_id(request)
            report = network.chain.report_missed_deadline(request, promise(network, request))
            await refused(report, "AlreadyDelivered", expected)

    run(scenario())


def test_a_verdict_in_a_batch_refutes_a_missed_deadline_and_nothing_else() -> None:
    async def scenario() -> None:
        network = await opened()
        request = await asked(network)
        certificate = network.certificate(network.done(request))
        made, submission = network.batch_of([certificate])
        await network.settle_batch(submission)
        network.chain.warp(DEADLINE_SECONDS + ANSWER_SECONDS + 5)
        await network.chain.report_missed_deadline(request, promise(network, request))
        slash_id = missed(network, request)
        info_hash = network.deployment.domain.task_info_hash(certificate.task_info)
        verdict = (info_hash, True, made.voters_of(certificate))
        proof = SettlementProof(made.info.root, path=tuple(made.proof(certificate)))
        refute = network.chain.refute_missed_deadline
        nowhere = SettlementProof(aggregator=OWNER.address)
        await refused(refute(slash_id, *verdict, nowhere), "NotSettled", certificate.task_info.task_id)
        other = slash_id_of(Offence.EQUIVOCATION, certificate.task_info.task_id, network.people[0].address)
        info = certificate.task_info
        votes = network.vote(0, info), network.vote(0, info, INVALID)
        await network.confirmed(network.court.report_equivocation(*votes))
        await refused(refute(other, *verdict, proof), "WrongOffence", other, int(Offence.EQUIVOCATION))

        await refute(slash_id, *verdict, proof)

        assert state_of(network, slash_id) is State.CANCELLED
        cancelled = (await network.first_events(4))[-1]
        assert isinstance(cancelled, SlashCancelled)
        assert (cancelled.slash_id, cancelled.operator) == (slash_id, PERFORMER.address)
        await refused(refute(slash_id, *verdict, proof), "NotWaiting", slash_id, 3)
        await refused(
            network.chain.report_missed_deadline(request, promise(network, request)), "AlreadyQueued", slash_id
        )

    run(scenario())


# --- the operators' word -------------------------------------------------------------------------
def test_more_than_two_thirds_cancel_a_slash_and_let_its_operator_go() -> None:
    async def scenario() -> None:
        network = await opened()
        slash_id = await rejected(network)
        domain = network.deployment.court_domain
        cancel = network.chain.cancel_slash
        digest = domain.cancel_slash(slash_id)
        power = ETHER // TERMS.power_unit_wei
        weak = network.signed(digest, (0, 1))
        await refused(cancel(slash_id, 1, weak, b"\2"), "QuorumNotReached", 2 * power, 3 * power, True)
        other = network.signed(domain.overrule_veto(slash_id))
        await refused(cancel(slash_id, 1, other, b""), "SignatureMismatch", digest)
        await refused(cancel(slash_id, 2, network.signed(digest), b""), "UnknownEpoch", 2, 1)
        await network.leave(PERFORMER)
        network.chain.warp(1001)
        await refused(network.withdraw(PERFORMER), "SlashPending", text(PERFORMER.address), 1)

        await cancel(slash_id, 1, network.signed(digest), b"")

        assert state_of(network, slash_id) is State.CANCELLED
        await refused(cancel(slash_id, 1, network.signed(digest), b""), "NotWaiting", slash_id, 3)
        await refused(network.court.execute_slash(slash_id), "NotWaiting", slash_id, 3)
        await network.withdraw(PERFORMER)
        assert await network.balance_of(PERFORMER.address) == ETHER

    run(scenario())


# --- the guardian's word -------------------------------------------------------------------------
def test_a_veto_waits_and_then_cancels() -> None:
    async def scenario() -> None:
        network = await opened()
        slash_id = await rejected(network)
        chain = network.chain
        await refused(chain.execute_veto(slash_id), "NoVeto", slash_id)
        stranger = text(STRANGER.address)
        await refused(chain.announce_veto(STRANGER.address, slash_id), "OnlyGuardian", stranger)
        await chain.announce_veto(OWNER.address, slash_id)
        due_at = await chain.chain_time() + 200
        await refused(chain.announce_veto(OWNER.address, slash_id), "AlreadyVetoed", slash_id)
        await refused(chain.execute_veto(slash_id), "VetoNotDue", slash_id, due_at)
        chain.warp(501)
        await refused(network.court.execute_slash(slash_id), "VetoPending", slash_id, due_at)
        await chain.execute_veto(slash_id)
        assert state_of(network, slash_id) is State.CANCELLED
        assert await chain.stake_of(PERFORMER.address) == ETHER

    run(scenario())


def test_the_operators_overrule_a_veto_once_and_for_all() -> None:
    async def scenario() -> None:
        network = await opened()
        slash_id = await rejected(network)
        chain, digest = network.chain, network.deployment.court_domain.overrule_veto(slash_id)
        whole = network.signed(digest)
        await refused(chain.overrule_veto(slash_id, 1, whole, b""), "NoVeto", slash_id)
        await chain.announce_veto(OWNER.address, slash_id)
        cancelling = network.signed(network.deployment.court_domain.cancel_slash(slash_id))
        await refused(chain.overrule_veto(slash_id, 1, cancelling, b""), "SignatureMismatch", digest)
        await chain.overrule_veto(slash_id, 1, whole, b"")
        await refused(chain.announce_veto(OWNER.address, slash_id), "AlreadyVetoed", slash_id)
        chain.warp(501)
        await refused(chain.execute_veto(slash_id), "NoVeto", slash_id)
        await network.confirmed(network.court.execute_slash(slash_id))
        assert await chain.stake_of(PERFORMER.address) == ETHER - ETHER // 10

    run(scenario())


def test_vetoes_are_rationed_and_not_for_what_is_due() -> None:
    async def scenario() -> None:
        network = await opened()
        chain, first_at = network.chain, 0
        for number in range(MAX_VETOES):
            await chain.announce_veto(OWNER.address, await rejected(network, str(number)))
            first_at = first_at or await chain.chain_time()
        fourth = await rejected(network, "fourth")
        await refused(chain.announce_veto(OWNER.address, fourth), "VetoesUsedUp", first_at + VETO_PERIOD_SECONDS)
        due_at = chain._state().court.slashes[fourth].executable_at
        chain.warp(501)
        await refused(chain.announce_veto(OWNER.address, fourth), "TooLateForVeto", fourth, due_at)
        chain.warp(VETO_PERIOD_SECONDS)
        await network.roll()
        info = network.info("later", epoch=2)
        await network.settle(network.certificate(info, INVALID))
        await chain.announce_veto(OWNER.address, slash_id_of(Offence.REJECTED_TASK, info.task_id, PERFORMER.address))

    run(scenario())


# --- evidence ------------------------------------------------------------------------------------
def test_the_court_itself_refuses_what_its_protocol_never_sends() -> None:
    async def scenario() -> None:
        network = await opened()
        hub, info = network.chain._state(), network.info("a")
        votes = network.vote(0, info), network.vote(0, info, INVALID)
        now = await network.chain.chain_time()
        for size in (0, 95, 192):
            with pytest.raises(Reverted, match="SignaturesLength"):
                hub.copy().court.report_equivocation(*votes, bytes(size), now)
        other = network.vote(1, network.info("a", data=b"another"))
        with pytest.raises(Reverted, match="SignaturesLength"):
            hub.copy().court.report_equivocation(votes[0], other, bytes(96), now)
        abstention = SignedVote(info, Verdict.ABSTAIN, 0, b"")
        for pair in ((votes[0], abstention), (abstention, votes[0])):
            with pytest.raises(Reverted, match="NoEquivocation"):
                hub.copy().court.report_equivocation(*pair, bytes(96), now)

    run(scenario())


def test_nobody_is_named_as_harmed_who_cannot_have_signed() -> None:
    async def scenario() -> None:
        network = await opened()
        request = msgspec.structs.replace(network.request(fee=1), requester=Address(bytes(20)))
        info = network.done(request)
        await network.settle(network.certificate(info, INVALID))
        slash_id = slash_id_of(Offence.REJECTED_TASK, info.task_id, PERFORMER.address)
        await refused(network.court.name_harmed(slash_id, request), "RequestMismatch", info.task_id)

    run(scenario())


def test_all_slashes_of_a_task_together_compensate_no_more_than_its_fee() -> None:
    async def scenario() -> None:
        network = await opened()
        request = network.request(fee=ETHER // 2)
        info = network.done(request)
        await network.settle(network.certificate(info, INVALID))
        await network.confirmed(
            network.court.report_equivocation(network.vote(0, info), network.vote(0, info, INVALID))
        )
        slashes = [
            slash_id_of(Offence.REJECTED_TASK, info.task_id, PERFORMER.address),
            slash_id_of(Offence.EQUIVOCATION, info.task_id, network.people[0].address),
        ]
        for slash_id in slashes:
            await network.confirmed(network.court.name_harmed(slash_id, request))
        network.chain.warp(501)
        for slash_id, owed in zip(slashes, (ETHER // 10, ETHER // 2), strict=True):
            await network.confirmed(network.court.execute_slash(slash_id))
            assert await network.chain.owed_to(REQUESTER.address) == owed
        assert await network.chain.vault_balance() == ETHER + ETHER // 10 - ETHER // 2

    run(scenario())


def test_grades_are_those_of_the_protocol() -> None:
    percents: Sequence[tuple[Offence, int]] = [
        (Offence.OUTLIER, 1),
        (Offence.REJECTED_TASK, 10),
        (Offence.MISSED_DEADLINE, 10),
        (Offence.EQUIVOCATION, 100),
        (Offence.TAMPERING, 100),
    ]
    assert {offence: percent * WAD // 100 for offence, percent in percents} == GRADES


# --- stake that is added -------------------------------------------------------------------------
def test_added_stake_counts_from_the_next_roll_on_and_is_no_reason_to_roll() -> None:
    async def scenario() -> None:
        network = await opened()
        first = network.people[0].address
        await network.chain.add_stake(first, ETHER)
        assert await network.chain.rollable_at() > await network.chain.chain_time()
        await network.warp(100)
        await network.roll()
        assert [entry.power for entry in network.tables[2].entries] == [2000, 1000, 1000]
        most = 2**96 - 1
        await refused(network.chain.add_stake(first, most), "StakeTooLarge", most + 2 * ETHER, most)
        await network.leave(network.people[0])
        await refused(network.chain.add_stake(first, 1), "AlreadyLeft", text(first))
        await refused(network.chain.add_stake(STRANGER.address, 1), "NotRegistered", text(STRANGER.address))

    run(scenario())


def test_power_and_deposits_have_an_end() -> None:
    async def scenario() -> None:
        network = await opened(minimum_stake_wei=1, power_unit_wei=1)
        first = network.people[0].address
        await network.chain.add_stake(first, 2**60)
        await network.warp(100)
        await network.roll()
        assert [entry.power for entry in network.tables[2].entries] == [2**32 - 1] * 3
        most = 2**96 - 1
        await network.confirmed(network.escrow.deposit(REQUESTER.address, PERFORMER.address, most))
        again = network.escrow.deposit(REQUESTER.address, PERFORMER.address, 1)
        await refused(again, "DepositTooLarge", most + 1, most)

    run(scenario())
