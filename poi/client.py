"""The dApp's side: one call in, a certificate out that a contract can check.

async with PoiClient("http://127.0.0.1:8700", key) as client:
    task_id = await client.request(0, {"tensors": {...}})
    task = await client.wait(task_id)
"""

from __future__ import annotations

import secrets
import time
from io import BytesIO
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec

from shared.constants import LONG_POLL_SECONDS
from shared.content.unixfs import build_file
from shared.crypto.ecdsa import SecretKey
from shared.digests import Domain
from shared.errors import PoiError, RequestRefused
from shared.json_forms import certificate_from_json, from_hex, request_to_json, to_hex
from shared.types import Address, Digest, OperatorTable, TaskCertificate, TaskRequest, Uint256
from shared.validation import verify_certificate

CALL_SECONDS = LONG_POLL_SECONDS + 10
DEFAULT_DEADLINE_SECONDS = 600


class PerformerUnreachable(PoiError):
    """The performer's door did not answer."""


class PoiClient:
    """Talks to one performer's door on behalf of one requester."""

    def __init__(self, url: str, key: SecretKey) -> None:
        self._url, self._key = url, key
        self._network: dict[str, Any] | None = None
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=CALL_SECONDS))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def network(self) -> dict[str, Any]:
        """What `poi_getNetwork` says, asked once."""
        if self._network is None:
            self._network = await self._call("poi_getNetwork", {})
        return self._network

    async def domain(self) -> Domain:
        """Where signatures are valid. Compare it with the contract that you trust before you sign for money."""
        network = await self.network()
        return Domain(network["chainId"], Address(from_hex(network["attestationCenter"], "attestationCenter", 20)))

    async def prepare(
        self,
        task_definition_id: int,
        document: dict[str, Any] | str,
        parameters: dict[str, Any] | None = None,
        *,
        nonce: int | None = None,
        deadline_seconds: int = DEFAULT_DEADLINE_SECONDS,
    ) -> tuple[Digest, dict[str, Any]]:
        """The task id and the signed call, not sent yet. Raises `RequestRefused` for an unknown definition."""
        network = await self.network()
        definition = next((d for d in network["taskDefinitions"] if d["taskDefinitionId"] == task_definition_id), None)
        if definition is None:
            raise RequestRefused(-32001, f"the performer does not serve task definition {task_definition_id}")
        text = document if isinstance(document, str) else msgspec.json.encode(document).decode()
        input_cid, _ = build_file(BytesIO(text.encode()), lambda _: None)
        request = TaskRequest(
            requester=self._key.address,
            nonce=Uint256(secrets.randbits(128) if nonce is None else nonce),
            performer=Address(from_hex(network["performer"], "performer", 20)),
            task_definition_id=task_definition_id,
            model_hash=Digest(from_hex(definition["modelHash"], "modelHash", 32)),
            input_cid=input_cid,
            parameters=msgspec.json.encode(parameters or {}, order="deterministic").decode(),
            seed=Digest(secrets.token_bytes(32)),
            fee=Uint256(0),
            deadline=int(time.time()) + deadline_seconds,
        )
        task_id = (await self.domain()).task_id(request)
        signature = to_hex(self._key.sign(task_id))
        return task_id, {"request": request_to_json(request), "signature": signature, "input": text}

    async def send(self, call: dict[str, Any]) -> Digest:
        """Sends what `prepare` made. Sending it twice is one task. Raises `RequestRefused`, `PerformerUnreachable`."""
        answer = await self._call("poi_requestInference", call)
        return Digest(from_hex(answer["taskId"], "taskId", 32))

    async def request(
        self, task_definition_id: int, document: dict[str, Any] | str, parameters: dict[str, Any] | None = None
    ) -> Digest:
        """Prepare and send."""
        _, call = await self.prepare(task_definition_id, document, parameters)
        return await self.send(call)

    async def get(self, task_id: Digest) -> dict[str, Any]:
        """The task as it is now."""
        view: dict[str, Any] = await self._call("poi_getTask", {"taskId": to_hex(task_id)})
        return view

    async def wait(self, task_id: Digest, *, until: str = "final", timeout_seconds: float = 120.0) -> dict[str, Any]:
        """The task once it is `certified` or `final`, or as it is when the time is over."""
        end = time.monotonic() + timeout_seconds
        while True:
            left = max(0.0, min(LONG_POLL_SECONDS, end - time.monotonic()))
            view: dict[str, Any] = await self._call(
                "poi_getTask", {"taskId": to_hex(task_id), "waitFor": until, "timeoutSeconds": left}
            )
            if time.monotonic() >= end or view["phase"] in REACHED[until]:
                return view

    async def verify(self, view: dict[str, Any], table: OperatorTable) -> TaskCertificate:
        """The task's certificate, checked against a table that you read from the chain.

        Raises `Reject`, `CodecError`.
        """
        certificate = certificate_from_json(view["certificate"])
        verify_certificate(await self.domain(), table, certificate)
        return certificate

    async def _call(self, method: str, params: dict[str, Any]) -> Any:
        if self._session is None:
            raise PerformerUnreachable("use the client as an async context manager")
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        try:
            async with self._session.post(self._url, json=body) as response:
                answer = await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise PerformerUnreachable(f"{self._url}: {type(error).__name__} {error}") from None
        if "error" in answer:
            data = answer["error"].get("data") or {}
            raise RequestRefused(
                answer["error"]["code"], answer["error"]["message"], data.get("field"), data.get("expected")
            )
        return answer["result"]


FINAL = frozenset({"approved", "rejected", "expired"})
REACHED = {"final": FINAL, "certified": FINAL | {"certified", "submitted"}}
