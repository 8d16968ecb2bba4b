"""How a task looks to a dApp: JSON that says what happened, and nothing that did not."""

from __future__ import annotations

from typing import Any

from shared.documents import Output, output_view
from shared.json_forms import certificate_to_json, request_to_json, to_hex
from shared.workflow import Inclusion, Phase, Task


def task_view(task: Task, output: Output | None, *, is_collected: bool) -> dict[str, Any]:
    """`result` is the performer's claim, `certificate` what a quorum says of it. A claim alone proves nothing."""
    return {
        "taskId": to_hex(task.task_id),
        "phase": str(task.phase),
        "request": request_to_json(task.request),
        "result": output_view(output) if output is not None else None,
        "proofOfTask": task.task_info.proof_of_task if task.task_info else None,
        "data": to_hex(task.task_info.data) if task.task_info else None,
        "certificate": certificate_to_json(task.certificate) if task.certificate else None,
        "votes": _votes(task),
        "settlement": _settlement(task),
        "fee": _fee(task, is_collected),
        "failure": task.failure,
        "timings": _timings(task),
    }


def _votes(task: Task) -> dict[str, Any] | None:
    if task.certificate is None:
        return None
    return {
        "validPower": task.valid_power,
        "invalidPower": task.invalid_power,
        "totalPower": task.total_power,
    }


def _settlement(task: Task) -> dict[str, Any] | None:
    if task.tx_hash is None:
        return None
    return {
        "txHash": to_hex(task.tx_hash),
        "gasUsed": task.gas_used,
        "batchSize": task.settled_in_batch_of,
        "inclusion": _inclusion(task.inclusion),
    }


def _inclusion(inclusion: Inclusion | None) -> dict[str, Any] | None:
    """With the task id, the arguments of `AttestationCenter.included`, by their names there. A task that settled by
    itself needs none: `recordOf` has it."""
    if inclusion is None:
        return None
    return {
        "root": to_hex(inclusion.root),
        "taskInfoHash": to_hex(inclusion.task_info_hash),
        "isApproved": inclusion.is_approved,
        "votersHash": to_hex(inclusion.voters_hash),
        "proof": [to_hex(sibling) for sibling in inclusion.path],
    }


def _fee(task: Task, is_collected: bool) -> dict[str, Any]:
    """`isCollected` is null while there is nothing to collect: before the settlement, and without a fee."""
    is_owed = task.request.fee > 0 and task.phase in (Phase.APPROVED, Phase.REJECTED)
    return {"amount": str(task.request.fee), "isCollected": is_collected if is_owed else None}


def _timings(task: Task) -> dict[str, float | None]:
    """Milliseconds since the request was taken."""

    def since_request(at: float | None) -> float | None:
        return None if at is None else round((at - task.requested_at) * 1000, 3)

    return {
        "inferenceMs": None if task.inference_seconds is None else round(task.inference_seconds * 1000, 3),
        "performedMs": since_request(task.performed_at),
        "certificateMs": since_request(task.certified_at),
        "settledMs": since_request(task.settled_at),
    }
