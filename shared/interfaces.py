"""Every outside thing as one narrow Protocol. Only `shared/adapters/` implements them.

A Protocol belongs to the need of its callers; one adapter may satisfy several. All methods may be cancelled. Errors are
those of `shared.errors`; anything else that leaves an adapter is a bug of the adapter.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import NotRequired, Protocol, TypedDict, Unpack

import numpy as np
import numpy.typing as npt

from shared.content.cid import Block
from shared.content.unixfs import UNIXFS_V1_2025, Profile
from shared.types import (
    FOREVER,
    Address,
    BatchInfo,
    ChainEvent,
    Cid,
    Deposit,
    Digest,
    Fingerprint,
    Operator,
    OperatorTable,
    PeerKey,
    Ref,
    SourceKind,
    TaskCertificate,
    TaskDefinition,
    TaskInfo,
    TaskRequest,
    Verdict,
)

Tensors = Mapping[str, npt.NDArray[np.generic]]


# --- gossip --------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Received:
    """One message that passed its validator. `origin` signed it; transport made sure of that."""

    origin: PeerKey
    data: bytes


Validator = Callable[[PeerKey, bytes], object]
"""Quick (under 5 ms); returns (whatever) to accept, raises `Ignore` or `Reject`. May run in another thread."""


class Gossip(Protocol):
    """Broadcast among registered operators: at most once, unordered, may lose, may duplicate."""

    @property
    def peer_key(self) -> PeerKey: ...

    async def publish(self, topic: str, data: bytes) -> None:
        """Raises `TransportError` when the node is stopped or the message is over the limit. Own messages come back
        to own subscriptions."""
        ...

    def subscribe(self, topic: str, validate: Validator) -> AbstractAsyncContextManager[AsyncIterator[Received]]:
        """Messages of others and of this node, validated. One subscription a topic and node.

        A slow reader loses the newest messages and the loss is counted in a metric; it never slows the mesh."""
        ...

    def peers(self) -> Sequence[PeerKey]:
        """Registered peers that are connected now."""
        ...


# --- content -------------------------------------------------------------------------------------
class BlockStore(Protocol):
    """Blocks by hash, on this machine. It blocks, so it is called from worker threads; any may call at once.

    Blocks are told apart by their hash alone: the same bytes as raw and as dag-pb are one.
    """

    def get(self, cid: Cid) -> Block | None:
        """None when it is not here. Raises `CodecError` when what is here does not hash to `cid`, `OSError`."""
        ...

    def put(self, block: Block, *, is_durable: bool) -> None:
        """All of it or nothing, also when the process dies. Durable: power may fail, too. Raises `OSError`."""
        ...

    def size_of(self, cid: Cid) -> int | None:
        """Bytes of the block, unread and unchecked; None when it is not here."""
        ...

    def delete(self, digest: bytes) -> int:
        """Bytes freed; 0 when it was not here. Raises `OSError`."""
        ...

    def digests(self) -> Iterator[bytes]:
        """The SHA-256 of every block that is here and stays here while this runs."""
        ...


class Reading(TypedDict):
    """How a file is read."""

    max_bytes: int
    timeout_seconds: float
    prefer: NotRequired[Address | None]  # the operator who should have it
    ref: NotRequired[Ref | None]  # what else is known of it
    keep_until: NotRequired[float]  # unix seconds; without it, what is fetched is mere cache


class ContentStore(Protocol):
    """Content by CID, verified block by block, whoever served it.

    A read ends in one of three ways: *verified* (it returns), *provably wrong* (`ContentCorrupt`, `ContentTooLarge`:
    every honest reader comes to the same end, `ContentRefuted` excepted) or *unavailable* (`ContentUnavailable`, with
    why for each source).
    """

    async def add(self, data: bytes, *, profile: Profile = UNIXFS_V1_2025, keep_until: float = FOREVER) -> Ref:
        """Durable (fsync) and pinned before it returns. Raises `ContentError` when the disk does not take it."""
        ...

    async def get(self, cid: Cid, **how: Unpack[Reading]) -> bytes:
        """The content of the UnixFS file `cid`: local blocks, then `prefer`'s gateway, the other operators', the own
        Kubo, the configured gateways, EigenDA. `ref` says what else is known of it.

        What was fetched is kept until `keep_until` (unix seconds), and beyond it while there is room.
        """
        ...

    def open(self, cid: Cid, **how: Unpack[Reading]) -> AsyncGenerator[bytes, None]:
        """As `get`, chunk by chunk, each verified before it comes; the errors come in their place.

        Time counts until the last chunk is taken. Whoever stops early closes it (`contextlib.aclosing`).
        """
        ...

    async def has(self, cid: Cid) -> bool:
        """Every block is here."""
        ...

    async def unpin(self, cid: Cid) -> None: ...


@dataclass(frozen=True, slots=True)
class Pin:
    """A file that is kept. `size` is None while it is not all here; `keep_until` is over for what is a mere cache."""

    cid: Cid
    size: int | None
    keep_until: float
    used_at: float


@dataclass(frozen=True, slots=True)
class Swept:
    """What a garbage collection freed."""

    blocks: int
    bytes: int


class ContentKeeper(Protocol):
    """The care of what is held, for people and for the node itself. Raises `ContentError`."""

    async def pin(self, cid: Cid, *, keep_until: float = FOREVER) -> None:
        """What is all here already. Raises `ContentUnavailable` when it is not. Never shortens."""
        ...

    async def pins(self) -> Sequence[Pin]: ...

    async def collect(self, max_bytes: int = 0) -> Swept:
        """Drop what nothing keeps, least recently used first, until `max_bytes` or less are held. What is pinned or has
        to be kept stays, whatever `max_bytes` says."""
        ...

    async def verify(self, cid: Cid) -> Sequence[Cid]:
        """Read every block of the file that is here; those that are missing or damaged."""
        ...


@dataclass(slots=True)
class Meter:
    """Counts what an attempt has received, so that a slow source is told from a silent one."""

    received_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Wanted:
    """A block, and the file it is wanted for: many sources give whole files better than single blocks."""

    cid: Cid
    root: Cid
    ref: Ref | None = None


class Source(Protocol):
    """One place that may have blocks. It is never trusted."""

    @property
    def name(self) -> str:
        """For people, and unlike that of any other source."""
        ...

    @property
    def kind(self) -> SourceKind: ...

    async def fetch(self, wanted: Wanted, meter: Meter) -> Block:
        """Ends by itself in bounded time, memory and log, and cancelled at once. Raises `SourceFailed` and nothing
        else."""
        ...


class LocalContent(Protocol):
    """What this node holds, as a publisher reads it. Raises `ContentUnavailable` when a block is missing."""

    def read(self, cid: Cid) -> AsyncGenerator[bytes, None]:
        """The file's bytes, verified."""
        ...

    def archive(self, cid: Cid) -> AsyncGenerator[bytes, None]:
        """The file's blocks as a CAR (version 1): depth first, each block once."""
        ...


class PublishState(StrEnum):
    """What became of content at a service. Only PINNED means that it is there."""

    QUEUED = "queued"
    PINNING = "pinning"
    PINNED = "pinned"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Receipt:
    """A service's word. `id` is what the service knows it by: a request id, or the hex of EigenDA's certificate."""

    publisher: str
    cid: Cid
    id: str
    state: PublishState


class Publisher(Protocol):
    """A service outside that keeps content for others to fetch. Nothing it returns is trusted: its CID is compared."""

    @property
    def name(self) -> str: ...

    async def publish(self, ref: Ref) -> Receipt:
        """Again the same: no second copy, and the same receipt where the service knows one. Raises `PublishFailed`,
        `ContentUnavailable`."""
        ...

    async def status(self, receipt: Receipt) -> Receipt:
        """Raises `PublishFailed`."""
        ...


# --- chain ---------------------------------------------------------------------------------------
class OperatorReader(Protocol):
    """What the chain says about operators and definitions. Raises `ChainUnavailable`."""

    async def current_epoch(self) -> int: ...

    async def operator_table(self, epoch: int, attester_set: int = 0) -> OperatorTable | None:
        """The frozen table of any epoch there ever was, for everybody or for one attester set; None for an epoch that
        is still to come."""
        ...

    async def is_expired(self, epoch: int) -> bool:
        """No vote of the epoch can settle any more."""
        ...

    async def settle_seconds(self) -> int:
        """How long the votes of an epoch that is rolled when it is due can settle, from its beginning on. It never
        changes."""
        ...

    async def beacon(self, epoch: int) -> Digest | None:
        """What nobody could know before the epoch began (protocol §6); None for an epoch that is still to come."""
        ...

    async def operators(self) -> Sequence[Operator]: ...

    async def task_definition(self, definition_id: int) -> TaskDefinition | None: ...

    async def task_definition_count(self) -> int:
        """Ids run from 0 to this, exclusive."""
        ...


@dataclass(frozen=True, slots=True)
class BatchSubmission:
    """A batch with its aggregate: everything `submitBatch` takes."""

    batch: BatchInfo
    signers: tuple[int, ...]
    signature: bytes  # G1 packed, 96 bytes


class Settlement(Protocol):
    """Putting verdicts on chain and hearing of them. `submit_*` return the transaction hash once the node has taken
    the transaction; raise `Reverted` when simulation refuses it, `ChainUnavailable` when nobody can be asked."""

    async def submit_task(self, certificate: TaskCertificate) -> Digest: ...

    async def submit_task_after_deadline(self, certificate: TaskCertificate, request: TaskRequest) -> Digest:
        """For a definition that waits for all votes, with some missing; `request` is the task's and proves the deadline
        (protocol §8.1)."""
        ...

    async def submit_batch(self, batch: BatchSubmission) -> Digest: ...

    async def verdict_of(self, task_id: Digest) -> Verdict | None:
        """What `submitTask` recorded for the task; None while it recorded nothing (a batch leaves no mark here)."""
        ...

    async def is_batch_settled(self, root: Digest) -> bool: ...

    async def confirm(self, tx_hash: Digest, timeout_seconds: float) -> int:
        """Gas used, once mined under CONFIRMATIONS blocks.

        Raises `Reverted`, `Dropped`, `ChainUnavailable` (timeout)."""
        ...

    def events(self, from_block: int) -> AsyncIterator[ChainEvent]:
        """Events in block order, endless, each once; after a reorg the events of the new branch follow (consumers are
        idempotent by task id and root)."""
        ...


class Epochs(Protocol):
    """Rolling them (protocol §3). Raises as `Settlement` does."""

    async def power_unit(self) -> int:
        """Wei of stake that make one unit of voting power."""
        ...

    async def rollable_at(self) -> int:
        """Unix seconds of the next roll that the contract takes; not in the future when one is due at once."""
        ...

    async def roll(self) -> Digest:
        """The transaction's hash. A large set takes several rolls until the epoch is new."""
        ...


@dataclass(frozen=True, slots=True)
class SignedVote:
    """A vote as its voter signed it: evidence."""

    info: TaskInfo
    verdict: Verdict
    seat: int
    signature: bytes  # G1 packed, 96 bytes


class Court(Protocol):
    """Showing offences and executing their slashes (protocol §8.3). Each returns the transaction hash; `Settlement`
    confirms it. Errors as there."""

    async def report_equivocation(self, first: SignedVote, second: SignedVote) -> Digest: ...

    async def name_harmed(self, slash_id: Digest, request: TaskRequest) -> Digest:
        """So that what is slashed goes to the requester first."""
        ...

    async def execute_slash(self, slash_id: Digest) -> Digest: ...


@dataclass(frozen=True, slots=True)
class Collection:
    """A settled task to be paid: everything an item of `TaskEscrow.collect` takes."""

    request: TaskRequest
    requester_signature: bytes
    info_hash: Digest
    is_approved: bool
    epoch: int
    indices: bytes  # of its certificate, as settled
    root: Digest  # of its batch; zeros for a task that settled by itself
    aggregator: Address  # who submitted it by itself; not read for a batch
    path: tuple[bytes, ...]  # the leaf's proof in its batch


class Escrow(Protocol):
    """Fees (protocol §8.2). Sending ones return the transaction hash; errors as in `Settlement`."""

    async def deposit_of(self, requester: Address, performer: Address) -> Deposit: ...

    async def deposit(self, requester: Address, performer: Address, amount: int) -> Digest: ...

    async def collect(self, tasks: Sequence[Collection]) -> Digest: ...

    async def is_paid(self, requester: Address, performer: Address, nonce: int) -> bool: ...

    async def earned_by(self, operator: Address) -> int:
        """As performer or aggregator, not claimed yet."""
        ...


# --- keys and votes --------------------------------------------------------------------------------
class IdentitySigner(Protocol):
    """The operator's secp256k1 key."""

    @property
    def address(self) -> Address: ...

    async def sign(self, digest: Digest) -> bytes:
        """65 bytes r ‖ s ‖ v, v in {27, 28}, low s, over the raw 32-byte digest (no EIP-191 prefix)."""
        ...


class VoteSigner(Protocol):
    """The operator's BLS key."""

    @property
    def public_key(self) -> bytes:
        """G2 packed, 192 bytes."""
        ...

    async def sign(self, digest: Digest) -> bytes:
        """G1 packed, 96 bytes."""
        ...


class VoteGuard(Protocol):
    """The memory that keeps an honest attester from signing twice, across crashes."""

    async def check_and_insert(self, task_id: Digest, task_info_hash: Digest, verdict: Verdict) -> None:
        """Durable before it returns. Again the same: returns. Another verdict or another task info for the task:
        raises `ConflictingVote`."""
        ...

    async def vote_of(self, task_id: Digest) -> tuple[Digest, Verdict] | None: ...


# --- inference -------------------------------------------------------------------------------------
class InferenceEngine(Protocol):
    """Runs ONNX graphs. Raises `InputMismatch`, `InferenceFailed`, `ModelMismatch`."""

    async def load(self, model_hash: Digest, model: bytes) -> None:
        """Checks SHA-256(model) == model_hash, then keeps a session (a bounded number, least recently used goes)."""
        ...

    def is_loaded(self, model_hash: Digest) -> bool: ...

    async def run(self, model_hash: Digest, inputs: Tensors) -> Tensors:
        """One forward pass, off the event loop, all outputs by name."""
        ...

    def fingerprint(self, model_hash: Digest) -> Fingerprint: ...


# --- services and sources outside -------------------------------------------------------------------
class Caller(Protocol):
    """HTTP with bodies of JSON, bounded in size and time; no redirects. Raises `ServiceFailed`, for any answer but 200
    too."""

    async def get(self, url: str, *, timeout_seconds: float) -> bytes: ...

    async def post(self, url: str, body: bytes, *, timeout_seconds: float) -> bytes: ...


# --- memory and time -------------------------------------------------------------------------------
class TaskStore(Protocol):
    """A role's durable memory: small values by key within a kind. Last write wins; survives kill -9."""

    async def put(self, kind: str, key: bytes, value: bytes) -> None:
        """Durable before it returns."""
        ...

    async def get(self, kind: str, key: bytes) -> bytes | None: ...

    async def delete(self, kind: str, key: bytes) -> None: ...

    def scan(self, kind: str) -> AsyncIterator[tuple[bytes, bytes]]: ...


class Clock(Protocol):
    """Stamps only; sleeping is asyncio's, so that tests can jump time."""

    def now(self) -> float:
        """Unix seconds."""
        ...


Publish = Callable[[str, bytes], Awaitable[None]]
