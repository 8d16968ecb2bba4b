"""A performer's door over a real server, and forms to put through it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import aiohttp

from shared.content.unixfs import cid_of
from shared.json_forms import to_hex
from shared.keeping import CACHE
from shared.types import Digest
from tests.cast import REQUESTER
from tests.chain_support import PERFORMER, Person
from tests.content_support import serving
from tests.roles import PerformerDesk, World
from tests.toy_model import DEFINITION, DOCUMENT


@dataclass
class Door:
    """A performer's door, and what lies behind it. The performer's duty does not run: tasks stay as they came."""

    world: World
    desk: PerformerDesk
    url: str
    session: aiohttp.ClientSession

    async def post(self, body: Any) -> Any:
        async with self.session.post(self.url, data=BytesIO(json.dumps(body).encode())) as response:
            return await response.json()

    async def call(self, method: str, params: Any = None) -> Any:
        return await self.post({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})

    async def ask(self, form: Any) -> Any:
        return await self.call("poi_requestInference", form)

    async def view(self, task_id: Digest, **options: Any) -> dict[str, Any]:
        answer = await self.call("poi_getTask", {"taskId": to_hex(task_id), **options})
        view: dict[str, Any] = answer["result"]
        return view

    async def is_refused(self, form: Any, code: int, field: str | None, expected: str) -> str:
        """Exactly so, and nothing was stored; the message."""
        before = self.stored()
        answer = await self.ask(form)
        data = {"field": field, "expected": expected} if field else {"expected": expected}
        assert (answer["error"]["code"], answer["error"]["data"]) == (code, data), answer
        assert self.stored() == before
        message: str = answer["error"]["message"]
        return message

    def stored(self) -> tuple[Any, ...]:
        """Everything durable of the performer's, and its open tasks. Blocks that were fetched are no one's, and cache:
        what stays is what is promised, whenever it was used last."""
        blocks, pins = self.world.content.blocks[PERFORMER.address], self.world.content.pins[PERFORMER.address]
        others = [set(blocks) for owner, blocks in self.world.content.blocks.items() if owner != PERFORMER.address]
        own = set(blocks).difference(*others)
        promised = {cid: (pin.size, pin.keep_until) for cid, pin in pins.items() if pin.keep_until > CACHE}
        return dict(self.desk.file.entries), promised, own, self.desk.ledger.count_open()


@asynccontextmanager
async def open_door(**options: Any) -> AsyncIterator[Door]:
    async with World() as world, world.performer(**options) as desk:
        await desk.library.card(DEFINITION)  # fetched once by whoever comes first
        async with serving(desk.door.routes()) as url, aiohttp.ClientSession() as session:
            yield Door(world, desk, url, session)


FormOf = Callable[[World], dict[str, Any]]


def asking(document: bytes | None = DOCUMENT, signer: Person = REQUESTER, **changes: Any) -> FormOf:
    """A form that is honest but for the changes, signed as it is."""

    def form(world: World) -> dict[str, Any]:
        named = {"input_cid": cid_of(document)} if document is not None else {}
        return world.form(world.request(**{**named, **changes}), document, signer)

    return form


def saying(**changes: Any) -> FormOf:
    """An honest form with fields of the request replaced afterwards; None takes a field away."""

    def form(world: World) -> dict[str, Any]:
        plain = world.form()
        fields = {**plain["request"], **changes}
        return {**plain, "request": {name: value for name, value in fields.items() if value is not None}}

    return form


REQUEST_FIELDS = (
    "requester",
    "nonce",
    "performer",
    "taskDefinitionId",
    "modelHash",
    "inputCid",
    "parameters",
    "seed",
    "fee",
    "deadline",
)
