"""The dApp's side: one call in, a certificate out that a contract can check.

async with PoiClient("http://127.0.0.1:8700", key) as client:
    task_id = await client.request(0, {"tensors": {...}}, fee=10**15)
    task = await client.wait(task_id)

A fee comes out of the deposit that the requester has in the TaskEscrow for this performer (protocol §8.2).
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from http import HTTPStatus
from io import BytesIO
from types import TracebackType
from typing import Annotated, Any, Self

import aiohttp
import msgspec

from shared.canonical import check_nesting, encode_canonical
from shared.constants import LONG_POLL_SECONDS
from shared.content.unixfs import build_file
from shared.crypto.ecdsa import SecretKey
from shared.digests import Domain
from shared.errors import CodecError, PoiError, RequestRefused
from shared.evidence import MAX_OPENING_BYTES, Opening, decode_opening
from shared.json_forms import certificate_from_json, from_hex, request_to_json, to_hex
from shared.types import Address, Digest, OperatorTable, TaskCertificate, TaskRequest, Uint256
from shared.validation import verify_certificate

CALL_SECONDS = LONG_POLL_SECONDS + 10
DEFAULT_DEADLINE_SECONDS = 600
MAX_ANSWER_BYTES = 64 << 20  # a proof of MAX_PROOF_BYTES, its numbers written out
REVEAL_SECONDS = 30.0  # for an opening of two thirds of a megabyte
PAUSE_SECONDS = 0.2  # between questions to a door that answers at once what is not yet so
UNKNOWN_MODEL, BUSY, UNAVAILABLE = -32001, -32005, -32006
BEACON, REQUESTER = "beacon", "requester"  # whose the seed is
NONCES_A_WORD = 256


class PerformerUnreachable(PoiError):
    """The performer's door did not answer, or not as a door does."""


class UntrueAnswer(PoiError):
    """The performer's answer is not about what was asked."""


class EvidenceRefused(PoiError):
    """An attester does not reveal what was asked for, or what answers is none."""


class Nonces:
    """Of one requester towards one performer: whoever makes another of these, after a crash or beside this one, draws
    other numbers. The escrow keeps a bit for each, 256 in a storage slot; in a row they cost a new slot only once."""

    def __init__(self) -> None:
        self._next = 0

    def take(self) -> Uint256:
        """One that nobody took before."""
        if self._next % NONCES_A_WORD == 0:
            self._next = secrets.randbits(248) * NONCES_A_WORD
        nonce = Uint256(self._next)
        self._next += 1
        return nonce


class PoiClient:
    """Talks to one performer's door on behalf of one requester."""

    def __init__(self, url: str, key: SecretKey) -> None:
        self._url, self._key, self._nonces = url, key, Nonces()
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
        """What `poi_getNetwork` said last: asked once, and again for each request whose seed is the beacon."""
        return self._network or await self._ask_network()

    async def _ask_network(self) -> dict[str, Any]:
        network = await self._call("poi_getNetwork", {})
        try:
            msgspec.convert(network, _Network)
        except msgspec.ValidationError as error:
            raise PerformerUnreachable(f"{self._url}: its network is not described: {error}") from None
        self._network = {**network}
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
        fee: int = 0,
        nonce: int | None = None,
        deadline_seconds: int = DEFAULT_DEADLINE_SECONDS,
    ) -> tuple[Digest, dict[str, Any]]:
        """The task id and the signed call, not sent yet. `fee`, in base units of the escrow's token, is all that the
        task can take from the deposit. Raises `RequestRefused` for an unknown definition, and for one whose seed is the
        beacon while the performer does not know it.

        The beacon is what the performer says it is. Attesters hold the seed to the chain, so a false one gets no
        certificate; whoever wants to know before reads the chain (protocol §6).
        """
        network = await self.network()
        definition = _definition_in(network, task_definition_id)
        text = document if isinstance(document, str) else msgspec.json.encode(document).decode()
        input_cid, _ = build_file(BytesIO(text.encode()), lambda _: None)
        request = TaskRequest(
            requester=self._key.address,
            nonce=self._nonces.take() if nonce is None else Uint256(nonce),
            performer=Address(from_hex(network["performer"], "performer", 20)),
            task_definition_id=task_definition_id,
            model_hash=Digest(from_hex(definition["modelHash"], "modelHash", 32)),
            input_cid=input_cid,
            parameters=msgspec.json.encode(parameters or {}, order="sorted").decode(),
            seed=await self._seed_for(task_definition_id),
            fee=Uint256(fee),
            deadline=int(time.time()) + deadline_seconds,
        )
        task_id = (await self.domain()).task_id(request)
        signature = to_hex(self._key.sign(task_id))
        return task_id, {"request": request_to_json(request), "signature": signature, "input": text}

    async def _seed_for(self, task_definition_id: int) -> Digest:
        """The beacon of now, unless the definition leaves the seed to the requester."""
        network = await self.network()
        if _definition_in(network, task_definition_id).get("seed") == REQUESTER:
            return Digest(secrets.token_bytes(32))
        network = await self._ask_network()
        seed, beacon = _definition_in(network, task_definition_id).get("seed"), network.get("beacon")
        if beacon is not None:
            return Digest(from_hex(beacon, "beacon", 32))
        if seed == BEACON:
            raise RequestRefused(UNAVAILABLE, "the performer does not know the beacon", None, "try again in a moment")
        return Digest(secrets.token_bytes(32))

    async def send(self, call: dict[str, Any]) -> Digest:
        """Sends what `prepare` made. Sending it twice is one task. Raises `RequestRefused`, `PerformerUnreachable`, and
        `CodecError` for an answer without a task id."""
        answer = await self._call("poi_requestInference", call)
        task_id = answer.get("taskId") if isinstance(answer, dict) else None
        return Digest(from_hex(task_id, "taskId", 32))

    async def request(
        self,
        task_definition_id: int,
        document: dict[str, Any] | str,
        parameters: dict[str, Any] | None = None,
        *,
        fee: int = 0,
    ) -> Digest:
        """Prepare and send. Raises `UntrueAnswer` when the performer took another task than the one that was signed."""
        task_id, call = await self.prepare(task_definition_id, document, parameters, fee=fee)
        if await self.send(call) != task_id:
            raise UntrueAnswer("the performer answered with the id of another task")
        return task_id

    async def get(self, task_id: Digest) -> dict[str, Any]:
        """The task as it is now. Raises `UntrueAnswer` for a view of another task."""
        return await self._view(task_id, {})

    async def wait(self, task_id: Digest, *, until: str = "final", timeout_seconds: float = 120.0) -> dict[str, Any]:
        """The task once it is `certified` or `final`, or as it is when the time is over."""
        end = time.monotonic() + timeout_seconds
        while True:
            left = max(0.0, min(LONG_POLL_SECONDS, end - time.monotonic()))
            try:
                view = await self._view(task_id, {"waitFor": until, "timeoutSeconds": left})
            except RequestRefused as error:
                if error.code != BUSY:
                    raise
                view = await self.get(task_id)  # too many wait there; asking without waiting is always answered
            if time.monotonic() >= end or view.get("phase") in REACHED[until]:
                return view
            await asyncio.sleep(min(PAUSE_SECONDS, max(0.0, end - time.monotonic())))

    async def verify(self, view: dict[str, Any], table: OperatorTable) -> TaskCertificate:
        """The task's certificate, checked against a table that you read from the chain, and that it is about what the
        view shows. Its verdict is yours to read: a rejection is certified, too.

        Raises `Reject` for a certificate that no quorum signed, `CodecError` for none at all, `UntrueAnswer` for one of
        another task or output.
        """
        certificate = certificate_from_json(view.get("certificate"))
        verify_certificate(await self.domain(), table, certificate)
        info = certificate.task_info
        if (view.get("taskId"), view.get("proofOfTask")) != (to_hex(info.task_id), info.proof_of_task):
            raise UntrueAnswer("the certificate is of another task or proof")
        if view.get("data") != to_hex(info.data) or not _follows(info.data, view.get("result")):
            raise UntrueAnswer("the result is not what the quorum voted on")
        return certificate

    async def _view(self, task_id: Digest, options: dict[str, Any]) -> dict[str, Any]:
        view = await self._call("poi_getTask", {"taskId": to_hex(task_id), **options})
        if not isinstance(view, dict) or view.get("taskId") != to_hex(task_id):
            raise UntrueAnswer("the performer answered with another task")
        return view

    async def _call(self, method: str, params: dict[str, Any]) -> Any:
        if self._session is None:
            raise PerformerUnreachable("use the client as an async context manager")
        call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        try:
            async with self._session.post(self._url, json=call) as response:
                body = await _read_limited(response, MAX_ANSWER_BYTES)
            check_nesting(body)
            answer = msgspec.json.decode(body, type=_Answer)
        except (
            aiohttp.ClientError,
            TimeoutError,
            ValueError,
            msgspec.MsgspecError,
            RecursionError,
            CodecError,
        ) as error:
            raise PerformerUnreachable(f"{self._url}: {type(error).__name__} {error}") from None
        if (refusal := answer.error) is not None:
            raise RequestRefused(refusal.code, refusal.message, refusal.data.field, refusal.data.expected)
        return answer.result


async def reveal_evidence(url: str, task_info_hash: Digest) -> Opening:
    """What the attester at this address reveals of its vote. Whether it opens a commitment, `check_commitment` says.
    Raises `EvidenceRefused`."""
    timeout = aiohttp.ClientTimeout(total=REVEAL_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{url.rstrip('/')}/evidence/{to_hex(task_info_hash)}") as response,
        ):
            body = await _read_limited(response, MAX_OPENING_BYTES)
            if response.status == HTTPStatus.OK:
                return decode_opening(body)
            raise EvidenceRefused(f"{url}: HTTP {response.status}, {_refusal(body)}")
    except (aiohttp.ClientError, TimeoutError, ValueError, CodecError) as error:
        raise EvidenceRefused(f"{url}: {type(error).__name__} {error}") from None


def _refusal(body: bytes) -> str:
    """The reason in an attester's own words, as far as there is one."""
    try:
        refusal = msgspec.json.decode(body, type=_Refusal)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return "and no reason that can be read"
    return refusal.error if refusal.until is None else f"{refusal.error} (unix time {refusal.until})"


class _Refusal(msgspec.Struct):
    error: Annotated[str, msgspec.Meta(max_length=256)]
    until: int | None = None


class _Details(msgspec.Struct, frozen=True):
    field: str | None = None
    expected: str | None = None


class _Error(msgspec.Struct):
    code: int
    message: str
    data: _Details = _Details()


class _Definition(msgspec.Struct, rename="camel"):
    task_definition_id: int
    model_hash: str
    seed: str | None = None  # None while the performer has not read the definition's card


class _Network(msgspec.Struct, rename="camel"):
    """What `prepare` reads of `poi_getNetwork`."""

    chain_id: Annotated[int, msgspec.Meta(ge=0)]
    attestation_center: str
    performer: str
    task_definitions: list[_Definition]
    beacon: str | None = None


class _Answer(msgspec.Struct):
    """JSON-RPC 2.0; what else a door says is nobody's business."""

    result: Any = None
    error: _Error | None = None


def _definition_in(network: dict[str, Any], task_definition_id: int) -> dict[str, Any]:
    found = next((d for d in network["taskDefinitions"] if d["taskDefinitionId"] == task_definition_id), None)
    if found is None:
        raise RequestRefused(UNKNOWN_MODEL, f"the performer does not serve task definition {task_definition_id}")
    definition: dict[str, Any] = found
    return definition


async def _read_limited(response: aiohttp.ClientResponse, limit: int = MAX_ANSWER_BYTES) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(1 << 16):
        body += chunk
        if len(body) > limit:
            raise ValueError(f"an answer of more than {limit} bytes")
    return bytes(body)


def _follows(data: bytes, result: Any) -> bool:
    """Whether `data`, which a quorum certified, is the short form (protocol §6) of the result that a view shows. For a
    label it says nothing of the scores: those are in the proof. No result follows from anything: the proof is then no
    longer on the performer's disk."""
    match result:
        case None:
            return True
        case {"kind": "classify", "label": int(label)}:
            return 0 <= label < 1 << 256 and data == label.to_bytes(32, "big")
        case {"kind": "text", "text": str(text), "tokens": [*tokens]}:
            said = bytes(token for token in tokens if isinstance(token, int) and 0 <= token < 256)
            return data == hashlib.sha256(said).digest() and text == said.decode(errors="replace")
        case {"kind": "tensor"}:
            return data == hashlib.sha256(encode_canonical(result)).digest()
        case _:
            return False


FINAL = frozenset({"approved", "rejected", "expired"})
REACHED = {"final": FINAL, "certified": FINAL | {"certified", "submitted"}}
