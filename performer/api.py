"""The dApp's door: JSON-RPC 2.0 at `/`, health at `/health`.

| method | parameters | result |
|---|---|---|
| `poi_getNetwork` | none | chain, contract, performer, epoch, its beacon, and the task definitions it serves |
| `poi_requestInference` | `request`, `signature`, `input` | `{"taskId"}`; the same request again is the same task |
| `poi_getTask` | `taskId`, `waitFor`, `timeoutSeconds` | the task |

`waitFor` is `certified` or `final`: the answer comes when that is reached, or when `timeoutSeconds` are over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from aiohttp import web

from performer.admission import INVALID_PARAMS
from performer.service import Performer
from performer.views import task_view
from shared.adapters.jsonrpc import JsonRpc
from shared.constants import FETCH_TIMEOUT_SECONDS, LONG_POLL_SECONDS, MAX_PROOF_BYTES
from shared.digests import Domain
from shared.documents import Output, decode_proof
from shared.errors import RequestRefused
from shared.interfaces import ContentStore
from shared.json_forms import FieldError, from_hex, to_hex
from shared.model_library import ModelLibrary
from shared.roster import Roster
from shared.seeds import needs_beacon
from shared.types import Address, Digest, TaskDefinition
from shared.workflow import Phase, Task

if TYPE_CHECKING:
    from shared.node import Node

UNKNOWN_TASK = -32008
WAIT_FOR = {
    "certified": frozenset({Phase.CERTIFIED, Phase.SUBMITTED, Phase.APPROVED, Phase.REJECTED, Phase.EXPIRED}),
    "final": frozenset({Phase.APPROVED, Phase.REJECTED, Phase.EXPIRED}),
}


class Door:
    """What a dApp may ask of a performer."""

    def __init__(
        self,
        *,
        domain: Domain,
        address: Address,
        roster: Callable[[], Roster],
        performer: Performer,
        content: ContentStore,
        library: ModelLibrary,
        served: tuple[int, ...],
    ) -> None:
        self._domain, self._address, self._roster = domain, address, roster
        self._performer, self._content, self._library, self._served = performer, content, library, served

    @classmethod
    def from_node(cls, node: Node, performer: Performer) -> Door:
        return cls(
            domain=node.domain,
            address=node.signer.address,
            roster=lambda: node.roster.current,
            performer=performer,
            content=node.content,
            library=node.library,
            served=node.config.performer.definitions,
        )

    def routes(self) -> list[web.RouteDef]:
        """To mount on the node's HTTP application."""
        rpc = JsonRpc(
            {
                "poi_getNetwork": (self._get_network, ()),
                "poi_requestInference": (self._request_inference, ("request", "signature", "input")),
                "poi_getTask": (self._get_task, ("taskId", "waitFor", "timeoutSeconds")),
            }
        )
        return [web.post("/", rpc.handle)]

    async def _get_network(self, _: Mapping[str, Any]) -> dict[str, Any]:
        roster = self._roster()
        beacon = roster.beacons.get(roster.epoch)
        definitions = [
            {
                "taskDefinitionId": definition.id,
                "name": definition.name,
                "method": definition.method,
                "modelHash": to_hex(definition.model_hash),
                "cardCid": definition.card_cid,
                "leastFee": str(definition.terms.fees.total),
                "seed": self._seed_of(definition),
            }
            for definition in roster.definitions.values()
            if not self._served or definition.id in self._served
        ]
        return {
            "chainId": self._domain.chain_id,
            "attestationCenter": to_hex(self._domain.contract),
            "performer": to_hex(self._address),
            "epoch": roster.epoch,
            "beacon": None if beacon is None else to_hex(beacon),
            "taskDefinitions": definitions,
        }

    def _seed_of(self, definition: TaskDefinition) -> str | None:
        """Whose the seed of a request is; None while the card, which says it, is not here."""
        card = self._library.known_card(definition)
        if card is None:
            return None
        return "beacon" if needs_beacon(card) else "requester"

    async def _request_inference(self, params: Mapping[str, Any]) -> dict[str, Any]:
        for name in ("request", "signature"):
            if name not in params:
                raise RequestRefused(
                    INVALID_PARAMS, f"{name} is missing", name, "see poi_getNetwork and docs/protocol.md"
                )
        task = await self._performer.request(params["request"], params["signature"], params.get("input"))
        return {"taskId": to_hex(task.task_id)}

    async def _get_task(self, params: Mapping[str, Any]) -> dict[str, Any]:
        task_id, goal, timeout = _read_wait(params)
        task = await self._performer.ledger.find(task_id)
        if task is None:
            raise RequestRefused(
                UNKNOWN_TASK, "no such task here", "taskId", "an id that poi_requestInference returned"
            )
        if goal is not None:
            task = await self._wait(task, goal, timeout)
        is_collected = await self._performer.earnings.is_collected(task_id)
        return task_view(task, await self._output(task), is_collected=is_collected)

    async def _wait(self, task: Task, goal: frozenset[Phase], timeout_seconds: float) -> Task:
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_seconds
        while task.phase not in goal and loop.time() < end:
            task = await self._performer.ledger.wait(task, end - loop.time())
        return task

    async def _output(self, task: Task) -> Output | None:
        """None while there is none, and when its proof is no longer on this disk; the task still gets an answer."""
        if task.task_info is None or not await self._content.has(task.task_info.proof_of_task):
            return None
        proof = await self._content.get(
            task.task_info.proof_of_task, max_bytes=MAX_PROOF_BYTES, timeout_seconds=FETCH_TIMEOUT_SECONDS
        )
        return decode_proof(proof).output


def _read_wait(params: Mapping[str, Any]) -> tuple[Digest, frozenset[Phase] | None, float]:
    try:
        task_id = Digest(from_hex(params.get("taskId"), "taskId", 32))
    except FieldError as error:
        raise RequestRefused(INVALID_PARAMS, str(error), error.field, error.expected) from None
    goal = params.get("waitFor")
    if goal is not None and (not isinstance(goal, str) or goal not in WAIT_FOR):
        raise RequestRefused(INVALID_PARAMS, "wrong waitFor", "waitFor", "certified or final")
    timeout = params.get("timeoutSeconds", LONG_POLL_SECONDS)
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 <= timeout <= LONG_POLL_SECONDS:
        raise RequestRefused(INVALID_PARAMS, "wrong timeout", "timeoutSeconds", f"0 to {LONG_POLL_SECONDS:g}")
    return task_id, WAIT_FOR[goal] if goal is not None else None, float(timeout)
