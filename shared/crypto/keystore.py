"""One 32-byte node seed an operator, kept in an Ethereum keystore v3 file, and the keys it gives (protocol §1).

The file's `address` is the operator's, not the seed's own: a wallet that imports the file by mistake refuses it, and an
ordinary wallet's file is refused here.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shared.crypto import bls, ecdsa
from shared.errors import CodecError, ConfigError
from shared.types import Address, PeerKey

SEED_BYTES = 32
ECDSA_LABEL = b"poi/ecdsa/1"
BLS_LABEL = b"poi/bls/1"
PEER_LABEL = b"poi/p2p/1"
EVIDENCE_LABEL = b"poi/evidence/1"
BLS_MATERIAL_BYTES = 48  # 16 more than the order has, so that the reduction mod r is uniform to 2^-128

# For seeds that protect nothing: a local testnet's nodes start without scrypt's second and 256 MiB.
TESTNET_PBKDF2_ITERATIONS = 1_000

MAX_FILE_BYTES = 64 * 1024  # a keystore is about 500 bytes, a password one line
MAX_PASSWORD_BYTES = 1024
OTHERS = stat.S_IRWXG | stat.S_IRWXO

Kdf = Literal["scrypt", "pbkdf2"]


@dataclass(frozen=True, slots=True, repr=False)
class NodeKeys:
    """An operator's keys. `repr` shows the public halves only."""

    operator: ecdsa.SecretKey
    vote: bls.SecretKey
    peer_seed: bytes  # ed25519 private key (RFC 8032), 32 bytes
    peer_key: PeerKey
    evidence: bytes  # gives the salts of this operator's evidence, 32 bytes

    @classmethod
    def from_seed(cls, seed: bytes) -> NodeKeys:
        """Raises `CodecError` for a seed of another length, and for one that derives a scalar no curve takes."""
        if len(seed) != SEED_BYTES:
            raise CodecError(f"node seed: expected {SEED_BYTES} bytes, got {len(seed)}")
        peer_seed = _hkdf(seed, PEER_LABEL, 32)
        return cls(
            operator=ecdsa.SecretKey(_hkdf(seed, ECDSA_LABEL, 32)),
            vote=vote_key(_hkdf(seed, BLS_LABEL, BLS_MATERIAL_BYTES)),
            peer_seed=peer_seed,
            peer_key=PeerKey(Ed25519PrivateKey.from_private_bytes(peer_seed).public_key().public_bytes_raw()),
            evidence=_hkdf(seed, EVIDENCE_LABEL, 32),
        )

    @property
    def address(self) -> Address:
        """The operator's."""
        return self.operator.address

    def __repr__(self) -> str:
        vote = self.vote.public_key[:8].hex()
        return f"NodeKeys(operator=0x{self.address.hex()}, vote={vote}…, peer={self.peer_key.hex()})"


def vote_key(material: bytes) -> bls.SecretKey:
    """48 bytes, big-endian, mod r. Raises `CodecError` for a multiple of r: the zero key signs for anybody."""
    return bls.SecretKey(int.from_bytes(material, "big") % bls.ORDER)


def create(
    path: Path, password: str, *, seed: bytes | None = None, kdf: Kdf = "scrypt", iterations: int | None = None
) -> NodeKeys:
    """Write a new keystore, of a random seed unless one is given; durable and complete, or not there at all.

    Never replaces a file: whoever loses a seed loses the stake behind it. Raises `ConfigError`, `CodecError`.
    """
    from eth_account import Account  # a second and a half, and only key files need it

    _check_password(password, "the password")
    seed = secrets.token_bytes(SEED_BYTES) if seed is None else seed
    keys = NodeKeys.from_seed(seed)
    try:
        document = Account.encrypt(seed, password, kdf, iterations)
    except ValueError as error:
        # Keystore v3 holds secp256k1 scalars; one seed in 2^128 is none.
        raise ConfigError(f"encrypt the seed: {error}; take another seed") from None
    _write_new(path, json.dumps(document | {"address": keys.address.hex()}, indent=2).encode())
    return keys


def load(path: Path, password: str) -> NodeKeys:
    """Raises `ConfigError` for whatever is wrong with the file or the password, with what to do about it."""
    return _decrypt(path, read_private(path, "keystore"), password)


def read_password(path: Path) -> str:
    """The file's first and only line. Raises `ConfigError`."""
    try:
        password = read_private(path, "password file").decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise ConfigError(f"password file {path} is not UTF-8 text; write the password alone on one line") from None
    _check_password(password, f"password file {path}")
    return password


def read_private(path: Path, what: str) -> bytes:
    """A small regular file that only its owner can read. Raises `ConfigError`."""
    try:
        # Without O_NONBLOCK a named pipe would hang the start for ever, before it can be refused.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"{what} {path} is not a regular file")
            if status.st_mode & OTHERS:
                # Checked on the open file, so that it cannot be swapped in between.
                raise ConfigError(f"{what} {path} can be read by others; run: chmod 600 {path}")
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        hint = "; make one with: poi key new" if what == "keystore" else ""
        raise ConfigError(f"{what} {path} does not exist{hint}") from None
    except OSError as error:
        raise ConfigError(f"read {what} {path}: {error.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{what} {path} is over {MAX_FILE_BYTES} bytes; this is another file")
    return data


# --- keystore v3 ---------------------------------------------------------------------------------
class _KdfParams(msgspec.Struct):
    """Bounds keep a damaged file from asking for terabytes or years."""

    dklen: Annotated[int, msgspec.Meta(ge=32, le=64)]
    salt: str
    n: Annotated[int, msgspec.Meta(ge=2, le=1 << 20)] = 2
    r: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1
    p: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1
    c: Annotated[int, msgspec.Meta(ge=1, le=10_000_000)] = 1


class _Crypto(msgspec.Struct):
    cipher: Literal["aes-128-ctr"]
    ciphertext: Annotated[str, msgspec.Meta(min_length=64, max_length=64)]
    kdf: Kdf
    kdfparams: _KdfParams
    mac: str


class _Keystore(msgspec.Struct):
    address: str
    crypto: _Crypto
    version: Literal[3]


def _decrypt(path: Path, data: bytes, password: str) -> NodeKeys:
    from eth_account import Account

    try:
        declared = msgspec.json.decode(data, type=_Keystore)
        seed = bytes(Account.decrypt(json.loads(data), password))
    except (ValueError, TypeError, KeyError, NotImplementedError, RecursionError) as error:
        if "MAC mismatch" in str(error):
            raise ConfigError(f"keystore {path}: the password is wrong (or the file is damaged)") from None
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"keystore {path} is not a keystore v3 file ({reason}); restore it from a copy") from None
    keys = NodeKeys.from_seed(seed)
    if declared.address.removeprefix("0x").lower() != keys.address.hex():
        raise ConfigError(f"keystore {path} is a wallet's, not a node's; make one with: poi key new")
    return keys


def _check_password(password: str, what: str) -> None:
    if not password:
        raise ConfigError(f"{what} is empty")
    if "\n" in password or len(password.encode()) > MAX_PASSWORD_BYTES:
        raise ConfigError(f"{what} is not one line of at most {MAX_PASSWORD_BYTES} bytes")


def _hkdf(seed: bytes, label: bytes, length: int) -> bytes:
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=label).derive(seed)


# --- files ---------------------------------------------------------------------------------------
def _write_new(path: Path, data: bytes) -> None:
    """Complete and on the disk under its name, or not there: a crash leaves at most a stray draft."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _removed_after(draft):
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            _name(draft, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise ConfigError(f"write keystore {path}: {error.strerror}") from None


def _name(draft: Path, path: Path) -> None:
    try:
        os.link(draft, path)  # unlike a rename, fails when the name is taken
    except FileExistsError:
        raise ConfigError(f"keystore {path} exists already and is never replaced; choose another name") from None


@contextmanager
def _removed_after(draft: Path) -> Iterator[None]:
    try:
        yield
    finally:
        draft.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
