"""A batch: one order, one document, one root, and a CID that everybody can make of the content hash."""

from __future__ import annotations

import hashlib
import io
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import merkle
from shared.batch import (
    MAX_DOCUMENT_BYTES,
    certificate_leaf,
    decode_document,
    document_cid,
    encode_document,
    make_batch,
)
from shared.content.unixfs import build_file
from shared.digests import Domain, leaf
from shared.errors import CodecError, Reverted
from shared.indices import voters_hash
from shared.json_forms import FieldError, certificate_to_json
from shared.types import Digest, OperatorTable, TaskCertificate, TaskInfo, Verdict
from tests.builders import (
    AGGREGATOR,
    DOMAIN,
    EPOCH,
    STRANGER,
    TABLE,
    certificate,
    certificate_of,
    replace,
    request,
    task_info,
)
from tests.strategies import certificates

THREE = [certificate_of(1), certificate(task_info(request(2)), Verdict.INVALID, (0, 2)), certificate_of(3)]


def table_of(_: TaskInfo) -> OperatorTable:
    return TABLE


def batch_of(made: list[TaskCertificate], domain: Domain = DOMAIN, table: OperatorTable = TABLE) -> Any:
    return make_batch(domain, made, EPOCH, AGGREGATOR.address, lambda _: table)


def many(count: int) -> list[TaskCertificate]:
    """Certificates of as many tasks, by nobody."""
    blank = certificate()
    ids = [hashlib.sha256(bytes([i])).digest() for i in range(count)]
    return [replace(blank, task_info=replace(blank.task_info, task_id=Digest(task_id))) for task_id in ids]


# --- what follows from the certificates ------------------------------------------------------------
def test_a_batch_is_made_of_its_certificates() -> None:
    batch = batch_of(THREE)
    indices = [b"\x03", b"\x00\x02", b"\x03"]  # the missing of two approvals, the signers of a rejection
    voters = [voters_hash(TABLE, named) for named in indices]
    leaves = [
        leaf(made.task_info.task_id, DOMAIN.task_info_hash(made.task_info), made.verdict is Verdict.VALID, hashed)
        for made, hashed in zip(THREE, voters, strict=True)
    ]
    assert batch.info.root == batch.tree.root == merkle.MerkleTree(leaves).root
    assert batch.info.content_hash == hashlib.sha256(batch.document).digest()
    assert (batch.info.size, batch.info.epoch, batch.info.aggregator) == (3, EPOCH, AGGREGATOR.address)
    for made, named, hashed, node in zip(THREE, indices, voters, leaves, strict=True):
        assert certificate_leaf(DOMAIN, made, hashed) == node
        assert (batch.indices_of(made), batch.voters_of(made)) == (named, hashed)
        assert merkle.verify(batch.info.root, node, batch.proof(made))
    with pytest.raises(ValueError, match="not in tuple"):
        batch.proof(certificate_of(4))


@given(st.permutations(THREE))
def test_the_order_of_arrival_does_not_matter(made: list[TaskCertificate]) -> None:
    assert batch_of(made).info == batch_of(THREE).info
    ids = [one.task_info.task_id for one in batch_of(made).certificates]
    assert ids == sorted(ids)


def test_every_part_of_a_certificate_matters() -> None:
    """A changed signature leaves the root as it is, and changes the document that is signed with it."""
    honest = batch_of(THREE).info
    swapped = batch_of([replace(THREE[0], verdict=Verdict.INVALID), *THREE[1:]]).info
    assert swapped.root != honest.root
    other = batch_of([replace(THREE[0], task_info=replace(THREE[0].task_info, data=b"")), *THREE[1:]]).info
    assert other.root != honest.root
    by_others = batch_of([replace(THREE[0], signers=(0, 1, 3)), *THREE[1:]]).info
    assert by_others.root != honest.root
    resigned = batch_of([replace(THREE[0], signature=bytes(96)), *THREE[1:]]).info
    assert resigned.root == honest.root
    assert resigned.content_hash != honest.content_hash


def test_another_network_has_other_roots() -> None:
    assert batch_of(THREE, Domain(1, DOMAIN.contract)).info.root != batch_of(THREE).info.root


def test_who_voted_in_which_table_is_under_the_root() -> None:
    """Their fee is shared by it: other voters, another epoch or another attester set are another leaf."""
    change = msgspec.structs.replace
    tables = [TABLE, change(TABLE, epoch=TABLE.epoch + 1), change(TABLE, attester_set=1)]
    assert len({batch_of(THREE, table=table).info.root for table in tables}) == 3


def test_each_certificate_is_of_its_own_table() -> None:
    """Definitions have attester sets of their own, and a batch may span two epochs."""
    others = msgspec.structs.replace(TABLE, attester_set=1)
    tables = {made.task_info.task_id: table for made, table in zip(THREE, (TABLE, others, TABLE), strict=True)}
    batch = make_batch(DOMAIN, THREE, EPOCH, AGGREGATOR.address, lambda info: tables[info.task_id])
    assert [batch.voters_of(made) for made in THREE] == [
        voters_hash(tables[made.task_info.task_id], batch.indices_of(made)) for made in THREE
    ]


def test_signers_whom_the_table_does_not_have_make_no_batch() -> None:
    with pytest.raises(Reverted, match="IndexOutOfRange"):
        batch_of([replace(THREE[0], signers=(0, 1, 4))])


def test_epoch_and_aggregator_are_signed_with_it() -> None:
    batches = [
        make_batch(DOMAIN, THREE, epoch, who.address, table_of).info
        for epoch in (1, 2)
        for who in (AGGREGATOR, STRANGER)
    ]
    assert len({DOMAIN.batch(info) for info in batches}) == 4


def test_sizes() -> None:
    assert batch_of(many(1)).info.size == 1
    assert batch_of(many(128)).info.size == 128
    for count in (0, 129):
        with pytest.raises(ValueError, match=f"1 to 128 certificates, got {count}"):
            batch_of(many(count))


def test_one_task_has_one_certificate() -> None:
    for second in (certificate_of(1), replace(certificate_of(1), verdict=Verdict.INVALID)):
        with pytest.raises(ValueError, match="two certificates of one task"):
            batch_of([certificate_of(1), certificate_of(2), second])


# --- the document --------------------------------------------------------------------------------
@settings(max_examples=50)
@given(st.lists(certificates, max_size=4))
def test_a_document_comes_back(made: list[TaskCertificate]) -> None:
    assert decode_document(encode_document(made)) == tuple(made)


@settings(max_examples=50)
@given(st.lists(certificates, max_size=4))
def test_a_document_is_canonical_json(made: list[TaskCertificate]) -> None:
    document = {"version": 1, "certificates": [certificate_to_json(one) for one in made]}
    plain = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    # The two differ in how they write control characters; what they mean is the same.
    ours = encode_document(made)
    assert json.loads(ours) == json.loads(plain)
    if all(one.task_info.proof_of_task.isprintable() for one in made):
        assert ours == plain


def test_a_document_fits_into_one_block() -> None:
    large = [replace(made, task_info=replace(made.task_info, data=bytes(4096))) for made in many(128)]
    with pytest.raises(ValueError, match="is over 1048576"):
        encode_document(large)
    with pytest.raises(ValueError, match="is over 1048576"):
        batch_of(large)
    assert len(encode_document(large[:110])) <= MAX_DOCUMENT_BYTES


@pytest.mark.parametrize("data", [b"", b"x", encode_document(THREE), bytes(MAX_DOCUMENT_BYTES)], ids=len)
def test_its_cid_is_the_content_stores(data: bytes) -> None:
    """Who reads the hash on chain finds the document by it, in any IPFS node."""
    cid, size = build_file(io.BytesIO(data), lambda block: None)
    assert document_cid(Digest(hashlib.sha256(data).digest())) == cid
    assert size == len(data)


def test_a_byte_more_would_be_another_kind_of_cid() -> None:
    data = bytes(MAX_DOCUMENT_BYTES + 1)
    assert build_file(io.BytesIO(data), lambda block: None)[0] != document_cid(Digest(hashlib.sha256(data).digest()))


# --- strangers' documents ------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("document", "said"),
    [
        (b"", "truncated"),
        (b"{}", "missing required field `version`"),
        (b"[]", "Expected `object`"),
        (b'{"version":2,"certificates":[]}', "expected version 1, got 2"),
        (b'{"version":"1","certificates":[]}', "Expected `int`"),
        (b'{"version":1,"certificates":[],"more":0}', "unknown field `more`"),
        (b'{"version":1,"certificates":{}}', "Expected `array`"),
        (b'{"version":1,"certificates":[1]}', "Expected `object`"),
        (b'{"version":1,"certificates":[]}x', "malformed"),
        (b'{"version":1,"certificates":[{"\xff":1}]}', "utf-8"),
        (b'{"version":1,"certificates":[{"a":' + b"[" * 100_000, "batch document"),
        (b" " * (MAX_DOCUMENT_BYTES + 1), "at most 1048576 are allowed"),
    ],
)
def test_what_is_no_document(document: bytes, said: str) -> None:
    with pytest.raises(CodecError, match=r"^batch document: ") as error:
        decode_document(document)
    assert said in str(error.value)


def test_a_wrong_certificate_is_named_by_its_place() -> None:
    document = json.loads(encode_document(THREE))
    document["certificates"][2]["taskInfo"]["epoch"] = -1
    with pytest.raises(FieldError) as error:
        decode_document(json.dumps(document).encode())
    assert error.value.field == "certificates[2].taskInfo.epoch"


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    for document in (data, b'{"version":1,"certificates":[{' + data, b'{"version":1,"certificates":[' + data + b"]}"):
        try:
            decode_document(document)
        except CodecError:
            continue
