"""What the chain remembers, read once from block to block: for a person's question, not for a node's life
(`EventReader` follows the chain)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from shared.adapters.chain_evm.abi import Abi, center_abi, court_abi, escrow_abi
from shared.adapters.chain_evm.client import EvmClient, Refused
from shared.adapters.chain_evm.forms import batch_of
from shared.adapters.chain_evm.wire import Call, Log, address
from shared.adapters.terms import Deployment
from shared.types import Address, BatchInfo, Cid, Digest, Offence, TaskInfo

SPAN_BLOCKS = 1000  # as for `EventReader`


class SlashState(IntEnum):
    """`ISlashingCourt.State`."""

    NONE = 0
    WAITING = 1
    EXECUTED = 2
    CANCELLED = 3


@dataclass(frozen=True, slots=True)
class SingleSettlement:
    """A task that settled by itself. `info.epoch` is 0: the event says it only through `task_info_hash`."""

    info: TaskInfo
    task_info_hash: Digest
    is_approved: bool
    indices: bytes


@dataclass(frozen=True, slots=True)
class PaidTask:
    """What the escrow moved out of a deposit for one task."""

    task_id: Digest
    requester: Address
    to_performer: int
    to_attesters: int
    aggregator: Address
    to_aggregator: int


@dataclass(frozen=True, slots=True)
class Slash:
    """A slash as it is now."""

    slash_id: Digest
    task_id: Digest
    operator: Address
    offence: Offence
    state: SlashState
    executable_at: int  # unix seconds
    veto_due_at: int  # unix seconds; 0 without a veto


class History:
    """Reads both ends of a range included. Raises `ChainUnavailable`."""

    def __init__(self, client: EvmClient, deployment: Deployment) -> None:
        self._client, self._deployment = client, deployment

    async def singles(self, first: int, last: int) -> list[SingleSettlement]:
        """Tasks that settled by themselves."""
        logs = await self._logs(center_abi(), self._deployment.center, ("TaskSubmitted", "TaskRejected"), first, last)
        return [_single(*center_abi().event(entry)) for entry in logs]

    async def batches(self, first: int, last: int) -> list[BatchInfo]:
        """Batches that settled."""
        logs = await self._logs(center_abi(), self._deployment.center, ("BatchSettled",), first, last)
        return [batch_of(center_abi().event(entry)[1]) for entry in logs]

    async def payments(self, first: int, last: int) -> list[PaidTask]:
        """Tasks that were paid."""
        logs = await self._logs(escrow_abi(), self._deployment.escrow, ("TaskPaid",), first, last)
        return [_payment(escrow_abi().event(entry)[1]) for entry in logs]

    async def slashes_of(self, operator: Address, first: int, last: int) -> list[Slash]:
        """Slashes of the operator that were queued in the range, as they are now."""
        logs = await self._logs(court_abi(), self._deployment.court, ("SlashQueued",), first, last)
        queued = [court_abi().event(entry)[1] for entry in logs]
        return [await self._slash(Digest(v["slashId"])) for v in queued if address(v["operator"]) == operator]

    async def _slash(self, slash_id: Digest) -> Slash:
        data = court_abi().call_data("slashOf", slash_id)
        answer = await self._client.call(Call(self._deployment.court, data))
        ((task_id, operator, offence, state, executable_at, veto_due_at, *_),) = court_abi().returned("slashOf", answer)
        return Slash(
            slash_id=slash_id,
            task_id=Digest(task_id),
            operator=address(operator),
            offence=Offence(offence),
            state=SlashState(state),
            executable_at=executable_at,
            veto_due_at=veto_due_at,
        )

    async def _logs(self, abi: Abi, contract: Address, names: Sequence[str], first: int, last: int) -> list[Log]:
        topics = [abi.topic(name) for name in names]
        found: list[Log] = []
        span = SPAN_BLOCKS
        while first <= last:
            end = min(last, first + span - 1)
            try:
                found += await self._client.logs([contract], topics, first, end)
            except Refused:
                # Nodes set limits of their own: to the range, or to what is in it.
                if span == 1:
                    raise
                span //= 2
                continue
            first = end + 1
        return found


def _single(name: str, values: Any) -> SingleSettlement:
    info = TaskInfo(
        task_id=Digest(values["taskId"]),
        proof_of_task=Cid(values["proofOfTask"]),
        data=values["data"],
        task_performer=address(values["operator"]),
        task_definition_id=values["taskDefinitionId"],
        epoch=0,
    )
    return SingleSettlement(info, Digest(values["taskInfoHash"]), name == "TaskSubmitted", values["indices"])


def _payment(values: Any) -> PaidTask:
    return PaidTask(
        task_id=Digest(values["taskId"]),
        requester=address(values["requester"]),
        to_performer=values["toPerformer"],
        to_attesters=values["toAttesters"],
        aggregator=address(values["aggregator"]),
        to_aggregator=values["toAggregator"],
    )
