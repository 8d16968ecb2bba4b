"""Values that every part shares: frozen, validated where strangers make them, with units in their names."""

from __future__ import annotations

import math
from enum import IntEnum, IntFlag, StrEnum
from typing import NewType

import msgspec

Address = NewType("Address", bytes)  # 20 bytes
Digest = NewType("Digest", bytes)  # 32 bytes: task id, task info hash, vote digest, batch digest, model hash
Cid = NewType("Cid", str)  # canonical CIDv1 text, base32 lower case
PeerKey = NewType("PeerKey", bytes)  # ed25519 public key, 32 bytes


FOREVER = math.inf  # as a time until when content is kept


class Uint256(int):
    """An integer as the EVM has it, 0 to 2**256 - 1; msgpack's own end at 64 bits (see `shared.wire`)."""


class Role(IntFlag):
    """What an operator registered for; the bits of `OperatorRegistry.register`."""

    PERFORMER = 1
    ATTESTER = 2
    AGGREGATOR = 4


class Verdict(IntEnum):
    """A vote. Only VALID and INVALID are ever signed."""

    ABSTAIN = 0
    VALID = 1
    INVALID = 2


class Ref(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file in content: its CID, which alone proves anything, and what helps to find it.

    On the task topic (protocol §4, §5) whoever signs it chose all of it, so each part is bounded there.
    """

    cid: Cid
    size: int  # bytes of the file
    profile: str  # by which the file became blocks: a name in `shared.content.unixfs.PROFILES`
    sources: tuple[str, ...] = ()  # URLs of trustless gateways, and multiaddrs of IPFS nodes, at the signer's own hosts
    eigenda: bytes = b""  # the certificate of EigenDA's proxy (standard mode); empty for none


class SourceKind(StrEnum):
    """Where a block may come from, in the order of asking."""

    LOCAL = "local"
    PERFORMER = "performer"
    OPERATOR = "operator"
    KUBO = "kubo"
    GATEWAY = "gateway"
    EIGENDA = "eigenda"


class TaskRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a requester signs; its EIP-712 digest is the task id (protocol §2)."""

    requester: Address
    nonce: Uint256
    performer: Address
    task_definition_id: int
    model_hash: Digest  # SHA-256 of the model's bytes
    input_cid: Cid
    parameters: str  # canonical JSON
    seed: Digest
    fee: Uint256  # wei
    deadline: int  # unix seconds

    def __post_init__(self) -> None:
        # Plain integers are taken, so that callers need not know how they travel.
        msgspec.structs.force_setattr(self, "nonce", Uint256(self.nonce))
        msgspec.structs.force_setattr(self, "fee", Uint256(self.fee))


class TaskInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a performer signs and attesters vote on; field names are Othentic's, plus task id and epoch."""

    task_id: Digest
    proof_of_task: Cid
    data: bytes
    task_performer: Address
    task_definition_id: int
    epoch: int


class TaskCertificate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A strict quorum's verdict on one task info: final for the dApp, and enough for the chain by itself."""

    task_info: TaskInfo
    verdict: Verdict
    signers: tuple[int, ...]  # indices into the epoch's table, strictly increasing
    signature: bytes  # G1, packed, 96 bytes: the sum of the signers' votes
    performer_signature: bytes  # 65 bytes over the task info hash


class BatchInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What attesters sign for a batch of certificates; its EIP-712 digest is the batch digest."""

    root: Digest  # OpenZeppelin's standard Merkle tree over the certificates' leaves
    content_hash: Digest  # SHA-256 of the batch document, hence its CID
    size: int
    epoch: int
    aggregator: Address


class Operator(msgspec.Struct, frozen=True, kw_only=True):
    """A registered operator, as the registry has it now."""

    address: Address
    owner: Address  # who paid the stake and alone gets it back
    rewards_receiver: Address
    roles: Role
    stake_wei: int
    vote_key: bytes  # G2, packed, 192 bytes
    peer_key: PeerKey
    p2p_address: str  # multiaddr without the peer id
    gateway_url: str
    is_active: bool
    withdrawable_at: int = 0  # unix seconds; 0 for who has not left


class TableEntry(msgspec.Struct, frozen=True):
    """One seat in an epoch's table. Without power it has no vote: its key is not in the aggregate."""

    address: Address
    vote_key: bytes  # G2, packed, 192 bytes
    power: int  # stake in power units


class OperatorTable(msgspec.Struct, frozen=True):
    """The seats of one epoch, in index order."""

    epoch: int
    entries: tuple[TableEntry, ...]
    attester_set: int = 0  # 0: everybody

    @property
    def total_power(self) -> int:
        return sum(entry.power for entry in self.entries)

    def index_of(self, address: Address) -> int | None:
        """The attester's index, or None for who has no vote here."""
        return next((i for i, entry in enumerate(self.entries) if entry.address == address and entry.power), None)


class Fees(msgspec.Struct, frozen=True):
    """What a request costs at least, in base units of the escrow's token."""

    performer: int = 0
    attesters: int = 0
    aggregator: int = 0

    @property
    def total(self) -> int:
        return self.performer + self.attesters + self.aggregator


class TaskTerms(msgspec.Struct, frozen=True, kw_only=True):
    """How tasks of a definition are settled (protocol §8.1)."""

    fees: Fees = Fees()
    attester_set: int = 0  # 0: everybody
    maximum_deadline: int = 24 * 3600  # seconds ahead
    dispute_window: int = 24 * 3600  # seconds
    waits_for_all: bool = False
    settles_singly: bool = False
    slashes_rejected: bool = True
    slashes_outliers: bool = False
    hook: Address = Address(bytes(20))
    fee_calculator: Address = Address(bytes(20))


class TaskDefinition(msgspec.Struct, frozen=True):
    """A kind of task, as the AttestationCenter has it."""

    id: int
    name: str
    method: str
    model_hash: Digest
    card_cid: Cid
    is_paused: bool = False
    terms: TaskTerms = TaskTerms()


class Deposit(msgspec.Struct, frozen=True):
    """What a requester has put down for one performer, in base units."""

    balance: int
    refunding: int = 0  # part of the balance that goes back
    refundable_at: int = 0  # unix seconds


class Fingerprint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What really ran, read back from the engine after the run. It is part of the proof object."""

    runtime: str  # "onnxruntime"
    version: str
    provider: str  # "CPUExecutionProvider", as the session reports it
    device: str
    precision: str = "native"  # what the graph itself says; or the arithmetic that it was rewritten into

    def __str__(self) -> str:
        return f"{self.runtime} {self.version}, {self.provider} on {self.device}, {self.precision}"


class Settled(msgspec.Struct, frozen=True):
    """The chain recorded a verdict for one task (events TaskSubmitted and TaskRejected)."""

    task_id: Digest
    is_approved: bool
    block: int
    tx_hash: Digest
    gas_used: int
    aggregator: Address = Address(bytes(20))  # who submitted it
    task_info_hash: Digest = Digest(bytes(32))
    indices: bytes = b""  # of its certificate


class BatchSettled(msgspec.Struct, frozen=True):
    """The chain recorded a batch."""

    batch: BatchInfo
    block: int
    tx_hash: Digest
    gas_used: int


class Offence(IntEnum):
    """What is slashed, in the order of `SlashingCourt.Offence`."""

    OUTLIER = 0
    REJECTED_TASK = 1
    MISSED_DEADLINE = 2
    EQUIVOCATION = 3
    TAMPERING = 4


class SlashQueued(msgspec.Struct, frozen=True):
    """An offence was shown; its slash waits."""

    slash_id: Digest
    task_id: Digest
    operator: Address
    offence: Offence
    executable_at: int  # unix seconds
    block: int
    tx_hash: Digest


class SlashExecuted(msgspec.Struct, frozen=True):
    """Stake moved: the compensation to the requester, the rest to the vault."""

    slash_id: Digest
    task_id: Digest
    operator: Address
    amount_wei: int
    requester: Address
    compensation_wei: int
    block: int
    tx_hash: Digest


class SlashCancelled(msgspec.Struct, frozen=True):
    """A waiting slash was called off: by the operators, by a veto, or because the answer was shown."""

    slash_id: Digest
    operator: Address
    block: int
    tx_hash: Digest


ChainEvent = Settled | BatchSettled | SlashQueued | SlashExecuted | SlashCancelled
