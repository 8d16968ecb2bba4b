"""digests.json: protocol §2 by eth-account's own reading of EIP-712, which knows nothing of our code."""

from __future__ import annotations

import hashlib
from typing import Any

from eth_account.messages import SignableMessage, encode_typed_data
from eth_utils.crypto import keccak
from vector_json import Json, hexed

CHAIN_ID = 31337  # forge's and anvil's own
MAX_DATA_BYTES = 4096

TYPES: dict[str, list[dict[str, str]]] = {
    "TaskRequest": [
        {"name": "requester", "type": "address"},
        {"name": "nonce", "type": "uint256"},
        {"name": "performer", "type": "address"},
        {"name": "taskDefinitionId", "type": "uint16"},
        {"name": "modelHash", "type": "bytes32"},
        {"name": "inputCid", "type": "string"},
        {"name": "parameters", "type": "string"},
        {"name": "seed", "type": "bytes32"},
        {"name": "fee", "type": "uint256"},
        {"name": "deadline", "type": "uint64"},
    ],
    "TaskInfo": [
        {"name": "taskId", "type": "bytes32"},
        {"name": "proofOfTask", "type": "string"},
        {"name": "data", "type": "bytes"},
        {"name": "taskPerformer", "type": "address"},
        {"name": "taskDefinitionId", "type": "uint16"},
        {"name": "epoch", "type": "uint32"},
    ],
    "Vote": [{"name": "taskInfoHash", "type": "bytes32"}, {"name": "verdict", "type": "uint8"}],
    "Batch": [
        {"name": "root", "type": "bytes32"},
        {"name": "contentHash", "type": "bytes32"},
        {"name": "size", "type": "uint32"},
        {"name": "epoch", "type": "uint32"},
        {"name": "aggregator", "type": "address"},
    ],
    "Promise": [{"name": "taskId", "type": "bytes32"}],
    "KeyPossession": [{"name": "operator", "type": "address"}, {"name": "keyHash", "type": "bytes32"}],
    "Consent": [{"name": "operator", "type": "address"}, {"name": "owner", "type": "address"}],
    "Allowance": [
        {"name": "operator", "type": "address"},
        {"name": "nonce", "type": "uint256"},
        {"name": "expiry", "type": "uint64"},
    ],
    "CancelSlash": [{"name": "slashId", "type": "bytes32"}],
    "OverruleVeto": [{"name": "slashId", "type": "bytes32"}],
}
CID = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"

Values = dict[str, Any]


def digest(primary: str, values: Values, contract: bytes, chain_id: int = CHAIN_ID) -> bytes:
    """keccak256(0x1901 ‖ domain separator ‖ struct hash); `contract` is the 20-byte verifying contract."""
    signable = _signable(primary, values, contract, chain_id)
    return keccak(b"".join((b"\x19", *signable)))


def domain_separator(contract: bytes) -> bytes:
    return bytes(_signable("Vote", {"taskInfoHash": bytes(32), "verdict": 0}, contract, CHAIN_ID).header)


def _signable(primary: str, values: Values, contract: bytes, chain_id: int) -> SignableMessage:
    domain = {
        "name": "ProofOfInference",
        "version": "1",
        "chainId": chain_id,
        "verifyingContract": hexed(contract),
    }
    return encode_typed_data(domain, {primary: TYPES[primary]}, values)


def digest_vectors(contracts: dict[str, bytes]) -> Json:
    """Ordinary values, empty ones, and the largest that each field holds. `contracts` has the address of each contract
    that is a domain."""
    tables, registry, center, court = (contracts[name] for name in ("tables", "registry", "center", "court"))
    cases = {
        "taskRequests": ("TaskRequest", _task_requests(), center),
        "taskInfos": ("TaskInfo", _task_infos(), center),
        "votes": ("Vote", [{"taskInfoHash": _hash("info"), "verdict": v} for v in (1, 2)], center),
        "batches": ("Batch", _batches(), center),
        "promises": ("Promise", [{"taskId": _hash("task")}, {"taskId": bytes(32)}], center),
        "possessions": ("KeyPossession", [{"operator": _address("o"), "keyHash": _hash("key")}], tables),
        "consents": ("Consent", _consents(), registry),
        "allowances": ("Allowance", _allowances(), registry),
        "cancelSlashes": ("CancelSlash", [{"slashId": _hash("slash")}], court),
        "overruleVetoes": ("OverruleVeto", [{"slashId": _hash("slash")}], court),
    }
    vectors: dict[str, Json] = {"chainId": str(CHAIN_ID)}
    for name, contract in contracts.items():
        vectors[name] = hexed(contract)
        vectors[f"{name}DomainSeparator"] = hexed(domain_separator(contract))
    for kind, (primary, values, contract) in cases.items():
        vectors[kind] = [in_json(entry) | {"digest": hexed(digest(primary, entry, contract))} for entry in values]
    return vectors


def in_json(values: Values) -> dict[str, Json]:
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Json:
    if isinstance(value, bytes):
        return hexed(value)
    if isinstance(value, dict):
        return in_json(value)
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return value if isinstance(value, str | bool) else str(value)


def _task_requests() -> list[Values]:
    ordinary = {
        "requester": _address("requester"),
        "nonce": 7,
        "performer": _address("performer"),
        "taskDefinitionId": 0,
        "modelHash": _hash("model"),
        "inputCid": CID,
        "parameters": '{"max_tokens":64,"temperature":0,"top_k":1}',
        "seed": _hash("seed"),
        "fee": 0,
        "deadline": 1_900_000_000,
    }
    empty = ordinary | {"nonce": 0, "inputCid": "", "parameters": "", "seed": bytes(32), "deadline": 0}
    largest = ordinary | {
        "nonce": 2**256 - 1,
        "taskDefinitionId": 2**16 - 1,
        "parameters": '{"prompt":"größer als ≥ 字"}',
        "fee": 2**256 - 1,
        "deadline": 2**64 - 1,
    }
    return [ordinary, ordinary | {"nonce": 8}, empty, largest]


def _task_infos() -> list[Values]:
    ordinary = {
        "taskId": _hash("task"),
        "proofOfTask": CID,
        "data": (3).to_bytes(32, "big"),
        "taskPerformer": _address("performer"),
        "taskDefinitionId": 0,
        "epoch": 1,
    }
    empty = ordinary | {"proofOfTask": "", "data": b"", "epoch": 0}
    largest = ordinary | {
        "data": bytes(i % 251 for i in range(MAX_DATA_BYTES)),
        "taskDefinitionId": 2**16 - 1,
        "epoch": 2**32 - 1,
    }
    return [ordinary, empty, largest]


def _batches() -> list[Values]:
    ordinary = {
        "root": _hash("root"),
        "contentHash": _hash("document"),
        "size": 16,
        "epoch": 1,
        "aggregator": _address("aggregator"),
    }
    return [ordinary, ordinary | {"size": 2**32 - 1, "epoch": 2**32 - 1}, ordinary | {"contentHash": bytes(32)}]


def _consents() -> list[Values]:
    ordinary = {"operator": _address("operator"), "owner": _address("owner")}
    return [ordinary, {"operator": ordinary["owner"], "owner": ordinary["operator"]}]


def _allowances() -> list[Values]:
    ordinary = {"operator": _address("operator"), "nonce": 7, "expiry": 1_900_000_000}
    return [ordinary, ordinary | {"nonce": 0, "expiry": 0}, ordinary | {"nonce": 2**256 - 1, "expiry": 2**64 - 1}]


def _hash(label: str) -> bytes:
    return hashlib.sha256(label.encode()).digest()


def _address(label: str) -> bytes:
    return _hash(label)[:20]
