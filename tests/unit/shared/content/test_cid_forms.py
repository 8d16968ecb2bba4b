"""The CID that somebody means, whatever way it is written; an independent library writes them here."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multiformats import CID

from shared.content.cid import Codec, make_block
from shared.content.cid_forms import MAX_CHARACTERS, canonical_form
from shared.errors import CodecError

BASES = ["base16", "base16upper", "base32", "base32upper", "base36", "base36upper", "base58btc", "base64", "base64url"]


@given(st.sampled_from(BASES), st.sampled_from(Codec), st.binary(max_size=8))
def test_every_usual_base_is_read(base, codec, data):
    cid = make_block(codec, data).cid
    assert canonical_form(CID.decode(cid).encode(base)) == cid


@given(st.binary(max_size=8))
def test_a_version_0_is_the_dag_pb_of_version_1(data):
    cid = make_block(Codec.DAG_PB, data).cid
    assert canonical_form(str(CID.decode(cid).set(version=0, base="base58btc"))) == cid


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b",
        "Q",
        "Qm",
        "passwd",
        "bafkqaaa",  # identity
        "bafyreigdmqpykrgxyaxtlafqpqhzrb7qy2rh75nldvfd4tucqmqqme5yje",  # dag-cbor
        "f015512",
        "f0155122zz",
        "Qm" + "0" * 44,
        "Qm" + "1" * 44,
        "z" + "2" * 100,
        "k" + "0" * 59,
        "b" + "1" * 58,
        "ü" * 59,
        "m" + "A" * 47 + "!",
    ],
)
def test_what_is_no_cid_of_ours_is_refused(text):
    with pytest.raises(CodecError):
        canonical_form(text)


def test_a_long_text_is_not_looked_at():
    with pytest.raises(CodecError, match="CID has 161 characters"):
        canonical_form("z" * (MAX_CHARACTERS + 1))


@given(st.text(max_size=MAX_CHARACTERS))
def test_no_text_is_too_strange(text):
    with suppress(CodecError):
        assert len(canonical_form(text)) == 59
