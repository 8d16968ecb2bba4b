"""The gossip checks of protocol §4: for each topic the honest message, each fault with its exact ruling, and each pair
of faults with the ruling of the earlier check."""

from __future__ import annotations

from itertools import combinations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import constants, messages
from shared.crypto import bls
from shared.crypto.keystore import NodeKeys
from shared.errors import Ignore, Reject
from shared.reasons import AbstainReason
from shared.types import BatchInfo, Role, Verdict
from shared.validation import check_bounds, is_canonical_cid
from tests.builders import (
    AGGREGATOR,
    ATTESTERS,
    EPOCH,
    NOW,
    OPERATORS,
    PERFORMER,
    REQUESTER,
    STRANGER,
    abstention,
    batch_proposal,
    batch_vote,
    certificate,
    certificate_message,
    certificate_of,
    cid_of,
    high_s,
    operator_of,
    replace,
    request,
    roster_of,
    ruling,
    sha,
    submitted,
    task_info,
    task_message,
    vote,
)
from tests.gossip_faults import FAULTS, MAKERS, RIVAL, ROSTER, TOPIC_OF, Changes, Node, Ruling, merged, verdict_on


@pytest.mark.parametrize("tag", FAULTS)
def test_the_honest_message_is_accepted(tag: str) -> None:
    assert verdict_on(tag, {}) is None


@pytest.mark.parametrize(("tag", "name"), [(tag, fault[0]) for tag, faults in FAULTS.items() for fault in faults])
def test_each_fault_has_its_ruling(tag: str, name: str) -> None:
    ((expected, changes),) = [fault[1:] for fault in FAULTS[tag] if fault[0] == name]
    assert verdict_on(tag, changes) == expected


@pytest.mark.parametrize("tag", FAULTS)
def test_of_two_faults_the_earlier_rules(tag: str) -> None:
    rulings = {
        f"{first[0]} + {second[0]}": (verdict_on(tag, merged(first[2], second[2])), first[1])
        for first, second in combinations(FAULTS[tag], 2)
    }
    assert {pair: found for pair, (found, expected) in rulings.items() if found != expected} == {}


# --- all topics ----------------------------------------------------------------------------------
LIMITS = {
    "task": constants.MAX_TASK_MESSAGE_BYTES,
    "vote": constants.MAX_VOTE_MESSAGE_BYTES,
    "certificate": constants.MAX_CERTIFICATE_MESSAGE_BYTES,
    "batch": constants.MAX_BATCH_MESSAGE_BYTES,
}


@pytest.mark.parametrize("topic", LIMITS)
@pytest.mark.parametrize("origin", [PERFORMER, ATTESTERS[0], AGGREGATOR, STRANGER], ids=["p", "at", "agg", "stranger"])
def test_what_cannot_be_decoded_is_rejected_whoever_sent_it(topic: str, origin: NodeKeys) -> None:
    limit = LIMITS[topic]
    for data, said in (
        (b"", "truncated"),
        (b"\xc1", "not decodable"),
        (bytes(limit + 1), f"over the limit of {limit}"),
    ):
        found = Node().bytes_of(topic, origin, data)
        assert found is not None
        assert found[0] is Reject
        assert found[1].startswith("not decodable: ")
        assert said in found[1]


@pytest.mark.parametrize("tag", FAULTS)
def test_only_the_role_of_the_topic_publishes_there(tag: str) -> None:
    honest, message = MAKERS[tag]({})
    expected = FAULTS[tag][0][1]
    assert expected[0] is Ignore
    for origin in (PERFORMER, ATTESTERS[0], AGGREGATOR, STRANGER, REQUESTER):
        assert Node().hears(origin, message) == (None if origin is honest else expected)


def test_one_operator_may_have_all_roles() -> None:
    everything = operator_of(PERFORMER, Role.PERFORMER | Role.ATTESTER | Role.AGGREGATOR)
    node = Node(roster=roster_of([everything, *OPERATORS[1:]]))
    for message, expected in (
        (task_message(), None),
        (vote(), (Reject, "attester")),  # its own would be ignored: it is in no table
        (certificate_message(), None),
        (batch_proposal(), (Reject, "aggregator")),
    ):
        assert node.hears(PERFORMER, message) == expected


@pytest.mark.parametrize("epoch", [EPOCH - 1, EPOCH])
def test_the_current_and_the_previous_epoch_are_valid(epoch: int) -> None:
    node, info = Node(), task_info(epoch=epoch)
    assert node.hears(PERFORMER, task_message(info=info)) is None
    assert node.hears(ATTESTERS[0], vote(info=info)) is None
    assert node.hears(ATTESTERS[0], abstention(info=info)) is None
    assert node.hears(AGGREGATOR, certificate_message(certificate(info))) is None
    assert node.hears(AGGREGATOR, replace(batch_proposal(), epoch=epoch)) is None
    assert (
        node.hears(ATTESTERS[0], batch_vote(batch=BatchInfo(sha("r"), sha("c"), 1, epoch, AGGREGATOR.address))) is None
    )


@pytest.mark.parametrize("epoch", [0, EPOCH - 2, EPOCH + 1, 2**32 - 1])
def test_no_other_epoch_is(epoch: int) -> None:
    node, info, unknown = Node(), task_info(epoch=epoch), (Ignore, "unknown epoch")
    assert node.hears(PERFORMER, task_message(info=info)) == unknown
    assert node.hears(ATTESTERS[0], vote(info=info)) == unknown
    assert node.hears(ATTESTERS[0], abstention(info=info)) == unknown
    assert node.hears(AGGREGATOR, certificate_message(certificate(info))) == unknown
    assert node.hears(AGGREGATOR, replace(batch_proposal(), epoch=epoch)) == unknown


def test_the_roster_of_the_moment_counts() -> None:
    """Rules are asked for years; the chain goes on meanwhile."""
    node = Node()
    assert node.hears(ATTESTERS[0], vote()) is None
    node.roster = roster_of(tables=[replace(table, epoch=table.epoch + 2) for table in ROSTER.tables.values()])
    assert node.hears(ATTESTERS[1], vote(1)) == (Ignore, "unknown epoch")
    node.roster = roster_of(operators=())
    assert node.hears(ATTESTERS[1], vote(1)) == (Ignore, "origin is not a registered attester")


# --- task messages -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"origin": RIVAL}, (Reject, "performer")),
        ({"request": {"performer": RIVAL.address}}, (Reject, "performer")),
        (
            {"request": {"performer": RIVAL.address}, "info": {"task_performer": PERFORMER.address}},
            (Reject, "performer"),
        ),
        ({"info": {"task_definition_id": 4}}, (Reject, "task id")),
        ({"info": {"proof_of_task": cid_of("proof").upper()}}, (Reject, "CID")),
        ({"info": {"proof_of_task": f"ipfs://{cid_of('proof')}"}}, (Reject, "CID")),
        ({"request": {"input_cid": "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH"}}, (Reject, "CID")),
        ({"request": {"input_cid": ""}}, (Reject, "CID")),
        ({"content": {"cid": cid_of("other")}}, (Reject, "content of another CID or profile")),
        ({"content": {"profile": "unixfs-v0-2015"}}, (Reject, "content of another CID or profile")),
        ({"content": {"size": -1}}, (Reject, "content size")),
        ({"content": {"eigenda": bytes(8193)}}, (Reject, "content size")),
        ({"content": {"sources": ("http://a",) * 9}}, (Reject, "content sources")),
        ({"content": {"sources": ("http://" + "a" * 250,)}}, (Reject, "content sources")),
        ({"request": {"parameters": "é" * 2049}}, (Reject, "parameters size")),
        ({"message": {"requester_signature": b""}}, (Reject, "requester's signature")),
        ({"message": {"requester_signature": bytes(65)}}, (Reject, "requester's signature")),
        (
            {"message": {"requester_signature": high_s(task_message().requester_signature)}},
            (Reject, "requester's signature"),
        ),
        (
            {"message": {"performer_signature": high_s(task_message().performer_signature)}},
            (Reject, "performer's signature"),
        ),
        ({"message": {"performer_signature": task_message().requester_signature}}, (Reject, "performer's signature")),
    ],
)
def test_more_faults_of_a_task(changes: Changes, expected: Ruling) -> None:
    assert verdict_on("task", changes) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-(2**30), (Ignore, "deadline")),
        (0, (Ignore, "deadline")),
        (1, None),
        (constants.MAX_DEADLINE_SECONDS, None),
        (constants.MAX_DEADLINE_SECONDS + 1, (Ignore, "deadline")),
        (2**63, (Ignore, "deadline")),
    ],
)
def test_deadlines(seconds: int, expected: Ruling | None) -> None:
    assert verdict_on("task", {"request": {"deadline": int(NOW) + seconds}}) == expected


def test_limits_are_inclusive() -> None:
    assert verdict_on("task", {"request": {"parameters": "p" * 4096}, "info": {"data": bytes(4096)}}) is None
    most = {"size": 2**63 - 1, "eigenda": bytes(8192), "sources": ("http://" + "a" * 249,) * 8}
    assert verdict_on("task", {"content": most}) is None
    assert ruling(check_bounds, request(parameters="é" * 2048)) is None
    assert ruling(check_bounds, request(parameters="é" * 2048 + "e")) == (Reject, "parameters size")
    assert ruling(check_bounds, request(), bytes(4097)) == (Reject, "data size")


def test_canonical_cids() -> None:
    assert is_canonical_cid(cid_of("x"))
    for text in ("", "x", cid_of("x")[:-1], cid_of("x") + "a", cid_of("x").upper(), "Qm" + "a" * 44, "b" + "a" * 58):
        assert not is_canonical_cid(text)


# --- votes ---------------------------------------------------------------------------------------
def test_the_signature_of_a_vote_is_not_looked_at_here() -> None:
    """It is the aggregator's to verify before it counts: a pairing for each vote at each node would be too dear."""
    assert verdict_on("vote", {"message": {"signature": bytes(96)}}) is None
    assert verdict_on("batch_vote", {"message": {"signature": bytes(96)}}) is None


def test_what_an_aggregator_must_hear_is_no_repetition() -> None:
    """The other verdict, another task info, and an abstention for a new reason: all within the same second."""
    node, other_info = Node(), task_info(data=b"another")
    reasons = [abstention(reason=reason) for reason in AbstainReason]
    for message in (vote(), vote(verdict=Verdict.INVALID), vote(info=other_info), *reasons):
        assert node.hears(ATTESTERS[0], message) is None
    for message in (vote(), vote(verdict=Verdict.INVALID), vote(info=other_info), *reasons):
        assert node.hears(ATTESTERS[0], message) == (Ignore, "repeated")


def test_every_attester_is_heard() -> None:
    node = Node()
    for index, keys in enumerate(ATTESTERS):
        assert node.hears(keys, vote(index)) is None
        assert node.hears(keys, batch_vote(index)) is None


# --- certificates --------------------------------------------------------------------------------
@pytest.mark.parametrize("signers", [(), (0, 0, 1, 2), (2, 1, 0), (0, 1, 2, 1040), (-1, 0, 1, 2), (2**64 - 1,)])
def test_signers_of_a_wrong_form(signers: tuple[int, ...]) -> None:
    assert verdict_on("certificate", {"message": {"signers": signers}}) == (Reject, "signers")
    # Of a form that no table could have, and so before its epoch is looked at.
    changes = {"message": {"signers": signers}, "info": {"epoch": EPOCH + 1}}
    assert verdict_on("certificate", changes) == (Reject, "signers")


def test_other_certificates_of_a_task_are_no_repetition() -> None:
    node = Node()
    for made in (certificate(), certificate(signers=(0, 1, 3)), certificate(verdict=Verdict.INVALID)):
        assert node.hears(AGGREGATOR, certificate_message(made)) is None
        assert node.hears(AGGREGATOR, certificate_message(made)) == (Ignore, "repeated")


def test_the_tally_beside_a_certificate_proves_nothing() -> None:
    """It is for people. Whoever copies a certificate with another tally repeats it."""
    node = Node()
    assert node.hears(AGGREGATOR, certificate_message()) is None
    again = replace(certificate_message(), valid_power=0, invalid_power=2**64 - 1)
    assert node.hears(RIVAL, again) == (Ignore, "repeated")


def test_any_aggregator_may_pass_on_a_certificate() -> None:
    assert Node().hears(RIVAL, certificate_message()) is None


def test_a_hint_may_be_repeated() -> None:
    node = Node()
    for _ in range(3):
        assert node.hears(AGGREGATOR, submitted(sha("task"))) is None
    assert node.hears(AGGREGATOR, submitted()) is None
    assert node.hears(AGGREGATOR, submitted(*[sha("task")] * 128)) is None


# --- batches -------------------------------------------------------------------------------------
def test_the_size_of_a_proposal() -> None:
    one = certificate()
    for count, expected in ((0, (Reject, "batch size")), (1, None), (128, None), (129, (Reject, "batch size"))):
        assert verdict_on("batch_proposal", {"message": {"certificates": (one,) * count}}) == expected


def test_certificates_of_a_proposal_are_checked_by_who_signs_it() -> None:
    """128 pairings would hold up every message behind them; a shape that could harm is refused all the same."""
    worthless = replace(certificate(), signature=bytes(96), signers=(3,))
    assert verdict_on("batch_proposal", {"message": {"certificates": (worthless,)}}) is None
    deformed = replace(certificate(), signers=tuple(range(1041)))
    found = verdict_on("batch_proposal", {"message": {"certificates": (deformed,)}})
    assert found == (Reject, "not decodable: signers: at most 1040, got 1041")


# --- hostile bytes -------------------------------------------------------------------------------
@given(topic=st.sampled_from(sorted(LIMITS)), data=st.binary(max_size=200))
def test_any_bytes_are_rejected(topic: str, data: bytes) -> None:
    found = Node().bytes_of(topic, AGGREGATOR, data)
    assert found is not None
    assert found[0] is Reject


values = (
    st.integers(0, 2**32)
    | st.binary(max_size=40)
    | st.sampled_from([bytes(20), bytes(32), bytes(65), bytes(96), b"\xff" * 65, b"\xff" * 96, "", "é" * 3000, []])
    | st.lists(st.integers(0, 200), max_size=130)
)


@pytest.mark.parametrize("tag", FAULTS)
@settings(max_examples=60)
@given(data=st.data())
def test_any_value_in_any_field_is_accepted_ignored_or_rejected(tag: str, data: st.DataObject) -> None:
    origin, message = MAKERS[tag]({})
    fields = msgspec.msgpack.decode(messages.encode(message))
    place, name = fields, data.draw(st.sampled_from(sorted(set(fields) - {"type"})))
    while isinstance(place[name], dict):
        place = place[name]
        name = data.draw(st.sampled_from(sorted(place)))
    place[name] = data.draw(values)
    Node().bytes_of(TOPIC_OF[type(message)], origin, msgspec.msgpack.encode(fields))


def test_an_aggregate_of_malformed_points_is_rejected() -> None:
    for point in (bytes(96), b"\xff" * 96, b"\xc0" + bytes(95), bytes(95) + b"\x01"):
        assert len(point) == bls.G1_BYTES
        assert verdict_on("certificate", {"message": {"signature": point}}) == (Reject, "aggregate signature")


def test_two_tasks_are_two_tasks() -> None:
    node = Node()
    for nonce in range(5):
        assert node.hears(PERFORMER, task_message(request(nonce))) is None
        assert node.hears(AGGREGATOR, certificate_message(certificate_of(nonce))) is None
