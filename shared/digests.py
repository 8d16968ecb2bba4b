"""The digests of protocol §2, equal to the contracts' to the byte (EIP-712). Identity comes from these alone."""

from __future__ import annotations

from dataclasses import dataclass, field

from eth_abi.abi import encode
from eth_utils.crypto import keccak

from shared.types import Address, BatchInfo, Digest, Offence, TaskInfo, TaskRequest, Verdict

NAME = "ProofOfInference"
VERSION = "1"


def _type_hash(text: str) -> bytes:
    return keccak(text=text)


_DOMAIN = _type_hash("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")
_TASK_REQUEST = _type_hash(
    "TaskRequest(address requester,uint256 nonce,address performer,uint16 taskDefinitionId,bytes32 modelHash,"
    "string inputCid,string parameters,bytes32 seed,uint256 fee,uint64 deadline)"
)
_TASK_INFO = _type_hash(
    "TaskInfo(bytes32 taskId,string proofOfTask,bytes data,address taskPerformer,uint16 taskDefinitionId,uint32 epoch)"
)
_VOTE = _type_hash("Vote(bytes32 taskInfoHash,uint8 verdict)")
_BATCH = _type_hash("Batch(bytes32 root,bytes32 contentHash,uint32 size,uint32 epoch,address aggregator)")
_PROMISE = _type_hash("Promise(bytes32 taskId)")
_CONSENT = _type_hash("Consent(address operator,address owner)")
_ALLOWANCE = _type_hash("Allowance(address operator,uint256 nonce,uint64 expiry)")
_CANCEL_SLASH = _type_hash("CancelSlash(bytes32 slashId)")
_OVERRULE_VETO = _type_hash("OverruleVeto(bytes32 slashId)")
_KEY_POSSESSION = _type_hash("KeyPossession(address operator,bytes32 keyHash)")


@dataclass(frozen=True, slots=True)
class Domain:
    """Where signatures are valid: one chain, one verifying contract."""

    chain_id: int
    contract: Address
    separator: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        values = (_DOMAIN, keccak(text=NAME), keccak(text=VERSION), self.chain_id, self.contract)
        encoded = encode(["bytes32", "bytes32", "bytes32", "uint256", "address"], values)
        object.__setattr__(self, "separator", keccak(encoded))

    def task_id(self, request: TaskRequest) -> Digest:
        """What the requester signs."""
        types = ["bytes32", "address", "uint256", "address", "uint16", "bytes32", "bytes32", "bytes32", "bytes32"]
        values = (
            _TASK_REQUEST,
            request.requester,
            request.nonce,
            request.performer,
            request.task_definition_id,
            request.model_hash,
            keccak(text=request.input_cid),
            keccak(text=request.parameters),
            request.seed,
            request.fee,
            request.deadline,
        )
        return self._digest(encode([*types, "uint256", "uint64"], values))

    def task_info_hash(self, info: TaskInfo) -> Digest:
        """What the performer signs."""
        values = (
            _TASK_INFO,
            info.task_id,
            keccak(text=info.proof_of_task),
            keccak(info.data),
            info.task_performer,
            info.task_definition_id,
            info.epoch,
        )
        return self._digest(encode(["bytes32", "bytes32", "bytes32", "bytes32", "address", "uint16", "uint32"], values))

    def vote(self, task_info_hash: Digest, verdict: Verdict) -> Digest:
        """What an attester signs. Raises ValueError for an abstention: nobody signs those."""
        if verdict not in (Verdict.VALID, Verdict.INVALID):
            raise ValueError(f"a vote is valid or invalid, not {verdict!r}")
        return self._digest(encode(["bytes32", "bytes32", "uint8"], (_VOTE, task_info_hash, int(verdict))))

    def batch(self, batch: BatchInfo) -> Digest:
        """What attesters sign in the second round."""
        types = ["bytes32", "bytes32", "bytes32", "uint32", "uint32", "address"]
        values = (_BATCH, batch.root, batch.content_hash, batch.size, batch.epoch, batch.aggregator)
        return self._digest(encode(types, values))

    def key_possession(self, operator: Address, vote_key: bytes) -> Digest:
        """What a vote key signs once; `contract` must be the EpochTables."""
        values = (_KEY_POSSESSION, operator, keccak(vote_key))
        return self._digest(encode(["bytes32", "address", "bytes32"], values))

    def promise(self, task_id: Digest) -> Digest:
        """What a performer signs to accept a request and its deadline."""
        return self._digest(encode(["bytes32", "bytes32"], (_PROMISE, task_id)))

    def consent(self, operator: Address, owner: Address) -> Digest:
        """What an operator signs to be registered by `owner`; `contract` must be the OperatorRegistry."""
        return self._digest(encode(["bytes32", "address", "address"], (_CONSENT, operator, owner)))

    def allowance(self, operator: Address, nonce: int, expiry: int) -> Digest:
        """What the allow-list's signer signs; `contract` must be the OperatorRegistry."""
        values = (_ALLOWANCE, operator, nonce, expiry)
        return self._digest(encode(["bytes32", "address", "uint256", "uint64"], values))

    def cancel_slash(self, slash_id: Digest) -> Digest:
        """What attesters sign to call a slash off; `contract` must be the SlashingCourt."""
        return self._digest(encode(["bytes32", "bytes32"], (_CANCEL_SLASH, slash_id)))

    def overrule_veto(self, slash_id: Digest) -> Digest:
        """What attesters sign to take a veto back; `contract` must be the SlashingCourt."""
        return self._digest(encode(["bytes32", "bytes32"], (_OVERRULE_VETO, slash_id)))

    def _digest(self, encoded_struct: bytes) -> Digest:
        return Digest(keccak(b"\x19\x01" + self.separator + keccak(encoded_struct)))


def leaf(task_id: Digest, task_info_hash: Digest, is_approved: bool, voters_hash: Digest) -> bytes:
    """A certificate's leaf in a batch, hashed twice as OpenZeppelin's standard tree does (protocol §8.1).
    `voters_hash` is that of `shared.indices`."""
    values = (task_id, task_info_hash, is_approved, voters_hash)
    return keccak(keccak(encode(["bytes32", "bytes32", "bool", "bytes32"], values)))


def slash_id_of(offence: Offence, task_id: Digest, operator: Address) -> Digest:
    """An operator answers once for each kind of offence on a task; `SlashingCourt.slashIdOf`."""
    return Digest(keccak(encode(["uint8", "bytes32", "address"], (int(offence), task_id, operator))))
