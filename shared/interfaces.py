"""Every outside thing as one narrow Protocol. Only `shared/adapters/` implements them.

A Protocol belongs to the need of its callers; one adapter may satisfy several. All methods may be cancelled. Errors are
those of `shared.errors`; anything else that leaves an adapter is a bug of the adapter.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from shared.types import (
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
class ContentStore(Protocol):
    """Content by CID, verified block by block, whoever served it."""

    async def add(self, data: bytes) -> Cid:
        """Durable (fsync) and pinned before it returns."""
        ...

    async def get(self, cid: Cid, *, max_bytes: int, timeout_seconds: float, prefer: Address | None = None) -> bytes:
        """The content of the UnixFS file `cid`: local blocks first, then `prefer`'s gateway, then other operators'.

        What was fetched stays pinned. Raises `ContentUnavailable`, `ContentTooLarge`, `ContentCorrupt`.
        """
        ...

    async def has(self, cid: Cid) -> bool:
        """Every block is here."""
        ...

    async def unpin(self, cid: Cid) -> None: ...


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
