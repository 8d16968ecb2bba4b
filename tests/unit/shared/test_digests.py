"""Digests are those of EIP-712: as eth-account makes them of the types in protocol §2, and as the vectors have them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from eth_account.messages import encode_typed_data
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from shared.digests import Domain, leaf
from shared.types import Address, BatchInfo, Cid, Digest, TaskInfo, TaskRequest, Uint256, Verdict
from tests.builders import DOMAIN, batch_vote, replace, request, sha, task_info
from tests.strategies import addresses, batches, domains, hashes, infos, requests
from tests.vector_files import unhex, vectors

SPECIFICATION = (Path(__file__).resolve().parents[3] / "docs" / "protocol.md").read_text()
VECTORS = vectors("digests.json")
TABLES, REGISTRY, CENTER, COURT = (
    Domain(int(VECTORS["chainId"]), Address(unhex(VECTORS[name]))) for name in ("tables", "registry", "center", "court")
)


# --- the oracle ----------------------------------------------------------------------------------
def specified_types(name: str) -> list[dict[str, str]]:
    """The struct's members, read from the specification."""
    (members,) = re.findall(rf"^{name}\((.*)\)$", SPECIFICATION, re.MULTILINE)
    return [dict(zip(("type", "name"), member.split(" "), strict=True)) for member in members.split(",")]


def oracle(domain: Domain, name: str, *values: Any) -> bytes:
    """What eth-account would have a wallet sign. Values are in the order of the struct's members."""
    members = specified_types(name)
    message = {member["name"]: value for member, value in zip(members, values, strict=True)}
    where = {
        "name": "ProofOfInference",
        "version": "1",
        "chainId": domain.chain_id,
        "verifyingContract": "0x" + domain.contract.hex(),
    }
    signable = encode_typed_data(where, {name: members}, message)
    return keccak(b"\x19" + signable.version + signable.header + signable.body)


def in_order(struct: Any) -> list[Any]:
    """Our fields are in the order of the specification's."""
    return [getattr(struct, field) for field in struct.__struct_fields__]


@given(domains, requests)
def test_a_task_id_is_what_a_wallet_signs(domain: Domain, request: TaskRequest) -> None:
    assert domain.task_id(request) == oracle(domain, "TaskRequest", *in_order(request))


@given(domains, infos)
def test_a_task_info_hash_is_what_a_wallet_signs(domain: Domain, info: TaskInfo) -> None:
    assert domain.task_info_hash(info) == oracle(domain, "TaskInfo", *in_order(info))


@given(domains, hashes, st.sampled_from([Verdict.VALID, Verdict.INVALID]))
def test_a_vote_is_what_a_wallet_signs(domain: Domain, info_hash: Digest, verdict: Verdict) -> None:
    assert domain.vote(info_hash, verdict) == oracle(domain, "Vote", info_hash, int(verdict))


@given(domains, batches)
def test_a_batch_is_what_a_wallet_signs(domain: Domain, batch: BatchInfo) -> None:
    assert domain.batch(batch) == oracle(domain, "Batch", *in_order(batch))


@given(domains, addresses, st.binary(min_size=192, max_size=192))
def test_a_possession_is_what_a_wallet_signs(domain: Domain, operator: Address, vote_key: bytes) -> None:
    assert domain.key_possession(operator, vote_key) == oracle(domain, "KeyPossession", operator, keccak(vote_key))


@given(domains, hashes)
def test_a_promise_is_what_a_wallet_signs(domain: Domain, task_id: Digest) -> None:
    assert domain.promise(task_id) == oracle(domain, "Promise", task_id)


@given(domains, addresses, addresses)
def test_a_consent_is_what_a_wallet_signs(domain: Domain, operator: Address, owner: Address) -> None:
    assert domain.consent(operator, owner) == oracle(domain, "Consent", operator, owner)


@given(domains, addresses, st.integers(0, 2**256 - 1), st.integers(0, 2**64 - 1))
def test_an_allowance_is_what_a_wallet_signs(domain: Domain, operator: Address, nonce: int, expiry: int) -> None:
    assert domain.allowance(operator, nonce, expiry) == oracle(domain, "Allowance", operator, nonce, expiry)


@given(domains, hashes)
def test_what_stops_a_slash_or_a_veto_is_what_a_wallet_signs(domain: Domain, slash_id: Digest) -> None:
    assert domain.cancel_slash(slash_id) == oracle(domain, "CancelSlash", slash_id)
    assert domain.overrule_veto(slash_id) == oracle(domain, "OverruleVeto", slash_id)


# --- the vectors that forge reads ------------------------------------------------------------------
def test_the_domains_are_the_contracts() -> None:
    for name, domain in (("tables", TABLES), ("registry", REGISTRY), ("center", CENTER), ("court", COURT)):
        assert domain.separator == unhex(VECTORS[f"{name}DomainSeparator"])
    assert len({TABLES.separator, REGISTRY.separator, CENTER.separator, COURT.separator}) == 4


@pytest.mark.parametrize("entry", VECTORS["taskRequests"])
def test_task_ids_are_the_contracts(entry: dict[str, str]) -> None:
    request = TaskRequest(
        requester=Address(unhex(entry["requester"])),
        nonce=Uint256(entry["nonce"]),
        performer=Address(unhex(entry["performer"])),
        task_definition_id=int(entry["taskDefinitionId"]),
        model_hash=Digest(unhex(entry["modelHash"])),
        input_cid=Cid(entry["inputCid"]),
        parameters=entry["parameters"],
        seed=Digest(unhex(entry["seed"])),
        fee=Uint256(entry["fee"]),
        deadline=int(entry["deadline"]),
    )
    assert CENTER.task_id(request) == unhex(entry["digest"])


@pytest.mark.parametrize("entry", VECTORS["taskInfos"])
def test_task_info_hashes_are_the_contracts(entry: dict[str, str]) -> None:
    info = TaskInfo(
        task_id=Digest(unhex(entry["taskId"])),
        proof_of_task=Cid(entry["proofOfTask"]),
        data=unhex(entry["data"]),
        task_performer=Address(unhex(entry["taskPerformer"])),
        task_definition_id=int(entry["taskDefinitionId"]),
        epoch=int(entry["epoch"]),
    )
    assert CENTER.task_info_hash(info) == unhex(entry["digest"])


def test_votes_and_batches_are_the_contracts() -> None:
    assert {int(entry["verdict"]) for entry in VECTORS["votes"]} == {1, 2}
    for entry in VECTORS["votes"]:
        info_hash = Digest(unhex(entry["taskInfoHash"]))
        assert CENTER.vote(info_hash, Verdict(int(entry["verdict"]))) == unhex(entry["digest"])
    for entry in VECTORS["batches"]:
        root, content_hash = Digest(unhex(entry["root"])), Digest(unhex(entry["contentHash"]))
        aggregator = Address(unhex(entry["aggregator"]))
        batch = BatchInfo(root, content_hash, int(entry["size"]), int(entry["epoch"]), aggregator)
        assert CENTER.batch(batch) == unhex(entry["digest"])


def test_possessions_are_the_contracts() -> None:
    curve = vectors("bls.json")
    keys = {entry["secret"]: unhex(entry["publicKey"]) for entry in curve["keys"]}
    for entry in curve["possessions"]:
        operator = Address(unhex(entry["operator"]))
        assert TABLES.key_possession(operator, keys[entry["secret"]]) == unhex(entry["digest"])


def test_promises_consents_and_allowances_are_the_contracts() -> None:
    for entry in VECTORS["promises"]:
        assert CENTER.promise(Digest(unhex(entry["taskId"]))) == unhex(entry["digest"])
    for entry in VECTORS["consents"]:
        operator, owner = Address(unhex(entry["operator"])), Address(unhex(entry["owner"]))
        assert REGISTRY.consent(operator, owner) == unhex(entry["digest"])
    for entry in VECTORS["allowances"]:
        operator, nonce, expiry = Address(unhex(entry["operator"])), int(entry["nonce"]), int(entry["expiry"])
        assert REGISTRY.allowance(operator, nonce, expiry) == unhex(entry["digest"])
    assert [len(VECTORS[kind]) for kind in ("promises", "consents", "allowances")] == [2, 2, 3]


def test_what_stops_a_slash_or_a_veto_is_the_contracts() -> None:
    (cancel,), (overrule,) = VECTORS["cancelSlashes"], VECTORS["overruleVetoes"]
    assert COURT.cancel_slash(Digest(unhex(cancel["slashId"]))) == unhex(cancel["digest"])
    assert COURT.overrule_veto(Digest(unhex(overrule["slashId"]))) == unhex(overrule["digest"])


# --- nothing replays -----------------------------------------------------------------------------
CHANGED_REQUEST: dict[str, Any] = {
    "requester": Address(b"\x01" * 20),
    "nonce": Uint256(2),
    "performer": Address(b"\x01" * 20),
    "task_definition_id": 4,
    "model_hash": sha("another model"),
    "input_cid": Cid("another"),
    "parameters": '{"top_k":1}',
    "seed": sha("another seed"),
    "fee": Uint256(1),
    "deadline": 1,
}
CHANGED_INFO: dict[str, Any] = {
    "task_id": sha("another task"),
    "proof_of_task": Cid("another"),
    "data": b"",
    "task_performer": Address(b"\x01" * 20),
    "task_definition_id": 4,
    "epoch": 8,
}
CHANGED_BATCH: dict[str, Any] = {
    "root": sha("another root"),
    "content_hash": sha("another document"),
    "size": 3,
    "epoch": 8,
    "aggregator": Address(b"\x01" * 20),
}


def test_every_field_is_signed() -> None:
    signed: list[tuple[Any, Callable[[Any], Digest], dict[str, Any]]] = [
        (request(), DOMAIN.task_id, CHANGED_REQUEST),
        (task_info(), DOMAIN.task_info_hash, CHANGED_INFO),
        (batch_vote().batch, DOMAIN.batch, CHANGED_BATCH),
    ]
    for struct, digest, changed in signed:
        assert set(changed) == set(struct.__struct_fields__)
        digests = {digest(replace(struct, **{name: value})) for name, value in changed.items()}
        assert len(digests | {digest(struct)}) == len(changed) + 1


@pytest.mark.parametrize("other", [Domain(31338, DOMAIN.contract), Domain(31337, Address(b"\x01" * 20))])
def test_nothing_is_valid_on_another_chain_or_contract(other: Domain) -> None:
    batch, info_hash = batch_vote().batch, sha("info")
    assert other.task_id(request()) != DOMAIN.task_id(request())
    assert other.task_info_hash(task_info()) != DOMAIN.task_info_hash(task_info())
    assert other.vote(info_hash, Verdict.VALID) != DOMAIN.vote(info_hash, Verdict.VALID)
    assert other.batch(batch) != DOMAIN.batch(batch)
    assert other.key_possession(batch.aggregator, b"key") != DOMAIN.key_possession(batch.aggregator, b"key")
    assert other.promise(info_hash) != DOMAIN.promise(info_hash)
    assert other.consent(batch.aggregator, batch.aggregator) != DOMAIN.consent(batch.aggregator, batch.aggregator)
    assert other.allowance(batch.aggregator, 1, 2) != DOMAIN.allowance(batch.aggregator, 1, 2)
    assert other.cancel_slash(info_hash) != DOMAIN.cancel_slash(info_hash)
    assert other.overrule_veto(info_hash) != DOMAIN.overrule_veto(info_hash)


def test_a_vote_cannot_be_turned_round() -> None:
    assert DOMAIN.vote(sha("info"), Verdict.VALID) != DOMAIN.vote(sha("info"), Verdict.INVALID)


def test_no_signature_serves_two_ends() -> None:
    """Each of these signs one 32-byte hash; what it is for is part of the digest."""
    one = sha("one")
    signed = {
        DOMAIN.promise(one),
        DOMAIN.cancel_slash(one),
        DOMAIN.overrule_veto(one),
        DOMAIN.vote(one, Verdict.VALID),
        DOMAIN.vote(one, Verdict.INVALID),
    }
    assert len(signed) == 5


def test_nobody_signs_an_abstention() -> None:
    with pytest.raises(ValueError, match="a vote is valid or invalid"):
        DOMAIN.vote(sha("info"), Verdict.ABSTAIN)


def test_a_leaf_says_which_verdict_and_whose() -> None:
    task_id, info_hash, voters = sha("task"), sha("info"), sha("voters")
    leaves = {
        leaf(task_id, info_hash, True, voters),
        leaf(task_id, info_hash, False, voters),
        leaf(info_hash, task_id, True, voters),
        leaf(task_id, info_hash, True, info_hash),
    }
    assert len(leaves) == 4
