"""`verify_certificate`: what a strict quorum signed passes; each kind of liar is refused by the rule that it breaks."""

from __future__ import annotations

from typing import Any

import pytest

from shared.crypto import bls
from shared.digests import Domain
from shared.errors import GossipRuling, Ignore, Reject
from shared.indices import indices_of, voters_hash
from shared.roster import Roster
from shared.types import Address, Cid, Digest, OperatorTable, TableEntry, TaskCertificate, TaskInfo, Verdict
from shared.validation import verify_certificate
from tests.builders import (
    APPROVING,
    ATTESTERS,
    DOMAIN,
    EPOCH,
    EVERYBODY,
    ONE_THIRD,
    PERFORMER,
    REJECTING,
    REQUESTER,
    STRANGER,
    TABLE,
    TWO_THIRDS,
    certificate,
    high_s,
    keys_of,
    replace,
    request,
    ruling,
    sha,
    table_of,
    task_info,
)
from tests.vector_files import unhex, vectors

VALID, INVALID = Verdict.VALID, Verdict.INVALID
OTHER_CHAIN, OTHER_CONTRACT = Domain(1, DOMAIN.contract), Domain(31337, Address(b"\x01" * 20))


def verdict_on(
    made: TaskCertificate, table: OperatorTable = TABLE, domain: Domain = DOMAIN
) -> tuple[type[GossipRuling], str] | None:
    return ruling(verify_certificate, domain, table, made)


# --- honest --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("verdict", "signers"),
    [
        (VALID, APPROVING),
        (VALID, (0, 1, 3)),
        (VALID, EVERYBODY),
        (INVALID, REJECTING),
        (INVALID, (1, 2, 3)),
        (INVALID, EVERYBODY),
    ],
)
def test_what_a_strict_quorum_signed_is_a_certificate(verdict: Verdict, signers: tuple[int, ...]) -> None:
    assert verdict_on(certificate(None, verdict, signers)) is None


def test_an_attester_of_all_power_decides_alone() -> None:
    table = table_of(powers=(0, 0, 1, 0))
    for verdict in (VALID, INVALID):
        assert verdict_on(certificate(None, verdict, (2,)), table) is None
        assert verdict_on(certificate(None, verdict, (0, 1, 3)), table) == (Reject, "signers")
        assert verdict_on(certificate(None, verdict, (0, 2)), table) == (Reject, "signers")


def test_the_largest_table() -> None:
    members = [keys_of(f"member {i}") for i in range(127)]
    table = table_of(members=members, powers=[2**57] * 127)
    for count, expected in ((85, None), (84, (Reject, "quorum"))):
        assert verdict_on(certificate(signers=range(42, 42 + count), members=members), table) == expected
    for count, expected in ((43, None), (42, (Reject, "quorum"))):
        assert verdict_on(certificate(None, INVALID, range(count), members=members), table) == expected


# --- the quorum's edges --------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("verdict", "signers"),
    [(VALID, TWO_THIRDS), (VALID, (0, 2, 3)), (VALID, (2, 3)), (INVALID, ONE_THIRD), (INVALID, (2, 3))],
)
def test_exactly_the_fraction_is_not_enough(verdict: Verdict, signers: tuple[int, ...]) -> None:
    assert verdict_on(certificate(None, verdict, signers)) == (Reject, "quorum")


def test_a_rejecting_minority_cannot_approve() -> None:
    assert verdict_on(certificate(None, INVALID, REJECTING)) is None
    assert verdict_on(certificate(None, VALID, REJECTING)) == (Reject, "quorum")


def test_nobody_certifies_in_a_table_without_power() -> None:
    for verdict in (VALID, INVALID):
        assert verdict_on(certificate(None, verdict, EVERYBODY), table_of(powers=(0,) * 4)) == (Reject, "signers")
    assert verdict_on(certificate(), OperatorTable(EPOCH, ())) == (Reject, "signers")


# --- liars ---------------------------------------------------------------------------------------
HONEST = certificate()
OTHER_TASK = certificate(task_info(request(2)))
SIGNED, UNPERFORMED = "aggregate signature", "performer's signature"
LIES: dict[str, tuple[TaskCertificate, str]] = {
    "no verdict": (replace(HONEST, verdict=Verdict.ABSTAIN), "verdict"),
    "an approval turned into a rejection": (replace(HONEST, verdict=INVALID), SIGNED),
    "a rejection turned into an approval": (replace(certificate(None, INVALID, EVERYBODY), verdict=VALID), SIGNED),
    "no signature": (replace(HONEST, signature=b""), "signature length"),
    "a short signature": (replace(HONEST, signature=HONEST.signature[:-1]), "signature length"),
    "a key for a signature": (replace(HONEST, signature=ATTESTERS[0].vote.public_key), "signature length"),
    "the signature at infinity": (replace(HONEST, signature=bytes(96)), SIGNED),
    "no point": (replace(HONEST, signature=b"\xff" * 96), SIGNED),
    "nobody signs": (replace(HONEST, signers=()), "signers"),
    "a signer twice": (replace(HONEST, signers=(0, 0, 1, 2)), "signers"),
    "a signer twice for the quorum": (replace(certificate(signers=TWO_THIRDS), signers=(0, 0, 1)), "signers"),
    "unsorted signers": (replace(HONEST, signers=(1, 0, 2)), "signers"),
    "a signer before the table": (replace(HONEST, signers=(-1, 0, 1, 2)), "signers"),
    "a signer behind the table": (replace(HONEST, signers=(0, 1, 2, 4)), "signers"),
    "a signer far behind": (replace(HONEST, signers=(0, 1, 2, 2**70)), "signers"),
    "a signer more than signed": (replace(HONEST, signers=EVERYBODY), SIGNED),
    "a signer less than signed": (replace(certificate(signers=EVERYBODY), signers=APPROVING), SIGNED),
    "another signer than signed": (replace(HONEST, signers=(0, 1, 3)), SIGNED),
    "votes on another task": (replace(HONEST, signature=OTHER_TASK.signature), SIGNED),
    "another task": (replace(HONEST, task_info=OTHER_TASK.task_info), UNPERFORMED),
    "another task, signed": (
        replace(OTHER_TASK, signature=HONEST.signature, performer_signature=OTHER_TASK.performer_signature),
        SIGNED,
    ),
    "other data": (replace(HONEST, task_info=task_info(data=b"\x04")), UNPERFORMED),
    "another proof": (replace(HONEST, task_info=task_info(proof_of_task=Cid("b"))), UNPERFORMED),
    "another epoch": (replace(HONEST, task_info=task_info(epoch=EPOCH - 1)), UNPERFORMED),
    "another performer": (
        replace(HONEST, task_info=task_info(task_performer=STRANGER.address)),
        UNPERFORMED,
    ),
    "not the performer's signature": (certificate(performer=REQUESTER), UNPERFORMED),
    "a mirrored signature": (
        replace(HONEST, performer_signature=high_s(HONEST.performer_signature)),
        UNPERFORMED,
    ),
    "no performer's signature": (replace(HONEST, performer_signature=b""), UNPERFORMED),
    "a performer of nobody": (
        replace(HONEST, task_info=task_info(task_performer=Address(bytes(20))), performer_signature=bytes(65)),
        UNPERFORMED,
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_breaks_its_rule(name: str) -> None:
    made, rule = LIES[name]
    assert verdict_on(made) == (Reject, rule)


def test_nothing_is_valid_on_another_chain_or_contract() -> None:
    for other in (OTHER_CHAIN, OTHER_CONTRACT):
        assert verdict_on(HONEST, domain=other) == (Reject, UNPERFORMED)
        info_hash = other.task_info_hash(HONEST.task_info)
        # Even when the performer signed there too, the votes are of here.
        again = replace(HONEST, performer_signature=PERFORMER.operator.sign(info_hash))
        assert verdict_on(again, domain=other) == (Reject, SIGNED)
        assert verdict_on(certificate(domain=other), domain=other) is None


def test_votes_under_the_possession_suite_are_none() -> None:
    digest = DOMAIN.vote(DOMAIN.task_info_hash(HONEST.task_info), VALID)
    shares = [ATTESTERS[index].vote.prove_possession(digest) for index in APPROVING]
    assert verdict_on(replace(HONEST, signature=bls.aggregate(shares))) == (Reject, SIGNED)


def test_another_epochs_table_is_no_use() -> None:
    """Same attesters in another order, another power, or another key at an index."""
    shuffled = table_of(members=(ATTESTERS[3], *ATTESTERS[:3]))
    assert verdict_on(HONEST, shuffled) == (Reject, SIGNED)
    assert verdict_on(HONEST, table_of(powers=(1, 1, 1, 2))) == (Reject, "quorum")
    replaced = table_of(members=(*ATTESTERS[:2], STRANGER, ATTESTERS[3]))
    assert verdict_on(HONEST, replaced) == (Reject, SIGNED)
    assert verdict_on(HONEST, table_of(members=ATTESTERS[:2], powers=(1, 1))) == (Reject, "signers")


# --- the vectors that forge reads ------------------------------------------------------------------
VECTORS = vectors("certificate.json")
CENTER = Domain(int(VECTORS["chainId"]), Address(unhex(VECTORS["center"])))


def vector_table(name: str, attester_set: int) -> OperatorTable:
    entries = tuple(
        TableEntry(Address(unhex(entry["operator"])), unhex(entry["voteKey"]), int(entry["power"]))
        for entry in VECTORS[name]
    )
    return OperatorTable(int(VECTORS["epoch"]), entries, attester_set)


VECTOR_TABLE, SET_TABLE = vector_table("table", 0), vector_table("setTable", 1)
CASES = {case["name"]: case for case in VECTORS["certificates"]}
# By the selector of the contract's error.
RULES: dict[str, tuple[type[GossipRuling], str] | None] = {
    "": None,
    "180590b9": (Reject, "quorum"),  # QuorumNotReached
    "9e35d934": (Reject, "signers"),  # IndexDuplicate
    "245ace5d": (Reject, "signers"),  # IndicesUnsorted
    "11befae4": (Reject, "signers"),  # IndexOutOfRange
    "a634018f": (Reject, "signers"),  # IndexWithoutPower
    "14073ede": (Reject, SIGNED),  # SignatureMismatch
    "421b07b2": (Reject, SIGNED),  # InfinitySignature
    "22ef7747": (Reject, SIGNED),  # InfinityAggregate
    "f382b45f": (Reject, SIGNED),  # MalformedSignature
    "0feddbc1": (Reject, "signature length"),  # SignatureLength
    "8d9be618": (Reject, UNPERFORMED),  # PerformerSignatureMismatch
    "7cc77d0e": (Ignore, "unknown epoch"),  # UnknownEpoch
}
# Whether performer and definition are registered, the contract says; and its approvals name the missing.
OTHER_RULES = {"a9d8e7cc", "a6b1d84b"}  # NotPerformer, UnknownTaskDefinition
OF_THE_MISSING = {"missing twice", "missing unsorted", "missing far out of range", "set: missing without power"}


def table_for(case: dict[str, Any]) -> OperatorTable:
    """Definition 1 has an attester set of its own."""
    return SET_TABLE if case["info"]["taskDefinitionId"] == "1" else VECTOR_TABLE


def from_vector(case: dict[str, Any]) -> TaskCertificate:
    info, details = case["info"], case["details"]
    indices = tuple(unhex(details["indices"]))
    everybody = [seat for seat, entry in enumerate(table_for(case).entries) if entry.power]
    return TaskCertificate(
        task_info=TaskInfo(
            task_id=Digest(unhex(info["taskId"])),
            proof_of_task=Cid(info["proofOfTask"]),
            data=unhex(info["data"]),
            task_performer=Address(unhex(info["taskPerformer"])),
            task_definition_id=int(info["taskDefinitionId"]),
            epoch=int(info["epoch"]),
        ),
        verdict=VALID if details["isApproved"] else INVALID,
        signers=tuple(i for i in everybody if i not in indices) if details["isApproved"] else indices,
        signature=unhex(details["taSignature"]),
        performer_signature=unhex(details["tpSignature"]),
    )


def as_a_node(table: OperatorTable, made: TaskCertificate) -> None:
    roster = Roster(epoch=1, operators=(), tables={table.epoch: table}, definitions={})
    verify_certificate(CENTER, roster.table(made.task_info.epoch), made)


@pytest.mark.parametrize("name", sorted(set(CASES) - OF_THE_MISSING))
def test_the_contract_and_the_nodes_agree(name: str) -> None:
    case = CASES[name]
    made, selector = from_vector(case), unhex(case["error"])[:4].hex()
    assert CENTER.task_info_hash(made.task_info) == unhex(case["infoHash"])
    expected = None if selector in OTHER_RULES else RULES[selector]
    if not made.signers:
        expected = (Reject, "signers")  # a cheaper reason for what has no quorum either
    assert ruling(as_a_node, table_for(case), made) == expected


@pytest.mark.parametrize("name", sorted(name for name, case in CASES.items() if case["error"] == "0x"))
def test_the_contract_and_the_nodes_hash_the_same_voters(name: str) -> None:
    case = CASES[name]
    table, made = table_for(case), from_vector(case)
    assert indices_of(made, table) == unhex(case["details"]["indices"])
    assert voters_hash(table, indices_of(made, table)) == unhex(case["votersHash"])


def test_the_vectors_have_every_kind() -> None:
    selectors = {unhex(case["error"])[:4].hex() for case in CASES.values()}
    assert selectors == set(RULES) | OTHER_RULES


@pytest.mark.parametrize("case", VECTORS["batches"], ids=lambda case: str(case["name"]))
def test_batch_votes_are_the_contracts(case: dict[str, Any]) -> None:
    """The pairing alone; quorum, size and epoch have their own tests."""
    missing = unhex(case["missing"])
    keys = [entry.vote_key for index, entry in enumerate(VECTOR_TABLE.entries) if index not in missing]
    is_signed = bls.verify_aggregate(keys, unhex(case["digest"]), unhex(case["signature"]))
    assert is_signed is (unhex(case["error"])[:4].hex() != "14073ede")


def test_sha_is_no_digest() -> None:
    # A certificate over a bare hash, as a signer of arbitrary bytes would make it, is none.
    shares = [ATTESTERS[index].vote.sign(sha("info")) for index in APPROVING]
    assert verdict_on(replace(HONEST, signature=bls.aggregate(shares))) == (Reject, SIGNED)
