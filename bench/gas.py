"""Gas of every step on chain, by real transactions on anvil under osaka rules: all addresses and slots are cold.

`exec` is the receipt's gas less the 21,000 of a transaction and its calldata (4 gas a zero byte, 16 another): what a
contract that calls in pays. `tx` is the whole receipt. k attesters are missing, spread over the table.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass

from bench.table import Row, arguments, report
from shared.adapters import deploy
from shared.adapters.anvil import Anvil, AnvilSettings
from shared.adapters.chain_evm import EvmClient, EvmOperatorReader, EvmSettlement, Receipt, Sender
from shared.adapters.chain_evm.abi import center_abi, registry_abi
from shared.adapters.signers import LocalIdentitySigner
from shared.batch import certificate_leaf, make_batch
from shared.crypto import bls
from shared.crypto.keystore import NodeKeys
from shared.indices import missing_of, signers_of
from shared.interfaces import BatchSubmission
from shared.types import Address, Cid, Digest, Role, TaskCertificate, TaskInfo, Verdict

ETHER = 10**18
FUNDS_WEI = 1_000 * ETHER
SIZES = (4, 10, 34, 100)
BATCHES = (16, 128)
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
    "inclusion proof, B=128 (exec)": 7_900,
    "reject certificate, 34 of 100 sign (exec)": 165_000,
    "registration with proof of possession (tx)": 240_000,
    "roll, N=100 (tx)": 275_000,
}


@dataclass(frozen=True)
class Bench:
    """One deployed network of N attesters and a performer."""

    client: EvmClient
    sender: Sender
    deployment: deploy.Deployment
    settlement: EvmSettlement
    attesters: tuple[NodeKeys, ...]  # in table order
    performer: NodeKeys

    async def exec_gas(self, to: Address, data: bytes) -> int:
        """Of a call sent as a transaction."""
        receipt = await self.sender.confirm(await self.sender.send(to, data), CONFIRM_SECONDS)
        zeros = data.count(0)
        return receipt.gas_used - TX_GAS - ZERO_BYTE_GAS * zeros - BYTE_GAS * (len(data) - zeros)

    def sign(self, digest: bytes, signers: tuple[int, ...]) -> bytes:
        return bls.aggregate(self.attesters[index].vote.sign(digest) for index in signers)

    def certificate(self, number: int, signers: tuple[int, ...], verdict: Verdict) -> TaskCertificate:
        """A real one, over a task info of usual size."""
        info = TaskInfo(
            task_id=Digest(hashlib.sha256(b"task %d" % number).digest()),
            proof_of_task=Cid("bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"),
            data=bytes(31) + b"\7",
            task_performer=self.performer.address,
            task_definition_id=0,
            epoch=1,
        )
        info_hash = self.deployment.domain.task_info_hash(info)
        signature = self.sign(self.deployment.domain.vote(info_hash, verdict), signers)
        return TaskCertificate(info, verdict, signers, signature, self.performer.operator.sign(info_hash))


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
        gas = await bench.exec_gas(bench.deployment.registry, data)
        rows.append(_row(f"verify step, N={size}, k={missing} (exec gas)", gas))
    gas = await bench.settlement.confirm(
        await bench.settlement.submit_task(bench.certificate(size, everybody, Verdict.VALID)), CONFIRM_SECONDS
    )
    rows.append(_row(f"whole single-task settlement, N={size} (tx)", gas))
    if size == max(SIZES):
        rows += await _measure_rest(bench)
    return rows


async def _measure_rest(bench: Bench) -> list[Row]:
    size = len(bench.attesters)
    third = tuple(range(size // 3 + 1))
    digest = hashlib.sha256(b"reject").digest()
    data = _verify_data(bench, digest, third, is_approval=False)
    gas = await bench.exec_gas(bench.deployment.registry, data)
    rows = [_row(f"reject certificate, {len(third)} of {size} sign (exec)", gas)]
    for batch_size in BATCHES:
        rows += await _measure_batch(bench, batch_size)
    return rows


async def _measure_batch(bench: Bench, batch_size: int) -> list[Row]:
    domain, everybody = bench.deployment.domain, tuple(range(len(bench.attesters)))
    first = bench.certificate(1000 * batch_size, everybody, Verdict.VALID)
    certificates = [first]
    for number in range(1, batch_size):
        # Only the batch's own signature reaches the chain; the certificates inside are the attesters' to check.
        task_id = Digest(hashlib.sha256(b"in batch %d %d" % (batch_size, number)).digest())
        info = TaskInfo(task_id, first.task_info.proof_of_task, b"", bench.performer.address, 0, 1)
        certificates.append(TaskCertificate(info, Verdict.VALID, everybody, first.signature, first.performer_signature))
    batch = make_batch(domain, certificates, 1, bench.sender.address)
    submission = BatchSubmission(batch.info, everybody, bench.sign(domain.batch(batch.info), everybody))
    gas = await bench.settlement.confirm(await bench.settlement.submit_batch(submission), CONFIRM_SECONDS)
    info = first.task_info
    proof = batch.tree.proof(certificate_leaf(domain, first))
    data = center_abi().call_data("included", batch.info.root, info.task_id, domain.task_info_hash(info), True, proof)
    included = await bench.exec_gas(bench.deployment.center, data)
    return [
        _row(f"batch per task, B={batch_size}", gas / batch_size),
        _row(f"inclusion proof, B={batch_size} (exec)", included),
    ]


async def _build(client: EvmClient, sender: Sender, size: int) -> tuple[Bench, list[Row]]:
    terms = deploy.NetworkTerms(vault=sender.address, dispute_window_seconds=1, unbonding_seconds=60)
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
        sender, deployment, name="digits", method="exact", model_hash=Digest(bytes(32)), card_cid=Cid("bafkrei")
    )
    roll_data = registry_abi().call_data("rollEpoch")
    roll = await sender.confirm(await sender.send(deployment.registry, roll_data), CONFIRM_SECONDS)
    reader = EvmOperatorReader(client, registry=deployment.registry, center=deployment.center)
    table = await reader.operator_table(1)
    if table is None or len(table.entries) != size:
        raise SystemExit("the first table does not hold the attesters")
    by_address = {keys.address: keys for keys in attesters}
    settlement = EvmSettlement(sender, reader, deployment.center, poll_seconds=POLL_SECONDS)
    in_order = tuple(by_address[entry.address] for entry in table.entries)
    setup = [
        _row("registration with proof of possession (tx)", sorted(r.gas_used for r in receipts)[size // 2]),
        _row(f"roll, N={size} (tx)", roll.gas_used),
    ]
    return Bench(client, sender, deployment, settlement, in_order, performer), setup


async def _register(client: EvmClient, deployment: deploy.Deployment, keys: NodeKeys, role: Role) -> Receipt:
    await deploy.set_balance(client, keys.address, FUNDS_WEI)
    possession = keys.vote.prove_possession(
        deployment.possession_domain.key_possession(keys.address, keys.vote.public_key)
    )
    key, proof = (keys.vote.public_key, possession) if role is Role.ATTESTER else (b"", b"")
    data = registry_abi().call_data(
        "register", int(role), key, proof, keys.peer_key, "/ip4/127.0.0.1/tcp/9700", "http://127.0.0.1:8700"
    )
    async with _sender(client, keys, deployment.chain_id) as sender:
        return await sender.confirm(await sender.send(deployment.registry, data, ETHER), CONFIRM_SECONDS)


def _verify_data(bench: Bench, digest: bytes, signers: tuple[int, ...], *, is_approval: bool) -> bytes:
    size = len(bench.attesters)
    indices = missing_of(signers, size) if is_approval else signers_of(signers, size)
    return registry_abi().call_data("verifyQuorum", digest, 1, is_approval, bench.sign(digest, signers), indices)


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
