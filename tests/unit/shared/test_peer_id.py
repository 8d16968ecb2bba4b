"""Peer ids, against libp2p's own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.secp256k1 import create_new_key_pair as secp256k1_pair
from libp2p.peer.id import ID

from shared import peer_id
from shared.errors import CodecError
from shared.types import PeerKey

KEYS = st.binary(min_size=32, max_size=32).map(PeerKey)


@given(st.binary(min_size=32, max_size=32))
def test_a_key_has_the_id_that_libp2p_gives_it(seed):
    key = create_new_key_pair(seed).public_key
    expected = ID.from_pubkey(key)
    assert peer_id.to_text(PeerKey(key.to_bytes())) == expected.to_base58()
    assert peer_id.to_bytes(PeerKey(key.to_bytes())) == expected.to_bytes()
    assert peer_id.from_text(expected.to_base58()) == key.to_bytes()


@given(KEYS)
def test_there_and_back(key):
    assert peer_id.from_text(peer_id.to_text(key)) == key
    assert peer_id.from_bytes(peer_id.to_bytes(key)) == key


def test_a_known_one():
    assert peer_id.to_text(PeerKey(bytes(32))) == "12D3KooW9pNAk8aiBuGVQtWRdbkLmo5qVL3e2h5UxbN2Nz9ttwiw"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "12D3KooW",
        "12D3KooW9pNAk8aiBuGVQtWRdbkLmo5qVL3e2h5UxbN2Nz9ttwi",  # one short
        "12D3KooW9pNAk8aiBuGVQtWRdbkLmo5qVL3e2h5UxbN2Nz9ttwiww",  # one more
        "12D3KooW9pNAk8aiBuGVQtWRdbkLmo5qVL3e2h5UxbN2Nz9ttwi0",  # no base58
        "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",  # a hash of a key
        "1" * 100_000,
    ],
)
def test_other_text_is_refused(text):
    with pytest.raises(CodecError):
        peer_id.from_text(text)


def test_other_kinds_of_keys_are_refused():
    with pytest.raises(CodecError):
        peer_id.from_bytes(ID.from_pubkey(secp256k1_pair(b"\1" * 32).public_key).to_bytes())


@pytest.mark.parametrize("size", [0, 31, 33])
def test_other_sizes_are_refused(size):
    with pytest.raises(CodecError):
        peer_id.to_bytes(PeerKey(bytes(size)))


@given(st.binary(max_size=80))
def test_bytes_are_an_id_or_refused(raw):
    try:
        key = peer_id.from_bytes(raw)
    except CodecError:
        return
    assert peer_id.to_bytes(key) == raw
