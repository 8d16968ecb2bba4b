"""Node keys on the command line: make one, show its public halves."""

from __future__ import annotations

import sys
from pathlib import Path

from shared.crypto import keystore
from shared.crypto.keystore import Kdf, NodeKeys
from shared.errors import ConfigError


def new(path: Path, password_file: Path | None, kdf: Kdf) -> NodeKeys:
    """Write a keystore of a random seed. Raises `ConfigError`; never replaces one."""
    if path.exists():
        # Said before anybody types a password; `create` makes sure of it.
        raise ConfigError(f"keystore {path} exists already and is never replaced; choose another name")
    iterations = keystore.TESTNET_PBKDF2_ITERATIONS if kdf == "pbkdf2" else None
    return keystore.create(path, _password(password_file, is_new=True), kdf=kdf, iterations=iterations)


def show(path: Path, password_file: Path | None) -> NodeKeys:
    """Open a keystore. Raises `ConfigError`."""
    keystore.read_private(path, "keystore")  # a missing file is said before anybody types a password
    return keystore.load(path, _password(password_file, is_new=False))


def public(keys: NodeKeys) -> dict[str, str]:
    """What may be told to anybody, and what an operator registers."""
    return {
        "operator": f"0x{keys.address.hex()}",
        "voteKey": f"0x{keys.vote.public_key.hex()}",
        "peerKey": f"0x{keys.peer_key.hex()}",
    }


def _password(file: Path | None, *, is_new: bool) -> str:
    if file is not None:
        return keystore.read_password(file)
    if not sys.stdin.isatty():
        raise ConfigError("there is no terminal to ask for the password; name a file that holds it: --password-file")
    import typer

    return str(typer.prompt("Password", hide_input=True, confirmation_prompt=is_new))
