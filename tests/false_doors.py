"""A client of a door that answers whatever a test wants."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from poi.client import PoiClient
from shared.json_forms import to_hex
from shared.types import Digest
from tests.cast import REQUESTER, Cast
from tests.chain_support import PERFORMER, sha
from tests.content_support import serving
from tests.toy_model import DOCUMENT, MODEL_HASH

DOCUMENT_TEXT = DOCUMENT.decode()
TASK_ID = Digest(sha("a task"))


@asynccontextmanager
async def answered(*answers: Any) -> AsyncIterator[PoiClient]:
    """A client of a door that gives these answers, the last one again and again; bytes as they are."""
    left = list(answers)

    async def answer(_: web.Request) -> web.Response:
        said = left.pop(0) if len(left) > 1 else left[0]
        body = said if isinstance(said, bytes) else json.dumps(said).encode()
        return web.Response(body=body, content_type="text/html")

    async with serving([web.post("/", answer)]) as url, PoiClient(url, REQUESTER.identity) as client:
        yield client


def result(value: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "result": value}


NETWORK = {
    "chainId": 31337,
    "attestationCenter": to_hex(Cast().domain.contract),
    "performer": to_hex(PERFORMER.address),
    "epoch": 1,
    "taskDefinitions": [{"taskDefinitionId": 0, "modelHash": to_hex(MODEL_HASH), "seed": "requester"}],
}
