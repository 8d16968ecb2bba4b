"""The contracts behind `OperatorReader` and `Settlement`: one suite over anvil and over the model in memory.

Every signature in it is a real one. What only the real chain has (nonces, fees, nodes that die) is tested in
tests/unit/shared/adapters/test_chain_*.py.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import replace

import msgspec
import pytest

from shared.constants import GWEI
from shared.crypto import bls
from shared.digests import leaf
from shared.errors import CodecError, Dropped, Reverted
from shared.interfaces import BatchSubmission
from shared.types import (
    Address,
    BatchSettled,
    Digest,
    Operator,
    PeerKey,
    Role,
    Settled,
    SlashExecuted,
    SlashQueued,
    TableEntry,
    TaskCertificate,
    TaskInfo,
    Verdict,
)
from tests.chain_support import (
    EQUAL,
    ETHER,
    LIMIT_SECONDS,
    PERFORMER,
    TERMS,
    UNEVEN,
    Chain,
    Person,
    following,
    open_chain,
    sha,
)

VALID, INVALID = Verdict.VALID, Verdict.INVALID
POWER = ETHER // GWEI
STRANGER = Person("stranger")
KINDS = ["anvil", "memory"]


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
    await chain.populate((2 * ETHER, ETHER + 5, ETHER + GWEI))

    table = await chain.reader.operator_table(1)

    assert table is not None
    assert table.epoch == 1
    powers = [2 * POWER, POWER, POWER + 1]  # what is less than a gwei counts nothing
    assert table.entries == tuple(
        TableEntry(person.address, person.vote.public_key, power)
        for person, power in zip(chain.people, powers, strict=True)
    )


async def test_before_the_first_roll_there_is_no_table(chain: Chain) -> None:
    assert await chain.reader.current_epoch() == 0
    assert await chain.reader.operator_table(0) is None
    assert await chain.reader.operator_table(1) is None
    assert await chain.reader.operators() in ([], ())
    assert await chain.reader.task_definition_count() == 0


async def test_the_current_and_the_previous_table_are_valid(network: Chain) -> None:
    first = await network.reader.operator_table(1)
    await network.warp(100)
    newcomer = Person("newcomer")
    await network.register(newcomer, newcomer.registration(network.deployment, Role.ATTESTER))
    assert await network.roll() == 2
    assert await network.reader.operator_table(1) == first
    second = await network.reader.operator_table(2)
    assert second is not None
    assert [entry.address for entry in second.entries] == [p.address for p in [*network.people, newcomer]]
    assert await network.reader.operator_table(3) is None

    await network.warp(100)
    assert await network.roll() == 3
    assert await network.reader.operator_table(1) is None
    assert await network.reader.operator_table(2) == second
    assert await network.reader.current_epoch() == 3


async def test_an_epoch_is_not_rolled_before_its_time(network: Chain) -> None:
    await refused(network.roll(), "EpochNotOver", await network.reader.rollable_at())
    await network.warp(100)
    assert await network.roll() == 2


async def test_definitions_are_read_as_they_were_made(network: Chain) -> None:
    assert await network.define("tensors") == 1

    assert await network.reader.task_definition_count() == 2
    definition = await network.reader.task_definition(1)
    assert definition is not None
    assert msgspec.structs.astuple(definition) == (1, "tensors", "exact", sha("tensors"), "bafkreicard")
    assert await network.reader.task_definition(2) is None
    assert await network.reader.task_definition(-1) is None


async def test_only_the_owner_defines_tasks(chain: Chain) -> None:
    await refused(chain.define("mine", sender=STRANGER), "OwnableUnauthorizedAccount", text(STRANGER.address))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"minimum_stake_wei": GWEI - 1}, ("minimumStake", GWEI - 1)),
        ({"unbonding_seconds": 0}, ("unbondingSeconds", 0)),
        ({"epoch_seconds": 31 * 24 * 3600}, ("epochSeconds", 31 * 24 * 3600)),
        ({"vault": Address(bytes(20))}, ("vault", 0)),
        ({"slash_wad": 10**18 + 1}, ("slashWad", 10**18 + 1)),
        ({"dispute_window_seconds": 1001}, ("disputeWindow", 1001)),
    ],
)
async def test_terms_out_of_bounds_are_refused(kind: str, changes: dict[str, int], setting: tuple[str, int]) -> None:
    async def deploy() -> None:
        async with open_chain(kind, replace(TERMS, **changes)):  # type: ignore[arg-type]
            pass

    await refused(deploy(), "InvalidSetting", *setting)


# --- registering and leaving ---------------------------------------------------------------------
async def test_registrations_that_are_refused(network: Chain) -> None:
    taken = network.people[0].registration(network.deployment, Role.ATTESTER)
    good = STRANGER.registration(network.deployment, Role.ATTESTER)
    key_hash = network.deployment.possession_domain
    other = Person("other").registration(network.deployment, Role.ATTESTER)
    cases = [
        (replace(good, roles=Role(0)), "InvalidRoles", (0,)),
        (replace(good, stake_wei=ETHER - 1), "StakeTooSmall", (ETHER - 1, ETHER)),
        (replace(good, peer_key=PeerKey(bytes(32))), "InvalidPeerKey", ()),
        (replace(good, peer_key=taken.peer_key), "PeerKeyTaken", (taken.peer_key,)),
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
    with pytest.raises(Reverted, match="VoteKeyTaken"):
        await network.register(STRANGER, replace(good, vote_key=taken.vote_key, possession=taken.possession))
    await refused(network.register(network.people[0], good), "AlreadyRegistered", text(network.people[0].address))

    await network.register(STRANGER, good)
    assert (await network.reader.operators())[-1].address == STRANGER.address
    assert key_hash.contract == network.deployment.registry


async def test_leaving_takes_its_time_and_pays_back(network: Chain) -> None:
    leaver, last = network.people[0], network.people[2]
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
    await refused(network.withdraw(leaver), "StillInTable", text(leaver.address), 3)

    assert await network.roll() == 2
    table = await network.reader.operator_table(2)
    assert table is not None
    # The last attester moved to the empty seat.
    assert [entry.address for entry in table.entries] == [last.address, network.people[1].address]
    await network.warp(100)
    assert await network.roll() == 3
    await network.withdraw(leaver)
    assert await network.reader.stake_of(leaver.address) == 0
    assert leaver.address not in [operator.address for operator in await network.reader.operators()]
    await refused(network.withdraw(leaver), "AlreadyWithdrawn", text(leaver.address))


# --- verdicts ------------------------------------------------------------------------------------
async def test_an_approval_settles_for_ever(network: Chain) -> None:
    info = network.info("a")
    assert await network.settlement.verdict_of(info.task_id) is None

    tx_hash, gas = await network.settle(network.certificate(info))

    assert await network.settlement.verdict_of(info.task_id) is VALID
    (event,) = await network.first_events(1)
    assert isinstance(event, Settled)
    assert (event.task_id, event.is_approved, event.tx_hash, event.gas_used) == (info.task_id, True, tx_hash, gas)
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

    total = sum(stakes) // GWEI
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


async def test_a_certificate_lives_as_long_as_its_table(network: Chain) -> None:
    for name, epoch in (("a", 2), ("b", 3)):
        await network.warp(100)
        assert await network.roll() == epoch
        certificate = network.certificate(network.info(name))
        if epoch == 2:
            await network.settle(certificate)
        else:
            await refused(network.settlement.submit_task(certificate), "UnknownEpoch", 1, 3)


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
    made, submission = network.batch(["a", "b", "c", "d", "e"])
    certificate = made.certificates[0]
    path = made.tree.proof(made.leaf_of(network.deployment.domain, certificate))
    hashed = network.deployment.domain.task_info_hash
    first = (made.info.root, certificate.task_info.task_id, hashed(certificate.task_info), True, path)
    assert not await network.reader.included(*first)
    assert not await network.settlement.is_batch_settled(made.info.root)

    tx_hash = await network.settlement.submit_batch(submission)
    gas = await network.settlement.confirm(tx_hash, LIMIT_SECONDS)

    assert await network.settlement.is_batch_settled(made.info.root)
    (event,) = await network.first_events(1)
    assert isinstance(event, BatchSettled)
    assert (event.batch, event.tx_hash, event.gas_used) == (made.info, tx_hash, gas)
    root = made.info.root
    for certificate in made.certificates:
        task_id, info_hash = certificate.task_info.task_id, hashed(certificate.task_info)
        path = made.tree.proof(leaf(task_id, info_hash, True))
        assert await network.reader.included(root, task_id, info_hash, True, path)
        assert not await network.reader.included(root, task_id, info_hash, False, path)
        assert not await network.reader.included(root, task_id, info_hash, True, path[:-1])
        assert not await network.reader.included(Digest(sha("root")), task_id, info_hash, True, path)
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
async def test_a_slash_waits_and_then_moves_the_exact_stake(network: Chain) -> None:
    info = network.info("a")
    await network.settle(network.certificate(info, INVALID, (0, 1)))
    rejected, queued = await network.first_events(2)
    assert isinstance(rejected, Settled)
    assert isinstance(queued, SlashQueued)
    assert (rejected.task_id, rejected.is_approved) == (info.task_id, False)
    assert (queued.task_id, queued.operator) == (info.task_id, PERFORMER.address)
    assert queued.executable_at == pytest.approx(await network.reader.chain_time() + 500, abs=3)

    slash = network.settlement.execute_slash
    await refused(slash(info.task_id), "SlashNotDue", info.task_id, queued.executable_at)
    await refused(slash(network.info("b").task_id), "NoSlashQueued", network.info("b").task_id)
    await network.leave(PERFORMER)
    await network.warp(501)
    await network.settlement.confirm(await slash(info.task_id), LIMIT_SECONDS)

    *_, executed = await network.first_events(3)
    assert isinstance(executed, SlashExecuted)
    assert (executed.task_id, executed.operator, executed.amount_wei) == (info.task_id, PERFORMER.address, ETHER // 10)
    assert await network.reader.stake_of(PERFORMER.address) == ETHER - ETHER // 10
    assert await network.reader.vault_balance() == ETHER // 10
    await refused(slash(info.task_id), "SlashAlreadyExecuted", info.task_id)


async def test_nobody_leaves_before_a_queued_slash(network: Chain) -> None:
    """And slashes follow one another: each takes its share of what is left."""
    for name in ("a", "b"):
        await network.settle(network.certificate(network.info(name), INVALID, (0, 1)))
    await network.leave(PERFORMER)
    await network.warp(1001)
    await refused(network.withdraw(PERFORMER), "SlashPending", text(PERFORMER.address), 2)

    for name in ("a", "b"):
        tx_hash = await network.settlement.execute_slash(network.info(name).task_id)
        await network.settlement.confirm(tx_hash, LIMIT_SECONDS)

    assert await network.reader.stake_of(PERFORMER.address) == ETHER * 81 // 100
    assert await network.reader.vault_balance() == ETHER * 19 // 100
    await network.withdraw(PERFORMER)
    assert await network.reader.vault_balance() == ETHER * 19 // 100


async def test_who_falls_below_the_minimum_is_inactive(network: Chain) -> None:
    info = network.info("a")
    await network.settle(network.certificate(info, INVALID, (0, 1)))
    await network.warp(501)
    await network.settlement.confirm(await network.settlement.execute_slash(info.task_id), LIMIT_SECONDS)

    operators = {operator.address: operator for operator in await network.reader.operators()}
    assert not operators[PERFORMER.address].is_active
    assert operators[network.people[0].address].is_active


# --- events --------------------------------------------------------------------------------------
async def test_events_come_in_order_from_any_block_on(network: Chain) -> None:
    async with following(network.settlement.events(0)) as live:
        names = ["a", "b", "c", "d"]
        for name in names:
            verdict = INVALID if name == "b" else VALID
            await network.settle(network.certificate(network.info(name), verdict))
        await live.has(5)

    told = [(type(event), event.task_id) for event in live.events if not isinstance(event, BatchSettled)]
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
        await chain.populate((ETHER, 2 * ETHER, 3 * ETHER, ETHER + GWEI, ETHER))
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
