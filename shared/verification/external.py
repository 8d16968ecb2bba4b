"""Method `external`: the builder's own services perform and validate, in whatever language, over HTTP.

The performer's service is asked at `execution_url`, each attester's own at `validation_url`, whose request and answer
are those of the Othentic WebAPI (`POST /task/validate`, `{"data": true | false}`), with more fields that an older
service does not read. A service that fails to answer is the attester's own trouble: it abstains, and nobody is voted
against.
"""

from __future__ import annotations

import msgspec

from shared.canonical import encode_canonical
from shared.card_parts import Service
from shared.documents import JsonOutput, Output, data_of, encode_input, encode_parameters
from shared.errors import InferenceFailed, ServiceFailed
from shared.interfaces import Caller, Clock
from shared.reasons import AbstainReason, InvalidReason
from shared.verification.method import Compute, Judgement, Work, abstain, invalid, valid
from shared.verification.served import json_fault, json_output, read_answer


class External:
    """See `Method`. An empty URL is a service that this node does not have."""

    def __init__(self, *, caller: Caller, clock: Clock, execution_url: str, validation_url: str) -> None:
        self._caller, self._clock = caller, clock
        self._execution_url, self._validation_url = execution_url, validation_url

    async def prove(self, work: Work, compute: Compute) -> Output:
        """Raises `InferenceFailed` when the execution service does not answer."""
        if not self._execution_url:
            raise InferenceFailed("services.execution_url is not set: this performer has no service for such tasks")
        try:
            answer = await self._ask(self._execution_url, work, _question(work))
            return json_output(answer, self._clock.now(), "the execution service")
        except ServiceFailed as error:
            raise InferenceFailed(str(error)) from None

    def fault(self, work: Work, output: Output) -> InvalidReason | None:
        return json_fault(output)

    async def judge(self, work: Work, output: Output, compute: Compute) -> Judgement:
        if not self._validation_url or not isinstance(output, JsonOutput):
            return abstain(AbstainReason.SERVICE_FAILED)
        question = {
            **_question(work),
            "proofOfTask": work.proof_of_task,
            "data": f"0x{data_of(output).hex()}",
            "output": msgspec.Raw(output.body.encode()),
            "madeAt": output.made_at,
        }
        try:
            is_right = _opinion(await self._ask(self._validation_url, work, question))
        except ServiceFailed:
            return abstain(AbstainReason.SERVICE_FAILED)
        return valid(0.0) if is_right else invalid(InvalidReason.SERVICE_REFUSED)

    async def _ask(self, url: str, work: Work, question: dict[str, object]) -> object:
        body = encode_canonical(question)
        return read_answer(
            await self._caller.post(url, body, timeout_seconds=_spec_of(work).timeout_seconds), "the service"
        )


def _question(work: Work) -> dict[str, object]:
    return {
        "taskId": f"0x{work.task_id.hex()}",
        "taskDefinitionId": work.definition_id,
        "performer": f"0x{work.performer.hex()}",
        "input": msgspec.Raw(encode_input(work.document)),
        "parameters": msgspec.Raw(encode_parameters(None).encode()),
    }


def _opinion(answer: object) -> bool:
    """`{"data": true}` or `{"data": false}`. A service that says `error` has no opinion, whatever its `data`."""
    if not isinstance(answer, dict) or answer.get("error") or not isinstance(answer.get("data"), bool):
        raise ServiceFailed('the validation service said neither {"data": true} nor {"data": false}')
    return bool(answer["data"])


def _spec_of(work: Work) -> Service:
    if work.card.service is None:
        raise TypeError("the card has no service, which `check_card` keeps out")
    return work.card.service
