"""The contracts behind `OperatorReader`, `Epochs`, `Settlement`, `Court` and `Escrow`: one suite over anvil and over
the model in memory.

Every signature in it is a real one. What only the real chain has (nonces, fees, nodes that die) is tested in
tests/unit/shared/adapters/test_chain_*.py, what no Protocol does (vetoes, certificates that cancel a slash, missed
deadlines) in tests/unit/shared/adapters/test_chain_memory_court.py and by forge.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import replace

import msgspec
import pytest
from eth_utils.crypto import keccak

from shared.adapters.memory.chain_court import slash_id_of
from shared.adapters.memory.chain_escrow import Voters
from shared.crypto import bls
from shared.digests import leaf
from shared.errors import ChainUnavailable, CodecError, Dropped, Reverted
from shared.interfaces import BatchSubmission, Collection, SignedVote
from shared.types import (
    Address,
    BatchSettled,
    Deposit,
    Digest,
    Fees,
    Offence,
    Operator,
    PeerKey,
    Role,
    Settled,
    SlashExecuted,
    SlashQueued,
    TableEntry,
    TaskCertificate,
    TaskInfo,
    TaskRequest,
    TaskTerms,
    Verdict,
)
from tests.chain_support import (
    AGGREGATOR,
    EQUAL,
    ETHER,
    FEES,
    FREE,
    LIMIT_SECONDS,
    OWNER,
    PAID,
    PERFORMER,
    POWER_UNIT,
    REQUESTER,
    TERMS,
    UNEVEN,
    VAULT,
    Chain,
    Person,
    following,
    open_chain,
    sha,
    until,
)
from tests.chain_walk import ACTS, EXITS, Walk

VALID, INVALID = Verdict.VALID, Verdict.INVALID
POWER = ETHER // POWER_UNIT
STRANGER = Person("stranger")
NOBODY = Address(bytes(20))
KINDS = ["anvil", "memory"]
FEE = 2 * FEES.total  # what requests of the paying tests offer
TO_PERFORMER = FEE - FEES.attesters - FEES.aggregator


@pytest.fixture(params=KINDS)
async def chain(request: pytest.FixtureRequest) -> AsyncIterator[Chain]:
    """Deployed, nobody registered."""
    async with open_chain(request.param) as opened:
        yield opened


@pytest.fixture
async def network(chain: Chain) -> Chain:
    """Three attesters of equal stake, a performer, a definition, epoch 1."""
    await chain.populate(EQUAL)
    return chain


async def refused(outcome: Awaitable[object], name: str, *arguments: object) -> None:
    with pytest.raises(Reverted) as caught:
        await outcome
    assert (caught.value.name, caught.value.arguments) == (name, arguments)


def text(address: Address) -> str:
    return "0x" + address.hex()


# --- who is who ----------------------------------------------------------------------------------
async def test_operators_are_read_as_they_registered(network: Chain) -> None:
    operators = await network.reader.operators()

    people = [PERFORMER, *network.people]
    roles = [Role.PERFORMER, *[Role.ATTESTER] * 3]
    assert list(operators) == [
        Operator(
            address=person.address,
            owner=person.address,
            rewards_receiver=person.address,
            roles=role,
            stake_wei=ETHER,
            vote_key=person.vote.public_key if role is Role.ATTESTER else b"",
            peer_key=PeerKey(sha("peer", person.name)),
            p2p_address=f"/dns4/{person.name}/tcp/9700",
            gateway_url=f"http://{person.name}:8700",
            is_active=True,
        )
        for person, role in zip(people, roles, strict=True)
    ]


async def test_a_table_has_the_attesters_in_order_with_their_power(chain: Chain) -> None:
    await chain.populate((2 * ETHER, 2 * ETHER - 1, ETHER + POWER_UNIT))

    table = await chain.reader.operator_table(1)

    assert table is not None
    assert table.epoch == 1
    powers = [2 * POWER, 2 * POWER - 1, POWER + 1]  # what is less than a unit counts nothing
    assert table.entries == tuple(
        TableEntry(person.address, person.vote.public_key, power)
        for person, power in zip(chain.people, powers, strict=True)
    )


async def test_before_the_first_roll_there_is_no_table(chain: Chain) -> None:
    assert await chain.reader.current_epoch() == 0
    assert await chain.reader.operator_table(0) is None
    assert await chain.reader.operator_table(1) is None
    assert not await chain.reader.is_expired(1)
    assert await chain.reader.settle_seconds() == TERMS.epoch_seconds + TERMS.grace_seconds
    assert await chain.reader.operators() in ([], ())
    assert await chain.reader.task_definition_count() == 0


async def test_tables_stay_and_their_votes_end_a_grace_after_they_were_superseded(network: Chain) -> None:
    first = await network.reader.operator_table(1)
    await network.warp(100)
    newcomer = Person("newcomer")
    await network.register(newcomer, newcomer.registration(network.deployment, Role.ATTESTER))
    assert await network.roll() == 2
    second = await network.reader.operator_table(2)
    assert second is not None
    assert [entry.address for entry in second.entries] == [p.address for p in [*network.people, newcomer]]
    assert await network.reader.operator_table(3) is None
    assert [await network.reader.is_expired(epoch) for epoch in (1, 2, 3)] == [False] * 3

    await network.warp(61)
    assert [await network.reader.is_expired(epoch) for epoch in (1, 2, 3)] == [True, False, False]
    await network.warp(100)
    assert await network.roll() == 3
    assert await network.reader.operator_table(1) == first
    assert await network.reader.operator_table(2) == second
    assert await network.reader.current_epoch() == 3


async def test_an_epoch_is_not_rolled_before_its_time(network: Chain) -> None:
    rollable_at = await network.epochs.rollable_at()
    assert rollable_at == await network.reader.rollable_at()
    assert rollable_at == pytest.approx(await network.reader.chain_time() + 100, abs=3)
    await refused(network.epochs.roll(), "EpochNotOver", rollable_at)
    await refused(network.roll(), "EpochNotOver", rollable_at)
    await network.warp(100)
    await network.confirmed(network.epochs.roll())
    assert await network.reader.current_epoch() == 2
    assert await network.epochs.power_unit() == POWER_UNIT


async def test_an_exit_lets_the_next_roll_come_at_once_and_shortens_no_grace(network: Chain) -> None:
    certificates = [network.certificate(network.info(name)) for name in ("a", "b")]
    superseded_at = []
    for epoch in (2, 3):
        assert await network.reader.rollable_at() > await network.reader.chain_time()
        await network.leave(network.people[epoch - 2])
        assert await network.reader.rollable_at() <= await network.reader.chain_time()
        assert await network.roll() == epoch
        superseded_at.append(await network.reader.rollable_at() - 100)

    assert not await network.reader.is_expired(1)  # two rolls later
    await network.settle(certificates[0])
    await network.warp(61)
    await refused(network.settlement.submit_task(certificates[1]), "EpochExpired", 1, superseded_at[0] + 60)


async def test_a_seat_is_used_again_and_older_tables_keep_who_sat_there(network: Chain) -> None:
    first, (leaver, _, last) = network.tables[1], network.people
    await network.leave(leaver)
    await network.leave(last)
    assert await network.roll() == 2
    table = network.tables[2]
    assert [entry.address for entry in table.entries] == [person.address for person in network.people]
    assert [entry.power for entry in table.entries] == [0, POWER, 0]
    assert (table.index_of(leaver.address), table.total_power) == (None, POWER)

    newcomers = [Person("newcomer"), Person("latecomer")]
    for newcomer in newcomers:
        await network.register(newcomer, newcomer.registration(network.deployment, Role.ATTESTER, 2 * ETHER))
    await network.warp(100)
    assert await network.roll() == 3
    # The seat that was left last is taken first.
    seats = [newcomers[1], network.people[1], newcomers[0]]
    assert network.tables[3].entries == tuple(
        TableEntry(person.address, person.vote.public_key, power)
        for person, power in zip(seats, (2 * POWER, POWER, 2 * POWER), strict=True)
    )
    assert await network.reader.operator_table(1) == first

    network.people = seats
    await network.settle(network.certificate(network.info("a", epoch=3)))
    assert await network.settlement.verdict_of(network.info("a").task_id) is VALID


async def test_each_epoch_has_a_beacon_of_its_own(network: Chain) -> None:
    beacons = [await network.reader.beacon(1)]
    for epoch in (2, 3):
        assert await network.reader.beacon(epoch) is None
        await network.warp(100)
        assert await network.roll() == epoch
        beacons.append(await network.reader.beacon(epoch))
    assert [type(beacon) for beacon in beacons] == [bytes] * 3
    assert [len(beacon or b"") for beacon in beacons] == [32] * 3
    assert len(set(beacons)) == 3
    assert [await network.reader.beacon(epoch) for epoch in (1, 2, 3)] == beacons
    assert [await network.reader.beacon(epoch) for epoch in (-1, 0, 4, 2**32)] == [None] * 4


async def test_before_the_first_roll_there_is_no_beacon(chain: Chain) -> None:
    assert [await chain.reader.beacon(epoch) for epoch in (0, 1)] == [None, None]


async def test_a_roll_that_a_reorg_moved_has_another_beacon(network: Chain) -> None:
    first = await network.reader.beacon(1)
    await network.warp(100)
    kept = await network.head()
    assert await network.roll() == 2
    before = await network.reader.beacon(2)
    assert before is not None

    await network.replace_after(kept)

    async def is_rolled_again() -> bool:
        try:
            return await network.reader.beacon(2) not in (None, before)
        except ChainUnavailable:  # it changed between two questions
            return False

    await until(is_rolled_again, "the roll is mined on the new branch, with another beacon")
    assert await network.reader.beacon(1) == first


async def test_definitions_are_read_as_they_were_made(network: Chain) -> None:
    terms = replace_terms(PAID, maximum_deadline=77, waits_for_all=True, settles_singly=True, slashes_outliers=True)
    assert await network.define("tensors", terms=terms) == 1

    assert await network.reader.task_definition_count() == 2
    definition = await network.reader.task_definition(1)
    assert definition is not None
    expected = (1, "tensors", "exact", sha("tensors"), "bafkreicard", False, terms)
    assert msgspec.structs.astuple(definition) == expected
    assert await network.reader.task_definition(2) is None
    assert await network.reader.task_definition(-1) is None


def replace_terms(terms: TaskTerms, **changes: object) -> TaskTerms:
    return msgspec.structs.replace(terms, **changes)


@pytest.mark.parametrize(
    ("changes", "name", "value"),
    [
        ({"maximum_deadline": 0}, "maximumDeadline", 0),
        ({"maximum_deadline": 30 * 24 * 3600 + 1}, "maximumDeadline", 30 * 24 * 3600 + 1),
        ({"dispute_window": 0}, "disputeWindow", 0),
        ({"dispute_window": 501}, "disputeWindow", 501),
        ({"hook": STRANGER.address}, "hook", int.from_bytes(STRANGER.address, "big")),
        ({"fee_calculator": STRANGER.address}, "feeCalculator", int.from_bytes(STRANGER.address, "big")),
    ],
)
async def test_definitions_that_are_refused(chain: Chain, changes: dict[str, object], name: str, value: int) -> None:
    await refused(chain.define("tensors", terms=replace_terms(FREE, **changes)), "InvalidTerms", name, value)


async def test_a_definition_of_a_set_that_nobody_made_is_refused(chain: Chain) -> None:
    await refused(chain.define("tensors", terms=replace_terms(FREE, attester_set=1)), "UnknownAttesterSet", 1)
    await refused(chain.define("n" * 129), "InvalidTerms", "name", 129)


async def test_only_the_owner_defines_tasks(chain: Chain) -> None:
    await refused(chain.define("mine", sender=STRANGER), "OwnableUnauthorizedAccount", text(STRANGER.address))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"epoch_seconds": 31 * 24 * 3600}, ("epochSeconds", 31 * 24 * 3600)),
        ({"grace_seconds": 0}, ("graceSeconds", 0)),
        ({"power_unit_wei": 0}, ("powerUnit", 0)),
        ({"minimum_stake_wei": POWER_UNIT - 1}, ("minimumStake", POWER_UNIT - 1)),
        ({"unbonding_seconds": 0}, ("unbondingSeconds", 0)),
        ({"refund_delay_seconds": 31 * 24 * 3600}, ("refundDelay", 31 * 24 * 3600)),
        ({"vault": NOBODY}, ("vault", 0)),
        ({"longest_dispute_seconds": 1001}, ("longestDispute", 1001)),
        ({"veto_delay_seconds": 501}, ("vetoDelay", 501)),
    ],
)
async def test_terms_out_of_bounds_are_refused(kind: str, changes: dict[str, int], setting: tuple[str, int]) -> None:
    await refused(_deploy(kind, **changes), "InvalidSetting", *setting)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_change_delay_out_of_bounds_is_refused(kind: str) -> None:
    await refused(_deploy(kind, change_delay_seconds=0), "DelayOutOfBounds", 0)


async def _deploy(kind: str, **changes: object) -> None:
    async with open_chain(kind, replace(TERMS, **changes)):  # type: ignore[arg-type]
        pass


# --- registering and leaving ---------------------------------------------------------------------
async def test_registrations_that_are_refused(network: Chain) -> None:
    taken = network.people[0].registration(network.deployment, Role.ATTESTER)
    good = STRANGER.registration(network.deployment, Role.ATTESTER)
    other = Person("other").registration(network.deployment, Role.ATTESTER)
    cases = [
        (replace(good, roles=Role(0)), "InvalidRoles", (0,)),
        (replace(good, roles=Role.PERFORMER), "UnexpectedVoteKey", ()),
        (replace(good, peer_key=PeerKey(bytes(32))), "InvalidPeerKey", ()),
        (replace(good, peer_key=taken.peer_key), "PeerKeyTaken", (taken.peer_key,)),
        (replace(good, stake_wei=ETHER - 1), "StakeTooSmall", (ETHER - 1, ETHER)),
        (replace(good, gateway_url="h" * 321), "EndpointTooLong", (321, 320)),
        (replace(good, vote_key=b""), "VoteKeyLength", (0,)),
        (replace(good, vote_key=good.vote_key + b"\0"), "VoteKeyLength", (193,)),
        (replace(good, possession=b""), "PossessionLength", (0,)),
        (replace(good, vote_key=bytes(192)), "InfinityVoteKey", ()),
        (replace(good, vote_key=b"\1" * 192), "MalformedVoteKey", (b"\1" * 192, good.possession)),
        (replace(good, possession=b"\1" * 96), "MalformedVoteKey", (good.vote_key, b"\1" * 96)),
    ]
    for registration, name, arguments in cases:
        await refused(network.register(STRANGER, registration), name, *arguments)
    for registration in (replace(good, possession=other.possession), replace(good, possession=bytes(96))):
        with pytest.raises(Reverted, match="PossessionMismatch"):
            await network.register(STRANGER, registration)
    stolen = replace(good, vote_key=taken.vote_key, possession=taken.possession)
    await refused(network.register(STRANGER, stolen), "VoteKeyTaken", keccak(taken.vote_key))
    await refused(network.register(network.people[0], good), "AlreadyRegistered", text(network.people[0].address))

    await network.register(STRANGER, good)
    assert (await network.reader.operators())[-1].address == STRANGER.address


async def test_an_owner_registers_another_key_that_consents(network: Chain) -> None:
    """The owner alone gets the stake back; the key alone performs."""
    hot, owner, receiver = Person("hot"), STRANGER, Address(b"\x99" * 20)
    plain = hot.registration(network.deployment, Role.PERFORMER)
    named = replace(plain, operator=hot.address, rewards_receiver=receiver)
    consent = network.deployment.registry_domain.consent(hot.address, owner.address)
    for signature in (b"", owner.identity.sign(consent), hot.identity.sign(sha("another"))):
        registration = replace(named, consent=signature)
        expected = (text(hot.address), text(owner.address))
        await refused(network.register(owner, registration), "InvalidConsent", *expected)

    await network.register(owner, replace(named, consent=hot.identity.sign(consent)))

    read = (await network.reader.operators())[-1]
    assert (read.address, read.owner, read.rewards_receiver) == (hot.address, owner.address, receiver)
    await refused(network.leave(hot), "OnlyOwner", text(hot.address), text(owner.address))
    await network.leave(owner, hot)
    read = (await network.reader.operators())[-1]
    assert not read.is_active
    assert read.withdrawable_at == pytest.approx(await network.reader.chain_time() + 1000, abs=3)
    await network.warp(1001)
    await refused(network.withdraw(hot), "OnlyOwner", text(hot.address), text(owner.address))
    await network.withdraw(owner, hot)
    assert await network.reader.stake_of(hot.address) == 0
    assert await network.balance_of(network.deployment.registry) == 4 * ETHER


async def test_leaving_takes_its_time_and_pays_back(network: Chain) -> None:
    leaver = network.people[0]
    await refused(network.withdraw(STRANGER), "NotRegistered", text(STRANGER.address))
    await refused(network.leave(STRANGER), "NotRegistered", text(STRANGER.address))
    await refused(network.withdraw(leaver), "NotLeft", text(leaver.address))
    await network.leave(leaver)
    left_at = await network.reader.chain_time()
    await refused(network.leave(leaver), "AlreadyLeft", text(leaver.address))
    with pytest.raises(Reverted, match="StillBonded") as caught:
        await network.withdraw(leaver)
    assert caught.value.arguments[1] == pytest.approx(left_at + 1000, abs=2)
    await network.warp(1001)
    # Nobody rolled: the table that counts the leaver is the current one.
    await refused(network.withdraw(leaver), "StillInTable", text(leaver.address), 1)
    assert await network.roll() == 2
    await refused(network.withdraw(leaver), "StillInTable", text(leaver.address), 1)

    await network.warp(61)
    await network.withdraw(leaver)
    assert await network.reader.stake_of(leaver.address) == 0
    assert await network.balance_of(network.deployment.registry) == 3 * ETHER
    assert leaver.address not in [operator.address for operator in await network.reader.operators()]
    await refused(network.withdraw(leaver), "AlreadyWithdrawn", text(leaver.address))


async def test_who_leaves_before_the_first_roll_waits_for_none(chain: Chain) -> None:
    leaver = Person("leaver")
    await chain.register(leaver, leaver.registration(chain.deployment, Role.ATTESTER))
    await chain.leave(leaver)
    await chain.warp(1001)
    await chain.withdraw(leaver)
    assert await chain.balance_of(chain.deployment.registry) == 0


# --- verdicts ------------------------------------------------------------------------------------
async def test_an_approval_settles_for_ever(network: Chain) -> None:
    info = network.info("a")
    assert await network.settlement.verdict_of(info.task_id) is None

    tx_hash, gas = await network.settle(network.certificate(info))

    assert await network.settlement.verdict_of(info.task_id) is VALID
    (event,) = await network.first_events(1)
    assert isinstance(event, Settled)
    assert (event.task_id, event.is_approved, event.tx_hash, event.gas_used) == (info.task_id, True, tx_hash, gas)
    info_hash = network.deployment.domain.task_info_hash(info)
    assert (event.task_info_hash, event.aggregator, event.indices) == (info_hash, OWNER.address, b"")
    assert 100_000 < gas < 400_000

    other = network.info("a", data=b"another answer")
    for certificate in (
        network.certificate(info),
        network.certificate(info, INVALID),
        network.certificate(other),
        network.certificate(other, INVALID),
    ):
        await refused(network.settlement.submit_task(certificate), "TaskAlreadySettled", info.task_id)
    assert await network.settlement.verdict_of(info.task_id) is VALID


@pytest.mark.parametrize(
    ("stakes", "verdict", "signers", "power"),
    [
        (EQUAL, VALID, (0, 1), 2 * POWER),  # exactly two thirds
        (UNEVEN, VALID, (1, 2), 2 * POWER),  # under it
        (EQUAL, INVALID, (2,), POWER),  # exactly one third
        (UNEVEN, INVALID, (1,), POWER),  # under it
    ],
)
async def test_what_is_no_strict_quorum_is_refused(
    chain: Chain, stakes: Sequence[int], verdict: Verdict, signers: tuple[int, ...], power: int
) -> None:
    await chain.populate(stakes)
    certificate = chain.certificate(chain.info("a"), verdict, signers)

    total = sum(stakes) // POWER_UNIT
    await refused(chain.settlement.submit_task(certificate), "QuorumNotReached", power, total, verdict is VALID)


async def test_one_unit_of_power_more_is_a_quorum(chain: Chain) -> None:
    await chain.populate(UNEVEN)

    await chain.settle(chain.certificate(chain.info("a"), VALID, (0, 1)))  # 2P + 1 of 3P + 1
    await chain.settle(chain.certificate(chain.info("b"), INVALID, (0,)))  # P + 1 of 3P + 1

    assert await chain.settlement.verdict_of(chain.info("a").task_id) is VALID
    assert await chain.settlement.verdict_of(chain.info("b").task_id) is INVALID


async def test_a_certificate_of_another_epoch_is_refused(network: Chain) -> None:
    for epoch in (0, 2):
        certificate = network.certificate(network.info("a", epoch=epoch))
        await refused(network.settlement.submit_task(certificate), "UnknownEpoch", epoch, 1)


async def test_a_seat_without_power_signs_nothing_and_is_not_missing(network: Chain) -> None:
    await network.leave(network.people[0])
    assert await network.roll() == 2
    info = network.info("a", epoch=2)

    await refused(network.settlement.submit_task(network.certificate(info)), "IndexWithoutPower", 0, 0)
    alone = network.certificate(info, VALID, (1,))
    await refused(network.settlement.submit_task(alone), "QuorumNotReached", POWER, 2 * POWER, True)
    # With the key of who left in the aggregate, this would be another signature.
    await network.settle(network.certificate(info, VALID, (1, 2)))
    await network.settle(network.certificate(network.info("b", epoch=2), INVALID, (2,)))


async def test_a_definition_may_wait_for_all_votes(network: Chain) -> None:
    assert await network.define("careful", terms=replace_terms(FREE, waits_for_all=True)) == 1
    info = network.info("a", task_definition_id=1)
    for signers in ((0, 1), (1, 2)):  # a quorum anywhere else
        certificate = network.certificate(info, INVALID, signers)
        await refused(network.settlement.submit_task(certificate), "VotesMissing", info.task_id, 0)
    await network.settle(network.certificate(info, INVALID))
    await network.settle(network.certificate(network.info("b", task_definition_id=1), VALID))


@pytest.mark.parametrize(("verdict", "signers", "indices"), [(VALID, (0, 1), b"\x02"), (INVALID, (1, 2), b"\x01\x02")])
async def test_after_the_deadline_nobody_is_waited_for(
    chain: Chain, verdict: Verdict, signers: tuple[int, ...], indices: bytes
) -> None:
    await chain.populate(UNEVEN)
    assert await chain.define("careful", terms=replace_terms(FREE, waits_for_all=True)) == 1
    deadline = await chain.reader.chain_time() + 50
    request = chain.request(task_definition_id=1, deadline=deadline)
    other = chain.request(2, task_definition_id=1, deadline=deadline - 1000)
    info = chain.info("", task_id=chain.deployment.domain.task_id(request), task_definition_id=1)
    certificate = chain.certificate(info, verdict, signers)
    late = chain.settlement.submit_task_after_deadline

    await refused(late(certificate, request), "VotesMissing", info.task_id, deadline)
    await refused(late(certificate, other), "RequestMismatch", info.task_id)
    await chain.warp(51)
    await refused(late(certificate, other), "RequestMismatch", info.task_id)
    weak = chain.certificate(info, verdict, (1,))
    await refused(late(weak, request), "QuorumNotReached", POWER, 3 * POWER + 1, verdict is VALID)
    assert await chain.settlement.verdict_of(info.task_id) is None
    tx_hash = await late(certificate, request)
    gas = await chain.settlement.confirm(tx_hash, LIMIT_SECONDS)
    assert await chain.settlement.verdict_of(info.task_id) is verdict
    event, *others = await chain.first_events(1 if verdict is VALID else 2)
    assert isinstance(event, Settled)
    assert [type(other) for other in others] == ([] if verdict is VALID else [SlashQueued])
    info_hash = chain.deployment.domain.task_info_hash(info)
    assert (event.task_id, event.is_approved, event.tx_hash, event.gas_used) == (
        info.task_id,
        verdict is VALID,
        tx_hash,
        gas,
    )
    assert (event.task_info_hash, event.aggregator, event.indices) == (info_hash, OWNER.address, indices)
    await refused(late(certificate, request), "TaskAlreadySettled", info.task_id)
    with pytest.raises(CodecError):
        await late(msgspec.structs.replace(certificate, verdict=Verdict.ABSTAIN), request)


async def test_certificates_that_are_not_what_they_claim(network: Chain) -> None:
    info = network.info("a")
    good = network.certificate(info)
    change = msgspec.structs.replace
    domain = network.deployment.domain
    digest = domain.vote(domain.task_info_hash(info), VALID)
    rejected = network.certificate(info, INVALID)
    attester = network.people[0]
    unknown = network.certificate(network.info("a", task_definition_id=1))
    by_attester = network.info("a", task_performer=attester.address)
    info_hash = domain.task_info_hash(info)
    cases: list[tuple[TaskCertificate, str, tuple[object, ...]]] = [
        (unknown, "UnknownTaskDefinition", (1,)),
        (network.certificate(by_attester), "NotPerformer", (text(attester.address),)),
        (
            change(good, performer_signature=attester.identity.sign(info_hash)),
            "PerformerSignatureMismatch",
            (text(PERFORMER.address), info_hash),
        ),
        (
            change(good, performer_signature=good.performer_signature[:64]),
            "PerformerSignatureMismatch",
            (text(PERFORMER.address), info_hash),
        ),
        (change(good, signature=network.certificate(info, VALID, (0, 1)).signature), "SignatureMismatch", (digest,)),
        # A vote cannot be turned round.
        (change(good, signature=rejected.signature), "SignatureMismatch", (digest,)),
        (change(good, signature=good.signature[:95]), "SignatureLength", (95,)),
        (change(good, signature=b"\1" * 96), "MalformedSignature", (b"\1" * 96,)),
        (change(good, signature=bytes(96)), "InfinitySignature", ()),
        (change(rejected, signers=(0, 2, 1)), "IndicesUnsorted", (2, 1)),
        (change(rejected, signers=(0, 1, 1)), "IndexDuplicate", (2, 1)),
        (change(rejected, signers=(0, 1, 3)), "IndexOutOfRange", (2, 3, 3)),
        (change(good, signers=(0, 1, 300)), "IndexOutOfRange", (2, 300, 3)),
    ]
    for certificate, name, arguments in cases:
        await refused(network.settlement.submit_task(certificate), name, *arguments)
    with pytest.raises(CodecError):
        await network.settlement.submit_task(change(good, verdict=Verdict.ABSTAIN))
    assert await network.settlement.verdict_of(info.task_id) is None


async def test_keys_that_cancel_each_other_sign_nothing(chain: Chain) -> None:
    """Whoever registers a key and its negation has a valid signature on everything: infinity."""
    await chain.populate(EQUAL)
    twin = Person("twin")
    object.__setattr__(twin, "vote", bls.SecretKey(bls.ORDER - _scalar(chain.people[0])))
    await chain.register(twin, twin.registration(chain.deployment, Role.ATTESTER))
    await chain.warp(100)
    await chain.roll()
    chain.people.append(twin)
    info = chain.info("a", epoch=2)
    plain = chain.certificate(info, INVALID, (1, 2))

    certificate = msgspec.structs.replace(plain, signers=(0, 3))
    await refused(chain.settlement.submit_task(certificate), "InfinityAggregate")


def _scalar(person: Person) -> int:
    return int.from_bytes(sha("vote", person.name), "big") % bls.ORDER


async def test_of_two_equal_transactions_one_is_mined(network: Chain) -> None:
    """The other one is refused: on sending, or by its block when both were sent before it."""
    certificate = network.certificate(network.info("a"))

    outcomes = await asyncio.gather(*(network.settle(certificate) for _ in range(2)), return_exceptions=True)

    (failure,) = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert isinstance(failure, Reverted)
    assert (failure.name, failure.arguments) == ("TaskAlreadySettled", (certificate.task_info.task_id,))


async def test_an_unknown_transaction_is_dropped(network: Chain) -> None:
    with pytest.raises(Dropped):
        await network.settlement.confirm(Digest(b"\x33" * 32), LIMIT_SECONDS)


# --- batches -------------------------------------------------------------------------------------
async def test_a_batch_settles_each_of_its_leaves(network: Chain) -> None:
    names = ["a", "b", "c", "d", "e"]
    certificates = [network.certificate(network.info(name)) for name in names]
    certificates += [network.certificate(network.info("f"), INVALID, (0, 2))]
    made, submission = network.batch_of(certificates)
    hashed = network.deployment.domain.task_info_hash
    root = made.info.root
    assert not await network.settlement.is_batch_settled(root)
    first = made.certificates[0]
    verdict = (first.task_info.task_id, hashed(first.task_info), first.verdict is VALID, made.voters_of(first))
    assert not await network.reader.included(root, *verdict, made.proof(first))

    tx_hash = await network.settlement.submit_batch(submission)
    gas = await network.settlement.confirm(tx_hash, LIMIT_SECONDS)

    assert await network.settlement.is_batch_settled(root)
    (event,) = await network.first_events(1)
    assert isinstance(event, BatchSettled)
    assert (event.batch, event.tx_hash, event.gas_used) == (made.info, tx_hash, gas)
    for certificate in made.certificates:
        task_id, info_hash = certificate.task_info.task_id, hashed(certificate.task_info)
        is_approved, voters = certificate.verdict is VALID, made.voters_of(certificate)
        path = made.tree.proof(leaf(task_id, info_hash, is_approved, voters))
        assert await network.reader.included(root, task_id, info_hash, is_approved, voters, path)
        assert not await network.reader.included(root, task_id, info_hash, not is_approved, voters, path)
        assert not await network.reader.included(root, task_id, info_hash, is_approved, Digest(sha("v")), path)
        assert not await network.reader.included(root, task_id, info_hash, is_approved, voters, path[:-1])
        assert not await network.reader.included(Digest(sha("r")), task_id, info_hash, is_approved, voters, path)
        assert await network.settlement.verdict_of(task_id) is None


async def test_batches_that_are_refused(network: Chain) -> None:
    made, good = network.batch(["a", "b"])
    digest = network.deployment.domain.batch

    def changed(**changes: object) -> BatchSubmission:
        return replace(good, batch=msgspec.structs.replace(good.batch, **changes))

    for submission in (
        changed(content_hash=Digest(sha("elsewhere"))),
        changed(size=3),
        changed(aggregator=STRANGER.address),
        replace(good, signature=network.batch(["a", "b"], (0, 1))[1].signature),
    ):
        expected = digest(submission.batch)
        await refused(network.settlement.submit_batch(submission), "SignatureMismatch", expected)
    await refused(network.settlement.submit_batch(changed(size=0)), "EmptyBatch", made.info.root)
    await refused(network.settlement.submit_batch(changed(epoch=2)), "UnknownEpoch", 2, 1)
    weak = network.batch(["a", "b"], (0, 1))[1]
    await refused(network.settlement.submit_batch(weak), "QuorumNotReached", 2 * POWER, 3 * POWER, True)

    await network.settlement.confirm(await network.settlement.submit_batch(good), LIMIT_SECONDS)
    await refused(network.settlement.submit_batch(good), "BatchAlreadySettled", made.info.root)


# --- slashing ------------------------------------------------------------------------------------
def slash_of(task: TaskInfo, offence: Offence = Offence.REJECTED_TASK, operator: Person = PERFORMER) -> Digest:
    return slash_id_of(offence, task.task_id, operator.address)


async def reject(network: Chain, info: TaskInfo) -> Digest:
    """The slash that it queued."""
    await network.settle(network.certificate(info, INVALID, (0, 1)))
    return slash_of(info)


async def execute(network: Chain, *slashes: Digest) -> None:
    for slash_id in slashes:
        await network.confirmed(network.court.execute_slash(slash_id))


async def test_a_slash_waits_and_then_moves_the_exact_stake(network: Chain) -> None:
    info = network.info("a")
    slash_id = await reject(network, info)
    rejected, queued = await network.first_events(2)
    assert isinstance(rejected, Settled)
    assert isinstance(queued, SlashQueued)
    assert (rejected.task_id, rejected.is_approved, rejected.indices) == (info.task_id, False, b"\0\1")
    assert (queued.slash_id, queued.task_id) == (slash_id, info.task_id)
    assert (queued.operator, queued.offence) == (PERFORMER.address, Offence.REJECTED_TASK)
    assert queued.executable_at == pytest.approx(await network.reader.chain_time() + 500, abs=3)

    await refused(network.court.execute_slash(slash_id), "SlashNotDue", slash_id, queued.executable_at)
    other = slash_of(network.info("b"))
    await refused(network.court.execute_slash(other), "NotWaiting", other, 0)
    await network.leave(PERFORMER)
    await network.warp(501)
    await execute(network, slash_id)

    *_, executed = await network.first_events(3)
    assert isinstance(executed, SlashExecuted)
    assert (executed.slash_id, executed.task_id) == (slash_id, info.task_id)
    assert (executed.operator, executed.amount_wei) == (PERFORMER.address, ETHER // 10)
    assert (executed.requester, executed.compensation_wei) == (NOBODY, 0)
    assert await network.reader.stake_of(PERFORMER.address) == ETHER - ETHER // 10
    assert await network.reader.vault_balance() == ETHER // 10
    await refused(network.court.execute_slash(slash_id), "NotWaiting", slash_id, 2)

    await network.pay(VAULT)
    assert await network.balance_of(VAULT) == ETHER // 10
    assert await network.reader.vault_balance() == 0
    await refused(network.pay(VAULT), "NothingOwed", text(VAULT))


@pytest.mark.parametrize(
    ("fee", "price", "compensation"),
    [
        (0, ETHER, 0),
        (ETHER // 30, ETHER, ETHER // 30),
        (ETHER // 10, ETHER, ETHER // 10),
        (2**200, ETHER, ETHER // 10),
        (2**200, ETHER // 40, ETHER // 40),  # an invented fee buys no stake back
        (2**200, 0, 0),
    ],
)
async def test_who_asked_for_a_rejected_task_is_compensated_up_to_its_fee(
    chain: Chain, fee: int, price: int, compensation: int
) -> None:
    network = chain
    await network.populate(EQUAL, replace_terms(FREE, fees=Fees(performer=price - price // 4, attesters=price // 4)))
    request = network.request(fee=fee)
    slash_id = await reject(network, network.done(request))
    another = network.request(nonce=2, fee=fee)
    await refused(network.court.name_harmed(slash_id, another), "RequestMismatch", network.done(request).task_id)
    await network.confirmed(network.court.name_harmed(slash_id, request))
    await refused(network.court.name_harmed(slash_id, request), "HarmedAlreadyNamed", slash_id)
    await network.warp(501)
    await execute(network, slash_id)
    await refused(network.court.name_harmed(slash_id, request), "NotWaiting", slash_id, 2)

    *_, executed = await network.first_events(3)
    assert isinstance(executed, SlashExecuted)
    assert (executed.amount_wei, executed.requester) == (ETHER // 10, REQUESTER.address)
    assert executed.compensation_wei == compensation
    assert await network.reader.owed_to(REQUESTER.address) == compensation
    assert await network.reader.vault_balance() == ETHER // 10 - compensation
    assert await network.balance_of(network.deployment.court) == ETHER // 10
    if compensation:
        await network.pay(REQUESTER.address)
    assert await network.balance_of(REQUESTER.address) == compensation


async def test_a_definition_may_leave_rejected_tasks_unslashed(chain: Chain) -> None:
    await chain.populate(EQUAL, replace_terms(FREE, slashes_rejected=False))
    slash_id = await reject(chain, chain.info("a"))
    await refused(chain.court.execute_slash(slash_id), "NotWaiting", slash_id, 0)
    await chain.settle(chain.certificate(chain.info("b")))
    assert [type(event) for event in await chain.first_events(2)] == [Settled, Settled]


async def test_nobody_leaves_before_a_queued_slash(network: Chain) -> None:
    """And slashes follow one another: each takes its share of what is left."""
    slashes = [await reject(network, network.info(name)) for name in ("a", "b")]
    await network.leave(PERFORMER)
    await network.warp(1001)
    await refused(network.withdraw(PERFORMER), "SlashPending", text(PERFORMER.address), 2)

    await execute(network, *slashes)

    assert await network.reader.stake_of(PERFORMER.address) == ETHER * 81 // 100
    assert await network.reader.vault_balance() == ETHER * 19 // 100
    await network.withdraw(PERFORMER)
    assert await network.reader.vault_balance() == ETHER * 19 // 100
    assert await network.balance_of(network.deployment.registry) == 3 * ETHER


async def test_who_falls_below_the_minimum_is_inactive(network: Chain) -> None:
    slash_id = await reject(network, network.info("a"))
    await network.warp(501)
    await execute(network, slash_id)

    operators = {operator.address: operator for operator in await network.reader.operators()}
    assert not operators[PERFORMER.address].is_active
    assert operators[network.people[0].address].is_active


async def test_who_votes_twice_loses_everything_and_the_vote(network: Chain) -> None:
    info, liar = network.info("a"), network.people[1]
    votes = network.vote(1, info, VALID), network.vote(1, info, INVALID)
    await network.confirmed(network.court.report_equivocation(*votes))
    slash_id = slash_of(info, Offence.EQUIVOCATION, liar)
    (queued,) = await network.first_events(1)
    assert isinstance(queued, SlashQueued)
    assert (queued.slash_id, queued.task_id) == (slash_id, info.task_id)
    assert (queued.operator, queued.offence) == (liar.address, Offence.EQUIVOCATION)
    for again in (votes, votes[::-1]):
        await refused(network.court.report_equivocation(*again), "AlreadyQueued", slash_id)

    await network.warp(501)
    assert await network.roll() == 2
    assert await network.reader.rollable_at() > await network.reader.chain_time()
    await execute(network, slash_id)

    assert await network.reader.stake_of(liar.address) == 0
    assert await network.reader.vault_balance() == ETHER
    # The next roll may come at once, and takes the vote away; the seat stays.
    assert network.tables[2].total_power == 3 * POWER
    assert await network.roll() == 3
    assert [entry.power for entry in network.tables[3].entries] == [POWER, 0, POWER]
    assert network.tables[3].entries[1].address == liar.address
    await network.settle(network.certificate(network.info("b", epoch=3), VALID, (0, 2)))


async def test_two_answers_to_one_task_are_equivocation_in_any_two_tables(network: Chain) -> None:
    await network.warp(100)
    assert await network.roll() == 2
    first, other = network.info("a"), network.info("a", data=b"another")
    votes = network.vote(0, first), network.vote(0, other)
    await network.confirmed(network.court.report_equivocation(*votes))
    # Evidence does not expire with its table.
    await network.warp(100)
    later = network.info("a", epoch=2)
    await network.confirmed(network.court.report_equivocation(network.vote(2, first), network.vote(2, later)))
    queued = await network.first_events(2)
    assert [event.operator for event in queued if isinstance(event, SlashQueued)] == [
        network.people[0].address,
        network.people[2].address,
    ]


async def test_votes_that_convict_nobody(network: Chain) -> None:
    await network.warp(100)
    assert await network.roll() == 2
    info, later = network.info("a"), network.info("a", epoch=2)
    good, bad = network.vote(0, info), network.vote(0, info, INVALID)
    digests = [
        network.deployment.domain.vote(network.deployment.domain.task_info_hash(info), v) for v in (VALID, INVALID)
    ]
    unknown = [network.vote(0, network.info("a", task_definition_id=1), verdict) for verdict in (VALID, INVALID)]
    future = [network.vote(0, network.info("a", epoch=3), verdict) for verdict in (VALID, INVALID)]
    cases: list[tuple[SignedVote, SignedVote, str, tuple[object, ...]]] = [
        (good, good, "NoEquivocation", ()),
        (good, network.vote(0, network.info("b"), INVALID), "NoEquivocation", ()),
        # Two voters, who may differ.
        (good, network.vote(1, later, INVALID), "NoEquivocation", ()),
        (good, network.vote(1, info, INVALID), "NoEquivocation", ()),
        # The second is somebody else's, or nobody's.
        (good, replace(network.vote(1, info, INVALID), seat=0), "SignatureMismatch", (digests[0],)),
        (replace(bad, seat=3), replace(good, seat=3), "IndexOutOfRange", (0, 3, 3)),
        (unknown[0], unknown[1], "UnknownTaskDefinition", (1,)),
        (future[0], future[1], "UnknownEpoch", (3, 2)),
    ]
    for first, second, name, arguments in cases:
        await refused(network.court.report_equivocation(first, second), name, *arguments)
    for signature in (b"\1" * 96, good.signature[:95]):
        with pytest.raises(CodecError):
            await network.court.report_equivocation(good, replace(bad, signature=signature))
    forged = replace(network.vote(0, later, INVALID), signature=good.signature)
    await refused(network.court.report_equivocation(good, forged), "SignatureMismatch", _vote_digest(network, forged))
    assert await network.reader.stake_of(network.people[0].address) == ETHER


def _vote_digest(network: Chain, vote: SignedVote) -> Digest:
    domain = network.deployment.domain
    return domain.vote(domain.task_info_hash(vote.info), vote.verdict)


# --- fees ----------------------------------------------------------------------------------------
@pytest.fixture
async def paying(chain: Chain) -> Chain:
    """Attesters of 3, 2 and 1 ether, a definition with fees, epoch 1."""
    await chain.populate((3 * ETHER, 2 * ETHER, ETHER), PAID)
    return chain


async def deposit(chain: Chain, amount: int) -> None:
    await chain.confirmed(chain.escrow.deposit(REQUESTER.address, PERFORMER.address, amount))


async def balance(chain: Chain) -> Deposit:
    return await chain.escrow.deposit_of(REQUESTER.address, PERFORMER.address)


async def settled(
    chain: Chain, request: TaskRequest, verdict: Verdict = VALID, signers: Sequence[int] = (0, 1)
) -> Collection:
    """A task that settled by itself, ready to be paid."""
    certificate = chain.certificate(chain.done(request), verdict, signers)
    await chain.settle(certificate)
    return chain.collection(request, certificate)


async def test_a_settled_task_is_paid_once(paying: Chain) -> None:
    request = paying.request(fee=FEE)
    await deposit(paying, FEE + 1)
    task = await settled(paying, request)
    assert not await paying.escrow.is_paid(REQUESTER.address, PERFORMER.address, 1)

    await paying.confirmed(paying.escrow.collect([task]))

    assert await paying.escrow.is_paid(REQUESTER.address, PERFORMER.address, 1)
    assert not await paying.escrow.is_paid(REQUESTER.address, PERFORMER.address, 2)
    assert await paying.escrow.earned_by(PERFORMER.address) == TO_PERFORMER
    assert await paying.escrow.earned_by(OWNER.address) == FEES.aggregator  # who submitted it
    assert await balance(paying) == Deposit(1)
    await refused(paying.escrow.collect([task]), "AlreadyPaid", text(REQUESTER.address), text(PERFORMER.address), 1)
    # Nor by another task of the same nonce.
    await deposit(paying, FEE)
    twin = await settled(paying, paying.request(fee=FEE, parameters="{ }"))
    await refused(paying.escrow.collect([twin]), "AlreadyPaid", text(REQUESTER.address), text(PERFORMER.address), 1)
    assert await balance(paying) == Deposit(FEE + 1)


async def test_tasks_of_a_batch_are_paid_with_their_paths(paying: Chain) -> None:
    requests = [paying.request(nonce, fee=FEE + nonce) for nonce in range(5)]
    await deposit(paying, 5 * FEE + 10)
    certificates = [paying.certificate(paying.done(request), VALID, (0, 1)) for request in requests]
    made, submission = paying.batch_of(certificates)
    tasks = [
        paying.collection(request, certificate, made)
        for request, certificate in zip(requests, certificates, strict=True)
    ]
    await refused(paying.escrow.collect(tasks), "NotSettled", certificates[0].task_info.task_id)
    await paying.settle_batch(submission)

    await paying.confirmed(paying.escrow.collect(tasks[:2]))
    await refused(paying.escrow.collect(tasks[1:]), "AlreadyPaid", text(REQUESTER.address), text(PERFORMER.address), 1)
    await paying.confirmed(paying.escrow.collect(tasks[2:]))

    assert await paying.escrow.earned_by(PERFORMER.address) == 5 * TO_PERFORMER + 10
    assert await paying.escrow.earned_by(AGGREGATOR.address) == 5 * FEES.aggregator  # whom the batch names
    assert await paying.escrow.earned_by(OWNER.address) == 0
    assert await balance(paying) == Deposit(0)


async def test_a_definition_that_settles_singly_is_not_paid_within_a_batch(chain: Chain) -> None:
    await chain.populate(EQUAL, replace_terms(PAID, settles_singly=True))
    request = chain.request(fee=FEE)
    await deposit(chain, FEE)
    certificate = chain.certificate(chain.done(request))
    made, submission = chain.batch_of([certificate])
    await chain.settle_batch(submission)
    within = chain.collection(request, certificate, made)
    await refused(chain.escrow.collect([within]), "NotSettled", certificate.task_info.task_id)

    await chain.settle(certificate)
    await chain.confirmed(chain.escrow.collect([chain.collection(request, certificate)]))
    assert await chain.escrow.earned_by(PERFORMER.address) == TO_PERFORMER


async def test_collections_that_are_refused(paying: Chain) -> None:
    request = paying.request(fee=FEE)
    await deposit(paying, FEE)
    good = await settled(paying, request)
    small = await settled(paying, paying.request(2, fee=FEES.total - 1))
    large = await settled(paying, paying.request(3, fee=FEE + 1))
    task_id = paying.done(request).task_id
    requester = text(REQUESTER.address)
    theirs = STRANGER.identity.sign(task_id)
    unknown = paying.request(fee=FEE, task_definition_id=1)
    more = paying.request(fee=FEE + 1)
    more_id = paying.done(more).task_id
    cases: list[tuple[Collection, str, tuple[object, ...]]] = [
        # Who collects can choose neither the pool nor the aggregator nor the verdict.
        (replace(good, indices=b""), "NotSettled", (task_id,)),
        (replace(good, indices=b"\1"), "NotSettled", (task_id,)),
        (replace(good, epoch=2), "NotSettled", (task_id,)),
        (replace(good, aggregator=STRANGER.address), "NotSettled", (task_id,)),
        (replace(good, is_approved=False), "NotSettled", (task_id,)),
        (replace(good, info_hash=Digest(sha("another"))), "NotSettled", (task_id,)),
        (replace(good, root=Digest(sha("root"))), "NotSettled", (task_id,)),
        (replace(good, requester_signature=theirs), "RequesterSignatureMismatch", (requester, task_id)),
        (replace(good, requester_signature=b""), "RequesterSignatureMismatch", (requester, task_id)),
        (replace(good, request=more), "RequesterSignatureMismatch", (requester, more_id)),
        (replace(good, request=unknown), "UnknownTaskDefinition", (1,)),
        (small, "FeeTooSmall", (paying.done(small.request).task_id, FEES.total - 1, FEES.total)),
        (large, "DepositTooSmall", (requester, text(PERFORMER.address), FEE, FEE + 1)),
    ]
    for task, name, arguments in cases:
        await refused(paying.escrow.collect([task]), name, *arguments)
    # One that cannot be paid takes the others with it.
    await refused(
        paying.escrow.collect([good, large]), "DepositTooSmall", *(requester, text(PERFORMER.address), 0, FEE + 1)
    )
    assert await paying.escrow.earned_by(PERFORMER.address) == 0
    assert await balance(paying) == Deposit(FEE)
    await paying.confirmed(paying.escrow.collect([good]))


async def test_a_rejected_task_pays_its_attesters_and_not_its_performer(paying: Chain) -> None:
    request = paying.request(fee=FEE)
    await deposit(paying, FEE)
    certificate = paying.certificate(paying.done(request), INVALID, (0, 2))
    await paying.settle(certificate)

    await paying.confirmed(paying.escrow.collect([paying.collection(request, certificate)]))

    assert await paying.escrow.earned_by(PERFORMER.address) == 0
    assert await paying.escrow.earned_by(OWNER.address) == FEES.aggregator
    assert await balance(paying) == Deposit(TO_PERFORMER)
    # The pool is theirs who rejected it, by 3 to 1; who did not vote so has none of it.
    pool = paying.voters(certificate)
    await refused(paying.claim(paying.people[1].address, [pool], [1]), "NotAVoter", 1)
    for seat, share in ((0, FEES.attesters * 3 // 4), (2, FEES.attesters // 4)):
        assert await _claimed(paying, paying.people[seat], pool, seat) == share
    # What rounding left, and the deposit.
    rest = FEES.attesters - FEES.attesters * 3 // 4 - FEES.attesters // 4
    assert await paying.balance_of(paying.deployment.escrow) == TO_PERFORMER + FEES.aggregator + rest


async def _claimed(chain: Chain, person: Person, pool: Voters, seat: int) -> int:
    """What it gets, read from what the escrow has."""
    before = await chain.balance_of(chain.deployment.escrow)
    await chain.claim(person.address, [pool], [seat])
    return before - await chain.balance_of(chain.deployment.escrow)


async def test_attesters_claim_by_power_to_the_wei_however_often(paying: Chain) -> None:
    requests = [paying.request(nonce, fee=FEE) for nonce in range(3)]
    await deposit(paying, 3 * FEE)
    certificates = [paying.certificate(paying.done(request)) for request in requests]
    tasks = [
        paying.collection(request, certificate) for request, certificate in zip(requests, certificates, strict=True)
    ]
    (pool,) = {paying.voters(certificate) for certificate in certificates}
    for certificate in certificates:
        await paying.settle(certificate)
    await paying.confirmed(paying.escrow.collect(tasks[:1]))
    first = await _claimed(paying, paying.people[0], pool, 0)
    assert first == FEES.attesters * 3 // 6
    await refused(paying.claim(paying.people[0].address, [pool], [0]), "NothingToClaim", text(paying.people[0].address))

    await paying.confirmed(paying.escrow.collect(tasks[1:]))
    later = [await _claimed(paying, person, pool, seat) for seat, person in enumerate(paying.people)]
    # All that ever went to the pool counts, rounded once: who claims often gets what who waits gets.
    total = 3 * FEES.attesters
    assert [first + later[0], *later[1:]] == [total * 3 // 6, total * 2 // 6, total // 6]


async def test_claims_go_to_the_rewards_receiver(chain: Chain) -> None:
    receiver, hot = Address(b"\x99" * 20), Person("hot")
    plain = hot.registration(chain.deployment, Role.PERFORMER | Role.ATTESTER)
    await chain.register(hot, replace(plain, rewards_receiver=receiver))
    await chain.define("digits", terms=PAID)
    assert await chain.roll() == 1
    chain.people = [hot]
    request = chain.request(fee=FEE, performer=hot.address)
    certificate = chain.certificate(chain.info("", task_id=chain.done(request).task_id, task_performer=hot.address))
    signature = hot.identity.sign(chain.deployment.domain.task_info_hash(certificate.task_info))
    await chain.settle(msgspec.structs.replace(certificate, performer_signature=signature))
    await chain.confirmed(chain.escrow.deposit(REQUESTER.address, hot.address, FEE))
    await chain.confirmed(chain.escrow.collect([chain.collection(request, certificate)]))

    # A nonce is one performer's: the same one to another is another debt.
    assert await chain.escrow.is_paid(REQUESTER.address, hot.address, 1)
    assert not await chain.escrow.is_paid(REQUESTER.address, PERFORMER.address, 1)

    await chain.claim(hot.address, [chain.voters(certificate)], [0])

    assert await chain.balance_of(receiver) == TO_PERFORMER + FEES.attesters
    assert await chain.escrow.earned_by(hot.address) == 0
    assert await chain.balance_of(chain.deployment.escrow) == FEES.aggregator


async def test_claims_that_are_refused(paying: Chain) -> None:
    await deposit(paying, FEE)
    request = paying.request(fee=FEE)
    certificate = paying.certificate(paying.done(request), VALID, (0, 1))
    await paying.settle(certificate)
    await paying.confirmed(paying.escrow.collect([paying.collection(request, certificate)]))
    pool, (first, _, third) = paying.voters(certificate), paying.people
    cases: list[tuple[Person, list[Voters], list[int], str, tuple[object, ...]]] = [
        (STRANGER, [], [], "NothingToClaim", (text(STRANGER.address),)),
        (STRANGER, [pool], [0], "NotAVoter", (0,)),
        (third, [pool], [2], "NotAVoter", (2,)),
        (first, [pool], [1], "NotAVoter", (1,)),
        (first, [pool], [3], "IndexOutOfRange", (0, 3, 3)),
        (first, [pool], [], "SeatsLength", (0, 1)),
        (first, [replace(pool, epoch=2)], [0], "UnknownEpoch", (2, 1)),
        (first, [replace(pool, indices=b"\2\2")], [0], "IndexDuplicate", (1, 2)),
        (first, [replace(pool, attester_set=1)], [0], "SetTableMissing", (1, 1)),
        # A pool that nobody paid into.
        (first, [replace(pool, indices=b"")], [0], "NothingToClaim", (text(first.address),)),
    ]
    for person, pools, seats, name, arguments in cases:
        await refused(paying.claim(person.address, pools, seats), name, *arguments)


async def test_a_deposit_goes_back_after_a_delay_in_which_work_is_still_paid(paying: Chain) -> None:
    request = paying.request(fee=FEE)
    await deposit(paying, 3 * FEE)
    task = await settled(paying, request)
    performer = PERFORMER.address
    nothing = (text(REQUESTER.address), text(performer))
    await refused(paying.refund(REQUESTER, performer), "NothingToRefund", *nothing)
    await refused(paying.start_refund(REQUESTER, performer, 0), "NothingToRefund", *nothing)
    await refused(
        paying.start_refund(STRANGER, performer, 1), "NothingToRefund", text(STRANGER.address), text(performer)
    )
    await paying.start_refund(REQUESTER, performer, 1)
    await paying.start_refund(REQUESTER, performer, 2**200)  # replaces the first; all there is
    due = (await balance(paying)).refundable_at
    assert await balance(paying) == Deposit(3 * FEE, 3 * FEE, due)
    assert due == pytest.approx(await paying.reader.chain_time() + 300, abs=3)
    await refused(paying.refund(REQUESTER, performer), "RefundNotDue", due)

    await paying.confirmed(paying.escrow.collect([task]))
    assert await balance(paying) == Deposit(2 * FEE, 2 * FEE, due)
    await deposit(paying, 5)  # later money is not refundable by an earlier word
    await paying.warp(301)
    await paying.refund(REQUESTER, performer)

    assert await balance(paying) == Deposit(5)
    assert await paying.balance_of(paying.deployment.escrow) == FEE + 5
    await refused(paying.refund(REQUESTER, performer), "NothingToRefund", *nothing)


async def test_a_deposit_is_for_one_performer(paying: Chain) -> None:
    await deposit(paying, FEE)
    task = await settled(paying, paying.request(fee=FEE))
    await paying.confirmed(paying.escrow.deposit(REQUESTER.address, STRANGER.address, 7))
    assert await paying.escrow.deposit_of(REQUESTER.address, STRANGER.address) == Deposit(7)
    assert await paying.escrow.deposit_of(PERFORMER.address, REQUESTER.address) == Deposit(0)
    await paying.confirmed(paying.escrow.collect([task]))
    assert await paying.escrow.deposit_of(REQUESTER.address, STRANGER.address) == Deposit(7)


# --- events --------------------------------------------------------------------------------------
async def test_events_come_in_order_from_any_block_on(network: Chain) -> None:
    async with following(network.settlement.events(0)) as live:
        names = ["a", "b", "c", "d"]
        for name in names:
            verdict = INVALID if name == "b" else VALID
            await network.settle(network.certificate(network.info(name), verdict))
        await live.has(5)

    told = [(type(event), event.task_id) for event in live.events if isinstance(event, Settled | SlashQueued)]
    expected = [(Settled, network.info(name).task_id) for name in names]
    assert told == [*expected[:2], (SlashQueued, network.info("b").task_id), *expected[2:]]
    assert [event.block for event in live.events] == sorted(event.block for event in live.events)
    third = live.events[3].block
    assert await network.first_events(2, from_block=third) == live.events[3:]


# --- the model is the contract -------------------------------------------------------------------
def _attempts(chain: Chain, seed: int, count: int) -> list[TaskCertificate]:
    """Certificates with random signers and random faults, the same for each chain but for its digests."""
    draw = random.Random(seed)
    found = []
    for number in range(count):
        size = len(chain.people)
        epoch = draw.choice([1, 1, 1, 1, 2])
        info: TaskInfo = chain.info(
            str(draw.randrange(count)), epoch=epoch, task_definition_id=draw.choice([0] * 9 + [7])
        )
        signers = sorted(draw.sample(range(size), draw.randint(1, size)))
        certificate = chain.certificate(info, draw.choice([VALID, INVALID]), signers)
        claimed = draw.choice([signers, signers, signers, [0, *signers], [*signers, size], signers[1:] or [0]])
        forged = draw.choice(
            [certificate.signature] * 6 + [bytes(96), b"\2" * 96, chain.people[0].vote.sign(sha(number))]
        )
        found.append(msgspec.structs.replace(certificate, signers=tuple(claimed), signature=forged))
    return found


async def _outcomes(kind: str, seed: int) -> list[tuple[str, tuple[object, ...]]]:
    """Refusals by name and arguments; digests and bytes differ from chain to chain, and only count."""
    outcomes: list[tuple[str, tuple[object, ...]]] = []
    async with open_chain(kind) as chain:
        await chain.populate((ETHER, 2 * ETHER, 3 * ETHER, ETHER + POWER_UNIT, ETHER))
        for certificate in _attempts(chain, seed, 40):
            try:
                await chain.settle(certificate)
                outcomes.append(("settled", ()))
            except Reverted as error:
                outcomes.append((error.name, tuple(a for a in error.arguments if not isinstance(a, bytes))))
    return outcomes


@pytest.mark.parametrize("seed", [1, 2])
async def test_model_and_contracts_answer_alike(seed: int) -> None:
    real, model = await asyncio.gather(_outcomes("anvil", seed), _outcomes("memory", seed))
    assert real == model
    assert len({name for name, _ in real}) >= 6


def _walk(seed: int, count: int) -> list[tuple[str, int]]:
    """Much money first. Each wait is longer than all windows, so that no step depends on how busy the machine is."""
    draw = random.Random(seed)
    steps = [("deposit", 0)] * 4
    for _ in range(count):
        kind = draw.choice(["act"] * 12 + ["exit", "roll", "wait"])
        what = {"act": draw.choice(ACTS), "exit": draw.choice(EXITS)}.get(kind, kind)
        steps.append((what, 1100 if what == "wait" else draw.randrange(3)))
    return steps


async def _walked(kind: str, seed: int) -> tuple[list[tuple[str, str]], dict[str, object]]:
    """What became of each step, and what is left at the end."""
    async with open_chain(kind) as chain:
        await chain.populate((3 * ETHER, 2 * ETHER, 2 * ETHER), PAID)
        walk = Walk(chain)
        outcomes = [(what, await walk.step(what, number)) for what, number in _walk(seed, 60)]
        at, people = chain.deployment, [PERFORMER, *chain.people]
        deposited = await balance(chain)
        table = await chain.reader.operator_table(await chain.reader.current_epoch())
        left: dict[str, object] = {
            "balances": [await chain.balance_of(account) for account in (at.registry, at.escrow, at.court, VAULT)],
            "stakes": [await chain.reader.stake_of(person.address) for person in people],
            "owed": [await chain.reader.owed_to(account) for account in (VAULT, REQUESTER.address)],
            "deposit": (deposited.balance, deposited.refunding),
            "earned": [await chain.escrow.earned_by(p.address) for p in (PERFORMER, OWNER, AGGREGATOR)],
            "operators": [(o.address, o.is_active, o.withdrawable_at > 0) for o in await chain.reader.operators()],
            "table": table and table.entries,
        }
        return outcomes, left


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_money_and_power_go_the_same_ways_in_model_and_contracts(seed: int) -> None:
    real, model = await asyncio.gather(_walked("anvil", seed), _walked("memory", seed))
    assert real[0] == model[0]
    assert real[1] == model[1]
    assert len({what for what, outcome in real[0] if outcome == "done"}) >= 8
