"""Where the door is: a unix socket in a folder that its owner alone can enter."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EEXIST
from pathlib import Path

from shared.errors import ConfigError, StoreBusy

MAX_ADDRESS_BYTES = 103  # of a unix socket: Linux takes four more
_PROBE_SECONDS = 1.0
_DESCRIPTORS = Path("/proc/self/fd")


def socket_path(data_dir: Path) -> Path:
    return data_dir / "door" / "content.sock"


@contextmanager
def address_of(path: Path) -> Iterator[str]:
    """`path` as a socket takes it, while the context is open: through its folder's descriptor when it is too long."""
    if len(os.fsencode(path)) <= MAX_ADDRESS_BYTES or not _DESCRIPTORS.is_dir():
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield str(_DESCRIPTORS / str(folder) / path.name)
    finally:
        os.close(folder)


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """A socket at `path` that its owner alone can connect to; gone at the end. Its folder is made, or made private.

    Raises `StoreBusy` when another process listens there, `ConfigError` when nobody can.
    """
    try:
        listener = _listen(path)
    except OSError as error:
        raise ConfigError(
            f"content door {path}: {error.strerror or error}; mend that, or set another node.data_dir"
        ) from error
    try:
        yield listener
    finally:
        listener.close()
        path.unlink(missing_ok=True)


def _listen(path: Path) -> socket.socket:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)  # first: between `bind` and `chmod` the socket is whatever the umask makes it
    with address_of(path) as address:
        _remove_stale(path, address)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(address)
            path.chmod(0o600)
        except BaseException:
            listener.close()
            raise
    return listener


def _remove_stale(path: Path, address: str) -> None:
    """What a node left that `kill -9` ended. The caller holds the data folder, so nobody comes in between."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(EEXIST, "something that is no socket is in its place")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_SECONDS)
        try:
            probe.connect(address)
        except ConnectionRefusedError:
            path.unlink()
            return
    raise StoreBusy(f"content door {path} is in use; stop the other process first, two must never share the folder")
