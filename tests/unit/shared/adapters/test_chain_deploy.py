"""Deployment and its helpers on the real contracts: how the five are joined, and what only a real chain shows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from shared.adapters import deploy
from shared.adapters.chain_evm.abi import Abi, center_abi, court_abi, escrow_abi, registry_abi, tables_abi
from shared.adapters.chain_evm.wire import Call
from shared.crypto import bls
from shared.errors import Reverted
from shared.types import Address, Fees, Role, TaskTerms, Verdict
from tests.chain_support import (
    EQUAL,
    ETHER,
    OWNER,
    POWER_UNIT,
    TERMS,
    VAULT,
    AnvilChain,
    Person,
    open_chain,
)

SEATS_A_PAGE = 104


@pytest.fixture
async def chain() -> AsyncIterator[AnvilChain]:
    async with open_chain("anvil") as opened:
        assert isinstance(opened, AnvilChain)
        yield opened


async def ask(chain: AnvilChain, contract: Address, abi: Abi, function: str, *arguments: Any) -> Any:
    (answer,) = abi.returned(function, await chain.client.call(Call(contract, abi.call_data(function, *arguments))))
    return bytes.fromhex(answer[2:]) if isinstance(answer, str) else answer


async def count_events(chain: AnvilChain, event: str) -> int:
    """Of the tables."""
    head = (await chain.client.head()).number
    return len(await chain.client.logs([chain.deployment.tables], [tables_abi().topic(event)], 0, head))


async def test_the_five_contracts_know_each_other(chain: AnvilChain) -> None:
    at = chain.deployment
    for contract, abi, function, expected in (
        (at.tables, tables_abi(), "source", at.registry),
        (at.registry, registry_abi(), "tables", at.tables),
        (at.registry, registry_abi(), "court", at.court),
        (at.center, center_abi(), "verifier", at.tables),
        (at.center, center_abi(), "operators", at.registry),
        (at.center, center_abi(), "court", at.court),
        (at.escrow, escrow_abi(), "center", at.center),
        (at.court, court_abi(), "center", at.center),
    ):
        assert await ask(chain, contract, abi, function) == expected, function


async def test_each_term_is_where_it_belongs(chain: AnvilChain) -> None:
    at = chain.deployment
    for contract, abi, function, expected in (
        (at.tables, tables_abi(), "epochSeconds", TERMS.epoch_seconds),
        (at.tables, tables_abi(), "graceSeconds", TERMS.grace_seconds),
        (at.registry, registry_abi(), "minimumStake", TERMS.minimum_stake_wei),
        (at.registry, registry_abi(), "powerUnit", TERMS.power_unit_wei),
        (at.registry, registry_abi(), "unbondingSeconds", TERMS.unbonding_seconds),
        (at.registry, registry_abi(), "stakeToken", bytes(20)),
        (at.escrow, escrow_abi(), "refundDelay", TERMS.refund_delay_seconds),
        (at.escrow, escrow_abi(), "token", bytes(20)),
        (at.court, court_abi(), "vault", VAULT),
        (at.court, court_abi(), "vetoDelay", TERMS.veto_delay_seconds),
        (at.court, court_abi(), "longestDispute", TERMS.longest_dispute_seconds),
    ):
        assert await ask(chain, contract, abi, function) == expected, function
    for contract, abi in (
        (at.registry, registry_abi()),
        (at.center, center_abi()),
        (at.escrow, escrow_abi()),
        (at.court, court_abi()),
    ):
        assert await ask(chain, contract, abi, "owner") == OWNER.address
        assert await ask(chain, contract, abi, "changeDelay") == TERMS.change_delay_seconds


async def test_another_owner_may_be_named(chain: AnvilChain) -> None:
    boss = Person("boss").address
    other = await deploy.deploy(chain.sender, replace(TERMS, owner=boss))
    assert other.center != chain.deployment.center
    assert await ask(chain, other.center, center_abi(), "owner") == boss
    # The words that join the contracts are the deployer's, whoever owns them.
    assert await ask(chain, other.center, center_abi(), "court") == other.court


async def test_an_epoch_of_several_pages_is_rolled_at_once(chain: AnvilChain) -> None:
    """One owner registers them all: their keys consent."""
    await chain.populate(EQUAL)
    people = [Person(f"one of many {number}") for number in range(SEATS_A_PAGE)]

    async def join(person: Person) -> None:
        plain = person.registration(chain.deployment, Role.ATTESTER)
        consent = person.identity.sign(chain.deployment.registry_domain.consent(person.address, OWNER.address))
        await deploy.register(chain.sender, chain.deployment, replace(plain, operator=person.address, consent=consent))

    await asyncio.gather(*(join(person) for person in people))
    pages = await count_events(chain, "SeatPageWritten")
    await chain.warp(101)
    assert await deploy.roll_epoch(chain.sender, chain.deployment) == 2
    assert await count_events(chain, "SeatPageWritten") == pages + 2
    assert await count_events(chain, "EpochRolled") == 2
    table = await chain.reader.operator_table(2)
    assert table is not None
    assert len(table.entries) == SEATS_A_PAGE + 3
    assert {entry.address for entry in table.entries} == {person.address for person in (*chain.people, *people)}
    assert table.total_power == (SEATS_A_PAGE + 3) * ETHER // POWER_UNIT
    with pytest.raises(Reverted, match="EpochNotOver"):
        await deploy.roll_epoch(chain.sender, chain.deployment)


async def test_a_rotated_key_votes_from_the_next_epoch_on(chain: AnvilChain) -> None:
    await chain.populate(EQUAL)
    first, fresh = chain.people[0], bls.SecretKey(1234567)
    digest = chain.deployment.possession_domain.key_possession(first.address, fresh.public_key)
    proof = fresh.prove_possession(digest)
    sender = await chain.sender_of(first)
    await deploy.rotate_vote_key(sender, chain.deployment, first.address, fresh.public_key, proof)
    await chain.warp(101)
    assert await chain.roll() == 2

    old, new = [await chain.reader.operator_table(epoch) for epoch in (1, 2)]
    assert old is not None
    assert new is not None
    assert [old.entries[0].vote_key, new.entries[0].vote_key] == [first.vote.public_key, fresh.public_key]
    assert old.entries[1:] == new.entries[1:]
    with pytest.raises(Reverted, match="VoteKeyTaken"):
        await deploy.rotate_vote_key(sender, chain.deployment, first.address, fresh.public_key, proof)


async def test_stake_and_rewards_receiver_are_changed_for_one_operator(chain: AnvilChain) -> None:
    await chain.populate(EQUAL)
    first, friend = chain.people[0], Person("friend")
    await deploy.add_stake(chain.sender, chain.deployment, first.address, 5 * POWER_UNIT)
    await deploy.set_rewards_receiver(await chain.sender_of(first), chain.deployment, first.address, friend.address)
    found = {operator.address: operator for operator in await chain.reader.operators()}
    assert found[first.address].stake_wei == ETHER + 5 * POWER_UNIT
    assert found[first.address].rewards_receiver == friend.address
    second = chain.people[1].address
    assert (found[second].stake_wei, found[second].rewards_receiver) == (ETHER, second)
    with pytest.raises(Reverted, match="OnlyOwner"):
        await deploy.set_rewards_receiver(chain.sender, chain.deployment, first.address, OWNER.address)


async def test_a_setting_changes_after_its_announcement(chain: AnvilChain) -> None:
    await chain.define("digits")
    fees = Fees(performer=5, attesters=3, aggregator=1)
    packed = fees.performer << 160 | fees.attesters << 80 | fees.aggregator
    await deploy.announce_change(chain.sender, chain.deployment.center, "fees", 0, packed)
    with pytest.raises(Reverted, match="ChangeNotDue"):
        await deploy.make_change(chain.sender, chain.deployment.center, "fees", 0)
    await chain.warp(TERMS.change_delay_seconds + 1)
    await deploy.make_change(chain.sender, chain.deployment.center, "fees", 0)
    definition = await chain.reader.task_definition(0)
    assert definition is not None
    assert definition.terms.fees == fees
    with pytest.raises(Reverted, match="UnknownChange"):
        await deploy.announce_change(chain.sender, chain.deployment.center, "anything", 0, 1)


async def test_a_sets_table_is_written_once_by_who_settles_first(chain: AnvilChain) -> None:
    await chain.populate(EQUAL)
    members = [chain.people[seat].address for seat in (2, 0)]
    limit = ETHER // POWER_UNIT - 1
    number = await deploy.create_attester_set(chain.sender, chain.deployment, members, maximum_power=limit)
    definition = await chain.define("set", terms=TaskTerms(dispute_window=500, attester_set=number))
    table = await chain.reader.operator_table(1, number)
    assert table is not None
    assert [entry.power for entry in table.entries] == [limit, 0, limit]

    for name, rolled in (("a", 1), ("b", 1)):
        info = chain.info(name, task_definition_id=definition)
        await chain.settle(chain.certificate(info, Verdict.VALID, (0, 2)))
        assert await chain.settlement.verdict_of(info.task_id) is Verdict.VALID
        assert await count_events(chain, "SetRolled") == rolled
    assert await chain.reader.operator_table(1, number) == table

    with pytest.raises(Reverted, match="IndexWithoutPower"):
        await chain.settle(chain.certificate(chain.info("c", task_definition_id=definition), Verdict.VALID, (0, 1, 2)))
    with pytest.raises(Reverted, match="QuorumNotReached"):
        await chain.settle(chain.certificate(chain.info("c", task_definition_id=definition), Verdict.VALID, (0,)))


async def test_a_sets_table_is_written_by_who_settles_after_the_deadline_too(chain: AnvilChain) -> None:
    await chain.populate(EQUAL)
    number = await deploy.create_attester_set(chain.sender, chain.deployment, [])
    terms = TaskTerms(dispute_window=500, attester_set=number, waits_for_all=True)
    definition = await chain.define("set", terms=terms)
    request = chain.request(task_definition_id=definition, deadline=await chain.reader.chain_time() - 1)
    task_id = chain.deployment.domain.task_id(request)
    certificate = chain.certificate(
        chain.info("", task_id=task_id, task_definition_id=definition), Verdict.INVALID, (1, 2)
    )

    await chain.confirmed(chain.settlement.submit_task_after_deadline(certificate, request))

    assert await chain.settlement.verdict_of(task_id) is Verdict.INVALID
    assert await count_events(chain, "SetRolled") == 1


async def test_two_who_write_a_sets_table_at_once_both_settle(chain: AnvilChain) -> None:
    await chain.populate(EQUAL)
    number = await deploy.create_attester_set(chain.sender, chain.deployment, [], minimum_owners=3)
    definition = await chain.define("set", terms=TaskTerms(dispute_window=500, attester_set=number))
    certificates = [chain.certificate(chain.info(name, task_definition_id=definition)) for name in ("a", "b", "c")]

    await asyncio.gather(*(chain.settle(certificate) for certificate in certificates))

    for certificate in certificates:
        assert await chain.settlement.verdict_of(certificate.task_info.task_id) is Verdict.VALID
    assert await count_events(chain, "SetRolled") == 1
    with pytest.raises(Reverted, match="OwnersNotReached"):
        await chain.settle(chain.certificate(chain.info("d", task_definition_id=definition), Verdict.INVALID, (0, 1)))
