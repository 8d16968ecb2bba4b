"""Tasks without a model, from the request to the opinion: a builder's own services, and values of a public source."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import pytest

from shared.adapters.memory.services import FunctionCaller, Service
from shared.canonical import encode_canonical
from shared.card_parts import Feed
from shared.card_parts import Service as ServicePart
from shared.content.unixfs import cid_of
from shared.documents import JsonOutput, decode_proof
from shared.messages import TaskMessage
from shared.model_card import ModelCard
from shared.model_library import NO_MODEL
from shared.reasons import AbstainReason, InvalidReason
from shared.types import Fingerprint, TaskDefinition, Verdict
from shared.verification.external import External
from shared.verification.method import Method
from shared.verification.oracle import Oracle
from tests.cards import make_json_card
from tests.chain_support import PERFORMER
from tests.listening import running, virtual
from tests.roles import World

EXECUTE, VALIDATE, SOURCE = "http://own/execute", "http://own/validate", "https://prices.example/eth"
DOCUMENT = b'{"prompt":"21"}'
EXTERNAL = make_json_card(method="external", service=ServicePart(description="doubles", timeout_seconds=2.0))
ORACLE = make_json_card(
    method="oracle",
    feed=Feed(
        url=SOURCE,
        parameters={},
        select=("/price",),
        relative=0.01,
        absolute=0.0,
        max_age_seconds=60,
        timeout_seconds=2.0,
    ),
)


def methods(world: World, services: Mapping[str, Service]) -> dict[str, Method]:
    caller = FunctionCaller(services)
    external = External(caller=caller, clock=world.clock, execution_url=EXECUTE, validation_url=VALIDATE)
    return {"external": external, "oracle": Oracle(caller=caller, clock=world.clock)}


async def performed(world: World, card: ModelCard, services: Mapping[str, Service]) -> TaskMessage:
    """By the real performer, heard on gossip."""
    card_cid = (await world.content.join(PERFORMER.address).add(encode_canonical(card))).cid
    world.define(TaskDefinition(1, "served", card.method, NO_MODEL, card_cid))
    bystander = await world.bystander()
    async with world.performer(methods=methods(world, services)) as desk:
        request = world.request(task_definition_id=1, model_hash=NO_MODEL, input_cid=cid_of(DOCUMENT))
        await desk.request(world.form(request, DOCUMENT))
        async with running(desk.performer.run()):
            return (await bystander.hears(TaskMessage))[0]  # type: ignore[no-any-return]


def answering(value: object) -> Callable[[bytes | None], bytes]:
    return lambda _: json.dumps(value).encode()


@pytest.mark.parametrize(
    ("opinion", "verdict", "reason"),
    [
        ({"data": True}, Verdict.VALID, None),
        ({"data": False}, Verdict.INVALID, InvalidReason.SERVICE_REFUSED),
        ({"error": True}, Verdict.ABSTAIN, AbstainReason.SERVICE_FAILED),
    ],
)
@virtual
async def test_a_task_of_the_builders_own(opinion: object, verdict: Verdict, reason: object) -> None:
    async with World() as world:
        services = {EXECUTE: answering({"answer": 42}), VALIDATE: answering(opinion)}
        message = await performed(world, EXTERNAL, services)
        judgement = await world.judge(methods=methods(world, services)).judge(message)
        assert (judgement.verdict, judgement.reason) == (verdict, reason)
        proof = decode_proof(
            await world.content.join(PERFORMER.address).get(
                message.task_info.proof_of_task, max_bytes=1 << 20, timeout_seconds=1
            )
        )
        assert proof.model_hash == NO_MODEL
        assert proof.engine == Fingerprint("service", "none", "none", "none")
        assert isinstance(proof.output, JsonOutput)
        assert proof.output.body == '{"answer":42}'


@pytest.mark.parametrize(
    ("later", "verdict", "reason"),
    [
        (2010.0, Verdict.VALID, None),
        (2100.0, Verdict.ABSTAIN, AbstainReason.UNDECIDED),
        (4000.0, Verdict.INVALID, InvalidReason.VALUE_DIFFERS),
        (None, Verdict.ABSTAIN, AbstainReason.SOURCE_UNAVAILABLE),
    ],
)
@virtual
async def test_a_value_of_a_public_source(later: float | None, verdict: Verdict, reason: object) -> None:
    async with World() as world:
        message = await performed(world, ORACLE, {SOURCE: answering({"price": 2000.0})})
        services = {} if later is None else {SOURCE: answering({"price": later})}
        judgement = await world.judge(methods=methods(world, services)).judge(message)
        assert (judgement.verdict, judgement.reason) == (verdict, reason)


@virtual
async def test_an_attester_without_services_abstains() -> None:
    async with World() as world:
        message = await performed(world, ORACLE, {SOURCE: answering({"price": 2000.0})})
        judgement = await world.judge().judge(message)
        assert judgement.reason is AbstainReason.METHOD_UNKNOWN
