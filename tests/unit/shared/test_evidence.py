"""Evidence and its commitment: one spelling, bounded, bound to one operator, and open to nobody else."""

from __future__ import annotations

import hashlib
import hmac
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import CodecError
from shared.evidence import (
    MAX_EVIDENCE_BYTES,
    MAX_RECOMPUTED_BYTES,
    OutputHash,
    check_commitment,
    commit,
    decode_evidence,
    decode_opening,
    encode_evidence,
    encode_opening,
    output_in_evidence,
    salt_of,
)
from shared.outputs import TensorOutput, TextOutput, encode_output
from shared.tensors import encode_tensor
from shared.types import Address, Digest
from tests.evidence_support import INFO_HASH, OPERATOR, SALT, SECRET, evidence
from tests.strategies import addresses, hashes
from tests.toy_model import OUTPUT

OTHER, OTHER_HASH = Address(bytes([2]) * 20), Digest(bytes([4]) * 32)


# --- the document ------------------------------------------------------------------------------------
def test_evidence_is_canonical_json_with_the_names_of_the_specification() -> None:
    document = json.loads(encode_evidence(evidence()))
    assert list(document) == sorted(document)
    assert {name: document[name] for name in ("version", "attester", "isRefereed", "reason", "score")} == {
        "version": 1,
        "attester": "0x" + "01" * 20,
        "isRefereed": False,
        "reason": None,
        "score": 0.125,
    }
    assert document["recomputed"] == json.loads(encode_output(OUTPUT))
    assert set(document) == {
        *("version", "taskInfoHash", "taskId", "attester", "cardCid", "method", "verdict", "reason", "score"),
        *("statistics", "isRefereed", "engine", "recomputed"),
    }


TEXT = TextOutput(encoding="bytes", prompt=(256, 104), tokens=(105, 257), stop="eos", tops=bytes(96))
KINDS = {
    "scores": OUTPUT,
    "text": TEXT,
    "tensors": TensorOutput({"y": encode_tensor(np.zeros((2, 3), np.float32))}),
    "a hash": OutputHash("0x" + "ab" * 32),
    "nothing": None,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("score", [0.0, 1e-9, 3.3333333333333335, None])
def test_it_comes_back_as_it_was_written(kind: str, score: float | None) -> None:
    written = evidence(recomputed=KINDS[kind], score=score, statistics={"x": score})
    assert decode_evidence(encode_evidence(written)) == written


def test_the_longest_pointer_of_a_feed_and_name_of_a_layer_fit_into_statistics() -> None:
    names = (f"distance of /{'a' * 1023}", f"first layer that differs: {'l' * 256}, row {1 << 22}")
    written = evidence(statistics=dict.fromkeys(names, 2.0))
    assert decode_evidence(encode_evidence(written)) == written


BAD = {
    "not canonical": encode_evidence(evidence()).replace(b'"version":1', b'"version": 1'),
    "another version": encode_evidence(evidence()).replace(b'"version":1', b'"version":2'),
    "an abstention": encode_evidence(evidence()).replace(b'"valid"', b'"abstain"'),
    "an unknown field": encode_evidence(evidence()).replace(b'{"attester"', b'{"a":1,"attester"'),
    "an address in capitals": encode_evidence(evidence()).replace(b"0x01", b"0X01"),
    "nothing": b"",
    "not UTF-8": encode_evidence(evidence()).replace(b"bafkrei", b"bafkr\xff"),
    "too large": b" " * (MAX_EVIDENCE_BYTES + 1),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_evidence_is_refused(what: str) -> None:
    with pytest.raises(CodecError):
        decode_evidence(BAD[what])


@pytest.mark.parametrize(("extra", "is_kept"), [(0, True), (3, False)])
def test_a_large_output_is_kept_as_its_hash(extra: int, is_kept: bool) -> None:
    """Up to the limit to the byte: three bytes of data are four of base64."""
    empty = len(encode_output(TensorOutput({"y": encode_tensor(np.zeros(0, np.uint8))})))
    size = (MAX_RECOMPUTED_BYTES - empty - 5) // 4 * 3
    output = TensorOutput({"y": encode_tensor(np.zeros(size, np.uint8))})
    slack = MAX_RECOMPUTED_BYTES - len(encode_output(output))
    assert 0 <= slack < 4
    grown = TensorOutput({"y": encode_tensor(np.zeros(size + extra, np.uint8))})
    expected = grown if is_kept else OutputHash(f"0x{hashlib.sha256(encode_output(grown)).hexdigest()}")
    assert output_in_evidence(grown) == expected
    assert len(encode_evidence(evidence(recomputed=output_in_evidence(grown)))) <= MAX_EVIDENCE_BYTES


# --- the commitment ------------------------------------------------------------------------------------
def test_salt_and_commitment_are_those_of_the_specification() -> None:
    salt = hmac.new(SECRET, INFO_HASH, hashlib.sha256).digest()
    assert salt_of(SECRET, INFO_HASH) == salt
    inner = hashlib.sha256(b"evidence").digest()
    assert (
        commit(salt, OPERATOR, INFO_HASH, b"evidence") == hashlib.sha256(salt + OPERATOR + INFO_HASH + inner).digest()
    )


def test_the_commitment_of_this_evidence_never_changes() -> None:
    # Votes that were cast quote it: a change here would make every one of them false.
    committed = commit(salt_of(SECRET, INFO_HASH), OPERATOR, INFO_HASH, encode_evidence(evidence()))
    assert committed.hex() == "16c77789e14a850edbaed6a0a64ecf6b01450b498529c81596f0e36bd84402d1"


@given(st.binary(min_size=32, max_size=32), addresses, hashes, st.floats(0, 1e6))
def test_an_honest_opening_opens(secret: bytes, operator: Address, info_hash: Digest, score: float) -> None:
    said = evidence(attester=f"0x{operator.hex()}", task_info_hash=f"0x{info_hash.hex()}", score=score)
    salt, data = salt_of(secret, info_hash), encode_evidence(said)
    commitment = commit(salt, operator, info_hash, data)
    assert check_commitment(commitment, salt, data, operator=operator, task_info_hash=info_hash) == said


HONEST = encode_evidence(evidence())
COMMITMENT = commit(SALT, OPERATOR, INFO_HASH, HONEST)
FALSE = {
    "another salt": (bytes(32), HONEST, OPERATOR, INFO_HASH),
    "other numbers": (SALT, encode_evidence(evidence(score=0.25)), OPERATOR, INFO_HASH),
    "another operator": (SALT, HONEST, OTHER, INFO_HASH),
    "another task info": (SALT, HONEST, OPERATOR, OTHER_HASH),
    "a copier's name in it": (SALT, encode_evidence(evidence(attester=f"0x{OTHER.hex()}")), OTHER, INFO_HASH),
    "a salt that took a byte": (SALT + OPERATOR[:1], HONEST, Address(OPERATOR[1:]), INFO_HASH),
}


@pytest.mark.parametrize("what", FALSE)
def test_nothing_else_opens_it(what: str) -> None:
    salt, data, operator, info_hash = FALSE[what]
    with pytest.raises(CodecError):
        check_commitment(COMMITMENT, salt, data, operator=operator, task_info_hash=info_hash)


@pytest.mark.parametrize("names", [{"attester": f"0x{OTHER.hex()}"}, {"task_info_hash": f"0x{OTHER_HASH.hex()}"}])
def test_evidence_that_names_another_is_refused_however_well_it_was_committed_to(names: dict[str, str]) -> None:
    data = encode_evidence(evidence(**names))
    commitment = commit(SALT, OPERATOR, INFO_HASH, data)
    with pytest.raises(CodecError, match="another operator's"):
        check_commitment(commitment, SALT, data, operator=OPERATOR, task_info_hash=INFO_HASH)


@given(hashes, hashes)
def test_a_salt_says_nothing_of_another(one: Digest, other: Digest) -> None:
    assert (salt_of(SECRET, one) == salt_of(SECRET, other)) == (one == other)
    assert salt_of(SECRET, one) != salt_of(bytes(32), one)


# --- the opening ---------------------------------------------------------------------------------------
def test_an_opening_carries_the_very_bytes() -> None:
    opening = decode_opening(encode_opening(SALT, OPERATOR, INFO_HASH, HONEST))
    assert opening.evidence.encode() == HONEST
    assert bytes.fromhex(opening.salt[2:]) == SALT
    assert bytes.fromhex(opening.commitment[2:]) == COMMITMENT


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"commitment":"0x","evidence":"","salt":"0x"}', b"\xff"])
def test_what_is_no_opening_is_refused(data: bytes) -> None:
    with pytest.raises(CodecError):
        decode_opening(data)
