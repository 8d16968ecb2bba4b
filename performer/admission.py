"""Who gets in: every check of a request before anything is stored (protocol §7, performer steps 1 and 2)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakValueDictionary

from performer.earnings import Earnings
from performer.ledger import BUSY, TaskLedger
from shared.constants import FETCH_TIMEOUT_SECONDS, MAX_DEADLINE_SECONDS, MAX_INPUT_BYTES, MAX_PARAMETERS_BYTES
from shared.content.unixfs import cid_of
from shared.crypto import ecdsa
from shared.digests import Domain
from shared.documents import InputDocument, ModelCard, Parameters, decode_input, decode_parameters, validate_input
from shared.errors import CodecError, ContentError, ContentUnavailable, InferenceError, InputMismatch, RequestRefused
from shared.interfaces import Clock, ContentStore
from shared.json_forms import FieldError, from_hex, request_from_json
from shared.keeping import CACHE, kept_until
from shared.model_library import ModelLibrary
from shared.roster import Roster
from shared.seeds import is_seed_known
from shared.types import Address, TaskDefinition, TaskRequest
from shared.validation import is_canonical_cid
from shared.workflow import Task

INVALID_PARAMS = -32602
UNKNOWN_MODEL = -32001
INPUT_REFUSED = -32002
DEADLINE = -32003
BAD_SIGNATURE = -32004
UNAVAILABLE = -32006


@dataclass(frozen=True)
class Admitted:
    """A new task, stored."""

    task: Task


class Admission:
    """Turns what came through the door into a stored task, or says which field is wrong and what it should be."""

    def __init__(
        self,
        *,
        domain: Domain,
        address: Address,
        roster: Callable[[], Roster],
        library: ModelLibrary,
        content: ContentStore,
        ledger: TaskLedger,
        earnings: Earnings,
        clock: Clock,
        served: Collection[int],
        max_open_tasks: int,
    ) -> None:
        self._domain, self._address, self._roster = domain, address, roster
        self._library, self._content, self._ledger = library, content, ledger
        self._earnings = earnings
        self._clock, self._served, self._max_open_tasks = clock, served, max_open_tasks
        self._arriving = 0  # being stored, and not yet in the ledger
        self._nonces: WeakValueDictionary[tuple[Address, int], asyncio.Lock] = WeakValueDictionary()

    async def admit(self, request_form: object, signature_form: object, document_form: object) -> Admitted | Task:
        """`Admitted` for a new task, the former `Task` for a repeated request, also after its deadline.

        Raises `RequestRefused`; then nothing is kept, and what was fetched is cache.
        """
        request, signature, document = _read(request_form, signature_form, document_form)
        task_id = self._domain.task_id(request)
        self._check_terms(request)
        if not ecdsa.is_signed_by(request.requester, task_id, signature):
            raise RequestRefused(
                BAD_SIGNATURE,
                "the signature is not the requester's over this request",
                "signature",
                f"a secp256k1 signature by 0x{request.requester.hex()} over the EIP-712 digest 0x{task_id.hex()}",
            )
        former = await self._ledger.find(task_id)
        if former is not None:
            return former
        definition = self._check_definition(request)
        self._check_deadline(request, definition)
        self._earnings.require_fee(request, definition)
        self._check_room()
        task = Task(task_id=task_id, request=request, requester_signature=signature, requested_at=self._clock.now())
        await self._check_input(request, document, definition)
        async with self._earnings.covering(task_id, request):
            return await self._store(task, document, definition)

    async def read_input(
        self, request: TaskRequest, definition: TaskDefinition, card: ModelCard
    ) -> tuple[InputDocument, Parameters]:
        """Input and parameters of an admitted request."""
        data = await self._content.get(
            request.input_cid,
            max_bytes=MAX_INPUT_BYTES,
            timeout_seconds=FETCH_TIMEOUT_SECONDS,
            keep_until=self.kept_until(request, definition),
        )
        return decode_input(data), decode_parameters(card, request.parameters)

    def kept_until(self, request: TaskRequest, definition: TaskDefinition) -> float:
        """How long this node holds what the task needs; unix seconds."""
        return kept_until(request.deadline, definition.terms.dispute_window, self._roster().settle_seconds)

    def _check_terms(self, request: TaskRequest) -> None:
        if request.performer != self._address:
            raise RequestRefused(
                INVALID_PARAMS, "the request is for another performer", "request.performer", f"0x{self._address.hex()}"
            )
        if len(request.parameters.encode()) > MAX_PARAMETERS_BYTES:
            raise RequestRefused(
                INVALID_PARAMS, "too long", "request.parameters", f"at most {MAX_PARAMETERS_BYTES} bytes of JSON"
            )

    def _check_deadline(self, request: TaskRequest, definition: TaskDefinition) -> None:
        now, furthest = self._clock.now(), min(MAX_DEADLINE_SECONDS, definition.terms.maximum_deadline)
        if not now < request.deadline <= now + furthest:
            raise RequestRefused(
                DEADLINE,
                "the deadline has passed" if request.deadline <= now else "the deadline is too far away",
                "request.deadline",
                f"unix seconds between {int(now) + 1} and {int(now) + furthest}",
            )

    def _check_room(self) -> None:
        if self._ledger.count_open() + self._arriving >= self._max_open_tasks:
            raise RequestRefused(BUSY, "the performer has too many open tasks", None, "try again in a moment")

    def _check_definition(self, request: TaskRequest) -> TaskDefinition:
        definitions = self._roster().definitions
        served = sorted(set(definitions) & set(self._served) if self._served else definitions)
        definition = definitions.get(request.task_definition_id)
        if definition is None or definition.id not in served:
            raise RequestRefused(
                UNKNOWN_MODEL,
                "this performer does not serve the task definition",
                "request.taskDefinitionId",
                f"one of {served}",
            )
        if definition.is_paused:
            raise RequestRefused(
                UNAVAILABLE, "the task definition is paused", "request.taskDefinitionId", "try again later"
            )
        if request.model_hash != definition.model_hash:
            raise RequestRefused(
                UNKNOWN_MODEL,
                "the task definition has another model",
                "request.modelHash",
                f"0x{definition.model_hash.hex()}",
            )
        return definition

    async def _check_input(self, request: TaskRequest, document: bytes | None, definition: TaskDefinition) -> None:
        """Fits the model and is what the CID says."""
        card = await self._card(definition)
        self._check_seed(request, card)
        data = document if document is not None else await self._fetch_input(request, CACHE)
        try:
            parsed = decode_input(data)
        except CodecError as error:
            expected = "an input document (see docs/protocol.md §5)"
            raise RequestRefused(INPUT_REFUSED, str(error), "input", expected) from None
        try:
            validate_input(card, parsed, decode_parameters(card, request.parameters))
        except InputMismatch as error:
            raise RequestRefused(INPUT_REFUSED, str(error), error.field, error.expected) from None
        except CodecError as error:
            expected = "canonical JSON: keys sorted, no spaces"
            raise RequestRefused(INPUT_REFUSED, str(error), "request.parameters", expected) from None

    def _check_seed(self, request: TaskRequest, card: ModelCard) -> None:
        roster = self._roster()
        beacons = roster.beacons_for(roster.epoch)
        if not is_seed_known(card, request.seed, beacons):
            known = " or ".join(f"0x{beacon.hex()}" for beacon in beacons) or "the beacon, which is not known here yet"
            raise RequestRefused(
                INVALID_PARAMS,
                "the seed of this task must be the beacon of the epoch or of the one before",
                "request.seed",
                f"{known} (`beacon` of poi_getNetwork)",
            )

    async def _card(self, definition: TaskDefinition) -> ModelCard:
        try:
            return await self._library.card(definition)
        except (InferenceError, ContentError) as error:
            raise RequestRefused(UNAVAILABLE, str(error), None, "try again later, or another performer") from None

    async def _fetch_input(self, request: TaskRequest, keep_until: float) -> bytes:
        try:
            return await self._content.get(
                request.input_cid,
                max_bytes=MAX_INPUT_BYTES,
                timeout_seconds=FETCH_TIMEOUT_SECONDS,
                keep_until=keep_until,
            )
        except ContentUnavailable as error:
            expected = "content that an operator serves, or the document itself as `input`"
            raise RequestRefused(UNAVAILABLE, str(error), "request.inputCid", expected) from None
        except ContentError as error:
            expected = f"a file of at most {MAX_INPUT_BYTES} bytes"
            raise RequestRefused(INPUT_REFUSED, str(error), "request.inputCid", expected) from None

    async def _store(self, task: Task, document: bytes | None, definition: TaskDefinition) -> Admitted | Task:
        nonce = (task.request.requester, int(task.request.nonce))
        # Requests with one nonce wait for each other: of two tasks, the one refused must leave no input behind.
        async with self._nonces.setdefault(nonce, asyncio.Lock()):
            former = await self._ledger.find(task.task_id)
            if former is not None:
                return former
            with self._place():
                await self._ledger.check_nonce(task)
                keep_until = self.kept_until(task.request, definition)
                if document is not None:
                    await self._content.add(document, keep_until=keep_until)
                else:  # only now: a promise to a request that is refused could not be taken back from it alone
                    await self._fetch_input(task.request, keep_until)
                await self._ledger.add(task)
            return Admitted(task)

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Kept until the ledger counts the task, or requests that come together would all take the last one."""
        self._check_room()
        self._arriving += 1
        try:
            yield
        finally:
            self._arriving -= 1


def _read(
    request_form: object, signature_form: object, document_form: object
) -> tuple[TaskRequest, bytes, bytes | None]:
    try:
        request = request_from_json(request_form)
        signature = from_hex(signature_form, "signature", ecdsa.SIGNATURE_BYTES)
        document = _read_document(document_form)
    except FieldError as error:
        raise RequestRefused(INVALID_PARAMS, str(error), error.field, error.expected) from None
    if not is_canonical_cid(request.input_cid):
        raise RequestRefused(INVALID_PARAMS, "not a CID", "request.inputCid", "a canonical CIDv1 in base32")
    if document is not None and (cid := cid_of(document)) != request.input_cid:
        raise RequestRefused(INPUT_REFUSED, "the input is not what its CID says", "request.inputCid", cid)
    return request, signature, document


def _read_document(form: object) -> bytes | None:
    if form is None:
        return None
    if not isinstance(form, str):
        raise FieldError("input", "the input document as a JSON string, exactly as it was hashed")
    try:
        data = form.encode()
    except UnicodeEncodeError:  # a lone surrogate
        raise FieldError("input", "text that UTF-8 can encode") from None
    if len(data) > MAX_INPUT_BYTES:
        raise FieldError("input", f"at most {MAX_INPUT_BYTES} bytes")
    return data
