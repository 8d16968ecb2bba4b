"""Fake services that keep content: each speaks its API as its documents say, and lies when a test wants it to."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from shared.adapters.content.archive import archive
from shared.content.cid import Block
from shared.content.unixfs import UNIXFS_V1_2025, UNIXFS_V1_CLASSIC, Profile, cid_of
from shared.errors import ContentUnavailable
from shared.interfaces import PublishState, Receipt
from shared.types import Cid, Ref
from tests.content_support import Blocks, serving

TOKEN = "a-token-that-nobody-may-see"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Lie = Callable[[web.Request], Awaitable[web.StreamResponse]]


# --- what is published ---------------------------------------------------------------------------
class Shelf:
    """The own store, as publishers read it."""

    def __init__(self) -> None:
        self.blocks = Blocks()
        self.files: dict[Cid, bytes] = {}

    def add(self, data: bytes, profile: Profile = UNIXFS_V1_2025) -> Ref:
        cid = self.blocks.file(data, profile)
        self.files[cid] = data
        return Ref(cid, len(data), profile.name)

    async def read(self, cid: Cid) -> AsyncGenerator[bytes, None]:
        """In two pieces, the second of which is missing when the file is not here."""
        yield self.files.get(cid, b"half")[: 1 << 16]
        if cid not in self.files:
            raise ContentUnavailable(cid, {"local store": "does not have it"})
        yield self.files[cid][1 << 16 :]

    def archive(self, cid: Cid) -> AsyncGenerator[bytes, None]:
        async def read(cid: Cid) -> Block:
            return self.blocks[cid]

        return archive(cid, read)


# --- services ------------------------------------------------------------------------------------
class FakeService:
    """Keeps what it was asked. `lie` answers instead of it, while there is one."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.lie: Lie | None = None
        self.release = asyncio.Event()

    def routes(self) -> list[web.RouteDef]:
        raise NotImplementedError

    def check(self, request: web.Request) -> None:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise _problem(401, "UNAUTHORIZED", "Access token is missing or invalid")

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        @web.middleware
        async def heed(request: web.Request, handler: Handler) -> web.StreamResponse:
            self.asked.append(f"{request.method} {request.path}")
            request._client_max_size = 64 << 20
            return await (handler if self.lie is None else self.lie)(request)

        async with serving(self.routes(), [heed]) as url:
            try:
                yield url
            finally:
                self.release.set()


def saying(status: int, body: object = "", *, content_type: str = "application/json", **headers: str) -> Lie:
    """The same answer to everything."""
    text = body if isinstance(body, str | bytes) else json.dumps(body)
    data = text.encode() if isinstance(text, str) else text

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=data, content_type=content_type, headers=headers)

    return answer


def huge() -> Lie:
    """An answer that would never end."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b'{"' + bytes(64 * 1024))
        except ConnectionError:
            return response

    return answer


def silent(service: FakeService) -> Lie:
    """Nothing, until the test is over."""

    async def answer(_: web.Request) -> web.StreamResponse:
        await service.release.wait()
        return web.Response()

    return answer


def _problem(status: int, reason: str, details: str) -> web.HTTPException:
    text = json.dumps({"error": {"reason": reason, "details": details}})
    kind: type[Any] = {
        400: web.HTTPBadRequest,
        401: web.HTTPUnauthorized,
        404: web.HTTPNotFound,
        409: web.HTTPConflict,
    }[status]
    problem: web.HTTPException = kind(text=text, content_type="application/json")
    return problem


class FakePinningService(FakeService):
    """IPFS Pinning Service API 1.0.0. A request goes through `course`, a step for each time that it is looked at."""

    delegates = ("/ip4/192.0.2.7/tcp/4001/p2p/12D3KooWDelegate",)

    def __init__(self, course: Sequence[str] = ("queued", "pinning", "pinned")) -> None:
        super().__init__()
        self.course, self.has_funds = list(course), True
        self.requests: dict[str, dict[str, Any]] = {}

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/psa/pins", self._list),
            web.post("/psa/pins", self._add),
            web.get("/psa/pins/{requestid}", self._get),
        ]

    async def _list(self, request: web.Request) -> web.Response:
        self.check(request)
        statuses = request.query.get("status", "pinned").split(",")
        found = [
            self._view(requestid)
            for requestid, each in self.requests.items()
            if each["pin"]["cid"] in request.query["cid"].split(",") and each["course"][0] in statuses
        ]
        return web.json_response({"count": len(found), "results": found})

    async def _add(self, request: web.Request) -> web.Response:
        self.check(request)
        pin = await request.json()
        if not self.has_funds:
            raise _problem(409, "INSUFFICIENT_FUNDS", "Unable to process request due to the lack of funds")
        if not len(pin["cid"]) > 0 or len(pin["name"]) > 255 or len(pin["origins"]) > 20:
            raise _problem(400, "BAD_REQUEST", "cid, name or origins")
        requestid = f"request/{len(self.requests)}"
        self.requests[requestid] = {"pin": pin, "course": list(self.course)}
        return web.json_response(self._view(requestid), status=202)

    async def _get(self, request: web.Request) -> web.Response:
        self.check(request)
        requestid = request.match_info["requestid"]
        if requestid not in self.requests:
            raise _problem(404, "NOT_FOUND", "The specified resource was not found")
        course = self.requests[requestid]["course"]
        if len(course) > 1:
            course.pop(0)
        return web.json_response(self._view(requestid))

    def _view(self, requestid: str) -> dict[str, Any]:
        """With what the API has besides."""
        request = self.requests[requestid]
        return {
            "requestid": requestid,
            "status": request["course"][0],
            "created": "2026-01-01T00:00:00Z",
            "pin": request["pin"],
            "delegates": list(self.delegates),
            "info": {"status_details": "…"},
        }


class FakePinata(FakeService):
    """Cuts files by its own profile, whatever it is told but for `cidVersion`."""

    def __init__(self, profile: Profile = UNIXFS_V1_CLASSIC) -> None:
        super().__init__()
        self.profile = profile
        self.files: dict[str, bytes] = {}
        self.names: list[str] = []

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/pinning/pinFileToIPFS", self._upload), web.get("/data/pinList", self._list)]

    async def _upload(self, request: web.Request) -> web.Response:
        self.check(request)
        fields: dict[str, bytes] = {}
        async for part in await request.multipart():
            fields[part.name] = bytes(await part.read())  # type: ignore[union-attr, index]
        assert json.loads(fields["pinataOptions"]) == {"cidVersion": 1}
        self.names.append(json.loads(fields["pinataMetadata"])["name"])
        cid = cid_of(fields["file"], self.profile)
        is_known = cid in self.files
        self.files[cid] = fields["file"]
        answer = {"IpfsHash": cid, "PinSize": len(fields["file"]), "Timestamp": "2026-01-01T00:00:00Z"}
        return web.json_response({**answer, "isDuplicate": True} if is_known else answer)

    async def _list(self, request: web.Request) -> web.Response:
        self.check(request)
        assert request.query["status"] == "pinned"
        rows = [{"ipfs_pin_hash": cid} for cid in self.files if request.query["hashContains"] in cid]
        return web.json_response({"count": len(rows), "rows": rows})


class FakeEigenDa(FakeService):
    """EigenDA's proxy. Every put makes a new certificate, as the real one does."""

    def __init__(self) -> None:
        super().__init__()
        self.blobs: dict[str, bytes] = {}
        self.puts = 0

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/put", self._put),
            web.get("/get/{certificate}", self._get),
            web.get("/health", saying(200)),
        ]

    async def _put(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.puts += 1
        certificate = b"\x02" + hashlib.sha256(body + bytes((self.puts,))).digest() * 20
        prefix = b"" if request.query.get("commitment_mode") == "standard" else b"\x01\x00"  # Optimism's dialect
        self.blobs[f"0x{certificate.hex()}"] = body
        return web.Response(body=prefix + certificate, content_type="application/octet-stream")

    async def _get(self, request: web.Request) -> web.Response:
        if request.query.get("commitment_mode") != "standard" or not request.match_info["certificate"].startswith("0x"):
            return web.Response(status=400, text="not a commitment of this mode")
        blob = self.blobs.get(request.match_info["certificate"])
        if blob is None:
            return derivation_error(3)
        return web.Response(body=blob, content_type="application/octet-stream")


def derivation_error(code: int) -> web.Response:
    return web.json_response({"StatusCode": code, "Msg": "a sentence"}, status=418)


# --- for the queue -------------------------------------------------------------------------------
@dataclass
class ScriptedPublisher:
    """In memory, so that time may be virtual. Each step is a state to answer, an error to raise, or seconds to take."""

    name: str = "filebase"
    steps: list[PublishState | Exception | float] = field(default_factory=lambda: [PublishState.PINNED])
    asked: list[tuple[str, Cid, float]] = field(default_factory=list)
    receipt_id: str = "id"

    async def publish(self, ref: Ref) -> Receipt:
        return await self._step("publish", ref.cid)

    async def status(self, receipt: Receipt) -> Receipt:
        return await self._step("status", receipt.cid)

    async def _step(self, question: str, cid: Cid) -> Receipt:
        self.asked.append((question, cid, asyncio.get_running_loop().time()))
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        if isinstance(step, float):
            await asyncio.sleep(step)
            return await self._step(question, cid)
        if isinstance(step, Exception):
            raise step
        return Receipt(self.name, cid, self.receipt_id, step)
