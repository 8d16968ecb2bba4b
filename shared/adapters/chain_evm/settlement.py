"""A `Settlement` on the AttestationCenter."""

from __future__ import annotations

from collections.abc import AsyncIterator

from shared.adapters.chain_evm.abi import center_abi
from shared.adapters.chain_evm.events import EventReader
from shared.adapters.chain_evm.reader import EvmOperatorReader
from shared.adapters.chain_evm.sender import Sender
from shared.constants import CHAIN_POLL_SECONDS
from shared.errors import CodecError
from shared.indices import missing_of, signers_of
from shared.interfaces import BatchSubmission
from shared.types import Address, ChainEvent, Digest, TaskCertificate, Verdict


class EvmSettlement:
    """Sends with the sender's key; reading needs none."""

    def __init__(
        self,
        sender: Sender,
        reader: EvmOperatorReader,
        center: Address,
        *,
        poll_seconds: float = CHAIN_POLL_SECONDS,
    ) -> None:
        self._sender, self._reader, self._center = sender, reader, center
        self._events = EventReader(sender.client, center, poll_seconds=poll_seconds)

    async def submit_task(self, certificate: TaskCertificate) -> Digest:
        is_approved = is_approval(certificate)
        indices = await self._indices(certificate.task_info.epoch, certificate.signers, is_approved=is_approved)
        info = certificate.task_info
        fields = (
            info.task_id,
            info.proof_of_task,
            info.data,
            info.task_performer,
            info.task_definition_id,
            info.epoch,
        )
        details = (is_approved, certificate.performer_signature, certificate.signature, indices)
        return await self._sender.send(self._center, center_abi().call_data("submitTask", fields, details))

    async def submit_batch(self, batch: BatchSubmission) -> Digest:
        info = batch.batch
        missing = await self._indices(info.epoch, batch.signers, is_approved=True)
        data = center_abi().call_data(
            "submitBatch",
            info.root,
            info.content_hash,
            info.size,
            info.epoch,
            info.aggregator,
            batch.signature,
            missing,
        )
        return await self._sender.send(self._center, data)

    async def execute_slash(self, task_id: Digest) -> Digest:
        return await self._sender.send(self._center, center_abi().call_data("executeSlash", task_id))

    async def verdict_of(self, task_id: Digest) -> Verdict | None:
        return await self._reader.verdict_of(task_id)

    async def is_batch_settled(self, root: Digest) -> bool:
        return await self._reader.is_batch_settled(root)

    async def confirm(self, tx_hash: Digest, timeout_seconds: float) -> int:
        return (await self._sender.confirm(tx_hash, timeout_seconds)).gas_used

    def events(self, from_block: int) -> AsyncIterator[ChainEvent]:
        return self._events.events(from_block)

    async def _indices(self, epoch: int, signers: tuple[int, ...], *, is_approved: bool) -> bytes:
        table = await self._reader.operator_table(epoch)
        if table is None:
            return b""  # the contract refuses the epoch before it reads them
        encode = missing_of if is_approved else signers_of
        return encode(signers, len(table.entries))


def is_approval(certificate: TaskCertificate) -> bool:
    """Raises `CodecError` for an abstention: nobody signs those, so there is no such certificate."""
    if certificate.verdict is Verdict.ABSTAIN:
        raise CodecError("certificate: an abstention settles nothing")
    return certificate.verdict is Verdict.VALID
