"""The wire: round trips, limits before decoding, and no bytes at all that raise anything but `CodecError`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import constants, messages
from shared.digests import Domain
from shared.errors import CodecError
from shared.messages import Topics
from shared.reasons import AbstainReason
from shared.types import Address, Uint256
from tests.builders import (
    DOMAIN,
    abstention,
    batch_proposal,
    batch_vote,
    certificate,
    certificate_message,
    replace,
    request,
    sha,
    submitted,
    task_message,
    vote,
)

Decode = Callable[[bytes], Any]
HONEST: dict[str, tuple[Any, Decode]] = {
    "task": (task_message(), messages.decode_task),
    "vote": (vote(), messages.decode_vote),
    "abstain": (abstention(), messages.decode_vote),
    "certificate": (certificate_message(), messages.decode_certificate),
    "submitted": (submitted(sha("task")), messages.decode_certificate),
    "batch_proposal": (batch_proposal(), messages.decode_batch),
    "batch_vote": (batch_vote(), messages.decode_batch),
}
LIMITS: dict[Decode, int] = {
    messages.decode_task: constants.MAX_TASK_MESSAGE_BYTES,
    messages.decode_vote: constants.MAX_VOTE_MESSAGE_BYTES,
    messages.decode_certificate: constants.MAX_CERTIFICATE_MESSAGE_BYTES,
    messages.decode_batch: constants.MAX_BATCH_MESSAGE_BYTES,
}
DECODERS = [*LIMITS, messages.decode_stored_certificate]
TAGS = sorted(HONEST)
ARRAY_32, MAP_32, BIN_32, STR_32 = b"\xdd", b"\xdf", b"\xc6", b"\xdb"

pack = msgspec.msgpack.encode


def raw(tag: str) -> dict[str, Any]:
    """An honest message as the map that travels."""
    fields: dict[str, Any] = msgspec.msgpack.decode(messages.encode(HONEST[tag][0]))
    return fields


def refused(decode: Decode, data: bytes) -> str:
    """What the refusal says."""
    with pytest.raises(CodecError) as error:
        decode(data)
    return str(error.value)


# --- honest --------------------------------------------------------------------------------------
@pytest.mark.parametrize("tag", TAGS)
def test_a_message_arrives_as_it_was_sent(tag: str) -> None:
    message, decode = HONEST[tag]
    assert decode(messages.encode(message)) == message
    assert raw(tag)["type"] == tag


def test_integers_of_256_bits_travel() -> None:
    for nonce in (0, 2**64, 2**256 - 1):
        sent = task_message(request(nonce))
        received = messages.decode_task(messages.encode(sent))
        assert received.request.nonce == nonce
        assert DOMAIN.task_id(received.request) == sent.task_info.task_id


def test_every_reason_travels() -> None:
    for reason in AbstainReason:
        assert messages.decode_vote(messages.encode(abstention(reason=reason))) == abstention(reason=reason)


def test_a_stored_certificate_comes_back() -> None:
    assert messages.decode_stored_certificate(messages.encode_certificate(certificate())) == certificate()


def test_equal_values_may_have_other_bytes() -> None:
    """Which is why nothing is identified by hashing a message."""
    fields = raw("vote")
    data = messages.encode(vote())
    short, long = pack("epoch") + pack(fields["epoch"]), pack("epoch") + b"\xcf" + fields["epoch"].to_bytes(8, "big")
    assert data.count(short) == 1
    assert messages.decode_vote(data.replace(short, long)) == vote()


def test_the_largest_honest_messages_fit() -> None:
    asked = request(2**256 - 1, parameters="p" * constants.MAX_PARAMETERS_BYTES)
    task = task_message(asked)
    task = replace(task, task_info=replace(task.task_info, data=bytes(constants.MAX_DATA_BYTES)))
    everybody = replace(certificate(task.task_info), signers=tuple(range(constants.MAX_SEATS)))
    hundred = replace(everybody, signers=tuple(range(100)))
    ids = tuple(sha(str(i)) for i in range(constants.MAX_BATCH_SIZE))
    for message, decode in (
        (task, messages.decode_task),
        (replace(certificate_message(everybody), valid_power=2**64 - 1), messages.decode_certificate),
        (submitted(*ids), messages.decode_certificate),
        (batch_proposal(*[hundred] * constants.MAX_BATCH_SIZE), messages.decode_batch),
    ):
        assert decode(messages.encode(message)) == message
    longest = max(AbstainReason, key=len)
    for small in (abstention(reason=longest), replace(vote(), epoch=2**32 - 1)):
        assert 2 * len(messages.encode(small)) < constants.MAX_VOTE_MESSAGE_BYTES


# --- what is refused -----------------------------------------------------------------------------
@pytest.mark.parametrize("decode", LIMITS)
def test_the_size_comes_first(decode: Decode) -> None:
    limit = LIMITS[decode]
    assert refused(decode, bytes(limit + 1)) == f"message of {limit + 1} bytes is over the limit of {limit}"
    assert "limit" not in refused(decode, bytes(limit))


def test_a_message_of_the_limit_is_taken() -> None:
    room = constants.MAX_TASK_MESSAGE_BYTES - len(messages.encode(task_message(request(parameters="x" * 300))))
    full = task_message(request(parameters="x" * (300 + room)))
    assert len(messages.encode(full)) == constants.MAX_TASK_MESSAGE_BYTES
    assert messages.decode_task(messages.encode(full)) == full
    over = replace(full, requester_signature=full.requester_signature + b"\x00")
    assert "over the limit" in refused(messages.decode_task, messages.encode(over))


@pytest.mark.parametrize("tag", TAGS)
def test_unknown_fields_are_refused(tag: str) -> None:
    _, decode = HONEST[tag]
    assert "unknown field `more`" in refused(decode, pack({**raw(tag), "more": 1}))
    for name, value in raw(tag).items():
        if isinstance(value, dict):
            assert "unknown field `more`" in refused(decode, pack({**raw(tag), name: {**value, "more": 1}}))


@pytest.mark.parametrize("tag", TAGS)
def test_missing_fields_are_refused(tag: str) -> None:
    _, decode = HONEST[tag]
    for name in set(raw(tag)) - {"type"}:
        rest = {key: value for key, value in raw(tag).items() if key != name}
        assert f"missing required field `{name}`" in refused(decode, pack(rest))


@pytest.mark.parametrize("tag", TAGS)
def test_other_tags_are_refused(tag: str) -> None:
    _, decode = HONEST[tag]
    for other in ("", "Task", "votes", 1, None, b"vote"):
        refused(decode, pack({**raw(tag), "type": other}))
    for other in TAGS:
        if HONEST[other][1] is not decode:
            assert "Invalid value" in refused(decode, messages.encode(HONEST[other][0]))


@pytest.mark.parametrize("tag", sorted(set(TAGS) - {"task"}))
def test_a_message_without_a_tag_is_refused(tag: str) -> None:
    rest = {key: value for key, value in raw(tag).items() if key != "type"}
    assert "missing required field `type`" in refused(HONEST[tag][1], pack(rest))


@pytest.mark.parametrize("tag", TAGS)
def test_trailing_and_missing_bytes_are_refused(tag: str) -> None:
    message, decode = HONEST[tag]
    data = messages.encode(message)
    for more in (b"\x00", b"\xc0", data):
        assert "trailing" in refused(decode, data + more)
    for cut in {0, 1, len(data) // 2, len(data) - 1}:
        refused(decode, data[:cut])


@pytest.mark.parametrize("tag", TAGS)
def test_every_field_has_its_type(tag: str) -> None:
    _, decode = HONEST[tag]
    of_another_type: list[Any] = [None, True, 1.5, [], {}, [[]], -(2**63), "\x00" * 32]
    for name in raw(tag):
        for value in of_another_type:
            if not (name in ("task_ids", "certificates") and value == []):
                refused(decode, pack({**raw(tag), name: value}))


WRONG: dict[str, tuple[str, str, Any]] = {
    "task: requester of 19 bytes": ("task", "request.requester", bytes(19)),
    "task: requester of 21 bytes": ("task", "request.requester", bytes(21)),
    "task: performer of 0 bytes": ("task", "request.performer", b""),
    "task: model hash of 31 bytes": ("task", "request.model_hash", bytes(31)),
    "task: seed of 33 bytes": ("task", "request.seed", bytes(33)),
    "task: nonce as a plain integer": ("task", "request.nonce", 1),
    "task: nonce of 31 bytes": ("task", "request.nonce", bytes(31)),
    "task: nonce of 33 bytes": ("task", "request.nonce", bytes(33)),
    "task: nonce as text": ("task", "request.nonce", "1"),
    "task: fee as a negative integer": ("task", "request.fee", -1),
    "task: negative deadline": ("task", "request.deadline", -1),
    "task: definition of 17 bits": ("task", "request.task_definition_id", 2**16),
    "task: negative definition": ("task", "request.task_definition_id", -1),
    "task: task id of 31 bytes": ("task", "task_info.task_id", bytes(31)),
    "task: task performer of 21 bytes": ("task", "task_info.task_performer", bytes(21)),
    "task: epoch of 33 bits": ("task", "task_info.epoch", 2**32),
    "task: negative epoch": ("task", "task_info.epoch", -1),
    "task: signed definition of 17 bits": ("task", "task_info.task_definition_id", 2**16),
    "vote: task id of 33 bytes": ("vote", "task_id", bytes(33)),
    "vote: info hash of 0 bytes": ("vote", "task_info_hash", b""),
    "vote: attester of 19 bytes": ("vote", "attester", bytes(19)),
    "vote: epoch of 64 bits": ("vote", "epoch", 2**64 - 1),
    "vote: negative epoch": ("vote", "epoch", -1),
    "vote: evidence of 31 bytes": ("vote", "evidence", bytes(31)),
    "vote: evidence of 33 bytes": ("vote", "evidence", bytes(33)),
    "vote: no evidence": ("vote", "evidence", b""),
    "vote: verdict 3": ("vote", "verdict", 3),
    "vote: verdict -1": ("vote", "verdict", -1),
    "vote: verdict by name": ("vote", "verdict", "valid"),
    "abstain: unknown reason": ("abstain", "reason", "because"),
    "abstain: reason of an invalid vote": ("abstain", "reason", "scores_differ"),
    "abstain: attester of 32 bytes": ("abstain", "attester", bytes(32)),
    "abstain: epoch of 33 bits": ("abstain", "epoch", 2**32),
    "certificate: verdict 3": ("certificate", "certificate.verdict", 3),
    "certificate: 1041 signers": ("certificate", "certificate.signers", list(range(1041))),
    "certificate: signers by bytes": ("certificate", "certificate.signers", b"\x00\x01\x02"),
    "certificate: task id of 31 bytes": ("certificate", "certificate.task_info.task_id", bytes(31)),
    "certificate: epoch of 33 bits": ("certificate", "certificate.task_info.epoch", 2**32),
    "certificate: negative power": ("certificate", "valid_power", -1),
    "certificate: negative power against": ("certificate", "invalid_power", -1),
    "submitted: aggregator of 19 bytes": ("submitted", "aggregator", bytes(19)),
    "submitted: transaction of 31 bytes": ("submitted", "tx_hash", bytes(31)),
    "submitted: second id of 31 bytes": ("submitted", "task_ids", [bytes(32), bytes(31)]),
    "batch_proposal: epoch of 33 bits": ("batch_proposal", "epoch", 2**32),
    "batch_proposal: aggregator of 19 bytes": ("batch_proposal", "aggregator", bytes(19)),
    "batch_vote: root of 31 bytes": ("batch_vote", "batch.root", bytes(31)),
    "batch_vote: content hash of 33 bytes": ("batch_vote", "batch.content_hash", bytes(33)),
    "batch_vote: size of 33 bits": ("batch_vote", "batch.size", 2**32),
    "batch_vote: negative size": ("batch_vote", "batch.size", -1),
    "batch_vote: epoch of 33 bits": ("batch_vote", "batch.epoch", 2**32),
    "batch_vote: aggregator of 0 bytes": ("batch_vote", "batch.aggregator", b""),
    "batch_vote: attester of 21 bytes": ("batch_vote", "attester", bytes(21)),
}


@pytest.mark.parametrize("name", WRONG)
def test_lengths_and_ranges(name: str) -> None:
    tag, path, value = WRONG[name]
    *folders, last = path.split(".")
    fields = place = raw(tag)
    for folder in folders:
        place = place[folder]
    assert last in place
    place[last] = value
    assert last in refused(HONEST[tag][1], pack(fields))


def test_a_certificate_deep_in_a_batch_is_looked_at() -> None:
    for change in ({"task_id": b""}, {"epoch": -1}, {"task_performer": bytes(19)}):
        fields = raw("batch_proposal")
        fields["certificates"][1]["task_info"] |= change
        refused(messages.decode_batch, pack(fields))
    fields = raw("batch_proposal")
    fields["certificates"][1]["signers"] = list(range(1041))
    assert "signers: at most 1040, got 1041" in refused(messages.decode_batch, pack(fields))


def test_what_a_role_sends_is_never_out_of_range() -> None:
    for nonce in (-1, 2**256):
        with pytest.raises(OverflowError):
            messages.encode(replace(task_message(), request=replace(request(), nonce=Uint256(nonce))))


# --- hostile bytes -------------------------------------------------------------------------------
def survives(decode: Decode, data: bytes) -> None:
    """Decodes or refuses; whatever else it raises fails the test."""
    try:
        decode(data)
    except CodecError:
        return


@pytest.mark.parametrize("decode", DECODERS)
@given(data=st.binary(max_size=300))
def test_any_bytes(decode: Decode, data: bytes) -> None:
    survives(decode, data)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=33),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("tag", TAGS)
@given(data=st.data())
def test_any_value_in_any_field(tag: str, data: st.DataObject) -> None:
    fields = raw(tag)
    name = data.draw(st.sampled_from(sorted(fields)))
    place = fields
    while isinstance(place[name], dict):
        place = place[name]
        name = data.draw(st.sampled_from(sorted(place)))
    place[name] = data.draw(values)
    survives(HONEST[tag][1], pack(fields))


@pytest.mark.parametrize("tag", TAGS)
@given(data=st.data())
def test_any_byte_changed(tag: str, data: st.DataObject) -> None:
    message, decode = HONEST[tag]
    mutated = bytearray(messages.encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    survives(decode, bytes(mutated))


LENGTHS = (2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1)


@pytest.mark.parametrize(
    ("tag", "field"),
    [("submitted", "task_ids"), ("batch_proposal", "certificates"), ("certificate", "signers"), ("vote", "signature")],
)
def test_a_promised_length_costs_nothing(tag: str, field: str) -> None:
    """A header of five bytes may promise four billion members: no memory or time is spent on the promise."""
    message, decode = HONEST[tag]
    data = messages.encode(message)
    start = data.index(pack(field)) + len(pack(field))
    began = time.process_time()
    for header in (ARRAY_32, MAP_32, BIN_32, STR_32):
        for length in LENGTHS:
            refused(decode, data[:start] + header + length.to_bytes(4, "big") + data[start : start + 20])
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize("decode", DECODERS)
def test_deep_nesting_is_refused(decode: Decode) -> None:
    depth = 900
    for nested in (b"\x91" * depth + b"\xc0", b"\x81\xa1a" * 300 + b"\xc0", b"\x81\xa4type" + b"\x91" * depth):
        refused(decode, nested)
    if decode is not messages.decode_vote:
        # Deeper than Python's own recursion limit.
        for nested in (b"\x91" * 30_000 + b"\xc0", b"\x82\xa1a" + b"\x91" * 30_000, b"\x81\xa1a" * 10_000):
            refused(decode, nested)


@pytest.mark.parametrize("data", [b"\xa1\xff", b"\xa3\xed\xa0\x80", b"\xa2\xc0\xaf"])
def test_text_is_utf8(data: bytes) -> None:
    """Neither lone surrogates nor overlong forms: a digest could not take them."""
    fields = messages.encode(task_message())
    start = fields.index(pack("parameters")) + len(pack("parameters"))
    refused(messages.decode_task, fields[:start] + data + fields[start + len(pack("{}")) :])


# --- topics --------------------------------------------------------------------------------------
def test_topics_are_those_of_the_specification() -> None:
    prefix = "poi/3/31337/" + "c0" * 20
    topics = Topics(DOMAIN)
    assert topics.task == f"{prefix}/task"
    assert topics.vote == f"{prefix}/vote"
    assert topics.certificate == f"{prefix}/certificate"
    assert topics.batch == f"{prefix}/batch"


def test_another_network_has_other_topics() -> None:
    networks = (DOMAIN, Domain(1, DOMAIN.contract), Domain(31337, Address(b"\xab" * 20)))
    names = [name for domain in networks for name in vars(Topics(domain)).values()]
    assert len(names) == len(set(names)) == 12
    assert Topics(networks[2]).task.split("/")[3] == "ab" * 20
