"""A `Settlement` on the AttestationCenter."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import structlog

from shared.adapters.chain_evm.abi import center_abi, tables_abi
from shared.adapters.chain_evm.events import EventReader
from shared.adapters.chain_evm.forms import info_form, request_form
from shared.adapters.chain_evm.reader import EvmOperatorReader
from shared.adapters.chain_evm.sender import Sender
from shared.adapters.terms import Deployment
from shared.constants import CHAIN_POLL_SECONDS
from shared.errors import CodecError, Reverted
from shared.indices import indices_of, missing_of
from shared.interfaces import BatchSubmission
from shared.types import ChainEvent, Digest, TaskCertificate, TaskRequest, Verdict

log = structlog.get_logger(__name__)

ROLL_SECONDS = 120.0  # ten blocks of Ethereum


class EvmSettlement:
    """Sends with the sender's key; reading needs none."""

    def __init__(
        self,
        sender: Sender,
        reader: EvmOperatorReader,
        deployment: Deployment,
        *,
        poll_seconds: float = CHAIN_POLL_SECONDS,
    ) -> None:
        self._sender, self._reader, self._deployment = sender, reader, deployment
        self._events = EventReader(sender.client, deployment, poll_seconds=poll_seconds)

    async def submit_task(self, certificate: TaskCertificate) -> Digest:
        return await self._settle("submitTask", certificate)

    async def submit_task_after_deadline(self, certificate: TaskCertificate, request: TaskRequest) -> Digest:
        return await self._settle("submitTaskAfterDeadline", certificate, request_form(request))

    async def _settle(self, function: str, certificate: TaskCertificate, *proof: Any) -> Digest:
        """Writes the attester set's table first, once an epoch, where the chain does not have it yet."""
        is_approved = is_approval(certificate)
        indices = await self._indices(certificate)
        details = (is_approved, certificate.performer_signature, certificate.signature, indices)
        data = center_abi().call_data(function, info_form(certificate.task_info), details, *proof)
        try:
            return await self._sender.send(self._deployment.center, data)
        except Reverted as error:
            if error.name != "SetTableMissing":
                raise
            await self._roll_set(*error.arguments)
        return await self._sender.send(self._deployment.center, data)

    async def submit_batch(self, batch: BatchSubmission) -> Digest:
        info = batch.batch
        table = await self._reader.operator_table(info.epoch)
        missing = missing_of(batch.signers, table) if table else b""  # the contract refuses the epoch before it reads
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
        return await self._sender.send(self._deployment.center, data)

    async def verdict_of(self, task_id: Digest) -> Verdict | None:
        return await self._reader.verdict_of(task_id)

    async def is_batch_settled(self, root: Digest) -> bool:
        return await self._reader.is_batch_settled(root)

    async def confirm(self, tx_hash: Digest, timeout_seconds: float) -> int:
        return (await self._sender.confirm(tx_hash, timeout_seconds)).gas_used

    def events(self, from_block: int) -> AsyncIterator[ChainEvent]:
        return self._events.events(from_block)

    async def _indices(self, certificate: TaskCertificate) -> bytes:
        """In the table that votes on the task. For a definition or an epoch that the chain does not know there are
        none: the contract refuses those before it reads them."""
        info = certificate.task_info
        definition = await self._reader.task_definition(info.task_definition_id)
        if definition is None:
            return b""
        table = await self._reader.operator_table(info.epoch, definition.terms.attester_set)
        return b"" if table is None else indices_of(certificate, table)

    async def _roll_set(self, epoch: int, attester_set: int) -> None:
        try:
            data = tables_abi().call_data("rollSet", epoch, attester_set)
            await self._sender.confirm(await self._sender.send(self._deployment.tables, data), ROLL_SECONDS)
            log.info("attester set rolled", epoch=epoch, attester_set=attester_set)
        except Reverted as error:
            if error.name != "SetAlreadyRolled":  # by another aggregator with the same certificate
                raise


def is_approval(certificate: TaskCertificate) -> bool:
    """Raises `CodecError` for an abstention: nobody signs those, so there is no such certificate."""
    if certificate.verdict is Verdict.ABSTAIN:
        raise CodecError("certificate: an abstention settles nothing")
    return certificate.verdict is Verdict.VALID
