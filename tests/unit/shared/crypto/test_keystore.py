"""One seed, its keys, one file that only its owner reads (protocol §1)."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from eth_account import Account
from eth_keys.datatypes import PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from py_ecc.bls12_381.bls12_381_curve import G2, curve_order, multiply

from shared.crypto import bls, keystore
from shared.crypto.keystore import NodeKeys
from shared.errors import CodecError, ConfigError

PASSWORD = "correct horse"
SEED = bytes(range(32))


def hkdf(seed: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 with an empty salt, written from the text: the oracle."""
    key = hmac.new(b"", seed, hashlib.sha256).digest()
    output, block = b"", b""
    for counter in range(1, 1 + -(-length // 32)):
        block = hmac.new(key, block + info + bytes([counter]), hashlib.sha256).digest()
        output += block
    return output[:length]


def create(path: Path, password: str = PASSWORD, **options: Any) -> NodeKeys:
    return keystore.create(path, password, kdf="pbkdf2", iterations=1, **options)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    create(tmp_path / "keystore.json", seed=SEED)
    return tmp_path / "keystore.json"


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


# --- derivation ----------------------------------------------------------------------------------
def test_the_keys_are_those_of_the_specification() -> None:
    keys = NodeKeys.from_seed(SEED)
    operator = PrivateKey(hkdf(SEED, b"poi/ecdsa/1", 32))
    assert keys.address == operator.public_key.to_canonical_address()
    scalar = int.from_bytes(hkdf(SEED, b"poi/bls/1", 48), "big") % curve_order
    point = multiply(G2, scalar)
    assert point is not None
    x, y = point
    assert keys.vote.public_key == b"".join(int(c).to_bytes(48, "big") for c in (*x.coeffs, *y.coeffs))
    assert keys.peer_seed == hkdf(SEED, b"poi/p2p/1", 32)
    assert keys.evidence == hkdf(SEED, b"poi/evidence/1", 32)
    assert keys.peer_key == Ed25519PrivateKey.from_private_bytes(keys.peer_seed).public_key().public_bytes_raw()


def test_the_keys_of_a_seed_never_change() -> None:
    # Somebody's stake hangs on these bytes: a change here is a change of everybody's identity.
    keys = NodeKeys.from_seed(SEED)
    assert keys.address.hex() == "20f3ba40229682bd0cf733b03011637e7f31db45"
    assert (
        hashlib.sha256(keys.vote.public_key).hexdigest()
        == "bdce392ab0e310b9fc8901fdd86d3c11382430d8ae01de5fb89e5fa811396de5"
    )
    assert keys.peer_key.hex() == "03e2e5982f79581a8fdf36585fde525fb19da9afa61593d9a6a665743b34e698"


@settings(deadline=None)
@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_other_seeds_give_other_keys(one: bytes, two: bytes) -> None:
    first, second = NodeKeys.from_seed(one), NodeKeys.from_seed(two)
    assert (first.address == second.address) == (one == two)
    assert (first.vote.public_key == second.vote.public_key) == (one == two)
    assert (first.peer_key == second.peer_key) == (one == two)
    assert (first.evidence == second.evidence) == (one == two)


@settings(deadline=None)
@given(st.binary(max_size=64).filter(lambda seed: len(seed) != 32))
def test_a_seed_of_another_length_is_refused(seed: bytes) -> None:
    with pytest.raises(CodecError, match="expected 32 bytes"):
        NodeKeys.from_seed(seed)


@pytest.mark.parametrize("multiple", [0, 1, 2, 1 << 128])
def test_a_vote_key_of_zero_is_refused(multiple: int) -> None:
    with pytest.raises(CodecError, match="scalar"):
        keystore.vote_key((multiple * bls.ORDER).to_bytes(48, "big"))


def test_a_repr_shows_no_secret() -> None:
    keys = NodeKeys.from_seed(SEED)
    shown = f"{keys!r} {keys} {keys.operator!r} {keys.vote!r}"
    secrets = [SEED, keys.peer_seed, hkdf(SEED, b"poi/ecdsa/1", 32), hkdf(SEED, b"poi/bls/1", 48)]
    for secret in secrets:
        assert secret.hex() not in shown
        assert repr(secret) not in shown
    assert keys.address.hex() in shown


# --- the file ------------------------------------------------------------------------------------
def test_what_is_created_loads(tmp_path: Path) -> None:
    created = create(tmp_path / "keystore.json")
    assert repr(keystore.load(tmp_path / "keystore.json", PASSWORD)) == repr(created)


def test_two_new_nodes_have_two_seeds(tmp_path: Path) -> None:
    assert create(tmp_path / "one").address != create(tmp_path / "two").address


def test_the_default_is_scrypt(tmp_path: Path) -> None:
    created = keystore.create(tmp_path / "keystore.json", PASSWORD)
    crypto = json.loads((tmp_path / "keystore.json").read_bytes())["crypto"]
    assert (crypto["kdf"], crypto["kdfparams"]["n"]) == ("scrypt", 262_144)
    assert keystore.load(tmp_path / "keystore.json", PASSWORD).address == created.address


def test_other_ethereum_software_decrypts_the_seed(stored: Path) -> None:
    document = json.loads(stored.read_bytes())
    assert document["version"] == 3
    assert bytes(Account.decrypt(document, PASSWORD)) == SEED


def test_the_file_is_private_and_alone(stored: Path) -> None:
    assert stored.stat().st_mode & 0o777 == 0o600
    assert names(stored.parent) == ["keystore.json"]
    assert SEED.hex() not in stored.read_text()


def test_the_umask_cannot_open_the_file(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        create(tmp_path / "folder" / "keystore.json")
    finally:
        os.umask(before)
    assert (tmp_path / "folder" / "keystore.json").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o700


def test_a_keystore_is_never_replaced(stored: Path) -> None:
    before = stored.read_bytes()
    with pytest.raises(ConfigError, match=r"exists already and is never replaced"):
        create(stored)
    assert stored.read_bytes() == before
    assert names(stored.parent) == ["keystore.json"]


def test_a_full_disk_leaves_no_keystore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(ConfigError, match=r"write keystore .*: No space left on device"):
        create(tmp_path / "keystore.json")
    assert names(tmp_path) == []


def test_a_seed_that_is_no_scalar_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="take another seed"):
        create(tmp_path / "keystore.json", seed=b"\xff" * 32)
    assert names(tmp_path) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666, 0o644])
def test_a_file_that_others_reach_is_refused(stored: Path, mode: int) -> None:
    stored.chmod(mode)
    with pytest.raises(ConfigError, match=f"can be read by others; run: chmod 600 {stored}"):
        keystore.load(stored, PASSWORD)


def test_a_wrong_password_is_named(stored: Path) -> None:
    with pytest.raises(ConfigError, match="the password is wrong"):
        keystore.load(stored, "another")


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not exist; make one with: poi key new"):
        keystore.load(tmp_path / "keystore.json", PASSWORD)


@pytest.mark.parametrize(
    "garbage",
    [b"", b"{}", b"[]", b"null", b"\xff\xfe", b"not json", b"[" * 60_000, b'{"version": 4}', b'{"crypto": 7}'],
    ids=lambda data: repr(data[:12]),
)
def test_garbage_is_refused(stored: Path, garbage: bytes) -> None:
    stored.write_bytes(garbage)
    with pytest.raises(ConfigError, match=r"is not a keystore v3 file \(.+\); restore it from a copy"):
        keystore.load(stored, PASSWORD)


@pytest.mark.parametrize(
    ("field", "value"),
    [("kdf", "md5"), ("cipher", "none"), ("ciphertext", "ab"), ("ciphertext", "zz" * 32), ("kdfparams", {})],
)
def test_a_damaged_field_is_refused(stored: Path, field: str, value: object) -> None:
    rewrite(stored, lambda document: document["crypto"].update({field: value}))
    with pytest.raises(ConfigError, match="is not a keystore v3 file"):
        keystore.load(stored, PASSWORD)


@pytest.mark.parametrize(
    "params",
    [{"n": 1 << 40}, {"n": 12_345}, {"c": 10**12}, {"r": 10**6}, {"p": 10**6}, {"dklen": 10**9}, {"prf": "hmac-md5"}],
    ids=str,
)
def test_a_file_cannot_ask_for_years_or_terabytes(stored: Path, params: dict[str, object]) -> None:
    kdf = "scrypt" if params.keys() & {"n", "r", "p"} else "pbkdf2"
    rewrite(stored, lambda document: document["crypto"].update(kdf=kdf))
    rewrite(stored, lambda document: document["crypto"]["kdfparams"].update(params))
    with pytest.raises(ConfigError):
        keystore.load(stored, PASSWORD)


def test_a_flipped_bit_is_noticed(stored: Path) -> None:
    rewrite(stored, lambda document: document["crypto"].update(ciphertext="0" * 64))
    with pytest.raises(ConfigError, match=r"the password is wrong \(or the file is damaged"):
        keystore.load(stored, PASSWORD)


def test_a_wallets_keystore_is_refused(stored: Path) -> None:
    # Its key may hold money elsewhere, and HKDF over it would make a node that nobody expects.
    stored.write_text(json.dumps(Account.encrypt(SEED, PASSWORD, "pbkdf2", 1)))
    with pytest.raises(ConfigError, match="is a wallet's, not a node's"):
        keystore.load(stored, PASSWORD)


def test_a_large_file_is_not_read(stored: Path) -> None:
    stored.write_bytes(b" " * (keystore.MAX_FILE_BYTES + 1))
    with pytest.raises(ConfigError, match="over 65536 bytes"):
        keystore.load(stored, PASSWORD)


def test_a_folder_or_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(ConfigError, match="is not a regular file"):
        keystore.load(tmp_path / "pipe", PASSWORD)
    with pytest.raises(ConfigError, match="keystore"):
        keystore.load(tmp_path, PASSWORD)


# --- the password file ---------------------------------------------------------------------------
def password_file(folder: Path, data: bytes, mode: int = 0o600) -> Path:
    path = folder / "password"
    path.write_bytes(data)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("data", "expected"),
    [(b"secret", "secret"), (b"secret\n", "secret"), (b"secret\r\n", "secret"), (b" a b \n", " a b ")],
)
def test_a_password_is_the_line(tmp_path: Path, data: bytes, expected: str) -> None:
    assert keystore.read_password(password_file(tmp_path, data)) == expected


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"a\nb\n", "not one line"),
        (b"\xff", "not UTF-8"),
        (b"a" * 1025, "line"),
    ],
)
def test_a_bad_password_file_is_refused_without_showing_it(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        keystore.read_password(password_file(tmp_path, data))
    assert "aaa" not in str(caught.value)


def test_a_password_that_others_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="chmod 600"):
        keystore.read_password(password_file(tmp_path, b"secret", 0o644))


@pytest.mark.parametrize("password", ["", "two\nlines", "x" * 1025])
def test_a_password_no_file_could_hold_is_refused(tmp_path: Path, password: str) -> None:
    with pytest.raises(ConfigError):
        create(tmp_path / "keystore.json", password)
    assert names(tmp_path) == []
