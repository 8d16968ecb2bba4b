"""Gas of every step on chain, by real transactions on anvil under osaka rules: all addresses and slots are cold.

`exec` is the receipt's gas less the 21,000 of a transaction and its calldata (4 gas a zero byte, 16 another): what a
contract that calls in pays; an inclusion proof's is read from GAS around the call. `tx` is the whole receipt. k
attesters are missing, spread over the table.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import Any

from bench.table import Row, arguments, report
from shared.adapters import deploy
from shared.adapters.anvil import Anvil, AnvilSettings
from shared.adapters.chain_evm import (
    EvmClient,
    EvmCourt,
    EvmEpochs,
    EvmEscrow,
    EvmOperatorReader,
    EvmSettlement,
    Receipt,
    Sender,
)
from shared.adapters.chain_evm.abi import center_abi, tables_abi
from shared.adapters.chain_evm.wire import tohex
from shared.adapters.signers import LocalIdentitySigner
from shared.batch import certificate_leaf
from shared.crypto import bls
from shared.crypto.keystore import NodeKeys
from shared.digests import slash_id_of
from shared.indices import indices_of, missing_of, signers_of, voters_hash
from shared.interfaces import BatchSubmission, Collection
from shared.merkle import MerkleTree
from shared.types import (
    Address,
    BatchInfo,
    Cid,
    Digest,
    Fees,
    Offence,
    OperatorTable,
    Role,
    TaskCertificate,
    TaskInfo,
    TaskRequest,
    TaskTerms,
    Uint256,
    Verdict,
)

ETHER = 10**18
FUNDS_WEI = 1_000 * ETHER
SIZES = (4, 10, 34, 100)
BATCHES = (16, 256)
PARALLEL = 16
CONFIRM_SECONDS = 60.0
POLL_SECONDS = 0.05
TX_GAS, ZERO_BYTE_GAS, BYTE_GAS = 21_000, 4, 16
GOALS = {
    "verify step, N=100, k=0 (exec gas)": 124_000,
    "verify step, N=100, k=5 (exec gas)": 132_000,
    "verify step, N=100, k=33 (exec gas)": 162_000,
    "whole single-task settlement, N=4 (tx)": 160_000,
    "whole single-task settlement, N=100 (tx)": 160_000,
    "batch per task, B=16": 9_900,
    "batch per task, B=256": 620,
    "inclusion proof, B=256 (exec)": 7_900,
    "reject certificate, 34 of 100 sign (exec)": 165_000,
    "registration with proof of possession (tx)": 240_000,
    "roll, N=100 (tx)": 275_000,
}
FEES = Fees(performer=500, attesters=300, aggregator=100)
FEE = 1_000
REQUESTER = "requester"
PAID_TASKS = 16  # collected together, of each batch
DISPUTE_SECONDS = 1


@dataclass(frozen=True)
class Bench:
    """One deployed network of N attesters and a performer."""

    client: EvmClient
    sender: Sender
    deployment: deploy.Deployment
    settlement: EvmSettlement
    escrow: EvmEscrow
    table: OperatorTable
    attesters: tuple[NodeKeys, ...]  # in table order
    performer: NodeKeys

    async def exec_gas(self, to: Address, data: bytes) -> int:
        """Of a call sent as a transaction."""
        receipt = await self.sender.confirm(await self.sender.send(to, data), CONFIRM_SECONDS)
        zeros = data.count(0)
        return receipt.gas_used - TX_GAS - ZERO_BYTE_GAS * zeros - BYTE_GAS * (len(data) - zeros)

    async def call_gas(self, to: Address, data: bytes) -> int:
        """What a contract pays for a call to an account that it has touched before, by two readings of GAS around it.
        A transaction of so little work would pay EIP-7623's floor for its calldata instead."""
        target = b"\x73" + to  # PUSH20
        touch = target + b"\x31\x50"  # BALANCE POP
        copy = b"\x36\x5f\x5f\x37"  # CALLDATACOPY(0, 0, CALLDATASIZE)
        call = b"\x5a\x5f\x5f\x36\x5f" + target + b"\x5a\xfa\x50\x5a\x90\x03"  # GAS STATICCALL(…) POP GAS SWAP1 SUB
        code = touch + copy + call + b"\x5f\x52\x60\x20\x5f\xf3"  # MSTORE(0) RETURN(0, 32)
        meter = tohex(b"\x99" * 20)
        transaction = {"to": meter, "data": tohex(data), "gas": hex(10_000_000)}
        answer = await self.client.request("eth_call", transaction, "latest", {meter: {"code": tohex(code)}})
        return int(str(answer), 16)

    def sign(self, digest: bytes, signers: tuple[int, ...]) -> bytes:
        return bls.aggregate(self.attesters[index].vote.sign(digest) for index in signers)

    def voters(self, certificate: TaskCertificate) -> Digest:
        return voters_hash(self.table, indices_of(certificate, self.table))

    def paid_task(self, number: int, signers: tuple[int, ...], verdict: Verdict = Verdict.VALID) -> PaidTask:
        """A request with a fee, and its real certificate over a task info of usual size."""
        request = TaskRequest(
            requester=_keys(REQUESTER).address,
            nonce=Uint256(number),
            performer=self.performer.address,
            task_definition_id=0,
            model_hash=Digest(bytes(32)),
            input_cid=Cid("bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"),
            parameters="{}",
            seed=Digest(hashlib.sha256(b"seed %d" % number).digest()),
            fee=Uint256(FEE),
            deadline=2**40,
        )
        domain = self.deployment.domain
        task_id = domain.task_id(request)
        info = TaskInfo(
            task_id=task_id,
            proof_of_task=Cid("bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"),
            data=bytes(31) + b"\7",
            task_performer=self.performer.address,
            task_definition_id=0,
            epoch=1,
        )
        info_hash = domain.task_info_hash(info)
        signature = self.sign(domain.vote(info_hash, verdict), signers)
        signed_request = _keys(REQUESTER).operator.sign(task_id)
        signed_info = self.performer.operator.sign(info_hash)
        certificate = TaskCertificate(info, verdict, signers, signature, signed_info)
        return PaidTask(request, signed_request, certificate)


@dataclass(frozen=True)
class PaidTask:
    """A task whose requester offers a fee."""

    request: TaskRequest
    requester_signature: bytes
    certificate: TaskCertificate

    def collection(self, bench: Bench, root: Digest, path: tuple[bytes, ...]) -> Collection:
        """`root` zero: settled by itself."""
        info = self.certificate.task_info
        return Collection(
            request=self.request,
            requester_signature=self.requester_signature,
            info_hash=bench.deployment.domain.task_info_hash(info),
            is_approved=self.certificate.verdict is Verdict.VALID,
            epoch=info.epoch,
            indices=indices_of(self.certificate, bench.table),
            root=root,
            aggregator=bench.sender.address,
            path=path,
        )


def main() -> None:
    options = arguments(__doc__ or "").parse_args()
    report("gas", asyncio.run(_measure()), options.json)


async def _measure() -> list[Row]:
    rows: list[Row] = []
    async with Anvil(AnvilSettings(block_seconds=0.25)) as anvil, EvmClient(anvil.url) as client:
        chain_id = int(await client.request("eth_chainId"), 16)
        for size in SIZES:
            owner = _keys(f"owner {size}")
            await deploy.set_balance(client, owner.address, FUNDS_WEI)
            async with _sender(client, owner, chain_id) as sender:
                rows += await _measure_size(client, sender, size)
    return rows


async def _measure_size(client: EvmClient, sender: Sender, size: int) -> list[Row]:
    bench, setup = await _build(client, sender, size)
    rows = setup if size == max(SIZES) else []
    everybody = tuple(range(size))
    for missing in [k for k in (0, 1, 5, 10, 33) if 3 * (size - k) > 2 * size]:
        digest = hashlib.sha256(b"verify %d %d" % (size, missing)).digest()
        data = _verify_data(bench, digest, _without(size, missing), is_approval=True)
        gas = await bench.exec_gas(bench.deployment.tables, data)
        rows.append(_row(f"verify step, N={size}, k={missing} (exec gas)", gas))
    task = bench.paid_task(size, everybody)
    gas = await bench.settlement.confirm(await bench.settlement.submit_task(task.certificate), CONFIRM_SECONDS)
    rows.append(_row(f"whole single-task settlement, N={size} (tx)", gas))
    collection = task.collection(bench, Digest(bytes(32)), ())
    collected = await bench.settlement.confirm(await bench.escrow.collect([collection]), CONFIRM_SECONDS)
    rows.append(_row(f"whole single-task settlement, N={size} (tx), rewards counted in", gas + collected))
    if size == max(SIZES):
        rows += await _measure_rest(bench)
    return rows


async def _measure_rest(bench: Bench) -> list[Row]:
    size = len(bench.attesters)
    third = tuple(range(size // 3 + 1))
    digest = hashlib.sha256(b"reject").digest()
    data = _verify_data(bench, digest, third, is_approval=False)
    gas = await bench.exec_gas(bench.deployment.tables, data)
    rows = [_row(f"reject certificate, {len(third)} of {size} sign (exec)", gas)]
    for batch_size in BATCHES:
        rows += await _measure_batch(bench, batch_size)
    return rows + await _measure_slashing(bench) + await _measure_roll(bench)


async def _measure_batch(bench: Bench, batch_size: int) -> list[Row]:
    """One signature over a root; what the leaves stand for is the attesters' to check, so most may be anything."""
    domain, everybody = bench.deployment.domain, tuple(range(len(bench.attesters)))
    paid = [bench.paid_task(1000 * batch_size + i, everybody) for i in range(PAID_TASKS)]
    leaves = [certificate_leaf(domain, task.certificate, bench.voters(task.certificate)) for task in paid]
    others = [hashlib.sha256(b"leaf %d %d" % (batch_size, i)).digest() for i in range(batch_size - PAID_TASKS)]
    tree = MerkleTree([*leaves, *others])
    content = Digest(hashlib.sha256(b"document %d" % batch_size).digest())
    info = BatchInfo(tree.root, content, batch_size, 1, bench.sender.address)
    submission = BatchSubmission(info, everybody, bench.sign(domain.batch(info), everybody))
    gas = await bench.settlement.confirm(await bench.settlement.submit_batch(submission), CONFIRM_SECONDS)
    first = paid[0].certificate
    data = center_abi().call_data(
        "included",
        tree.root,
        first.task_info.task_id,
        domain.task_info_hash(first.task_info),
        True,
        bench.voters(first),
        tree.proof(leaves[0]),
    )
    included = await bench.call_gas(bench.deployment.center, data)
    collections = [
        task.collection(bench, tree.root, tuple(tree.proof(leaf))) for task, leaf in zip(paid, leaves, strict=True)
    ]
    collected = await bench.settlement.confirm(await bench.escrow.collect(collections), CONFIRM_SECONDS)
    return [
        _row(f"batch per task, B={batch_size}", gas / batch_size),
        _row(f"batch per task, B={batch_size}, rewards counted in", gas / batch_size + collected / PAID_TASKS),
        _row(f"inclusion proof, B={batch_size} (exec)", included),
    ]


async def _measure_slashing(bench: Bench) -> list[Row]:
    """A rejection with its queue entry, and the slash itself a second later."""
    third = tuple(range(len(bench.attesters) // 3 + 1))
    task = bench.paid_task(7, third, Verdict.INVALID)
    gas = await bench.settlement.confirm(await bench.settlement.submit_task(task.certificate), CONFIRM_SECONDS)
    performer, task_id = bench.performer.address, task.certificate.task_info.task_id
    slash_id = slash_id_of(Offence.REJECTED_TASK, task_id, performer)
    court = EvmCourt(bench.sender, bench.deployment)
    named = await bench.settlement.confirm(await court.name_harmed(slash_id, task.request), CONFIRM_SECONDS)
    await asyncio.sleep(DISPUTE_SECONDS + 1)  # the chain's clock is this machine's
    executed = await bench.settlement.confirm(await court.execute_slash(slash_id), CONFIRM_SECONDS)
    return [
        _row(f"reject certificate, {len(third)} of {len(bench.attesters)} sign, slash queued (tx)", gas),
        _row("naming who was harmed (tx)", named),
        _row("executing a slash (tx)", executed),
    ]


async def _build(client: EvmClient, sender: Sender, size: int) -> tuple[Bench, list[Row]]:
    terms = deploy.NetworkTerms(
        vault=sender.address, longest_dispute_seconds=60, veto_delay_seconds=1, unbonding_seconds=60, epoch_seconds=1
    )
    deployment = await deploy.deploy(sender, terms)
    performer = _keys(f"performer {size}")
    await _register(client, deployment, performer, Role.PERFORMER)
    attesters = [_keys(f"attester {size} {i}") for i in range(size)]
    slots = asyncio.Semaphore(PARALLEL)

    async def one(keys: NodeKeys) -> Receipt:
        async with slots:
            return await _register(client, deployment, keys, Role.ATTESTER)

    receipts = await asyncio.gather(*map(one, attesters))
    await deploy.create_task_definition(
        sender,
        deployment,
        name="digits",
        method="exact",
        model_hash=Digest(bytes(32)),
        card_cid=Cid("bafkrei"),
        terms=TaskTerms(dispute_window=DISPUTE_SECONDS, fees=FEES),
    )
    epochs = EvmEpochs(sender, deployment)
    first_roll = await sender.confirm(await epochs.roll(), CONFIRM_SECONDS)
    reader = EvmOperatorReader(client, deployment)
    table = await reader.operator_table(1)
    if table is None or len(table.entries) != size:
        raise SystemExit("the first table does not hold the attesters")
    by_address = {keys.address: keys for keys in attesters}
    in_order = tuple(by_address[entry.address] for entry in table.entries)
    settlement = EvmSettlement(sender, reader, deployment, poll_seconds=POLL_SECONDS)
    escrow = EvmEscrow(sender, deployment)
    deposit = await escrow.deposit(_keys(REQUESTER).address, performer.address, ETHER)
    await settlement.confirm(deposit, CONFIRM_SECONDS)
    setup = [
        _row("registration with proof of possession (tx)", sorted(r.gas_used for r in receipts)[size // 2]),
        _row(f"first roll, with {size} new keys (tx)", first_roll.gas_used),
    ]
    return Bench(client, sender, deployment, settlement, escrow, table, in_order, performer), setup


async def _measure_roll(bench: Bench) -> list[Row]:
    """With one stake changed and no new key; last, since its epoch is another one."""
    await deploy.add_stake(bench.sender, bench.deployment, bench.attesters[0].address, ETHER)
    epochs = EvmEpochs(bench.sender, bench.deployment)
    roll = await bench.sender.confirm(await epochs.roll(), CONFIRM_SECONDS)
    return [_row(f"roll, N={len(bench.attesters)} (tx)", roll.gas_used)]


async def _register(client: EvmClient, deployment: deploy.Deployment, keys: NodeKeys, role: Role) -> Receipt:
    await deploy.set_balance(client, keys.address, FUNDS_WEI)
    common: dict[str, Any] = {
        "roles": role,
        "stake_wei": ETHER,
        "peer_key": keys.peer_key,
        "p2p_address": "/ip4/127.0.0.1/tcp/9700",
        "gateway_url": "http://127.0.0.1:8700",
    }
    if role is Role.ATTESTER:
        domain = deployment.possession_domain
        registration = deploy.Registration.signed(domain, keys.address, keys.vote, **common)
    else:
        registration = deploy.Registration(**common)
    async with _sender(client, keys, deployment.chain_id) as sender:
        return await deploy.register(sender, deployment, registration)


def _verify_data(bench: Bench, digest: bytes, signers: tuple[int, ...], *, is_approval: bool) -> bytes:
    indices = missing_of(signers, bench.table) if is_approval else signers_of(signers, bench.table)
    return tables_abi().call_data("verifyQuorum", digest, 1, 0, is_approval, bench.sign(digest, signers), indices)


def _without(size: int, missing: int) -> tuple[int, ...]:
    absent = {i * size // missing for i in range(missing)} if missing else set()
    return tuple(i for i in range(size) if i not in absent)


def _row(quantity: str, gas: float) -> Row:
    return Row(quantity, gas, "gas", GOALS.get(quantity))


def _keys(name: str) -> NodeKeys:
    return NodeKeys.from_seed(hashlib.sha256(name.encode()).digest())


def _sender(client: EvmClient, keys: NodeKeys, chain_id: int) -> Sender:
    return Sender(client, LocalIdentitySigner(keys.operator), chain_id, poll_seconds=POLL_SECONDS)


if __name__ == "__main__":
    main()
