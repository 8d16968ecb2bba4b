"""What holds at the end of every simulation, whatever happened in it (design §5)."""

from __future__ import annotations

from collections import defaultdict

from shared import quorum
from shared.evidence import check_commitment, salt_of
from shared.messages import TaskMessage, VoteMessage
from shared.types import Digest, OperatorTable, SlashExecuted, Verdict
from tests.simnet.network import Network


async def check(net: Network) -> None:
    """All of them."""
    no_fault(net)
    one_verdict_a_task(net)
    nothing_settles_without_quorum(net)
    honest_nodes_sign_once(net)
    evidence_stands_behind_each_vote(net)
    nobody_honest_is_named(net)
    await every_wei_is_somewhere(net)


def no_fault(net: Network) -> None:
    """Nothing ended with a traceback, and no role ended by itself."""
    assert net.journal.faults() == []
    assert {node.name: node.crashes for node in net.nodes.values() if node.crashes} == {}


def one_verdict_a_task(net: Network) -> None:
    """No task is both approved and rejected."""
    for task_id in net.asked:
        assert len({found.verdict for found in net.on_chain(task_id)}) <= 1


def nothing_settles_without_quorum(net: Network) -> None:
    """The votes are counted again, from the disks of the honest attesters and what liars put on the wire."""
    for task_id in net.asked:
        for found in net.on_chain(task_id):
            voters = {net.address(name): name for name in net.attesters if found.verdict in _signed(net, name, task_id)}
            reached = [
                quorum.reached(
                    found.verdict, sum(e.power for e in table.entries if e.address in voters), table.total_power
                )
                for table in _tables_of(net, task_id)
            ]
            assert any(reached), (found, voters.values())


def _tables_of(net: Network, task_id: Digest) -> list[OperatorTable]:
    """Those that its task infos name: one, but for a performer that signs two."""
    said = [message.task_info for message in net.journal.of(TaskMessage)]
    tables = net.chain._state().tables.tables
    return [tables[epoch] for epoch in {info.epoch for info in said if info.task_id == task_id}]


def _signed(net: Network, attester: str, task_id: Digest) -> set[Verdict]:
    if net.is_honest(attester):
        voted = net.node(attester).guard.votes.get(task_id)
        return {voted[1]} if voted is not None else set()
    return {vote.verdict for vote in net.votes(attester, task_id)}


def honest_nodes_sign_once(net: Network) -> None:
    """An honest attester votes one way on one task info of a task; an honest performer signs one task info of it."""
    signed: dict[tuple[str, Digest], set[object]] = defaultdict(set)
    for sent in net.journal.wire:
        if isinstance(sent.message, VoteMessage):
            vote = sent.message
            signed[sent.origin, vote.task_id].add((vote.task_info_hash, vote.verdict, vote.signature, vote.evidence))
        elif isinstance(sent.message, TaskMessage):
            signed[sent.origin, sent.message.task_info.task_id].add(sent.message.task_info)
    twice = {name for (name, _), said in signed.items() if len(said) > 1}
    assert [name for name in twice if name in net.nodes and net.is_honest(name)] == []


def evidence_stands_behind_each_vote(net: Network) -> None:
    """It is on the voter's disk, it is what the vote was committed to, and it says the same verdict."""
    for name in net.attesters:
        person = net.nodes[name].person
        for vote in net.journal.of(VoteMessage, name) if net.is_honest(name) else []:
            evidence = check_commitment(
                vote.evidence,
                salt_of(person.evidence_secret, vote.task_info_hash),
                net.evidence(name, vote.task_info_hash),
                operator=person.address,
                task_info_hash=vote.task_info_hash,
            )
            assert (evidence.task_id, evidence.verdict) == (f"0x{vote.task_id.hex()}", vote.verdict.name.lower())


def nobody_honest_is_named(net: Network) -> None:
    """As one who voted twice, by any aggregator in any of its lives."""
    honest = {net.address(name).hex() for name in net.attesters if net.is_honest(name)}
    assert [line for line in net.journal.said("equivocation") if line["attester"] in honest] == []


async def every_wei_is_somewhere(net: Network) -> None:
    """Stakes and vault are what was staked, and each stake lacks what its slashes took."""
    staked = {name: stake for name, (_, stake) in net.plan.members().items()}
    now = {name: await net.stake(name) for name in staked}
    hub = net.chain._state()
    assert hub.registry.total_stake_wei == sum(now.values())
    assert sum(now.values()) + hub.court.total_owed == sum(staked.values())
    # What people paid in is in a contract or with whom it was paid to, and each contract has what it owes.
    assert sum(hub.coins.balances.values()) == hub.coins.put_in
    deployment = net.chain.deployment
    held = [hub.coins.of(contract) for contract in (deployment.registry, deployment.court, deployment.escrow)]
    assert held == [hub.registry.total_stake_wei, hub.court.total_owed, hub.escrow.held]
    taken: dict[bytes, int] = defaultdict(int)
    for slash in net.slashes(SlashExecuted):
        taken[slash.operator] += slash.amount_wei
    assert {name: staked[name] - now[name] for name in staked} == {name: taken[net.address(name)] for name in staked}
