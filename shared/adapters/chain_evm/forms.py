"""Our values as the contracts' structs, and back. Structs are tuples on the way there and back, and addresses come back
as `0x` text."""

from __future__ import annotations

from typing import Any

from shared.adapters.chain_evm.wire import address
from shared.types import (
    BatchInfo,
    Cid,
    Digest,
    Fees,
    Operator,
    PeerKey,
    Role,
    TaskDefinition,
    TaskInfo,
    TaskRequest,
    TaskTerms,
)


def request_form(request: TaskRequest) -> tuple[Any, ...]:
    """`IAttestationCenter.TaskRequest`."""
    return (
        request.requester,
        request.nonce,
        request.performer,
        request.task_definition_id,
        request.model_hash,
        request.input_cid,
        request.parameters,
        request.seed,
        request.fee,
        request.deadline,
    )


def info_form(info: TaskInfo) -> tuple[Any, ...]:
    """`IAttestationCenter.TaskInfo`."""
    return (
        info.task_id,
        info.proof_of_task,
        info.data,
        info.task_performer,
        info.task_definition_id,
        info.epoch,
    )


def terms_form(terms: TaskTerms) -> tuple[Any, ...]:
    """`IAttestationCenter.TaskTerms`."""
    return (
        (terms.fees.performer, terms.fees.attesters, terms.fees.aggregator),
        terms.attester_set,
        terms.maximum_deadline,
        terms.dispute_window,
        terms.waits_for_all,
        terms.settles_singly,
        terms.slashes_rejected,
        terms.slashes_outliers,
        terms.hook,
        terms.fee_calculator,
    )


def definition_of(definition_id: int, form: Any) -> TaskDefinition:
    """From `IAttestationCenter.TaskDefinition`."""
    name, method, model_hash, card_cid, is_paused, terms = form
    return TaskDefinition(
        id=definition_id,
        name=name,
        method=method,
        model_hash=Digest(model_hash),
        card_cid=Cid(card_cid),
        is_paused=is_paused,
        terms=_terms_of(terms),
    )


def _terms_of(form: Any) -> TaskTerms:
    fees, attester_set, maximum_deadline, dispute_window, waits, singly, rejected, outliers, hook, calculator = form
    return TaskTerms(
        fees=Fees(*fees),
        attester_set=attester_set,
        maximum_deadline=maximum_deadline,
        dispute_window=dispute_window,
        waits_for_all=waits,
        settles_singly=singly,
        slashes_rejected=rejected,
        slashes_outliers=outliers,
        hook=address(hook),
        fee_calculator=address(calculator),
    )


def operator_of(form: Any) -> Operator:
    """From `IOperatorRegistry.Operator`."""
    operator, owner, receiver, roles, is_active, withdrawable_at, stake, peer_key, vote_key, p2p, gateway = form
    return Operator(
        address=address(operator),
        owner=address(owner),
        rewards_receiver=address(receiver),
        roles=Role(roles),
        stake_wei=stake,
        vote_key=vote_key,
        peer_key=PeerKey(peer_key),
        p2p_address=p2p,
        gateway_url=gateway,
        is_active=is_active,
        withdrawable_at=withdrawable_at,
    )


def batch_of(values: Any) -> BatchInfo:
    """Of the event BatchSettled."""
    return BatchInfo(
        root=Digest(values["root"]),
        content_hash=Digest(values["contentHash"]),
        size=values["size"],
        epoch=values["epoch"],
        aggregator=address(values["aggregator"]),
    )
